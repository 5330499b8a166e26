/* core/script/lua_res.c — answering: `res` (status, header, events) and mp.reply. Most handlers need neither: what they
 * return is the answer. res:events() begins an answer of server-sent events by hand, with back-pressure. */
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/script/format.h"
#include "core/script/run_impl.h"
#include "core/vm/lua_json.h"

#include <math.h>
#include <string.h>

struct lua_res {
    struct mp_run *run; /* NULL when the request is over */
};

static char res_key, events_key, reply_key;

static void push_meta(lua_State *L, void *key)
{
    lua_pushlightuserdata(L, key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

static bool has_meta(lua_State *L, int idx, void *key)
{
    if (!lua_getmetatable(L, idx))
        return false;
    push_meta(L, key);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

static struct mp_run *run_of(lua_State *L, void *key, const char *fn)
{
    struct lua_res *r = lua_type(L, 1) == LUA_TUSERDATA && has_meta(L, 1, key) ? lua_touserdata(L, 1) : NULL;
    if (!r)
        luaL_error(L, "%s: write it with a colon", fn);
    if (!r->run)
        luaL_error(L, "%s cannot be used when its request is over", fn);
    mp_run_require(L, fn, MP_PHASE_HANDLE);
    return r->run;
}

static int status_value(lua_State *L, const char *fn, int idx)
{
    double v = lua_type(L, idx) == LUA_TNUMBER ? lua_tonumber(L, idx) : NAN;
    if (!(v >= 200 && v <= 599 && v == floor(v)))
        luaL_error(L, "%s: status must be a whole number between 200 and 599", fn);
    return (int)v;
}

/* A header's name at `name` and a string or number at `value`; raises when it may not be set. */
static void check_header(lua_State *L, const char *fn, int name, int value)
{
    size_t name_n, value_n;
    if (lua_type(L, name) != LUA_TSTRING)
        luaL_error(L, "%s: a header's name must be a string, not a %s", fn, luaL_typename(L, name));
    const char *k = lua_tolstring(L, name, &name_n);
    if (lua_type(L, value) != LUA_TSTRING && lua_type(L, value) != LUA_TNUMBER)
        luaL_error(L, "%s: header '%s' must be a string or a number, not a %s", fn, k, luaL_typename(L, value));
    const char *v = lua_tolstring(L, value, &value_n);
    const char *refusal = answer_header_refusal(k, name_n, v, value_n);
    if (refusal)
        luaL_error(L, "%s: header '%s' cannot be set: %s", fn, k, refusal);
}

/* ---- res ---- */

/* res:status(code): of the table, string or events that follow. Returns res. */
static int res_status(lua_State *L)
{
    struct mp_run *run = run_of(L, &res_key, "res:status");
    if (run->mode != ANSWER_OPEN)
        return luaL_error(L, "res:status cannot be used after res:events()");
    run->status = status_value(L, "res:status", 2);
    lua_settop(L, 1);
    return 1;
}

/* res:header(name, value): replaces it; value nil is an error. Returns res. */
static int res_header(lua_State *L)
{
    struct mp_run *run = run_of(L, &res_key, "res:header");
    size_t name_n, value_n;
    lua_settop(L, 3);
    if (run->mode != ANSWER_OPEN)
        return luaL_error(L, "res:header cannot be used after res:events()");
    check_header(L, "res:header", 2, 3);
    const char *name = lua_tolstring(L, 2, &name_n), *value = lua_tolstring(L, 3, &value_n);
    answer_header(run, name, name_n, value, value_n, true);
    lua_settop(L, 1);
    return 1;
}

/* res:events(): begins an answer of server-sent events; the same object each time. */
static int res_events(lua_State *L)
{
    struct mp_run *run = run_of(L, &res_key, "res:events");
    lua_settop(L, 1);
    if (run->mode == ANSWER_OPEN) {
        struct mp_exchange *x = run->x;
        run->mode = ANSWER_EVENTS;
        x->answered = true;
        if (!run->closed)
            x->ops->begin(x, run->status ? run->status : 200, run->answer.headers, run->answer.n_headers);
    }
    lua_getfenv(L, 1);
    lua_rawgeti(L, -1, 1);
    if (lua_isnil(L, -1)) {
        struct lua_res *e = lua_newuserdata(L, sizeof *e);
        e->run = run;
        push_meta(L, &events_key);
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_rawseti(L, 2, 1); /* res keeps it */
        run->events = e;
    }
    return 1;
}

/* ---- events ---- */

/* events:send(value): a table as JSON, or a string as it is. Waits while the client is slow to read. Returns true, or nil and
 * err "closed" when it has left. */
static int events_send(lua_State *L)
{
    struct mp_run *run = run_of(L, &events_key, "events:send");
    struct mp_buf *b = &run->scratch;
    struct mp_err err = {0};
    size_t n;
    if (run->closed) {
        mp_err_set(&err, MP_ECLOSED, "the client has left");
        return mp_script_fail(L, &err);
    }
    mp_buf_clear(b);
    if (lua_type(L, 2) == LUA_TSTRING) {
        const char *s = lua_tolstring(L, 2, &n), *end = s + n;
        for (const char *stop;; s = stop + 1) { /* a line break in the text is a new data line */
            stop = memchr(s, '\n', (size_t)(end - s));
            mp_buf_puts(b, "data: ");
            mp_buf_put(b, s, (size_t)((stop ? stop : end) - s));
            mp_buf_putc(b, '\n');
            if (!stop)
                break;
        }
        for (size_t i = 0; i < b->len; i++)
            if (b->data[i] == '\r')
                b->data[i] = ' ';
        mp_buf_putc(b, '\n');
    } else if (lua_type(L, 2) == LUA_TTABLE) {
        mp_buf_puts(b, "data: ");
        if (mp_lua_json_encode(L, 2, b, (size_t)run->script->config->server.limits.run_memory, &err) < 0)
            return luaL_error(L, "events:send: %s", err.message);
        mp_buf_puts(b, "\n\n");
    } else {
        return luaL_error(L, "events:send: the event must be a table or a string, not a %s", luaL_typename(L, 2));
    }
    if (!run->x->ops->write(run->x, b->data, b->len))
        return run_park_writable(L, run);
    lua_pushboolean(L, true);
    return 1;
}

/* ---- mp.reply ---- */

/* Flattens the headers at idx into the list at the top: name, value, name, value, … */
static void flatten_headers(lua_State *L, int idx, int list)
{
    int n = 0;
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        int key = lua_gettop(L) - 1;
        size_t values = lua_istable(L, -1) ? lua_objlen(L, -1) : 1;
        for (size_t i = 1; i <= values; i++) {
            if (lua_istable(L, key + 1))
                lua_rawgeti(L, key + 1, (int)i);
            else
                lua_pushvalue(L, key + 1);
            check_header(L, "mp.reply", key, lua_gettop(L));
            lua_pushvalue(L, key);
            lua_rawseti(L, list, ++n);
            lua_rawseti(L, list, ++n);
        }
    }
}

/* mp.reply{ status?, headers?, json | text | body }: an answer in full. Any phase; return it from a handler. */
static int lua_reply(lua_State *L)
{
    int bodies = 0;
    if (lua_type(L, 1) != LUA_TTABLE)
        return luaL_error(L, "mp.reply takes a table, not a %s", luaL_typename(L, 1));
    lua_settop(L, 1);
    lua_newtable(L);
    for (lua_pushnil(L); lua_next(L, 1); lua_settop(L, 3)) { /* key at 3, value at 4 */
        const char *key = lua_type(L, 3) == LUA_TSTRING ? lua_tostring(L, 3) : "?";
        if (strcmp(key, "status") == 0) {
            status_value(L, "mp.reply", 4);
        } else if (strcmp(key, "headers") == 0) {
            if (lua_type(L, 4) != LUA_TTABLE)
                return luaL_error(L, "mp.reply: headers must be a table, not a %s", luaL_typename(L, 4));
            lua_newtable(L);
            flatten_headers(L, 4, 5);
            lua_replace(L, 4);
        } else if (strcmp(key, "json") == 0) {
            bodies++;
        } else if (strcmp(key, "text") == 0 || strcmp(key, "body") == 0) {
            if (lua_type(L, 4) != LUA_TSTRING)
                return luaL_error(L, "mp.reply: %s must be a string, not a %s", key, luaL_typename(L, 4));
            bodies++;
        } else {
            return luaL_error(L, "mp.reply: unknown key '%s' (known: status, headers, json, text, body)", key);
        }
        lua_pushvalue(L, 3);
        lua_insert(L, 4);
        lua_rawset(L, 2);
    }
    if (bodies > 1)
        return luaL_error(L, "mp.reply: give one of json, text and body");
    lua_settop(L, 2);
    push_meta(L, &reply_key);
    lua_setmetatable(L, 2);
    return 1;
}

bool lua_reply_is(lua_State *L, int idx)
{
    return lua_istable(L, idx) && has_meta(L, idx, &reply_key);
}

/* ---- life ---- */

static void new_meta(lua_State *L, void *key, const char *name, const struct luaL_Reg *methods)
{
    lua_pushlightuserdata(L, key);
    lua_newtable(L);
    if (methods) {
        lua_newtable(L);
        mp_vm_lib(L, NULL, methods);
        lua_setfield(L, -2, "__index");
    }
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void mp_lua_res_open(lua_State *L)
{
    static const struct luaL_Reg res[] = {
        {"status", res_status}, {"header", res_header}, {"events", res_events}, {NULL, NULL}};
    static const struct luaL_Reg events[] = {{"send", events_send}, {NULL, NULL}};
    static const struct luaL_Reg functions[] = {{"reply", lua_reply}, {NULL, NULL}};
    new_meta(L, &res_key, "response", res);
    new_meta(L, &events_key, "events", events);
    new_meta(L, &reply_key, "reply", NULL);
    mp_vm_lib(L, NULL, functions);
}

void lua_res_push(lua_State *L, struct mp_run *run)
{
    struct lua_res *r = lua_newuserdata(L, sizeof *r);
    r->run = run;
    push_meta(L, &res_key);
    lua_setmetatable(L, -2);
    lua_newtable(L); /* keeps the events object */
    lua_setfenv(L, -2);
    run->res = r;
}

void lua_res_forget(struct mp_run *run)
{
    if (run->res)
        run->res->run = NULL;
    if (run->events)
        run->events->run = NULL;
}
