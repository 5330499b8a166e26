/* core/script/watchdog.h — one thread that sees when a worker's Lua has run for too long and stops it.
 *
 * It reads the worker's CPU clock (so that a busy machine is not taken for a busy script) and sends the worker a signal
 * whose handler arms the VM's kill hook. A kill carries the number of the run it means: one that comes late hits nothing.
 * Used by run.c (requests) and script.c (configurations that load). */
#ifndef MP_SCRIPT_WATCHDOG_H
#define MP_SCRIPT_WATCHDOG_H
#include <stdbool.h>
#include <stdint.h>

struct mp_vm;
struct mp_watch; /* a thread's place in the watchdog's table */

/* For the calling thread; starts the watchdog's thread with the first. A thread that joins again gets the same place.
 * Aborts when the system has no threads left. */
struct mp_watch *mp_watch_join(void);
void mp_watch_leave(struct mp_watch *w); /* on the same thread; the last one ends the watchdog's thread */
/* From now on vm may run for cpu_ns of this thread's CPU time. */
void mp_watch_begin(struct mp_watch *w, struct mp_vm *vm, uint64_t cpu_ns);
/* Between begin and end: cpu_ns more, which do not count, for bounded work that C does for the run next. */
void mp_watch_credit(struct mp_watch *w, uint64_t cpu_ns);
/* Between begin and end: what runs from now on, in the same VM, has cpu_ns of its own, which the outer run is not charged for; and back.
 * mp_watch_unnest returns the CPU time between. A kill that was meant for one never stops the other: when the hook is armed right after
 * mp_watch_nest, that was the outer's. */
struct mp_watch_outer { /* the caller's, untouched */
    uint64_t began, credit, left;
};
void mp_watch_nest(struct mp_watch *w, struct mp_watch_outer *outer, uint64_t cpu_ns);
uint64_t mp_watch_unnest(struct mp_watch *w, const struct mp_watch_outer *outer);
/* Returns the CPU time since begin. The hook may be armed still: mp_vm_disarm_kill before the VM runs again. */
uint64_t mp_watch_end(struct mp_watch *w);

#endif
