/* core/pool/pool.h — models and their replicas as the gateway sees them. One mp_pool per gateway process.
 *
 * A model is known by the name it was declared with (aliases are the generation's own: mp_config_model). It is shared by all
 * generations: a reload that leaves its spec alone does not touch it; whether a changed spec changes limits in place or
 * replaces what is loaded is the engine's to judge, for the engine is the truth about what is loaded. An entry stays until
 * the process ends, so pointers to it are good in any generation.
 *
 * core/gateway's control thread declares models and feeds in what engines report; core/script reads states; workers send
 * calls (call.h) through their own mp_pool_port. */
#ifndef MP_POOL_H
#define MP_POOL_H
#include "core/base/err.h"
#include "core/pool/facts.h"
#include "core/wire/msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_pool;
struct mp_pool_model;
struct mp_pool_port;
struct mp_provider_ops; /* core/pool/provider.h */

enum { MP_POOL_MAX_PROVIDERS = 8 };

/* ---- the pool ---- */

struct mp_pool *mp_pool_new(void);
void mp_pool_free(struct mp_pool *p); /* every port must be gone; NULL is fine */
/* Control thread, before workers start. demand(ctx): a call waits for a model that is not warm: the keeper should turn. Any thread calls
 * it, possibly often; it must not block. */
void mp_pool_on_demand(struct mp_pool *p, void (*demand)(void *ctx), void *ctx);
/* For specs: time stands at now_ns until the next call; 0: the clock counts again. */
void mp_pool_set_time(struct mp_pool *p, uint64_t now_ns);
uint64_t mp_pool_now(const struct mp_pool *p); /* monotonic ns, as calls see it; any thread */
/* Control thread, before workers start: registers where replicas come from. group: the devices it serves ("cpu"), copied.
 * Returns its slot. */
uint32_t mp_pool_provide(struct mp_pool *p, const char *group, const struct mp_provider_ops *ops, void *ctx);
/* Control thread: a generation declares a model; devices in order of preference. The model goes to the first provider that
 * serves one of them; the engine hears of it from the caller. MP_EUNAVAILABLE when there is none: the message says what was
 * looked for and what is here. */
int mp_pool_declare(struct mp_pool *p, const char *name, const char *const *devices, uint32_t n_devices,
                    struct mp_pool_model **out, struct mp_err *err);
/* Any thread. NULL when no generation declared it. Keep the pointer: this takes a lock. */
struct mp_pool_model *mp_pool_find(struct mp_pool *p, const char *name);
struct mp_pool_model *mp_pool_at(struct mp_pool *p,
                                 size_t i); /* any thread; in order of declaration; NULL behind the last */

/* ---- a model ---- */

struct mp_pool_status {
    enum mp_model_state state;
    bool lost;                         /* its engine is away just now; the rest is what it said last */
    bool load_asked;                   /* a load was asked for that is neither over nor called off */
    uint64_t done, total;              /* loading: bytes so far, of total */
    uint64_t memory;                   /* bytes on the device */
    uint32_t context;                  /* tokens of prompt and answer together; 0: not known yet */
    uint32_t running, queued;          /* in the engine: on the device; waiting for a place */
    uint32_t loads;                    /* times loaded since its engine started */
    uint32_t engine;                   /* its engine's process id */
    uint32_t waiting, in_flight;       /* the gateway's calls: not yet started; started, not yet ended */
    uint64_t need, reserved;           /* bytes that a load reserves (0: not known yet); that are reserved now */
    uint64_t loads_total, cold_starts; /* since this gateway began: loads; calls that waited for one */
    double load_seconds;               /* the last load's, 0: none yet */
    double idle;                       /* seconds since the last request ended or came */
    double state_seconds;              /* in this state */
    uint64_t calls;                    /* ever sent */
    int error;                         /* failed: an MP_E… code */
    char device[128];                  /* "cpu: 2 threads, avx2"; the group's name until an engine said more */
    char arch[64], reason[1000];       /* reason: why it failed; "" otherwise */
};

const char *mp_pool_model_name(const struct mp_pool_model *m);                  /* any thread */
uint32_t mp_pool_model_provider(const struct mp_pool_model *m);                 /* its provider's slot; any thread */
void mp_pool_model_status(struct mp_pool_model *m, struct mp_pool_status *out); /* any thread */
enum mp_model_state mp_pool_model_state(const struct mp_pool_model *m);         /* any thread; cheap */
/* What a policy is told about it. Any thread; strings live as long as the model. */
void mp_pool_model_facts(struct mp_pool_model *m, uint64_t now_ns, struct mp_pool_facts *out);
/* Asks for other settings at run time (model:scale, `moonpool models scale`): added to what was asked before; a bit set in `reset` forgets
 * that key. Any thread: the keeper applies it at its next turn, and it counts from then on until a schedule sets the same key or a reload
 * changes what the configuration says of it. MP_EINVAL names the key that is out of its range. */
int mp_pool_model_ask(struct mp_pool_model *m, const struct mp_pool_override *o, uint32_t reset, struct mp_err *err);
/* Control thread: what the engine of that process id said. The state of a model that a keeper keeps (keeper.h) is the keeper's to change; one
 * that nobody keeps has the state that was said here, gives places whatever it is, and has default settings. */
void mp_pool_model_report(struct mp_pool_model *m, const struct mp_msg_model_state *said, uint32_t engine);
void mp_pool_model_lost(struct mp_pool_model *m); /* control thread: its engine is away: declared, nothing loaded */

/* ---- a worker's port: that worker's thread only ---- */

/* wake(ctx): something waits for mp_pool_port_run; called from any thread, with a lock held: it only posts. */
struct mp_pool_port *mp_pool_port_new(struct mp_pool *p, void (*wake)(void *ctx), void *ctx);
/* Starts calls that got a place, ends those whose time is over or whose model failed. After a wake, and when due. now_ns: monotonic. */
void mp_pool_port_run(struct mp_pool_port *port, uint64_t now_ns);
/* When to run it at the latest: the earliest waiting call's time may be over then; UINT64_MAX: never. Cheap: ask again whenever calls may
 * have been made or ended (each turn of the loop). */
uint64_t mp_pool_port_due(const struct mp_pool_port *port);
void mp_pool_port_free(struct mp_pool_port *port); /* every call must have ended; NULL is fine */
/* The worker's own end at a provider: what ops->send and the like get as `link`. */
void mp_pool_port_bind(struct mp_pool_port *port, uint32_t provider, void *link);
struct mp_pool *mp_pool_port_pool(const struct mp_pool_port *port);

#endif
