/* core/gateway/ctl.h — the few words between a gateway and its supervisor, over a SOCK_SEQPACKET pair: a gateway asks for
 * listening sockets and for engines, and says when it is ready. The supervisor (core/cli/supervisor.c) answers each LISTEN,
 * ENGINE and ADMIN once, in order. Messages are of one fixed size; both ends are the same build. */
#ifndef MP_CTL_H
#define MP_CTL_H
#include "core/base/err.h"
#include "core/gateway/address.h"

#include <stdint.h>

enum { MP_CTL_MAX_FDS = 64 };

enum mp_ctl_type {
    MP_CTL_LISTEN =
        1, /* gateway: `count` sockets of `address`. → SOCKETS: the descriptors, and the real port; → REFUSED */
    MP_CTL_ENGINE, /* gateway: an engine for the device group `text`. → PATH: its socket's path in text; → REFUSED */
    MP_CTL_READY,  /* gateway: requests are answered; from now on a crash restarts it with its snapshot; addresses that
                    * this gateway did not ask for are let go */
    MP_CTL_UNLISTEN, /* gateway: `address`, as LISTEN asked for it, is not listened on any more. No answer */
    MP_CTL_ADMIN, /* gateway: the admin socket, which listens. → SOCKETS: one descriptor, its path in text; → REFUSED */
    MP_CTL_SOCKETS,
    MP_CTL_PATH,
    MP_CTL_REFUSED, /* code and text say why */
};

struct mp_ctl_msg {
    uint32_t type; /* enum mp_ctl_type */
    int32_t code;  /* REFUSED: an MP_E… */
    uint32_t count;
    struct mp_address address;
    char text[1000]; /* NUL-terminated */
};

/* 0, or MP_ECLOSED, MP_EAGAIN (a non-blocking end that is full), MP_EIO. */
int mp_ctl_send(int fd, const struct mp_ctl_msg *m, const int *fds, uint32_t n_fds);
/* The next message and the descriptors that came with it (close-on-exec, now the caller's; at most MP_CTL_MAX_FDS).
 * MP_EAGAIN: none there; MP_ECLOSED: the other end has gone; MP_EPROTO: not a message. */
int mp_ctl_recv(int fd, struct mp_ctl_msg *m, int fds[MP_CTL_MAX_FDS], uint32_t *n_fds);
/* Gateway: asks and waits for the answer. *n_fds and fds as above (both may be NULL). A REFUSED becomes the error. */
int mp_ctl_ask(int fd, struct mp_ctl_msg *m, int fds[MP_CTL_MAX_FDS], uint32_t *n_fds, struct mp_err *err);

#endif
