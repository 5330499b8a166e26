/* core/net/http1.h — HTTP/1.1 request bytes to struct mp_req: a strict scanner of our own before llhttp. No sockets in it.
 * Used by conn.c and the fuzz target.
 *
 * Every byte is judged by the scanner first (line ends, field syntax, limits, chunk framing) and then by llhttp; the first
 * byte either refuses decides. So the verdict depends on the bytes alone, never on how they were cut into pieces. */
#ifndef MP_HTTP1_H
#define MP_HTTP1_H
#include "core/base/buf.h"
#include "core/net/server.h"
#include <llhttp.h>

enum mp_http1_event {
    MP_HTTP1_MORE,  /* all bytes used; needs more */
    MP_HTTP1_HEAD,  /* headers complete: take the request, set body_limit; then mp_http1_done or go on feeding */
    MP_HTTP1_DONE,  /* the body is complete; bytes behind it are the next request's */
    MP_HTTP1_ERROR, /* status and reason say why; nothing more can be fed */
};

struct mp_http1 {
    const struct mp_net_limits *limits;
    llhttp_t parser;
    uint8_t state;       /* the scanner's */
    uint8_t spaces;      /* of the request line */
    uint8_t blank_lines; /* before it */
    bool started;        /* a byte of the request line was seen */
    bool head_done;      /* llhttp reached the end of the headers */
    bool done;           /* llhttp reached the end of the message */
    bool chunked, keep_alive, expect_continue;
    uint8_t digits;  /* of the chunk size being read */
    uint32_t fields; /* header or trailer fields */
    uint64_t line_bytes, header_bytes, ext_bytes, chunks;
    uint64_t left;       /* bytes left of the body, or of the chunk */
    uint64_t data_bytes; /* announced by chunk sizes so far */
    uint64_t content_length;
    uint64_t body_limit; /* set it at HEAD */
    struct mp_buf text;  /* target, then names and values, each with a NUL behind */
    struct mp_buf spans; /* struct span per field, of text */
    size_t target_len;
    struct mp_buf body;
    struct mp_req *req; /* made at HEAD, until mp_http1_take */
    int status;         /* of the refusal, or 0 */
    const char *reason; /* static */
};

void mp_http1_init(struct mp_http1 *h, const struct mp_net_limits *limits);
void mp_http1_reset(struct mp_http1 *h); /* for the next request of the connection */
void mp_http1_free(struct mp_http1 *h);
enum mp_http1_event mp_http1_feed(struct mp_http1 *h, const char *data, size_t n, size_t *used);
struct mp_req *mp_http1_take(struct mp_http1 *h); /* at HEAD: the request, now the caller's */
bool mp_http1_done(const struct mp_http1 *h);     /* after HEAD: there is no body, or it is complete */
/* At HEAD: false, with status and reason 413, when the announced body is over body_limit. */
bool mp_http1_body_fits(struct mp_http1 *h);

#endif
