/* core/engine/jobs.h — threads that do what takes long and touches no device state: opening model files, rendering and
 * tokenizing prompts (front threads, a template VM each), reading weights (the loader, at low priority). Used by host.c. */
#ifndef MP_JOBS_H
#define MP_JOBS_H
#include "core/engine/mail.h"

struct mp_jobs;

/* n threads called `name`, sending letters back to `back` (which outlives them, as ops and spec do). nice: added to their priority.
 * ops, spec: the device that models are for; it is only asked what they would need. */
struct mp_jobs *mp_jobs_start(const char *name, uint32_t n, int nice, const struct mp_device_ops *ops, const char *spec,
                              struct mp_box *back);
void mp_jobs_put(struct mp_jobs *j, struct mp_mail *m);
/* Lets what is under way come to an early end, sends the rest back undone (MP_ECANCELLED), joins the threads. NULL is fine. */
void mp_jobs_stop(struct mp_jobs *j);

#endif
