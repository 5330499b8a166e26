/* core/vm/vm_lib.c — what a script finds: the chosen part of the standard library, globals that can be locked, require,
 * print, load. See vm.h. */
#include "core/base/bundle.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/vm/vm_impl.h"

#include <string.h>

static char loading; /* its address stands for a module that is being loaded */

static const char *const base_names[] = {
    "_VERSION", "assert", "bit",      "coroutine", "error",  "getmetatable", "ipairs", "math",   "next",
    "os",       "pairs",  "pcall",    "rawequal",  "rawget", "rawlen",       "rawset", "select", "setmetatable",
    "string",   "table",  "tonumber", "tostring",  "type",   "unpack",       "xpcall",
};
static const char *const os_names[] = {"time", "date", "clock", "difftime"};

/* ---- modules ---- */

bool mp_vm_bundled(const char *path, const char **data, size_t *n)
{
    for (const struct mp_bundle *b = mp_bundle; b->name; b++)
        if (!strcmp(b->name, path)) {
            *data = b->data;
            *n = (size_t)(b->end - b->data);
            return true;
        }
    return false;
}

/* "a.b_c-1": components of letters, digits, '_' and '-'. */
static bool good_module(const char *s, size_t n)
{
    bool in_part = false;
    if (n == 0 || n > 100)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        if (!word && (c != '.' || !in_part))
            return false;
        in_part = word;
    }
    return in_part;
}

/* "moonpool.x" -> lua/moonpool/x.lua or lua/moonpool/x/init.lua; "plugins.x" -> plugins/x.lua or plugins/x/init.lua. */
static bool find_bundled(const char *module, const char **data, size_t *n, struct mp_buf *chunk)
{
    static const char *const tails[] = {".lua", "/init.lua"};
    bool ours = !strcmp(module, "moonpool") || !strncmp(module, "moonpool.", 9);
    if (!ours && strncmp(module, "plugins.", 8) != 0)
        return false;
    for (size_t t = 0; t < MP_COUNT(tails); t++) {
        mp_buf_clear(chunk);
        mp_buf_puts(chunk, ours ? "@lua/" : "@");
        for (const char *p = module; *p; p++)
            mp_buf_putc(chunk, *p == '.' ? '/' : *p);
        mp_buf_puts(chunk, tails[t]);
        if (mp_vm_bundled(mp_buf_cstr(chunk) + 1, data, n))
            return true;
    }
    return false;
}

/* Puts the module's chunk on the stack as a function. */
static int load_module(lua_State *L, const char *module, struct mp_err *err) /* -0 +1 or +0 */
{
    struct mp_vm *vm = mp_vm_of(L);
    struct mp_buf source = {0}, chunk = {0};
    const char *data = NULL;
    size_t n = 0;
    int rc = 0;
    if (!find_bundled(module, &data, &n, &chunk)) {
        mp_buf_clear(&chunk);
        rc = vm->opts.loader ? vm->opts.loader(vm->opts.loader_ctx, module, &source, &chunk, err) : MP_ENOENT;
        data = source.data;
        n = source.len;
    }
    if (rc == MP_ENOENT)
        mp_err_set(err, rc, "module '%s' not found", module);
    if (rc == 0)
        rc = mp_vm_load(L, data ? data : "", n, mp_buf_cstr(&chunk), err);
    mp_buf_free(&source);
    mp_buf_free(&chunk);
    return rc;
}

/* require(module): upvalue 1 is the table of what is loaded. */
static int lua_require(lua_State *L)
{
    struct mp_err err = {0};
    size_t n;
    const char *module = luaL_checklstring(L, 1, &n);
    lua_settop(L, 1);
    lua_pushvalue(L, 1);
    lua_rawget(L, lua_upvalueindex(1));
    if (lua_touserdata(L, 2) == &loading)
        return luaL_error(L, "module '%s' requires itself, by way of what it requires", module);
    if (!lua_isnil(L, 2))
        return 1;
    if (!good_module(module, n))
        return luaL_error(L, "'%s' is no module's name: letters, digits, '_' and '-', with dots between", module);
    if (load_module(L, module, &err) != 0) {
        luaL_where(L, 1);
        lua_pushstring(L, err.message);
        if (err.code == MP_ESCRIPT) /* a syntax error has its own place */
            lua_remove(L, -2);
        else
            lua_concat(L, 2);
        return lua_error(L);
    }
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, &loading);
    lua_rawset(L, lua_upvalueindex(1));
    vm_push_handler(L);
    lua_insert(L, 3);
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 1, 3) != 0) {
        lua_pushvalue(L, 1);
        lua_pushnil(L);
        lua_rawset(L, lua_upvalueindex(1));
        return lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, lua_upvalueindex(1));
    return 1;
}

/* ---- load, print ---- */

static int load_string(lua_State *L, int source, const char *chunk)
{
    struct mp_err err = {0};
    size_t n;
    const char *s = lua_tolstring(L, source, &n);
    if (mp_vm_load(L, s, n, chunk, &err) != 0) {
        lua_pushnil(L);
        lua_pushstring(L, err.message);
        return 2;
    }
    if (lua_istable(L, 4)) {
        lua_pushvalue(L, 4);
        lua_setfenv(L, -2);
    }
    return 1;
}

/* load(chunk, name?, mode?, env?): chunk is a string or a function that gives pieces; the mode is always "t". */
static int lua_load_text(lua_State *L)
{
    const char *chunk = luaL_optstring(L, 2, "=(load)");
    size_t bytes = 0, n;
    luaL_Buffer b;
    int pieces = 0;
    lua_settop(L, 4);
    if (lua_type(L, 1) == LUA_TSTRING)
        return load_string(L, 1, chunk);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    vm_check_stack(L);
    lua_newtable(L);
    for (;;) {
        lua_pushvalue(L, 1);
        lua_call(L, 0, 1);
        if (lua_isnil(L, -1) || (lua_isstring(L, -1) && lua_objlen(L, -1) == 0))
            break;
        if (lua_type(L, -1) != LUA_TSTRING)
            return luaL_error(L, "load: the reader must give strings, not a %s", luaL_typename(L, -1));
        lua_tolstring(L, -1, &n);
        bytes += n;
        if (bytes > MP_VM_SOURCE_MAX)
            return luaL_error(L, "load: longer than %d MiB", MP_VM_SOURCE_MAX >> 20);
        lua_rawseti(L, 5, ++pieces);
    }
    lua_settop(L, 5);
    luaL_buffinit(L, &b);
    for (int i = 1; i <= pieces; i++) {
        lua_rawgeti(L, 5, i);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    return load_string(L, lua_gettop(L), chunk);
}

static int lua_loadstring(lua_State *L)
{
    const char *chunk = luaL_optstring(L, 2, "=(load)");
    luaL_checkstring(L, 1);
    lua_settop(L, 2);
    return load_string(L, 1, chunk);
}

/* print(...): upvalue 1 is tostring. */
static int lua_print(lua_State *L)
{
    struct mp_vm *vm = mp_vm_of(L);
    int n = lua_gettop(L);
    const char *where = "?", *text;
    char place[LUA_IDSIZE + 16];
    size_t len;
    lua_Debug ar;
    luaL_checkstack(L, 2 * n + 4, "too many arguments");
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            lua_pushliteral(L, "\t");
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, i);
        lua_call(L, 1, 1);
        if (!lua_isstring(L, -1))
            return luaL_error(L, "print: tostring must give a string");
    }
    lua_concat(L, n ? 2 * n - 1 : 0);
    text = lua_tolstring(L, -1, &len);
    if (lua_getstack(L, 1, &ar) && lua_getinfo(L, "Sl", &ar)) {
        struct mp_buf b = {0};
        mp_buf_printf(&b, "%s:%d", ar.short_src, ar.currentline);
        n = b.len < sizeof place - 1 ? (int)b.len : (int)sizeof place - 1;
        memcpy(place, b.data, (size_t)n);
        place[n] = 0;
        mp_buf_free(&b);
        where = place;
    }
    if (vm->opts.print)
        vm->opts.print(vm->opts.print_ctx, where, text, len);
    else
        mp_info("%s: %.*s", where, (int)(len < 4096 ? len : 4096), text);
    return 0;
}

/* What xpcall calls instead of the script's handler (upvalue 1): nothing runs any more once the script is being stopped. */
static int guarded_handler(lua_State *L)
{
    lua_settop(L, 1);
    if (mp_vm_killed(mp_vm_of(L)))
        return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int guard(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushcclosure(L, guarded_handler, 1);
    return 1;
}

/* ---- globals ---- */

/* __newindex of the globals: upvalue 1 is the table that holds them. */
static int set_global(lua_State *L)
{
    if (mp_vm_of(L)->locked)
        return luaL_error(L, "global '%s' is read only here: use local",
                          lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2));
    lua_settop(L, 3);
    lua_rawset(L, lua_upvalueindex(1));
    return 0;
}

void mp_vm_lock_globals(struct mp_vm *vm)
{
    vm->locked = true;
}

void mp_vm_lib(lua_State *L, const char *name, const struct luaL_Reg *functions)
{
    if (name) {
        lua_getglobal(L, name);
        if (!lua_istable(L, -1)) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setglobal(L, name);
        }
    }
    luaL_setfuncs(L, functions, 0);
    if (name)
        lua_pop(L, 1);
}

static void open(lua_State *L, lua_CFunction f, const char *name)
{
    lua_pushcfunction(L, f);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

/* to[names[i]] = from[names[i]] */
static void copy_names(lua_State *L, int from, int to, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lua_getfield(L, from, names[i]);
        lua_setfield(L, to, names[i]);
    }
}

/* Strings' methods come from a table of their own, so that `string.rep = …` cannot alter what our library calls. */
static void protect_strings(lua_State *L, int strings)
{
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, strings)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "string");
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}

/* lua/moonpool/stdlib.lua: xpcall and table.sort that can be stopped. */
static void open_stdlib(lua_State *L, int globals)
{
    const char *source = NULL;
    size_t n = 0;
    if (!mp_vm_bundled("lua/moonpool/stdlib.lua", &source, &n) ||
        luaL_loadbufferx(L, source, n, "@lua/moonpool/stdlib.lua", "t") != 0)
        luaL_error(L, "lua/moonpool/stdlib.lua is not in the bundle, or is broken");
    lua_call(L, 0, 1);
    lua_getfield(L, globals, "xpcall");
    lua_pushcfunction(L, guard);
    lua_call(L, 2, 2);
    lua_getfield(L, globals, "table");
    lua_insert(L, -2);
    lua_setfield(L, -2, "sort");
    lua_pop(L, 1);
    lua_setfield(L, globals, "xpcall");
}

int vm_open_libs(lua_State *L)
{
    enum { OLD = 1, G, STRINGS, OS };
    lua_settop(L, 0);
    open(L, luaopen_base, "");
    open(L, luaopen_string, LUA_STRLIBNAME);
    open(L, luaopen_table, LUA_TABLIBNAME);
    open(L, luaopen_math, LUA_MATHLIBNAME);
    open(L, luaopen_bit, LUA_BITLIBNAME);
    open(L, luaopen_os, LUA_OSLIBNAME);
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_newtable(L);
    copy_names(L, OLD, G, base_names, MP_COUNT(base_names));

    lua_getfield(L, G, "string");
    lua_pushnil(L);
    lua_setfield(L, STRINGS, "dump");
    vm_string_lib(L, STRINGS);
    protect_strings(L, STRINGS);

    lua_getfield(L, G, "os");
    lua_newtable(L);
    copy_names(L, OS, OS + 1, os_names, MP_COUNT(os_names));
    lua_setfield(L, G, "os");

    open_stdlib(L, G);
    lua_pushcfunction(L, lua_load_text);
    lua_setfield(L, G, "load");
    lua_pushcfunction(L, lua_loadstring);
    lua_setfield(L, G, "loadstring");
    lua_getfield(L, G, "tostring");
    lua_pushcclosure(L, lua_print, 1);
    lua_setfield(L, G, "print");
    lua_newtable(L);
    lua_pushcclosure(L, lua_require, 1);
    lua_setfield(L, G, "require");

    lua_newtable(L); /* what scripts see as _G: empty, so that every write passes set_global */
    lua_newtable(L);
    lua_pushvalue(L, G);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, G);
    lua_pushcclosure(L, set_global, 1);
    lua_setfield(L, -2, "__newindex");
    lua_pushliteral(L, "globals");
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_setfield(L, G, "_G");
    lua_replace(L, LUA_GLOBALSINDEX);
    lua_settop(L, 0);
    return 0;
}
