/* core/script/policy.c — see policy.h. Asking a function and keeping its faults; then `scale` and `evict`, on the control thread. */
#include "core/script/policy.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/facts.h"
#include "core/script/generation_impl.h"
#include "core/script/policy_impl.h"
#include "core/script/watchdog.h"
#include "core/telemetry/decisions.h"
#include "core/telemetry/metrics.h"
#include "core/vm/lua_json.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_STATE = 65536, /* bytes of a scale function's state as JSON */
    MAX_STATES = 1024, /* kept; then the one that was not used for longest goes */
    MAX_ERRORS = 64,   /* kept for status; then the oldest goes */
    LOG_SECONDS = 60,  /* between two lines about one function */
    MAX_REPLICAS = 1024,
};

static const char *const fault_names[] = {
#define X(id, name) name,
    POLICY_FAULTS(X)
#undef X
};

/* ---- what went wrong ---- */

struct error {
    struct mp_policy_error e; /* age is made when it is asked for */
    uint64_t last_ns, logged_ns;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct error errors[MAX_ERRORS]; /* under the lock */

static void note(const struct policy_asked *a)
{
    const char *slot = mp_policy_slot_name(a->slot), *kind = fault_names[a->fault];
    const uint64_t now = mp_clock_mono_ns();
    struct error *mine = NULL, *oldest = &errors[0];
    uint64_t logged = 0;
    char policy[sizeof mine->e.policy];
    snprintf(policy, sizeof policy, "%s", a->policy);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < MAX_ERRORS; i++) {
        struct error *e = &errors[i];
        if (e->last_ns < oldest->last_ns)
            oldest = e;
        if (!e->e.count || strcmp(e->e.policy, policy) != 0 || strcmp(e->e.slot, slot) != 0)
            continue;
        logged = e->logged_ns > logged ? e->logged_ns : logged;
        if (strcmp(e->e.kind, kind) == 0)
            mine = e;
    }
    if (!mine) {
        mine = oldest;
        *mine = (struct error){0};
        snprintf(mine->e.policy, sizeof mine->e.policy, "%s", policy);
        snprintf(mine->e.slot, sizeof mine->e.slot, "%s", slot);
        snprintf(mine->e.kind, sizeof mine->e.kind, "%s", kind);
    }
    snprintf(mine->e.message, sizeof mine->e.message, "%s", a->why);
    mine->e.count++;
    mine->last_ns = now;
    bool tell = !logged || now - logged >= LOG_SECONDS * 1000000000ull;
    if (tell)
        mine->logged_ns = now;
    pthread_mutex_unlock(&lock);
    mp_cell_add(mp_metric_cell(MP_METRIC_POLICY_ERRORS, (const char *const[]){a->policy, slot, kind}), 1);
    if (tell)
        mp_warn("policy \"%s\": the answer of its %s does not count, the default's does: %s: %s", a->policy, slot, kind,
                a->why);
}

bool mp_policy_errors(uint32_t i, struct mp_policy_error *out)
{
    const uint64_t now = mp_clock_mono_ns();
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t k = 0; k < MAX_ERRORS && !found; k++) {
        uint32_t later = 0;
        for (size_t j = 0; j < MAX_ERRORS; j++)
            later += errors[j].e.count &&
                     (errors[j].last_ns > errors[k].last_ns || (errors[j].last_ns == errors[k].last_ns && j < k));
        if (!errors[k].e.count || later != i)
            continue;
        *out = errors[k].e;
        out->age = (double)(now - errors[k].last_ns) / 1e9;
        found = true;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* ---- asking ---- */

const char *policy_name(const struct mp_script *s)
{
    return s->config->server.policy ? s->config->server.policy : MP_POLICY_DEFAULT;
}

void policy_inputs(lua_State *L, struct policy_asked *a)
{
    struct mp_err err = {0};
    mp_buf_clear(a->inputs);
    mp_lua_json_encode(L, -1, a->inputs, MP_DECISION_MAX, &err); /* too much of it: left out */
}

bool policy_ask(lua_State *L, struct mp_script *s, struct mp_watch *watch, bool nested, int nargs,
                struct policy_asked *a)
{
    const struct mp_conf_limits *l = &s->config->server.limits;
    const int base = lua_gettop(L) - nargs - 1;
    const uint64_t ns = (uint64_t)(l->burst * 1e9);
    struct mp_vm_account account = {0};
    struct mp_watch_outer outer;
    struct mp_err err = {0};
    luaL_checkstack(L, 8, "no room to ask a policy");
    a->fault = POLICY_NONE;
    if (mp_vm_account_open(s->vm, &account, (size_t)l->run_memory, &err) < 0) {
        a->fault = POLICY_MEMORY;
        snprintf(a->why, sizeof a->why, "%.299s", err.message);
        lua_settop(L, base);
        return false;
    }
    if (nested)
        mp_watch_nest(watch, &outer, ns);
    else
        mp_watch_begin(watch, s->vm, ns);
    if (nested && mp_vm_kill_armed(s->vm)) { /* the request's own time is over */
        mp_watch_unnest(watch, &outer);
        mp_vm_account_close(s->vm, &account);
        mp_vm_poll(L); /* raises */
    }
    s->deciding = mp_policy_slot_name(a->slot);
    struct mp_vm_account *was = mp_vm_charge(s->vm, &account);
    int rc = mp_vm_pcall(L, nargs, 2, NULL, &err);
    mp_vm_charge(s->vm, was);
    s->deciding = NULL;
    if (nested)
        mp_watch_unnest(watch, &outer);
    else
        mp_watch_end(watch);
    bool late = rc == MP_ECPU || mp_vm_killed(s->vm);
    mp_vm_disarm_kill(s->vm);
    bool memory = account.hit || rc == MP_EMEMORY;
    mp_vm_account_close(s->vm, &account);
    if (late)
        a->fault = POLICY_LATE;
    else if (memory)
        a->fault = POLICY_MEMORY;
    else if (rc < 0)
        a->fault = POLICY_RAISED;
    else
        return true;
    if (memory && !late)
        snprintf(a->why, sizeof a->why, "it held more memory than limits.run_memory (%.0f bytes) allows",
                 (double)l->run_memory);
    else
        snprintf(a->why, sizeof a->why, "%.299s", err.message);
    lua_settop(L, base);
    return false;
}

bool policy_nonsense(struct policy_asked *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->why, sizeof a->why, fmt, ap);
    va_end(ap);
    a->fault = POLICY_NONSENSE;
    return false;
}

const char *policy_what(lua_State *L, int idx)
{
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
    case LUA_TNONE: return "nothing";
    case LUA_TBOOLEAN: return lua_toboolean(L, idx) ? "true" : "false";
    case LUA_TNUMBER: return "a number";
    case LUA_TSTRING: return "a string";
    case LUA_TTABLE: return "a table";
    case LUA_TFUNCTION: return "a function";
    default: return "an object";
    }
}

bool policy_reason(lua_State *L, int idx, struct policy_asked *a)
{
    a->reason[0] = 0;
    if (lua_isnil(L, idx))
        return true;
    if (lua_type(L, idx) != LUA_TSTRING)
        return policy_nonsense(a, "the reason must be a string, not %s", policy_what(L, idx));
    snprintf(a->reason, sizeof a->reason, "%s", lua_tostring(L, idx));
    return true;
}

static bool record(const struct policy_asked *a, bool with_inputs)
{
    char fallback[sizeof a->why + 16];
    snprintf(fallback, sizeof fallback, "%s: %s", fault_names[a->fault], a->why);
    const struct mp_decision d = {.kind = mp_policy_slot_name(a->slot),
                                  .policy = a->policy,
                                  .model = a->model,
                                  .decision = a->decision,
                                  .reason = a->reason,
                                  .fallback = a->fault ? fallback : NULL,
                                  .inputs = with_inputs && a->inputs->len ? mp_buf_cstr(a->inputs) : NULL};
    if (!with_inputs)
        return mp_decide_again(&d);
    mp_decide(&d);
    return true;
}

bool policy_record(const struct policy_asked *a)
{
    if (a->fault)
        note(a);
    return record(a, false);
}

void policy_record_inputs(const struct policy_asked *a)
{
    record(a, true);
}

/* ---- the control thread ---- */

struct state { /* what a scale function remembers of one model */
    struct state *next;
    char *policy, *model, *json;
};

struct mp_policies {
    struct state *states;   /* the one used last first */
    struct mp_watch *watch; /* of the control thread, from the first question on */
    struct mp_buf inputs, state;
};

struct mp_policies *mp_policies_new(void)
{
    return mp_calloc(sizeof(struct mp_policies));
}

static void free_state(struct state *s)
{
    mp_free(s->policy);
    mp_free(s->model);
    mp_free(s->json);
    mp_free(s);
}

void mp_policies_free(struct mp_policies *p)
{
    if (!p)
        return;
    for (struct state *s = p->states, *next; s; s = next) {
        next = s->next;
        free_state(s);
    }
    mp_watch_leave(p->watch);
    mp_buf_free(&p->inputs);
    mp_buf_free(&p->state);
    mp_free(p);
}

/* Comes to the front of the list. NULL when there is none and `make` is not asked for. */
static struct state *state_of(struct mp_policies *p, const char *policy, const char *model, bool make)
{
    uint32_t n = 0;
    for (struct state **at = &p->states; *at; at = &(*at)->next) {
        struct state *s = *at;
        if (strcmp(s->policy, policy) == 0 && strcmp(s->model, model) == 0) {
            *at = s->next;
            s->next = p->states;
            return p->states = s;
        }
        if (make && ++n == MAX_STATES) {
            *at = NULL;
            free_state(s);
            break;
        }
    }
    if (!make)
        return NULL;
    struct state *s = mp_calloc(sizeof *s);
    s->policy = mp_strdup(policy);
    s->model = mp_strdup(model);
    s->next = p->states;
    return p->states = s;
}

struct question { /* one of scale's or evict's, for the protected call */
    struct mp_policies *p;
    struct mp_script *s;
    const struct mp_pool_facts *facts; /* scale: 1 */
    uint32_t n;
    uint64_t need;
    double now;
    struct policy_asked a;
    int replicas;               /* scale's answer */
    uint32_t *chosen, n_chosen; /* evict's */
};

/* The table { pool, now, state } at the top. -0 +1 */
static void push_scale_inputs(lua_State *L, struct question *q, const char *policy)
{
    const struct state *st = state_of(q->p, policy, q->a.model, false);
    struct mp_err err = {0};
    lua_createtable(L, 0, 3);
    mp_facts_push(L, q->facts);
    lua_setfield(L, -2, "pool");
    lua_pushnumber(L, q->now);
    lua_setfield(L, -2, "now");
    if (!st || mp_lua_json_decode(L, st->json, strlen(st->json), 0, &err) < 0)
        lua_newtable(L);
    lua_setfield(L, -2, "state");
}

/* Keeps the state table at the top. */
static bool keep_state(lua_State *L, struct question *q, const char *policy)
{
    struct mp_buf *b = &q->p->state;
    struct mp_err err = {0};
    mp_buf_clear(b);
    if (mp_lua_json_encode(L, -1, b, MAX_STATE, &err) < 0)
        return policy_nonsense(&q->a, "its state cannot be kept (as JSON, %d bytes at most): %s", MAX_STATE,
                               err.message);
    bool empty = strcmp(mp_buf_cstr(b), "{}") == 0;
    struct state *st = state_of(q->p, policy, q->a.model, !empty);
    if (!st)
        return true;
    mp_free(st->json);
    st->json = mp_strdup(mp_buf_cstr(b));
    return true;
}

/* The function is at the top. -1 +0 */
static bool ask_scale(lua_State *L, struct question *q, const char *policy)
{
    int fn = lua_gettop(L);
    push_scale_inputs(L, q, policy);
    policy_inputs(L, &q->a);
    lua_pushvalue(L, fn);
    lua_getfield(L, fn + 1, "pool");
    lua_getfield(L, fn + 1, "now");
    lua_getfield(L, fn + 1, "state");
    if (!policy_ask(L, q->s, q->p->watch, false, 3, &q->a))
        return false;
    double v = lua_type(L, fn + 2) == LUA_TNUMBER ? lua_tonumber(L, fn + 2) : NAN;
    if (lua_type(L, fn + 2) != LUA_TNUMBER)
        return policy_nonsense(&q->a, "the answer must be a number of replicas, not %s", policy_what(L, fn + 2));
    if (isnan(v))
        return policy_nonsense(&q->a, "the answer must be a number of replicas, not NaN");
    if (!(v >= 0 && v <= MAX_REPLICAS))
        return policy_nonsense(&q->a, "the answer must be from 0 to %d replicas, not %.14g", MAX_REPLICAS, v);
    lua_getfield(L, fn + 1, "state");
    if (!policy_reason(L, fn + 3, &q->a) || !keep_state(L, q, policy))
        return false;
    q->replicas = (int)ceil(v);
    snprintf(q->a.decision, sizeof q->a.decision, "%d", q->replicas);
    return true;
}

/* The table { candidates, need, now } at the top. -0 +1 */
static void push_evict_inputs(lua_State *L, struct question *q)
{
    lua_createtable(L, 0, 3);
    lua_createtable(L, (int)q->n, 0);
    for (uint32_t i = 0; i < q->n; i++) {
        mp_facts_push(L, &q->facts[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setfield(L, -2, "candidates");
    lua_pushnumber(L, (double)q->need);
    lua_setfield(L, -2, "need");
    lua_pushnumber(L, q->now);
    lua_setfield(L, -2, "now");
}

static bool take_chosen(lua_State *L, struct question *q, int list)
{
    struct mp_buf names = {0};
    bool ok = lua_istable(L, list);
    q->n_chosen = 0;
    if (!ok)
        return policy_nonsense(&q->a, "the answer must be a list of names, not %s", policy_what(L, list));
    for (int i = 1; ok; i++) {
        uint32_t k = 0;
        lua_rawgeti(L, list, i);
        if (lua_isnil(L, -1))
            break;
        const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        while (name && k < q->n && strcmp(q->facts[k].name, name) != 0)
            k++;
        if (!name)
            ok = policy_nonsense(&q->a, "the answer's item %d must be a name, not %s", i, policy_what(L, -1));
        else if (k == q->n)
            ok = policy_nonsense(&q->a, "\"%.100s\" is none of the candidates", name);
        for (uint32_t j = 0; ok && j < q->n_chosen; j++)
            if (q->chosen[j] == k)
                ok = policy_nonsense(&q->a, "\"%.100s\" is named twice", name);
        if (ok) {
            mp_buf_printf(&names, "%s%s", q->n_chosen ? ", " : "", name);
            q->chosen[q->n_chosen++] = k;
        }
        lua_pop(L, 1);
    }
    snprintf(q->a.decision, sizeof q->a.decision, "%s", names.len ? mp_buf_cstr(&names) : "nobody");
    mp_buf_free(&names);
    return ok;
}

/* The function is at the top. -1 +0 */
static bool ask_evict(lua_State *L, struct question *q, const char *policy)
{
    int fn = lua_gettop(L);
    (void)policy;
    push_evict_inputs(L, q);
    policy_inputs(L, &q->a);
    lua_pushvalue(L, fn);
    lua_getfield(L, fn + 1, "candidates");
    lua_getfield(L, fn + 1, "need");
    lua_getfield(L, fn + 1, "now");
    return policy_ask(L, q->s, q->p->watch, false, 3, &q->a) && take_chosen(L, q, fn + 2) &&
           policy_reason(L, fn + 3, &q->a);
}

/* The policy's own function, then the default's. Leaves q->a as it is to be recorded; raises when even the default failed. */
static int ask_control(lua_State *L)
{
    struct question *q = lua_touserdata(L, 1);
    bool (*ask)(lua_State *, struct question *, const char *) = q->a.slot == MP_POLICY_SCALE ? ask_scale : ask_evict;
    struct mp_err err = {0};
    lua_settop(L, 0);
    q->a.policy = MP_POLICY_DEFAULT;
    if (q->s->policy[q->a.slot] != LUA_NOREF) {
        q->a.policy = policy_name(q->s);
        lua_rawgeti(L, LUA_REGISTRYINDEX, q->s->policy[q->a.slot]);
        if (ask(L, q, q->a.policy))
            return 0;
        lua_settop(L, 0);
    }
    const struct policy_asked failed = q->a;
    if (mp_vm_require(L, "moonpool.policy.default", NULL, &err) < 0)
        return luaL_error(L, "%s", err.message);
    lua_getfield(L, 1, mp_policy_slot_name(q->a.slot));
    lua_replace(L, 1);
    if (!ask(L, q, MP_POLICY_DEFAULT))
        return luaL_error(L, "the default %s failed: %s", mp_policy_slot_name(q->a.slot), q->a.why);
    q->a.fault = failed.fault;
    memcpy(q->a.why, failed.why, sizeof failed.why);
    return 0;
}

static int ask_and_record(struct question *q, struct mp_generation *g, char *reason, size_t n)
{
    struct mp_err err = {0};
    q->s = mp_generation_control(g);
    q->a.inputs = &q->p->inputs;
    if (!q->p->watch)
        q->p->watch = mp_watch_join();
    int rc = mp_vm_cpcall(q->s->vm, ask_control, q, &err);
    if (rc < 0) {
        mp_error("policy: %s", err.message);
        return rc;
    }
    if (!policy_record(&q->a))
        policy_record_inputs(&q->a);
    if (n)
        snprintf(reason, n, "%s", q->a.reason);
    return 0;
}

int mp_policy_scale(struct mp_policies *p, struct mp_generation *g, const struct mp_pool_facts *f, double now,
                    char *reason, size_t n)
{
    struct question q = {.p = p, .facts = f, .n = 1, .now = now, .a = {.slot = MP_POLICY_SCALE, .model = f->name}};
    int rc = ask_and_record(&q, g, reason, n);
    return rc < 0 ? rc : q.replicas;
}

int mp_policy_evict(struct mp_policies *p, struct mp_generation *g, const struct mp_pool_facts *candidates, uint32_t n,
                    uint64_t need, double now, uint32_t *chosen, char *reason, size_t reason_n)
{
    struct question q = {.p = p,
                         .facts = candidates,
                         .n = n,
                         .need = need,
                         .now = now,
                         .chosen = chosen,
                         .a = {.slot = MP_POLICY_EVICT, .model = ""}};
    int rc = ask_and_record(&q, g, reason, reason_n);
    return rc < 0 ? rc : (int)q.n_chosen;
}
