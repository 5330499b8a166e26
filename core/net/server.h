/* core/net/server.h — a worker's HTTP server: its listening sockets, its connections, and the one handler that answers.
 * Used by core/gateway (worker), which makes one per loop. The supervisor made the sockets.
 *
 * Life of a request: on_request (headers complete: decide the route, set req->body_limit, or answer at once), on_body
 * (req->body is complete; always comes, with an empty body too, unless the request was answered or aborted before), then
 * the handler answers through mp_res_*, at once or later. on_abort comes at most once, before the response ended; from
 * then on mp_res_* return MP_ECLOSED. on_end comes exactly once per on_request, last of all: the response is written or
 * given up. The request lives until on_end returned and every mp_req_ref is given back.
 * No callback is called from inside an mp_res_* or mp_req_* call. */
#ifndef MP_SERVER_H
#define MP_SERVER_H
#include "core/base/err.h"
#include "core/net/evloop.h"
#include "core/net/request.h"

struct mp_server;

/* name, default, what it bounds: milliseconds, bytes, counts. reference: limits of a server of this kind. */
#define MP_NET_LIMITS(X)                                                                       \
    X(request_line, 8192, "bytes of the request line; over it 414")                            \
    X(header_bytes, 16384, "bytes of all header lines; over it 431")                           \
    X(header_fields, 100, "header fields; over it 431")                                        \
    X(header_ms, 10000, "from a request's first byte to the end of its headers; then 408")     \
    X(body_bytes, 8388608, "a body, where the route sets no other; over it 413")               \
    X(body_idle_ms, 30000, "without a byte of the body; then 408")                             \
    X(body_rate, 1024, "bytes per second a body must keep up; else 408. 0: any")               \
    X(body_grace_ms, 10000, "before body_rate is looked at")                                   \
    X(body_ms, 120000, "a whole body; then 408")                                               \
    X(chunk_ext_bytes, 4096, "bytes of chunk extensions in one body; over it 400")             \
    X(chunks, 65536, "chunks in one body; over it 413")                                        \
    X(keepalive_ms, 75000, "a connection without a request; then closed")                      \
    X(keepalive_requests, 1000, "requests on one connection; the last one's answer closes it") \
    X(connections, 1024, "open connections of this server; when full it stops accepting")      \
    X(high_water, 262144, "unsent bytes of one response at which mp_res_full turns true")      \
    X(write_ms, 60000, "unsent bytes without progress; then the request is aborted")           \
    X(linger_ms, 2000, "reading and dropping what a refused client still sends")               \
    X(sse_ping_ms, 15000, "silence after which an event stream sends a comment")

struct mp_net_limits {
#define X(name, def, what) uint64_t name;
    MP_NET_LIMITS(X)
#undef X
};

void mp_net_limits_init(struct mp_net_limits *l); /* the defaults */

enum mp_abort {
    MP_ABORT_CLIENT,  /* the client left: FIN or reset while the request was under way */
    MP_ABORT_TIMEOUT, /* the body came too slowly (408 was sent), or the client stopped reading */
    MP_ABORT_BODY,    /* the body was malformed or too large; the server answered (400, 413) */
    MP_ABORT_STOP,    /* mp_server_close */
};

struct mp_handler {
    void *ctx;
    void (*on_request)(void *ctx, struct mp_req *req);
    void (*on_body)(void *ctx, struct mp_req *req);
    void (*on_writable)(void *ctx, struct mp_req *req); /* (optional) was full, is down to a quarter of high_water */
    void (*on_abort)(void *ctx, struct mp_req *req, enum mp_abort why);
    void (*on_end)(void *ctx, struct mp_req *req); /* (optional) */
};

struct mp_server_gauges {
    uint64_t connections, requests;     /* open now; requests: from on_request to on_end */
    uint64_t accepted, refused, served; /* counters: connections accepted; requests refused by the parser; on_ends */
    uint64_t bytes_in, bytes_out;       /* counters */
};

/* limits: copied; NULL for the defaults. handler: copied. MOONPOOL_DEBUG_READ=N in the environment makes every read
 * return at most N bytes. */
struct mp_server *mp_server_new(struct mp_evloop *loop, const struct mp_net_limits *limits,
                                const struct mp_handler *handler);
/* Serves a listening, non-blocking socket; the descriptor stays the caller's and must outlive the server. */
int mp_server_listen(struct mp_server *s, int fd, struct mp_err *err);
void mp_server_unlisten(struct mp_server *s, int fd); /* stops accepting on it; connections stay */
/* Serves a connection that is there already (specs: a socketpair's end). Takes fd. */
int mp_server_adopt(struct mp_server *s, int fd, struct mp_err *err);
/* Graceful: stops accepting, answers what is under way with `Connection: close`, closes idle connections; gone(ctx) is
 * called once, from the loop, when no connection is left. */
void mp_server_stop(struct mp_server *s, void (*gone)(void *ctx), void *ctx);
void mp_server_close(struct mp_server *s); /* at once: aborts every request (MP_ABORT_STOP), closes every connection */
void mp_server_free(struct mp_server *s);  /* NULL is fine. Closes first; requests still referenced live on */
void mp_server_gauges(const struct mp_server *s, struct mp_server_gauges *out); /* any thread */

#endif
