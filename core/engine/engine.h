/* core/engine/engine.h — the engine process: threads, sockets, models, requests. Used by core/cli/cmd_engine.c. */
#ifndef MP_ENGINE_H
#define MP_ENGINE_H
#include "core/base/err.h"

#include <signal.h>
#include <stdint.h>

/* What a parent (parent_fd) sends to have its engine stop. Not SIGTERM, which reaches every process when a service manager
 * stops a group: the gateway's streams would be cut while they drain. An engine without a parent stops at SIGTERM. */
#define MP_ENGINE_STOP_SIGNAL SIGUSR1

struct mp_engine_conf {
    int listen_fd;            /* a listening Unix socket; the engine's to close */
    int parent_fd;            /* ends when the supervisor does; -1: none */
    const char *group;        /* the device group it serves: "cpu", "fake" */
    const char *device;       /* what the device's open() takes; "" for its defaults */
    uint32_t chunk;           /* debug cap on prefill chunks; 0: none */
    uint64_t linger_ns;       /* ends when nothing was loaded and nothing asked for so long; UINT64_MAX: never */
    uint64_t step_timeout_ns; /* a device step that takes longer is hung: the process says so and aborts; 0: never */
};

/* Serves until its stop signal comes, parent_fd ends, or it has nothing to do (BYE). 0: ended as asked. SIGTERM, SIGUSR1 and SIGCHLD must not be used otherwise. */
int mp_engine_run(const struct mp_engine_conf *conf, struct mp_err *err);

#endif
