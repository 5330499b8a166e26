/* core/gateway/models.c — see models.h. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/calls.h"
#include "core/gateway/models_impl.h"
#include "core/gateway/room.h"
#include "core/gateway/tally.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { TICK_MS = 500, HANDLES = 3 };

#define MAX_WAIT      10.0 /* seconds; of a device that the configuration does not name */
#define MIN_RESIDENCY 5.0

/* Device groups of this build, and what it lacks. `fake` is the specs' device: it serves who names it. */
static const char *const groups[] = {"cpu", "fake"};
static const char *const missing[] = {"cuda: this build has no CUDA device"};

const char *mp_models_group_at(uint32_t i)
{
    return i < MP_COUNT(groups) ? groups[i] : NULL;
}

const char *mp_models_missing(uint32_t i)
{
    return i < MP_COUNT(missing) ? missing[i] : NULL;
}

const char *mp_models_group(const struct mp_conf_model *m, struct mp_err *err)
{
    struct mp_buf wanted = {0};
    for (uint32_t i = 0; i < m->n_devices; i++)
        for (size_t k = 0; k < MP_COUNT(groups); k++)
            if (strcmp(m->devices[i], groups[k]) == 0)
                return groups[k];
    for (uint32_t i = 0; i < m->n_devices; i++)
        mp_buf_printf(&wanted, "%s%s", i ? ", " : "", m->devices[i]);
    mp_err_set(err, MP_EUNAVAILABLE, "mp.model \"%s\": none of its devices (%s) is here; this server has: cpu", m->name,
               mp_buf_cstr(&wanted));
    mp_buf_free(&wanted);
    return NULL;
}

static struct row *row_of(struct mp_models *ms, const struct mp_pool_model *m)
{
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].model == m)
            return &ms->rows[i];
    return NULL;
}

struct row *mp_models_row(struct mp_models *ms, const char *name)
{
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (strcmp(mp_pool_model_name(ms->rows[i].model), name) == 0)
            return &ms->rows[i];
    return NULL;
}

void mp_models_file_id(const char *path, struct file_id *out)
{
    struct stat s;
    *out = (struct file_id){0};
    if (path && stat(path, &s) == 0)
        *out = (struct file_id){(uint64_t)s.st_dev, (uint64_t)s.st_ino, (uint64_t)s.st_size,
                                (int64_t)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec};
}

bool mp_models_same_file(const struct file_id *a, const struct file_id *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

static uint64_t row_number(const struct row *r)
{
    return (uint64_t)(r - r->engine->models->rows);
}

/* ---- what goes to an engine ---- */

static void send_declare(struct row *r)
{
    struct mp_err err = {0};
    struct mp_msg m = {.type = MP_MSG_MODEL_DECLARE, .id = ASK_ID(ASK_DECLARE, row_number(r))};
    m.u.model_declare = (struct mp_msg_model_declare){mp_span_of(mp_pool_model_name(r->model)), mp_span_of(r->spec)};
    r->told = false;
    if (mp_link_send(r->engine->link, &m, &err) < 0)
        mp_error("model '%s' cannot be declared to its engine: %s", mp_pool_model_name(r->model), err.message);
}

/* To an engine that knows the model. */
static int send_order(struct row *r, enum ask ask, struct mp_err *err)
{
    struct mp_span name = mp_span_of(mp_pool_model_name(r->model));
    struct mp_msg m = {.id = ASK_ID(ask, row_number(r))};
    int rc;
    if (ask == ASK_LOAD) {
        m.type = MP_MSG_MODEL_LOAD;
        m.u.model_load.name = name;
    } else if (ask == ASK_UNLOAD) {
        m.type = MP_MSG_MODEL_UNLOAD;
        m.u.model_unload.name = name;
    } else {
        m.type = MP_MSG_MODEL_FORGET;
        m.u.model_forget.name = name;
    }
    rc = mp_link_send(r->engine->link, &m, err);
    r->unanswered += rc == 0 && ask != ASK_FORGET;
    return rc;
}

static void send_limit(struct mp_engine *e)
{
    struct mp_msg m = {.type = MP_MSG_DEVICE_LIMIT, .id = ASK_ID(ASK_LIMIT, 0)};
    m.u.device_limit.memory = e->limit;
    if (e->limited)
        mp_link_send(e->link, &m, NULL); /* away: it is told when it is back */
}

/* Carries out what was asked for while no engine knew the model. */
static void send_orders(struct row *r)
{
    struct mp_err err = {0};
    int rc = 0;
    if (r->load)
        rc = send_order(r, ASK_LOAD, &err);
    else if (r->unload)
        rc = send_order(r, ASK_UNLOAD, &err);
    r->unload = false;
    if (rc < 0)
        mp_error("engine %s: %s", r->engine->group, err.message);
}

int mp_engine_load(void *ctx, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_engine *e = ctx;
    struct row *r = row_of(e->models, m);
    if (!r || r->forgotten)
        return mp_err_set(err, MP_ENOENT, "no configuration declares model '%s'", mp_pool_model_name(m));
    r->load = true;
    r->unload = false;
    return r->told ? send_order(r, ASK_LOAD, err) : 0;
}

int mp_engine_unload(void *ctx, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_engine *e = ctx;
    struct row *r = row_of(e->models, m);
    if (!r || r->forgotten)
        return mp_err_set(err, MP_ENOENT, "no configuration declares model '%s'", mp_pool_model_name(m));
    r->load = false;
    if (r->told)
        return send_order(r, ASK_UNLOAD, err);
    r->unload = true;
    mp_models_turn(e->models);
    return 0;
}

bool mp_engine_ready(void *ctx)
{
    return mp_engine_declared(ctx) != 0;
}

/* ---- what the keeper asks for ---- */

static int keeper_load(void *ctx, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_models *ms = ctx;
    void *engine;
    return mp_pool_provider(ms->pool, mp_pool_model_provider(m), &engine)->start(engine, m, err);
}

static int keeper_unload(void *ctx, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_models *ms = ctx;
    void *engine;
    return mp_pool_provider(ms->pool, mp_pool_model_provider(m), &engine)->stop(engine, m, err);
}

static int keeper_scale(void *ctx, const struct mp_pool_facts *f, double now, char *reason, size_t n)
{
    struct mp_models *ms = ctx;
    return ms->policies && ms->generation ? mp_policy_scale(ms->policies, ms->generation, f, now, reason, n) : -1;
}

static int keeper_evict(void *ctx, const struct mp_pool_facts *candidates, uint32_t n, uint64_t need, double now,
                        uint32_t *chosen, char *reason, size_t reason_n)
{
    struct mp_models *ms = ctx;
    if (!ms->policies || !ms->generation)
        return -1;
    return mp_policy_evict(ms->policies, ms->generation, candidates, n, need, now, chosen, reason, reason_n);
}

static void keeper_transition(void *ctx, const struct mp_transition *t)
{
    struct row *r = row_of(ctx, t->model);
    mp_tally_transition(t);
    if (r)
        r->changed = true;
}

static void keeper_removed(void *ctx, struct mp_pool_model *m)
{
    struct row *r = row_of(ctx, m);
    if (!r || r->declared || r->forgotten)
        return;
    if (r->told)
        send_order(r, ASK_FORGET, NULL);
    r->forgotten = true;
    r->load = r->unload = r->told = r->known = false;
    mp_tally_forget(m);
    mp_info("model '%s' is gone: no configuration declares it any more", mp_pool_model_name(m));
}

static const struct mp_keeper_ops keeper_ops = {.load = keeper_load,
                                                .unload = keeper_unload,
                                                .scale = keeper_scale,
                                                .evict = keeper_evict,
                                                .transition = keeper_transition,
                                                .removed = keeper_removed};

/* ---- the turn ---- */

static void report(struct row *r, const struct mp_msg_model_state *s)
{
    struct mp_models *ms = r->engine->models;
    mp_pool_model_report(r->model, s, mp_link_engine(r->engine->link));
    mp_keeper_report(ms->keeper, r->model, s, mp_clock_mono_ns());
    r->changed = true;
    mp_models_turn(ms);
}

/* A load that was called off before any engine heard of it: nothing of it is there. */
static void report_cold(struct row *r)
{
    struct mp_msg_model_state s = {.name = mp_span_of(mp_pool_model_name(r->model)), .state = MP_MODEL_COLD};
    r->unload = false;
    report(r, &s);
}

/* An engine's process is to run while something is loaded or to be loaded, calls wait to be prepared, or a file has not been looked at. */
static bool wanted(struct mp_models *ms, const struct mp_engine *e)
{
    bool yes = atomic_load_explicit(&e->waiting, memory_order_relaxed) > 0 || mp_keeper_needed(ms->keeper, e->group) ||
               mp_checks_want(ms, e);
    for (uint32_t i = 0; i < ms->n_rows && !yes; i++)
        yes = ms->rows[i].engine == e && ms->rows[i].declared && !ms->rows[i].known;
    return yes;
}

static void tell_changed(struct mp_models *ms)
{
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].changed) {
            ms->rows[i].changed = false;
            ms->events->changed(ms->user, ms->rows[i].model);
        }
}

static void on_due(uv_timer_t *t);

static void turn(struct mp_models *ms)
{
    uint64_t now = mp_clock_mono_ns(), due, check_due;
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].unload && !mp_link_up(ms->rows[i].engine->link))
            report_cold(&ms->rows[i]);
    due = mp_keeper_turn(ms->keeper, now, (int64_t)(mp_clock_wall_ns() / 1000000000));
    check_due = mp_checks_turn(ms, now);
    due = check_due < due ? check_due : due;
    for (uint32_t i = 0; i < ms->n_engines; i++)
        mp_link_want(ms->engines[i]->link, wanted(ms, ms->engines[i]));
    tell_changed(ms);
    if (due == UINT64_MAX) {
        uv_timer_stop(&ms->due);
        return;
    }
    now = mp_clock_mono_ns();
    uv_update_time(mp_evloop_uv(ms->loop)); /* the timer counts from the loop's own time */
    uv_timer_start(&ms->due, on_due, due > now ? (due - now) / 1000000 + 1 : 1, 0);
}

static void on_due(uv_timer_t *t)
{
    turn(mp_container_of(t, struct mp_models, due));
}

static void on_wake(uv_async_t *a)
{
    turn(mp_container_of(a, struct mp_models, wake));
}

void mp_models_turn(struct mp_models *ms)
{
    uv_async_send(&ms->wake);
}

static void on_demand(void *ctx)
{
    mp_models_turn(ctx);
}

void mp_engine_waiting(struct mp_engine *e, int32_t change)
{
    int32_t before = atomic_fetch_add_explicit(&e->waiting, change, memory_order_relaxed);
    if (before == 0 || before + change == 0)
        mp_models_turn(e->models);
}

/* ---- what comes from an engine ---- */

/* Every declaration that was sent before is read when this is answered; files may still be looked at then. */
static void send_sync(struct mp_engine *e)
{
    struct mp_msg m = {.type = MP_MSG_MODELS, .id = ASK_ID(ASK_SYNC, 0)};
    atomic_store_explicit(&e->declared, 0, memory_order_release);
    e->unsynced += mp_link_send(e->link, &m, NULL) == 0;
}

static void on_synced(struct mp_engine *e)
{
    if (e->unsynced == 0 || --e->unsynced > 0)
        return;
    atomic_store_explicit(&e->declared, mp_link_engine(e->link), memory_order_release);
    e->models->events->declared(e->models->user, e);
}

/* Does a state tell the keeper something new? Not what was said before the engine knew the model, or before it had its last order;
 * nor that a model is still cold which it is about to load (its file is opened first). */
static bool is_news(struct row *r, uint64_t id, const struct mp_msg_model_state *s)
{
    enum ask ask = ID_ASK(id);
    bool own = ID_N(id) == row_number(r);
    if (!r->told) {
        if (ask != ASK_DECLARE || !own)
            return false;
        r->told = true;
    }
    if ((ask == ASK_LOAD || ask == ASK_UNLOAD) && own && r->unanswered > 0)
        r->unanswered--;
    if (r->unanswered > 0 || ask == ASK_COUNTS || ask == ASK_SYNC)
        return false;
    if (!r->load)
        return true;
    r->load = s->state != MP_MODEL_LOADING && s->state != MP_MODEL_WARM && s->state != MP_MODEL_FAILED;
    return !r->load;
}

static void on_state(struct mp_engine *e, uint64_t id, const struct mp_msg_model_state *s)
{
    struct mp_models *ms = e->models;
    if (ID_ASK(id) == ASK_CHECK) {
        mp_checks_state(ms, ID_N(id), s);
        mp_models_turn(ms);
        return;
    }
    for (uint32_t i = 0; i < ms->n_rows; i++) {
        struct row *r = &ms->rows[i];
        const char *name = mp_pool_model_name(r->model);
        if (r->engine != e || r->forgotten || strlen(name) != s->name.n || memcmp(name, s->name.p, s->name.n) != 0)
            continue;
        bool was_told = r->told, news = is_news(r, id, s);
        r->known |= r->told && s->state != MP_MODEL_DECLARED;
        if (news)
            report(r, s);
        else if (was_told)
            mp_pool_model_report(r->model, s, mp_link_engine(e->link));
        if (!was_told && r->told)
            send_orders(r);
        return;
    }
}

/* A declaration or an order that was refused: the model has failed, for the reason given. */
static void on_refused(struct mp_engine *e, uint64_t id, const struct mp_msg_error *said)
{
    struct mp_models *ms = e->models;
    enum ask ask = ID_ASK(id);
    struct row *r = ask <= ASK_UNLOAD && ID_N(id) < ms->n_rows ? &ms->rows[ID_N(id)] : NULL;
    struct mp_err err = {0};
    char code[33] = "";
    if (said->code.p)
        memcpy(code, said->code.p, said->code.n < 32 ? said->code.n : 32);
    mp_err_set(&err, mp_err_from_name(code), "%.*s", (int)said->message.n, said->message.n ? said->message.p : "");
    if (ask == ASK_CHECK) {
        mp_checks_refused(ms, ID_N(id), err.message);
        mp_models_turn(ms);
    } else if (!r || r->engine != e)
        mp_warn("engine %s: %s", e->group, err.message);
    else {
        struct mp_msg_model_state s = {.name = mp_span_of(mp_pool_model_name(r->model)),
                                       .state = MP_MODEL_FAILED,
                                       .error = err.code ? err.code : MP_EINTERNAL,
                                       .reason = mp_span_of(err.message),
                                       .retry_ns = said->retry_ns};
        on_state(e, id, &s);
    }
}

static void on_device(struct mp_engine *e, const struct mp_msg_device_state *d)
{
    e->said.memory = d->memory;
    e->said.reserved = d->reserved;
    e->said.used = d->used;
    if (d->device.n > 0)
        snprintf(e->said.device, sizeof e->said.device, "%.*s", (int)d->device.n, d->device.p);
}

static void on_up(void *user)
{
    struct mp_engine *e = user;
    struct mp_models *ms = e->models;
    mp_debug("engine %s answers, pid %u", e->group, mp_link_engine(e->link));
    mp_tally_engine_start(e->group);
    mp_tally_engine(e->group, true);
    send_limit(e);
    for (uint32_t i = 0; i < ms->n_rows; i++) {
        struct row *r = &ms->rows[i];
        r->unanswered = r->engine == e ? 0 : r->unanswered;
        if (r->engine == e && !r->forgotten)
            send_declare(r);
    }
    e->unsynced = 0;
    send_sync(e);
    mp_checks_send(ms, e);
}

static void on_message(void *user, const struct mp_msg *m)
{
    struct mp_engine *e = user;
    switch (m->type) {
    case MP_MSG_MODEL_STATE: on_state(e, m->id, &m->u.model_state); break;
    case MP_MSG_DEVICE_STATE: on_device(e, &m->u.device_state); break;
    case MP_MSG_ERROR: on_refused(e, m->id, &m->u.error); break;
    case MP_MSG_MODELS_END:
        if (ID_ASK(m->id) == ASK_SYNC)
            on_synced(e);
        break;
    case MP_MSG_PONG: break;
    default: mp_warn("engine %s sent '%s' to the control thread", e->group, mp_msg_name(m->type));
    }
}

/* Nothing is loaded any more. One that said BYE had nothing loaded: a load that was on its way is asked for again at the next. */
static void row_down(struct row *r, bool bye)
{
    struct mp_models *ms = r->engine->models;
    enum mp_model_state state = mp_pool_model_state(r->model);
    bool begun = state == MP_MODEL_LOADING || state == MP_MODEL_WARM || state == MP_MODEL_DRAINING;
    r->told = false;
    r->unanswered = 0;
    if (bye && r->load)
        return;
    r->load = r->unload = false;
    if (begun)
        mp_pool_model_lost(r->model);
    mp_keeper_lost(ms->keeper, r->model, mp_clock_mono_ns()); /* a load that was given up is no more, either */
    r->changed |= begun;
}

static void on_down(void *user, const struct mp_err *why)
{
    struct mp_engine *e = user;
    struct mp_models *ms = e->models;
    bool bye = why->code == 0;
    mp_log(bye ? MP_LOG_DEBUG : MP_LOG_WARN, "engine %s is away: %s", e->group, why->message);
    mp_tally_engine(e->group, false);
    atomic_store_explicit(&e->declared, 0, memory_order_release);
    e->said.reserved = e->said.used = 0;
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].engine == e)
            row_down(&ms->rows[i], bye);
    mp_checks_down(ms, e, bye);
    mp_models_turn(ms);
}

static const struct mp_link_events link_events = {on_up, on_message, on_down};

/* Asks how many requests run and what is taken (an engine tells of changes of state by itself, not of counts), and shows it. */
static void on_tick(uv_timer_t *t)
{
    struct mp_models *ms = mp_container_of(t, struct mp_models, tick);
    struct mp_msg ask = {.type = MP_MSG_MODELS, .id = ASK_ID(ASK_COUNTS, 0)};
    struct mp_device_room room;
    for (uint32_t i = 0; i < ms->n_engines; i++)
        if (mp_link_up(ms->engines[i]->link)) {
            mp_link_send(ms->engines[i]->link, &ask, NULL);
            send_limit(ms->engines[i]);
        }
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (!ms->rows[i].forgotten)
            mp_tally_model(ms->rows[i].model, mp_clock_mono_ns());
    for (uint32_t i = 0; mp_keeper_room(ms->keeper, i, &room); i++)
        mp_tally_device(&room);
}

/* ---- the table ---- */

struct mp_models *mp_models_new(struct mp_evloop *loop, struct mp_pool *pool, const struct mp_models_events *events,
                                void *user)
{
    struct mp_models *ms = mp_calloc(sizeof *ms);
    uv_loop_t *uv = mp_evloop_uv(loop);
    ms->loop = loop;
    ms->pool = pool;
    ms->events = events;
    ms->user = user;
    ms->keeper = mp_keeper_new(pool, &keeper_ops, ms);
    ms->handles = HANDLES;
    uv_async_init(uv, &ms->wake, on_wake);
    uv_timer_init(uv, &ms->due);
    uv_timer_init(uv, &ms->tick);
    uv_timer_start(&ms->tick, on_tick, TICK_MS, TICK_MS);
    mp_pool_on_demand(pool, on_demand, ms);
    return ms;
}

static void handle_closed(struct mp_models *ms)
{
    if (--ms->handles > 0)
        return;
    for (uint32_t i = 0; i < ms->n_engines; i++) {
        mp_free(ms->engines[i]->group);
        mp_free(ms->engines[i]->path);
        mp_free(ms->engines[i]);
    }
    for (uint32_t i = 0; i < ms->n_rows; i++)
        mp_free(ms->rows[i].spec);
    mp_free(ms->rows);
    mp_free(ms);
}

static void on_wake_closed(uv_handle_t *h)
{
    handle_closed(mp_container_of((uv_async_t *)h, struct mp_models, wake));
}

static void on_due_closed(uv_handle_t *h)
{
    handle_closed(mp_container_of((uv_timer_t *)h, struct mp_models, due));
}

static void on_tick_closed(uv_handle_t *h)
{
    handle_closed(mp_container_of((uv_timer_t *)h, struct mp_models, tick));
}

void mp_models_free(struct mp_models *ms)
{
    if (!ms)
        return;
    mp_pool_on_demand(ms->pool, NULL, NULL);
    for (uint32_t i = 0; i < ms->n_engines; i++)
        mp_link_free(mp_move(&ms->engines[i]->link));
    mp_checks_free(ms);
    mp_keeper_free(mp_move(&ms->keeper));
    uv_close((uv_handle_t *)&ms->wake, on_wake_closed);
    uv_close((uv_handle_t *)&ms->due, on_due_closed);
    uv_close((uv_handle_t *)&ms->tick, on_tick_closed);
}

struct mp_engine *mp_models_add_engine(struct mp_models *ms, const char *group, const char *path)
{
    struct mp_engine *e;
    if (ms->n_engines == MP_POOL_MAX_PROVIDERS)
        return NULL;
    e = ms->engines[ms->n_engines++] = mp_calloc(sizeof *e);
    e->models = ms;
    e->group = mp_strdup(group);
    e->path = mp_strdup(path);
    snprintf(e->said.device, sizeof e->said.device, "%s", group);
    e->slot = mp_pool_provide(ms->pool, group, &mp_provider_engine, e);
    e->link = mp_link_new(ms->loop, path, &link_events, e);
    return e;
}

struct mp_engine *mp_models_engine_at(struct mp_models *ms, uint32_t i)
{
    return i < ms->n_engines ? ms->engines[i] : NULL;
}

struct mp_engine *mp_models_find_engine(struct mp_models *ms, const char *group)
{
    for (uint32_t i = 0; i < ms->n_engines; i++)
        if (strcmp(ms->engines[i]->group, group) == 0)
            return ms->engines[i];
    return NULL;
}

static const struct mp_conf_device *device_of(const struct mp_config *config, const char *group)
{
    for (uint32_t i = 0; i < config->n_devices; i++)
        if (strcmp(config->devices[i].name, group) == 0)
            return &config->devices[i];
    return NULL;
}

uint64_t mp_models_limit(const struct mp_config *config, const char *group)
{
    const struct mp_conf_device *d = device_of(config, group);
    if (d && d->memory > 0)
        return d->memory;
    return strcmp(group, "cpu") == 0 ? mp_room_default("") : 0;
}

static void declare_device(struct mp_models *ms, struct mp_engine *e, const struct mp_config *config)
{
    const struct mp_conf_device *d = device_of(config, e->group);
    e->limit = mp_models_limit(config, e->group);
    e->limited = true;
    mp_keeper_device(ms->keeper, e->group, e->limit, d ? d->max_wait : MAX_WAIT, d ? d->min_residency : MIN_RESIDENCY);
    send_limit(e);
}

static struct row *row_add(struct mp_models *ms, struct mp_pool_model *m)
{
    struct row *r = row_of(ms, m);
    if (r)
        return r;
    if (ms->n_rows == ms->cap_rows) {
        ms->cap_rows = ms->cap_rows ? 2 * ms->cap_rows : 8;
        ms->rows = mp_realloc(ms->rows, ms->cap_rows * sizeof *ms->rows);
    }
    r = &ms->rows[ms->n_rows++];
    *r = (struct row){.model = m, .engine = ms->engines[mp_pool_model_provider(m)]};
    return r;
}

/* Its engine hears of what it may not know: another declaration, another file at the same path. */
static void declare_model(struct mp_models *ms, struct mp_pool_model *m, const struct mp_conf_model *conf)
{
    struct row *r = row_add(ms, m);
    struct file_id file;
    mp_models_file_id(conf->path, &file);
    bool same =
        r->spec && !r->forgotten && strcmp(r->spec, conf->spec_json) == 0 && mp_models_same_file(&r->file, &file);
    r->declared = true;
    r->forgotten = false;
    r->preload = conf->preload;
    mp_keeper_declare(ms->keeper, m, &conf->settings, conf->schedules, conf->n_schedules, conf->preload && !same);
    if (same)
        return;
    mp_free(r->spec);
    r->spec = mp_strdup(conf->spec_json);
    r->file = file;
    r->known = false;
    if (mp_link_up(r->engine->link))
        send_declare(r);
}

static bool untold(const struct mp_models *ms, const struct mp_engine *e)
{
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].engine == e && !ms->rows[i].forgotten && !ms->rows[i].told)
            return true;
    return false;
}

int mp_models_declare(struct mp_models *ms, const struct mp_config *config, struct mp_err *err)
{
    for (uint32_t i = 0; i < config->n_models; i++) {
        const char *group = mp_models_group(&config->models[i], err);
        if (!group)
            return MP_EUNAVAILABLE;
        if (!mp_models_find_engine(ms, group))
            return mp_err_set(err, MP_EUNAVAILABLE, "model '%s': no engine serves %s", config->models[i].name, group);
    }
    for (uint32_t i = 0; i < ms->n_engines; i++)
        declare_device(ms, ms->engines[i], config);
    for (uint32_t i = 0; i < ms->n_rows; i++)
        ms->rows[i].declared = false;
    for (uint32_t i = 0; i < config->n_models; i++) {
        const char *group = mp_models_group(&config->models[i], err);
        struct mp_pool_model *m = NULL;
        int rc = mp_pool_declare(ms->pool, config->models[i].name, &group, 1, &m, err);
        if (rc < 0)
            return rc;
        declare_model(ms, m, &config->models[i]);
    }
    for (uint32_t i = 0; i < ms->n_engines; i++)
        if (mp_link_up(ms->engines[i]->link) && untold(ms, ms->engines[i]))
            send_sync(ms->engines[i]); /* workers send calls for a new model once this is answered, not before */
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (!ms->rows[i].declared && !ms->rows[i].forgotten)
            mp_keeper_remove(ms->keeper, ms->rows[i].model);
    turn(ms);
    return 0;
}

bool mp_models_ready(struct mp_models *ms, struct mp_pool_model **failed)
{
    bool ready = true;
    *failed = NULL;
    for (uint32_t i = 0; i < ms->n_rows; i++) {
        const struct row *r = &ms->rows[i];
        enum mp_model_state state = mp_pool_model_state(r->model);
        struct mp_pool_facts f;
        if (!r->declared)
            continue;
        mp_pool_model_facts(r->model, mp_clock_mono_ns(), &f);
        bool keep = f.settings.min_replicas > 0 || r->preload;
        ready &= r->known && (!keep || state == MP_MODEL_WARM);
        if (keep && state == MP_MODEL_FAILED)
            *failed = r->model;
    }
    return ready;
}

struct mp_keeper *mp_models_keeper(struct mp_models *ms)
{
    return ms->keeper;
}

void mp_models_policies(struct mp_models *ms, struct mp_policies *policies, struct mp_generation *active)
{
    ms->policies = policies;
    ms->generation = active;
}

const char *mp_engine_path(const struct mp_engine *e)
{
    return e->path;
}

const char *mp_engine_group(const struct mp_engine *e)
{
    return e->group;
}

uint32_t mp_engine_slot(const struct mp_engine *e)
{
    return e->slot;
}

uint32_t mp_engine_declared(const struct mp_engine *e)
{
    return atomic_load_explicit(&e->declared, memory_order_acquire);
}

void mp_engine_status(const struct mp_engine *e, struct mp_engine_status *out)
{
    *out = e->said;
    out->pid = e->link ? mp_link_engine(e->link) : 0;
    out->wanted = wanted(e->models, e);
}
