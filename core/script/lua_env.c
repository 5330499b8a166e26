/* core/script/lua_env.c — mp.env(name), mp.read_file(path): what a configuration may know of its surroundings. */
#include "core/base/mem.h"
#include "core/script/script.h"

#include <stdlib.h>
#include <string.h>

/* A string argument without NUL bytes; raises. */
static const char *text_argument(lua_State *L, const char *fn, const char *what)
{
    size_t n;
    if (lua_type(L, 1) != LUA_TSTRING)
        luaL_error(L, "%s: %s must be a string, not a %s", fn, what, luaL_typename(L, 1));
    const char *s = lua_tolstring(L, 1, &n);
    if (strlen(s) != n)
        luaL_error(L, "%s: %s must not hold a NUL byte", fn, what);
    return s;
}

/* mp.env(name): the environment variable, or nil. Any phase. */
static int lua_env(lua_State *L)
{
    mp_script_pure(L, "mp.env");
    const char *v = getenv(text_argument(L, "mp.env", "name"));
    if (v)
        lua_pushstring(L, v);
    else
        lua_pushnil(L);
    return 1;
}

/* mp.read_file(path): the file's bytes, path relative to the configuration's folder; or nil, err. While the configuration
 * loads: what was read belongs to the snapshot. */
static int lua_read_file(lua_State *L)
{
    struct mp_script *s = mp_script_of(L);
    const struct mp_source *f = NULL;
    struct mp_err err = {0};
    const char *path = text_argument(L, "mp.read_file", "path");
    if (!s->decl)
        return luaL_error(L, "mp.read_file cannot be used while requests are handled "
                             "(allowed: while the configuration loads)");
    if (mp_sources_read(s->sources, path, &f, &err) < 0)
        return mp_script_fail(L, &err);
    lua_pushlstring(L, f->data, f->n);
    return 1;
}

void mp_lua_env_open(lua_State *L)
{
    static const struct luaL_Reg functions[] = {{"env", lua_env}, {"read_file", lua_read_file}, {NULL, NULL}};
    mp_vm_lib(L, NULL, functions);
}
