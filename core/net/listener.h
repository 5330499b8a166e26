/* core/net/listener.h — accepts connections on one listening socket. Private to core/net. */
#ifndef MP_LISTENER_H
#define MP_LISTENER_H
#include "core/base/err.h"
#include "core/net/evloop.h"

struct mp_listener;

/* accepted(ctx, fd, remote): the connected, non-blocking socket is now the receiver's; false: it paused the listener. fd stays the caller's and must stay open until mp_listener_close. */
int mp_listener_new(struct mp_listener **out, struct mp_evloop *loop, int fd,
                    bool (*accepted)(void *ctx, int fd, const char *remote), void *ctx, struct mp_err *err);
void mp_listener_pause(struct mp_listener *l);
void mp_listener_resume(struct mp_listener *l);
void mp_listener_close(struct mp_listener *l); /* frees it, from the loop */
int mp_listener_fd(const struct mp_listener *l);

#endif
