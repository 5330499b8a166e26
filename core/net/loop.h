/* core/net/loop.h — one worker's event loop: a uv_loop that other threads can post to. Used by the gateway's workers.
 *
 * Everything in core/net belongs to the thread that runs its loop; mp_loop_post and mp_loop_stop alone may be called
 * from any thread. */
#ifndef MP_LOOP_H
#define MP_LOOP_H
#include <stdbool.h>
#include <stdint.h>

struct mp_loop;
struct uv_loop_s;

struct mp_loop *mp_loop_new(void);               /* aborts when the system has no descriptors left for it */
void mp_loop_free(struct mp_loop *l);            /* NULL is fine. Every handle of others must be closed or closing; runs
                                                 the closing ones and the posts that wait, then frees */
struct uv_loop_s *mp_loop_uv(struct mp_loop *l); /* for handles of the caller's own (timers, polls) */

void mp_loop_run(struct mp_loop *l); /* until mp_loop_stop */
bool mp_loop_turn(struct mp_loop *l,
                  bool wait);         /* one turn, waiting for an event if so asked; false: nothing is alive */
void mp_loop_stop(struct mp_loop *l); /* any thread */
/* Runs fn(arg) on the loop's thread, in order of posting. Any thread, as long as the loop lives. */
void mp_loop_post(struct mp_loop *l, void (*fn)(void *arg), void *arg);
uint64_t mp_loop_now_ms(struct mp_loop *l); /* monotonic, as of this turn's start */

#endif
