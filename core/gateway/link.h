/* core/gateway/link.h — one connection to one engine, on one loop: made while someone wants it, and then again and again when the engine
 * dies. The first one that waits at an engine's socket has the supervisor start the process; one with nothing to do says BYE and ends, and
 * a link that nobody wants then rests. Each worker has one per engine (calls.c), the control thread one more (models.c). Belongs to its
 * loop's thread. */
#ifndef MP_LINK_H
#define MP_LINK_H
#include "core/net/evloop.h"
#include "core/wire/msg.h"

struct mp_link;

struct mp_link_events {
    void (*up)(void *user);                              /* the engine's HELLO came: messages may be sent */
    void (*message)(void *user, const struct mp_msg *m); /* spans are valid during the call only */
    /* Was up, and is no more; what was sent may be lost. code 0: it said BYE, for it had nothing to do; message is its reason. */
    void (*down)(void *user, const struct mp_err *why);
};

/* path: the engine's socket; copied. Rests until it is wanted. */
struct mp_link *mp_link_new(struct mp_evloop *loop, const char *path, const struct mp_link_events *events, void *user);
void mp_link_free(
    struct mp_link *l); /* no event any more; its memory goes when the loop has closed its handles. NULL is fine */
/* Wanted: connects, at once and then up to a second apart, until it is up, and again when it was lost. Not wanted: what is up stays so
 * until the engine ends it; nothing is tried any more. No event comes from inside. */
void mp_link_want(struct mp_link *l, bool wanted);
bool mp_link_up(const struct mp_link *l);
uint32_t mp_link_engine(const struct mp_link *l); /* the engine's process id while up; 0 otherwise */
/* Queues a message; all of a turn's leave in one write. 0; MP_EAGAIN when it is not up; MP_EINVAL: a field is out of its range. */
int mp_link_send(struct mp_link *l, const struct mp_msg *m, struct mp_err *err);

#endif
