/* core/gateway/models.h — the control thread's view of the engines: which there are, what was declared to them, what they say
 * of their models. Feeds core/pool. Everything belongs to the control thread except where it says "any thread". */
#ifndef MP_GATEWAY_MODELS_H
#define MP_GATEWAY_MODELS_H
#include "core/net/evloop.h"
#include "core/pool/pool.h"
#include "core/script/config.h"

struct mp_models;
struct mp_engine; /* one engine process, through all its restarts; lives as long as mp_models */

struct mp_models_events {
    void (*declared)(void *user, struct mp_engine *e);    /* it knows its models (again): workers may send */
    void (*changed)(void *user, struct mp_pool_model *m); /* its state, or how far it is loaded */
};

struct mp_models *mp_models_new(struct mp_evloop *loop, struct mp_pool *pool, const struct mp_models_events *events,
                                void *user);
void mp_models_free(struct mp_models *ms); /* memory goes when the loop has closed its handles; NULL is fine */

/* The device group that serves a model: the first of its devices that this build has; NULL and err (MP_EUNAVAILABLE) when none. */
const char *mp_models_group(const struct mp_conf_model *m, struct mp_err *err);
/* One line per device this build does not have ("cuda: this build has no CUDA device"); NULL behind the last. */
const char *mp_models_missing(uint32_t i);

/* A new engine: its group and its socket. */
struct mp_engine *mp_models_add_engine(struct mp_models *ms, const char *group, const char *path);
struct mp_engine *mp_models_find_engine(struct mp_models *ms, const char *group); /* NULL: none */
struct mp_engine *mp_models_engine_at(struct mp_models *ms, uint32_t i);          /* NULL behind the last */
/* The models of a configuration: declared to their engines (which must be there) as soon as those answer, and kept loaded
 * where min_replicas says so. Again with another configuration at a reload. */
int mp_models_declare(struct mp_models *ms, const struct mp_config *config, struct mp_err *err);
/* Every engine knows its models, and those with min_replicas >= 1 are warm. A model of those that failed: *failed is set. */
bool mp_models_ready(struct mp_models *ms, struct mp_pool_model **failed);

const char *mp_engine_path(const struct mp_engine *e);  /* any thread */
const char *mp_engine_group(const struct mp_engine *e); /* any thread */
uint32_t mp_engine_slot(const struct mp_engine *e);     /* its provider's slot in the pool; any thread */
uint32_t
mp_engine_declared(const struct mp_engine *e); /* process id of the engine that knows its models; 0; any thread */

/* For struct mp_provider_ops; ctx is a struct mp_engine. */
int mp_engine_load(void *ctx, struct mp_pool_model *m, struct mp_err *err);
int mp_engine_unload(void *ctx, struct mp_pool_model *m, struct mp_err *err);
bool mp_engine_ready(void *ctx);

#endif
