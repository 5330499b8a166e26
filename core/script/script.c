/* core/script/script.c — see script.h: makes a VM, puts the API into it, runs the configuration. */
#include "core/script/run_impl.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/decl.h"
#include "core/script/watchdog.h"
#include "core/vm/lua_json.h"

#include <string.h>

enum { MAGIC = 0x70726373, LOAD_SECONDS = 3 };

static char script_key;

struct mp_script *mp_script_of(lua_State *L)
{
    lua_pushlightuserdata(L, &script_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    struct mp_script *s = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return s;
}

void mp_script_where(lua_State *L, char *out, size_t size)
{
    lua_Debug ar;
    out[0] = 0;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        if (!lua_getinfo(L, "Sl", &ar) || ar.currentline <= 0 || strncmp(ar.source, "@lua/moonpool", 13) == 0)
            continue;
        snprintf(out, size, "%s:%d", ar.source[0] == '@' ? ar.source + 1 : ar.short_src, ar.currentline);
        return;
    }
}

void mp_script_pure(lua_State *L, const char *fn)
{
    if (mp_script_of(L)->deciding)
        luaL_error(L, "a policy may not use %s: time and state are its arguments, and nothing else counts", fn);
}

/* For lua/moonpool/init.lua: (fn) -> nothing. */
static int lua_pure(lua_State *L)
{
    struct mp_script *s = mp_script_of(L);
    if (s->deciding) {
        luaL_where(L, 2); /* who called the function that asks */
        lua_pushfstring(L, "a policy may not use %s: time and state are its arguments, and nothing else counts",
                        lua_tostring(L, 1));
        lua_concat(L, 2);
        return lua_error(L);
    }
    return 0;
}

/* require "a.b": a/b.lua or a/b/init.lua beside the configuration. */
static int load_module(void *ctx, const char *module, struct mp_buf *out, struct mp_buf *chunk, struct mp_err *err)
{
    struct mp_script *s = ctx;
    static const char *const tails[] = {".lua", "/init.lua"};
    struct mp_buf path = {0};
    const struct mp_source *f = NULL;
    int rc = 0;
    for (size_t i = 0; i < MP_COUNT(tails) && rc == 0 && !f; i++) {
        mp_buf_clear(&path);
        for (const char *p = module; *p; p++)
            mp_buf_putc(&path, *p == '.' ? '/' : *p);
        mp_buf_puts(&path, tails[i]);
        rc = mp_sources_find(s->sources, mp_buf_cstr(&path), &f, err);
    }
    if (rc == 0 && !f) {
        const char *folder = mp_sources_folder(s->sources);
        rc = mp_err_set(err, MP_ENOENT, "module '%s' not found: no %s.lua in %s", module, module,
                        folder[0] ? folder : "the current folder");
    }
    if (f) {
        mp_buf_put(out, f->data, f->n);
        mp_buf_printf(chunk, "@%s", f->name);
    }
    mp_buf_free(&path);
    return rc;
}

/* mp's __index: a name that is not there. */
static int unknown_member(lua_State *L)
{
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
    const char *names[128];
    size_t n = 0;
    for (size_t i = 0; mp_later_kinds[i]; i++)
        if (strcmp(key, mp_later_kinds[i]) == 0)
            return luaL_error(L, "mp.%s is not yet built", key);
    for (size_t i = 0; mp_later_functions[i]; i++)
        if (strcmp(key, mp_later_functions[i]) == 0)
            return luaL_error(L, "mp.%s is not yet built", key);
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1))
        if (lua_type(L, -2) == LUA_TSTRING && n < MP_COUNT(names))
            names[n++] = lua_tostring(L, -2);
    const char *near = mp_nearest(key, names, n);
    if (near)
        return luaL_error(L, "mp.%s is unknown: did you mean mp.%s?", key, near);
    return luaL_error(L, "mp.%s is unknown", key);
}

static int open_api(lua_State *L)
{
    struct mp_script *s = lua_touserdata(L, 1);
    struct mp_err err = {0};
    lua_settop(L, 0);
    lua_pushlightuserdata(L, &script_key);
    lua_pushlightuserdata(L, s);
    lua_rawset(L, LUA_REGISTRYINDEX);

    lua_newtable(L);
    mp_lua_json_open(L);
    lua_setfield(L, 1, "json");
    mp_lua_json_null(L);
    lua_setfield(L, 1, "null");
    mp_lua_err_open(L);
    mp_lua_declare_open(L);
    mp_lua_log_open(L);
    mp_lua_env_open(L);
    mp_lua_time_open(L);
    mp_lua_req_open(L);
    mp_lua_res_open(L);
    mp_lua_model_open(L);
    mp_lua_stream_open(L);
    mp_lua_all_open(L);
    mp_lua_shared_open(L);
    lua_settop(L, 1);
    lua_pushlightuserdata(L, &mp_run_park_mark);
    lua_setfield(L, 1, "__park");
    lua_pushcfunction(L, lua_pure);
    lua_setfield(L, 1, "__pure");

    /* lua/moonpool/init.lua adds what is written in Lua, takes what starts with "__" away and returns enter. */
    lua_pushvalue(L, 1);
    lua_setglobal(L, "__moonpool");
    if (mp_vm_require(L, "moonpool", NULL, &err) < 0)
        return luaL_error(L, "%s", err.message);
    lua_getfield(L, 1, "__enter");
    s->enter = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushnil(L);
    lua_setfield(L, 1, "__enter");
    lua_pushnil(L);
    lua_setfield(L, 1, "__park");
    lua_pushnil(L);
    lua_setfield(L, 1, "__pure");
    lua_pushnil(L);
    lua_setglobal(L, "__moonpool");

    lua_newtable(L);
    lua_pushcfunction(L, unknown_member);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "moonpool");
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, 1);
    lua_settop(L, 0);
    return 0;
}

struct mp_script *mp_script_new(struct mp_sources *sources, const struct mp_script_options *options, struct mp_err *err)
{
    struct mp_script *s = mp_calloc(sizeof *s);
    struct mp_vm_opts opts = {.memory = options->memory,
                              .gc_stress = options->collect_always,
                              .loader = load_module,
                              .loader_ctx = s,
                              .print = lua_log_print,
                              .print_ctx = s};
    s->magic = MAGIC;
    s->sources = sources;
    s->phase = MP_PHASE_LOAD;
    for (uint32_t i = 0; i < MP_N_POLICY_SLOTS; i++)
        s->policy[i] = LUA_NOREF;
    s->vm = mp_vm_new(&opts, err);
    if (!s->vm)
        goto fail;
    s->L = mp_vm_state(s->vm);
    if (mp_vm_cpcall(s->vm, open_api, s, err) < 0) {
        mp_err_context(err, "cannot open the script API");
        goto fail;
    }
    mp_vm_lock_globals(s->vm);
    return s;
fail:
    mp_script_free(s);
    return NULL;
}

void mp_script_free(struct mp_script *s)
{
    if (!s)
        return;
    mp_decl_free(s->decl);
    mp_vm_free(s->vm);
    mp_free(s->endpoints);
    mp_free(s->jobs);
    mp_buf_free(&s->line);
    s->magic = 0;
    mp_free(s);
}

static int run_main(lua_State *L)
{
    struct mp_script *s = lua_touserdata(L, 1);
    const struct mp_source *f = mp_sources_config(s->sources);
    struct mp_buf chunk = {0};
    struct mp_err err = {0};
    lua_settop(L, 0);
    mp_buf_printf(&chunk, "@%s", f->name);
    int rc = mp_vm_load(L, f->data, f->n, mp_buf_cstr(&chunk), &err);
    mp_buf_free(&chunk);
    if (rc == 0)
        rc = mp_vm_pcall(L, 0, 0, NULL, &err);
    if (rc < 0)
        mp_decl_error(s->decl, &err);
    /* A chunk that threw has declared only a part: what it did is still checked, but a name that waits for its table is
     * not reported twice. */
    mp_decl_finish(s->decl, L);
    return 0;
}

int mp_script_load(struct mp_script *s, bool lenient_files, struct mp_config **out, struct mp_problems *problems)
{
    struct mp_err err = {0};
    struct mp_watch *watch = mp_watch_join();
    struct mp_decl *d = mp_calloc(sizeof *d);
    d->script = s;
    d->problems = problems;
    d->lenient_files = lenient_files;
    d->arena = mp_arena_new();
    d->config = mp_arena_zalloc(d->arena, sizeof *d->config);
    d->config->arena = d->arena;
    s->decl = d;
    mp_watch_begin(watch, s->vm, LOAD_SECONDS * 1000000000ull);
    int rc = mp_vm_cpcall(s->vm, run_main, s, &err);
    mp_watch_end(watch);
    mp_vm_disarm_kill(s->vm);
    mp_watch_leave(watch);
    if (rc < 0)
        mp_decl_error(d, &err);
    s->decl = NULL;
    rc = problems->n ? MP_EINVAL : 0;
    if (rc == 0)
        *out = mp_move(&d->config);
    mp_decl_free(d);
    s->phase = MP_PHASE_HANDLE;
    return rc;
}

void mp_script_freeze(struct mp_script *s, const struct mp_config *config)
{
    s->config = config;
    for (uint32_t i = 0; i < s->n_endpoints; i++)
        s->endpoints[i].input = config->endpoints[i].input;
}
