/* core/gateway/reload.h — generations while the gateway serves: builds the next one beside the one that serves, checks it, swaps it in,
 * drains and closes the old ones, goes back to one that was. Used by control.c (SIGHUP, start, stop), admin.c and watch.c.
 *
 *   sources once → judged, and built, on the builder thread → addresses and engines from the supervisor → the models checked by their
 *   engines, preloaded where asked → the snapshot on disk, active → every worker's pointer swapped → the old generation drains
 *
 * Whatever fails before the swap leaves the old generation serving, and whoever asked gets every error. Reloads happen one behind the other.
 * Old generations are kept for as long as requests pin them, bounded by time and memory; the last two idle ones for a rollback.
 * Everything here belongs to the control thread unless it says otherwise; nothing of it waits. */
#ifndef MP_RELOAD_H
#define MP_RELOAD_H
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/script/generation.h"

#include <stdbool.h>
#include <stdint.h>

struct mp_reloader;
struct mp_gateway;
struct mp_sockets;
struct mp_worker;

enum mp_reload_what {
    MP_RELOAD,          /* what lies on disk */
    MP_RELOAD_DRY,      /* the same, up to the swap: nothing changes */
    MP_RELOAD_ROLLBACK, /* a generation that was: `number`; 0: the one before the active */
};

struct mp_reload_result { /* valid during the call */
    bool ok;
    bool unchanged;      /* ok, and there was nothing to do */
    uint64_t generation; /* the active one now; of a dry run: the number that it would have got */
    const char *text;    /* ok: what changed, a line each ("models: + b, ~ a (max_concurrency 16 -> 8)"), each with a
                          * newline; else every error as `moonpool check` prints it */
};

/* Queued behind those under way. done is called once, from the loop, never from inside; not at all when the gateway ends first. */
void mp_reload_ask(struct mp_reloader *r, enum mp_reload_what what, uint64_t number,
                   void (*done)(void *user, const struct mp_reload_result *result), void *user);
/* Of SIGHUP and the watcher: reloads and logs the outcome; several while a reload is under way become one more. why: "SIGHUP" */
void mp_reload_poke(struct mp_reloader *r, const char *why);

struct mp_generation *mp_reload_active(const struct mp_reloader *r); /* serves new requests; never NULL once serving */
/* Appends a JSON array, newest first: {"generation", "active", "since" (Unix seconds: when it last became active), "hash" (of its sources,
 * hex), "models", "endpoints", "memory" (is it in memory?), "bytes" (of its VMs), "requests" (that still run in it), "draining"}. */
void mp_reload_list(struct mp_reloader *r, struct mp_buf *json);
/* Appends how the last reload or rollback went: {"ok", "unchanged", "generation", "why", "text", "age" (seconds)}; null: there was none. */
void mp_reload_last(const struct mp_reloader *r, struct mp_buf *json);

/* ---- for control.c ---- */

struct mp_reload_options {
    struct mp_gateway *gateway;
    struct mp_worker *workers;
    uint32_t n_workers;
    const char *conf, *state;
    int ctl_fd;                /* the builder thread's from now on, but for sending */
    const char *const *listen; /* --listen: instead of a configuration's addresses */
    uint32_t n_listen;
    struct mp_sockets *sockets; /* what is listened on now: kept up to date here */
    /* A generation is about to serve: models, policies, jobs. Just before the workers are told. */
    int (*use)(void *user, struct mp_generation *g, struct mp_err *err);
    /* A reload ended, one way or the other; sources: what it read, NULL when it read nothing. For the watcher. */
    void (*ended)(void *user, bool ok, const struct mp_sources *sources);
    void *user;
};

uint32_t mp_reload_workers(
    const struct mp_config *c); /* how many a configuration wants; where it says nothing: the machine's cores say */
/* The number and the snapshot of a server's first generation: when a generation of the same sources was active last it is that one again.
 * restored: a gateway that came back with its active generation. Blocks: at the start only. */
int mp_reload_first(const char *state, struct mp_generation *g, bool restored, struct mp_err *err);
/* Options are copied, what they point to is borrowed. first: what serves. Before the workers start. */
struct mp_reloader *mp_reloader_new(const struct mp_reload_options *options, struct mp_generation *first);
void mp_reloader_changed(struct mp_reloader *r); /* a model's state changed: a preload may have ended. NULL is fine */
/* No reload begins or ends any more, and the builder thread is gone. Before the workers end. NULL is fine. */
void mp_reloader_close(struct mp_reloader *r);
/* Frees every generation. When the workers have ended and the loop is freed. */
void mp_reloader_free(struct mp_reloader *r);

#endif
