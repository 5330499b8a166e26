/* core/net/http1.c — see http1.h. The scanner's states are the lines of RFC 9112; llhttp's callbacks collect. */
#include "core/net/http1.h"
#include "core/base/arena.h"
#include "core/base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum scan {
    LINE_START, /* before the request line */
    LINE_BLANK, /* CR of an empty line before it */
    LINE,
    LINE_LF,
    FIELD_START,
    FIELD_NAME,
    FIELD_VALUE,
    FIELD_LF,
    HEAD_LF,
    BODY, /* of Content-Length */
    CHUNK_SIZE,
    CHUNK_EXT,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    TRAILER_END_LF,
    END, /* of the message */
    FAILED,
};

struct span {
    uint32_t name, name_len, value, value_len; /* offsets in text */
};

/* RFC 9110 token characters. */
static const bool token_char[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1,
};

static bool refuse(struct mp_http1 *h, int status, const char *reason)
{
    if (!h->status) {
        h->status = status;
        h->reason = reason;
    }
    return false;
}

static bool is_control(unsigned char c)
{
    return (c < 0x20 && c != '\t') || c == 0x7f;
}

static int hex_digit(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ---- the scanner: one byte each; false when it refuses it ---- */

static bool scan_line(struct mp_http1 *h, unsigned char c)
{
    switch (h->state) {
    case LINE_START:
        if (c == '\r') {
            if (++h->blank_lines > 2)
                return refuse(h, 400, "empty lines before the request line");
            h->state = LINE_BLANK;
            return true;
        }
        h->started = true;
        h->state = LINE;
        break;
    case LINE_BLANK: h->state = LINE_START; return c == '\n' || refuse(h, 400, "CR without LF");
    case LINE_LF: h->state = FIELD_START; return c == '\n' || refuse(h, 400, "CR without LF");
    default: break;
    }
    if (c == '\r') {
        h->state = LINE_LF;
        return h->spaces == 2 || refuse(h, 400, "the request line is not METHOD TARGET VERSION");
    }
    if (c == '\n')
        return refuse(h, 400, "LF without CR");
    if (c < 0x20 || c >= 0x7f)
        return refuse(h, 400, "a byte in the request line that may not be there");
    if (c == ' ' && ++h->spaces > 2)
        return refuse(h, 400, "the request line is not METHOD TARGET VERSION");
    return ++h->line_bytes <= h->limits->request_line || refuse(h, 414, "the request line is too long");
}

/* Header and trailer lines: their states lie in the same order. */
static bool scan_field(struct mp_http1 *h, unsigned char c)
{
    bool trailer = h->state >= TRAILER_START;
    uint8_t base = trailer ? TRAILER_START : FIELD_START;
    if (h->state == base && c == '\r') { /* the empty line that ends them */
        h->state = trailer ? TRAILER_END_LF : HEAD_LF;
        return true;
    }
    if (++h->header_bytes > h->limits->header_bytes)
        return refuse(h, 431, trailer ? "the trailers are too large" : "the headers are too large");
    switch (h->state - base) {
    case 0: /* start of a line */
        if (c == ' ' || c == '\t')
            return refuse(h, 400, "a header line that starts with white space");
        if (c == ':')
            return refuse(h, 400, "a header without a name");
        if (!token_char[c])
            return refuse(h, 400, c == '\n' ? "LF without CR" : "a byte in a header's name that may not be there");
        if (++h->fields > h->limits->header_fields)
            return refuse(h, 431, "too many header fields");
        h->state++;
        return true;
    case 1: /* name */
        if (c == ':')
            h->state++;
        else if (c == ' ' || c == '\t')
            return refuse(h, 400, "white space before a header's colon");
        else if (!token_char[c])
            return refuse(h, 400, "a byte in a header's name that may not be there");
        return true;
    case 2: /* value */
        if (c == '\r')
            h->state++;
        else if (c == '\n')
            return refuse(h, 400, "LF without CR");
        else if (is_control(c))
            return refuse(h, 400, "a control character in a header's value");
        return true;
    default: /* LF */ h->state = base; return c == '\n' || refuse(h, 400, "CR without LF");
    }
}

static bool scan_chunk(struct mp_http1 *h, unsigned char c)
{
    int digit;
    switch (h->state) {
    case CHUNK_SIZE:
        digit = hex_digit(c);
        if (digit >= 0) {
            h->left = h->left << 4 | (unsigned)digit;
            return ++h->digits <= 15 || refuse(h, 400, "a chunk size that is too long");
        }
        if (h->digits == 0 || (c != ';' && c != '\r'))
            return refuse(h, 400, "a chunk size that is no hexadecimal number");
        h->state = c == ';' ? CHUNK_EXT : CHUNK_SIZE_LF;
        return true;
    case CHUNK_EXT:
        if (c == '\r') {
            h->state = CHUNK_SIZE_LF;
            return true;
        }
        if (is_control(c))
            return refuse(h, 400, "a control character in a chunk extension");
        return ++h->ext_bytes <= h->limits->chunk_ext_bytes || refuse(h, 400, "chunk extensions are too long");
    case CHUNK_SIZE_LF:
        if (c != '\n')
            return refuse(h, 400, "CR without LF");
        h->digits = 0;
        if (h->left == 0) {
            h->state = TRAILER_START;
            h->header_bytes = h->fields = 0;
            return true;
        }
        h->state = CHUNK_DATA;
        h->data_bytes += h->left; /* both below 2^60: no overflow before the check stops it */
        if (++h->chunks > h->limits->chunks)
            return refuse(h, 413, "too many chunks");
        return h->data_bytes <= h->body_limit || refuse(h, 413, "the body is too large");
    case CHUNK_DATA_CR:
        h->state = CHUNK_DATA_LF;
        return c == '\r' || refuse(h, 400, "a chunk that is longer than its size");
    default: /* CHUNK_DATA_LF */ h->state = CHUNK_SIZE; return c == '\n' || refuse(h, 400, "CR without LF");
    }
}

/* How many of the n bytes are fine; stops behind the head, behind the message, and before a refused byte. */
static size_t scan(struct mp_http1 *h, const char *data, size_t n)
{
    size_t i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)data[i];
        bool fine = true;
        if (h->state <= LINE_LF) {
            fine = scan_line(h, c);
        } else if (h->state <= FIELD_LF) {
            fine = scan_field(h, c);
        } else if (h->state == HEAD_LF) {
            if (c != '\n')
                fine = refuse(h, 400, "CR without LF");
            else
                return i + 1;
        } else if (h->state == BODY || h->state == CHUNK_DATA) {
            size_t take = h->left < n - i ? (size_t)h->left : n - i;
            h->left -= take;
            i += take;
            if (h->left == 0) {
                if (h->state == BODY) {
                    h->state = END;
                    return i;
                }
                h->state = CHUNK_DATA_CR;
            }
            continue;
        } else if (h->state <= CHUNK_DATA_LF) {
            fine = scan_chunk(h, c);
        } else if (h->state <= TRAILER_LF) {
            fine = scan_field(h, c);
        } else if (h->state == TRAILER_END_LF) {
            if (c != '\n') {
                fine = refuse(h, 400, "CR without LF");
            } else {
                h->state = END;
                return i + 1;
            }
        }
        if (!fine)
            return i;
        i++;
    }
    return i;
}

/* ---- llhttp's callbacks ---- */

static bool in_trailers(const struct mp_http1 *h)
{
    return h->head_done;
}

static int on_method_complete(llhttp_t *p)
{
    switch (llhttp_get_method(p)) {
    case HTTP_GET:
    case HTTP_HEAD:
    case HTTP_POST:
    case HTTP_PUT:
    case HTTP_DELETE:
    case HTTP_OPTIONS:
    case HTTP_PATCH: return 0;
    default: refuse(p->data, 501, "a method that this server does not know"); return HPE_USER;
    }
}

static int on_url(llhttp_t *p, const char *at, size_t n)
{
    struct mp_http1 *h = p->data;
    mp_buf_put(&h->text, at, n);
    h->target_len += n;
    return 0;
}

static int on_url_complete(llhttp_t *p)
{
    mp_buf_putc(&((struct mp_http1 *)p->data)->text, 0);
    return 0;
}

static int on_version_complete(llhttp_t *p)
{
    if (llhttp_get_http_major(p) == 1)
        return 0;
    refuse(p->data, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    return HPE_USER;
}

static struct span *last_span(struct mp_http1 *h)
{
    return (struct span *)(void *)(h->spans.data + h->spans.len) - 1;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n)
{
    struct mp_http1 *h = p->data;
    if (in_trailers(h))
        return 0;
    /* A new field when there is none yet or the last one has its value (value offsets are behind name offsets). */
    if (h->spans.len == 0 || last_span(h)->value) {
        struct span s = {.name = (uint32_t)h->text.len};
        mp_buf_put(&h->spans, &s, sizeof s);
    }
    mp_buf_put(&h->text, at, n);
    last_span(h)->name_len += (uint32_t)n;
    return 0;
}

static int on_header_field_complete(llhttp_t *p)
{
    struct mp_http1 *h = p->data;
    if (in_trailers(h))
        return 0;
    mp_buf_putc(&h->text, 0);
    last_span(h)->value = (uint32_t)h->text.len;
    return 0;
}

static int on_header_value(llhttp_t *p, const char *at, size_t n)
{
    struct mp_http1 *h = p->data;
    if (in_trailers(h))
        return 0;
    mp_buf_put(&h->text, at, n);
    last_span(h)->value_len += (uint32_t)n;
    return 0;
}

static int on_header_value_complete(llhttp_t *p)
{
    struct mp_http1 *h = p->data;
    if (!in_trailers(h))
        mp_buf_putc(&h->text, 0);
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
    struct mp_http1 *h = p->data;
    if (n > h->body_limit - h->body.len) {
        refuse(h, 413, "the body is too large");
        return HPE_USER;
    }
    mp_buf_put(&h->body, at, n);
    return 0;
}

static int on_message_complete(llhttp_t *p)
{
    ((struct mp_http1 *)p->data)->done = true;
    return HPE_PAUSED;
}

/* ---- the head as a whole ---- */

/* uri-host [":" port] of RFC 3986; not empty. */
static bool valid_authority(const char *s, size_t n)
{
    size_t i = 0;
    if (n && s[0] == '[') {
        for (i = 1; i < n && s[i] != ']'; i++)
            if (hex_digit((unsigned char)s[i]) < 0 && s[i] != ':' && s[i] != '.')
                return false;
        if (i == n || i == 1)
            return false;
        i++;
    } else {
        for (; i < n && s[i] != ':'; i++) {
            unsigned char c = (unsigned char)s[i];
            bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z', digit = c >= '0' && c <= '9';
            if (!letter && !digit && !strchr("-._~!$&'()*+,;=", c)) {
                if (c != '%' || n - i < 3 || hex_digit((unsigned char)s[i + 1]) < 0 ||
                    hex_digit((unsigned char)s[i + 2]) < 0)
                    return false;
            }
        }
        if (i == 0)
            return false;
    }
    if (i == n)
        return true;
    if (s[i] != ':' || n - i > 6)
        return false;
    unsigned port = 0;
    for (i++; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        port = port * 10 + (unsigned)(s[i] - '0');
    }
    return port <= 65535;
}

static bool finish_target(struct mp_http1 *h, struct mp_req *req, const char *target, size_t n)
{
    const char *end = target + n;
    if (memchr(target, '#', n))
        return refuse(h, 400, "a fragment in the request target");
    if (n == 1 && target[0] == '*') {
        if (strcmp(req->method, "OPTIONS") != 0)
            return refuse(h, 400, "the target * is for OPTIONS only");
        req->target = req->path = "*";
        req->path_len = 1;
        return true;
    }
    if (target[0] != '/') { /* absolute form: its authority stands above Host */
        size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
        if (!scheme)
            return refuse(h, 400, "the request target is neither a path nor an http address");
        const char *host = target + scheme;
        for (target = host; target < end && *target != '/' && *target != '?';)
            target++;
        if (!valid_authority(host, (size_t)(target - host)))
            return refuse(h, 400, "the request target names no valid host");
        req->host = mp_arena_strndup(req->arena, host, (size_t)(target - host));
    }
    const char *question = memchr(target, '?', (size_t)(end - target));
    size_t path_len = (size_t)((question ? question : end) - target);
    req->target = path_len ? mp_arena_strndup(req->arena, target, path_len) : "/";
    if (question) {
        req->query_len = (size_t)(end - question) - 1;
        req->query = mp_arena_strndup(req->arena, question + 1, req->query_len);
    }
    req->path = mp_url_decode(req->arena, req->target, strlen(req->target), false, &req->path_len);
    return req->path || refuse(h, 400, "the path is not percent-encoded UTF-8");
}

static void collect_headers(struct mp_http1 *h, struct mp_req *req)
{
    size_t count = h->spans.len / sizeof(struct span);
    const struct span *spans = (const struct span *)(const void *)h->spans.data;
    struct mp_header *headers = mp_arena_alloc(req->arena, (count ? count : 1) * sizeof *headers);
    char *text = mp_arena_alloc(req->arena, h->text.len);
    memcpy(text, h->text.data, h->text.len);
    for (size_t i = 0; i < count; i++) {
        char *name = text + spans[i].name, *value = text + spans[i].value;
        size_t n = spans[i].value_len;
        for (char *p = name; *p; p++)
            if (*p >= 'A' && *p <= 'Z')
                *p |= 0x20;
        while (n && (value[n - 1] == ' ' || value[n - 1] == '\t'))
            n--;
        while (n && (*value == ' ' || *value == '\t')) {
            value++;
            n--;
        }
        value[n] = 0;
        headers[i] = (struct mp_header){name, value, spans[i].name_len, n};
    }
    req->headers = headers;
    req->header_count = count;
}

/* Host, Transfer-Encoding, Content-Length, Expect: what must hold across fields. */
static bool judge_headers(struct mp_http1 *h, struct mp_req *req)
{
    const struct mp_header *host = NULL, *te = NULL, *length = NULL;
    bool http10 = req->minor == 0;
    for (size_t i = 0; i < req->header_count; i++) {
        const struct mp_header *f = &req->headers[i];
        if (strcmp(f->name, "host") == 0) {
            if (host)
                return refuse(h, 400, "more than one Host header");
            host = f;
        } else if (strcmp(f->name, "transfer-encoding") == 0) {
            if (te)
                return refuse(h, 400, "more than one Transfer-Encoding header");
            te = f;
        } else if (strcmp(f->name, "content-length") == 0) {
            if (length)
                return refuse(h, 400, "more than one Content-Length header");
            length = f;
        } else if (strcmp(f->name, "expect") == 0 && !http10) {
            if (strcasecmp(f->value, "100-continue") != 0)
                return refuse(h, 417, "an expectation that this server does not know");
            h->expect_continue = true;
        }
    }
    if (!host && !http10)
        return refuse(h, 400, "the Host header is missing");
    if (host && !valid_authority(host->value, host->value_len))
        return refuse(h, 400, "the Host header is not valid");
    if (host && !req->host[0])
        req->host = host->value;
    if (te && length)
        return refuse(h, 400, "both Content-Length and Transfer-Encoding");
    if (te) {
        if (http10)
            return refuse(h, 400, "Transfer-Encoding in HTTP/1.0");
        if (strcasecmp(te->value, "chunked") != 0) {
            const char *comma = strrchr(te->value, ',');
            const char *last = comma ? comma + 1 + strspn(comma + 1, " \t") : te->value;
            if (comma && strcasecmp(last, "chunked") == 0 && !strcasestr(te->value, "chunked,"))
                return refuse(h, 501, "a transfer coding that this server does not know");
            return refuse(h, 400, "Transfer-Encoding does not end in one chunked");
        }
    }
    if (length &&
        (length->value_len == 0 || length->value_len > 18 || strspn(length->value, "0123456789") != length->value_len))
        return refuse(h, 400, "Content-Length is no number");
    h->chunked = te != NULL;
    h->content_length = length ? strtoull(length->value, NULL, 10) : 0;
    return true;
}

static int on_headers_complete(llhttp_t *p)
{
    struct mp_http1 *h = p->data;
    struct mp_req *req = h->req = mp_req_new();
    req->method = llhttp_method_name((llhttp_method_t)llhttp_get_method(p));
    req->head = llhttp_get_method(p) == HTTP_HEAD;
    req->minor = llhttp_get_http_minor(p) ? 1 : 0;
    collect_headers(h, req);
    if (!finish_target(h, req, h->text.data, h->target_len) || !judge_headers(h, req))
        return HPE_USER;
    h->keep_alive = llhttp_should_keep_alive(p);
    p->upgrade = 0; /* Upgrade is ignored: without this llhttp would take what follows for another protocol */
    req->body_limit = h->limits->body_bytes;
    h->head_done = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_method_complete = on_method_complete,
    .on_version_complete = on_version_complete,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* ---- the parser ---- */

static void drop(struct mp_buf *b)
{
    enum { KEEP = 4096 };
    if (b->cap > KEEP)
        mp_buf_free(b);
    else
        mp_buf_clear(b);
}

void mp_http1_init(struct mp_http1 *h, const struct mp_net_limits *limits)
{
    memset(h, 0, sizeof *h);
    h->limits = limits;
    mp_http1_reset(h);
}

void mp_http1_reset(struct mp_http1 *h)
{
    if (h->req)
        mp_req_unref(h->req);
    drop(&h->text);
    drop(&h->spans);
    drop(&h->body);
    *h = (struct mp_http1){.limits = h->limits, .text = h->text, .spans = h->spans, .body = h->body};
    llhttp_init(&h->parser, HTTP_REQUEST, &settings);
    h->parser.data = h;
}

void mp_http1_free(struct mp_http1 *h)
{
    mp_http1_reset(h);
    mp_buf_free(&h->text);
    mp_buf_free(&h->spans);
    mp_buf_free(&h->body);
}

struct mp_req *mp_http1_take(struct mp_http1 *h)
{
    return mp_move(&h->req);
}

bool mp_http1_done(const struct mp_http1 *h)
{
    return h->state == END;
}

bool mp_http1_body_fits(struct mp_http1 *h)
{
    return h->chunked || h->content_length <= h->body_limit || refuse(h, 413, "the body is too large");
}

/* llhttp's word for a refusal, in ours. */
static void refused_by_llhttp(struct mp_http1 *h, llhttp_errno_t error, const char *end)
{
    const char *at = llhttp_get_error_pos(&h->parser);
    switch (error) {
    case HPE_INVALID_METHOD:
        if (at && at < end && token_char[(unsigned char)*at])
            refuse(h, 501, "a method that this server does not know");
        else
            refuse(h, 400, "the method is no token");
        break;
    case HPE_PAUSED_H2_UPGRADE:
    case HPE_INVALID_VERSION: refuse(h, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here"); break;
    case HPE_INVALID_URL: refuse(h, 400, "the request target is not valid"); break;
    case HPE_INVALID_CONSTANT: refuse(h, 400, "the protocol is not HTTP"); break;
    case HPE_INVALID_CONTENT_LENGTH:
    case HPE_UNEXPECTED_CONTENT_LENGTH: refuse(h, 400, "Content-Length is not valid here"); break;
    case HPE_INVALID_TRANSFER_ENCODING: refuse(h, 400, "Transfer-Encoding is not valid here"); break;
    case HPE_INVALID_CHUNK_SIZE: refuse(h, 400, "a chunk size that is no hexadecimal number"); break;
    default: refuse(h, 400, "the request is not valid HTTP/1.1"); break;
    }
}

static enum mp_http1_event failed(struct mp_http1 *h)
{
    h->state = FAILED;
    return MP_HTTP1_ERROR;
}

enum mp_http1_event mp_http1_feed(struct mp_http1 *h, const char *data, size_t n, size_t *used)
{
    *used = 0;
    if (h->state == FAILED || h->state == END)
        return h->state == END ? MP_HTTP1_DONE : MP_HTTP1_ERROR;
    bool in_head = !h->head_done;
    size_t fine = scan(h, data, n);
    int scan_status = h->status;
    const char *scan_reason = h->reason;
    *used = fine;
    h->status = 0; /* an earlier byte may be refused by llhttp: it comes first */
    llhttp_errno_t error = fine ? llhttp_execute(&h->parser, data, fine) : HPE_OK;
    if (error != HPE_OK && error != HPE_PAUSED) {
        refused_by_llhttp(h, error, data + fine);
        return failed(h);
    }
    if (scan_status) {
        h->status = scan_status;
        h->reason = scan_reason;
        return failed(h);
    }
    bool head_end = h->state == HEAD_LF && fine && data[fine - 1] == '\n';
    if ((in_head && h->head_done != head_end) || h->done != (h->state == END)) {
        refuse(h, 400, "the request is not valid HTTP/1.1"); /* the two readers disagree: trust neither */
        return failed(h);
    }
    if (in_head && h->head_done) {
        h->left = h->content_length;
        h->digits = 0;
        if (h->chunked)
            h->left = 0;
        h->state = h->chunked ? CHUNK_SIZE : h->left ? BODY : END;
        h->body_limit = h->req->body_limit;
        if (h->state == END)
            h->done = true;
        else
            llhttp_resume(&h->parser);
        return MP_HTTP1_HEAD;
    }
    return h->state == END ? MP_HTTP1_DONE : MP_HTTP1_MORE;
}
