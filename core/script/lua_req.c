/* core/script/lua_req.c — `req`: what the client sent. Fields are free and real tables, made when they are first read:
 * method, path, params, query, headers, remote, id, ctx. Methods cost: req:json(), req:body(), req:text(). */
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/script/route.h"
#include "core/script/run_impl.h"
#include "core/script/schema.h"
#include "core/vm/lua_json.h"

#include <stdio.h>
#include <string.h>

struct lua_req {
    struct mp_run *run; /* NULL when the request is over */
};

static char meta_key;

static struct mp_run *run_of(lua_State *L, const char *what)
{
    struct lua_req *r = lua_touserdata(L, 1);
    bool ours = r && lua_getmetatable(L, 1);
    if (ours) {
        lua_pushlightuserdata(L, &meta_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        ours = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    if (!ours)
        luaL_error(L, "%s: write it with a colon, on req itself", what);
    if (!r->run)
        luaL_error(L, "%s cannot be used when its request is over", what);
    return r->run;
}

/* ---- fields ---- */

static void push_params(lua_State *L, struct mp_run *run)
{
    lua_createtable(L, 0, (int)run->match.n_params);
    for (uint32_t i = 0; i < run->match.n_params; i++) {
        const struct mp_route_param *p = &run->match.params[i];
        char *text = mp_run_alloc(run, p->n + 1);
        long n = mp_route_decode(p->value, p->n, text);
        lua_pushlstring(L, p->name, p->name_n);
        lua_pushlstring(L, text, n < 0 ? 0 : (size_t)n);
        lua_rawset(L, -3);
    }
}

/* name=value pairs, the first of each name. A pair that cannot be decoded is a 400. */
static void push_query(lua_State *L, struct mp_run *run)
{
    const char *q = run->x->query, *name, *value;
    size_t n = strlen(q), at = 0, name_n, value_n, len;
    lua_newtable(L);
    while (mp_query_next(q, n, &at, &name, &name_n, &value, &value_n)) {
        char *k = mp_url_decode(run->arena, name, name_n, true, &name_n);
        char *v = mp_url_decode(run->arena, value, value_n, true, &len);
        if (!k || !v) {
            struct mp_err err = {0};
            mp_err_set(&err, MP_EFORMAT, "the query is not properly encoded");
            mp_script_push_err(L, &err, 0, 0);
            lua_error(L);
        }
        lua_pushlstring(L, k, name_n);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlstring(L, v, len);
            lua_rawset(L, -3);
        } else {
            lua_pop(L, 2);
        }
    }
}

/* Lower-case names; values of a name that comes more than once are joined as RFC 9110 says. */
static void push_headers(lua_State *L, struct mp_run *run)
{
    lua_createtable(L, 0, (int)run->x->n_headers);
    for (size_t i = 0; i < run->x->n_headers; i++) {
        const struct mp_header *h = &run->x->headers[i];
        lua_pushlstring(L, h->name, h->name_len);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlstring(L, h->value, h->value_len);
        } else {
            lua_pushstring(L, strcmp(h->name, "cookie") == 0 ? "; " : ", ");
            lua_pushlstring(L, h->value, h->value_len);
            lua_concat(L, 3);
        }
        lua_rawset(L, -3);
    }
}

static void push_ctx(lua_State *L, struct mp_run *run)
{
    (void)run;
    lua_newtable(L);
}

static void push_method(lua_State *L, struct mp_run *run)
{
    lua_pushstring(L, run->x->method);
}

static void push_path(lua_State *L, struct mp_run *run)
{
    lua_pushstring(L, run->x->path);
}

static void push_remote(lua_State *L, struct mp_run *run)
{
    lua_pushstring(L, run->x->remote);
}

static void push_id(lua_State *L, struct mp_run *run)
{
    lua_pushstring(L, run->x->id);
}

/* ---- methods ---- */

/* The body as a value on the stack: 0, or an error and nothing. Its bytes and values are bounded by limits of their own, so
 * reading it is not held against the script (10 ns a byte were measured where most of them are escapes). */
static int decode_body(lua_State *L, struct mp_run *run, struct mp_err *err) /* -0 +1 or +0 */
{
    mp_watch_credit(run->worker->watch, BODY_NS_PER_BYTE * (uint64_t)run->x->body_n);
    return mp_lua_json_decode(L, run->x->body, run->x->body_n, run->script->config->server.limits.json_values, err);
}

/* nil, err: too deep or too many values is the body's fault as well: 400, not the 413 of a body that is too long. */
static int unusable(lua_State *L, struct mp_err *err) /* -0 +2 */
{
    mp_err_context(err, "the body is not usable JSON");
    lua_pushnil(L);
    mp_script_push_err(L, err, 400, 0);
    return 2;
}

/* req:json() → the body as a value, or nil, err (400). */
static int req_json(lua_State *L)
{
    struct mp_run *run = run_of(L, "req:json");
    struct mp_err err = {0};
    if (decode_body(L, run, &err) == 0)
        return 1;
    return unusable(L, &err);
}

/* req:body() → the bytes. */
static int req_body(lua_State *L)
{
    struct mp_run *run = run_of(L, "req:body");
    lua_pushlstring(L, run->x->body, run->x->body_n);
    return 1;
}

/* req:text() → the body as UTF-8 text, or nil, err (400). */
static int req_text(lua_State *L)
{
    struct mp_run *run = run_of(L, "req:text");
    struct mp_err err = {0};
    size_t good = mp_utf8_valid_prefix(run->x->body, run->x->body_n);
    if (good != run->x->body_n) {
        mp_err_set(&err, MP_EFORMAT, "the body is not UTF-8: byte %zu is bad", good);
        return mp_script_fail(L, &err);
    }
    lua_pushlstring(L, run->x->body, run->x->body_n);
    return 1;
}

static const struct {
    const char *name;
    void (*push)(lua_State *L, struct mp_run *run);
    lua_CFunction method;
} members[] = {
    {"method", push_method, NULL}, {"path", push_path, NULL},       {"params", push_params, NULL},
    {"query", push_query, NULL},   {"headers", push_headers, NULL}, {"remote", push_remote, NULL},
    {"id", push_id, NULL},         {"ctx", push_ctx, NULL},         {"json", NULL, req_json},
    {"body", NULL, req_body},      {"text", NULL, req_text},
};

/* Upvalue 1: the table of methods. The userdata's own environment keeps fields that were made. */
static int req_index(lua_State *L)
{
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
    lua_getfenv(L, 1);
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    if (!lua_isnil(L, -1))
        return 1;
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    for (size_t i = 0; i < MP_COUNT(members); i++)
        if (members[i].push && strcmp(members[i].name, key) == 0) {
            lua_settop(L, 2);
            members[i].push(L, run_of(L, "req"));
            lua_getfenv(L, 1);
            lua_pushvalue(L, 2);
            lua_pushvalue(L, 3);
            lua_rawset(L, -3);
            lua_settop(L, 3);
            return 1;
        }
    if (strcmp(key, "tenant") == 0)
        return 0; /* keys are not yet built: nobody has one */
    const char *names[MP_COUNT(members)];
    for (size_t i = 0; i < MP_COUNT(members); i++)
        names[i] = members[i].name;
    const char *near = mp_nearest(key, names, MP_COUNT(members));
    if (near)
        return luaL_error(L, "req.%s is unknown: did you mean req.%s?", key, near);
    return luaL_error(L, "req.%s is unknown", key);
}

static int req_newindex(lua_State *L)
{
    return luaL_error(L, "req.%s cannot be set: keep your own things in req.ctx",
                      lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?");
}

void mp_lua_req_open(lua_State *L)
{
    lua_pushlightuserdata(L, &meta_key);
    lua_newtable(L);
    lua_newtable(L);
    for (size_t i = 0; i < MP_COUNT(members); i++)
        if (members[i].method) {
            lua_pushcfunction(L, members[i].method);
            lua_setfield(L, -2, members[i].name);
        }
    lua_pushcclosure(L, req_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, req_newindex);
    lua_setfield(L, -2, "__newindex");
    lua_pushliteral(L, "request");
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void lua_req_push(lua_State *L, struct mp_run *run)
{
    struct lua_req *r = lua_newuserdata(L, sizeof *r);
    r->run = run;
    run->req = r;
    lua_pushlightuserdata(L, &meta_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
    lua_createtable(L, 0, 8);
    lua_setfenv(L, -2);
}

/* ---- input ---- */

struct first_problem {
    char param[200], message[400];
};

static void report(void *ctx, const struct mp_step *steps, size_t n, const char *hint, const char *message)
{
    struct first_problem *p = ctx;
    struct mp_buf b = {0};
    if (p->message[0])
        return;
    mp_schema_path(&b, steps, n);
    snprintf(p->param, sizeof p->param, "%s", mp_buf_cstr(&b));
    mp_buf_free(&b);
    snprintf(p->message, sizeof p->message, "%s%s%s", message, hint && strncmp(hint, "did", 3) == 0 ? ": " : "",
             hint && strncmp(hint, "did", 3) == 0 ? hint : "");
}

int lua_req_input(lua_State *L)
{
    struct mp_run *run = run_of(L, "input");
    struct first_problem first = {{0}, {0}};
    struct mp_checker c = {.L = L, .report = report, .ctx = &first, .field_words = true};
    struct mp_err err = {0};
    const char *m = run->x->method;
    lua_settop(L, 1);
    if (strcmp(m, "GET") == 0 || strcmp(m, "HEAD") == 0 || strcmp(m, "DELETE") == 0) {
        c.coerce = true;
        lua_getfield(L, 1, "query");
    } else if (decode_body(L, run, &err) < 0) {
        return unusable(L, &err);
    }
    if (!lua_istable(L, 2)) {
        mp_err_set(&err, MP_EINVAL, "the body must be a JSON object, not %s",
                   lua_type(L, 2) == LUA_TLIGHTUSERDATA ? "null" : luaL_typename(L, 2));
        return mp_script_fail(L, &err);
    }
    mp_schema_check(&c, run->mine->input, 2);
    if (!c.problems)
        return 1;
    lua_settop(L, 1);
    mp_err_set(&err, MP_EINVAL, "%s", first.message);
    mp_script_fail(L, &err);
    lua_pushstring(L, first.param);
    lua_setfield(L, -2, "param");
    return 2;
}

void lua_req_forget(struct mp_run *run)
{
    if (run->req)
        run->req->run = NULL;
}
