/* core/script/decl_device.c — mp.device: what a group of devices may hold. See decl_impl.h. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"

#include <string.h>

void decl_take_device(struct mp_decl *d, uint32_t self, lua_State *L)
{
    static const char *const names[] = {"cpu", "fake"};
    const struct mp_decl_entry *e = &d->entries[self];
    struct mp_config *c = d->config;
    int t = lua_gettop(L);
    bool known = false;
    for (size_t i = 0; i < MP_COUNT(names); i++)
        known = known || strcmp(e->name, names[i]) == 0;
    if (!known && strncmp(e->name, "cuda", 4) == 0)
        mp_decl_problem(d, e, NULL, 0, NULL, "a CUDA device is not yet built");
    else if (!known)
        mp_decl_problem(d, e, NULL, 0, NULL, "there is no such device (there is \"cpu\")");
    if (!c->devices)
        c->devices = mp_arena_zalloc(d->arena, decl_count(d, MP_DECL_DEVICE) * sizeof *c->devices);
    c->devices[c->n_devices++] = (struct mp_conf_device){
        .name = mp_arena_strndup(d->arena, e->name, strlen(e->name)),
        .memory = (uint64_t)decl_number(L, t, "memory", 0),
        .max_wait = decl_number(L, t, "max_wait", 0),
        .min_residency = decl_number(L, t, "min_residency", 0),
        .where = decl_where(d, e),
    };
}
