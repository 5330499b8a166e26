/* core/gateway/models.h — the control thread's view of the engines: which there are, what was declared to them, what they say
 * of their models. Feeds core/pool, and owns its keeper: turns it when calls wait, when an engine says something and when it is due;
 * carries out its loads and unloads; logs, counts and records its transitions. An engine's process runs only while it is wanted:
 * something is loaded or to be loaded, calls wait to be prepared, or files are looked at.
 *
 * Everything belongs to the control thread except where it says "any thread". */
#ifndef MP_GATEWAY_MODELS_H
#define MP_GATEWAY_MODELS_H
#include "core/net/evloop.h"
#include "core/pool/keeper.h"
#include "core/pool/pool.h"
#include "core/script/config.h"
#include "core/script/policy.h"
#include "core/script/problems.h"

struct mp_models;
struct mp_engine; /* one engine process, through all its restarts; lives as long as mp_models */

struct mp_models_events {
    void (*declared)(void *user, struct mp_engine *e);    /* it heard of all its models (again): workers may send */
    void (*changed)(void *user, struct mp_pool_model *m); /* its state, or how far it is loaded */
};

struct mp_models *mp_models_new(struct mp_evloop *loop, struct mp_pool *pool, const struct mp_models_events *events,
                                void *user);
void mp_models_free(struct mp_models *ms); /* memory goes when the loop has closed its handles; NULL is fine */

/* The device group that serves a model: the first of its devices that this build has; NULL and err (MP_EUNAVAILABLE) when none. */
const char *mp_models_group(const struct mp_conf_model *m, struct mp_err *err);
/* The device groups of this build, "cpu" first; NULL behind the last. */
const char *mp_models_group_at(uint32_t i);
/* One line per device this build does not have ("cuda: this build has no CUDA device"); NULL behind the last. */
const char *mp_models_missing(uint32_t i);

/* A new engine: its group and its socket. */
struct mp_engine *mp_models_add_engine(struct mp_models *ms, const char *group, const char *path);
struct mp_engine *mp_models_find_engine(struct mp_models *ms, const char *group); /* NULL: none */
struct mp_engine *mp_models_engine_at(struct mp_models *ms, uint32_t i);          /* NULL behind the last */

/* What decides and what is kept: for `moonpool models load|unload`, devices, status. Turn it with mp_models_turn after asking something. */
struct mp_keeper *mp_models_keeper(struct mp_models *ms);
void mp_models_turn(struct mp_models *ms); /* soon; any thread */
/* Whose `scale` and `evict` count from now on (borrowed; active is the generation whose policies run). Before the first call, and
 * with NULL, the keeper's own rules do. At each swap, before mp_models_declare. */
void mp_models_policies(struct mp_models *ms, struct mp_policies *policies, struct mp_generation *active);
/* Looks at what a configuration would change before it counts: opens the file of every model that is new or was changed (its spec, or
 * the file at its path), compares what it needs with its device's memory. done is called once, later, on this thread, with what is
 * wrong (places as in mp_conf_model.where; empty: nothing); the config must live until then. 0, or an error, and done is not called. */
int mp_models_check(struct mp_models *ms, const struct mp_config *config,
                    void (*done)(void *user, const struct mp_problems *problems), void *user);
/* The models and devices of a configuration: declared to their engines (which must be there) and to the keeper. Again with another
 * configuration at a reload: what it does not name any more drains and is forgotten; a model whose file or load options changed is
 * replaced by its engine; changed limits apply at once. The config is borrowed until the next call. */
int mp_models_declare(struct mp_models *ms, const struct mp_config *config, struct mp_err *err);
/* Every model's file was looked at, and those with min_replicas >= 1 or preload are warm. One of those failed: *failed is set. */
bool mp_models_ready(struct mp_models *ms, struct mp_pool_model **failed);

struct mp_engine_status {
    uint32_t pid;                    /* 0: it does not run, or has not answered yet */
    bool wanted;                     /* it is to run */
    uint64_t memory, reserved, used; /* bytes: its device's limit (0: none), what is reserved, what is really held */
    char device[128];                /* "cpu: 2 threads, avx2"; the group's name until it said more */
};
void mp_engine_status(const struct mp_engine *e, struct mp_engine_status *out);

const char *mp_engine_path(const struct mp_engine *e);  /* any thread */
const char *mp_engine_group(const struct mp_engine *e); /* any thread */
uint32_t mp_engine_slot(const struct mp_engine *e);     /* its provider's slot in the pool; any thread */
uint32_t mp_engine_declared(
    const struct mp_engine *e); /* process id of the engine, if it heard of all its models; 0; any thread */
/* Any thread: so many more (or fewer) of a worker's calls wait for the engine to prepare them: it is wanted while any do. */
void mp_engine_waiting(struct mp_engine *e, int32_t change);

/* For struct mp_provider_ops; ctx is a struct mp_engine. */
int mp_engine_load(void *ctx, struct mp_pool_model *m, struct mp_err *err);
int mp_engine_unload(void *ctx, struct mp_pool_model *m, struct mp_err *err);
bool mp_engine_ready(void *ctx);

#endif
