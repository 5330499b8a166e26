/* core/cli/supervisor.h — the process that starts a gateway and its engines, holds their listening sockets, and starts again
 * what dies. No Lua, no HTTP, no model. Used by `moonpool serve`. */
#ifndef MP_SUPERVISOR_H
#define MP_SUPERVISOR_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct mp_supervisor_options {
    const char *conf;          /* the configuration's path, as given */
    const char *state;         /* locked by the caller; absolute */
    const char *runtime;       /* absolute */
    const char *const *listen; /* --listen: instead of the configuration's; each was parsed once */
    uint32_t n_listen;
    bool watch;           /* --watch */
    double drain;         /* seconds that running requests get at a stop */
    double grace;         /* seconds from "not ready" to the end of accepting at a stop */
    double engine_linger; /* seconds after which an engine with nothing to do ends */
};

/* Runs until it is told to stop or gives up; returns the exit code. Call from a process without threads. */
int mp_supervisor_run(const struct mp_supervisor_options *options);

#endif
