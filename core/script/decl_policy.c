/* core/script/decl_policy.c — mp.policy: which slots it fills; the functions of the one that counts go to the script. See decl_impl.h. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"
#include "core/script/policy.h"

#include <string.h>

static const char *const slot_names[] = {
#define X(id, name) name,
    MP_POLICY_SLOTS(X)
#undef X
};

const char *mp_policy_slot_name(enum mp_policy_slot slot)
{
    return slot_names[slot];
}

void decl_take_policy(struct mp_decl *d, uint32_t self, lua_State *L)
{
    const struct mp_decl_entry *e = &d->entries[self];
    struct mp_config *c = d->config;
    int t = lua_gettop(L);
    if (strcmp(e->name, MP_POLICY_DEFAULT) == 0)
        mp_decl_problem(d, e, NULL, 0, "give yours another name, and name it in mp.server: policy = \"…\"",
                        "the name is that of moonpool's own");
    if (!c->policies)
        c->policies = mp_arena_zalloc(d->arena, decl_count(d, MP_DECL_POLICY) * sizeof *c->policies);
    struct mp_conf_policy *p = &c->policies[c->n_policies++];
    p->name = mp_arena_strndup(d->arena, e->name, strlen(e->name));
    p->where = decl_where(d, e);
    for (uint32_t i = 0; i < MP_N_POLICY_SLOTS; i++) {
        lua_getfield(L, t, slot_names[i]);
        p->slots |= (uint32_t)lua_isfunction(L, -1) << i;
        lua_pop(L, 1);
    }
}

/* The policy that mp.server names: its functions become the script's. */
static void use_policy(struct mp_decl *d, const struct mp_decl_entry *e, lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->checked);
    for (uint32_t i = 0; i < MP_N_POLICY_SLOTS; i++) {
        lua_getfield(L, -1, slot_names[i]);
        if (lua_isfunction(L, -1))
            d->script->policy[i] = luaL_ref(L, LUA_REGISTRYINDEX);
        else
            lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

void decl_choose_policy(struct mp_decl *d, lua_State *L)
{
    const char *name = d->config->server.policy, *names[64];
    const struct mp_decl_entry *server = NULL;
    struct mp_buf hint = {0};
    size_t n = 0;
    if (!name || strcmp(name, MP_POLICY_DEFAULT) == 0) {
        d->config->server.policy = NULL;
        return;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->kind == MP_DECL_SERVER && !server)
            server = e;
        if (e->kind != MP_DECL_POLICY)
            continue;
        if (strcmp(e->name, name) == 0) {
            if (e->checked != LUA_NOREF)
                use_policy(d, e, L);
            return;
        }
        if (n < MP_COUNT(names))
            names[n++] = e->name;
    }
    const char *near = mp_nearest(name, names, n);
    if (near)
        mp_buf_printf(&hint, "did you mean \"%s\"?", near);
    mp_decl_problem(d, server, &(struct mp_step){"policy", 0}, 1, near ? mp_buf_cstr(&hint) : NULL,
                    "no mp.policy \"%s\" is declared", name);
    mp_buf_free(&hint);
}
