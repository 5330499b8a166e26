/* core/gateway/builder.h — a thread for what takes long and belongs to no loop: building and closing Lua VMs, writing snapshots, asking the
 * supervisor. Used by reload.c. */
#ifndef MP_BUILDER_H
#define MP_BUILDER_H
#include "core/net/evloop.h"

struct mp_builder;

struct mp_builder *mp_builder_new(struct mp_evloop *loop);
/* Runs work(arg) on the thread, behind what was given before, then then(arg) on the loop. then may be NULL. */
void mp_builder_do(struct mp_builder *b, void (*work)(void *arg), void (*then)(void *arg), void *arg);
/* Waits for what was given; the thread is gone. Every `then` is posted by now. */
void mp_builder_free(struct mp_builder *b);

#endif
