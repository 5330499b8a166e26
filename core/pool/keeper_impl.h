/* core/pool/keeper_impl.h — the inside of the keeper, for keeper.c (states of each model), want.c (how many replicas it should have) and
 * room.c (memory, and turns among models). All of it belongs to the control thread; models are shared, under their locks. */
#ifndef MP_KEEPER_IMPL_H
#define MP_KEEPER_IMPL_H
#include "core/pool/keeper.h"
#include "core/pool/pool_model.h"
#include "core/pool/queue.h"

struct mp_room { /* a device group */
    char *group;
    uint64_t memory;
    double max_wait, min_residency;
    uint64_t swaps;
    double seconds_per_byte; /* of the last load; 0: none yet */
    bool pressed;            /* somebody waits for memory: idle models tell of it */
};

enum mp_level {                /* how much a model is to be loaded, or to stay; the higher may send the lower away */
                MP_LEVEL_NONE, /* not wanted */
                MP_LEVEL_KEEP, /* wanted by its policy: used a moment ago, say */
                MP_LEVEL_PIN,  /* wanted by min_replicas, by preload or by hand */
                MP_LEVEL_BUSY, /* requests are there */
};

struct mp_row { /* a model */
    struct mp_pool_model *m;
    struct mp_room *room;

    /* What was declared and asked. */
    struct mp_pool_settings base;
    const struct mp_pool_schedule *schedules; /* borrowed */
    uint32_t n_schedules;
    struct mp_pool_asked asked;
    bool unsettled;                 /* settings are to be counted anew */
    int64_t settled_s, unsettled_s; /* counted when, and good until; Unix seconds */
    bool removed;
    bool fresh;      /* no turn since it was declared */
    bool load_asked; /* by hand or preload: wanted until it is warm or failed */
    enum mp_cause load_cause;
    bool unload_asked; /* by hand: at the next turn */
    bool down;         /* let go by hand: not wanted until a request comes, a load is asked for or min_replicas rises */
    bool lost;         /* its engine died while it was warm: wanted within its window */

    /* How things stand. Its state is the model's: the keeper alone changes it. */
    uint64_t since_ns;  /* in this state */
    uint64_t reserved;  /* on its device */
    uint64_t let_go_ns; /* when it was last let go; 0: never */
    uint64_t order_ns;  /* the engine was not there to be told: when to try again */
    uint32_t fails;     /* loads in a row */
    uint64_t retry_ns;  /* failed: not before */
    bool seen_loading;  /* loading: the engine said so */
    bool
        told_unload; /* draining: the engine was told; failed: of a load that was given up, whose memory is not back yet */
    bool replaced; /* draining, loading: by its engine, another version takes its place */
    bool swaps;    /* others were let go for it */

    /* This turn. */
    struct mp_pool_facts f;
    enum mp_level level;
    char reason[200];
};

struct mp_keeper {
    struct mp_pool *pool;
    const struct mp_keeper_ops *ops;
    void *ctx;
    struct mp_room **rooms;
    uint32_t n_rooms;
    struct mp_row **rows;
    uint32_t n_rows, cap_rows;
    uint64_t now_ns; /* this turn's */
    int64_t wall_s;
    uint64_t due_ns; /* the next one */
};

static const double mp_keeper_order_again = 0.25; /* seconds until an engine that was not there is tried again */

/* keeper.c */
enum mp_model_state mp_row_state(const struct mp_row *r);
/* The row's state changed already, under the model's lock; tells of it. */
void mp_row_moved(struct mp_keeper *k, struct mp_row *r, enum mp_model_state from, enum mp_cause cause,
                  const char *reason);
void mp_row_reserve(struct mp_row *r, uint64_t bytes);
void mp_row_fail(struct mp_keeper *k, struct mp_row *r, enum mp_cause cause, const struct mp_err *why,
                 uint64_t engine_retry_ns);
/* True: it is loading. False: failed, or to be tried again (r->order_ns). */
bool mp_row_load(struct mp_keeper *k, struct mp_row *r);
/* No new places; then it is unloaded. idle: only if it has no request; false: it has. */
bool mp_row_let_go(struct mp_keeper *k, struct mp_row *r, bool idle, enum mp_cause cause, const char *reason);
void mp_keeper_due_in(struct mp_keeper *k, double seconds); /* a turn is due then */
void mp_keeper_due_at(struct mp_keeper *k, uint64_t ns);

/* want.c: settings by the time of day, facts, level and reason. */
void mp_row_judge(struct mp_keeper *k, struct mp_row *r);

/* room.c: loads what is wanted and fits, lets others go for what does not. */
void mp_room_share(struct mp_keeper *k, struct mp_room *room);

#endif
