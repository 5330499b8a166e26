/* core/gateway/models.c — see models.h. */
#include "core/gateway/models.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/calls.h"
#include "core/gateway/link.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

enum { MAX_ENGINES = MP_POOL_MAX_PROVIDERS, TICK_MS = 500, COUNTS_ID = INT32_MAX };

/* Device groups of this build, and what it lacks. `fake` is the specs' device: it serves who names it. */
static const char *const groups[] = {"cpu", "fake"};
static const char *const missing[] = {"cuda: this build has no CUDA device"};

struct row { /* a declared model */
    struct mp_pool_model *model;
    struct mp_engine *engine;
    char *spec;        /* the JSON the engine is told */
    bool keep;         /* min_replicas >= 1 */
    bool was_warm;     /* when its engine was lost: it is loaded again */
    bool told;         /* the present engine answered its declaration */
    bool asked;        /* MODEL_LOAD is on its way, or answered by a state on its way to warm */
    uint64_t retry_ns; /* failed, to be kept: when to ask again */
};

struct mp_engine {
    struct mp_models *models;
    char *group, *path;
    uint32_t slot;
    _Atomic uint32_t declared; /* control writes; workers read */
    struct mp_link *link;
};

struct mp_models {
    struct mp_evloop *loop;
    struct mp_pool *pool;
    const struct mp_models_events *events;
    void *user;
    struct mp_engine *engines[MAX_ENGINES];
    uint32_t n_engines;
    struct row *rows;
    uint32_t n_rows, cap_rows;
    uv_timer_t tick;
    struct mp_keeper *keeper;
    struct mp_policies *policies;     /* borrowed, or NULL */
    struct mp_generation *generation; /* whose policies */
};

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

/* ---- what goes to an engine ---- */

static struct row *row_of(struct mp_models *ms, const struct mp_pool_model *m)
{
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].model == m)
            return &ms->rows[i];
    return NULL;
}

/* Request ids on the control thread's link are row numbers + 1, and COUNTS_ID. */
static void send_declare(struct row *r, uint32_t i)
{
    struct mp_err err = {0};
    struct mp_msg m = {.type = MP_MSG_MODEL_DECLARE, .id = i + 1};
    m.u.model_declare = (struct mp_msg_model_declare){mp_span_of(mp_pool_model_name(r->model)), mp_span_of(r->spec)};
    if (mp_link_send(r->engine->link, &m, &err) < 0)
        mp_error("model '%s' cannot be declared to its engine: %s", mp_pool_model_name(r->model), err.message);
}

static int send_load(struct row *r, uint32_t i, struct mp_err *err)
{
    struct mp_msg m = {.type = MP_MSG_MODEL_LOAD, .id = i + 1};
    int rc;
    m.u.model_load.name = mp_span_of(mp_pool_model_name(r->model));
    rc = mp_link_send(r->engine->link, &m, err);
    r->asked = rc == 0;
    r->retry_ns = 0;
    return rc;
}

int mp_engine_load(void *ctx, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_engine *e = ctx;
    struct row *r = row_of(e->models, m);
    if (!r || !r->told)
        return mp_err_set(err, MP_EAGAIN, "the engine does not know model '%s' yet", mp_pool_model_name(m));
    return send_load(r, (uint32_t)(r - e->models->rows), err);
}

int mp_engine_unload(void *ctx, struct mp_pool_model *m, struct mp_err *err)
{
    struct mp_engine *e = ctx;
    struct row *r = row_of(e->models, m);
    struct mp_msg msg = {.type = MP_MSG_MODEL_UNLOAD};
    if (!r || !r->told)
        return mp_err_set(err, MP_EAGAIN, "the engine does not know model '%s' yet", mp_pool_model_name(m));
    msg.id = (uint64_t)(r - e->models->rows) + 1;
    msg.u.model_unload.name = mp_span_of(mp_pool_model_name(m));
    return mp_link_send(e->link, &msg, err);
}

bool mp_engine_ready(void *ctx)
{
    return mp_engine_declared(ctx) != 0;
}

/* ---- what comes from it ---- */

static void check_declared(struct mp_engine *e)
{
    struct mp_models *ms = e->models;
    uint32_t pid = mp_link_engine(e->link);
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].engine == e && !ms->rows[i].told)
            return;
    if (pid == 0 || mp_engine_declared(e) == pid)
        return;
    atomic_store_explicit(&e->declared, pid, memory_order_release);
    ms->events->declared(ms->user, e);
}

/* Asks for what is to be loaded and is not on its way. */
static void keep_loaded(struct mp_models *ms, uint32_t i)
{
    struct row *r = &ms->rows[i];
    enum mp_model_state state = mp_pool_model_state(r->model);
    struct mp_err err = {0};
    if (!r->told || !(r->keep || r->was_warm))
        return;
    if (state == MP_MODEL_WARM || state == MP_MODEL_LOADING) {
        r->was_warm = false;
        return;
    }
    if (state == MP_MODEL_FAILED && (!r->keep || r->retry_ns == 0 || r->retry_ns > mp_clock_mono_ns()))
        return;
    if ((r->asked && state != MP_MODEL_FAILED) || state == MP_MODEL_DRAINING)
        return;
    if (send_load(r, i, &err) < 0)
        mp_warn("model '%s' cannot be loaded: %s", mp_pool_model_name(r->model), err.message);
}

static void on_state(struct mp_engine *e, uint64_t id, const struct mp_msg_model_state *s)
{
    struct mp_models *ms = e->models;
    for (uint32_t i = 0; i < ms->n_rows; i++) {
        struct row *r = &ms->rows[i];
        const char *name = mp_pool_model_name(r->model);
        enum mp_model_state before = mp_pool_model_state(r->model);
        if (r->engine != e || strlen(name) != s->name.n || memcmp(name, s->name.p, s->name.n) != 0)
            continue;
        if (!r->told && id != i + 1)
            return; /* what it was before this declaration */
        r->told = true;
        if (s->state == MP_MODEL_FAILED)
            r->retry_ns = mp_clock_mono_ns() + (s->retry_ns ? s->retry_ns : UINT64_C(1000000000));
        if (s->state != MP_MODEL_COLD && s->state != MP_MODEL_DECLARED)
            r->asked = false;
        mp_pool_model_report(r->model, s, mp_link_engine(e->link));
        if (before != (enum mp_model_state)s->state) /* at debug: the engine's own log says it */
            mp_debug("model '%s' is %s on %s", name, mp_model_state_name(s->state), e->group);
        keep_loaded(ms, i);
        ms->events->changed(ms->user, r->model);
        return;
    }
}

/* A declaration or a load that was refused: the model has failed, for the reason given. */
static void on_refused(struct mp_engine *e, uint64_t id, const struct mp_msg_error *said)
{
    struct row *r = id >= 1 && id <= e->models->n_rows ? &e->models->rows[id - 1] : NULL;
    char code[33] = "";
    if (!r || r->engine != e) {
        mp_warn("engine %s: %.*s", e->group, (int)said->message.n, said->message.p ? said->message.p : "");
        return;
    }
    if (said->code.p)
        memcpy(code, said->code.p, said->code.n < 32 ? said->code.n : 32);
    struct mp_msg_model_state s = {.name = mp_span_of(mp_pool_model_name(r->model)),
                                   .state = MP_MODEL_FAILED,
                                   .error = mp_err_from_name(code),
                                   .reason = said->message,
                                   .retry_ns = said->retry_ns};
    on_state(e, id, &s);
}

static void on_up(void *user)
{
    struct mp_engine *e = user;
    struct mp_models *ms = e->models;
    mp_debug("engine %s answers, pid %u", e->group, mp_link_engine(e->link));
    for (uint32_t i = 0; i < ms->n_rows; i++)
        if (ms->rows[i].engine == e)
            send_declare(&ms->rows[i], i);
    check_declared(e);
}

static void on_message(void *user, const struct mp_msg *m)
{
    struct mp_engine *e = user;
    switch (m->type) {
    case MP_MSG_MODEL_STATE: on_state(e, m->id, &m->u.model_state); break;
    case MP_MSG_ERROR: on_refused(e, m->id, &m->u.error); break;
    case MP_MSG_MODELS_END:
    case MP_MSG_PONG: break;
    default: mp_warn("engine %s sent '%s' to the control thread", e->group, mp_msg_name(m->type));
    }
    check_declared(e);
}

static void on_down(void *user, const struct mp_err *why)
{
    struct mp_engine *e = user;
    struct mp_models *ms = e->models;
    mp_warn("engine %s is away: %s", e->group, why->message);
    atomic_store_explicit(&e->declared, 0, memory_order_release);
    for (uint32_t i = 0; i < ms->n_rows; i++) {
        struct row *r = &ms->rows[i];
        if (r->engine != e)
            continue;
        r->was_warm |= mp_pool_model_state(r->model) == MP_MODEL_WARM;
        r->told = r->asked = false;
        mp_pool_model_lost(r->model);
        ms->events->changed(ms->user, r->model);
    }
}

static const struct mp_link_events link_events = {on_up, on_message, on_down};

/* Tries failed models again, and asks how many requests run: an engine tells of changes of state by itself, not of counts. */
static void on_tick(uv_timer_t *t)
{
    struct mp_models *ms = mp_container_of(t, struct mp_models, tick);
    struct mp_msg ask = {.type = MP_MSG_MODELS, .id = COUNTS_ID};
    for (uint32_t i = 0; i < ms->n_engines; i++)
        mp_link_send(ms->engines[i]->link, &ask, NULL); /* away: it has none */
    for (uint32_t i = 0; i < ms->n_rows; i++)
        keep_loaded(ms, i);
}

/* ---- the table ---- */

struct mp_models *mp_models_new(struct mp_evloop *loop, struct mp_pool *pool, const struct mp_models_events *events,
                                void *user)
{
    struct mp_models *ms = mp_calloc(sizeof *ms);
    ms->loop = loop;
    ms->pool = pool;
    ms->events = events;
    ms->user = user;
    uv_timer_init(mp_evloop_uv(loop), &ms->tick);
    uv_timer_start(&ms->tick, on_tick, TICK_MS, TICK_MS);
    return ms;
}

static void on_tick_closed(uv_handle_t *h)
{
    struct mp_models *ms = mp_container_of((uv_timer_t *)h, struct mp_models, tick);
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

void mp_models_free(struct mp_models *ms)
{
    if (!ms)
        return;
    for (uint32_t i = 0; i < ms->n_engines; i++)
        mp_link_free(mp_move(&ms->engines[i]->link));
    uv_close((uv_handle_t *)&ms->tick, on_tick_closed);
}

struct mp_engine *mp_models_add_engine(struct mp_models *ms, const char *group, const char *path)
{
    struct mp_engine *e;
    if (ms->n_engines == MAX_ENGINES)
        return NULL;
    e = ms->engines[ms->n_engines++] = mp_calloc(sizeof *e);
    e->models = ms;
    e->group = mp_strdup(group);
    e->path = mp_strdup(path);
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

static void row_set(struct mp_models *ms, struct mp_pool_model *m, struct mp_engine *e,
                    const struct mp_conf_model *conf)
{
    struct row *r = row_of(ms, m);
    if (!r) {
        if (ms->n_rows == ms->cap_rows) {
            ms->cap_rows = ms->cap_rows ? 2 * ms->cap_rows : 8;
            ms->rows = mp_realloc(ms->rows, ms->cap_rows * sizeof *ms->rows);
        }
        r = &ms->rows[ms->n_rows++];
        *r = (struct row){.model = m, .engine = e};
    }
    r->keep = conf->settings.min_replicas > 0;
    if (r->spec && strcmp(r->spec, conf->spec_json) == 0)
        return;
    mp_free(r->spec);
    r->spec = mp_strdup(conf->spec_json);
    r->told = false;
    if (mp_link_up(e->link))
        send_declare(r, (uint32_t)(r - ms->rows));
}

int mp_models_declare(struct mp_models *ms, const struct mp_config *config, struct mp_err *err)
{
    for (uint32_t i = 0; i < config->n_models; i++) {
        const struct mp_conf_model *conf = &config->models[i];
        const char *group = mp_models_group(conf, err);
        struct mp_pool_model *m = NULL;
        if (!group)
            return MP_EUNAVAILABLE;
        int rc = mp_pool_declare(ms->pool, conf->name, &group, 1, &m, err);
        if (rc < 0)
            return rc;
        row_set(ms, m, ms->engines[mp_pool_model_provider(m)], conf);
    }
    return 0;
}

bool mp_models_ready(struct mp_models *ms, struct mp_pool_model **failed)
{
    bool ready = true;
    *failed = NULL;
    for (uint32_t i = 0; i < ms->n_engines; i++)
        ready &= mp_engine_declared(ms->engines[i]) != 0;
    for (uint32_t i = 0; i < ms->n_rows; i++) {
        const struct row *r = &ms->rows[i];
        enum mp_model_state state = mp_pool_model_state(r->model);
        if (!r->keep)
            continue;
        ready &= state == MP_MODEL_WARM;
        if (state == MP_MODEL_FAILED)
            *failed = r->model;
    }
    return ready;
}

struct mp_keeper *mp_models_keeper(struct mp_models *ms)
{
    return ms->keeper;
}

void mp_models_turn(struct mp_models *ms)
{
    (void)ms;
}

void mp_models_policies(struct mp_models *ms, struct mp_policies *policies, struct mp_generation *active)
{
    ms->policies = policies;
    ms->generation = active;
}

struct check {
    void (*done)(void *user, const struct mp_problems *problems);
    void *user;
    struct mp_problems problems;
};

static void end_check(void *arg)
{
    struct check *c = arg;
    c->done(c->user, &c->problems);
    mp_problems_free(&c->problems);
    mp_free(c);
}

int mp_models_check(struct mp_models *ms, const struct mp_config *config,
                    void (*done)(void *user, const struct mp_problems *problems), void *user)
{
    struct check *c = mp_calloc(sizeof *c);
    struct mp_err err = {0};
    c->done = done;
    c->user = user;
    for (uint32_t i = 0; i < config->n_models; i++)
        if (!mp_models_group(&config->models[i], &err))
            mp_problems_add(&c->problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
    mp_evloop_post(ms->loop, end_check, c);
    return 0;
}

void mp_engine_status(const struct mp_engine *e, struct mp_engine_status *out)
{
    *out = (struct mp_engine_status){.pid = mp_engine_declared(e), .wanted = true};
    snprintf(out->device, sizeof out->device, "%s", e->group);
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
