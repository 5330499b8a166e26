/* core/script/lua_shared.c — mp.shared "name" { … }: a dictionary of the whole process (shared.h) as scripts hold it: get set add incr cas ttl
 * del keys, and fetch, of which one computes and the others wait, on whatever worker they are. */
#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/script/run_impl.h"
#include "core/script/schema.h"
#include "core/script/shared.h"
#include "core/vm/lua_json.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#include <uv.h>

enum { ANYWHERE = MP_PHASE_HANDLE | MP_PHASE_BACKGROUND, KEEP_BUFFER = 64 << 10, MAX_KEYS = 1000 };

struct lua_shared {
    struct mp_shared *shared; /* opened by the first use */
    char name[];
};

static char shared_key, fetch_key;

static struct mp_shared *shared_of(lua_State *L, const char *fn)
{
    struct lua_shared *h = lua_type(L, 1) == LUA_TUSERDATA ? lua_touserdata(L, 1) : NULL;
    bool ours = h && lua_getmetatable(L, 1);
    if (ours) {
        lua_pushlightuserdata(L, &shared_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        ours = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    if (!ours)
        luaL_error(L, "%s: write it with a colon, on what mp.shared gave", fn);
    struct mp_run *run = mp_run_require(L, fn, ANYWHERE);
    const struct mp_config *c = run->script->config;
    for (uint32_t i = 0; !h->shared && i < c->n_shared; i++)
        if (strcmp(c->shared[i].name, h->name) == 0)
            h->shared = mp_shared_open(h->name, c->shared[i].bytes);
    return h->shared;
}

/* ---- arguments ---- */

static const char *key_of(lua_State *L, const char *fn, size_t *n)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        luaL_error(L, "%s: the key must be a string, not a %s", fn, luaL_typename(L, 2));
    const char *key = lua_tolstring(L, 2, n);
    if (*n == 0 || *n > MP_SHARED_MAX_KEY)
        luaL_error(L, "%s: a key has 1 to %d bytes, not %d", fn, MP_SHARED_MAX_KEY, (int)*n);
    return key;
}

static uint64_t ttl_at(lua_State *L, const char *fn, int idx)
{
    double seconds = NAN;
    if (lua_type(L, idx) == LUA_TNUMBER)
        seconds = lua_tonumber(L, idx);
    else if (lua_type(L, idx) == LUA_TSTRING && !mp_parse_seconds(lua_tostring(L, idx), &seconds))
        seconds = NAN;
    if (!(seconds > 0 && seconds <= 1e9))
        luaL_error(L, "%s: ttl must be seconds above 0 (a number, or text like \"5m\")", fn);
    uint64_t ns = (uint64_t)(seconds * 1e9);
    return ns ? ns : 1;
}

/* { ttl = …, init = … } at idx, or nothing. */
static uint64_t options_at(lua_State *L, const char *fn, int idx, double *init)
{
    uint64_t ttl = 0;
    if (lua_isnoneornil(L, idx))
        return 0;
    if (!lua_istable(L, idx))
        luaL_error(L, "%s: options must be a table like { ttl = 60 }, not a %s", fn, luaL_typename(L, idx));
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        const char *word = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        if (strcmp(word, "ttl") == 0)
            ttl = ttl_at(L, fn, lua_gettop(L));
        else if (init && strcmp(word, "init") == 0 && lua_type(L, -1) == LUA_TNUMBER)
            *init = lua_tonumber(L, -1);
        else if (init && strcmp(word, "init") == 0)
            luaL_error(L, "%s: init must be a number, not a %s", fn, luaL_typename(L, -1));
        else
            luaL_error(L, "%s: unknown option '%s' (it has: ttl%s)", fn, word, init ? ", init" : "");
    }
    return ttl;
}

/* The value at idx as bytes, appended to the script's scratch buffer. */
static void put_value(lua_State *L, const char *fn, int idx, struct mp_buf *b)
{
    struct mp_err err = {0};
    size_t n;
    double v;
    switch (lua_type(L, idx)) {
    case LUA_TSTRING: {
        const char *s = lua_tolstring(L, idx, &n);
        mp_buf_putc(b, MP_SHARED_STRING);
        mp_buf_put(b, s, n);
        return;
    }
    case LUA_TNUMBER:
        v = lua_tonumber(L, idx);
        mp_buf_putc(b, MP_SHARED_NUMBER);
        mp_buf_put(b, &v, sizeof v);
        return;
    case LUA_TBOOLEAN:
        mp_buf_putc(b, MP_SHARED_BOOLEAN);
        mp_buf_putc(b, (char)lua_toboolean(L, idx));
        return;
    case LUA_TTABLE:
    case LUA_TLIGHTUSERDATA: /* mp.null */
        mp_buf_putc(b, MP_SHARED_JSON);
        if (mp_lua_json_encode(L, idx, b, 0, &err) < 0)
            luaL_error(L, "%s: the value has no JSON form: %s", fn, err.message);
        return;
    case LUA_TNIL:
    case LUA_TNONE: luaL_error(L, "%s: the value is nil: a key is taken away by del", fn); return;
    default:
        luaL_error(L, "%s: a %s cannot be shared: strings, numbers, booleans and tables can", fn,
                   luaL_typename(L, idx));
    }
}

/* What put_value made. -0 +1 */
static void push_value(lua_State *L, const char *data, size_t n)
{
    struct mp_err err = {0};
    double v = 0;
    switch (n ? data[0] : 0) {
    case MP_SHARED_STRING: lua_pushlstring(L, data + 1, n - 1); return;
    case MP_SHARED_NUMBER:
        memcpy(&v, data + 1, sizeof v);
        lua_pushnumber(L, v);
        return;
    case MP_SHARED_BOOLEAN: lua_pushboolean(L, data[1]); return;
    case MP_SHARED_JSON:
        if (mp_lua_json_decode(L, data + 1, n - 1, 0, &err) < 0)
            luaL_error(L, "mp.shared: %s", err.message);
        return;
    default: lua_pushnil(L);
    }
}

/* The script's scratch buffer, empty: what raises while it is used leaks nothing. */
static struct mp_buf *scratch(lua_State *L)
{
    struct mp_buf *b = &mp_script_of(L)->line;
    if (b->cap > KEEP_BUFFER)
        mp_buf_free(b);
    mp_buf_clear(b);
    return b;
}

static int flag_or_fail(lua_State *L, int rc, const struct mp_err *err)
{
    if (rc < 0)
        return mp_script_fail(L, err);
    lua_pushboolean(L, rc);
    return 1;
}

/* ---- the methods ---- */

/* shared:get(key) → value, or nil. */
static int shared_get(lua_State *L)
{
    size_t n;
    struct mp_shared *s = shared_of(L, "shared:get");
    const char *key = key_of(L, "shared:get", &n);
    struct mp_buf *b = scratch(L);
    bool there = mp_shared_get(s, key, n, mp_clock_mono_ns(), b);
    push_value(L, b->data, there ? b->len : 0);
    return 1;
}

static int set(lua_State *L, const char *fn, enum mp_shared_when when)
{
    size_t n;
    struct mp_err err = {0};
    struct mp_shared *s = shared_of(L, fn);
    const char *key = key_of(L, fn, &n);
    uint64_t ttl = options_at(L, fn, 4, NULL);
    struct mp_buf *b = scratch(L);
    put_value(L, fn, 3, b);
    return flag_or_fail(L, mp_shared_set(s, key, n, b->data, b->len, ttl, mp_clock_mono_ns(), when, &err), &err);
}

/* shared:set(key, value, { ttl }?) → true, or nil and err when it is too large. */
static int shared_set(lua_State *L)
{
    return set(L, "shared:set", MP_SHARED_ALWAYS);
}

/* shared:add(key, value, { ttl }?) → true; false when it is there already. */
static int shared_add(lua_State *L)
{
    return set(L, "shared:add", MP_SHARED_ABSENT);
}

/* shared:cas(key, old, new, { ttl }?) → true; false when it holds something else than old (nil: anything). */
static int shared_cas(lua_State *L)
{
    size_t n, old_n = 0;
    struct mp_err err = {0};
    struct mp_shared *s = shared_of(L, "shared:cas");
    const char *key = key_of(L, "shared:cas", &n);
    uint64_t ttl = options_at(L, "shared:cas", 5, NULL);
    struct mp_buf *b = scratch(L);
    bool absent = lua_isnil(L, 3);
    if (!absent)
        put_value(L, "shared:cas", 3, b);
    old_n = b->len;
    put_value(L, "shared:cas", 4, b);
    return flag_or_fail(L,
                        mp_shared_cas(s, key, n, absent ? NULL : b->data, old_n, b->data + old_n, b->len - old_n, ttl,
                                      mp_clock_mono_ns(), &err),
                        &err);
}

/* shared:incr(key, by = 1, { init = 0, ttl }?) → the sum, or nil and err when it holds no number. */
static int shared_incr(lua_State *L)
{
    size_t n;
    struct mp_err err = {0};
    double init = 0, by = 1, sum;
    struct mp_shared *s = shared_of(L, "shared:incr");
    const char *key = key_of(L, "shared:incr", &n);
    if (!lua_isnoneornil(L, 3) && lua_type(L, 3) != LUA_TNUMBER)
        return luaL_error(L, "shared:incr: by must be a number, not a %s", luaL_typename(L, 3));
    if (!lua_isnoneornil(L, 3))
        by = lua_tonumber(L, 3);
    uint64_t ttl = options_at(L, "shared:incr", 4, &init);
    if (mp_shared_incr(s, key, n, by, init, ttl, mp_clock_mono_ns(), &sum, &err) < 0)
        return mp_script_fail(L, &err);
    lua_pushnumber(L, sum);
    return 1;
}

/* shared:ttl(key) → seconds left, math.huge, or nil; shared:ttl(key, seconds) → sets them: was it there? */
static int shared_ttl(lua_State *L)
{
    size_t n;
    double left;
    struct mp_shared *s = shared_of(L, "shared:ttl");
    const char *key = key_of(L, "shared:ttl", &n);
    uint64_t now = mp_clock_mono_ns();
    if (!lua_isnoneornil(L, 3)) {
        bool never = lua_type(L, 3) == LUA_TNUMBER && isinf(lua_tonumber(L, 3)) && lua_tonumber(L, 3) > 0;
        lua_pushboolean(L, mp_shared_expire(s, key, n, never ? 0 : ttl_at(L, "shared:ttl", 3), now));
        return 1;
    }
    if (mp_shared_ttl(s, key, n, now, &left))
        lua_pushnumber(L, left);
    else
        lua_pushnil(L);
    return 1;
}

/* shared:del(key) → was it there? */
static int shared_del(lua_State *L)
{
    size_t n;
    struct mp_shared *s = shared_of(L, "shared:del");
    const char *key = key_of(L, "shared:del", &n);
    lua_pushboolean(L, mp_shared_del(s, key, n, mp_clock_mono_ns()));
    return 1;
}

/* shared:keys(n = 100) → at most n of them, last used first. */
static int shared_keys(lua_State *L)
{
    struct mp_shared *s = shared_of(L, "shared:keys");
    double most = lua_isnoneornil(L, 2) ? 100 : lua_type(L, 2) == LUA_TNUMBER ? lua_tonumber(L, 2) : NAN;
    struct mp_buf *b = scratch(L);
    struct mp_rd r;
    if (!(most >= 1 && most <= MAX_KEYS))
        return luaL_error(L, "shared:keys: n must be a number between 1 and %d", MAX_KEYS);
    mp_shared_keys(s, (uint32_t)most, mp_clock_mono_ns(), b);
    mp_rd_init(&r, b->data, b->len);
    lua_newtable(L);
    mp_lua_json_mark_array(L, -1);
    for (int i = 1; mp_rd_left(&r); i++) {
        uint32_t n = mp_rd_u32(&r);
        lua_pushlstring(L, mp_rd_bytes(&r, n), n);
        lua_rawseti(L, -2, i);
    }
    return 1;
}

/* ---- fetch: see `fetch` in lua/moonpool/init.lua ---- */

struct fetch {                 /* a userdata: the ticket of one who computes, or who waits */
    struct mp_pending pending; /* on the run's list while it waits or owns the flight */
    struct mp_flight_waiter waiter;
    struct mp_flight *flight;   /* its own */
    struct inbox *inbox;        /* of its worker, while it waits */
    struct fetch *next, **prev; /* in the inbox, under its lock */
    lua_State *L;               /* the VM's main thread */
    int ref;                    /* keeps it while it waits */
    bool taken;                 /* out of the inbox: its task goes on, or is about to */
};

struct inbox { /* who was woken by other threads: one per worker that ever waited */
    uv_async_t async;
    pthread_mutex_t lock;
    struct fetch *first, **last;
    uint32_t waiting; /* of the worker's thread: while some wait, the loop has something to wait for */
};

static int push_landed(lua_State *L, void *ud);

static void on_woken(uv_async_t *async)
{
    struct inbox *in = mp_container_of(async, struct inbox, async);
    for (;;) {
        pthread_mutex_lock(&in->lock);
        struct fetch *f = in->first;
        if (f) {
            in->first = f->next;
            if (!in->first)
                in->last = &in->first;
            else
                in->first->prev = &in->first;
            f->prev = NULL;
            f->taken = true;
        }
        pthread_mutex_unlock(&in->lock);
        if (!f)
            return;
        mp_run_wake(&f->pending, push_landed, f);
    }
}

static struct inbox *inbox_of(struct mp_script_worker *w)
{
    struct inbox *in = w->inbox;
    if (!in) {
        in = w->inbox = mp_calloc(sizeof *in);
        in->last = &in->first;
        pthread_mutex_init(&in->lock, NULL);
        uv_async_init(w->loop, &in->async, on_woken);
        uv_unref((uv_handle_t *)&in->async);
    }
    return in;
}

static void free_inbox(uv_handle_t *h)
{
    struct inbox *in = mp_container_of((uv_async_t *)(void *)h, struct inbox, async);
    pthread_mutex_destroy(&in->lock);
    mp_free(in);
}

void lua_shared_leave(struct mp_script_worker *w)
{
    if (w->inbox)
        uv_close((uv_handle_t *)&w->inbox->async, free_inbox);
    w->inbox = NULL;
}

/* Any thread. */
static void on_flight(struct mp_flight_waiter *waiter)
{
    struct fetch *f = mp_container_of(waiter, struct fetch, waiter);
    struct inbox *in = f->inbox;
    pthread_mutex_lock(&in->lock);
    f->next = NULL;
    f->prev = in->last;
    *in->last = f;
    in->last = &f->next;
    pthread_mutex_unlock(&in->lock);
    uv_async_send(&in->async);
}

/* keep: its task goes on with push_landed, which still needs it. */
static void stop_waiting(struct fetch *f, bool keep)
{
    struct inbox *in = f->inbox;
    if (!in)
        return;
    mp_flight_leave(&f->waiter);
    pthread_mutex_lock(&in->lock); /* nobody puts it there any more */
    if (f->prev) {
        *f->prev = f->next;
        if (f->next)
            f->next->prev = f->prev;
        else
            in->last = f->prev;
        f->prev = NULL;
    }
    pthread_mutex_unlock(&in->lock);
    f->inbox = NULL;
    if (--in->waiting == 0)
        uv_unref((uv_handle_t *)&in->async);
    if (keep)
        return;
    luaL_unref(f->L, LUA_REGISTRYINDEX, f->ref);
    f->ref = LUA_NOREF;
}

/* The run, or the function of mp.all, ends, or its client left: one who waits computes instead. */
static void cancel_fetch(struct mp_pending *p, enum mp_cancel reason)
{
    struct fetch *f = mp_container_of(p, struct fetch, pending);
    stop_waiting(f, f->taken && reason == MP_CANCEL_CLOSED);
    if (f->flight)
        mp_flight_drop(mp_move(&f->flight));
}

static int fetch_gc(lua_State *L)
{
    struct fetch *f = lua_touserdata(L, 1);
    if (f->pending.next) {
        mp_run_settle(&f->pending);
        cancel_fetch(&f->pending, MP_CANCEL_FINISHED);
    }
    return 0;
}

/* nil and an error, from its JSON. */
static int push_failure(lua_State *L, const char *data, size_t n)
{
    struct mp_err err = {0};
    lua_pushnil(L);
    if (n == 0 || mp_lua_json_decode(L, data, n, 0, &err) < 0)
        lua_pushnil(L);
    else
        mp_script_mark_err(L);
    return 2;
}

/* What board gives one who waited: its ticket, when it is to compute now; else false and the result. Protected, in the run's budget. */
static int push_landed(lua_State *L, void *ud)
{
    struct fetch *f = ud;
    struct mp_flight_result *r = f->waiter.result;
    int n = 1;
    if (!f->inbox) { /* its client left after it was woken */
        struct mp_err err = {0};
        mp_err_set(&err, MP_ECLOSED, "the client has left");
        luaL_unref(L, LUA_REGISTRYINDEX, f->ref);
        return mp_script_fail(L, &err);
    }
    if (!r) {
        f->flight = f->waiter.flight;
        f->waiter.flight = NULL;
        mp_flight_own(f->flight, f->pending.holder);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->ref);
        stop_waiting(f, false); /* it stays pending: now with a flight of its own */
        return 1;
    }
    lua_pushboolean(L, false);
    if (r->failed)
        n += push_failure(L, r->data, r->n);
    else
        push_value(L, r->data, r->n), n++;
    mp_run_settle(&f->pending); /* had it raised before, the run's end would have released it */
    stop_waiting(f, false);
    return n;
}

/* board(shared, key, options, compute): false, value (it is there); or a ticket: compute, and land it. Waits while another one computes. */
static int fetch_board(lua_State *L)
{
    static const char fn[] = "shared:fetch";
    size_t n;
    bool itself = false;
    struct mp_shared *s = shared_of(L, fn);
    struct mp_run *run = mp_run_require(L, fn, ANYWHERE);
    const char *key = key_of(L, fn, &n);
    options_at(L, fn, 3, NULL);
    if (lua_type(L, 4) != LUA_TFUNCTION)
        return luaL_error(L, "%s: what computes the value must be a function, not a %s", fn, luaL_typename(L, 4));
    struct mp_buf *b = scratch(L);
    if (mp_shared_get(s, key, n, mp_clock_mono_ns(), b)) {
        lua_pushboolean(L, false);
        push_value(L, b->data, b->len);
        return 2;
    }
    if (!run->worker->loop)
        return luaL_error(L, "%s: this worker has no loop", fn);
    struct fetch *f = lua_newuserdata(L, sizeof *f);
    memset(f, 0, sizeof *f);
    f->ref = LUA_NOREF;
    f->L = run->script->L;
    f->waiter.woken = on_flight;
    lua_pushlightuserdata(L, &fetch_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    f->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    f->inbox = inbox_of(run->worker);
    f->flight = mp_flight_board(s, key, n, run->current, &f->waiter, &itself);
    if (f->flight || itself) {
        f->inbox = NULL;
        luaL_unref(L, LUA_REGISTRYINDEX, f->ref);
        f->ref = LUA_NOREF;
    }
    if (itself)
        return luaL_error(L, "%s(\"%s\"): its own function asks for the same key", fn, key);
    mp_run_pend(run, &f->pending, cancel_fetch);
    f->pending.holder = run->current;
    if (f->flight)
        return 1;
    if (f->inbox->waiting++ == 0)
        uv_ref((uv_handle_t *)&f->inbox->async);
    return mp_run_park(L, run, &f->pending);
}

/* land(shared, key, options, ticket, ok, value, err): what pcall of the function gave; stores a value, tells those who wait. */
static int fetch_land(lua_State *L)
{
    static const char fn[] = "shared:fetch";
    size_t n;
    struct mp_err err = {0};
    struct mp_shared *s = shared_of(L, fn);
    const char *key = key_of(L, fn, &n);
    uint64_t ttl = options_at(L, fn, 3, NULL);
    struct fetch *f = lua_touserdata(L, 4);
    bool raised = !lua_toboolean(L, 5), value = !raised && !lua_isnil(L, 6);
    int e = raised ? 6 : 7;
    struct mp_buf *b = scratch(L);
    lua_settop(L, 7);
    if (value) {
        put_value(L, fn, 6, b); /* raises: then the ticket's end drops the flight */
        mp_shared_set(s, key, n, b->data, b->len, ttl, mp_clock_mono_ns(), MP_SHARED_ALWAYS,
                      &err); /* too large: not kept */
    } else if (!lua_istable(L, e) || mp_lua_json_encode(L, e, b, KEEP_BUFFER, &err) < 0) {
        mp_buf_clear(b);
        if (lua_type(L, e) == LUA_TSTRING || raised) {
            const char *text = raised ? "the function that computes a shared value failed" : lua_tostring(L, e);
            mp_buf_puts(b, "{\"code\":\"script_error\",\"status\":500,\"message\":");
            mp_json_put_string(b, text, strlen(text));
            mp_buf_puts(b, "}");
        }
    }
    mp_run_settle(&f->pending);
    if (f->flight)
        mp_flight_land(mp_move(&f->flight), !value, b->data, b->len);
    return 0;
}

/* ---- opening ---- */

/* Upvalue 1: the methods. */
static int shared_index(lua_State *L)
{
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    return luaL_error(L, "a shared dictionary has no '%s' (it has: get, set, add, incr, cas, ttl, del, keys, fetch)",
                      key);
}

static int shared_gc(lua_State *L)
{
    struct lua_shared *h = lua_touserdata(L, 1);
    mp_shared_close(mp_move(&h->shared));
    return 0;
}

void mp_lua_shared_open(lua_State *L)
{
    static const struct luaL_Reg methods[] = {{"get", shared_get}, {"set", shared_set},   {"add", shared_add},
                                              {"cas", shared_cas}, {"incr", shared_incr}, {"ttl", shared_ttl},
                                              {"del", shared_del}, {"keys", shared_keys}, {NULL, NULL}};
    lua_pushlightuserdata(L, &fetch_key);
    lua_newtable(L);
    lua_pushcfunction(L, fetch_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushliteral(L, "ticket");
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);

    lua_pushlightuserdata(L, &shared_key);
    lua_newtable(L);
    lua_newtable(L);
    mp_vm_lib(L, NULL, methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -5, "__shared"); /* init.lua adds fetch, from board and land */
    lua_pushcclosure(L, shared_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, shared_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushliteral(L, "shared");
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, fetch_board);
    lua_setfield(L, -2, "__board");
    lua_pushcfunction(L, fetch_land);
    lua_setfield(L, -2, "__land");
}

void mp_lua_push_shared(lua_State *L, const char *name)
{
    size_t n = strlen(name);
    struct lua_shared *h = lua_newuserdata(L, sizeof *h + n + 1);
    h->shared = NULL;
    memcpy(h->name, name, n + 1);
    lua_pushlightuserdata(L, &shared_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
}
