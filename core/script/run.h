/* core/script/run.h — a run: one request's coroutine, its limits, and everything it waits for.
 *
 * For core/gateway: mp_script_worker_*, mp_run_start. For lua_*.c: the rest. A function that waits checks its arguments,
 * then its phase (mp_run_require), puts a cancel on the run's one pending list (mp_run_pend) and parks (mp_run_park).
 * One function resumes coroutines: it sets the budget, resumes, and switches on the outcome. */
#ifndef MP_SCRIPT_RUN_H
#define MP_SCRIPT_RUN_H
#include "core/base/err.h"
#include "core/script/exchange.h"
#include "core/script/generation.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lua_State;
struct uv_loop_s;
struct mp_pool_port;
struct mp_run;
struct mp_task;

/* ---- for core/gateway ---- */

/* What a worker's thread keeps across generations: its loop, its place in the watchdog's table. */
struct mp_script_worker;

/* On the worker's own thread. index: below every generation's `workers`. loop: where sleeps are timed; NULL in specs that
 * never wait. port: where model calls go; NULL: every call answers "unavailable". Starts the watchdog with the first. */
struct mp_script_worker *mp_script_worker_new(uint32_t index, struct uv_loop_s *loop, struct mp_pool_port *port);
/* On the worker's own thread, with no run left; the loop must still run once after it (a timer closes). */
void mp_script_worker_free(struct mp_script_worker *w);
uint32_t mp_script_worker_runs(const struct mp_script_worker *w); /* runs that are not at their end: a gauge */

/* Runs the endpoint of `match` for x. The caller has pinned g and unpins it after x->ops->end, which may come before this
 * returns. x->target must be what `match` was made from. */
void mp_run_start(struct mp_script_worker *w, struct mp_generation *g, const struct mp_route_match *match,
                  struct mp_exchange *x);

struct mp_job_fired { /* a tick, as timetable.c has it: what the job's function is told */
    double tick;      /* Unix seconds: when it should have been */
    double late;      /* seconds behind that (and behind its jitter) */
    uint32_t missed;  /* ticks before it that had no run */
};

enum mp_job_result { MP_JOB_OK, MP_JOB_FAILED, MP_JOB_TIMEOUT, MP_JOB_CANCELLED };

/* Runs job `index` of g's configuration as a coroutine of phase BACKGROUND. The caller has pinned g, and unpins it behind done, which is
 * called once, on this thread, possibly before this returns; what went wrong is logged already, and in err. A run that passes its limits
 * or its timeout is abandoned like a handler; mp_script_worker_cancel cancels it. */
void mp_run_background(struct mp_script_worker *w, struct mp_generation *g, uint32_t index,
                       const struct mp_job_fired *fired,
                       void (*done)(void *user, enum mp_job_result result, const struct mp_err *err), void *user);

enum mp_cancel {
    MP_CANCEL_CLOSED, /* the client left: waits return nil, err "closed", and the handler may tidy up */
    MP_CANCEL_KILLED, /* a limit was passed: the coroutine is abandoned */
    MP_CANCEL_SHUTDOWN, /* the worker ends, or an old generation is out of time: abandoned; an open stream gets an error */
    MP_CANCEL_SIBLING,  /* mp.all: another function failed */
    MP_CANCEL_FINISHED, /* the handler returned and left it behind */
};

/* Every run of the worker (of g only, unless NULL): reason SHUTDOWN; 503 where nothing was answered yet. */
void mp_script_worker_cancel(struct mp_script_worker *w, struct mp_generation *g, enum mp_cancel reason);

/* ---- for lua_*.c ---- */

enum mp_phase {
    MP_PHASE_LOAD = 1,
    MP_PHASE_START = 2,
    MP_PHASE_HANDLE = 4,
    MP_PHASE_FINISH = 8,
    MP_PHASE_BACKGROUND = 16
};

struct mp_pending { /* embedded in what goes on behind Lua's back: a call, a timer */
    struct mp_pending *next, *prev;
    struct mp_run *run;
    /* Called at most once: releases what it stands for, resumes nothing. The pending is off the list already. */
    void (*cancel)(struct mp_pending *p, enum mp_cancel reason);
    struct mp_task *
        holder; /* set behind mp_run_pend, or NULL: it is cancelled with that task, though the task goes on meanwhile */
    bool composite; /* ends by itself when the client leaves, because what it waits for does (mp.all) */
};

/* Runs protected, inside the run's budget: pushes what the parked function returns; how many. */
typedef int mp_push(struct lua_State *L, void *ud);

/* The run that L belongs to; raises "fn cannot be used while … (allowed: …)" when there is none or its phase is not allowed. */
struct mp_run *mp_run_require(struct lua_State *L, const char *fn, unsigned phases);
void *mp_run_alloc(struct mp_run *run, size_t n); /* zeroed; dies with the run */
void mp_run_pend(struct mp_run *run, struct mp_pending *p, void (*cancel)(struct mp_pending *p, enum mp_cancel reason));
void mp_run_settle(struct mp_pending *p); /* takes it off the list: what it stood for is over. Twice is fine. */
/* `return mp_run_park(L, run, p)`: the running task waits until mp_run_wake(p). When the client has left already it does not:
 * p is cancelled and nil, err "closed" returned. Raises where no yield is possible. */
int mp_run_park(struct lua_State *L, struct mp_run *run, struct mp_pending *p);
/* If a task waits for p it goes on with what push gives; it may end the run. Does not settle p. */
void mp_run_wake(struct mp_pending *p, mp_push *push, void *ud);
bool mp_run_closed(const struct mp_run *run); /* the client has gone */
struct mp_exchange *mp_run_exchange(const struct mp_run *run);
const char *mp_run_kind(const struct mp_run *run); /* "request" or "job": what its exchange's id is of */

extern char
    mp_run_park_mark; /* its address is what a parked function yields: lua/moonpool/init.lua passes it through */

#endif
