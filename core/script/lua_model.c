/* core/script/lua_model.c — a model as scripts hold it: model.name, model:chat{}, model:complete{}, model:scale{}, model:status(). */
#include "core/script/lua_model.h"

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/script/facts.h"
#include "core/script/format.h"
#include "core/script/keys.h"
#include "core/script/policy_impl.h"
#include "core/telemetry/metrics.h"
#include "core/vm/lua_json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { MAX_MESSAGES = 2048, MAX_PAYLOAD = 15 << 20 };

struct lua_model {
    struct mp_pool_model *pool; /* found at the first call; entries of a pool stay */
    size_t n;
    char name[]; /* n bytes and a NUL */
};

static char model_key;

static struct lua_model *model_of(lua_State *L, const char *fn)
{
    bool ours = lua_type(L, 1) == LUA_TUSERDATA && lua_getmetatable(L, 1);
    if (ours) {
        lua_pushlightuserdata(L, &model_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        ours = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    if (!ours)
        luaL_error(L, "%s: write it with a colon, on a model", fn);
    return lua_touserdata(L, 1);
}

/* The model in the pool; NULL when it is not there. */
static struct mp_pool_model *pool_of(struct lua_model *m, const struct mp_run *run)
{
    if (!m->pool && run->worker->port)
        m->pool = mp_pool_find(mp_pool_port_pool(run->worker->port), m->name);
    return m->pool;
}

/* ---- arguments ---- */

struct reporting {
    lua_State *L;
    const char *fn;
    char message[300], param[100];
};

static void report(void *ctx, const struct mp_step *steps, size_t n, const char *hint, const char *message)
{
    struct reporting *r = ctx;
    struct mp_buf path = {0};
    if (r->message[0])
        return;
    snprintf(r->message, sizeof r->message, "%s%s%s", message, hint ? ": " : "", hint ? hint : "");
    mp_schema_path(&path, steps, n);
    snprintf(r->param, sizeof r->param, "%s", mp_buf_cstr(&path));
    mp_buf_free(&path);
}

/* A key that no version of this function has is the script's mistake, not the request's. */
static void refuse_unknown(lua_State *L, const char *fn, const struct mp_schema *s)
{
    const char *names[32];
    for (uint32_t i = 0; i < s->n; i++)
        names[i] = s->fields[i].key;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        bool known = false;
        for (uint32_t i = 0; key && i < s->n; i++)
            known = known || strcmp(names[i], key) == 0;
        if (!key)
            luaL_error(L, "%s: a value without a key: write messages = { … }", fn);
        const char *near = known ? NULL : mp_nearest(key, names, s->n);
        if (!known && near)
            luaL_error(L, "%s: unknown key '%s': did you mean '%s'?", fn, key, near);
        if (!known)
            luaL_error(L, "%s: unknown key '%s'", fn, key);
    }
}

static bool fail(lua_State *L, const struct mp_err *err, const char *param)
{
    lua_settop(L, 0);
    mp_script_fail(L, err);
    if (param && param[0]) {
        lua_pushstring(L, param);
        lua_setfield(L, -2, "param");
    }
    return false;
}

__attribute__((format(printf, 3, 4))) static bool invalid(lua_State *L, const char *param, const char *fmt, ...)
{
    struct mp_err err = {.code = MP_EINVAL};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err.message, sizeof err.message, fmt, ap);
    va_end(ap);
    return fail(L, &err, param);
}

/* The list of messages at idx is well formed: what the template gets is the engine's to judge further. */
static bool check_messages(lua_State *L, int idx)
{
    size_t n = lua_istable(L, idx) ? lua_objlen(L, idx) : 0;
    if (!lua_istable(L, idx))
        return invalid(L, "messages", "'messages' must be a list of { role = …, content = … }, not a %s",
                       luaL_typename(L, idx));
    if (n == 0)
        return invalid(L, "messages", "'messages' must not be empty");
    if (n > MAX_MESSAGES)
        return invalid(L, "messages", "'messages' must have at most %d items, not %zu", MAX_MESSAGES, n);
    for (size_t i = 1; i <= n; i++) {
        char param[40];
        snprintf(param, sizeof param, "messages[%zu]", i);
        lua_rawgeti(L, idx, (int)i);
        if (!lua_istable(L, -1))
            return invalid(L, param, "'%s' must be a table, not a %s", param, luaL_typename(L, -1));
        lua_getfield(L, -1, "role");
        if (lua_type(L, -1) != LUA_TSTRING)
            return invalid(L, param, "'%s.role' must be a string", param);
        lua_getfield(L, -2, "content");
        int type = lua_type(L, -1);
        if (type != LUA_TSTRING && type != LUA_TTABLE && type != LUA_TLIGHTUSERDATA)
            return invalid(L, param, "'%s.content' must be a string", param);
        lua_pop(L, 3);
    }
    return true;
}

/* The messages or the prompt of the checked table at idx become the payload, in the run's memory. */
static bool take_payload(lua_State *L, struct mp_run *run, int idx, bool chat, struct mp_call_args *call)
{
    struct mp_err err = {0};
    lua_getfield(L, idx, chat ? "messages" : "prompt");
    int top = lua_gettop(L);
    if (chat) {
        struct mp_buf *b = &run->scratch;
        mp_buf_clear(b);
        if (!check_messages(L, top))
            return false;
        /* What came with the body and goes on to the engine is not the script's doing either. */
        mp_watch_credit(run->worker->watch, BODY_NS_PER_BYTE * (uint64_t)run->x->body_n);
        if (mp_lua_json_encode(L, top, b, MAX_PAYLOAD, &err) < 0) {
            mp_err_context(&err, "'messages'");
            return fail(L, &err, "messages");
        }
        call->payload = mp_arena_strndup(run->arena, b->data, b->len);
        call->n = b->len;
    } else {
        const char *s = lua_tolstring(L, top, &call->n);
        if (call->n > MAX_PAYLOAD)
            return invalid(L, "prompt", "'prompt' must have at most %d bytes", MAX_PAYLOAD);
        call->payload = mp_arena_strndup(run->arena, s, call->n);
    }
    call->kind = chat ? MP_PREPARE_CHAT : MP_PREPARE_TEXT;
    lua_settop(L, top - 1);
    return true;
}

static double number_or(lua_State *L, int idx, const char *key, double otherwise)
{
    lua_getfield(L, idx, key);
    double v = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return v;
}

/* The model's defaults, then the arguments of the checked table at idx. */
static bool take_settings(lua_State *L, struct mp_run *run, int idx, const struct mp_conf_sampling *d,
                          struct mp_msg_start *s)
{
    mp_msg_start_init(s);
    double temperature = number_or(L, idx, "temperature", isnan(d->temperature) ? 1 : d->temperature);
    double top_p = number_or(L, idx, "top_p", isnan(d->top_p) ? 1 : d->top_p);
    double min_p = number_or(L, idx, "min_p", isnan(d->min_p) ? 0 : d->min_p);
    double top_k = number_or(L, idx, "top_k", d->top_k < 0 ? 0 : (double)d->top_k);
    double seed = number_or(L, idx, "seed", d->seed < 0 ? -1 : (double)d->seed);
    double max_tokens = number_or(L, idx, "max_tokens", d->max_tokens < 0 ? -1 : (double)d->max_tokens);
    s->temperature = (float)temperature;
    s->greedy = temperature == 0;
    s->top_p = (float)top_p;
    s->min_p = (float)min_p;
    s->top_k = (int32_t)top_k;
    if (s->top_p == 0) { /* only the likeliest token makes up "0", and what a float cannot tell from it */
        s->top_p = 1;
        s->top_k = 1;
    }
    if (max_tokens >= 0)
        s->max_tokens = (uint32_t)max_tokens;
    if (seed >= 0)
        s->seed = (uint64_t)seed;
    else if (getrandom(&s->seed, sizeof s->seed, 0) != (ssize_t)sizeof s->seed)
        return invalid(L, NULL, "the system gives no random bytes for a seed");
    lua_getfield(L, idx, "stop");
    size_t n = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
    for (size_t i = 0; i < n && i < MP_MSG_MAX_STOPS; i++) {
        size_t len;
        lua_rawgeti(L, -1, (int)i + 1);
        const char *text = lua_tolstring(L, -1, &len);
        if (len > MP_MSG_MAX_STOP)
            return invalid(L, "stop", "'stop[%zu]' must have at most %d bytes, not %zu", i + 1, MP_MSG_MAX_STOP, len);
        s->stops[s->n_stops].p = mp_arena_strndup(run->arena, text, len);
        s->stops[s->n_stops++].n = (uint32_t)len;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return true;
}

bool model_read_args(lua_State *L, struct mp_run *run, const char *fn, bool chat, struct model_args *out)
{
    struct lua_model *m = model_of(L, fn);
    const struct mp_schema *schema = chat ? &mp_keys_chat : &mp_keys_complete;
    struct reporting r = {.L = L, .fn = fn};
    struct mp_checker c = {.L = L, .report = report, .ctx = &r, .field_words = true};
    struct mp_err err = {0};
    if (lua_type(L, 2) != LUA_TTABLE)
        luaL_error(L, "%s takes a table: %s{ %s = … }", fn, fn, chat ? "messages" : "prompt");
    lua_settop(L, 2);
    refuse_unknown(L, fn, schema);
    mp_schema_check(&c, schema, 2);
    if (c.problems)
        return invalid(L, r.param, "%s", r.message);
    *out = (struct model_args){.conf = mp_config_model(run->script->config, m->name)};
    if (!run->worker->port) {
        mp_err_set(&err, MP_EUNAVAILABLE, "model \"%s\": there is no engine here", m->name);
        return fail(L, &err, NULL);
    }
    if (!pool_of(m, run) || !out->conf) {
        mp_err_set(&err, MP_EUNAVAILABLE, "model \"%s\" is not here", m->name);
        return fail(L, &err, NULL);
    }
    out->asked = m->name;
    out->call.model = m->pool;
    out->call.priority = (int32_t)number_or(L, 3, "priority", 0);
    out->call.exact = number_or(L, 3, "max_tokens", -1) >= 0;
    policy_route(L, run, out);
    if (!take_settings(L, run, 3, &out->conf->sampling, &out->call.start) ||
        !take_payload(L, run, 3, chat, &out->call) || !policy_admit(L, run, out))
        return false;
    policy_rank(L, run, out);
    return true;
}

/* ---- calls ---- */

/* The weights' path becomes the file's name: where things lie on the server is the log's to say. */
static void hide_path(char *text, const struct mp_conf_model *conf)
{
    const char *slash = strrchr(conf->path, '/'), *name = slash ? slash + 1 : conf->path;
    size_t n = strlen(conf->path), n_name = strlen(name);
    for (char *at = text; n > n_name && (at = strstr(at, conf->path)) != NULL; at += n_name) {
        memmove(at + n_name, at + n, strlen(at + n) + 1);
        memcpy(at, name, n_name);
    }
}

static void count_refused(const char *model, const char *reason)
{
    const char *values[] = {model, reason};
    mp_cell_add(mp_metric_cell(MP_METRIC_QUEUE_REFUSED, values), 1);
}

void model_gone(const struct mp_conf_model *conf, const struct mp_call *call)
{
    struct mp_call_progress p;
    if (!call)
        return;
    mp_call_progress(call, mp_clock_mono_ns(), &p);
    if (p.phase == MP_CALL_QUEUED || p.phase == MP_CALL_LOADING)
        count_refused(conf->name, "gone");
}

void model_failed(const struct mp_conf_model *conf, struct mp_err *err, double retry_after)
{
    if (err->code == MP_EQUEUE || err->code == MP_EQTIMEOUT || err->code == MP_EDEADLINE)
        count_refused(conf->name, err->code == MP_EQUEUE ? "full" : err->code == MP_EQTIMEOUT ? "timeout" : "deadline");
    hide_path(err->message, conf);
    err->retry_after = fmax(err->retry_after, retry_after);
    if (!(err->retry_after > 0) && (err->code == MP_EQUEUE || err->code == MP_EQTIMEOUT || err->code == MP_EDEADLINE ||
                                    err->code == MP_EUNAVAILABLE))
        err->retry_after = 1;
}

struct mp_call *model_call(struct mp_run *run, const struct model_args *args, struct mp_err *err)
{
    struct mp_call_args call = args->call;
    struct mp_exchange *x = run->x;
    bool cold = mp_pool_model_state(call.model) != MP_MODEL_WARM;
    call.deadline_ns = x ? x->deadline_ns : 0;
    struct mp_call *c = mp_call_new(run->worker->port, &call, err);
    if (c)
        cold = mp_call_cold(c);
    else
        model_failed(args->conf, err, 0);
    if (x) {
        x->called.model = mp_pool_model_name(call.model);
        x->called.cold = x->called.cold || cold;
        x->called.queue_known = x->called.queue_known || !c; /* refused at once: it did not wait */
    }
    return c;
}

void model_note_wait(struct mp_run *run, const struct mp_call *call)
{
    struct mp_call_progress p;
    if (!run || !run->x || !call)
        return;
    mp_call_progress(call, mp_clock_mono_ns(), &p);
    run->x->called.queue_known = true;
    run->x->called.queue_ns += p.queue_ns;
}

/* ---- chat, complete ---- */

struct whole { /* an answer in one piece, in the run's memory */
    struct mp_pending pending;
    const struct mp_conf_model *conf;
    struct mp_call *call; /* NULL when it has ended */
    struct mp_buf text;
    struct mp_usage usage;
    enum mp_msg_finish finish;
    struct mp_err err;
};

void model_push_result(lua_State *L, const char *text, size_t n, enum mp_msg_finish finish,
                       const struct mp_usage *usage)
{
    lua_createtable(L, 0, 3);
    if (text) {
        lua_pushlstring(L, text, n);
        lua_setfield(L, -2, "text");
    }
    lua_pushstring(L, mp_msg_finish_name(finish));
    lua_setfield(L, -2, "finish_reason");
    lua_createtable(L, 0, 8);
    lua_pushnumber(L, usage->prompt_tokens);
    lua_setfield(L, -2, "prompt_tokens");
    lua_pushnumber(L, usage->completion_tokens);
    lua_setfield(L, -2, "completion_tokens");
#define X(name, field)                                  \
    lua_pushnumber(L, mp_format_seconds(usage->field)); \
    lua_setfield(L, -2, name);
    MP_USAGE_SECONDS(X)
#undef X
    lua_setfield(L, -2, "usage");
}

static void release(struct whole *w)
{
    mp_call_free(mp_move(&w->call));
    mp_buf_free(&w->text);
}

static void cancel_whole(struct mp_pending *p, enum mp_cancel reason)
{
    struct whole *w = mp_container_of(p, struct whole, pending);
    if (reason == MP_CANCEL_CLOSED)
        model_gone(w->conf, w->call);
    release(w);
}

static void on_text(void *user, const char *s, size_t n, const struct mp_usage *so_far)
{
    struct whole *w = user;
    (void)so_far;
    mp_buf_put(&w->text, s, n);
    mp_call_consumed(w->call, n);
}

static int push_whole(lua_State *L, void *ud)
{
    struct whole *w = ud;
    if (w->err.code) {
        lua_pushnil(L);
        mp_script_push_err(L, &w->err, 0, w->err.retry_after);
    } else {
        model_push_result(L, w->text.data ? w->text.data : "", w->text.len, w->finish, &w->usage);
    }
    mp_run_settle(&w->pending); /* had it raised before, the run's end would have released it */
    release(w);
    return w->err.code ? 2 : 1;
}

static void on_done(void *user, enum mp_msg_finish finish, const struct mp_usage *usage)
{
    struct whole *w = user;
    w->finish = finish;
    w->usage = *usage;
    model_note_wait(w->pending.run, w->call);
    mp_run_wake(&w->pending, push_whole, w);
}

static void on_failed(void *user, const struct mp_err *err, double retry_after)
{
    struct whole *w = user;
    w->err = *err;
    model_failed(w->conf, &w->err, retry_after);
    model_note_wait(w->pending.run, w->call);
    mp_run_wake(&w->pending, push_whole, w);
}

static int generate(lua_State *L, const char *fn, bool chat)
{
    static const struct mp_call_events events = {.text = on_text, .done = on_done, .failed = on_failed};
    struct mp_run *run = mp_run_require(L, fn, MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    struct model_args args;
    struct mp_err err = {0};
    if (!model_read_args(L, run, fn, chat, &args))
        return 2;
    struct whole *w = mp_run_alloc(run, sizeof *w);
    args.call.events = &events;
    args.call.user = w;
    w->conf = args.conf;
    w->call = model_call(run, &args, &err);
    if (!w->call)
        return mp_script_fail(L, &err);
    mp_run_pend(run, &w->pending, cancel_whole);
    return mp_run_park(L, run, &w->pending);
}

/* model:chat{ messages, max_tokens?, temperature?, … } → result, or nil and err. Waits. */
static int model_chat(lua_State *L)
{
    return generate(L, "model:chat", true);
}

/* model:complete{ prompt, … } → result, or nil and err. Waits. */
static int model_complete(lua_State *L)
{
    return generate(L, "model:complete", false);
}

/* ---- scale ---- */

/* mp.null resets: the bits of the keys of the table at 2 (and of its `queue`) that are null. */
static uint32_t take_reset(lua_State *L)
{
    uint32_t reset = 0;
    lua_getfield(L, 2, "queue");
    int queue = lua_gettop(L);
#define X(name, key, type, def, least, most)                                               \
    {                                                                                      \
        const char *dot = strchr(key, '.');                                                \
        if (dot && lua_istable(L, queue))                                                  \
            lua_getfield(L, queue, dot + 1);                                               \
        else if (dot)                                                                      \
            lua_pushvalue(L, queue);                                                       \
        else                                                                               \
            lua_getfield(L, 2, key);                                                       \
        reset |= (uint32_t)(lua_type(L, -1) == LUA_TLIGHTUSERDATA) << MP_SET_##name##_BIT; \
        lua_settop(L, queue);                                                              \
    }
    MP_POOL_SETTINGS(X)
#undef X
    lua_settop(L, queue - 1);
    return reset;
}

/* model:scale{ min_replicas = 1, … } → true, or nil and err. mp.null: what the configuration says again. Counts until a schedule sets the
 * same key. In a handler or a job. */
static int model_scale(lua_State *L)
{
    struct lua_model *m = model_of(L, "model:scale");
    struct mp_run *run = mp_run_require(L, "model:scale", MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    struct reporting r = {.L = L, .fn = "model:scale"};
    struct mp_checker c = {.L = L, .report = report, .ctx = &r, .field_words = true};
    struct mp_pool_override o;
    struct mp_err err = {0};
    const char *key = NULL;
    if (lua_type(L, 2) != LUA_TTABLE)
        return luaL_error(L, "model:scale takes a table: model:scale{ min_replicas = 1 }");
    lua_settop(L, 2);
    refuse_unknown(L, "model:scale", &mp_keys_settings);
    mp_schema_check(&c, &mp_keys_settings, 2);
    if (c.problems) {
        invalid(L, r.param, "%s", r.message);
        return 2;
    }
    mp_settings_take(L, 3, &o);
    uint32_t reset = take_reset(L);
    const char *conflict = mp_settings_conflict(&o, &key);
    if (conflict) {
        invalid(L, key, "%s", conflict);
        return 2;
    }
    if (!o.set && !reset)
        return luaL_error(L, "model:scale: nothing is set");
    struct mp_pool_model *pool = pool_of(m, run);
    if (!pool)
        mp_err_set(&err, MP_EUNAVAILABLE, "model \"%s\" is not here", m->name);
    if (!pool || mp_pool_model_ask(pool, &o, reset, &err) < 0)
        return mp_script_fail(L, &err);
    lua_pushboolean(L, true);
    return 1;
}

/* ---- status ---- */

/* model:status() → what is known of it, and the settings that count now: lua/moonpool/api.lua describes the table. */
static int model_status(lua_State *L)
{
    struct lua_model *m = model_of(L, "model:status");
    struct mp_run *run = mp_run_require(L, "model:status", MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    struct mp_pool_status s;
    struct mp_pool_facts facts;
    struct mp_err err = {0};
    if (!pool_of(m, run)) {
        mp_err_set(&err, MP_EUNAVAILABLE, "model \"%s\" is not here", m->name);
        return mp_script_fail(L, &err);
    }
    mp_pool_model_status(m->pool, &s);
    mp_pool_model_facts(m->pool, mp_pool_now(mp_pool_port_pool(run->worker->port)), &facts);
    const struct mp_conf_model *conf = mp_config_model(run->script->config, m->name);
    if (conf)
        hide_path(s.reason, conf);
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"running", s.running},
                   {"queued", s.queued},
                   {"waiting", s.waiting},
                   {"in_flight", s.in_flight},
                   {"calls", (double)s.calls},
                   {"loads", s.loads},
                   {"context", s.context},
                   {"memory", (double)s.memory},
                   {"need", (double)s.need},
                   {"reserved", (double)s.reserved},
                   {"cold_starts", (double)s.cold_starts},
                   {"load_seconds", s.load_seconds},
                   {"idle", s.idle},
                   {"state_seconds", s.state_seconds}};
    const char *const words[][2] = {
        {"state", mp_model_state_name(s.state)}, {"device", s.device}, {"arch", s.arch}, {"reason", s.reason}};
    lua_createtable(L, 0, MP_COUNT(numbers) + MP_COUNT(words) + MP_N_POOL_SETTINGS);
    for (size_t i = 0; i < MP_COUNT(numbers); i++) {
        lua_pushnumber(L, numbers[i].value);
        lua_setfield(L, -2, numbers[i].key);
    }
    for (size_t i = 0; i < MP_COUNT(words); i++) {
        lua_pushstring(L, words[i][1]);
        lua_setfield(L, -2, words[i][0]);
    }
    mp_settings_put(L, lua_gettop(L), &facts.settings);
    return 1;
}

/* ---- life ---- */

static const char *const later[] = {"embed"};

/* Upvalue 1: the methods. */
static int model_index(lua_State *L)
{
    struct lua_model *m = model_of(L, "model");
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    if (strcmp(key, "name") == 0) {
        lua_pushlstring(L, m->name, m->n);
        return 1;
    }
    for (size_t i = 0; i < MP_COUNT(later); i++)
        if (strcmp(key, later[i]) == 0)
            return luaL_error(L, "model:%s is not yet built", key);
    return luaL_error(
        L, "a model has no '%s' (it has: name, chat, chat_stream, complete, complete_stream, status, scale)", key);
}

void mp_lua_model_open(lua_State *L)
{
    static const struct luaL_Reg methods[] = {{"chat", model_chat},
                                              {"complete", model_complete},
                                              {"chat_stream", lua_model_chat_stream},
                                              {"complete_stream", lua_model_complete_stream},
                                              {"status", model_status},
                                              {"scale", model_scale},
                                              {NULL, NULL}};
    lua_pushlightuserdata(L, &model_key);
    lua_newtable(L);
    lua_newtable(L);
    mp_vm_lib(L, NULL, methods);
    lua_pushcclosure(L, model_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "model");
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void mp_lua_push_model(lua_State *L, const char *name)
{
    size_t n = strlen(name);
    mp_lua_push_models(L);
    lua_pushlstring(L, name, n);
    lua_rawget(L, -2);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        struct lua_model *m = lua_newuserdata(L, sizeof *m + n + 1);
        m->pool = NULL;
        m->n = n;
        memcpy(m->name, name, n + 1);
        lua_pushlightuserdata(L, &model_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        lua_setmetatable(L, -2);
        lua_pushlstring(L, name, n);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4); /* mp.models[name] */
    }
    lua_remove(L, -2);
}
