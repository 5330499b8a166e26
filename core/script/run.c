/* core/script/run.c — see run.h. step() is the one function that resumes coroutines. */
#include "core/script/run.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/format.h"
#include "core/script/run_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAGIC = 0x6e75726d }; /* "mrun" */

char mp_run_park_mark;

/* ---- workers ---- */

struct mp_script_worker *mp_script_worker_new(uint32_t index, struct uv_loop_s *loop, struct mp_pool_port *port)
{
    struct mp_script_worker *w = mp_calloc(sizeof *w);
    w->index = index;
    w->loop = loop;
    w->port = port;
    w->watch = mp_watch_join();
    return w;
}

void mp_script_worker_free(struct mp_script_worker *w)
{
    if (!w)
        return;
    mp_watch_leave(w->watch);
    lua_shared_leave(w);
    mp_free(w);
}

uint32_t mp_script_worker_runs(const struct mp_script_worker *w)
{
    return w->n_runs;
}

/* ---- the pending list ---- */

void mp_run_pend(struct mp_run *run, struct mp_pending *p, void (*cancel)(struct mp_pending *p, enum mp_cancel reason))
{
    p->run = run;
    p->cancel = cancel;
    p->prev = &run->pendings;
    p->next = run->pendings.next;
    p->next->prev = p;
    run->pendings.next = p;
}

void mp_run_settle(struct mp_pending *p)
{
    if (!p->next)
        return;
    p->prev->next = p->next;
    p->next->prev = p->prev;
    p->next = p->prev = NULL;
}

static void cancel(struct mp_pending *p, enum mp_cancel reason)
{
    if (!p->next)
        return;
    mp_run_settle(p);
    p->cancel(p, reason);
}

/* Everything that goes on for the run; composites stay when the client left: they end by what they wait for. */
static void cancel_all(struct mp_run *run, enum mp_cancel reason)
{
    for (struct mp_pending *p = run->pendings.next, *next; p != &run->pendings; p = next) {
        next = p->next;
        if (reason == MP_CANCEL_CLOSED && p->composite)
            continue;
        cancel(p, reason);
        next = run->pendings.next; /* a cancel may take others off too */
        while (reason == MP_CANCEL_CLOSED && next != &run->pendings && next->composite)
            next = next->next;
    }
}

static void cancel_nothing(struct mp_pending *p, enum mp_cancel reason)
{
    (void)p;
    (void)reason;
}

/* ---- for functions of the API ---- */

struct mp_run *mp_run_require(lua_State *L, const char *fn, unsigned phases)
{
    static const struct {
        enum mp_phase phase;
        const char *during, *allowed;
    } names[] = {{MP_PHASE_LOAD, "the configuration loads", "while the configuration loads"},
                 {MP_PHASE_START, "a plugin starts", "start"},
                 {MP_PHASE_HANDLE, "a request is handled", "in a handler"},
                 {MP_PHASE_FINISH, "a request finishes", "finish"},
                 {MP_PHASE_BACKGROUND, "a job runs", "in a job"}};
    struct mp_script *s = mp_script_of(L);
    enum mp_phase now = s->current ? s->current->phase : s->phase;
    mp_script_pure(L, fn);
    if (s->current && (phases & now))
        return s->current;
    const char *during = "nothing runs", *allowed = NULL;
    for (size_t i = 0; i < MP_COUNT(names); i++) {
        if (names[i].phase == now)
            during = names[i].during;
        if ((names[i].phase & phases) && !allowed)
            allowed = names[i].allowed;
    }
    luaL_error(L, "%s cannot be used while %s (allowed: %s)", fn, during, allowed ? allowed : "never");
    return NULL;
}

void *mp_run_alloc(struct mp_run *run, size_t n)
{
    return mp_arena_zalloc(run->arena, n);
}

static void closed_err(struct mp_err *err)
{
    mp_err_set(err, MP_ECLOSED, "the client has left");
}

static int push_closed(lua_State *L, void *ud)
{
    struct mp_err err = {0};
    (void)ud;
    closed_err(&err);
    return mp_script_fail(L, &err);
}

int mp_run_park(lua_State *L, struct mp_run *run, struct mp_pending *p)
{
    if (run->closed && !p->composite) {
        cancel(p, MP_CANCEL_CLOSED);
        return push_closed(L, NULL);
    }
    run->current->waiting = p;
    lua_settop(L, 0);
    lua_pushlightuserdata(L, &mp_run_park_mark);
    return lua_yield(L, 1);
}

bool mp_run_closed(const struct mp_run *run)
{
    return run->closed;
}

struct mp_exchange *mp_run_exchange(const struct mp_run *run)
{
    return run->x;
}

const char *mp_run_kind(const struct mp_run *run)
{
    return run->background ? "job" : "request";
}

/* ---- tasks ---- */

struct mp_task *run_add_task(struct mp_run *run)
{
    struct mp_task *t = mp_run_alloc(run, sizeof *t);
    t->run = run;
    t->ref = LUA_NOREF;
    t->next = run->tasks;
    run->tasks = t;
    return t;
}

void run_queue(struct mp_run *run, struct mp_task *task, mp_push *push, void *ud)
{
    if (task->queued || task->ended)
        return;
    task->waiting = NULL;
    task->push = push;
    task->push_ud = ud;
    task->queued = true;
    task->queued_next = NULL;
    *run->queue_end = task;
    run->queue_end = &task->queued_next;
}

void run_cancel_task(struct mp_run *run, struct mp_task *task, enum mp_cancel reason)
{
    struct mp_pending *p = task->waiting;
    task->ended = true;
    task->waiting = NULL;
    if (p)
        cancel(p, reason);
    mp_run_settle(&task->writable);
    for (p = run->pendings.next; p != &run->pendings; p = p->next)
        if (p->holder == task) {
            struct mp_pending *before = p->prev;
            cancel(p, reason);
            p = before;
        }
    for (struct mp_task **at = &run->queue; task->queued && *at; at = &(*at)->queued_next)
        if (*at == task) {
            *at = task->queued_next;
            task->queued = false;
            if (!*at)
                run->queue_end = at;
            break;
        }
}

/* The coroutine goes back to be used again, or is left to the collector. Allocates nothing. */
static void drop_coroutine(struct mp_task *t, bool clean)
{
    struct mp_script *s = t->run->script;
    if (t->ref == LUA_NOREF)
        return;
    if (clean && s->n_spare < MP_SCRIPT_SPARE) {
        lua_settop(t->co, 0);
        s->spare[s->n_spare++] = t->ref;
    } else {
        luaL_unref(s->L, LUA_REGISTRYINDEX, t->ref);
    }
    t->ref = LUA_NOREF;
    t->co = NULL;
}

/* ---- the end ---- */

static void run_end(struct mp_run *run, enum mp_cancel reason)
{
    struct mp_exchange *x = run->x;
    struct mp_script *s = run->script;
    if (run->over)
        return;
    run->over = true;
    lua_log_end(run);
    cancel_all(run, reason);
    lua_req_forget(run);
    lua_res_forget(run);
    luaL_unref(s->L, LUA_REGISTRYINDEX, run->refs);
    luaL_unref(s->L, LUA_REGISTRYINDEX, run->pump_ref);
    drop_coroutine(&run->main, run->main.ended && reason == MP_CANCEL_FINISHED);
    for (struct mp_task *t = run->tasks; t; t = t->next)
        drop_coroutine(t, false);
    mp_vm_account_close(s->vm, &run->account);
    mp_buf_free(&run->answer.body);
    mp_buf_free(&run->scratch);
    *run->prev = run->next;
    if (run->next)
        run->next->prev = run->prev;
    run->worker->n_runs--;
    run->magic = 0;
    x->run = NULL;
    x->ops->end(x); /* the run's memory may be gone now */
}

/* After the head of a stream an error can only be an event. */
static void finish_events(struct mp_run *run)
{
    struct mp_exchange *x = run->x;
    if (run->answer.set) {
        struct mp_buf b = {0};
        mp_format_event(&b, run->answer.body.data, run->answer.body.len);
        x->ops->write(x, b.data, b.len);
        mp_buf_free(&b);
    }
    x->ops->finish(x, true);
}

static void complete(struct mp_run *run, enum mp_cancel reason)
{
    struct mp_exchange *x = run->x;
    struct run_answer *a = &run->answer;
    if (run->closed || run->background) {
        /* nobody is there to be answered */
    } else if (run->mode != ANSWER_OPEN && x->answered) {
        finish_events(run);
    } else {
        if (!a->set)
            answer_internal(run, MP_EINTERNAL, "the request ended without an answer", "no answer was made", NULL);
        x->answered = true;
        x->ops->reply(x, a->status, a->headers, a->n_headers, a->body.data, a->body.len);
    }
    run_end(run, reason);
}

void run_complete(struct mp_run *run)
{
    complete(run, MP_CANCEL_FINISHED);
}

void run_abandon(struct mp_run *run, enum mp_cancel reason)
{
    complete(run, reason);
}

/* Past a limit: the coroutines are abandoned. */
static void kill_run(struct mp_run *run, int code, const char *where, const char *trace)
{
    const struct mp_conf_limits *l = &run->script->config->server.limits;
    char text[400];
    if (code == MP_EMEMORY)
        snprintf(text, sizeof text,
                 "stopped%s%s: it held more memory than limits.run_memory (%.0f bytes) allows, or than the worker has",
                 where[0] ? " at " : "", where, (double)l->run_memory);
    else
        snprintf(text, sizeof text, "stopped%s%s after %.1f ms of CPU time (limits.burst is %g s, limits.cpu %g s)",
                 where[0] ? " at " : "", where, (double)run->cpu_ns / 1e6, l->burst, l->cpu);
    answer_internal(run, code,
                    code == MP_EMEMORY ? "the request's script used too much memory and was stopped"
                                       : "the request's script ran for too long and was stopped",
                    text, trace);
    complete(run, MP_CANCEL_KILLED);
}

/* ---- stepping ---- */

struct step {
    struct mp_task *task;
    int status;            /* lua_resume's; -1 before it */
    bool parked, answered; /* it yielded the mark; the results became an answer */
    char where[160];       /* of a coroutine that was stopped */
};

/* Protected, charged to the run, watched. */
static int enter(lua_State *L)
{
    struct step *st = lua_touserdata(L, 1);
    struct mp_task *t = st->task;
    lua_settop(L, 0);
    int n = t->push(L, t->push_ud); /* of a task that begins: its function and arguments */
    lua_State *co = t->co;
    if (!lua_checkstack(co, n + 4))
        return luaL_error(L, "stack overflow");
    lua_xmove(L, co, n);
    lua_settop(L, 0);
    int nargs = t->begun ? n : n - 1;
    t->begun = true;
    st->status = lua_resume(co, nargs);
    if (st->status == LUA_YIELD) {
        st->parked = lua_gettop(co) >= 1 && lua_touserdata(co, -1) == &mp_run_park_mark;
        mp_script_where(co, st->where, sizeof st->where);
        lua_settop(co, 0);
        return 0;
    }
    if (mp_vm_killed(t->run->script->vm) || t->run->account.hit) {
        mp_script_where(co, st->where, sizeof st->where);
        return 0;
    }
    if (st->status == 0) {
        t->ended = true;
        if (t->child_ended) {
            int results = lua_gettop(co);
            luaL_checkstack(L, results + 8, "too many results");
            lua_xmove(co, L, results);
            t->child_ended(L, t, results, false);
        } else {
            answer_results(L, t->run, co);
        }
        st->answered = true;
    } else if (lua_type(co, -1) == LUA_TTABLE || t->child_ended) { /* assert(nil, err), error { code = … } */
        t->ended = true;
        lua_pushvalue(co, -1);
        lua_xmove(co, L, 1);
        if (t->child_ended)
            t->child_ended(L, t, 1, true);
        else
            answer_raised(L, t->run);
        st->answered = true;
    }
    return 0;
}

/* How far the run may go now. */
static uint64_t budget(const struct mp_run *run)
{
    const struct mp_conf_limits *l = &run->script->config->server.limits;
    double left = l->cpu * 1e9 - (double)run->cpu_ns;
    return left <= 0 ? 0 : (uint64_t)(left < l->burst * 1e9 ? left : l->burst * 1e9);
}

/* Resumes one task. False when the run is gone. */
static bool step(struct mp_run *run, struct mp_task *t)
{
    struct mp_script *s = run->script;
    struct step st = {.task = t, .status = -1};
    struct mp_err err = {0};
    uint64_t ns = budget(run);
    if (!ns) {
        kill_run(run, MP_ECPU, "", NULL);
        return false;
    }
    run->account.hit = false;
    run->current = t;
    s->current = run;
    mp_vm_disarm_kill(s->vm);
    struct mp_vm_account *was = mp_vm_charge(s->vm, &run->account);
    mp_watch_begin(run->worker->watch, s->vm, ns);
    int rc = mp_vm_cpcall(s->vm, enter, &st, &err);
    run->cpu_ns += mp_watch_end(run->worker->watch);
    mp_vm_charge(s->vm, was);
    bool killed = mp_vm_killed(s->vm);
    mp_vm_disarm_kill(s->vm);
    s->current = NULL;
    run->current = NULL;

    if (killed || rc == MP_ECPU) {
        kill_run(run, MP_ECPU, st.where, NULL);
        return false;
    }
    if (run->account.hit || rc == MP_EMEMORY || st.status == LUA_ERRMEM) {
        kill_run(run, MP_EMEMORY, st.where, NULL);
        return false;
    }
    if (rc < 0) {
        answer_internal(run, rc, "the request's script failed", err.message, NULL);
        complete(run, MP_CANCEL_KILLED);
        return false;
    }
    if (st.status == LUA_YIELD && t->waiting && st.parked)
        return true;
    if (st.status == LUA_YIELD) {
        answer_internal(run, MP_ESCRIPT, "the request's script failed",
                        "coroutine.yield was called outside of a coroutine of the handler's own", NULL);
        complete(run, MP_CANCEL_KILLED);
        return false;
    }
    if (!st.answered) { /* a plain error of the handler */
        struct mp_buf *trace = &run->scratch;
        mp_buf_clear(trace);
        mp_vm_resume_error(s->vm, t->co, st.status, trace, &err);
        answer_internal(run, MP_ESCRIPT, "the request's script failed", err.message, mp_buf_cstr(trace));
        complete(run, MP_CANCEL_KILLED);
        return false;
    }
    if (t != &run->main) {
        drop_coroutine(t, false);
        return true;
    }
    if (run->mode == ANSWER_PUMP) {
        /* What the handler left behind is over; the stream goes on. */
        stream_pump(run->pump);
        return false;
    }
    complete(run, st.status == 0 ? MP_CANCEL_FINISHED : MP_CANCEL_KILLED);
    return false;
}

void run_drive(struct mp_run *run)
{
    if (run->stepping)
        return; /* a wake from inside: the loop below comes to it */
    run->stepping = true;
    while (run->queue) {
        struct mp_task *t = run->queue;
        run->queue = t->queued_next;
        if (!run->queue)
            run->queue_end = &run->queue;
        t->queued = false;
        if (!step(run, t))
            return;
    }
    run->stepping = false;
}

void mp_run_wake(struct mp_pending *p, mp_push *push, void *ud)
{
    struct mp_run *run = p->run;
    struct mp_task *t = &run->main;
    if (run->over)
        return;
    if (t->waiting != p)
        for (t = run->tasks; t && t->waiting != p; t = t->next)
            ;
    if (!t)
        return;
    run_queue(run, t, push, ud);
    run_drive(run);
}

/* ---- the beginning ---- */

void run_main_coroutine(lua_State *L, struct mp_run *run)
{
    struct mp_script *s = run->script;
    if (s->n_spare) {
        run->main.ref = s->spare[--s->n_spare];
        lua_rawgeti(L, LUA_REGISTRYINDEX, run->main.ref);
        run->main.co = lua_tothread(L, -1);
    } else {
        run->main.co = lua_newthread(L);
        lua_pushvalue(L, -1);
        run->main.ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

/* The handler's function and arguments; makes the coroutine, req and res. */
static int push_first(lua_State *L, void *ud)
{
    struct mp_run *run = ud;
    struct mp_script *s = run->script;
    run_main_coroutine(L, run);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, -1);
    run->refs = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_replace(L, 1);
    lua_settop(L, 1);
    lua_req_push(L, run);
    lua_rawseti(L, 1, 1);
    lua_res_push(L, run);
    lua_rawseti(L, 1, 2);
    if (run->mine->n_chain || run->mine->input) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, s->enter);
        lua_rawgeti(L, LUA_REGISTRYINDEX, run->mine->chain);
        if (run->mine->input)
            lua_pushcfunction(L, lua_req_input);
        else
            lua_pushboolean(L, false);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, run->mine->handle);
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    lua_remove(L, 1);
    return lua_gettop(L);
}

struct mp_run *run_new(struct mp_script_worker *w, struct mp_generation *g, struct mp_exchange *x, enum mp_phase phase)
{
    struct mp_run *run = mp_arena_zalloc(x->arena, sizeof *run);
    run->magic = MAGIC;
    run->phase = phase;
    run->script = mp_generation_script(g, w->index);
    run->worker = w;
    run->generation = g;
    run->x = x;
    run->arena = x->arena;
    run->pendings.next = run->pendings.prev = &run->pendings;
    run->main.run = run;
    run->main.ref = run->refs = run->pump_ref = LUA_NOREF;
    run->queue_end = &run->queue;
    x->run = run;
    run->prev = &w->runs;
    run->next = w->runs;
    if (run->next)
        run->next->prev = &run->next;
    w->runs = run;
    w->n_runs++;
    return run;
}

void run_begin(struct mp_run *run, mp_push *first)
{
    struct mp_script *s = run->script;
    struct mp_err err = {0};
    if (mp_vm_account_open(s->vm, &run->account, (size_t)s->config->server.limits.run_memory, &err) < 0) {
        answer_error(run, &err, 503, 1);
        complete(run, MP_CANCEL_KILLED);
        return;
    }
    run_queue(run, &run->main, first, run);
    run_drive(run);
}

void mp_run_start(struct mp_script_worker *w, struct mp_generation *g, const struct mp_route_match *match,
                  struct mp_exchange *x)
{
    struct mp_run *run = run_new(w, g, x, MP_PHASE_HANDLE);
    run->endpoint = match->endpoint;
    run->mine = &run->script->endpoints[match->endpoint->index];
    run->match = *match;
    run_begin(run, push_first);
}

/* ---- from outside ---- */

static int push_true(lua_State *L, void *ud)
{
    (void)ud;
    lua_pushboolean(L, true);
    return 1;
}

/* What events:send waits for; see lua_res.c. */
int run_park_writable(lua_State *L, struct mp_run *run)
{
    struct mp_pending *p = &run->current->writable;
    mp_run_settle(p);
    mp_run_pend(run, p, cancel_nothing);
    return mp_run_park(L, run, p);
}

void mp_exchange_writable(struct mp_exchange *x)
{
    struct mp_run *run = x->run;
    if (!run || run->over)
        return;
    if (run->mode == ANSWER_PUMP) {
        stream_pump_writable(run->pump);
        return;
    }
    for (struct mp_task *t = &run->main; t; t = t == &run->main ? run->tasks : t->next)
        if (t->waiting == &t->writable) {
            mp_run_settle(&t->writable);
            run_queue(run, t, push_true, NULL);
        }
    run_drive(run);
}

void mp_exchange_closed(struct mp_exchange *x)
{
    struct mp_run *run = x->run;
    if (!run || run->over || run->closed)
        return;
    run->closed = true;
    if (run->mode == ANSWER_PUMP) {
        run_end(run, MP_CANCEL_CLOSED);
        return;
    }
    cancel_all(run, MP_CANCEL_CLOSED);
    for (struct mp_task *t = &run->main; t; t = t == &run->main ? run->tasks : t->next)
        if (t->waiting && !t->waiting->composite)
            run_queue(run, t, push_closed, NULL);
    run_drive(run);
}

/* Ends a run from outside: err is the answer, or the last event of what has begun. */
static void break_off(struct mp_run *run, const struct mp_err *err, enum mp_cancel reason)
{
    if (run->mode == ANSWER_PUMP && run->x->answered) {
        stream_pump_break(run->pump, err);
    } else {
        run->mode = run->x->answered ? ANSWER_EVENTS : ANSWER_OPEN;
        answer_error(run, err, 0, err->retry_after);
    }
    complete(run, reason);
}

void mp_exchange_expired(struct mp_exchange *x, const struct mp_err *err)
{
    struct mp_run *run = x->run;
    if (run && !run->over)
        break_off(run, err, MP_CANCEL_SHUTDOWN);
}

void mp_script_worker_cancel(struct mp_script_worker *w, struct mp_generation *g, enum mp_cancel reason)
{
    const char *why = g ? "the configuration was replaced while this ran, and an old one's time is bounded"
                        : "the server is stopping";
    for (struct mp_run *run = w->runs, *next; run; run = next) {
        struct mp_err err = {0};
        next = run->next;
        if (g && run->generation != g)
            continue;
        if (run->background) {
            char text[120];
            snprintf(text, sizeof text, "cancelled: %s", why);
            background_failed(run, MP_JOB_CANCELLED, MP_ECANCELLED, text, NULL);
            complete(run, reason);
            continue;
        }
        mp_err_set(&err, MP_EUNAVAILABLE, "%s", why);
        err.retry_after = 1;
        break_off(run, &err, reason);
    }
}
