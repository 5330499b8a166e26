/* core/script/lua_time.c — mp.time(), mp.sleep(seconds), mp.uuid(). */
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/script/run_impl.h"

#include <math.h>
#include <string.h>
#include <sys/random.h>
#include <uv.h>

/* mp.time(): seconds since 1970, with fractions. Any phase. */
static int lua_time(lua_State *L)
{
    mp_script_pure(L, "mp.time");
    lua_pushnumber(L, (double)mp_clock_wall_ns() / 1e9);
    return 1;
}

/* mp.uuid(): a random UUID (version 4). Any phase. */
static int lua_uuid(lua_State *L)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char b[16];
    char s[36];
    int n = 0;
    mp_script_pure(L, "mp.uuid");
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return luaL_error(L, "mp.uuid: the system gives no random bytes");
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            s[n++] = '-';
        s[n++] = hex[b[i] >> 4];
        s[n++] = hex[b[i] & 15];
    }
    lua_pushlstring(L, s, sizeof s);
    return 1;
}

struct sleep { /* on the heap: libuv closes it after the run may be gone */
    uv_timer_t timer;
    struct mp_pending pending;
};

static void free_sleep(uv_handle_t *h)
{
    mp_free(mp_container_of((uv_timer_t *)(void *)h, struct sleep, timer));
}

static void cancel_sleep(struct mp_pending *p, enum mp_cancel reason)
{
    struct sleep *s = mp_container_of(p, struct sleep, pending);
    (void)reason;
    uv_close((uv_handle_t *)&s->timer, free_sleep);
}

static int push_true(lua_State *L, void *ud)
{
    (void)ud;
    lua_pushboolean(L, true);
    return 1;
}

static void on_wake(uv_timer_t *t)
{
    struct sleep *s = mp_container_of(t, struct sleep, timer);
    mp_run_settle(&s->pending);
    uv_close((uv_handle_t *)t, free_sleep);
    mp_run_wake(&s->pending, push_true, NULL);
}

/* mp.sleep(seconds): lets other requests run. In a handler. Returns true, or nil and err "closed" when the client leaves
 * first. */
static int lua_sleep(lua_State *L)
{
    double seconds = lua_type(L, 1) == LUA_TNUMBER ? lua_tonumber(L, 1) : NAN;
    if (!(seconds >= 0 && seconds <= 86400))
        return luaL_error(L, "mp.sleep: seconds must be a number between 0 and 86400");
    struct mp_run *run = mp_run_require(L, "mp.sleep", MP_PHASE_HANDLE | MP_PHASE_BACKGROUND);
    if (!run->worker->loop)
        return luaL_error(L, "mp.sleep: this worker has no loop");
    struct sleep *s = mp_calloc(sizeof *s);
    uv_timer_init(run->worker->loop, &s->timer);
    uv_timer_start(&s->timer, on_wake, (uint64_t)ceil(seconds * 1000), 0);
    mp_run_pend(run, &s->pending, cancel_sleep);
    return mp_run_park(L, run, &s->pending);
}

void mp_lua_time_open(lua_State *L)
{
    static const struct luaL_Reg functions[] = {
        {"time", lua_time}, {"sleep", lua_sleep}, {"uuid", lua_uuid}, {NULL, NULL}};
    mp_vm_lib(L, NULL, functions);
}
