/* core/pool/keeper.h — which models are loaded: the autoscaler, the memory of each device, and turns among models that do not fit together.
 * One per gateway, on its control thread (core/gateway/models.c feeds it); time is an argument, so that specs run it in virtual time.
 *
 *   cold ─ wanted, memory reserved ─► loading ─► warm ─ let go: no new places, running requests end ─► draining ─ unload ─► cold
 *     └──────────── failed, with backoff ◄──────┘
 *
 * Per model and turn: settings by the time of day → facts → `scale` says how many replicas and why → clamped to min and max_replicas.
 * (Today a model has at most one replica: it lives on the first of its devices that is here.) A load reserves `need` bytes of its device
 * before it begins; where they are not free, `evict` names who goes. A replica with requests is let go for another model only when one of
 * that model's requests would otherwise wait longer than the device's max_wait, and never before min_residency: so models take turns and
 * A B A B does not load each time. While a replica drains its queued requests stay queued. */
#ifndef MP_KEEPER_H
#define MP_KEEPER_H
#include "core/pool/facts.h"
#include "core/pool/pool.h"

struct mp_keeper;

/* Why a state changed; names are what logs, metrics and status say. */
#define MP_CAUSES(X)                   \
    X(START, "start")                  \
    X(DEMAND, "demand")                \
    X(SCALE, "scale")                  \
    X(ASKED, "asked")                  \
    X(IDLE, "idle")                    \
    X(EVICTED, "evicted")              \
    X(REMOVED, "removed")              \
    X(REPLACED, "replaced")            \
    X(LOADED, "loaded")                \
    X(DRAINED, "drained")              \
    X(LOAD_FAILED, "load failed")      \
    X(LOAD_TIMEOUT, "startup timeout") \
    X(ENGINE_LOST, "engine lost")      \
    X(RETRY, "retry")                  \
    X(ADOPTED, "found loaded") /* by a gateway that came back */
enum mp_cause {
#define X(code, name) MP_CAUSE_##code,
    MP_CAUSES(X)
#undef X
        MP_N_CAUSES
};
const char *mp_cause_name(enum mp_cause c);

struct mp_transition {
    struct mp_pool_model *model;
    enum mp_model_state from, to;
    enum mp_cause cause;
    double seconds;     /* spent in `from` */
    const char *reason; /* a policy's words, an error's message; "" */
};

struct mp_keeper_ops {
    /* Begin only; what follows comes by mp_keeper_report. unload of a loading one aborts it. */
    int (*load)(void *ctx, struct mp_pool_model *m, struct mp_err *err);
    int (*unload)(void *ctx, struct mp_pool_model *m, struct mp_err *err);
    /* (optional) How many replicas; reason: up to n bytes with the NUL. Negative: no answer: the keeper's own rule counts (as many as
     * demand asks for, none after scaledown_window without a request). */
    int (*scale)(void *ctx, const struct mp_pool_facts *f, double now, char *reason, size_t n);
    /* (optional) Who of n candidates goes so that `need` more bytes fit: indices into chosen (room for n), their count returned. Negative: no
     * answer: least recently used first. The keeper checks that it suffices and takes no more than that needs. */
    int (*evict)(void *ctx, const struct mp_pool_facts *candidates, uint32_t n, uint64_t need, double now,
                 uint32_t *chosen, char *reason, size_t reason_n);
    void (*transition)(void *ctx, const struct mp_transition *t); /* (optional) log, metrics, decisions */
    /* (optional) A removed model has ended its last request and is off its device: its engine may forget it (MODEL_FORGET). */
    void (*removed)(void *ctx, struct mp_pool_model *m);
};

struct mp_keeper *mp_keeper_new(struct mp_pool *pool, const struct mp_keeper_ops *ops, void *ctx);
void mp_keeper_free(struct mp_keeper *k); /* NULL is fine */

/* memory: bytes that may be reserved on a device group at once; 0: no limit. max_wait, min_residency: seconds. */
void mp_keeper_device(struct mp_keeper *k, const char *group, uint64_t memory, double max_wait, double min_residency);

/* A generation declares a model's settings (schedules are borrowed until the next call or mp_keeper_remove). preload: load it once now. */
void mp_keeper_declare(struct mp_keeper *k, struct mp_pool_model *m, const struct mp_pool_settings *base,
                       const struct mp_pool_schedule *schedules, uint32_t n, bool preload);
/* No generation declares it any more: it drains and goes; calls that wait for it still run first, new ones are refused. */
void mp_keeper_remove(struct mp_keeper *k, struct mp_pool_model *m);
/* `moonpool models load|unload`: one load now (it then stays by the usual rules); letting go now (waiting requests bring it back).
 * force of unload: even when min_replicas keeps it: until the next request, or load. */
int mp_keeper_load(struct mp_keeper *k, struct mp_pool_model *m, struct mp_err *err);
int mp_keeper_unload(struct mp_keeper *k, struct mp_pool_model *m, struct mp_err *err);

/* What its engine said (after mp_pool_model_report), or that the engine is gone (after mp_pool_model_lost). Not for the answers to a MODELS
 * that only asks for counts: such an answer may be older than the keeper's last order. */
void mp_keeper_report(struct mp_keeper *k, struct mp_pool_model *m, const struct mp_msg_model_state *said,
                      uint64_t now_ns);
void mp_keeper_lost(struct mp_keeper *k, struct mp_pool_model *m, uint64_t now_ns);

/* One turn; returns when the next is due (monotonic ns; at most a minute ahead). Turn early whenever the pool's `demand` was called or something was reported.
 * now_ns: monotonic; wall_s: Unix seconds. */
uint64_t mp_keeper_turn(struct mp_keeper *k, uint64_t now_ns, int64_t wall_s);

struct mp_device_room { /* of one group */
    const char *group;
    uint64_t memory, reserved; /* memory 0: no limit */
    uint32_t loaded;           /* models loading, warm, draining */
    uint64_t swaps;            /* loads that had to let another go */
};
bool mp_keeper_room(const struct mp_keeper *k, uint32_t i, struct mp_device_room *out); /* false behind the last */
bool mp_keeper_needed(const struct mp_keeper *k,
                      const char *group); /* something is loaded or wanted there: its engine is to run */

#endif
