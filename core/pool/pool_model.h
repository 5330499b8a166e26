/* core/pool/pool_model.h — the inside of a pooled model, for core/pool's own files. */
#ifndef MP_POOL_MODEL_H
#define MP_POOL_MODEL_H
#include "core/pool/pool.h"

#include <pthread.h>
#include <stdatomic.h>

struct mp_pool_model {
    uint64_t id;                /* set once */
    char *identity;             /* set once */
    struct mp_model_decl *decl; /* set once: a copy of the declaration that brought it */
    uint32_t provider;          /* set once */
    _Atomic uint32_t refs;      /* catalogs that hold it; control and builder threads add, any thread drops */
    _Atomic int state;          /* enum mp_replica_state; control writes, any thread reads */
    _Atomic uint32_t waiting;   /* workers */
    _Atomic uint32_t in_flight; /* workers */
    _Atomic uint64_t calls;     /* workers */
    pthread_mutex_t lock;       /* guards what follows: control writes, any thread reads */
    uint64_t done, total;
    char device[80], message[256];
};

void mp_pool_model_unref(struct mp_pool_model *m); /* any thread */
struct mp_model_decl *mp_model_decl_copy(const struct mp_model_decl *d);
struct mp_catalog_entry *mp_catalog_row(struct mp_catalog *c, size_t i);
/* The model's provider, and this worker's end at it (NULL when the worker has none). */
const struct mp_provider_ops *mp_pool_port_link(const struct mp_pool_port *port, const struct mp_pool_model *m,
                                                void **link);

#endif
