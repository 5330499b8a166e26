/* core/pool/keeper.c — the states of models and what moves them; see keeper.h. Whether a model is wanted is want.c's to say, whether there is
 * room for it room.c's. */
#include "core/pool/keeper.h"

#include "core/base/mem.h"
#include "core/pool/keeper_impl.h"

#include <math.h>
#include <string.h>

static const double BACKOFF_MOST = 60, DUE_MOST = 60; /* seconds */

const char *mp_cause_name(enum mp_cause c)
{
    static const char *const names[] = {
#define X(code, name) [MP_CAUSE_##code] = name,
        MP_CAUSES(X)
#undef X
    };
    return (unsigned)c < MP_N_CAUSES ? names[c] : "unknown";
}

void mp_keeper_due_at(struct mp_keeper *k, uint64_t ns)
{
    k->due_ns = ns < k->due_ns ? ns : k->due_ns;
}

void mp_keeper_due_in(struct mp_keeper *k, double seconds)
{
    /* The next nanosecond, so that what is compared in seconds has come about then. */
    if (seconds < DUE_MOST)
        mp_keeper_due_at(k, k->now_ns + (uint64_t)ceil(fmax(seconds, 0) * 1e9) + 1);
}

static uint64_t after(const struct mp_keeper *k, double seconds)
{
    return k->now_ns + (uint64_t)(seconds * 1e9);
}

/* ---- a model's states ---- */

enum mp_model_state mp_row_state(const struct mp_row *r)
{
    return mp_pool_model_state(r->m);
}

void mp_row_moved(struct mp_keeper *k, struct mp_row *r, enum mp_model_state from, enum mp_cause cause,
                  const char *reason)
{
    struct mp_transition t = {.model = r->m,
                              .from = from,
                              .to = mp_row_state(r),
                              .cause = cause,
                              .seconds = k->now_ns > r->since_ns ? (double)(k->now_ns - r->since_ns) / 1e9 : 0,
                              .reason = reason};
    r->since_ns = k->now_ns;
    if (k->ops->transition)
        k->ops->transition(k->ctx, &t);
}

static void move(struct mp_keeper *k, struct mp_row *r, enum mp_model_state to, enum mp_cause cause, const char *reason)
{
    enum mp_model_state from = mp_row_state(r);
    mp_queue_state(r->m, to, k->now_ns);
    mp_row_moved(k, r, from, cause, reason);
}

void mp_row_reserve(struct mp_row *r, uint64_t bytes)
{
    pthread_mutex_lock(&r->m->lock);
    r->reserved = r->m->reserved = bytes;
    pthread_mutex_unlock(&r->m->lock);
}

static void to_cold(struct mp_keeper *k, struct mp_row *r, enum mp_cause cause, const char *reason)
{
    r->told_unload = r->replaced = false;
    mp_row_reserve(r, 0);
    move(k, r, MP_MODEL_COLD, cause, reason);
}

static void to_loading(struct mp_keeper *k, struct mp_row *r, enum mp_cause cause, const char *reason)
{
    r->seen_loading = false;
    move(k, r, MP_MODEL_LOADING, cause, reason);
}

static void to_warm(struct mp_keeper *k, struct mp_row *r, enum mp_cause cause, const char *reason)
{
    if (mp_row_state(r) == MP_MODEL_LOADING && r->reserved > 0)
        r->room->seconds_per_byte = (double)(k->now_ns - r->since_ns) / 1e9 / (double)r->reserved;
    r->fails = 0;
    r->load_asked = r->lost = r->replaced = r->told_unload = r->swaps = false;
    move(k, r, MP_MODEL_WARM, cause, reason);
}

void mp_row_fail(struct mp_keeper *k, struct mp_row *r, enum mp_cause cause, const struct mp_err *why,
                 uint64_t engine_retry_ns)
{
    enum mp_model_state from = mp_row_state(r);
    uint64_t wait = (uint64_t)(fmin(BACKOFF_MOST, ldexp(1, r->fails < 6 ? (int)r->fails : 6)) * 1e9);
    uint64_t most = (uint64_t)(BACKOFF_MOST * 60 * 1e9);
    wait = engine_retry_ns > wait ? (engine_retry_ns < most ? engine_retry_ns : most) : wait;
    r->fails++;
    r->retry_ns = k->now_ns + wait;
    r->load_asked = r->replaced = r->swaps = false;
    if (!r->told_unload)
        mp_row_reserve(r, 0);
    mp_queue_fail(r->m, why, r->retry_ns, k->now_ns);
    mp_row_moved(k, r, from, cause, why->message);
}

static enum mp_cause load_cause(const struct mp_row *r)
{
    if (r->load_asked)
        return r->load_cause;
    if (r->lost || mp_row_state(r) == MP_MODEL_FAILED)
        return MP_CAUSE_RETRY;
    if (r->level == MP_LEVEL_BUSY)
        return MP_CAUSE_DEMAND;
    return r->fresh ? MP_CAUSE_START : MP_CAUSE_SCALE;
}

bool mp_row_load(struct mp_keeper *k, struct mp_row *r)
{
    struct mp_err err = {0};
    int rc = k->ops->load(k->ctx, r->m, &err);
    r->order_ns = 0;
    if (rc == 0) {
        mp_row_reserve(r, r->f.need);
        r->room->swaps += r->swaps;
        to_loading(k, r, load_cause(r), r->reason);
        mp_keeper_due_in(k, r->f.settings.startup_timeout);
        return true;
    }
    if (rc == MP_EAGAIN)
        r->order_ns = after(k, mp_keeper_order_again);
    else
        mp_row_fail(k, r, MP_CAUSE_LOAD_FAILED, &err, 0);
    return false;
}

static void tell_asked(struct mp_row *r)
{
    pthread_mutex_lock(&r->m->lock);
    r->m->load_asked = r->load_asked;
    pthread_mutex_unlock(&r->m->lock);
}

/* Draining: tells the engine once the last request has ended. */
static void unload(struct mp_keeper *k, struct mp_row *r)
{
    struct mp_err err = {0};
    if (r->told_unload || r->replaced || k->now_ns < r->order_ns)
        return;
    mp_pool_model_facts(r->m, k->now_ns, &r->f);
    if (r->f.in_flight > 0)
        return;
    r->told_unload = k->ops->unload(k->ctx, r->m, &err) == 0;
    r->order_ns = r->told_unload ? 0 : after(k, mp_keeper_order_again);
}

bool mp_row_let_go(struct mp_keeper *k, struct mp_row *r, bool idle, enum mp_cause cause, const char *reason)
{
    enum mp_model_state from = mp_row_state(r);
    if (!mp_queue_close(r->m, idle, k->now_ns))
        return false;
    r->order_ns = 0;
    r->let_go_ns = k->now_ns;
    mp_row_moved(k, r, from, cause, reason);
    unload(k, r);
    return true;
}

/* A load that takes too long: it is given up, and its memory stays reserved until the engine says that it is back. */
static void time_out(struct mp_keeper *k, struct mp_row *r)
{
    struct mp_err err = {0}, why = {0};
    mp_err_set(&why, MP_ETIMEOUT, "it was not loaded within its startup_timeout of %g seconds",
               r->f.settings.startup_timeout);
    r->told_unload = k->ops->unload(k->ctx, r->m, &err) == 0; /* an engine that is not there has nothing loaded */
    mp_row_fail(k, r, MP_CAUSE_LOAD_TIMEOUT, &why, 0);
}

static void step_loading(struct mp_keeper *k, struct mp_row *r)
{
    double passed = (double)(k->now_ns - r->since_ns) / 1e9, most = r->f.settings.startup_timeout;
    bool off = r->f.settings.max_replicas == 0, unwanted = r->removed && r->level == MP_LEVEL_NONE;
    if (r->unload_asked || off || unwanted)
        mp_row_let_go(k, r, false,
                      r->unload_asked ? MP_CAUSE_ASKED
                      : off           ? MP_CAUSE_SCALE
                                      : MP_CAUSE_REMOVED,
                      r->reason);
    else if (passed >= most)
        time_out(k, r);
    else
        mp_keeper_due_in(k, most - passed);
}

static void step_warm(struct mp_keeper *k, struct mp_row *r)
{
    bool was_idle = r->f.idle >= r->f.settings.scaledown_window && r->f.settings.max_replicas > 0;
    if (r->unload_asked)
        mp_row_let_go(k, r, false, MP_CAUSE_ASKED, "");
    else if (r->level != MP_LEVEL_NONE)
        return;
    else if (r->removed)
        mp_row_let_go(k, r, true, MP_CAUSE_REMOVED, r->reason);
    else if (was_idle) /* a request may just have come: then it stays */
        mp_row_let_go(k, r, true, MP_CAUSE_IDLE, r->reason);
    else
        mp_row_let_go(k, r, false, MP_CAUSE_SCALE, r->reason);
}

static void step(struct mp_keeper *k, struct mp_row *r)
{
    switch (mp_row_state(r)) {
    case MP_MODEL_LOADING: step_loading(k, r); break;
    case MP_MODEL_WARM: step_warm(k, r); break;
    default: break;
    }
    r->unload_asked = false;
    if (r->level == MP_LEVEL_NONE && r->f.queued > 0 && !r->removed) { /* a call that was refused asks no more */
        pthread_mutex_lock(&r->m->lock);
        r->m->nudged = false;
        pthread_mutex_unlock(&r->m->lock);
    }
}

static bool is_gone(const struct mp_row *r)
{
    enum mp_model_state s = mp_row_state(r);
    return r->removed && r->level == MP_LEVEL_NONE && !r->told_unload && (s == MP_MODEL_COLD || s == MP_MODEL_FAILED);
}

static void sweep(struct mp_keeper *k)
{
    for (uint32_t i = 0; i < k->n_rows;) {
        struct mp_row *r = k->rows[i];
        if (!is_gone(r)) {
            i++;
            continue;
        }
        if (k->ops->removed)
            k->ops->removed(k->ctx, r->m);
        mp_free(r);
        memmove(&k->rows[i], &k->rows[i + 1], (--k->n_rows - i) * sizeof *k->rows);
    }
}

uint64_t mp_keeper_turn(struct mp_keeper *k, uint64_t now_ns, int64_t wall_s)
{
    k->now_ns = now_ns;
    k->wall_s = wall_s;
    k->due_ns = after(k, DUE_MOST);
    for (uint32_t i = 0; i < k->n_rows; i++) {
        mp_row_judge(k, k->rows[i]);
        step(k, k->rows[i]);
    }
    for (uint32_t i = 0; i < k->n_rooms; i++)
        mp_room_share(k, k->rooms[i]);
    for (uint32_t i = 0; i < k->n_rows; i++) {
        struct mp_row *r = k->rows[i];
        if (mp_row_state(r) == MP_MODEL_DRAINING)
            unload(k, r);
        if (r->order_ns > now_ns)
            mp_keeper_due_at(k, r->order_ns);
        if (r->level != MP_LEVEL_NONE && r->retry_ns > now_ns)
            mp_keeper_due_at(k, r->retry_ns);
        if (r->level == MP_LEVEL_NONE || mp_row_state(r) != MP_MODEL_COLD)
            r->fresh = false;
        tell_asked(r);
    }
    sweep(k);
    return k->due_ns;
}

/* ---- what engines say ---- */

static struct mp_row *find(const struct mp_keeper *k, const struct mp_pool_model *m)
{
    for (uint32_t i = 0; i < k->n_rows; i++)
        if (k->rows[i]->m == m)
            return k->rows[i];
    return NULL;
}

static void said_failed(struct mp_keeper *k, struct mp_row *r, const struct mp_msg_model_state *said)
{
    struct mp_err why = {0};
    bool again = mp_row_state(r) == MP_MODEL_FAILED;
    mp_err_set(&why, said->error < 0 ? said->error : MP_EUNAVAILABLE, "%.*s", (int)said->reason.n,
               said->reason.n ? said->reason.p : "");
    r->told_unload = false;
    if (!again)
        mp_row_fail(k, r, MP_CAUSE_LOAD_FAILED, &why, said->retry_ns);
    else
        mp_row_reserve(r, 0);
}

static void said_cold(struct mp_keeper *k, struct mp_row *r)
{
    struct mp_err why = {0};
    switch (mp_row_state(r)) {
    case MP_MODEL_DRAINING: to_cold(k, r, MP_CAUSE_DRAINED, ""); break;
    case MP_MODEL_WARM: to_cold(k, r, MP_CAUSE_ASKED, "its engine let it go"); break;
    case MP_MODEL_LOADING:
        if (r->seen_loading) {
            mp_err_set(&why, MP_ECANCELLED, "the load was given up");
            mp_row_fail(k, r, MP_CAUSE_LOAD_FAILED, &why, 0);
        }
        break;
    default: /* failed: what a load that was given up held is back */ r->told_unload = false; mp_row_reserve(r, 0);
    }
}

static void said_loading(struct mp_keeper *k, struct mp_row *r)
{
    enum mp_model_state state = mp_row_state(r);
    if (state == MP_MODEL_WARM || (state == MP_MODEL_DRAINING && r->replaced)) {
        r->replaced = true;
        to_loading(k, r, MP_CAUSE_REPLACED, "");
    } else if ((state == MP_MODEL_COLD || state == MP_MODEL_FAILED) && !r->told_unload) {
        to_loading(k, r, MP_CAUSE_ADOPTED, "");
    }
    r->seen_loading = true;
}

static void said_warm(struct mp_keeper *k, struct mp_row *r, const char *cause)
{
    enum mp_model_state state = mp_row_state(r);
    if (state == MP_MODEL_LOADING || (state == MP_MODEL_DRAINING && r->replaced))
        to_warm(k, r, r->replaced ? MP_CAUSE_REPLACED : MP_CAUSE_LOADED, cause);
    else if ((state == MP_MODEL_COLD || state == MP_MODEL_FAILED) && !r->told_unload)
        to_warm(k, r, MP_CAUSE_ADOPTED, cause);
}

static void said_draining(struct mp_keeper *k, struct mp_row *r, bool replacing)
{
    enum mp_model_state state = mp_row_state(r);
    if (state == MP_MODEL_WARM && replacing) {
        r->replaced = true;
        move(k, r, MP_MODEL_DRAINING, MP_CAUSE_REPLACED, "");
    } else if (state == MP_MODEL_WARM || ((state == MP_MODEL_COLD || state == MP_MODEL_FAILED) && !r->told_unload)) {
        r->told_unload = true;
        move(k, r, MP_MODEL_DRAINING, state == MP_MODEL_WARM ? MP_CAUSE_ASKED : MP_CAUSE_ADOPTED, "");
    }
}

/* What the engine holds counts; while it loads no less than what was set aside for it. */
static void count_memory(struct mp_row *r, const struct mp_msg_model_state *said)
{
    uint64_t bytes = said->reserved ? said->reserved : r->reserved ? r->reserved : said->need;
    switch (mp_row_state(r)) {
    case MP_MODEL_LOADING: mp_row_reserve(r, bytes > r->reserved ? bytes : r->reserved); break;
    case MP_MODEL_WARM:
    case MP_MODEL_DRAINING: mp_row_reserve(r, bytes); break;
    default: break;
    }
}

void mp_keeper_report(struct mp_keeper *k, struct mp_pool_model *m, const struct mp_msg_model_state *said,
                      uint64_t now_ns)
{
    struct mp_row *r = find(k, m);
    char cause[201] = "";
    if (!r)
        return;
    k->now_ns = now_ns > k->now_ns ? now_ns : k->now_ns;
    if (said->cause.n > 0)
        memcpy(cause, said->cause.p, said->cause.n < 200 ? said->cause.n : 200);
    switch ((enum mp_model_state)said->state) {
    case MP_MODEL_DECLARED:
    case MP_MODEL_COLD:
        if (!said->replacing)
            said_cold(k, r);
        break;
    case MP_MODEL_LOADING: said_loading(k, r); break;
    case MP_MODEL_WARM:
        if (said->replacing) /* the old version still works; calls that start now are for the new one */
            said_draining(k, r, true);
        else
            said_warm(k, r, cause);
        break;
    case MP_MODEL_DRAINING: said_draining(k, r, said->replacing); break;
    case MP_MODEL_FAILED: said_failed(k, r, said); break;
    case MP_N_MODEL_STATES: break;
    }
    count_memory(r, said);
}

void mp_keeper_lost(struct mp_keeper *k, struct mp_pool_model *m, uint64_t now_ns)
{
    struct mp_row *r = find(k, m);
    struct mp_err why = {0};
    if (!r)
        return;
    k->now_ns = now_ns > k->now_ns ? now_ns : k->now_ns;
    r->told_unload = r->replaced = false;
    mp_row_reserve(r, 0);
    switch (mp_row_state(r)) {
    case MP_MODEL_LOADING:
        mp_err_set(&why, MP_EENGINE, "the engine was killed while it loaded the model");
        mp_row_fail(k, r, MP_CAUSE_ENGINE_LOST, &why, 0);
        break;
    case MP_MODEL_WARM:
        r->lost = true;
        to_cold(k, r, MP_CAUSE_ENGINE_LOST, "");
        break;
    case MP_MODEL_DRAINING: to_cold(k, r, MP_CAUSE_ENGINE_LOST, ""); break;
    default: break;
    }
}

/* ---- what is declared and asked ---- */

static struct mp_room *room_of(struct mp_keeper *k, const char *group)
{
    for (uint32_t i = 0; i < k->n_rooms; i++)
        if (strcmp(k->rooms[i]->group, group) == 0)
            return k->rooms[i];
    struct mp_room *room = mp_calloc(sizeof *room);
    *room = (struct mp_room){.group = mp_strdup(group), .max_wait = 10, .min_residency = 5};
    k->rooms = mp_realloc(k->rooms, (k->n_rooms + 1) * sizeof *k->rooms);
    return k->rooms[k->n_rooms++] = room;
}

void mp_keeper_device(struct mp_keeper *k, const char *group, uint64_t memory, double max_wait, double min_residency)
{
    struct mp_room *room = room_of(k, group);
    room->memory = memory;
    room->max_wait = max_wait;
    room->min_residency = min_residency;
}

static struct mp_row *add_row(struct mp_keeper *k, struct mp_pool_model *m)
{
    struct mp_row *r = mp_calloc(sizeof *r);
    r->m = m;
    r->room = room_of(k, mp_pool_group(k->pool, mp_pool_model_provider(m)));
    r->since_ns = k->now_ns;
    if (k->n_rows == k->cap_rows) {
        k->cap_rows = k->cap_rows ? 2 * k->cap_rows : 8;
        k->rows = mp_realloc(k->rows, k->cap_rows * sizeof *k->rows);
    }
    k->rows[k->n_rows++] = r;
    pthread_mutex_lock(&m->lock);
    m->kept = true;
    if (mp_pool_model_state(m) == MP_MODEL_DECLARED)
        mp_queue_state_locked(m, MP_MODEL_COLD, k->now_ns);
    else if (mp_pool_model_state(m) != MP_MODEL_COLD)
        r->reserved = m->reserved;
    pthread_mutex_unlock(&m->lock);
    return r;
}

/* What the configuration says anew counts, whatever was asked before. */
static void forget_asked(struct mp_row *r, const struct mp_pool_settings *base)
{
#define X(name, key, type, def, least, most) \
    if (r->base.name != base->name)          \
        r->asked.override.set &= ~(1u << MP_SET_##name##_BIT);
    MP_POOL_SETTINGS(X)
#undef X
}

static void set_removed(struct mp_row *r, bool removed)
{
    r->removed = removed;
    pthread_mutex_lock(&r->m->lock);
    r->m->removed = removed;
    pthread_mutex_unlock(&r->m->lock);
}

/* A failed model may be tried at once. */
static void pardon(struct mp_keeper *k, struct mp_row *r)
{
    r->fails = 0;
    r->retry_ns = 0;
    if (mp_row_state(r) == MP_MODEL_FAILED && !r->told_unload)
        to_cold(k, r, MP_CAUSE_RETRY, "");
    pthread_mutex_lock(&r->m->lock);
    r->m->retry_ns = 0;
    pthread_mutex_unlock(&r->m->lock);
}

void mp_keeper_declare(struct mp_keeper *k, struct mp_pool_model *m, const struct mp_pool_settings *base,
                       const struct mp_pool_schedule *schedules, uint32_t n, bool preload)
{
    struct mp_row *r = find(k, m);
    k->now_ns = mp_pool_now(k->pool);
    if (r) {
        forget_asked(r, base);
    } else {
        r = add_row(k, m);
        mp_queue_settings(m, base, 0); /* until the first turn knows the time of day */
    }
    r->base = *base;
    r->schedules = schedules;
    r->n_schedules = n;
    r->unsettled = r->fresh = true;
    set_removed(r, false);
    pardon(k, r);
    if (preload && mp_row_state(r) != MP_MODEL_WARM) {
        r->load_asked = true;
        r->load_cause = MP_CAUSE_START;
    }
}

void mp_keeper_remove(struct mp_keeper *k, struct mp_pool_model *m)
{
    struct mp_row *r = find(k, m);
    if (!r)
        return;
    set_removed(r, true);
    if (r->f.name)
        r->base = r->f.settings; /* those in effect stay: its schedules go with their generation */
    r->base.min_replicas = 0;
    if (r->base.max_replicas == 0)
        r->base.max_replicas = 1;
    r->schedules = NULL;
    r->n_schedules = 0;
    r->asked.override.set = 0;
    r->unsettled = true;
    r->load_asked = r->lost = false;
}

static struct mp_row *declared(struct mp_keeper *k, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_row *r = find(k, m);
    if (r && !r->removed)
        return r;
    mp_err_set(err, MP_ENOENT, "model '%s' is not in the configuration", mp_pool_model_name(m));
    return NULL;
}

int mp_keeper_load(struct mp_keeper *k, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_row *r = declared(k, m, err);
    if (!r)
        return MP_ENOENT;
    if (r->f.name && r->f.settings.max_replicas == 0)
        return mp_err_set(err, MP_EUNAVAILABLE, "model '%s' may have no replica now: its max_replicas is 0",
                          mp_pool_model_name(m));
    k->now_ns = mp_pool_now(k->pool);
    r->down = r->unload_asked = false;
    pardon(k, r);
    if (mp_row_state(r) != MP_MODEL_WARM) {
        r->load_asked = true;
        r->load_cause = MP_CAUSE_ASKED;
        tell_asked(r);
    }
    return 0;
}

int mp_keeper_unload(struct mp_keeper *k, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_row *r = declared(k, m, err);
    if (!r)
        return MP_ENOENT;
    r->load_asked = r->lost = false;
    r->down = r->unload_asked = true;
    return 0;
}

/* ---- the keeper ---- */

struct mp_keeper *mp_keeper_new(struct mp_pool *pool, const struct mp_keeper_ops *ops, void *ctx)
{
    struct mp_keeper *k = mp_calloc(sizeof *k);
    k->pool = pool;
    k->ops = ops;
    k->ctx = ctx;
    return k;
}

void mp_keeper_free(struct mp_keeper *k)
{
    if (!k)
        return;
    for (uint32_t i = 0; i < k->n_rows; i++)
        mp_free(k->rows[i]);
    for (uint32_t i = 0; i < k->n_rooms; i++) {
        mp_free(k->rooms[i]->group);
        mp_free(k->rooms[i]);
    }
    mp_free(k->rows);
    mp_free(k->rooms);
    mp_free(k);
}

static bool on_device(const struct mp_row *r)
{
    enum mp_model_state s = mp_row_state(r);
    return s == MP_MODEL_LOADING || s == MP_MODEL_WARM || s == MP_MODEL_DRAINING || r->told_unload;
}

bool mp_keeper_room(const struct mp_keeper *k, uint32_t i, struct mp_device_room *out)
{
    if (i >= k->n_rooms)
        return false;
    *out = (struct mp_device_room){
        .group = k->rooms[i]->group, .memory = k->rooms[i]->memory, .swaps = k->rooms[i]->swaps};
    for (uint32_t j = 0; j < k->n_rows; j++)
        if (k->rows[j]->room == k->rooms[i]) {
            out->reserved += k->rows[j]->reserved;
            out->loaded += on_device(k->rows[j]);
        }
    return true;
}

bool mp_keeper_needed(const struct mp_keeper *k, const char *group)
{
    for (uint32_t i = 0; i < k->n_rows; i++) {
        const struct mp_row *r = k->rows[i];
        if (strcmp(r->room->group, group) == 0 &&
            (on_device(r) || (r->level != MP_LEVEL_NONE && k->now_ns >= r->retry_ns)))
            return true;
    }
    return false;
}
