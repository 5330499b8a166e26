/* core/gateway/control.h — the gateway process: builds the generation from the configuration, gets sockets and engines from the
 * supervisor, starts the workers, and then only watches. Its one caller is `moonpool _gateway` (core/cli/cmd_gateway.c). */
#ifndef MP_CONTROL_H
#define MP_CONTROL_H
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* What the supervisor sends to have the gateway stop; a second one: at once. Taken from its parent only: stopping shuts the listening sockets
 * for all who hold them, which is not for a stray kill to do; and a queued signal, so that none hides another. */
#define MP_CONTROL_STOP_SIGNAL (SIGRTMIN + 1)

struct mp_control_options {
    const char *conf;          /* path, as the user wrote it */
    const char *state;         /* the state directory; the active generation's snapshot lies in it */
    int ctl_fd;                /* to the supervisor (ctl.h) */
    int parent_fd;             /* reads as ended when the supervisor is gone */
    const char *const *listen; /* instead of the configuration's addresses */
    uint32_t n_listen;
    double drain, grace; /* seconds, at a stop */
    bool watch;          /* reload when a file of the configuration changes */
    bool restore;        /* after a crash: from the snapshot, not from what lies on disk now */
};

/* Runs until told to stop. Exit codes: 0; 1 failed; 2 the configuration, a model or an address cannot be used (it was said). */
int mp_control_run(const struct mp_control_options *options);

#endif
