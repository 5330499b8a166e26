/* core/net/response.c — see response.h: builds answers in memory; conn.c sends them. */
#include "core/net/response.h"
#include "core/base/json.h"
#include "core/net/response_state.h"
#include <string.h>
#include <strings.h>

static const struct {
    int status;
    const char *text;
} statuses[] = {
    {100, "Continue"},
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {402, "Payment Required"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {422, "Unprocessable Content"},
    {423, "Locked"},
    {425, "Too Early"},
    {426, "Upgrade Required"},
    {428, "Precondition Required"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {451, "Unavailable For Legal Reasons"},
    {499, "Client Closed Request"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
};

const char *mp_status_text(int status)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i].status == status)
            return statuses[i].text;
    return "";
}

bool mp_res_bodiless(const struct mp_req *req)
{
    return req->head || req->res->status == 204 || req->res->status == 304;
}

/* 0 while status and headers can still change. */
static int open_check(const struct mp_req *req)
{
    if (!req->conn || req->res->aborted)
        return MP_ECLOSED;
    return req->res->state == MP_RES_OPEN ? 0 : MP_ESTATE;
}

int mp_res_status(struct mp_req *req, int status)
{
    int rc = open_check(req);
    if (rc < 0)
        return rc;
    if (status < 200 || status > 599)
        return MP_EINVAL;
    req->res->status = status;
    return 0;
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z', digit = c >= '0' && c <= '9';
        if (!letter && !digit && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return n > 0;
}

/* Names that decide framing, or that the server writes itself. */
static bool is_ours(const char *name, size_t n)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection", "keep-alive",
                                       "date",           "upgrade",           "trailer"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strlen(ours[i]) == n && strncasecmp(ours[i], name, n) == 0)
            return true;
    return false;
}

static int check_header(const char *name, size_t name_len, const char *value, size_t value_len, struct mp_err *err)
{
    if (!is_token(name, name_len))
        return mp_err_set(err, MP_EINVAL, "a header's name must be made of letters, digits and !#$%%&'*+-.^_`|~");
    if (is_ours(name, name_len))
        return mp_err_set(err, MP_EINVAL, "header '%.*s' is set by the server", (int)name_len, name);
    for (size_t i = 0; i < value_len; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            return mp_err_set(err, MP_EINVAL, "the value of header '%.*s' holds a control character", (int)name_len,
                              name);
    return 0;
}

int mp_res_header(struct mp_req *req, const char *name, size_t name_len, const char *value, size_t value_len,
                  struct mp_err *err)
{
    int rc = check_header(name, name_len, value, value_len, err);
    if (rc < 0)
        return rc;
    rc = open_check(req);
    if (rc < 0)
        return mp_err_set(err, rc, rc == MP_ECLOSED ? "the client is gone" : "the response has begun");
    struct mp_buf *b = &req->res->headers;
    mp_buf_put(b, name, name_len);
    mp_buf_puts(b, ": ");
    mp_buf_put(b, value, value_len);
    mp_buf_puts(b, "\r\n");
    return 0;
}

/* Calls for each header line of that name; removes it or stops there. */
static bool find_header(struct mp_buf *b, const char *name, size_t n, bool remove)
{
    bool found = false;
    size_t at = 0;
    while (at < b->len) {
        char *line = b->data + at, *end = memchr(line, '\n', b->len - at);
        size_t size = (size_t)(end - line) + 1;
        if (size > n && line[n] == ':' && strncasecmp(line, name, n) == 0) {
            found = true;
            if (!remove)
                break;
            memmove(line, line + size, b->len - at - size);
            b->len -= size;
        } else {
            at += size;
        }
    }
    return found;
}

int mp_res_header_set(struct mp_req *req, const char *name, size_t name_len, const char *value, size_t value_len,
                      struct mp_err *err)
{
    if (check_header(name, name_len, value, value_len, NULL) == 0 && open_check(req) == 0)
        find_header(&req->res->headers, name, name_len, true);
    return mp_res_header(req, name, name_len, value, value_len, err);
}

bool mp_res_has_header(const struct mp_req *req, const char *name)
{
    return find_header(&req->res->headers, name, strlen(name), false);
}

static int end_whole(struct mp_req *req)
{
    req->res->whole = true;
    req->res->state = MP_RES_ENDED;
    mp_conn_dirty(req->conn);
    return 0;
}

int mp_res_send(struct mp_req *req, const void *body, size_t n)
{
    int rc = open_check(req);
    if (rc < 0)
        return rc;
    mp_buf_put(&req->res->body, body, n);
    return end_whole(req);
}

int mp_res_send_take(struct mp_req *req, struct mp_buf *body)
{
    int rc = open_check(req);
    if (rc < 0)
        return rc;
    req->res->body = *body;
    *body = (struct mp_buf){0};
    return end_whole(req);
}

int mp_res_begin(struct mp_req *req)
{
    int rc = open_check(req);
    if (rc < 0)
        return rc;
    req->res->state = MP_RES_STREAM;
    req->res->touched_ms = mp_conn_now_ms(req->conn);
    mp_conn_dirty(req->conn);
    return 0;
}

/* 0 while a stream takes data. */
static int stream_check(const struct mp_req *req)
{
    if (!req->conn || req->res->aborted)
        return MP_ECLOSED;
    return req->res->state == MP_RES_STREAM ? 0 : MP_ESTATE;
}

int mp_res_write(struct mp_req *req, const void *data, size_t n)
{
    int rc = stream_check(req);
    if (rc < 0)
        return rc;
    if (n == 0 || mp_res_bodiless(req))
        return 0;
    mp_buf_put(&req->res->data, data, n);
    req->res->touched_ms = mp_conn_now_ms(req->conn);
    if (mp_conn_unsent(req->conn) >= mp_conn_high_water(req->conn))
        req->res->full = true;
    mp_conn_dirty(req->conn);
    return 0;
}

int mp_res_end(struct mp_req *req)
{
    int rc = stream_check(req);
    if (rc < 0)
        return rc;
    req->res->state = MP_RES_ENDED;
    mp_conn_dirty(req->conn);
    return 0;
}

void mp_res_abort(struct mp_req *req)
{
    if (!req->conn || req->res->aborted)
        return;
    req->res->aborted = req->res->given_up = true;
    req->res->state = MP_RES_ENDED;
    mp_conn_dirty(req->conn);
}

void mp_res_error_body(struct mp_buf *out, int status, const char *code, const char *message, const char *id)
{
    mp_buf_puts(out, "{\"error\":{\"code\":");
    mp_json_put_string(out, code, strlen(code));
    mp_buf_puts(out, ",\"message\":");
    mp_json_put_string(out, message, strlen(message));
    mp_buf_printf(out, ",\"status\":%d", status);
    if (id) {
        mp_buf_puts(out, ",\"request_id\":");
        mp_json_put_string(out, id, strlen(id));
    }
    mp_buf_puts(out, "}}\n");
}

int mp_res_error(struct mp_req *req, int status, const char *code, const char *message, int retry_after)
{
    int rc = open_check(req);
    if (rc < 0)
        return rc;
    rc = mp_res_status(req, status);
    if (rc < 0)
        return rc;
    mp_buf_clear(&req->res->headers);
    mp_buf_puts(&req->res->headers, "content-type: application/json\r\n");
    if (retry_after > 0)
        mp_buf_printf(&req->res->headers, "retry-after: %d\r\n", retry_after);
    mp_res_error_body(&req->res->body, status, code, message, req->id);
    return end_whole(req);
}

bool mp_res_started(const struct mp_req *req)
{
    return req->res->state != MP_RES_OPEN || req->res->aborted;
}

bool mp_res_ended(const struct mp_req *req)
{
    return req->res->state == MP_RES_ENDED || req->res->aborted;
}

bool mp_res_full(const struct mp_req *req)
{
    return req->conn && !req->res->aborted && req->res->full;
}

size_t mp_res_unsent(const struct mp_req *req)
{
    return req->conn ? mp_conn_unsent(req->conn) : 0;
}

uint64_t mp_res_sent(const struct mp_req *req)
{
    return req->res->sent;
}

int mp_res_code(const struct mp_req *req)
{
    return req->res->status;
}
