/* core/script/lua_all.c — mp.all{ a = function … end, … }: functions side by side, each in a coroutine of its own. The first
 * failure cancels the rest. */
#include "core/base/mem.h"
#include "core/script/run_impl.h"

#include <string.h>

enum { MAX_FUNCTIONS = 64 };
enum { KEYS = 1, FUNCTIONS, RESULTS, ERROR }; /* in the list that `holder` refers to */

struct group {
    struct mp_pending pending;
    int holder; /* reference; LUA_NOREF when the group is over */
    uint32_t n, left;
    bool failed, raised; /* raised: the error is a script's mistake, and the handler's then */
    struct mp_task *tasks[MAX_FUNCTIONS];
};

static void drop(struct group *g)
{
    luaL_unref(g->pending.run->script->L, LUA_REGISTRYINDEX, g->holder);
    g->holder = LUA_NOREF;
}

static void cancel_rest(struct group *g, enum mp_cancel reason)
{
    for (uint32_t i = 0; i < g->n; i++)
        if (!g->tasks[i]->ended)
            run_cancel_task(g->pending.run, g->tasks[i], reason);
}

static void cancel_group(struct mp_pending *p, enum mp_cancel reason)
{
    struct group *g = mp_container_of(p, struct group, pending);
    cancel_rest(g, reason);
    drop(g);
}

/* Pushes holder[what]. */
static void push_part(lua_State *L, struct group *g, int what)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, g->holder);
    lua_rawgeti(L, -1, what);
    lua_remove(L, -2);
}

static int push_group(lua_State *L, void *ud)
{
    struct group *g = ud;
    int n = 1;
    if (g->raised) {
        push_part(L, g, ERROR);
        return lua_error(L);
    }
    if (g->failed) {
        lua_pushnil(L);
        n = 2;
    }
    push_part(L, g, g->failed ? ERROR : RESULTS);
    mp_run_settle(&g->pending);
    drop(g);
    return n;
}

/* The function of a task, in a coroutine of its own. */
static int push_child(lua_State *L, void *ud)
{
    struct mp_task *t = ud;
    t->co = lua_newthread(L);
    t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    push_part(L, t->group, FUNCTIONS);
    lua_rawgeti(L, -1, (int)t->index + 1);
    lua_remove(L, -2);
    return 1;
}

static void child_ended(lua_State *L, struct mp_task *t, int n, bool failed)
{
    struct group *g = t->group;
    int first = lua_gettop(L) - n + 1;
    lua_settop(L, first + 1); /* two results count */
    if (failed) {
        g->failed = true;
        g->raised = !lua_istable(L, first);
        lua_rawgeti(L, LUA_REGISTRYINDEX, g->holder);
        lua_pushvalue(L, first);
        lua_rawseti(L, -2, ERROR);
    } else if (lua_isnil(L, first) && !lua_isnil(L, first + 1)) {
        g->failed = true;
        lua_rawgeti(L, LUA_REGISTRYINDEX, g->holder);
        lua_pushvalue(L, first + 1);
        lua_rawseti(L, -2, ERROR);
    } else if (!lua_isnil(L, first)) {
        push_part(L, g, RESULTS);
        push_part(L, g, KEYS);
        lua_rawgeti(L, -1, (int)t->index + 1);
        lua_pushvalue(L, first);
        lua_rawset(L, -4);
    }
    lua_settop(L, first - 1);
    g->left--;
    if (g->failed)
        cancel_rest(g, MP_CANCEL_SIBLING);
    if (g->failed || g->left == 0)
        mp_run_wake(&g->pending, push_group, g);
}

/* mp.all{ key = function, … } → { key = its first result, … }, or nil and the first error. In a handler. Waits. */
static int lua_all(lua_State *L)
{
    uint32_t n = 0;
    if (lua_type(L, 1) != LUA_TTABLE)
        return luaL_error(L, "mp.all takes a table of functions, not a %s", luaL_typename(L, 1));
    struct mp_run *run = mp_run_require(L, "mp.all", MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    lua_settop(L, 1);
    lua_createtable(L, 4, 0);
    for (int i = KEYS; i <= RESULTS; i++) {
        lua_newtable(L);
        lua_rawseti(L, 2, i);
    }
    lua_rawgeti(L, 2, KEYS);
    lua_rawgeti(L, 2, FUNCTIONS);
    for (lua_pushnil(L); lua_next(L, 1); lua_settop(L, 5)) { /* key at 5, value at 6 */
        if (lua_type(L, 6) != LUA_TFUNCTION)
            return luaL_error(L, "mp.all: every value must be a function, not a %s", luaL_typename(L, 6));
        if (n == MAX_FUNCTIONS)
            return luaL_error(L, "mp.all takes at most %d functions", MAX_FUNCTIONS);
        n++;
        lua_rawseti(L, 4, (int)n);
        lua_pushvalue(L, 5);
        lua_rawseti(L, 3, (int)n);
    }
    if (n == 0) {
        lua_newtable(L);
        return 1;
    }
    struct group *g = mp_run_alloc(run, sizeof *g);
    lua_settop(L, 2);
    g->holder = luaL_ref(L, LUA_REGISTRYINDEX);
    mp_run_pend(run, &g->pending, cancel_group);
    g->pending.composite = true;
    for (g->n = 0; g->n < n; g->n++) {
        struct mp_task *t = run_add_task(run);
        t->child_ended = child_ended;
        t->group = g;
        t->index = g->n;
        g->tasks[g->n] = t;
        run_queue(run, t, push_child, t);
    }
    g->left = n;
    return mp_run_park(L, run, &g->pending);
}

void mp_lua_all_open(lua_State *L)
{
    static const struct luaL_Reg functions[] = {{"all", lua_all}, {NULL, NULL}};
    mp_vm_lib(L, NULL, functions);
}
