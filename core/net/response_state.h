/* core/net/response_state.h — the state of a response, shared by response.c, which fills it, and conn.c, which sends it. */
#ifndef MP_RESPONSE_STATE_H
#define MP_RESPONSE_STATE_H
#include "core/base/buf.h"
#include "core/net/request.h"

enum mp_res_state {
    MP_RES_OPEN,   /* nothing sent: status and headers can change */
    MP_RES_STREAM, /* the head is fixed, data follows */
    MP_RES_ENDED,  /* complete, as far as the handler goes */
};

struct mp_res {
    enum mp_res_state state;
    int status;
    struct mp_buf headers; /* "name: value\r\n" lines */
    struct mp_buf data;    /* of a stream: not yet framed */
    struct mp_buf body;    /* of a whole answer */
    size_t body_at;        /* of it the kernel took so much */
    bool whole;            /* Content-Length, not a stream */
    bool aborted;          /* the client is gone, or mp_res_abort: everything more is dropped */
    bool given_up;         /* mp_res_abort by the handler */
    bool head_made;        /* the head is in the connection's buffer */
    bool chunked;          /* once head_made */
    bool full;             /* mp_res_full was true: on_writable is owed */
    bool sse;              /* pings in silence */
    uint64_t sent;         /* bytes the kernel took */
    uint64_t touched_ms;   /* when the handler last wrote (event streams) */
};

bool mp_res_bodiless(const struct mp_req *req); /* HEAD, 204, 304 */
/* The JSON of mp_res_error, appended. id may be NULL. */
void mp_res_error_body(struct mp_buf *out, int status, const char *code, const char *message, const char *id);

/* conn.c's: what response.c needs to know and do. */
void mp_conn_dirty(struct mp_conn *c); /* flush at the end of this turn */
size_t mp_conn_unsent(const struct mp_conn *c);
size_t mp_conn_high_water(const struct mp_conn *c);
uint64_t mp_conn_now_ms(const struct mp_conn *c);

#endif
