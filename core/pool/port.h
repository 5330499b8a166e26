/* core/pool/port.h — the inside of a worker's port, for core/pool's own files: news for the calls of its thread, and their times. */
#ifndef MP_POOL_PORT_H
#define MP_POOL_PORT_H
#include "core/pool/pool_model.h"
#include "core/pool/provider.h"

struct mp_pool_port {
    struct mp_pool *pool;               /* set once */
    void (*wake)(void *ctx);            /* set once; may be NULL */
    void *wake_ctx;                     /* set once */
    void *links[MP_POOL_MAX_PROVIDERS]; /* its thread */
    struct mp_heap times;               /* its thread: calls that wait, the first whose time is over first */
    pthread_mutex_t lock;               /* any thread, for what follows */
    struct mp_waiter *news, *news_last; /* calls that got a place, or none any more */
    bool woken;                         /* wake was called, and no run has begun since */
    bool again;                         /* a model stopped loading: times count anew */
};

/* The model's provider, and this worker's end at it (NULL when the worker has none). */
const struct mp_provider_ops *mp_pool_port_link(const struct mp_pool_port *port, const struct mp_pool_model *m,
                                                void **link);
/* Any thread, with the lock of w's model held. */
void mp_port_tell(struct mp_pool_port *port, struct mp_waiter *w); /* w's state changed */
void mp_port_tell_times(struct mp_pool_port *port);                /* the times of some of its calls changed */
/* The port's own thread. */
void mp_port_forget(struct mp_pool_port *port, struct mp_waiter *w); /* takes w out of its news and times */
void mp_port_time(struct mp_pool_port *port, struct mp_waiter *w, uint64_t due_ns);

#endif
