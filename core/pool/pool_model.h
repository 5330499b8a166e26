/* core/pool/pool_model.h — the inside of a pooled model, for core/pool's own files. */
#ifndef MP_POOL_MODEL_H
#define MP_POOL_MODEL_H
#include "core/pool/pool.h"

#include <pthread.h>
#include <stdatomic.h>

struct mp_pool_model {
    char *name;                 /* set once */
    struct mp_pool *pool;       /* set once */
    uint32_t provider;          /* set once */
    _Atomic int state;          /* enum mp_model_state; control writes, any thread reads */
    _Atomic uint32_t waiting;   /* workers */
    _Atomic uint32_t in_flight; /* workers */
    _Atomic uint64_t calls;     /* workers */
    pthread_mutex_t lock;       /* guards what follows */
    struct mp_pool_settings settings;
    struct mp_pool_override asked; /* by mp_pool_model_ask, not yet taken by the keeper */
    uint32_t asked_reset;
    struct mp_pool_status said; /* without the gateway's own counts */
};

/* The model's provider, and this worker's end at it (NULL when the worker has none). */
const struct mp_provider_ops *mp_pool_port_link(const struct mp_pool_port *port, const struct mp_pool_model *m,
                                                void **link);

#endif
