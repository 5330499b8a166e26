/* core/gateway/sockets.h — the addresses that a gateway listens on and their sockets, one per address and worker. The supervisor makes and
 * keeps them; here they are asked for, and given back. Used by control.c at the start and by reload.c's builder thread: never by two threads
 * at once. */
#ifndef MP_SOCKETS_H
#define MP_SOCKETS_H
#include "core/gateway/ctl.h"
#include "core/script/config.h"
#include "core/script/problems.h"

#include <stdbool.h>

enum { MP_SOCKETS_MAX = 16 };

struct mp_sockets {
    uint32_t n, workers;
    struct mp_socket {
        struct mp_address asked, real;
        int fds[MP_CTL_MAX_FDS]; /* one per worker */
    } list[MP_SOCKETS_MAX];
};

struct mp_sockets_options {
    int ctl_fd;
    uint32_t workers;
    const char *const *given; /* --listen: instead of the configuration's addresses */
    uint32_t n_given;
};

/* The addresses that a configuration wants. Those that `have` has too are taken from it, the others asked for. On failure everything
 * that was wrong is added to problems, and what was new is given back. */
int mp_sockets_get(struct mp_sockets *out, const struct mp_sockets_options *o, const struct mp_config *config,
                   const struct mp_sockets *have, struct mp_problems *problems);
/* Closes those of s that `keep` (or NULL) does not have, and tells the supervisor that they are not listened on any more. */
void mp_sockets_drop(struct mp_sockets *s, const struct mp_sockets_options *o, const struct mp_sockets *keep);
void mp_sockets_close(struct mp_sockets *s); /* this process's descriptors only */
const struct mp_socket *mp_sockets_find(const struct mp_sockets *s, const struct mp_address *asked); /* or NULL */

#endif
