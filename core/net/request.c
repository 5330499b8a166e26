/* core/net/request.c — see request.h: making and freeing requests, and percent-encoding. */
#include "core/net/request.h"
#include "core/base/arena.h"
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/net/response_state.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { REQ_MAGIC = 0x71657231 };

static void random_id(char *out)
{
    static const char hex[] = "0123456789abcdef";
    static _Thread_local unsigned char pool[252];
    static _Thread_local size_t at = sizeof pool;
    if (at + 12 > sizeof pool) {
        size_t got = 0;
        while (got < sizeof pool) {
            ssize_t n = getrandom(pool + got, sizeof pool - got, 0);
            got += n > 0 ? (size_t)n : 0;
        }
        at = 0;
    }
    for (size_t i = 0; i < 12; i++) {
        out[2 * i] = hex[pool[at + i] >> 4];
        out[2 * i + 1] = hex[pool[at + i] & 15];
    }
    out[24] = 0;
    at += 12;
}

struct mp_req *mp_req_new(void)
{
    struct mp_arena *a = mp_arena_new();
    struct mp_req *req = mp_calloc(sizeof *req);
    req->magic = REQ_MAGIC;
    req->arena = a;
    req->refs = 1;
    req->query = req->host = req->body = "";
    req->started_ns = mp_clock_mono_ns();
    req->res = mp_arena_zalloc(a, sizeof *req->res);
    req->res->status = 200;
    random_id(req->id);
    return req;
}

void mp_req_ref(struct mp_req *req)
{
    if (req->magic != REQ_MAGIC)
        abort();
    req->refs++;
}

void mp_req_unref(struct mp_req *req)
{
    if (req->magic != REQ_MAGIC || req->refs == 0)
        abort();
    if (--req->refs)
        return;
    req->magic = 0;
    mp_buf_free(&req->res->headers);
    mp_buf_free(&req->res->data);
    mp_buf_free(&req->res->body);
    mp_free(req->body_memory);
    mp_arena_free(req->arena);
    mp_free(req);
}

const struct mp_header *mp_req_header(const struct mp_req *req, const char *name)
{
    for (size_t i = 0; i < req->header_count; i++)
        if (strcmp(req->headers[i].name, name) == 0)
            return &req->headers[i];
    return NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *mp_url_decode(struct mp_arena *a, const char *s, size_t n, bool plus, size_t *len)
{
    char *out = mp_arena_alloc(a, n + 1);
    size_t put = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            int high = n - i >= 3 ? hex_digit(s[i + 1]) : -1, low = n - i >= 3 ? hex_digit(s[i + 2]) : -1;
            if (high < 0 || low < 0)
                return NULL;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (c == 0)
            return NULL;
        out[put++] = c;
    }
    out[put] = 0;
    *len = put;
    return mp_utf8_valid_prefix(out, put) == put ? out : NULL;
}

bool mp_query_next(const char *query, size_t n, size_t *at, const char **name, size_t *name_len, const char **value,
                   size_t *value_len)
{
    size_t i = *at;
    while (i < n && query[i] == '&')
        i++;
    if (i >= n)
        return false;
    const char *start = query + i, *end = memchr(start, '&', n - i);
    if (!end)
        end = query + n;
    const char *equals = memchr(start, '=', (size_t)(end - start));
    *name = start;
    *name_len = (size_t)((equals ? equals : end) - start);
    *value = equals ? equals + 1 : end;
    *value_len = (size_t)(end - *value);
    *at = (size_t)(end - query);
    return true;
}
