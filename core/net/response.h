/* core/net/response.h — answering a request: either a whole body, or a stream. Used by core/gateway and core/script.
 *
 * Calls only append; what they made leaves in one writev at the end of the loop's turn. They return 0, MP_ECLOSED when
 * the request was aborted (what was to be sent is dropped), MP_ESTATE for a wrong order of calls, MP_EINVAL for bad values. */
#ifndef MP_RESPONSE_H
#define MP_RESPONSE_H
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/net/request.h"

int mp_res_status(struct mp_req *req, int status); /* 200..599; default 200 */
/* Adds a header. Refused: names that are no token; values with control characters; Content-Length, Transfer-Encoding,
 * Connection, Keep-Alive, Date, Upgrade and Trailer, which are the server's. err may be NULL. */
int mp_res_header(struct mp_req *req, const char *name, size_t name_len, const char *value, size_t value_len,
                  struct mp_err *err);
/* The same, first removing headers of that name (any case). */
int mp_res_header_set(struct mp_req *req, const char *name, size_t name_len, const char *value, size_t value_len,
                      struct mp_err *err);
bool mp_res_has_header(const struct mp_req *req, const char *name);

int mp_res_send(struct mp_req *req, const void *body, size_t n); /* whole answer with Content-Length; ends it; copies */
int mp_res_send_take(struct mp_req *req, struct mp_buf *body);   /* the same; body's memory is now the response's */
int mp_res_begin(struct mp_req *req);                            /* head of a stream: chunked, or until close for 1.0 */
int mp_res_write(struct mp_req *req, const void *data, size_t n);
int mp_res_end(struct mp_req *req);
/* Gives up: what is sent stays, the rest is dropped and the connection closed without a proper end, so that the client sees
 * that it is not whole. on_end follows, on_abort does not. */
void mp_res_abort(struct mp_req *req);

/* A whole answer {"error":{"code":…,"message":…,"status":…,"request_id":…}} as application/json. Drops headers set
 * before. retry_after: seconds, 0 for none. */
int mp_res_error(struct mp_req *req, int status, const char *code, const char *message, int retry_after);

bool mp_res_started(const struct mp_req *req);  /* the head can no longer be changed */
bool mp_res_ended(const struct mp_req *req);    /* send, end, error, or aborted: nothing more can be written */
bool mp_res_full(const struct mp_req *req);     /* high_water unsent bytes: wait for on_writable */
size_t mp_res_unsent(const struct mp_req *req); /* bytes accepted here and not yet by the kernel */
uint64_t mp_res_sent(const struct mp_req *req); /* bytes the kernel took, head included; for the access log */
int mp_res_code(const struct mp_req *req);      /* the status; 499 when the client left before the head */
const char *mp_status_text(int status);         /* "Not Found"; "" for unknown ones */

#endif
