/* core/vm/vm_impl.h — the VM's inside, shared by the files of core/vm only. */
#ifndef MP_VM_IMPL_H
#define MP_VM_IMPL_H
#include "core/vm/vm.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>
#include <signal.h>

struct vm_slot {
    struct mp_vm_account *account; /* NULL while free */
    uint32_t generation;           /* counts uses of the slot */
    uint32_t next_free;            /* 0: none */
};

struct vm_catch { /* one mp_vm_pcall in progress: where its error goes */
    struct vm_catch *outer;
    struct mp_err *err;
    struct mp_buf *trace;
    bool filled;
};

struct mp_vm {
    uint32_t magic;
    lua_State *L;
    struct mp_vm_account own, *current; /* current: never NULL */
    struct vm_slot *slots;              /* [0] is own */
    uint32_t n_slots, free_slot;
    size_t total, cap;
    size_t hurried_at,
        hurry; /* total when the collector was told to hurry (0: it was not); total at which it will be */
    int pause;
    bool gc_stress, locked;
    volatile sig_atomic_t kill, killed; /* kill: set from a signal handler on the VM's own thread */
    bool out_of_steps;
    uint64_t steps; /* left; 0: no limit */
    struct vm_catch *catch;
    struct mp_vm_opts opts;
};

enum { VM_MAGIC = 0x6d70766d, VM_HOOK_STEPS = 1000 };

/* account.c */
void *vm_alloc(void *ud, void *ptr, size_t old_size, size_t new_size);
void vm_accounts_init(struct mp_vm *vm);
void vm_accounts_free(struct mp_vm *vm);

/* vm_lib.c: opens the chosen libraries; runs protected. Leaves nothing. */
int vm_open_libs(lua_State *L);
/* vm_string.c: puts find, match, gmatch and gsub that can be stopped into the table at that index. -0 +0 */
void vm_string_lib(lua_State *L, int strings);
/* Raises when the C stack is nearly used up: for C functions that call back into Lua with much on the C stack. -0 +0 */
void vm_check_stack(lua_State *L);
/* The message handler, as a function on the stack: fills the current catch. Does not allocate. */
void vm_push_handler(lua_State *L);

#endif
