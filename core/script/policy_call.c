/* core/script/policy_call.c — what a policy says of one call, in its worker: `route`, `admit`, `rank`. A slot that the policy does not fill
 * costs nothing: what the default does (lua/moonpool/policy/default.lua) is what C does without being asked: the model that was asked for,
 * accepted, with the priority that it came with. */
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/script/facts.h"
#include "core/script/policy_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct question {
    lua_State *L;
    struct mp_run *run;
    struct model_args *args;
    const char *const *names; /* of the arguments: "req" or "job", "pool" or "candidates", "now" */
    struct mp_call_facts req;
    struct mp_pool_facts *pools; /* n of them: a list, if it is candidates that are asked about */
    uint32_t n;
    double now;
    struct policy_asked a;
    int top; /* of the stack before */
};

static void take_facts(struct question *q, struct mp_pool_facts *out, struct mp_pool_model *m)
{
    mp_pool_model_facts(m, mp_pool_now(mp_pool_port_pool(q->run->worker->port)), out);
}

/* False: nobody is to be asked. one: room for the facts of the model that is called. */
static bool begin(struct question *q, lua_State *L, struct mp_run *run, struct model_args *args,
                  enum mp_policy_slot slot, const char *const *names, struct mp_pool_facts *one)
{
    const struct mp_exchange *x = run->x;
    if (run->script->policy[slot] == LUA_NOREF)
        return false;
    *q = (struct question){.L = L, .run = run, .args = args, .names = names, .pools = one, .top = lua_gettop(L)};
    q->a.slot = slot;
    q->a.policy = policy_name(run->script);
    q->a.model = args->conf->name;
    q->a.inputs = &run->scratch;
    q->now = (double)mp_clock_wall_ns() / 1e9;
    q->req = (struct mp_call_facts){.id = x ? x->id : "",
                                    .endpoint = run->endpoint ? run->endpoint->route : "",
                                    .path = x ? x->path : "",
                                    .remote = x ? x->remote : "",
                                    .tenant = "",
                                    .model = args->asked,
                                    .priority = args->call.priority};
    if (x && x->deadline_ns) {
        uint64_t now = mp_pool_now(mp_pool_port_pool(run->worker->port));
        q->req.deadline = x->deadline_ns > now ? (double)(x->deadline_ns - now) / 1e9 : 1e-9;
    }
    if (one) {
        take_facts(q, one, args->call.model);
        q->n = 1;
    }
    luaL_checkstack(L, 16, "no room to ask a policy");
    return true;
}

/* Pushes the arguments, as many as there are names. */
static int push_arguments(struct question *q)
{
    lua_State *L = q->L;
    int n = 0;
    mp_call_facts_push(L, &q->req);
    n++;
    if (strcmp(q->names[n], "candidates") == 0) {
        lua_createtable(L, (int)q->n, 0);
        for (uint32_t i = 0; i < q->n; i++) {
            mp_facts_push(L, &q->pools[i]);
            lua_rawseti(L, -2, (int)i + 1);
        }
        n++;
    } else if (strcmp(q->names[n], "pool") == 0) {
        mp_facts_push(L, q->pools);
        n++;
    }
    lua_pushnumber(L, q->now);
    return n + 1;
}

/* True: the two results are at q->top + 1 and + 2; false: there is a fault. */
static bool ask(struct question *q)
{
    lua_rawgeti(q->L, LUA_REGISTRYINDEX, q->run->script->policy[q->a.slot]);
    int n = push_arguments(q);
    return policy_ask(q->L, q->run->script, q->run->worker->watch, true, n, &q->a);
}

/* Records what came of it; the stack is as it was before. */
static void end(struct question *q, const char *fallback)
{
    lua_State *L = q->L;
    if (q->a.fault) {
        snprintf(q->a.decision, sizeof q->a.decision, "%s", fallback);
        q->a.reason[0] = 0;
    }
    lua_settop(L, q->top);
    if (!policy_record(&q->a)) { /* a new one: what it was decided from is kept too */
        lua_createtable(L, 0, 3);
        for (int n = push_arguments(q); n > 0; n--)
            lua_setfield(L, q->top + 1, q->names[n - 1]);
        policy_inputs(L, &q->a);
        policy_record_inputs(&q->a);
        lua_settop(L, q->top);
    }
}

/* ---- route ---- */

static bool take_route(struct question *q, int at)
{
    lua_State *L = q->L;
    struct mp_pool *pool = mp_pool_port_pool(q->run->worker->port);
    const char *name = lua_type(L, at) == LUA_TSTRING ? lua_tostring(L, at) : NULL;
    if (!name)
        return policy_nonsense(&q->a, "the answer must be a candidate's name, not %s", policy_what(L, at));
    const struct mp_conf_model *conf = mp_config_model(q->run->script->config, name);
    struct mp_pool_model *m = conf && strcmp(conf->name, name) == 0 ? mp_pool_find(pool, name) : NULL;
    if (!m)
        return policy_nonsense(&q->a, "\"%.100s\" is none of the candidates", name);
    if (!policy_reason(L, at + 1, &q->a))
        return false;
    q->args->conf = conf;
    q->args->call.model = m;
    snprintf(q->a.decision, sizeof q->a.decision, "%s", conf->name);
    return true;
}

void policy_route(lua_State *L, struct mp_run *run, struct model_args *args)
{
    static const char *const names[] = {"req", "candidates", "now"};
    const struct mp_config *c = run->script->config;
    struct question q;
    if (!begin(&q, L, run, args, MP_POLICY_ROUTE, names, NULL))
        return;
    q.pools = lua_newuserdata(L, c->n_models * sizeof *q.pools);
    q.top++;
    take_facts(&q, &q.pools[q.n++], args->call.model);
    for (uint32_t i = 0; i < c->n_models; i++) {
        struct mp_pool_model *m =
            &c->models[i] == args->conf ? NULL : mp_pool_find(mp_pool_port_pool(run->worker->port), c->models[i].name);
        if (m)
            take_facts(&q, &q.pools[q.n++], m);
    }
    const char *asked = args->conf->name;
    if (ask(&q))
        take_route(&q, q.top + 1);
    end(&q, asked);
    lua_pop(L, 1);
}

/* ---- admit ---- */

struct refusal {
    char code[65];
    int status;
    double retry_after;
    struct mp_err err;
};

/* t[key] of the table at t without asking its metatable. -0 +1 */
static int raw(lua_State *L, int t, const char *key)
{
    lua_pushstring(L, key);
    lua_rawget(L, t);
    return lua_type(L, -1);
}

/* What stands behind nil: nothing, a text, or an error's table. */
static bool take_refusal(struct question *q, int at, struct refusal *r)
{
    lua_State *L = q->L;
    int type = lua_type(L, at);
    mp_err_set(&r->err, MP_EREFUSED, "refused by the policy \"%s\"", q->a.policy);
    if (type == LUA_TSTRING) {
        mp_err_set(&r->err, MP_EREFUSED, "%s", lua_tostring(L, at));
    } else if (type == LUA_TTABLE) {
        size_t n;
        if (raw(L, at, "message") == LUA_TSTRING)
            mp_err_set(&r->err, MP_EREFUSED, "%s", lua_tostring(L, -1));
        if ((type = raw(L, at, "code")) != LUA_TNIL) {
            const char *code = type == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
            if (!code || n == 0 || n >= sizeof r->code)
                return policy_nonsense(&q->a, "the error's code must be a string of 1 to %zu bytes",
                                       sizeof r->code - 1);
            memcpy(r->code, code, n + 1);
            r->status = mp_err_from_name(code) ? mp_err_status(mp_err_from_name(code)) : 0;
        }
        if ((type = raw(L, at, "status")) != LUA_TNIL) {
            double v = type == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
            if (!(v >= 400 && v <= 599 && v == floor(v)))
                return policy_nonsense(&q->a, "the error's status must be a whole number from 400 to 599");
            r->status = (int)v;
        }
        if ((type = raw(L, at, "retry_after")) != LUA_TNIL) {
            r->retry_after = type == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
            if (!(r->retry_after >= 0 && r->retry_after <= 31536000))
                return policy_nonsense(&q->a, "the error's retry_after must be a number of seconds");
        }
    } else if (type != LUA_TNIL) {
        return policy_nonsense(&q->a, "the error must be a table or a string, not %s", policy_what(L, at));
    }
    snprintf(q->a.decision, sizeof q->a.decision, "refuse");
    snprintf(q->a.reason, sizeof q->a.reason, "%.299s", r->err.message);
    return true;
}

/* *refused: with r. */
static bool take_admit(struct question *q, int at, struct refusal *r, bool *refused)
{
    lua_State *L = q->L;
    const char *word = lua_type(L, at) == LUA_TSTRING ? lua_tostring(L, at) : NULL;
    if (lua_isnil(L, at))
        return *refused = take_refusal(q, at + 1, r);
    if (word && strcmp(word, "accept") != 0 && strcmp(word, "queue") != 0)
        return policy_nonsense(&q->a, "the answer must be \"accept\", \"queue\", or nil and an error, not \"%.60s\"",
                               word);
    if (!word)
        return policy_nonsense(&q->a, "the answer must be \"accept\", \"queue\", or nil and an error, not %s",
                               policy_what(L, at));
    if (!policy_reason(L, at + 1, &q->a))
        return false;
    if (strcmp(word, "queue") == 0)
        q->args->call.background = true;
    snprintf(q->a.decision, sizeof q->a.decision, "%s", word);
    return true;
}

bool policy_admit(lua_State *L, struct mp_run *run, struct model_args *args)
{
    static const char *const names[] = {"req", "pool", "now"};
    struct mp_pool_facts facts;
    struct question q;
    struct refusal r = {0};
    bool refused = false;
    if (!begin(&q, L, run, args, MP_POLICY_ADMIT, names, &facts))
        return true;
    if (ask(&q))
        take_admit(&q, q.top + 1, &r, &refused);
    end(&q, "accept");
    if (!refused)
        return true;
    lua_settop(L, 0);
    lua_pushnil(L);
    mp_script_push_err(L, &r.err, r.status, r.retry_after);
    if (r.code[0]) {
        lua_pushstring(L, r.code);
        lua_setfield(L, -2, "code");
    }
    return false;
}

/* ---- rank ---- */

static bool take_rank(struct question *q, int at)
{
    lua_State *L = q->L;
    double v = lua_type(L, at) == LUA_TNUMBER ? lua_tonumber(L, at) : NAN;
    if (lua_type(L, at) != LUA_TNUMBER)
        return policy_nonsense(&q->a, "the answer must be a number, not %s", policy_what(L, at));
    if (isnan(v))
        return policy_nonsense(&q->a, "the answer must be a number, not NaN");
    if (!(v >= -1000 && v <= 1000))
        return policy_nonsense(&q->a, "the answer must be from -1000 to 1000, not %.14g", v);
    if (!policy_reason(L, at + 1, &q->a))
        return false;
    q->args->call.priority = (int32_t)lround(v);
    snprintf(q->a.decision, sizeof q->a.decision, "%d", (int)q->args->call.priority);
    return true;
}

void policy_rank(lua_State *L, struct mp_run *run, struct model_args *args)
{
    static const char *const names[] = {"job", "now"};
    struct question q;
    char fallback[16];
    if (!begin(&q, L, run, args, MP_POLICY_RANK, names, NULL))
        return;
    snprintf(fallback, sizeof fallback, "%d", (int)args->call.priority);
    if (ask(&q))
        take_rank(&q, q.top + 1);
    end(&q, fallback);
}
