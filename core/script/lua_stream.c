/* core/script/lua_stream.c — a generation that streams. A handler returns it (then C pumps it to the client, without Lua), or
 * reads it by hand: stream:deltas(), stream:result().
 *
 * A client or a proxy that hears nothing for long gives up. So while the model is not ready the pump sends the head, and then comments
 * that say what is waited for, until the first token. From the head on an error can only be an event. */
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/script/format.h"
#include "core/script/lua_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum {
    WINDOW = 65536,   /* bytes of text that may wait here for whoever reads */
    SILENCE_MS = 4500 /* the client hears something at least every 5 s, a busy loop's delays included */
};

struct mp_stream { /* a userdata; what a script kept of it stays valid, but ended, when its run is over */
    struct mp_pending pending;
    struct mp_run *run; /* NULL when that is over */
    struct mp_call *call;
    struct mp_buf text; /* all of it so far */
    size_t read;        /* bytes of it that went to the script or the client */
    size_t owed;        /* bytes read by the pump that the engine has not got back: the client is slow */
    struct mp_usage usage;
    enum mp_msg_finish finish;
    bool prepared, ended; /* ended: done, or err.code is set */
    bool noted;           /* how long it waited is told */
    struct mp_err err;
    const struct mp_conf_model *conf;
    struct ticker *ticker; /* until the first token */
    bool late;             /* the client has heard nothing for SILENCE_MS */
    int self; /* reference to the userdata while someone waits: a yield leaves nothing of it on the coroutine's stack */
    enum { WAIT_NOTHING, WAIT_PREPARED, WAIT_DELTA, WAIT_RESULT } wait;
    const struct mp_formatter *formatter;
    struct mp_format_options format;
    bool pumping, head, begun,
        full; /* the pump: has the stream; sent the answer's head; the format's; must not write now */
};

struct ticker { /* on the heap: libuv closes it after the stream may be gone */
    uv_timer_t timer;
    struct mp_stream *stream;
};

static char stream_key;

struct mp_stream *lua_stream_test(lua_State *L, int idx)
{
    if (lua_type(L, idx) != LUA_TUSERDATA || !lua_getmetatable(L, idx))
        return NULL;
    lua_pushlightuserdata(L, &stream_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    bool ours = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return ours ? lua_touserdata(L, idx) : NULL;
}

static struct mp_stream *stream_of(lua_State *L, const char *fn)
{
    struct mp_stream *s = lua_stream_test(L, 1);
    if (!s)
        luaL_error(L, "%s: write it with a colon, on a stream", fn);
    return s;
}

static void let_go(lua_State *L, struct mp_stream *s)
{
    luaL_unref(L, LUA_REGISTRYINDEX, s->self); /* LUA_NOREF is fine */
    s->self = LUA_NOREF;
}

static void free_ticker(uv_handle_t *h)
{
    mp_free(mp_container_of((uv_timer_t *)(void *)h, struct ticker, timer));
}

static void stop_ticker(struct mp_stream *s)
{
    struct ticker *t = mp_move(&s->ticker);
    if (t)
        uv_close((uv_handle_t *)&t->timer, free_ticker);
}

static void end_with(struct mp_stream *s, int code, const char *message)
{
    if (s->ended)
        return;
    s->ended = true;
    mp_err_set(&s->err, code, "%s", message);
}

static void cancel_stream(struct mp_pending *p, enum mp_cancel reason)
{
    struct mp_stream *s = mp_container_of(p, struct mp_stream, pending);
    stop_ticker(s);
    if (reason == MP_CANCEL_CLOSED)
        model_gone(s->conf, s->call);
    mp_call_free(mp_move(&s->call));
    s->wait = WAIT_NOTHING;
    let_go(p->run->script->L, s);
    if (reason == MP_CANCEL_CLOSED)
        end_with(s, MP_ECLOSED, "the client has left");
    else
        end_with(s, MP_ECANCELLED, "the stream was cancelled");
    if (reason != MP_CANCEL_CLOSED) {
        s->run = NULL;
        mp_buf_free(&s->text);
        s->read = 0;
    }
}

/* ---- by hand ---- */

/* New text as { text = … }, or nothing at the end. */
static int push_delta(lua_State *L, void *ud)
{
    struct mp_stream *s = ud;
    size_t n = s->text.len - s->read;
    if (n == 0) {
        let_go(L, s);
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, 0, 1);
    lua_pushlstring(L, s->text.data + s->read, n);
    lua_setfield(L, -2, "text");
    s->read += n;
    if (s->call)
        mp_call_consumed(s->call, n);
    let_go(L, s);
    return 1;
}

static int push_result(lua_State *L, void *ud)
{
    struct mp_stream *s = ud;
    s->read = s->text.len;
    if (s->err.code) {
        lua_pushnil(L);
        mp_script_push_err(L, &s->err, 0, s->err.retry_after);
    } else {
        model_push_result(L, s->text.data ? s->text.data : "", s->text.len, s->finish, &s->usage);
    }
    let_go(L, s);
    return s->err.code ? 2 : 1;
}

/* What model:chat_stream returns: the stream, or why there is none. */
static int push_stream(lua_State *L, void *ud)
{
    struct mp_stream *s = ud;
    if (s->err.code) {
        lua_pushnil(L);
        mp_script_push_err(L, &s->err, 0, s->err.retry_after);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, s->self);
    }
    let_go(L, s);
    return s->err.code ? 2 : 1;
}

/* Something came: whoever waits for it goes on. Nothing of s may be used after. */
static void tell(struct mp_stream *s)
{
    if (s->wait == WAIT_PREPARED && (s->prepared || s->ended || s->late)) {
        s->wait = WAIT_NOTHING;
        mp_run_wake(&s->pending, push_stream, s);
    } else if (s->wait == WAIT_DELTA && (s->text.len > s->read || s->ended)) {
        s->wait = WAIT_NOTHING;
        mp_run_wake(&s->pending, push_delta, s);
    } else if (s->wait == WAIT_RESULT && s->ended) {
        s->wait = WAIT_NOTHING;
        mp_run_wake(&s->pending, push_result, s);
    }
}

/* ---- the pump ---- */

static void pump_write(struct mp_stream *s, const struct mp_buf *b)
{
    struct mp_exchange *x = s->run->x;
    if (!s->head) {
        struct mp_run *run = s->run;
        s->head = true;
        x->answered = true;
        x->ops->begin(x, run->status ? run->status : 200, run->answer.headers, run->answer.n_headers);
    }
    if (b->len && !x->ops->write(x, b->data, b->len))
        s->full = true;
}

static void pump_begin(struct mp_stream *s, struct mp_buf *b)
{
    if (!s->begun && s->formatter->begin)
        s->formatter->begin(&s->format, b);
    s->begun = true;
}

/* ": loading smollm2, 42 %, about 3 s" */
static void pump_comment(struct mp_stream *s)
{
    struct mp_call_progress p;
    struct mp_buf b = {0};
    mp_call_progress(s->call, mp_clock_mono_ns(), &p);
    switch (p.phase) {
    case MP_CALL_QUEUED: mp_buf_printf(&b, ": queued, %u ahead", p.ahead); break;
    case MP_CALL_LOADING:
        mp_buf_printf(&b, ": loading %s", s->conf->name);
        if (p.total)
            mp_buf_printf(&b, ", %.0f %%", floor(100 * fmin((double)p.done / (double)p.total, 1)));
        break;
    default: mp_buf_puts(&b, ": started"); break;
    }
    if (p.phase != MP_CALL_RUNNING && p.expected > 0)
        mp_buf_printf(&b, ", about %.0f s", ceil(p.expected));
    mp_buf_puts(&b, "\n\n");
    pump_write(s, &b);
    mp_buf_free(&b);
}

static void pump_text(struct mp_stream *s)
{
    size_t n = s->text.len - s->read;
    struct mp_buf b = {0};
    if (n == 0)
        return;
    pump_begin(s, &b);
    s->formatter->delta(&s->format, &b, s->text.data + s->read, n);
    /* What went out is not kept: nobody can ask for stream:result() any more. */
    mp_buf_clear(&s->text);
    s->read = 0;
    pump_write(s, &b);
    mp_buf_free(&b);
    s->owed += n;
    if (!s->full && s->call)
        mp_call_consumed(s->call, s->owed);
    s->owed = s->full ? s->owed : 0;
}

/* Sends what there is; the run may be over after. */
static void pump(struct mp_stream *s)
{
    struct mp_run *run = s->run;
    struct mp_buf b = {0};
    if (s->full)
        return;
    pump_text(s);
    if (!s->ended)
        return;
    if (s->err.code && !s->head) {
        run->mode = ANSWER_OPEN;
        answer_error(run, &s->err, 0, s->err.retry_after);
        run_complete(run);
        return;
    }
    if (s->err.code) {
        s->formatter->error(&s->format, &b, &s->err);
    } else {
        struct mp_format_result r = {.finish_reason = mp_msg_finish_name(s->finish), .usage = s->usage};
        pump_begin(s, &b);
        s->formatter->done(&s->format, &b, &r);
    }
    pump_write(s, &b);
    mp_buf_free(&b);
    run_complete(run);
}

void stream_pump(struct mp_stream *s)
{
    s->pumping = true;
    if (s->late && s->ticker)
        pump_comment(s);
    pump(s);
}

void stream_pump_break(struct mp_stream *s, const struct mp_err *err)
{
    struct mp_buf b = {0};
    s->formatter->error(&s->format, &b, err);
    pump_write(s, &b);
    mp_buf_free(&b);
}

/* SILENCE_MS without a token. Nothing of s may be used after. */
static void on_tick(uv_timer_t *timer)
{
    struct mp_stream *s = mp_container_of(timer, struct ticker, timer)->stream;
    s->late = true;
    if (!s->pumping)
        tell(s);
    else if (!s->full)
        pump_comment(s);
}

static void start_ticker(struct mp_stream *s)
{
    const char *debug = getenv("MOONPOOL_DEBUG_SILENCE_MS");
    long ms = debug ? strtol(debug, NULL, 10) : 0;
    if (!s->run->worker->loop)
        return;
    s->ticker = mp_calloc(sizeof *s->ticker);
    s->ticker->stream = s;
    uv_timer_init(s->run->worker->loop, &s->ticker->timer);
    ms = ms > 0 && ms < SILENCE_MS ? ms : SILENCE_MS;
    uv_timer_start(&s->ticker->timer, on_tick, (uint64_t)ms, (uint64_t)ms);
}

bool lua_stream_belongs(const struct mp_stream *s, const struct mp_run *run)
{
    return s->run == run;
}

void stream_pump_writable(struct mp_stream *s)
{
    s->full = false;
    if (s->call && s->owed)
        mp_call_consumed(s->call, s->owed);
    s->owed = 0;
    pump(s);
}

/* ---- what the call tells ---- */

static void note_wait(struct mp_stream *s)
{
    if (!s->noted)
        model_note_wait(s->run, s->call);
    s->noted = true;
}

static void on_prepared(void *user, uint32_t prompt_tokens, uint32_t left)
{
    struct mp_stream *s = user;
    (void)left;
    s->prepared = true;
    s->usage.prompt_tokens = prompt_tokens;
    tell(s);
}

static void on_text(void *user, const char *text, size_t n, const struct mp_usage *so_far)
{
    struct mp_stream *s = user;
    s->usage = *so_far;
    s->prepared = true;
    stop_ticker(s);
    note_wait(s);
    mp_buf_put(&s->text, text, n);
    if (s->pumping)
        pump(s);
    else if (s->wait == WAIT_RESULT) /* it keeps the text: no reader to wait for */
        mp_call_consumed(s->call, n);
    else
        tell(s);
}

static void end(struct mp_stream *s)
{
    s->ended = true;
    stop_ticker(s);
    mp_call_free(mp_move(&s->call));
    if (s->pumping)
        pump(s);
    else
        tell(s);
}

static void on_done(void *user, enum mp_msg_finish finish, const struct mp_usage *usage)
{
    struct mp_stream *s = user;
    s->finish = finish;
    s->usage = *usage;
    note_wait(s);
    end(s);
}

static void on_failed(void *user, const struct mp_err *err, double retry_after)
{
    struct mp_stream *s = user;
    s->err = *err;
    model_failed(s->conf, &s->err, retry_after);
    note_wait(s);
    end(s);
}

/* ---- model:chat_stream, model:complete_stream ---- */

static int generate(lua_State *L, const char *fn, bool chat)
{
    static const struct mp_call_events events = {
        .prepared = on_prepared, .text = on_text, .done = on_done, .failed = on_failed};
    struct mp_run *run = mp_run_require(L, fn, MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    struct model_args args;
    struct mp_err err = {0};
    if (!model_read_args(L, run, fn, chat, &args))
        return 2;
    lua_settop(L, 0);
    struct mp_stream *s = lua_newuserdata(L, sizeof *s);
    memset(s, 0, sizeof *s);
    s->self = LUA_NOREF;
    s->ended = true; /* until the call stands: what follows may raise */
    lua_pushlightuserdata(L, &stream_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, 1);
    lua_pushvalue(L, 1);
    s->self = luaL_ref(L, LUA_REGISTRYINDEX);
    s->run = run;
    s->conf = args.conf;
    s->formatter = &mp_format_default;
    s->format = (struct mp_format_options){
        .request_id = run->x->id, .model = args.conf->name, .created = (int64_t)(mp_clock_wall_ns() / 1000000000u)};
    args.call.events = &events;
    args.call.user = s;
    args.call.start.window = WINDOW;
    s->call = model_call(run, &args, &err);
    if (!s->call) {
        let_go(L, s);
        return mp_script_fail(L, &err);
    }
    s->ended = false;
    s->wait = WAIT_PREPARED;
    mp_run_pend(run, &s->pending, cancel_stream);
    start_ticker(s);
    return mp_run_park(L, run, &s->pending);
}

int lua_model_chat_stream(lua_State *L)
{
    return generate(L, "model:chat_stream", true);
}

int lua_model_complete_stream(lua_State *L)
{
    return generate(L, "model:complete_stream", false);
}

/* ---- methods ---- */

static struct mp_run *readable(lua_State *L, struct mp_stream *s, const char *fn)
{
    struct mp_run *run = mp_run_require(L, fn, MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    if (s->run && s->run != run)
        luaL_error(L, "%s: the stream belongs to another request", fn);
    if (s->wait != WAIT_NOTHING)
        luaL_error(L, "%s: another function of this request waits for the stream", fn);
    return run;
}

/* The iterator of stream:deltas(); upvalue 1: the stream. Waits. */
static int next_delta(lua_State *L)
{
    struct mp_stream *s = lua_touserdata(L, lua_upvalueindex(1));
    struct mp_run *run = readable(L, s, "stream:deltas");
    if (s->text.len > s->read || s->ended)
        return push_delta(L, s);
    s->wait = WAIT_DELTA;
    lua_pushvalue(L, lua_upvalueindex(1));
    s->self = luaL_ref(L, LUA_REGISTRYINDEX);
    return mp_run_park(L, run, &s->pending);
}

/* stream:deltas() → an iterator of { text = … }; it ends with the stream, well or not: stream:result() tells. */
static int stream_deltas(lua_State *L)
{
    stream_of(L, "stream:deltas");
    lua_settop(L, 1);
    lua_pushcclosure(L, next_delta, 1);
    return 1;
}

/* stream:result() → what model:chat returns. Waits for the end. */
static int stream_result(lua_State *L)
{
    struct mp_stream *s = stream_of(L, "stream:result");
    struct mp_run *run = readable(L, s, "stream:result");
    if (s->ended)
        return push_result(L, s);
    if (s->text.len > s->read && s->call) {
        mp_call_consumed(s->call, s->text.len - s->read);
        s->read = s->text.len;
    }
    s->wait = WAIT_RESULT;
    lua_settop(L, 1);
    s->self = luaL_ref(L, LUA_REGISTRYINDEX);
    return mp_run_park(L, run, &s->pending);
}

static const char *option_string(lua_State *L, struct mp_run *run, const char *key)
{
    size_t n;
    lua_getfield(L, 3, key);
    if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "stream:as: %s must be a string, not a %s", key, luaL_typename(L, -1));
    const char *s = lua_isnil(L, -1) ? NULL : lua_tolstring(L, -1, &n);
    s = s ? mp_arena_strndup(run->arena, s, n) : NULL;
    lua_pop(L, 1);
    return s;
}

/* stream:as(name, { id?, model?, include_usage? }?) → the stream, which will be sent in that format. */
static int stream_as(lua_State *L)
{
    struct mp_stream *s = stream_of(L, "stream:as");
    struct mp_run *run = mp_run_require(L, "stream:as", MP_PHASE_HANDLE);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    lua_settop(L, 3);
    if (!name)
        return luaL_error(L, "stream:as: the format's name must be a string, not a %s", luaL_typename(L, 2));
    const struct mp_formatter *f = mp_formatter_find(name);
    if (!f) {
        struct mp_buf *b = &run->scratch;
        mp_buf_clear(b);
        mp_formatter_names(b);
        return luaL_error(L, "stream:as: no format \"%s\" (there are: %s)", name, mp_buf_cstr(b));
    }
    s->formatter = f;
    if (lua_istable(L, 3)) {
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
            const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
            if (strcmp(key, "id") != 0 && strcmp(key, "model") != 0 && strcmp(key, "include_usage") != 0)
                return luaL_error(L, "stream:as: unknown key '%s' (known: id, model, include_usage)", key);
        }
        const char *id = option_string(L, run, "id"), *model = option_string(L, run, "model");
        s->format.id = id ? id : s->format.id;
        s->format.model = model ? model : s->format.model;
        lua_getfield(L, 3, "include_usage");
        s->format.include_usage = lua_toboolean(L, -1);
    } else if (!lua_isnil(L, 3)) {
        return luaL_error(L, "stream:as: the options must be a table, not a %s", luaL_typename(L, 3));
    }
    lua_settop(L, 1);
    return 1;
}

/* Collected: nobody can read it any more, so nobody shall compute it. */
static int stream_gc(lua_State *L)
{
    struct mp_stream *s = lua_touserdata(L, 1);
    mp_run_settle(&s->pending);
    stop_ticker(s);
    mp_call_free(mp_move(&s->call));
    mp_buf_free(&s->text);
    return 0;
}

void mp_lua_stream_open(lua_State *L)
{
    static const struct luaL_Reg methods[] = {
        {"deltas", stream_deltas}, {"result", stream_result}, {"as", stream_as}, {NULL, NULL}};
    lua_pushlightuserdata(L, &stream_key);
    lua_newtable(L);
    lua_newtable(L);
    mp_vm_lib(L, NULL, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, stream_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushliteral(L, "stream");
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
}
