/* core/script/decl.c — see decl.h: checks what was declared against keys.c and makes the frozen mp_config of it. */
#include "core/script/decl.h"

#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"
#include "core/vm/lua_json.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- kinds ---- */

static void push_model(lua_State *L, const struct mp_decl_entry *e)
{
    mp_lua_push_model(L, e->name);
}

static void push_shared(lua_State *L, const struct mp_decl_entry *e)
{
    mp_lua_push_shared(L, e->name);
}

const struct decl_kind decl_kinds[MP_N_DECL_KINDS] = {
    [MP_DECL_SERVER] = {"server", "server", .schema = &mp_keys_server, .take = decl_take_server},
    [MP_DECL_DEVICE] = {"device", "devices", .named = true, .schema = &mp_keys_device, .take = decl_take_device},
    [MP_DECL_MODEL] = {"model", "models", .named = true, .own_names = true, .schema = &mp_keys_model,
                       .take = decl_take_model, .push = push_model},
    [MP_DECL_ENDPOINT] = {"endpoint", "endpoints", .schema = &mp_keys_endpoint},
    [MP_DECL_PLUGIN] = {"plugin", "plugins", .named = true, .schema = &mp_keys_plugin},
    [MP_DECL_POLICY] = {"policy", "policies", .named = true, .schema = &mp_keys_policy, .take = decl_take_policy},
    [MP_DECL_JOB] = {"job", "jobs", .named = true, .schema = &mp_keys_job, .take = decl_take_job},
    [MP_DECL_SHARED] = {"shared", "shared", .named = true, .schema = &mp_keys_shared, .take = decl_take_shared,
                        .push = push_shared},
};

const char *mp_decl_kind_name(enum mp_decl_kind kind)
{
    return decl_kinds[kind].name;
}

uint32_t decl_count(const struct mp_decl *d, enum mp_decl_kind kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n; i++)
        n += d->entries[i].kind == kind;
    return n;
}

/* ---- entries ---- */

/* The nearest Lua function that is not of the bundled library. */
static bool caller(lua_State *L, lua_Debug *ar)
{
    for (int level = 0; lua_getstack(L, level, ar); level++)
        if (lua_getinfo(L, "Sl", ar) && ar->currentline > 0 && ar->source[0] == '@')
            return true;
    return false;
}

uint32_t mp_decl_add(struct mp_decl *d, lua_State *L, enum mp_decl_kind kind, const char *name)
{
    lua_Debug ar;
    bool known = caller(L, &ar);
    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 16;
        d->entries = mp_realloc(d->entries, d->cap * sizeof *d->entries);
    }
    d->entries[d->n] = (struct mp_decl_entry){
        .kind = kind,
        .name = name ? mp_strdup(name) : NULL,
        .file = mp_strdup(known ? ar.source + 1 : mp_sources_config(d->script->sources)->name),
        .line = known ? (uint32_t)ar.currentline : 0,
        .table = LUA_NOREF,
        .checked = LUA_NOREF,
    };
    return d->n++;
}

void mp_decl_table(struct mp_decl *d, lua_State *L, uint32_t entry, int idx)
{
    struct mp_decl_entry *e = &d->entries[entry];
    lua_Debug ar;
    /* `return mp.plugin "x" {…}` is a tail call: then the caller is gone, and the name's line must do. */
    if (caller(L, &ar) && strcmp(ar.source + 1, e->file) == 0)
        e->line = (uint32_t)ar.currentline;
    lua_pushvalue(L, idx);
    e->table = luaL_ref(L, LUA_REGISTRYINDEX);
}

void mp_decl_free(struct mp_decl *d)
{
    if (!d)
        return;
    for (uint32_t i = 0; i < d->n; i++) {
        mp_free(d->entries[i].name);
        mp_free(d->entries[i].file);
    }
    mp_free(d->entries);
    mp_config_free(d->config);
    mp_free(d);
}

void mp_config_free(struct mp_config *c)
{
    for (uint32_t i = 0; c && i < c->n_zones; i++)
        mp_tz_free(c->zones[i]);
    if (c)
        mp_arena_free(c->arena); /* c lives in it */
}

const struct mp_conf_model *mp_config_model(const struct mp_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, name) == 0)
            return &c->models[i];
    for (uint32_t i = 0; i < c->n_models; i++)
        for (uint32_t k = 0; k < c->models[i].n_aliases; k++)
            if (strcmp(c->models[i].aliases[k], name) == 0)
                return &c->models[i];
    return NULL;
}

/* ---- problems ---- */

void mp_decl_problem(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *steps, size_t n,
                     const char *hint, const char *fmt, ...)
{
    const struct mp_source *f = mp_sources_by_name(d->script->sources, e->file);
    struct mp_place at = {e->line, 0, 0};
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (f && n)
        mp_locate(f->data, f->n, e->line, decl_kinds[e->kind].name, e->name, steps, n, &at);
    mp_problems_add(d->problems, d->script->sources, e->file, at.line, at.column, at.width, hint, "mp.%s%s%s%s: %s",
                    decl_kinds[e->kind].name, e->name ? " \"" : "", e->name ? e->name : "", e->name ? "\"" : "",
                    len < 0 ? "out of memory" : text);
    free(text);
}

void mp_decl_problem_at(struct mp_decl *d, lua_State *L, const char *fmt, ...)
{
    lua_Debug ar;
    bool known = caller(L, &ar);
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    mp_problems_add(d->problems, d->script->sources, known ? ar.source + 1 : NULL, known ? (uint32_t)ar.currentline : 0,
                    0, 0, NULL, "%s", len < 0 ? "out of memory" : text);
    free(text);
}

/* "conf/x.lua:12: text" → a problem at that line. */
void mp_decl_error(struct mp_decl *d, const struct mp_err *err)
{
    const char *m = err->message;
    for (const char *colon = strchr(m, ':'); colon; colon = strchr(colon + 1, ':')) {
        char *end = NULL, *file = mp_strndup(m, (size_t)(colon - m));
        unsigned long line = isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 0;
        bool ours = line && end[0] == ':' && mp_sources_by_name(d->script->sources, file);
        if (ours)
            mp_problems_add(d->problems, d->script->sources, file, (uint32_t)line, 0, 0, NULL, "%s",
                            end + 1 + (end[1] == ' '));
        mp_free(file);
        if (ours)
            return;
    }
    mp_problems_add(d->problems, d->script->sources, mp_sources_config(d->script->sources)->name, 0, 0, 0, NULL, "%s",
                    m);
}

struct reporting {
    struct mp_decl *d;
    const struct mp_decl_entry *e;
};

static void report(void *ctx, const struct mp_step *steps, size_t n, const char *hint, const char *message)
{
    const struct reporting *r = ctx;
    mp_decl_problem(r->d, r->e, steps, n, hint, "%s", message);
}

bool decl_check(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before, size_t n_before,
                lua_State *L, const struct mp_schema *s)
{
    struct reporting r = {d, e};
    struct mp_checker c = {.L = L, .report = report, .ctx = &r, .n_steps = n_before};
    if (n_before)
        memcpy(c.steps, before, n_before * sizeof *before);
    mp_schema_check(&c, s, -1);
    lua_replace(L, -2);
    return c.problems == 0;
}

const struct mp_schema *decl_compile(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before,
                                     size_t n_before, lua_State *L)
{
    struct reporting r = {d, e};
    struct mp_checker c = {.L = L, .report = report, .ctx = &r, .n_steps = n_before};
    if (n_before)
        memcpy(c.steps, before, n_before * sizeof *before);
    return mp_schema_compile(&c, -1, d->arena);
}

/* ---- reading checked tables ---- */

const char *decl_string(struct mp_decl *d, lua_State *L, int t, const char *key)
{
    size_t n;
    lua_getfield(L, t, key);
    const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    if (s)
        s = mp_arena_strndup(d->arena, s, n);
    lua_pop(L, 1);
    return s;
}

double decl_number(lua_State *L, int t, const char *key, double otherwise)
{
    lua_getfield(L, t, key);
    double v = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return v;
}

const char *const *decl_list(struct mp_decl *d, lua_State *L, int t, const char *key, uint32_t *n)
{
    lua_getfield(L, t, key);
    *n = lua_istable(L, -1) ? (uint32_t)lua_objlen(L, -1) : 0;
    const char **list = mp_arena_zalloc(d->arena, (*n + 1) * sizeof *list);
    for (uint32_t i = 0; i < *n; i++) {
        size_t len;
        lua_rawgeti(L, -1, (int)i + 1);
        const char *s = lua_tolstring(L, -1, &len);
        list[i] = mp_arena_strndup(d->arena, s ? s : "", s ? len : 0);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return list;
}

const char *decl_where(struct mp_decl *d, const struct mp_decl_entry *e)
{
    char *s = mp_asprintf("%s:%u", e->file, e->line);
    const char *copy = mp_arena_strndup(d->arena, s, strlen(s));
    mp_free(s);
    return copy;
}

/* ---- everything as data ---- */

/* Copies the value at idx (absolute) with functions as {"function": "file:line"}. -0 +1 */
static void as_data(lua_State *L, int idx, int depth)
{
    lua_Debug ar;
    luaL_checkstack(L, 8, "a declaration is nested too deeply");
    switch (lua_type(L, idx)) {
    case LUA_TFUNCTION:
        lua_newtable(L);
        lua_pushvalue(L, idx);
        lua_getinfo(L, ">S", &ar);
        if (ar.linedefined > 0)
            lua_pushfstring(L, "%s:%d", ar.source[0] == '@' ? ar.source + 1 : ar.short_src, ar.linedefined);
        else
            lua_pushliteral(L, "built in");
        lua_setfield(L, -2, "function");
        break;
    case LUA_TTABLE:
        lua_newtable(L);
        if (depth > 16)
            break;
        if (lua_getmetatable(L, idx))
            lua_setmetatable(L, -2); /* lists stay lists */
        bool typed = false;          /* { "string", max = 200 }: its first value is shown as `type` */
        for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
            typed = typed || (lua_type(L, -2) == LUA_TSTRING && lua_objlen(L, idx) == 1);
        for (lua_pushnil(L); lua_next(L, idx);) {
            int key = lua_gettop(L) - 1;
            as_data(L, key + 1, depth + 1);
            if (typed && lua_type(L, key) == LUA_TNUMBER)
                lua_pushliteral(L, "type");
            else
                lua_pushvalue(L, key);
            lua_insert(L, -2);
            lua_rawset(L, key - 1);
            lua_settop(L, key);
        }
        break;
    case LUA_TUSERDATA:
    case LUA_TTHREAD: lua_pushfstring(L, "(%s)", luaL_typename(L, idx)); break;
    default: lua_pushvalue(L, idx);
    }
}

/* The entries of one kind as a list of their checked tables, with name and where. */
static void kind_as_data(struct mp_decl *d, lua_State *L, enum mp_decl_kind kind)
{
    int n = 0;
    lua_newtable(L);
    mp_lua_json_mark_array(L, -1);
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->kind != kind || e->checked == LUA_NOREF)
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->checked);
        as_data(L, lua_gettop(L), 0);
        if (e->name) {
            lua_pushstring(L, e->name);
            lua_setfield(L, -2, "name");
        }
        if (e->line) {
            lua_pushfstring(L, "%s:%d", e->file, (int)e->line);
            lua_setfield(L, -2, "where");
        }
        lua_rawseti(L, -3, ++n);
        lua_pop(L, 1);
    }
}

static void config_json(struct mp_decl *d, lua_State *L)
{
    struct mp_buf b = {0};
    struct mp_err err = {0};
    lua_newtable(L);
    for (uint32_t k = 0; k < MP_N_DECL_KINDS; k++) {
        if (!decl_kinds[k].schema)
            continue;
        kind_as_data(d, L, (enum mp_decl_kind)k);
        if (k == MP_DECL_SERVER) { /* there is one */
            lua_rawgeti(L, -1, 1);
            lua_remove(L, -2);
        }
        lua_setfield(L, -2, decl_kinds[k].plural);
    }
    if (mp_lua_json_encode(L, -1, &b, 0, &err) < 0)
        mp_problems_add(d->problems, NULL, NULL, 0, 0, 0, NULL, "the declarations have no JSON form: %s", err.message);
    else
        d->config->json = mp_arena_strndup(d->arena, b.data, b.len);
    mp_buf_free(&b);
    lua_pop(L, 1);
}

/* ---- the end of the main chunk ---- */

/* Checks entry i's table; leaves the copy as e->checked. */
void decl_check_entry(struct mp_decl *d, uint32_t i, lua_State *L)
{
    if (d->entries[i].table == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, d->entries[i].table);
    d->entries[i].bad = !decl_check(d, &d->entries[i], NULL, 0, L, decl_kinds[d->entries[i].kind].schema);
    d->entries[i].checked = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* A server nobody declared has the defaults. */
static void default_server(struct mp_decl *d, lua_State *L)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (d->entries[i].kind == MP_DECL_SERVER)
            return;
    uint32_t i = mp_decl_add(d, L, MP_DECL_SERVER, NULL);
    mp_free(d->entries[i].file);
    d->entries[i].file = mp_strdup(mp_sources_config(d->script->sources)->name);
    lua_newtable(L);
    d->entries[i].table = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void find_duplicates(struct mp_decl *d)
{
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        const struct decl_kind *k = &decl_kinds[e->kind];
        if (e->table == LUA_NOREF)
            mp_decl_problem(d, e, NULL, 0, NULL, "the name is not followed by its table: write mp.%s \"%s\" { … }",
                            k->name, e->name);
        for (uint32_t j = 0; j < i; j++) {
            const struct mp_decl_entry *o = &d->entries[j];
            if (e->kind != o->kind)
                continue;
            if (e->kind == MP_DECL_SERVER)
                mp_decl_problem(d, e, NULL, 0, NULL, "there is one already, at %s:%u", o->file, o->line);
            else if (k->named && !k->own_names && strcmp(e->name, o->name) == 0)
                mp_decl_problem(d, e, NULL, 0, NULL, "the name is taken by the %s at %s:%u", k->name, o->file, o->line);
            else
                continue;
            break;
        }
    }
}

void mp_decl_finish(struct mp_decl *d, lua_State *L)
{
    default_server(d, L);
    for (uint32_t i = 0; i < d->n; i++)
        decl_check_entry(d, i, L);
    decl_load_plugins(d, L); /* more entries */
    find_duplicates(d);
    for (uint32_t i = 0; i < d->n; i++) {
        const struct decl_kind *k = &decl_kinds[d->entries[i].kind];
        if (!k->take || d->entries[i].checked == LUA_NOREF)
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, d->entries[i].checked);
        k->take(d, i, L);
        lua_pop(L, 1);
    }
    decl_choose_policy(d, L);
    decl_take_endpoints(d, L);
    if (d->problems->n == 0)
        config_json(d, L);
}
