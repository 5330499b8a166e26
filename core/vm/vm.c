/* core/vm/vm.c — life of a VM, protected calls, stopping. See vm.h. */
#include "core/vm/vm.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/vm/vm_impl.h"

#include <stdlib.h>
#include <string.h>

struct mp_vm *mp_vm_of(lua_State *L)
{
    void *ud = NULL;
    lua_getallocf(L, &ud);
    return ud;
}

lua_State *mp_vm_state(struct mp_vm *vm)
{
    return vm->L;
}

/* ---- stopping ---- */

static void hook(lua_State *L, lua_Debug *ar)
{
    struct mp_vm *vm = mp_vm_of(L);
    (void)ar;
    if (!vm->kill) {
        if (vm->steps > VM_HOOK_STEPS) {
            vm->steps -= VM_HOOK_STEPS;
            return;
        }
        vm->out_of_steps = true;
        mp_vm_arm_kill(vm);
    }
    vm->killed = 1;
    if (lua_isyieldable(L) && !vm->out_of_steps) {
        lua_yield(L, 0); /* from a hook this does not return */
        return;
    }
    luaL_where(L, 0);
    lua_pushstring(L, vm->out_of_steps ? "ran too many steps" : "ran too long and was stopped");
    lua_concat(L, 2);
    lua_error(L);
}

/* Not instrumented: under TSan core/script's watchdog calls this from its own thread (there a signal would not come). */
__attribute__((no_sanitize("thread"))) void mp_vm_arm_kill(struct mp_vm *vm)
{
    vm->kill = 1;
    lua_sethook(vm->L, hook, LUA_MASKCOUNT, 1);
}

void mp_vm_disarm_kill(struct mp_vm *vm)
{
    if (vm->kill) {
        vm->kill = 0;
        if (vm->steps)
            lua_sethook(vm->L, hook, LUA_MASKCOUNT, VM_HOOK_STEPS);
        else
            lua_sethook(vm->L, NULL, 0, 0);
    }
    vm->killed = 0;
}

bool mp_vm_killed(const struct mp_vm *vm)
{
    return vm->killed;
}

bool mp_vm_kill_armed(const struct mp_vm *vm)
{
    return vm->kill;
}

void mp_vm_poll(lua_State *L)
{
    struct mp_vm *vm = mp_vm_of(L);
    if (vm->kill) {
        vm->killed = 1;
        luaL_error(L, "ran too long and was stopped");
    }
}

/* ---- errors ---- */

/* A stack as Lua prints it, without allocating from Lua. The first ten and the last ten levels of a long one. */
static void put_trace(lua_State *L, int level, struct mp_buf *out)
{
    size_t start = out->len;
    lua_Debug ar;
    /* Finding a level walks to it: after endless recursion only a bisection finds the last one in time. */
    int depth = level, beyond = level + 1;
    while (beyond < 100000 && lua_getstack(L, beyond, &ar))
        beyond *= 2;
    while (depth < beyond) {
        int middle = depth + (beyond - depth) / 2;
        if (lua_getstack(L, middle, &ar))
            depth = middle + 1;
        else
            beyond = middle;
    }
    for (; level < depth && out->len - start < MP_VM_TRACE_MAX - 200; level++) {
        if (depth > 22 && level == 11) {
            mp_buf_printf(out, "\n  … %d more", depth - 21);
            level = depth - 10;
        }
        if (!lua_getstack(L, level, &ar) || !lua_getinfo(L, "Snl", &ar))
            break;
        mp_buf_printf(out, "%s  %s", out->len > start ? "\n" : "", ar.short_src);
        if (ar.currentline > 0)
            mp_buf_printf(out, ":%d", ar.currentline);
        if (*ar.namewhat)
            mp_buf_printf(out, ": in %s '%.80s'", ar.namewhat, ar.name);
        else if (*ar.what == 'm')
            mp_buf_puts(out, ": main chunk");
    }
    if (out->len - start > MP_VM_TRACE_MAX)
        out->len = start + MP_VM_TRACE_MAX;
}

/* The error value at the top becomes *err. May allocate from Lua, and so raise, when the value is a table. -0 +0 */
static void fill_error(lua_State *L, struct mp_err *err)
{
    int code = 0;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING: mp_err_set(err, MP_ESCRIPT, "%s", lua_tostring(L, -1)); break;
    case LUA_TNUMBER: mp_err_set(err, MP_ESCRIPT, "%.14g", lua_tonumber(L, -1)); break;
    case LUA_TTABLE:
        lua_pushliteral(L, "code");
        lua_rawget(L, -2);
        if (lua_type(L, -1) == LUA_TSTRING)
            code = mp_err_from_name(lua_tostring(L, -1));
        lua_pop(L, 1);
        lua_pushliteral(L, "message");
        lua_rawget(L, -2);
        if (lua_type(L, -1) == LUA_TSTRING)
            mp_err_set(err, code ? code : MP_ESCRIPT, "%s", lua_tostring(L, -1));
        else
            mp_err_set(err, code ? code : MP_ESCRIPT, "the script raised a table without a message");
        lua_pop(L, 1);
        break;
    default: mp_err_set(err, MP_ESCRIPT, "the script raised a %s value", luaL_typename(L, -1));
    }
}

static int on_error(lua_State *L)
{
    struct vm_catch *c = mp_vm_of(L)->catch;
    if (!c)
        return 1;
    /* An error that `require` passes on comes by twice: the first trace is the better one. */
    if (c->filled && lua_type(L, 1) == LUA_TSTRING && c->err && !strcmp(c->err->message, lua_tostring(L, 1)))
        return 1;
    lua_settop(L, 1);
    if (c->trace) {
        mp_buf_clear(c->trace);
        put_trace(L, 1, c->trace);
    }
    fill_error(L, c->err);
    c->filled = true;
    return 1;
}

static char handler_key;

void vm_push_handler(lua_State *L)
{
    lua_pushlightuserdata(L, &handler_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

/* After a protected call failed: the code, with err complete. */
static int judge(struct mp_vm *vm, int status, bool filled, struct mp_err *err)
{
    if (status == LUA_ERRMEM)
        return mp_err_set(err, MP_EMEMORY, "not enough memory");
    if (vm->killed) {
        if (err && filled)
            err->code = MP_ECPU;
        else
            mp_err_set(err, MP_ECPU, vm->out_of_steps ? "ran too many steps" : "ran too long and was stopped");
        return MP_ECPU;
    }
    if (!filled)
        return mp_err_set(err, MP_ESCRIPT, status == LUA_ERRERR ? "error in error handling" : "unknown error");
    return err->code;
}

int mp_vm_pcall(lua_State *L, int nargs, int nresults, struct mp_buf *trace, struct mp_err *err)
{
    struct mp_vm *vm = mp_vm_of(L);
    struct mp_err mine = {0};
    struct vm_catch c = {.outer = vm->catch, .err = err ? err : &mine, .trace = trace};
    int base = lua_gettop(L) - nargs, status;
    vm_push_handler(L);
    lua_insert(L, base);
    vm->catch = &c;
    status = lua_pcall(L, nargs, nresults, base);
    vm->catch = c.outer;
    lua_remove(L, base);
    if (status == 0)
        return 0;
    lua_settop(L, base - 1);
    return judge(vm, status, c.filled, c.err);
}

struct cpcall {
    int (*fn)(lua_State *L);
    void *ud;
};

static int cpcall(lua_State *L)
{
    const struct cpcall *c = lua_touserdata(L, 1);
    lua_settop(L, 0);
    vm_push_handler(L);
    lua_pushcfunction(L, c->fn);
    lua_pushlightuserdata(L, c->ud);
    if (lua_pcall(L, 1, 0, 1) != 0)
        lua_error(L);
    return 0;
}

int mp_vm_cpcall(struct mp_vm *vm, int (*fn)(lua_State *L), void *ud, struct mp_err *err)
{
    struct mp_err mine = {0};
    struct vm_catch c = {.outer = vm->catch, .err = err ? err : &mine};
    struct cpcall call = {fn, ud};
    int top = lua_gettop(vm->L), status;
    vm->catch = &c;
    status = lua_cpcall(vm->L, cpcall, &call);
    vm->catch = c.outer;
    lua_settop(vm->L, top);
    return status == 0 ? 0 : judge(vm, status, c.filled, c.err);
}

struct resume_error {
    lua_State *co;
    struct mp_err *err;
};

static int take_error(lua_State *L)
{
    struct resume_error *e = lua_touserdata(L, 1);
    lua_xmove(e->co, L, 1);
    fill_error(L, e->err);
    return 0;
}

int mp_vm_resume_error(struct mp_vm *vm, lua_State *co, int status, struct mp_buf *trace, struct mp_err *err)
{
    struct mp_err mine = {0};
    struct resume_error e = {co, err ? err : &mine};
    struct mp_vm_account *was = mp_vm_charge(vm, NULL);
    int rc;
    if (trace) {
        mp_buf_clear(trace);
        put_trace(co, 0, trace);
    }
    e.err->code = 0;
    rc = lua_gettop(co) > 0 ? mp_vm_cpcall(vm, take_error, &e, e.err) : MP_ESCRIPT;
    rc = judge(vm, status, rc == 0, e.err);
    mp_vm_charge(vm, was);
    return rc;
}

/* ---- sources ---- */

int mp_vm_load(lua_State *L, const char *source, size_t n, const char *chunk, struct mp_err *err)
{
    int status, rc;
    if (n > MP_VM_SOURCE_MAX)
        return mp_err_set(err, MP_ELIMIT, "%s: longer than %d MiB", chunk + 1, MP_VM_SOURCE_MAX >> 20);
    if (n && *source == LUA_SIGNATURE[0])
        return mp_err_set(err, MP_EFORMAT, "%s: bytecode is not accepted", chunk + 1);
    status = luaL_loadbufferx(L, source, n, chunk, "t");
    if (status == 0)
        return 0;
    rc = status == LUA_ERRMEM ? MP_EMEMORY : MP_ESCRIPT;
    mp_err_set(err, rc, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    return rc;
}

static int require_it(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, lua_touserdata(L, 1));
    lua_call(L, 1, 1);
    return 1;
}

int mp_vm_require(lua_State *L, const char *module, struct mp_buf *trace, struct mp_err *err)
{
    lua_pushcfunction(L, require_it);
    lua_pushlightuserdata(L, (void *)(uintptr_t)module);
    return mp_vm_pcall(L, 1, 1, trace, err);
}

/* ---- life ---- */

static int panic(lua_State *L)
{
    mp_error("vm: unprotected error in Lua: %s", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?");
    abort();
}

static int init(lua_State *L)
{
    lua_pushlightuserdata(L, &handler_key);
    lua_pushcfunction(L, on_error);
    lua_rawset(L, LUA_REGISTRYINDEX);
    return vm_open_libs(L);
}

static int init_protected(lua_State *L) /* the handler is not there yet */
{
    lua_settop(L, 0);
    return init(L);
}

struct mp_vm *mp_vm_new(const struct mp_vm_opts *opts, struct mp_err *err)
{
    struct mp_vm *vm = mp_calloc(sizeof *vm);
    const char *env = getenv("MOONPOOL_VM_GC");
    int status;
    vm->magic = VM_MAGIC;
    if (opts)
        vm->opts = *opts;
    vm->cap = vm->opts.memory ? vm->opts.memory : MP_VM_CAP;
    vm_accounts_init(vm);
    vm->L = lua_newstate(vm_alloc, vm);
    if (!vm->L) {
        mp_err_set(err, MP_EUNSUPPORTED,
                   "this LuaJIT refuses an allocator of ours: it was built without GC64 (on Debian install "
                   "libluajit2-5.1-2, as ./dev does)");
        goto fail;
    }
    lua_atpanic(vm->L, panic);
    luaJIT_setmode(vm->L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    status = lua_cpcall(vm->L, init_protected, NULL);
    if (status != 0) {
        mp_err_set(err, status == LUA_ERRMEM ? MP_ENOMEM : MP_EINTERNAL, "cannot open a Lua VM: %s",
                   lua_tostring(vm->L, -1));
        goto fail;
    }
    vm->gc_stress = vm->opts.gc_stress || (env && !strcmp(env, "stress"));
    if (vm->gc_stress) {
        lua_gc(vm->L, LUA_GCSETPAUSE, 0);
        lua_gc(vm->L, LUA_GCSETSTEPMUL, 0);
        lua_gc(vm->L, LUA_GCRESTART, 0);
    }
    if (vm->opts.steps) {
        vm->steps = vm->opts.steps;
        lua_sethook(vm->L, hook, LUA_MASKCOUNT, VM_HOOK_STEPS);
    }
    return vm;
fail:
    mp_vm_free(vm);
    return NULL;
}

void mp_vm_free(struct mp_vm *vm)
{
    if (!vm)
        return;
    vm->current = &vm->own;
    if (vm->L) {
        lua_sethook(vm->L, NULL, 0, 0);
        lua_close(vm->L);
    }
    vm_accounts_free(vm);
    vm->magic = 0;
    mp_free(vm);
}
