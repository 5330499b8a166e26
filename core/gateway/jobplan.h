/* core/gateway/jobplan.h — when jobs are due: ticks, jitter, what was missed, overlap. Pure: the time is an argument, so that specs run days
 * in a moment. timetable.c asks it on the control thread, starts what it says, and writes down what it remembers.
 *
 * A job's ticks are the moments that its cron says, or its `every` seconds from when this declaration was first seen (or its last tick). Each
 * job remembers, by its name, the last tick that it fired, and fires none up to it again: not after a reload, not after a restart, not when
 * the clock was set back. Ticks that were missed (nobody was there, the machine slept, the clock was set forward) become one late run, however
 * late; the run is told how late and how many. A declaration that was changed, or that comes back, counts from now on.
 * A clock set back by more than a day was wrong before: ticks count from now then. `every` never waits longer than its seconds. */
#ifndef MP_JOBPLAN_H
#define MP_JOBPLAN_H
#include "core/base/buf.h"
#include "core/base/cron.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    MP_JOBPLAN_MAX = 1000 /* beyond so many, those that are remembered only are forgotten */,
    MP_JOBPLAN_RUNS = 16 /* of one job, with overlap "allow" */
};

struct mp_jobplan_job { /* one that is declared; borrowed during mp_jobplan_declare, but tz until the next one */
    const char *name;
    const char *what;           /* its cron and zone, or its seconds, as text: another text is another declaration */
    const struct mp_cron *cron; /* NULL: every */
    const struct mp_tz *tz;
    double every, jitter; /* seconds */
    int overlap;          /* as in mp_conf_job */
};

struct mp_jobplan_due { /* a run that is to begin now */
    uint32_t index;     /* of the job, in the last declaration */
    double tick;        /* Unix seconds: when it should have been, jitter not counted */
    double late;        /* seconds behind its tick and jitter */
    uint32_t missed;    /* ticks before it that had no run of their own, since the last one that began */
};

struct mp_jobplan;

struct mp_jobplan *mp_jobplan_new(void);
void mp_jobplan_free(struct mp_jobplan *p);
/* The jobs from now on. now: Unix seconds. Those that run go on being counted under their names. */
void mp_jobplan_declare(struct mp_jobplan *p, const struct mp_jobplan_job *jobs, uint32_t n, double now);
/* The next run that is to begin, earliest tick first; false: none now. Call until false, then write down (mp_jobplan_save) if anything came.
 * It counts as running until mp_jobplan_ended. skipped (may be NULL): the ticks that were dropped meanwhile, per job index, are added. */
bool mp_jobplan_next(struct mp_jobplan *p, double now, struct mp_jobplan_due *out, uint32_t *skipped);
void mp_jobplan_ended(struct mp_jobplan *p,
                      const char *name); /* a run of it is over; with "queue" the next may be due now */
/* When mp_jobplan_next may have something, as far as is known now; false: never. */
bool mp_jobplan_when(const struct mp_jobplan *p, double now, double *out);

struct mp_jobplan_status {
    double last, next; /* ticks; 0: none */
    uint32_t running;
    bool waiting; /* one is due, and waits for the end of the one that runs */
};
void mp_jobplan_status(const struct mp_jobplan *p, uint32_t index, double now, struct mp_jobplan_status *out);

/* What is remembered, as JSON, and back. mp_jobplan_load: before the first declaration; MP_EFORMAT or the like for what is no such text: then
 * nothing is remembered. */
void mp_jobplan_save(const struct mp_jobplan *p, struct mp_buf *out);
int mp_jobplan_load(struct mp_jobplan *p, const char *text, size_t n, struct mp_err *err);

#endif
