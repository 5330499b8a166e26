/* core/net/sse.c — see sse.h. The silence timer is conn.c's. */
#include "core/net/sse.h"
#include "core/net/response_state.h"
#include <string.h>

static int default_header(struct mp_req *req, const char *name, const char *value)
{
    return mp_res_has_header(req, name) ? 0 : mp_res_header(req, name, strlen(name), value, strlen(value), NULL);
}

int mp_sse_begin(struct mp_req *req)
{
    int rc = mp_res_header_set(req, "content-type", 12, "text/event-stream", 17, NULL);
    if (rc == 0)
        rc = default_header(req, "cache-control", "no-store");
    if (rc == 0)
        rc = default_header(req, "x-accel-buffering", "no");
    if (rc == 0)
        rc = mp_res_begin(req);
    if (rc == 0)
        req->res->sse = true;
    return rc;
}

int mp_sse_event(struct mp_req *req, const char *name, const char *data, size_t n)
{
    if (name && strpbrk(name, "\r\n"))
        return MP_EINVAL;
    struct mp_buf b = {0};
    if (name)
        mp_buf_printf(&b, "event: %s\n", name);
    const char *p = data, *end = data + n;
    for (;;) {
        const char *q = p;
        while (q < end && *q != '\r' && *q != '\n')
            q++;
        mp_buf_puts(&b, "data: ");
        mp_buf_put(&b, p, (size_t)(q - p));
        mp_buf_putc(&b, '\n');
        if (q == end)
            break;
        p = q + (*q == '\r' && end - q > 1 && q[1] == '\n' ? 2 : 1);
    }
    mp_buf_putc(&b, '\n');
    int rc = mp_res_write(req, b.data, b.len);
    mp_buf_free(&b);
    return rc;
}

int mp_sse_comment(struct mp_req *req, const char *text)
{
    if (strpbrk(text, "\r\n"))
        return MP_EINVAL;
    struct mp_buf b = {0};
    mp_buf_printf(&b, ": %s\n\n", text);
    int rc = mp_res_write(req, b.data, b.len);
    mp_buf_free(&b);
    return rc;
}

int mp_sse_end(struct mp_req *req)
{
    return mp_res_end(req);
}
