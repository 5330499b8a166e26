/* core/vm/account.c — the allocator: who is charged for each block, and when the collector must hurry. See vm.h. */
#include "core/base/mem.h"
#include "core/vm/vm_impl.h"

/* Stands before each block. LuaJIT asks for 8-byte alignment only. */
struct head {
    uint32_t slot, generation;
};

enum {
    OVERHEAD = sizeof(struct head) + 8 /* malloc's own */,
    MAX_SLOTS = 65536,
    DEFAULT_STEPMUL = 200,
    DEFAULT_PAUSE = 200
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Whoever was charged for it: its account if that is still open, else the VM's own. */
static struct mp_vm_account *owner(struct mp_vm *vm, const struct head *h)
{
    struct vm_slot *s = &vm->slots[h->slot];
    return s->account && s->generation == h->generation ? s->account : &vm->own;
}

/* Read by any thread (mp_vm_used), written by the VM's own. */
static void set_total(struct mp_vm *vm, size_t n)
{
    __atomic_store_n(&vm->total, n, __ATOMIC_RELAXED);
}

static void credit(struct mp_vm *vm, struct mp_vm_account *a, size_t n)
{
    a->used -= n;
    set_total(vm, vm->total - n);
    if (a->limit && a->used + a->limit / 4 < a->hurry)
        a->hurry = max_size(a->limit / 2, a->used + a->limit / 8);
}

static void charge(struct mp_vm *vm, struct mp_vm_account *a, size_t n)
{
    a->used += n;
    set_total(vm, vm->total + n);
    if (a->used > a->peak)
        a->peak = a->used;
}

static bool allowed(const struct mp_vm *vm, const struct mp_vm_account *a, size_t used, size_t total)
{
    if (!vm->L)
        return true;
    if (a->limit && used > a->limit)
        return false;
    return total <= (a == &vm->own ? vm->cap : vm->cap / 10 * 9);
}

/* LuaJIT has no emergency collection. A step multiplier of 0 makes the next check do a whole cycle, and a threshold of
 * "now" makes that check come at the next allocation by the interpreter. Both calls only store numbers. */
static void hurry(struct mp_vm *vm)
{
    vm->hurried_at = vm->total;
    lua_gc(vm->L, LUA_GCSETSTEPMUL, 0);
    lua_gc(vm->L, LUA_GCRESTART, 0);
}

static void calm(struct mp_vm *vm)
{
    vm->hurried_at = 0;
    lua_gc(vm->L, LUA_GCSETSTEPMUL, DEFAULT_STEPMUL);
}

static void pace(struct mp_vm *vm)
{
    struct mp_vm_account *a = vm->current;
    if (!vm->L || vm->gc_stress)
        return;
    if (a->limit && a->used > a->hurry) {
        a->hurry = a->used + a->limit / 8;
        hurry(vm);
    } else if (vm->total > vm->hurry) {
        vm->hurry = vm->total + vm->cap / 32;
        hurry(vm);
    } else if (vm->hurried_at && vm->total + vm->cap / 128 < vm->hurried_at) {
        calm(vm);
        vm->hurry = max_size(vm->cap / 4 * 3, vm->total + vm->cap / 32);
    }
}

void *vm_alloc(void *ud, void *ptr, size_t old_size, size_t new_size)
{
    struct mp_vm *vm = ud;
    struct mp_vm_account *a = vm->current, *was = NULL;
    struct head *h = ptr ? (struct head *)ptr - 1 : NULL, *moved;
    size_t old_bytes = ptr ? old_size + OVERHEAD : 0, new_bytes = 0;

    if (h)
        was = owner(vm, h);
    if (new_size == 0) {
        if (h) {
            credit(vm, was, old_bytes);
            mp_free(h);
        }
        return NULL;
    }
    if (!mp_add_size(new_size, OVERHEAD, &new_bytes))
        return NULL;
    if (h && new_bytes <= old_bytes) {
        moved = mp_try_realloc(h, new_size + sizeof *h);
        credit(vm, was, old_bytes - new_bytes);
        return (moved ? moved : h) + 1; /* shrinking must not fail */
    }
    if (!allowed(vm, a, a->used + new_bytes - (was == a ? old_bytes : 0), vm->total + new_bytes - old_bytes)) {
        a->hit = true;
        return NULL;
    }
    /* lua_newstate crashes when it cannot get its first few KiB: those are like our own small allocations. */
    moved = vm->L ? mp_try_realloc(h, new_size + sizeof *h) : mp_realloc(h, new_size + sizeof *h);
    if (!moved)
        return NULL;
    if (was)
        credit(vm, was, old_bytes);
    charge(vm, a, new_bytes);
    moved->slot = a->slot;
    moved->generation = a->generation;
    pace(vm);
    return moved + 1;
}

static void free_slots(struct mp_vm *vm, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        vm->slots[i] = (struct vm_slot){.next_free = i + 1 < to ? i + 1 : 0};
    vm->free_slot = from;
    vm->n_slots = to;
}

void vm_accounts_init(struct mp_vm *vm)
{
    vm->slots = mp_calloc(16 * sizeof *vm->slots);
    free_slots(vm, 1, 16);
    vm->own = (struct mp_vm_account){.open = true};
    vm->slots[0].account = vm->current = &vm->own;
    vm->hurry = vm->cap / 4 * 3;
    vm->pause = DEFAULT_PAUSE;
}

void vm_accounts_free(struct mp_vm *vm)
{
    for (uint32_t i = 0; i < vm->n_slots; i++)
        if (vm->slots[i].account)
            vm->slots[i].account->open = false;
    mp_free(vm->slots);
}

int mp_vm_account_open(struct mp_vm *vm, struct mp_vm_account *a, size_t limit, struct mp_err *err)
{
    uint32_t i = vm->free_slot;
    if (i == 0) {
        if (vm->n_slots == MAX_SLOTS)
            return mp_err_set(err, MP_ELIMIT, "too many memory accounts are open in one VM");
        vm->slots = mp_realloc(vm->slots, 2 * (size_t)vm->n_slots * sizeof *vm->slots);
        free_slots(vm, vm->n_slots, 2 * vm->n_slots);
        i = vm->free_slot;
    }
    vm->free_slot = vm->slots[i].next_free;
    *a = (struct mp_vm_account){.limit = limit, .hurry = limit / 2, .slot = i, .open = true};
    a->generation = ++vm->slots[i].generation;
    vm->slots[i].account = a;
    return 0;
}

void mp_vm_account_close(struct mp_vm *vm, struct mp_vm_account *a)
{
    if (!a->open)
        return;
    if (vm->current == a)
        vm->current = &vm->own;
    vm->own.used += a->used;
    if (vm->own.used > vm->own.peak)
        vm->own.peak = vm->own.used;
    vm->slots[a->slot].account = NULL;
    vm->slots[a->slot].next_free = vm->free_slot;
    vm->free_slot = a->slot;
    a->open = false;
}

struct mp_vm_account *mp_vm_charge(struct mp_vm *vm, struct mp_vm_account *a)
{
    struct mp_vm_account *was = vm->current;
    vm->current = a ? a : &vm->own;
    if (!vm->gc_stress) {
        /* The next cycle begins at pause % of what is live then: keep that below 80 % of the cap. */
        size_t most = vm->total ? vm->cap / 10 * 8 / (vm->total / 100 + 1) : DEFAULT_PAUSE;
        int pause = most < 110 ? 110 : most > DEFAULT_PAUSE ? DEFAULT_PAUSE : (int)most;
        if (pause != vm->pause)
            lua_gc(vm->L, LUA_GCSETPAUSE, vm->pause = pause);
        if (vm->hurried_at)
            calm(vm);
    }
    return was == &vm->own ? NULL : was;
}

size_t mp_vm_used(const struct mp_vm *vm)
{
    return __atomic_load_n(&vm->total, __ATOMIC_RELAXED);
}

size_t mp_vm_cap(const struct mp_vm *vm)
{
    return vm->cap;
}

size_t mp_vm_own(const struct mp_vm *vm)
{
    return vm->own.used;
}

void mp_vm_collect(struct mp_vm *vm)
{
    struct mp_vm_account *was = mp_vm_charge(vm, NULL);
    lua_gc(vm->L, LUA_GCCOLLECT, 0);
    mp_vm_charge(vm, was);
}
