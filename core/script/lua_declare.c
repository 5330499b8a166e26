/* core/script/lua_declare.c — mp.server, mp.model and the other kinds of declarations: they only note what they are given; decl.c
 * judges it when the configuration has run. And mp.models, the declared models by name or alias. */
#include "core/script/decl_impl.h"

#include <string.h>

/* The declarations being collected; raises outside of loading. */
static struct mp_decl *collecting(lua_State *L, const char *kind)
{
    struct mp_script *s = mp_script_of(L);
    if (!s->decl)
        luaL_error(L, "mp.%s cannot be used while requests are handled (allowed: while the configuration loads)", kind);
    return s->decl;
}

/* Stands where a table should have come and was reported: takes any calls. */
static int swallow(lua_State *L)
{
    collecting(L, "server");
    lua_pushcfunction(L, swallow);
    return 1;
}

/* mp.kind {…}; upvalue 1: the kind. */
static int unnamed(lua_State *L)
{
    enum mp_decl_kind kind = (enum mp_decl_kind)lua_tointeger(L, lua_upvalueindex(1));
    const char *word = mp_decl_kind_name(kind);
    struct mp_decl *d = collecting(L, word);
    if (lua_type(L, 1) != LUA_TTABLE) {
        if (lua_type(L, 1) == LUA_TSTRING)
            mp_decl_problem_at(d, L, "mp.%s takes no name: write mp.%s { … }", word, word);
        else
            mp_decl_problem_at(d, L, "mp.%s takes a table, not a %s", word, luaL_typename(L, 1));
        lua_pushcfunction(L, swallow);
        return 1;
    }
    mp_decl_table(d, L, mp_decl_add(d, L, kind, NULL), 1);
    return 0;
}

/* What mp.kind "name" gave: takes the table. Upvalues: entry. */
static int named_table(lua_State *L)
{
    uint32_t i = (uint32_t)lua_tointeger(L, lua_upvalueindex(1));
    struct mp_decl *d = collecting(L, "model");
    struct mp_decl_entry *e = &d->entries[i];
    const char *word = mp_decl_kind_name(e->kind);
    if (lua_type(L, 1) != LUA_TTABLE)
        mp_decl_problem_at(d, L, "mp.%s \"%s\" takes a table, not a %s", word, e->name, luaL_typename(L, 1));
    else if (e->table != LUA_NOREF)
        mp_decl_problem_at(d, L, "mp.%s \"%s\" has its table already, at %s:%u", word, e->name, e->file, e->line);
    if (lua_type(L, 1) != LUA_TTABLE) { /* reported: not also as a name without a table */
        lua_newtable(L);
        lua_replace(L, 1);
        e->bad = true;
    }
    if (e->table == LUA_NOREF)
        mp_decl_table(d, L, i, 1);
    if (decl_kinds[e->kind].push)
        decl_kinds[e->kind].push(L, e);
    else
        lua_pushvalue(L, 1);
    return 1;
}

/* mp.kind "name"; upvalue 1: the kind. */
static int named(lua_State *L)
{
    enum mp_decl_kind kind = (enum mp_decl_kind)lua_tointeger(L, lua_upvalueindex(1));
    const char *word = mp_decl_kind_name(kind);
    struct mp_decl *d = collecting(L, word);
    size_t n = 0;
    const char *name = lua_type(L, 1) == LUA_TSTRING ? lua_tolstring(L, 1, &n) : NULL;
    bool good = name && n > 0 && n <= 128;
    for (size_t i = 0; good && i < n; i++)
        good = (unsigned char)name[i] > 0x20 && name[i] != '"' && name[i] != 0x7f;
    if (!good) {
        if (name)
            mp_decl_problem_at(d, L, "mp.%s: a name has 1 to 128 bytes, without spaces and quotes", word);
        else
            mp_decl_problem_at(d, L, "mp.%s needs a name: write mp.%s \"name\" { … }", word, word);
        lua_pushcfunction(L, swallow);
        return 1;
    }
    lua_pushinteger(L, (lua_Integer)mp_decl_add(d, L, kind, name));
    lua_pushcclosure(L, named_table, 1);
    return 1;
}

/* mp.budget, …; upvalue 1: the word. */
static int later(lua_State *L)
{
    const char *word = lua_tostring(L, lua_upvalueindex(1));
    mp_decl_problem_at(collecting(L, word), L, "mp.%s is not yet built", word);
    lua_pushcfunction(L, swallow);
    return 1;
}

/* mp.models' __index: an alias; the names themselves stand in the table. */
static int find_alias(lua_State *L)
{
    struct mp_script *s = mp_script_of(L);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    const struct mp_conf_model *m = name && s->config ? mp_config_model(s->config, name) : NULL;
    if (!m)
        return 0;
    lua_pushstring(L, m->name);
    lua_rawget(L, 1);
    return 1;
}

static char models_key;

void mp_lua_push_models(lua_State *L)
{
    lua_pushlightuserdata(L, &models_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

void mp_lua_declare_open(lua_State *L)
{
    for (int i = 0; i < MP_N_DECL_KINDS; i++) {
        const struct decl_kind *k = &decl_kinds[i];
        if (k->schema) {
            lua_pushinteger(L, i);
            lua_pushcclosure(L, k->named ? named : unnamed, 1);
        } else {
            lua_pushstring(L, k->name);
            lua_pushcclosure(L, later, 1);
        }
        lua_setfield(L, -2, k->name);
    }
    for (size_t i = 0; mp_later_kinds[i]; i++) {
        lua_pushstring(L, mp_later_kinds[i]);
        lua_pushcclosure(L, later, 1);
        lua_setfield(L, -2, mp_later_kinds[i]);
    }
    lua_newtable(L);
    lua_newtable(L);
    lua_pushcfunction(L, find_alias);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "models");
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pushlightuserdata(L, &models_key);
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_setfield(L, -2, "models");
}
