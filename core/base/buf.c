/* core/base/buf.c — see buf.h. Little-endian hosts only (asserted). */
#include "core/base/buf.h"

#include "core/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they lie");

void mp_buf_free(struct mp_buf *b)
{
    mp_free(b->data);
    *b = (struct mp_buf){0};
}

void mp_buf_clear(struct mp_buf *b)
{
    b->len = 0;
}

void mp_buf_reserve(struct mp_buf *b, size_t extra)
{
    size_t want;
    if (!mp_add_size(b->len, extra, &want) || !mp_add_size(want, 1, &want))
        abort();
    if (want <= b->cap)
        return;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < want)
        cap = cap > SIZE_MAX / 2 ? want : cap * 2;
    b->data = mp_realloc(b->data, cap);
    b->cap = cap;
}

void mp_buf_put(struct mp_buf *b, const void *p, size_t n)
{
    if (n == 0)
        return;
    mp_buf_reserve(b, n);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}

void mp_buf_puts(struct mp_buf *b, const char *s)
{
    mp_buf_put(b, s, strlen(s));
}

void mp_buf_putc(struct mp_buf *b, char c)
{
    mp_buf_put(b, &c, 1);
}

void mp_buf_printf(struct mp_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        mp_buf_reserve(b, (size_t)n);
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

#define PUT(name, type)                 \
    void name(struct mp_buf *b, type v) \
    {                                   \
        mp_buf_put(b, &v, sizeof v);    \
    }
PUT(mp_buf_u8, uint8_t)
PUT(mp_buf_u16, uint16_t)
PUT(mp_buf_u32, uint32_t)
PUT(mp_buf_u64, uint64_t)
PUT(mp_buf_f32, float)
PUT(mp_buf_f64, double)

void mp_buf_drop(struct mp_buf *b, size_t n)
{
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

const char *mp_buf_cstr(struct mp_buf *b)
{
    mp_buf_reserve(b, 0);
    b->data[b->len] = 0;
    return b->data;
}

char *mp_buf_take(struct mp_buf *b, size_t *n)
{
    mp_buf_cstr(b);
    char *p = b->data;
    if (n)
        *n = b->len;
    *b = (struct mp_buf){0};
    return p;
}

void mp_rd_init(struct mp_rd *r, const void *data, size_t n)
{
    r->p = data;
    r->end = n ? r->p + n : r->p;
    r->bad = false;
}

size_t mp_rd_left(const struct mp_rd *r)
{
    return r->bad ? 0 : (size_t)(r->end - r->p);
}

const void *mp_rd_bytes(struct mp_rd *r, size_t n)
{
    if (r->bad || (size_t)(r->end - r->p) < n) {
        r->bad = true;
        return NULL;
    }
    const void *p = r->p;
    r->p += n;
    return p;
}

#define GET(name, type)                           \
    type name(struct mp_rd *r)                    \
    {                                             \
        type v = 0;                               \
        const void *p = mp_rd_bytes(r, sizeof v); \
        if (p)                                    \
            memcpy(&v, p, sizeof v);              \
        return v;                                 \
    }
GET(mp_rd_u8, uint8_t)
GET(mp_rd_u16, uint16_t)
GET(mp_rd_u32, uint32_t)
GET(mp_rd_u64, uint64_t)
GET(mp_rd_f32, float)
GET(mp_rd_f64, double)
