/* core/pool/pool.h — models and their replicas as the gateway sees them. One mp_pool per gateway process.
 *
 * Three layers, from what is declared to what runs:
 *   decl     mp_model_decl      what `mp.model "name" {…}` says; plain data, immutable once added to a catalog
 *   catalog  mp_catalog         the declarations of one generation, by name and alias; immutable once built
 *   model    mp_pool_model      shared by all generations that declare the same identity (file + load options): a reload
 *                               that does not change the identity does not touch the model
 *
 * core/script fills decls and catalogs and reads states; core/gateway's control thread owns the pool and feeds it what
 * engines report; workers send calls (call.h) through their mp_pool_port.
 *
 * Threads: what a function may be called from stands beside it. "any" reads atomics or takes the model's short lock. */
#ifndef MP_POOL_H
#define MP_POOL_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_pool;
struct mp_pool_model;
struct mp_pool_port;
struct mp_catalog;
struct mp_provider_ops; /* core/pool/provider.h */

enum { MP_POOL_MAX_DEVICES = 8, MP_POOL_MAX_ALIASES = 16, MP_POOL_MAX_PROVIDERS = 8 };

/* state, name: a replica's life (DESIGN §5). */
#define MP_REPLICA_STATES(X)                                                   \
    X(COLD, "cold")         /* on disk only                                 */ \
    X(LOADING, "loading")   /* on its way to the device                     */ \
    X(WARM, "warm")         /* on the device, answers                       */ \
    X(DRAINING, "draining") /* finishes what runs, takes nothing new        */ \
    X(PARKED, "parked")     /* in host memory, in the device's own layout   */ \
    X(FAILED, "failed")     /* could not be loaded; tried again after a wait */
enum mp_replica_state {
#define X(code, name) MP_REPLICA_##code,
    MP_REPLICA_STATES(X)
#undef X
};
const char *mp_replica_state_name(int state); /* "cold"; NULL for unknown numbers. Any thread. */

/* Sampling defaults a declaration may set (and a call overrides field by field): unset fields are NaN or -1. */
struct mp_model_sampling {
    double temperature, top_p, min_p; /* NaN: unset */
    double repeat_penalty, frequency_penalty, presence_penalty;
    int32_t top_k;      /* -1: unset; 0: off */
    int64_t seed;       /* -1: unset: a fresh one per call */
    int64_t max_tokens; /* -1: unset: up to the context */
};

/* One `mp.model`. Strings are owned (mp_malloc), NULL when unset unless said otherwise. */
struct mp_model_decl {
    char *name;                         /* never NULL */
    char *source;                       /* as written; never NULL */
    char *path;                         /* the file found for it: absolute; never NULL */
    char *sha256;                       /* 64 lower-case hex digits, or NULL: not verified */
    char *where;                        /* "conf/moonpool.lua:14", for messages */
    char *devices[MP_POOL_MAX_DEVICES]; /* "cpu", "fake", …: in order of preference */
    uint32_t n_devices;                 /* at least 1 */
    char *alias[MP_POOL_MAX_ALIASES];
    uint32_t n_alias;
    uint32_t context; /* tokens; 0: the model's own */
    char *numerics;   /* "plain"; NULL: the device's default */
    char *kv_type;    /* NULL: what the numerics say */
    struct mp_model_sampling sampling;
    uint32_t min_replicas, max_replicas; /* 0..1 today */
    uint32_t target_concurrency;         /* 0: unset */
    uint32_t max_concurrency;            /* requests in the model's batch at once; the engine's slots */
    uint32_t queue_max;                  /* requests waiting for a place */
    double queue_timeout;                /* seconds */
    double scaledown_window;             /* seconds idle before it goes cold */
    double startup_timeout;              /* seconds a request waits for a cold model at most */
};

/* A decl with the defaults (sampling unset, max_replicas 1, max_concurrency 16, queue 64/30 s, scaledown 300 s, startup
 * 600 s); name and source are copied. Any thread. */
struct mp_model_decl *mp_model_decl_new(const char *name, const char *source);
void mp_model_decl_free(struct mp_model_decl *d); /* NULL is fine */

/* One row of a catalog. Valid as long as the catalog. */
struct mp_catalog_entry {
    const struct mp_model_decl *decl;
    struct mp_pool_model *model; /* NULL until mp_pool_attach (in `moonpool check`: always) */
};

/* A catalog is built by one thread, then only read, by any. The generation owns it. */
struct mp_catalog *mp_catalog_new(void);
void mp_catalog_free(struct mp_catalog *c); /* lets go of its models; any thread; NULL is fine */
/* Takes decl, also on failure. MP_EINVAL when a name or alias is there already: the message names both places. */
int mp_catalog_take(struct mp_catalog *c, struct mp_model_decl *decl, struct mp_err *err);
/* By name or alias (n bytes); NULL when unknown. */
const struct mp_catalog_entry *mp_catalog_find(const struct mp_catalog *c, const char *name, size_t n);
size_t mp_catalog_count(const struct mp_catalog *c);
const struct mp_catalog_entry *mp_catalog_at(const struct mp_catalog *c, size_t i); /* in order of declaration */

/* ---- the pool: control thread, unless said otherwise ---- */

struct mp_pool *mp_pool_new(void);
void mp_pool_free(struct mp_pool *p); /* every catalog and port must be gone */
/* Registers where replicas come from; the slot it gets (0..MP_POOL_MAX_PROVIDERS-1). name: the device group it serves
 * ("cpu"), copied. A model goes to the first provider that serves one of its devices, in the model's order. */
uint32_t mp_pool_provide(struct mp_pool *p, const char *name, const struct mp_provider_ops *ops, void *ctx);
/* Gives each entry of the catalog its model: the one of the same identity, or a new one, cold. MP_EUNAVAILABLE when no
 * provider serves any of a model's devices (the message says which were looked for), MP_EIO when its file cannot be read. */
int mp_pool_attach(struct mp_pool *p, struct mp_catalog *c, struct mp_err *err);
/* Calls visit for each model in the pool. A model that no catalog holds any more is visited with unused = true; when visit
 * then returns true the pool forgets and frees it. */
void mp_pool_each(struct mp_pool *p, bool (*visit)(void *user, struct mp_pool_model *m, bool unused), void *user);
struct mp_pool_model *mp_pool_find_id(struct mp_pool *p, uint64_t id); /* NULL when unknown */

/* What an engine reports of a model's replica: state and, while loading, how far. message: why it failed, or NULL. */
void mp_pool_model_report(struct mp_pool_model *m, enum mp_replica_state state, uint64_t done, uint64_t total,
                          const char *device, const char *message);

/* ---- a model: any thread ---- */

uint64_t
mp_pool_model_id(const struct mp_pool_model *m); /* a hash of the identity: the same after a restart; never 0 */
const struct mp_model_decl *
mp_pool_model_decl(const struct mp_pool_model *m);              /* control: what it was first loaded by */
uint32_t mp_pool_model_provider(const struct mp_pool_model *m); /* its provider's slot */

struct mp_pool_status {
    enum mp_replica_state state;
    uint64_t loaded_bytes, total_bytes; /* while loading; else 0 or equal */
    uint32_t waiting;                   /* calls not yet started: tokenizing, or for a cold model */
    uint32_t in_flight;                 /* calls started and not ended */
    uint64_t calls;                     /* ever */
    char device[80];                    /* "cpu: 2 threads, avx2" once an engine said so; else the group's name */
    char message[256];                  /* why it failed; "" otherwise */
};
void mp_pool_model_status(struct mp_pool_model *m, struct mp_pool_status *out);

/* ---- a worker's port: that worker's thread only ---- */

struct mp_pool_port *mp_pool_port_new(struct mp_pool *p);
void mp_pool_port_free(struct mp_pool_port *port); /* every call must have ended */
/* The worker's own end at a provider: what ops->send and the like get as `link`. */
void mp_pool_port_bind(struct mp_pool_port *port, uint32_t provider, void *link);

#endif
