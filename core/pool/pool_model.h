/* core/pool/pool_model.h — the inside of a pooled model, for core/pool's own files. What stands under "lock" is touched by workers, by the
 * control thread and by whoever asks. Locks are taken in this order: a model's, then a port's; never two of a kind. */
#ifndef MP_POOL_MODEL_H
#define MP_POOL_MODEL_H
#include "core/pool/heap.h"
#include "core/pool/pool.h"

#include <pthread.h>
#include <stdatomic.h>

struct mp_waiter; /* queue.h */

struct mp_pool_model {
    char *name;           /* set once */
    struct mp_pool *pool; /* set once */
    uint32_t provider;    /* set once */
    uint64_t declared_ns; /* set once */
    _Atomic int state;    /* enum mp_model_state; written under lock, any thread reads */

    pthread_mutex_t lock;
    struct mp_pool_status said;       /* by its engine; the gateway's own figures are put in when someone asks */
    struct mp_pool_settings settings; /* in effect */

    /* Places and who waits for one: queue.c. */
    bool kept, removed;             /* a keeper decides on its state; it takes no new calls */
    bool load_asked;                /* a load was asked for, by hand or preload, and is neither over nor called off */
    bool tell_idle;                 /* the keeper wants to know when the last request ends */
    bool nudged;                    /* a call was refused because it would have to wait for a load */
    uint32_t waiting, in_flight;    /* calls without a place, and with one */
    struct mp_waiter *first, *last; /* those that wait, in order of arrival */
    struct mp_heap ready;           /* of these, who could start, the next to start first */
    uint64_t arrivals, calls;       /* entered; of these, accepted by the provider too */
    uint64_t used_ns;               /* when a request last came or ended; 0: never */
    double service;                 /* seconds a request holds its place, a moving average; 0: unknown */
    uint64_t since_ns, warm_ns, loading_ns; /* in this state since; the last time it became warm; loading, in all */
    double load_seconds;                    /* what a load is expected to take; 0: unknown */
    uint64_t loads_total, cold_starts;      /* since this gateway began */
    uint64_t reserved;                      /* on its device, by the keeper's ledger */
    uint64_t retry_ns, on_again_ns;         /* failed: when to try again; max_replicas is 0: when that may change */
    uint64_t turn_ns;              /* cold, waiting for memory: when its load is expected to begin; 0: nobody knows */
    struct mp_err failure;         /* of the last load that failed */
    struct mp_pool_override asked; /* by mp_pool_model_ask, not yet taken by the keeper */
    uint32_t asked_reset;
};

const char *mp_pool_group(const struct mp_pool *p, uint32_t provider);
void mp_pool_demand(struct mp_pool *p); /* the keeper should turn */

#endif
