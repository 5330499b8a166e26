/* core/pool/queue.h — a model's places, and who waits for one: bounded, by priority, then first come, first served. For core/pool's own
 * files: call.c enters and leaves, port.c hears of places that were given, keeper.c opens and closes.
 *
 * One lock per model guards all of it; places are counted under it. A place that is given to a call of another thread goes to that call's
 * port, whose thread starts it: nothing passes through the control thread. */
#ifndef MP_POOL_QUEUE_H
#define MP_POOL_QUEUE_H
#include "core/pool/call.h"
#include "core/pool/heap.h"
#include "core/pool/pool_model.h"

enum mp_waiter_state {
    MP_WAITER_OUT,       /* not entered, or left */
    MP_WAITER_PREPARING, /* waits, but could not start yet: others pass it */
    MP_WAITER_READY,     /* waits for a place */
    MP_WAITER_PLACED,    /* has one; its thread does not know yet */
    MP_WAITER_RUNNING,   /* has one */
    MP_WAITER_DROPPED,   /* gets none: mp_queue_drop_reason; its thread does not know yet */
};

struct mp_waiter { /* a call in its model's queue; zero-initialised, then the first group is set */
    struct mp_pool_model *model;
    struct mp_pool_port *port;
    int32_t priority;
    bool background;
    uint64_t deadline_ns; /* 0: none */

    /* Set by mp_queue_enter. */
    bool cold; /* the model was not warm */
    uint64_t number, at_ns, timeout_ns, loading_ns;

    /* Under the model's lock. */
    enum mp_waiter_state state;
    struct mp_waiter *prev, *next; /* among those that wait, by arrival */
    struct mp_heap_node ready;
    uint64_t placed_ns, loaded_ns; /* with a place: since when; how long it waited while the model loaded */
    int dropped;                   /* enum mp_drop */

    /* Under the port's lock. */
    struct mp_waiter *news_prev, *news_next;
    bool in_news;

    /* The port's thread. */
    struct mp_heap_node time;
    uint64_t due_ns;
};

enum mp_drop { MP_DROP_LOAD_FAILED, MP_DROP_NO_REPLICAS };

/* ---- the call's own thread ---- */

/* In line, or refused: err and its retry_after say why. */
int mp_queue_enter(struct mp_waiter *w, struct mp_err *err);
void mp_queue_sent(struct mp_waiter *w); /* its provider took it: it counts among the model's calls */
/* It can start now. True: it has a place. Else it waits for one; nothing when it did so already. */
bool mp_queue_ready(struct mp_waiter *w);
/* A place was given to it (news of its port): true, and it is running. False: it has none (any more: then it is in line again). */
bool mp_queue_take(struct mp_waiter *w);
/* Gives its place back, or leaves the line. Nothing when it has left. */
void mp_queue_leave(struct mp_waiter *w);
/* Its time may be over: true, err says why, and it has left. False: due_ns says when to look again (UINT64_MAX: not by itself). */
bool mp_queue_expire(struct mp_waiter *w, uint64_t now_ns, uint64_t *due_ns, struct mp_err *err);
uint64_t mp_queue_due(struct mp_waiter *w, uint64_t now_ns); /* the same due_ns, of one that waits */
/* It was dropped: true, and err says why. */
bool mp_queue_dropped(struct mp_waiter *w, struct mp_err *err);
/* How long it waited for its place, loading not counted, and while its model loaded. */
void mp_queue_times(struct mp_waiter *w, uint64_t now_ns, uint64_t *queue_ns, uint64_t *load_ns);
void mp_queue_progress(const struct mp_waiter *w, uint64_t now_ns, struct mp_call_progress *out);

/* ---- call.c's ears, on the port's thread; the waiter may be gone when they return ---- */

void mp_call_on_news(struct mp_waiter *w);                              /* it was placed or dropped */
void mp_call_on_expired(struct mp_waiter *w, const struct mp_err *err); /* it has left */

/* ---- with the model's lock held ---- */

bool mp_queue_before(const struct mp_heap_node *a, const struct mp_heap_node *b); /* the order of mp_pool_model.ready */
double mp_queue_oldest(const struct mp_pool_model *m,
                       uint64_t now_ns); /* the longest wait, loading not counted; 0: none */
void mp_queue_state_locked(struct mp_pool_model *m, enum mp_model_state state, uint64_t now_ns); /* as below */

/* ---- the control thread ---- */

/* The model is in another state now: places are given when it is warm; the clock of loading runs while it loads. */
void mp_queue_state(struct mp_pool_model *m, enum mp_model_state state, uint64_t now_ns);
/* A load failed: all that wait are dropped, and new ones refused until retry_ns. */
void mp_queue_fail(struct mp_pool_model *m, const struct mp_err *why, uint64_t retry_ns, uint64_t now_ns);
/* No new places from now on (draining). idle: only when no request is there; false: there is one. */
bool mp_queue_close(struct mp_pool_model *m, bool idle, uint64_t now_ns);
/* Other limits; on_again_ns: when max_replicas may be above 0 again (0: unknown). */
void mp_queue_settings(struct mp_pool_model *m, const struct mp_pool_settings *s, uint64_t on_again_ns);

#endif
