/* core/gateway/admin.h — the admin socket's HTTP server: what `moonpool status`, `models`, `devices`, `reload`, `rollback`, `generations`
 * and `decisions` ask, and /metrics. JSON over HTTP/1.1 on a Unix socket that only its user can reach, on the control thread's loop;
 * nothing in it waits. The supervisor made the socket, so that questions asked while a gateway is being restarted are answered by the next.
 *
 *   GET  /server                      who answers: version, pids, configuration, addresses
 *   GET  /status                      all of it
 *   GET  /models[/NAME], /devices, /generations
 *   GET  /decisions?after=N&gateway=PID&wait=S&most=M&newest=K
 *                                     a JSON line each; waits up to S seconds for one. x-moonpool-last: the next `after`;
 *                                     x-moonpool-gateway: whose numbers these are: another one begins at 1, and `after` does not count
 *   GET  /metrics                     Prometheus text
 *   POST /reload {"dry_run": bool}, /rollback {"generation": N}     answered when done
 *   POST /models/NAME/load, unload, scale {"min_replicas": 1, "queue.max": null}   null: as declared. Answered with the model
 *
 * Made by control.c when there are models and a generation; before requests are served. */
#ifndef MP_ADMIN_H
#define MP_ADMIN_H
#include "core/gateway/address.h"
#include "core/gateway/reload.h"
#include "core/gateway/worker.h"

struct mp_admin;
struct mp_timetable;

struct mp_admin_options {             /* all borrowed, and good until mp_admin_free */
    int fd;                           /* the listening socket, non-blocking */
    const char *conf;                 /* path of the configuration, as the user wrote it */
    const char *state;                /* the state directory */
    const struct mp_gateway *gateway; /* its control loop, pool, models, draining */
    struct mp_reloader *reloader;
    struct mp_timetable *jobs;          /* or NULL */
    const struct mp_address *addresses; /* what is listened on now: control's own array */
    const uint32_t *n_addresses;        /* may change from turn to turn */
    uint32_t n_workers;
    const bool *ready; /* requests are answered, and what was to be loaded at start is */
};

struct mp_admin *mp_admin_new(const struct mp_admin_options *options, struct mp_err *err);
/* Connections are cut. Its memory goes when the loop has closed its handles. NULL is fine. */
void mp_admin_free(struct mp_admin *a);

#endif
