/* core/net/evloop.h — one worker's event loop: a uv_loop that other threads can post to. Used by the gateway's workers.
 *
 * Everything in core/net belongs to the thread that runs its loop; mp_evloop_post and mp_evloop_stop alone may be called
 * from any thread. */
#ifndef MP_EVLOOP_H
#define MP_EVLOOP_H
#include <stdbool.h>
#include <stdint.h>

struct mp_evloop;
struct uv_loop_s;

struct mp_evloop *mp_evloop_new(void);    /* aborts when the system has no descriptors left for it */
void mp_evloop_free(struct mp_evloop *l); /* NULL is fine. Every handle of others must be closed or closing; runs
                                                 the closing ones and the posts that wait, then frees */
struct uv_loop_s *mp_evloop_uv(struct mp_evloop *l); /* for handles of the caller's own (timers, polls) */

void mp_evloop_run(struct mp_evloop *l); /* until mp_evloop_stop */
bool mp_evloop_turn(struct mp_evloop *l,
                    bool wait);           /* one turn, waiting for an event if so asked; false: nothing is alive */
void mp_evloop_stop(struct mp_evloop *l); /* any thread */
/* Runs fn(arg) on the loop's thread, in order of posting. Any thread, as long as the loop lives. */
void mp_evloop_post(struct mp_evloop *l, void (*fn)(void *arg), void *arg);
uint64_t mp_evloop_now_ms(struct mp_evloop *l); /* monotonic, as of this turn's start */

#endif
