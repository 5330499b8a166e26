/* core/script/background.c — a job's run: a coroutine like a handler's, with the same limits, but nobody is answered: what it returns or raises
 * becomes its result and a line of the log. Begun by core/gateway/timetable.c through mp_run_background. */
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/run_impl.h"

#include <math.h>
#include <string.h>
#include <uv.h>

struct timeout { /* on the heap: libuv closes it after the run is gone */
    uv_timer_t timer;
    struct mp_run *run;
};

struct run_background {
    struct mp_exchange x;
    const struct mp_conf_job *job;
    uint32_t index;
    struct mp_job_fired fired;
    struct timeout *timeout;
    enum mp_job_result result;
    struct mp_err err;
    void (*done)(void *user, enum mp_job_result result, const struct mp_err *err);
    void *user;
};

/* ---- the outcome ---- */

void background_failed(struct mp_run *run, enum mp_job_result result, int code, const char *text, const char *trace)
{
    struct run_background *b = run->background;
    struct mp_buf line = {0};
    b->result = result;
    mp_err_set(&b->err, code, "%s", text);
    for (const char *p = trace ? trace : ""; *p; p++) /* one line of the log: its levels side by side */
        if (*p == '\n')
            mp_buf_puts(&line, " <");
        else
            mp_buf_putc(&line, *p);
    mp_log(result == MP_JOB_CANCELLED ? MP_LOG_INFO : MP_LOG_ERROR, "job '%s' (%s): %s%s%s", b->job->name,
           b->job->where, text, line.len ? " <" : "", mp_buf_cstr(&line));
    mp_buf_free(&line);
}

/* The error at idx (absolute): a table with a message, or a text. */
static void failed_with(lua_State *L, struct mp_run *run, int idx)
{
    const char *code = NULL, *message = lua_type(L, idx) == LUA_TSTRING ? lua_tostring(L, idx) : NULL;
    if (lua_istable(L, idx)) {
        lua_pushliteral(L, "code");
        lua_rawget(L, idx);
        lua_pushliteral(L, "message");
        lua_rawget(L, idx);
        code = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : code;
    }
    int known = code ? mp_err_from_name(code) : 0;
    background_failed(run, MP_JOB_FAILED, known ? known : MP_ESCRIPT,
                      message ? message : "it failed with an error that has no message", NULL);
}

void background_results(lua_State *L, struct mp_run *run, lua_State *co)
{
    lua_settop(co, 2);
    lua_settop(L, 0);
    lua_xmove(co, L, 2);
    if (!lua_toboolean(L, 1) && !lua_isnil(L, 2)) /* return nil, err; whatever else it returns is fine */
        failed_with(L, run, 2);
    lua_settop(L, 0);
}

void background_raised(lua_State *L, struct mp_run *run)
{
    int idx = lua_gettop(L);
    failed_with(L, run, idx);
    lua_settop(L, idx - 1);
}

/* ---- the end ---- */

static void free_timeout(uv_handle_t *h)
{
    mp_free(mp_container_of((uv_timer_t *)(void *)h, struct timeout, timer));
}

static void on_end(struct mp_exchange *x)
{
    struct run_background *b = mp_container_of(x, struct run_background, x);
    struct mp_arena *arena = x->arena;
    enum mp_job_result result = b->result;
    struct mp_err err = b->err;
    void (*done)(void *user, enum mp_job_result result, const struct mp_err *err) = b->done;
    void *user = b->user;
    if (b->timeout)
        uv_close((uv_handle_t *)&b->timeout->timer, free_timeout);
    mp_arena_free(arena); /* b too */
    done(user, result, &err);
}

static const struct mp_exchange_ops ops = {.end = on_end};

static void on_timeout(uv_timer_t *t)
{
    struct mp_run *run = mp_container_of(t, struct timeout, timer)->run;
    char where[160] = "", text[300];
    if (run->main.co)
        mp_script_where(run->main.co, where, sizeof where);
    snprintf(text, sizeof text, "stopped%s%s: it ran for longer than its timeout (%g s)", where[0] ? " at " : "", where,
             run->background->job->timeout);
    background_failed(run, MP_JOB_TIMEOUT, MP_ETIMEOUT, text, NULL);
    run_abandon(run, MP_CANCEL_KILLED);
}

/* ---- the beginning ---- */

/* The job's function and `job`; makes the coroutine. */
static int push_first(lua_State *L, void *ud)
{
    struct mp_run *run = ud;
    const struct run_background *b = run->background;
    run_main_coroutine(L, run);
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, run->script->jobs[b->index]);
    lua_createtable(L, 0, 4);
    lua_pushstring(L, b->job->name);
    lua_setfield(L, -2, "name");
    lua_pushnumber(L, b->fired.tick);
    lua_setfield(L, -2, "tick");
    lua_pushnumber(L, b->fired.late);
    lua_setfield(L, -2, "late");
    lua_pushnumber(L, b->fired.missed);
    lua_setfield(L, -2, "missed");
    return 2;
}

void mp_run_background(struct mp_script_worker *w, struct mp_generation *g, uint32_t index,
                       const struct mp_job_fired *fired,
                       void (*done)(void *user, enum mp_job_result result, const struct mp_err *err), void *user)
{
    struct mp_arena *arena = mp_arena_new();
    struct run_background *b = mp_arena_zalloc(arena, sizeof *b);
    const struct mp_conf_job *job = &mp_generation_config(g)->jobs[index];
    *b = (struct run_background){
        .job = job, .index = index, .fired = *fired, .result = MP_JOB_OK, .done = done, .user = user};
    b->x = (struct mp_exchange){.ops = &ops,
                                .owner = b,
                                .arena = arena,
                                .id = job->name,
                                .method = "",
                                .target = "",
                                .path = "",
                                .query = "",
                                .remote = "",
                                .body = ""};
    struct mp_run *run = run_new(w, g, &b->x, MP_PHASE_BACKGROUND);
    run->background = b;
    if (job->timeout > 0 && w->loop) {
        b->timeout = mp_calloc(sizeof *b->timeout);
        b->timeout->run = run;
        uv_timer_init(w->loop, &b->timeout->timer);
        uv_timer_start(&b->timeout->timer, on_timeout, (uint64_t)ceil(job->timeout * 1000), 0);
    }
    run_begin(run, push_first);
}
