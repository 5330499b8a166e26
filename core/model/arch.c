/* core/model/arch.c — see arch.h. The Lua side is lua/moonpool/plan.lua and lua/moonpool/arch/. */
#include "core/model/arch.h"

#include "core/base/mem.h"
#include "core/model/gguf.h"
#include "core/vm/vm.h"
#include "gpu/blocks.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ARCH_MEMORY = 64 << 20, ARCH_STEPS = 20 * 1000 * 1000, ARCH_MAX_FLOATS = 4096 };

struct job {
    const struct mp_gguf *g;
    uint32_t context;
    struct mp_plan *plan;
};

static const struct mp_gguf *file_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* Raises err as {code, message}. */
static int raise(lua_State *L, const struct mp_err *err)
{
    lua_createtable(L, 0, 2);
    lua_pushstring(L, mp_err_name(err->code));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    return lua_error(L);
}

static int bad(lua_State *L, const char *fmt, const char *what)
{
    struct mp_err err;
    mp_err_set(&err, MP_EFORMAT, fmt, what);
    return raise(L, &err);
}

/* ---- what the Lua side asks of the file ---- */

/* What a getter gave: nothing for a key that is absent, else its number. Raises what is wrong with it. */
static int give(lua_State *L, int rc, double v, const struct mp_err *err)
{
    if (rc == MP_ENOENT)
        return 0;
    if (rc < 0)
        return raise(L, err);
    lua_pushnumber(L, v);
    return 1;
}

static int file_u32(lua_State *L)
{
    struct mp_err err;
    uint32_t v = 0;
    int rc = mp_gguf_u32(file_of(L), luaL_checkstring(L, 1), (uint32_t)luaL_checknumber(L, 2),
                         (uint32_t)luaL_checknumber(L, 3), &v, &err);
    return give(L, rc, v, &err);
}

static int file_f32(lua_State *L)
{
    struct mp_err err;
    float v = 0;
    int rc = mp_gguf_f32(file_of(L), luaL_checkstring(L, 1), (float)luaL_checknumber(L, 2),
                         (float)luaL_checknumber(L, 3), &v, &err);
    return give(L, rc, v, &err);
}

static int file_str(lua_State *L)
{
    struct mp_err err;
    const char *s;
    size_t n;
    int rc = mp_gguf_str(file_of(L), luaL_checkstring(L, 1), 256, &s, &n, &err);
    if (rc == MP_ENOENT)
        return 0;
    if (rc < 0)
        return raise(L, &err);
    lua_pushlstring(L, s, n);
    return 1;
}

static int file_tensor(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    const struct mp_gguf_tensor *t = mp_gguf_tensor_find(file_of(L), name);
    if (!t)
        return 0;
    if (t->n_dims > 2)
        return bad(L, "the tensor '%s' has more than two dimensions", name);
    if (t->ne[0] > INT32_MAX || t->ne[1] > INT32_MAX)
        return bad(L, "the tensor '%s' is too large", name);
    lua_pushnumber(L, (double)t->ne[0]);
    lua_pushnumber(L, (double)t->ne[1]);
    return 2;
}

static int file_floats(lua_State *L)
{
    float values[ARCH_MAX_FLOATS];
    struct mp_err err;
    const char *name = luaL_checkstring(L, 1);
    double want = luaL_checknumber(L, 2);
    const struct mp_gguf_tensor *t = mp_gguf_tensor_find(file_of(L), name);
    if (!t || t->type != MP_T_F32 || want < 1 || want > ARCH_MAX_FLOATS || t->n_values != (uint64_t)want)
        return bad(L, "the tensor '%s' must be a short vector of F32", name);
    if (mp_gguf_read(file_of(L), t, 0, values, (size_t)t->bytes, &err) < 0)
        return raise(L, &err);
    lua_createtable(L, (int)want, 0);
    for (int i = 0; i < (int)want; i++) {
        if (!isfinite(values[i]) || values[i] == 0)
            return bad(L, "the tensor '%s' holds a value that cannot be", name);
        lua_pushnumber(L, values[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int file_count(lua_State *L)
{
    const struct mp_gguf_kv *kv = mp_gguf_find(file_of(L), luaL_checkstring(L, 1));
    if (!kv || kv->type != MP_GGUF_ARR)
        return 0;
    lua_pushnumber(L, (double)kv->count);
    return 1;
}

static int file_name(lua_State *L)
{
    double i = luaL_checknumber(L, 1);
    if (!(i >= 0 && i < mp_gguf_n_tensors(file_of(L))))
        return 0;
    lua_pushstring(L, mp_gguf_tensor(file_of(L), (uint32_t)i)->name);
    return 1;
}

/* ---- from the Lua table to the plan; `what` names the place in errors ---- */

static double number(lua_State *L, const char *key, double min, double max, double absent)
{
    lua_getfield(L, -1, key);
    double v = lua_isnil(L, -1) ? absent : lua_isnumber(L, -1) ? lua_tonumber(L, -1) : NAN;
    lua_pop(L, 1);
    if (!(v >= min && v <= max))
        luaL_error(L, "the plan's field '%s' is missing or out of range", key);
    return v;
}

static uint32_t u32(lua_State *L, const char *key)
{
    return (uint32_t)number(L, key, 0, UINT32_MAX, -1);
}

static uint32_t u32_or(lua_State *L, const char *key, uint32_t absent)
{
    return (uint32_t)number(L, key, 0, UINT32_MAX, absent);
}

static const char *string(lua_State *L, const char *key)
{
    lua_getfield(L, -1, key);
    const char *s = lua_tostring(L, -1);
    if (!s)
        luaL_error(L, "the plan's field '%s' is missing", key);
    lua_pop(L, 1); /* the table keeps it alive */
    return s;
}

static int word(lua_State *L, const char *key, const char *const *names, int n)
{
    const char *s = string(L, key);
    for (int i = 0; i < n; i++)
        if (strcmp(s, names[i]) == 0)
            return i;
    return luaL_error(L, "the plan's field '%s' has no value '%s'", key, s);
}

/* Calls one for each element of the list `key` of the table on top, the element on top. */
static void each(lua_State *L, struct mp_plan *p, const char *key, void (*one)(lua_State *L, struct mp_plan *p))
{
    lua_getfield(L, -1, key);
    luaL_checktype(L, -1, LUA_TTABLE);
    int n = (int)lua_objlen(L, -1);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        luaL_checktype(L, -1, LUA_TTABLE);
        one(L, p);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void take_val(lua_State *L, struct mp_plan *p)
{
    static const char *const rows[] = {"tok", "out", "seq"};
    mp_plan_val(p, (enum mp_rows)word(L, "rows", rows, 3), u32(L, "n"));
}

static void take_weight(lua_State *L, struct mp_plan *p)
{
    static const char *const roles[] = {"matmul", "embed", "both", "vec"};
    mp_plan_weight(p, string(L, "name"), (enum mp_role)word(L, "role", roles, 4), u32(L, "columns"), u32(L, "rows"));
}

static void take_kv(lua_State *L, struct mp_plan *p)
{
    struct mp_kvg g = {
        .layers = (uint16_t)number(L, "layers", 1, UINT16_MAX, -1),
        .heads = (uint16_t)number(L, "heads", 1, UINT16_MAX, -1),
        .dim_k = (uint16_t)number(L, "dim_k", 1, UINT16_MAX, -1),
        .dim_v = (uint16_t)number(L, "dim_v", 1, UINT16_MAX, -1),
        .window = u32(L, "window"),
    };
    mp_plan_kv(p, &g);
}

static void take_rope(lua_State *L, struct mp_plan *p)
{
    static const char *const styles[] = {"norm", "neox"};
    float freq[MP_MAX_HEAD_DIM / 2];
    enum mp_rope_style style = (enum mp_rope_style)word(L, "style", styles, 2);
    uint32_t dims = (uint32_t)number(L, "dims", 2, MP_MAX_HEAD_DIM, -1);
    float attn_factor = (float)number(L, "attn_factor", 1e-6, 1e6, -1);
    lua_getfield(L, -1, "freq");
    luaL_checktype(L, -1, LUA_TTABLE);
    for (uint32_t i = 0; i < dims / 2; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        freq[i] = (float)lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    mp_plan_rope(p, style, dims, attn_factor, freq);
}

static void take_node(lua_State *L, struct mp_plan *p)
{
    const char *op = string(L, "op");
    struct mp_node n = {
        .layer = (uint16_t)u32_or(L, "block", 0xffff),
        .in = {u32(L, "in0"), u32(L, "in1")},
        .out = u32(L, "out"),
        .w = {u32(L, "w0"), u32(L, "w1")},
        .attr =
            {
                .eps = (float)number(L, "eps", 0, 1, 0),
                .scale = (float)number(L, "scale", -1e9, 1e9, 0),
                .softcap = (float)number(L, "softcap", 0, 1e9, 0),
                .group = u32_or(L, "group", 0),
                .heads = u32_or(L, "heads", 0),
                .from = u32_or(L, "from", 0),
                .to = u32_or(L, "to", 0),
                .window = u32_or(L, "window", 0),
                .rope = u32_or(L, "rope", 0),
                .kv = (uint16_t)number(L, "kv", 0, UINT16_MAX, 0),
                .layer = (uint16_t)number(L, "layer", 0, UINT16_MAX, 0),
            },
    };
    while (n.op < MP_N_OPS && strcmp(mp_op_name(n.op), op) != 0)
        n.op++;
    if (n.op == MP_N_OPS)
        luaL_error(L, "the plan has an unknown operation '%s'", op);
    if (n.op == MP_OP_ACT || n.op == MP_OP_GLU) {
        const char *act = string(L, "act");
        while (n.attr.act < MP_N_ACTS && strcmp(mp_act_name(n.attr.act), act) != 0)
            n.attr.act++;
        if (n.attr.act == MP_N_ACTS)
            luaL_error(L, "the plan has an unknown activation '%s'", act);
    }
    if (n.op == MP_OP_OUTPUT)
        snprintf(n.attr.output, sizeof n.attr.output, "%s", string(L, "output"));
    if (p->n_nodes >= MP_MAX_NODES)
        luaL_error(L, "the plan has more than %d operations", MP_MAX_NODES);
    mp_plan_node(p, &n);
}

static int build(lua_State *L)
{
    static const struct luaL_Reg getters[] = {
        {"u32", file_u32},       {"f32", file_f32},     {"str", file_str},   {"tensor", file_tensor},
        {"floats", file_floats}, {"count", file_count}, {"name", file_name}, {0, 0},
    };
    struct job *job = lua_touserdata(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moonpool.plan");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "build");
    lua_newtable(L);
    for (const struct luaL_Reg *r = getters; r->name; r++) {
        lua_pushlightuserdata(L, (void *)(uintptr_t)job->g);
        lua_pushcclosure(L, r->func, 1);
        lua_setfield(L, -2, r->name);
    }
    lua_pushnumber(L, job->context);
    lua_call(L, 2, 1);
    each(L, job->plan, "vals", take_val);
    each(L, job->plan, "weights", take_weight);
    each(L, job->plan, "kvs", take_kv);
    each(L, job->plan, "ropes", take_rope);
    each(L, job->plan, "nodes", take_node);
    job->plan->n_vocab = u32(L, "n_vocab");
    job->plan->n_context = u32(L, "n_context");
    return 0;
}

int mp_arch_build(const struct mp_gguf *g, const struct mp_arch_opts *opts, struct mp_plan **out, struct mp_err *err)
{
    struct mp_vm_opts limits = {.memory = ARCH_MEMORY, .steps = ARCH_STEPS};
    struct job job = {.g = g, .context = opts ? opts->context : 0, .plan = mp_plan_new()};
    int rc = MP_ENOMEM;
    struct mp_vm *vm = mp_vm_new(&limits, err);
    if (!vm)
        goto out;
    rc = mp_vm_cpcall(vm, build, &job, err);
    if (rc == 0)
        rc = mp_plan_check(job.plan, err);
    if (rc < 0) {
        mp_gguf_context(g, err);
        goto out;
    }
    *out = mp_move(&job.plan);
out:
    mp_plan_free(job.plan);
    mp_vm_free(vm);
    return rc;
}

static int list_names(lua_State *L)
{
    struct mp_buf *out = lua_touserdata(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moonpool.plan");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "names");
    lua_call(L, 0, 1);
    int n = (int)lua_objlen(L, -1);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        mp_buf_printf(out, "%s%s", i > 1 ? ", " : "", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    return 0;
}

void mp_arch_names(struct mp_buf *out)
{
    struct mp_vm *vm = mp_vm_new(NULL, NULL);
    if (vm)
        mp_vm_cpcall(vm, list_names, out, NULL);
    mp_vm_free(vm);
}
