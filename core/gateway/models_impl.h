/* core/gateway/models_impl.h — the inside of mp_models, for models.c (what is declared, what is loaded) and check.c (what a
 * configuration would change). The control thread's, but for what says otherwise. */
#ifndef MP_MODELS_IMPL_H
#define MP_MODELS_IMPL_H
#include "core/gateway/link.h"
#include "core/gateway/models.h"

#include <stdatomic.h>
#include <uv.h>

/* Request ids on the control thread's link: what was asked, and of which row or item. */
enum ask { ASK_DECLARE = 1, ASK_LOAD, ASK_UNLOAD, ASK_FORGET, ASK_CHECK, ASK_LIMIT, ASK_COUNTS, ASK_SYNC };
#define ASK_ID(ask, n) ((uint64_t)(ask) << 48 | (uint64_t)(n))
#define ID_ASK(id)     ((enum ask)((id) >> 48))
#define ID_N(id)       ((id)&UINT64_C(0xffffffffffff))

struct file_id { /* which file lies at a path: a weights file that was replaced is another one */
    uint64_t dev, ino, size;
    int64_t mtime_ns;
};

struct row { /* a model that some generation declared; stays, for its number is part of ids */
    struct mp_pool_model *model;
    struct mp_engine *engine;
    char *spec; /* the JSON the engine is told */
    struct file_id file;
    bool declared;       /* by the present configuration */
    bool preload;        /* it asks for that */
    bool forgotten;      /* drained after no configuration declared it any more: engines are not told of it */
    bool known;          /* an engine said what it found in its file */
    bool told;           /* the present engine answered its declaration */
    bool load;           /* it is to be loaded, and the engine has not begun to, as far as it said */
    bool unload;         /* it is to be let go, and no engine was told yet */
    bool changed;        /* the owner is to be told */
    uint32_t unanswered; /* LOADs and UNLOADs on their way: what comes before their answers is older than they are */
};

struct mp_engine {
    struct mp_models *models;
    char *group, *path;
    uint32_t slot;
    _Atomic uint32_t declared; /* control writes; workers read */
    _Atomic int32_t waiting;   /* calls that wait to be prepared: workers write, control reads */
    struct mp_link *link;
    uint32_t unsynced; /* ASK_SYNCs on their way: it may not have read all declarations yet */
    bool limited;      /* `limit` counts: a configuration was declared */
    uint64_t limit;
    struct mp_engine_status said;
};

struct check;

struct mp_models {
    struct mp_evloop *loop;
    struct mp_pool *pool;
    struct mp_keeper *keeper;
    const struct mp_models_events *events;
    void *user;
    struct mp_policies *policies;     /* borrowed, or NULL: the keeper's own rules */
    struct mp_generation *generation; /* whose policies */
    struct mp_engine *engines[MP_POOL_MAX_PROVIDERS];
    uint32_t n_engines;
    struct row *rows;
    uint32_t n_rows, cap_rows;
    struct check *checks; /* under way, oldest first */
    uint64_t n_items;     /* that were ever checked */
    uv_async_t wake;      /* any thread: turn soon */
    uv_timer_t due, tick;
    int handles; /* of those three, how many are not closed yet */
};

struct row *mp_models_row(struct mp_models *ms, const char *name); /* NULL: never declared */
void mp_models_file_id(const char *path, struct file_id *out);     /* zeros when there is none */
bool mp_models_same_file(const struct file_id *a, const struct file_id *b);
/* What may be reserved on a device group, as a configuration has it; 0: no limit. */
uint64_t mp_models_limit(const struct mp_config *config, const char *group);

/* check.c */
void mp_checks_send(struct mp_models *ms, struct mp_engine *e); /* what is still to be asked, when its link is up */
/* An engine's answer: a state, or why it refuses; spans are valid during the call only. */
void mp_checks_state(struct mp_models *ms, uint64_t n, const struct mp_msg_model_state *said);
void mp_checks_refused(struct mp_models *ms, uint64_t n, const char *why);
void mp_checks_down(struct mp_models *ms, struct mp_engine *e, bool bye);
bool mp_checks_want(const struct mp_models *ms, const struct mp_engine *e);
/* Gives up what takes too long, ends those that have all answers. Returns when it is due again; UINT64_MAX: never. */
uint64_t mp_checks_turn(struct mp_models *ms, uint64_t now_ns);
void mp_checks_free(struct mp_models *ms);

#endif
