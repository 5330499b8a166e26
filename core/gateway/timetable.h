/* core/gateway/timetable.h — mp.job: on the control thread, says when (jobplan.h) and sends the run to a worker, where it is a coroutine in the
 * active generation's VM (core/script/run.h, mp_run_background). A job "per node" goes to one worker, each time the next; "per worker" to
 * every one. Used by control.c. Everything belongs to the control thread unless it says otherwise. */
#ifndef MP_TIMETABLE_H
#define MP_TIMETABLE_H
#include "core/base/buf.h"
#include "core/net/evloop.h"
#include "core/script/generation.h"
#include "core/script/run.h"

#include <stdint.h>

struct mp_timetable;

struct mp_timetable_hooks {
    uint32_t n_workers;
    /* Runs fn(its script worker, arg) on that worker's thread, once, also when the worker is about to end. */
    void (*post)(void *user, uint32_t worker, void (*fn)(struct mp_script_worker *w, void *arg), void *arg);
    void (*unpin)(void *user, struct mp_generation *g); /* a run of it has ended */
};

/* state: the state directory, where `jobs` is kept (what fired last). Workers must run when the first tick comes. */
struct mp_timetable *mp_timetable_new(struct mp_evloop *loop, const char *state, const struct mp_timetable_hooks *hooks,
                                      void *user);
/* From now on the jobs of g count (borrowed until the next call; each run pins it). At the start, and at each swap. Also gives mp.shared
 * what g says of it (mp_shared_declare). */
void mp_timetable_use(struct mp_timetable *js, struct mp_generation *g);
void mp_timetable_stop(
    struct mp_timetable *js); /* no more ticks: the gateway stops. What runs goes on until the workers cancel it */
/* At the end, when the workers have ended, before the loop is freed (that runs the posts that tell of the last ends). NULL is fine. */
void mp_timetable_free(struct mp_timetable *js);
/* Appends a JSON array in order of declaration: {"name", "where", "cron"? , "tz"?, "every"?, "per", "last" (Unix seconds of its last tick, or
 * null), "next" (or null), "running", "waiting", "runs", "failed", "skipped", "error"? (the last failure's text)}. */
void mp_timetable_list(struct mp_timetable *js, struct mp_buf *json);

#endif
