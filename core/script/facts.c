/* core/script/facts.c — see facts.h. */
#include "core/script/facts.h"

#include "core/base/mem.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

enum { QUEUE = sizeof "queue." - 1 };

/* Is "queue.max" and the like: what stands in t.queue. */
static bool of_queue(const char *key)
{
    return strncmp(key, "queue.", QUEUE) == 0;
}

/* t[key], where key may be "queue.max". */
static bool lookup(lua_State *L, int t, const char *key, double *out)
{
    int top = lua_gettop(L);
    if (of_queue(key)) {
        lua_getfield(L, t, "queue");
        if (lua_istable(L, -1))
            lua_getfield(L, -1, key + QUEUE);
        else
            lua_pushnil(L);
    } else {
        lua_getfield(L, t, key);
    }
    bool there = lua_type(L, -1) == LUA_TNUMBER;
    if (there)
        *out = lua_tonumber(L, -1);
    lua_settop(L, top);
    return there;
}

void mp_settings_take(lua_State *L, int t, struct mp_pool_override *out)
{
    double v = 0;
    *out = (struct mp_pool_override){0};
#define X(name, key, type, def, least, most)   \
    if (lookup(L, t, key, &v)) {               \
        out->value.name = (type)v;             \
        out->set |= 1u << MP_SET_##name##_BIT; \
    }
    MP_POOL_SETTINGS(X)
#undef X
}

void mp_settings_put(lua_State *L, int t, const struct mp_pool_settings *s)
{
    lua_createtable(L, 0, 2);
#define X(name, key, type, def, least, most) \
    lua_pushnumber(L, (double)s->name);      \
    lua_setfield(L, of_queue(key) ? -2 : t, key + (of_queue(key) ? QUEUE : 0));
    MP_POOL_SETTINGS(X)
#undef X
    lua_setfield(L, t, "queue");
}

const char *mp_settings_conflict(const struct mp_pool_override *o, const char **key)
{
    const uint32_t replicas = 1u << MP_SET_min_replicas_BIT | 1u << MP_SET_max_replicas_BIT;
    const uint32_t concurrency = 1u << MP_SET_target_concurrency_BIT | 1u << MP_SET_max_concurrency_BIT;
    if ((o->set & replicas) == replicas && o->value.min_replicas > o->value.max_replicas) {
        *key = "min_replicas";
        return "'min_replicas' is above 'max_replicas'";
    }
    if ((o->set & concurrency) == concurrency && o->value.target_concurrency > o->value.max_concurrency) {
        *key = "target_concurrency";
        return "'target_concurrency' is above 'max_concurrency'";
    }
    return NULL;
}

static void put_number(lua_State *L, const char *key, double v)
{
    lua_pushnumber(L, v);
    lua_setfield(L, -2, key);
}

static void put_text(lua_State *L, const char *key, const char *s)
{
    lua_pushstring(L, s ? s : "");
    lua_setfield(L, -2, key);
}

void mp_facts_push(lua_State *L, const struct mp_pool_facts *f)
{
    luaL_checkstack(L, 8, "too many facts");
    lua_createtable(L, 0, 24);
    put_text(L, "name", f->name);
    put_text(L, "device", f->device);
    put_text(L, "state", mp_model_state_name(f->state == MP_MODEL_DECLARED ? MP_MODEL_COLD : f->state));
    put_number(L, "replicas", f->replicas);
    put_number(L, "warm", f->warm);
    put_number(L, "in_flight", f->in_flight);
    put_number(L, "queued", f->queued);
    put_number(L, "idle", f->idle);
    put_number(L, "oldest_wait", f->oldest_wait);
    put_number(L, "load_seconds", f->load_seconds);
    put_number(L, "resident", f->resident);
    put_number(L, "memory", (double)f->memory);
    put_number(L, "need", (double)f->need);
    put_number(L, "calls", (double)f->calls);
    put_number(L, "loads", (double)f->loads);
    mp_settings_put(L, lua_gettop(L), &f->settings);
}

void mp_call_facts_push(lua_State *L, const struct mp_call_facts *f)
{
    luaL_checkstack(L, 8, "too many facts");
    lua_createtable(L, 0, 8);
    put_text(L, "id", f->id);
    put_text(L, "endpoint", f->endpoint);
    put_text(L, "path", f->path);
    put_text(L, "remote", f->remote);
    put_text(L, "tenant", f->tenant);
    put_text(L, "model", f->model);
    put_number(L, "priority", f->priority);
    if (f->deadline > 0)
        put_number(L, "deadline", f->deadline);
}
