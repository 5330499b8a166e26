/* core/pool/facts.h — what a policy is told: plain data about one model at one moment. Filled by core/pool, handed to Lua by core/script,
 * recorded with each decision. The names are those that policies see. */
#ifndef MP_POOL_FACTS_H
#define MP_POOL_FACTS_H
#include "core/pool/settings.h"
#include "core/wire/msg.h"

struct mp_pool_facts {
    const char *name, *device;  /* device: its group, "cpu"; borrowed */
    enum mp_model_state state;  /* DECLARED counts as cold */
    uint32_t replicas, warm;    /* loading, warm and draining ones; of these warm */
    uint32_t in_flight, queued; /* requests that have a place; that wait for one */
    struct mp_pool_settings settings;
    double idle; /* seconds since it last had a request or became warm, whatever was later; since it was declared when
                    neither ever was; 0 while it has requests */
    double oldest_wait;     /* seconds the longest waiter has waited, loading not counted; 0: nobody waits */
    double load_seconds;    /* how long a load is expected to take; 0: unknown */
    double service_seconds; /* how long a request holds its place, a moving average; 0: unknown */
    double resident;        /* seconds since it became warm; 0: it is not */
    uint64_t memory;        /* bytes reserved on its device now */
    uint64_t need;          /* bytes a load reserves; 0: unknown */
    uint64_t calls, loads;
};

struct mp_call_facts {                                  /* what admit, rank and route are told about a request */
    const char *id, *endpoint, *path, *remote, *tenant; /* never NULL */
    const char *model;                                  /* as asked for */
    int32_t priority;                                   /* from the script; 0 */
    double deadline;                                    /* seconds left; 0: none */
};

#endif
