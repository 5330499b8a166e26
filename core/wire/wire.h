/* core/wire/wire.h — one connection over a Unix stream socket, either end: bytes to messages, messages to bytes. It never
 * blocks and knows no event loop: the caller polls the descriptor and calls mp_wire_readable and mp_wire_writable (from
 * uv_poll in the gateway, poll in the engine). Belongs to one thread.
 *
 * HELLO goes out first by itself and must come in first; mp_wire_next swallows it. PING is answered by the caller. */
#ifndef MP_WIRE_H
#define MP_WIRE_H
#include "core/wire/msg.h"

struct mp_wire;

/* Takes fd (a connected stream socket; made non-blocking) and queues HELLO. */
struct mp_wire *mp_wire_new(int fd, enum mp_peer role);
void mp_wire_free(struct mp_wire *w); /* closes the descriptor, unsent bytes are dropped; NULL is fine */
int mp_wire_fd(const struct mp_wire *w);

/* Reads what has come, a few hundred KiB at most per call. 0 (also when there was nothing); MP_ECLOSED at the end of the
 * stream; MP_EIO. Messages read before the end are still given by mp_wire_next: take them before acting on the error. */
int mp_wire_readable(struct mp_wire *w, struct mp_err *err);
/* 1: the next message; its spans are valid until the next call of mp_wire_next or mp_wire_readable. 0: none is complete.
 * MP_EPROTO, MP_EVERSION: the peer speaks something else; close (err names both sides' versions). */
int mp_wire_next(struct mp_wire *w, struct mp_msg *m, struct mp_err *err);

/* Queues a message, nothing is written yet: one write per connection and turn. 0, or MP_EINVAL as mp_msg_encode. */
int mp_wire_send(struct mp_wire *w, const struct mp_msg *m, struct mp_err *err);
/* Appends frames that mp_msg_encode made elsewhere (another thread's buffer). */
void mp_wire_send_frames(struct mp_wire *w, const void *frames, size_t n);
/* Writes what the socket takes. 0, or MP_ECLOSED, MP_EIO. Call after sending and when poll says writable. */
int mp_wire_writable(struct mp_wire *w, struct mp_err *err);
size_t mp_wire_queued(const struct mp_wire *w); /* bytes not written yet: ask poll for writability while > 0 */

bool mp_wire_ready(const struct mp_wire *w);        /* the peer's HELLO came and fits */
uint16_t mp_wire_version(const struct mp_wire *w);  /* what both speak: the lower of the two; 0 before */
const char *mp_wire_peer(const struct mp_wire *w);  /* "gateway 0.1.0, pid 123"; "unknown" before */
uint32_t mp_wire_peer_pid(const struct mp_wire *w); /* as the peer says; 0 before */

/* Sockets: close-on-exec, and non-blocking. A path longer than a Unix socket's name is MP_EINVAL naming it. */
int mp_wire_listen(const char *path, int backlog, int *fd, struct mp_err *err); /* removes a stale socket first */
int mp_wire_connect(const char *path, int *fd, struct mp_err *err);
int mp_wire_accept(int listener, int *fd, struct mp_err *err); /* MP_EAGAIN: nobody there */
int mp_wire_pair(int fds[2], struct mp_err *err);              /* a connected pair, for specs and single processes */

#endif
