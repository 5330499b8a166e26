/* core/net/sse.h — Server-Sent Events on a response stream (WHATWG HTML, section 9.2). Used by core/script's stream pumps.
 *
 * Back-pressure is the response's: mp_res_full, on_writable. After sse_ping_ms of silence a comment is sent by itself. */
#ifndef MP_SSE_H
#define MP_SSE_H
#include "core/net/response.h"

/* Headers (text/event-stream, no-store, no proxy buffering; those set before stay) and the stream's head. */
int mp_sse_begin(struct mp_req *req);
/* One event. name: NULL, or without CR and LF (else MP_EINVAL). data is split at CR, LF and CRLF into data lines. */
int mp_sse_event(struct mp_req *req, const char *name, const char *data, size_t n);
int mp_sse_comment(struct mp_req *req, const char *text); /* ": text"; text without CR and LF, else MP_EINVAL */
int mp_sse_end(struct mp_req *req);                       /* mp_res_end */

#endif
