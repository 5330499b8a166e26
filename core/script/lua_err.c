/* core/script/lua_err.c — errors as scripts see them: tables { code, message, status, retry_after?, cause? } that print as
 * their message. `return nil, err` and `assert(nil, err)` answer with err.status. */
#include "core/script/script.h"

#include <string.h>

static char error_meta_key;

static int error_tostring(lua_State *L)
{
    lua_pushliteral(L, "message");
    if (lua_istable(L, 1))
        lua_rawget(L, 1);
    if (!lua_isstring(L, -1))
        lua_pushliteral(L, "error");
    return 1;
}

void mp_lua_err_open(lua_State *L)
{
    lua_pushlightuserdata(L, &error_meta_key);
    lua_newtable(L);
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushliteral(L, "error");
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void mp_script_mark_err(lua_State *L)
{
    if (!lua_istable(L, -1))
        return;
    lua_pushlightuserdata(L, &error_meta_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
}

void mp_script_push_err(lua_State *L, const struct mp_err *err, int status, double retry_after)
{
    lua_createtable(L, 0, 4);
    lua_pushstring(L, mp_err_name(err->code));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    lua_pushinteger(L, status ? status : mp_err_status(err->code));
    lua_setfield(L, -2, "status");
    if (retry_after > 0) {
        lua_pushnumber(L, retry_after);
        lua_setfield(L, -2, "retry_after");
    }
    mp_script_mark_err(L);
}

int mp_script_fail(lua_State *L, const struct mp_err *err)
{
    lua_pushnil(L);
    mp_script_push_err(L, err, 0, err->retry_after);
    return 2;
}
