/* core/engine/runner.h — the thread that owns the device: it alone calls it, turns the loop, builds and frees replicas. Used by
 * host.c, by letters only. The device is opened for the first model and closed after the last. */
#ifndef MP_RUNNER_H
#define MP_RUNNER_H
#include "core/engine/mail.h"

struct mp_runner;

/* spec: what ops->open takes. Letters go back to `back`, which outlives it. NULL: no thread could be made. */
struct mp_runner *mp_runner_start(const struct mp_device_ops *ops, const char *spec, const struct mp_loop_conf *conf,
                                  struct mp_box *back);
void mp_runner_put(struct mp_runner *r, struct mp_mail *m);
/* How long the device has been at what it does now; 0: nothing. Any thread. */
uint64_t mp_runner_step_ns(const struct mp_runner *r);
/* Cancels every sequence, waits for the steps under way, frees all, joins; letters that nobody took, at `back` too. NULL is fine. */
void mp_runner_stop(struct mp_runner *r);

#endif
