/* spec/fuzz/http_fuzz.c — arbitrary bytes as HTTP requests, without sockets: once in one piece, once cut as the first byte
 * says. Both must end in the same verdict with the same requests. */
#include "core/base/mem.h"
#include "core/net/http1.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads requests until the bytes end or are refused; what was understood is appended to `seen`. */
static void read_all(const char *bytes, size_t n, size_t piece, struct mp_buf *seen)
{
    struct mp_net_limits limits;
    struct mp_http1 h;
    struct mp_req *req = NULL;
    size_t at = 0;
    mp_net_limits_init(&limits);
    limits.body_bytes = 4096;
    mp_http1_init(&h, &limits);
    while (at < n) {
        size_t left = n - at, give = left < piece ? left : piece, used;
        enum mp_http1_event event = mp_http1_feed(&h, bytes + at, give, &used);
        if (used > give)
            abort();
        at += used;
        if (event == MP_HTTP1_HEAD) {
            req = mp_http1_take(&h);
            mp_buf_printf(seen, "%s %s ? %s @ %s\n", req->method, req->path, req->query, req->host);
            for (size_t i = 0; i < req->header_count; i++)
                mp_buf_printf(seen, "%s=%s\n", req->headers[i].name, req->headers[i].value);
            if (!mp_http1_body_fits(&h)) {
                mp_buf_printf(seen, "refused %d %s\n", h.status, h.reason);
                break;
            }
            if (mp_http1_done(&h))
                event = MP_HTTP1_DONE;
        }
        if (event == MP_HTTP1_DONE) {
            mp_buf_put(seen, h.body.data, h.body.len);
            mp_buf_puts(seen, "\nend\n");
            mp_req_unref(mp_move(&req));
            mp_http1_reset(&h);
        } else if (event == MP_HTTP1_ERROR) {
            mp_buf_printf(seen, "refused %d %s\n", h.status, h.reason);
            break;
        }
    }
    if (req)
        mp_req_unref(req);
    mp_http1_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mp_buf whole = {0}, cut = {0};
    if (size < 1)
        return 0;
    read_all((const char *)data + 1, size - 1, size, &whole);
    read_all((const char *)data + 1, size - 1, data[0] % 16u + 1u, &cut);
    if (whole.len != cut.len || (whole.len && memcmp(whole.data, cut.data, whole.len) != 0)) {
        fprintf(stderr, "in one piece:\n%.*s\ncut:\n%.*s\n", (int)whole.len, whole.data, (int)cut.len, cut.data);
        abort();
    }
    mp_buf_free(&whole);
    mp_buf_free(&cut);
    return 0;
}
