/* core/vm/vm.h — a LuaJIT VM as both wings use it: chosen libraries, bundled modules, memory accounts, protected calls,
 * and the means to stop a script. Used by core/script (endpoints), core/model (chat templates, architectures).
 *
 * A VM belongs to one thread at a time. The JIT is off: it gains nothing on handlers, and a compiled loop cannot be
 * stopped. Libraries: base without dofile, loadfile, getfenv, setfenv, newproxy, collectgarbage; string without dump;
 * table, math, bit, coroutine; os.time, date, clock, difftime; load and loadstring for text only; `require` over the
 * bundled modules and a loader of the caller's. No io, debug, ffi, jit, package. `string.find`, `match`, `gmatch`,
 * `gsub` (pattern.h) and `table.sort` are our own, because they can be stopped: they give what LuaJIT's give, but that a
 * NUL in a pattern is a character like others.
 *
 * MEMORY. Every block is charged to the account that was current when it was allocated, and credited to that same
 * account when it is freed, whoever's turn it is then; what an account still holds when it is closed becomes the VM's
 * own (a value that a request left in a module's table). A block that grows moves to the current account. An account
 * past its limit, or any account but the VM's own once the VM is past 90 % of its cap, gets Lua's "not enough memory":
 * the calls below report that as MP_EMEMORY. A script can catch it, so after each resume ask mp_vm_account.hit. An
 * account past half its limit makes the collector hurry, and so does a VM whose use nears its cap.
 *
 * STOPPING. mp_vm_arm_kill sets a hook that fires on the next instruction and on every one after, until disarmed. Where
 * the running coroutine can yield it yields (nothing of the script runs then, no pcall sees it): lua_resume gives
 * LUA_YIELD and mp_vm_killed is true; abandon the coroutine. A coroutine that the script made yields to the script, whose
 * next instruction then yields in turn. Where it cannot (inside a metamethod called from C, a require, the main chunk of
 * a configuration, run by mp_vm_pcall) it raises an error; if the script catches that, the next instruction raises or
 * yields again. So the script ends whatever it does. */
#ifndef MP_VM_H
#define MP_VM_H
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lua_State lua_State;
struct luaL_Reg;
struct mp_vm;

enum {
    MP_VM_CAP = 64 << 20,        /* default of mp_vm_opts.memory */
    MP_VM_RUN_MEMORY = 16 << 20, /* what a run gets unless told otherwise */
    MP_VM_TRACE_MAX = 8 << 10,   /* bytes of a traceback */
    MP_VM_SOURCE_MAX = 4 << 20,  /* bytes of one source */
};

struct mp_vm_account {
    size_t used, peak;         /* bytes now, and the most so far since it was opened */
    size_t limit;              /* 0: no limit of its own (the VM's cap still holds) */
    size_t hurry;              /* private: use at which the collector is told to hurry */
    uint32_t slot, generation; /* private */
    bool hit;                  /* an allocation was refused since it was opened (or since the caller cleared this) */
    bool open;
};

/* Looks a module up that is not bundled. Found: 0, source in *out (appended) and a chunk name in *chunk ("@conf/x.lua",
 * appended). MP_ENOENT: not here. Anything else: err says why, and require raises it. */
typedef int (*mp_vm_loader)(void *ctx, const char *module, struct mp_buf *out, struct mp_buf *chunk,
                            struct mp_err *err);
/* print's line: n bytes of text (arguments through tostring, tabs between), where it was called ("x.lua:3"). */
typedef void (*mp_vm_print)(void *ctx, const char *where, const char *text, size_t n);

struct mp_vm_opts { /* zero is fine for every field */
    size_t memory;  /* cap of the whole VM in bytes; 0: MP_VM_CAP */
    uint64_t steps; /* VM instructions after which everything raises "ran too many steps"; 0: no limit. Costs speed */
    bool gc_stress; /* a full collection at every chance; also by the environment's MOONPOOL_VM_GC=stress */
    mp_vm_loader loader; /* (optional) without it only bundled modules are found */
    void *loader_ctx;
    mp_vm_print print; /* (optional) without it print writes an info line to the log */
    void *print_ctx;
};

/* NULL with err: MP_ENOMEM, or MP_EUNSUPPORTED when this LuaJIT refuses an allocator of our own (no GC64). opts may be
 * NULL. The current account is the VM's own. */
struct mp_vm *mp_vm_new(const struct mp_vm_opts *opts, struct mp_err *err);
void mp_vm_free(struct mp_vm *vm);        /* NULL is fine; closes the accounts that are open; never from inside Lua */
lua_State *mp_vm_state(struct mp_vm *vm); /* the main thread */
struct mp_vm *mp_vm_of(lua_State *L);     /* the VM that a state or coroutine belongs to */

/* Accounts: the caller's memory, at one address while open. At most 65,535 open at once. */
int mp_vm_account_open(struct mp_vm *vm, struct mp_vm_account *a, size_t limit, struct mp_err *err);
void mp_vm_account_close(struct mp_vm *vm, struct mp_vm_account *a); /* fine when it is not open */
/* What is allocated from now on is a's (NULL: the VM's own). Returns the account that was current, NULL for the VM's. */
struct mp_vm_account *mp_vm_charge(struct mp_vm *vm, struct mp_vm_account *a);
size_t mp_vm_used(const struct mp_vm *vm); /* bytes in all, garbage included; any thread */
size_t mp_vm_cap(const struct mp_vm *vm);
size_t mp_vm_own(const struct mp_vm *vm); /* bytes on the VM's own account */
void mp_vm_collect(struct mp_vm *vm);     /* a full collection: slow, for builders and specs */

/* Protected calls. As lua_pcall: function and nargs arguments are taken, nresults left (none on error). Returns 0,
 * MP_ESCRIPT ("file:line: message"), MP_EMEMORY, or MP_ECPU when it was killed or ran out of steps; a raised table
 * with `code` and `message` (mp's errors) keeps its code. trace: (optional) gets a traceback, cut at MP_VM_TRACE_MAX. */
int mp_vm_pcall(lua_State *L, int nargs, int nresults, struct mp_buf *trace,
                struct mp_err *err); /* -(nargs+1) +nresults */
/* Runs fn(L) with ud as light userdata on its stack, on the main thread; it leaves nothing. Same errors. Not from inside
 * Lua. */
int mp_vm_cpcall(struct mp_vm *vm, int (*fn)(lua_State *L), void *ud, struct mp_err *err); /* -0 +0 */
/* After lua_resume(co) ended with an error (status): fills err and trace from co's top and stack. Never raises. */
int mp_vm_resume_error(struct mp_vm *vm, lua_State *co, int status, struct mp_buf *trace,
                       struct mp_err *err); /* -1 +0 on co */

/* Loads text (never bytecode) as a function on the stack; chunk as Lua wants it: "@path". Syntax errors are MP_ESCRIPT. */
int mp_vm_load(lua_State *L, const char *source, size_t n, const char *chunk, struct mp_err *err); /* -0 +1 or +0 */
/* What `require "module"` gives. */
int mp_vm_require(lua_State *L, const char *module, struct mp_buf *trace, struct mp_err *err); /* -0 +1 or +0 */
/* A file of the bundle by its path ("lua/moonpool/arch/llama.lua"); false when there is none. Static. */
bool mp_vm_bundled(const char *path, const char **data, size_t *n);

/* Registers functions in the global table `name` (made when it is not there); name NULL: in the table on the top. */
void mp_vm_lib(lua_State *L, const char *name, const struct luaL_Reg *functions); /* -0 +0; raises when memory is out */
/* From now on a write to a global raises "global 'x' is read only here: use local". Cannot be undone. */
void mp_vm_lock_globals(struct mp_vm *vm);

/* Stopping: see above. Arm and disarm from the VM's own thread; arming is async-signal-safe, so a watchdog sends that
 * thread a signal and the handler arms. Whether the run it meant is still the one running is the caller's to check. */
void mp_vm_arm_kill(struct mp_vm *vm);
void mp_vm_disarm_kill(struct mp_vm *vm);  /* also forgets that it fired: before each resume */
bool mp_vm_killed(const struct mp_vm *vm); /* the hook has stopped something since the last disarm */
bool mp_vm_kill_armed(const struct mp_vm *vm);
/* For C functions that loop over a script's data: raises if the kill is armed. Call every few thousand iterations. */
void mp_vm_poll(lua_State *L); /* -0 +0 */

#endif
