/* gpu/lower/plan.c — building, checking and printing plans; see gpu/plan.h. core/model builds and prints, core/engine and
 * the devices check. A plan that passed mp_plan_check may be indexed without further tests. */
#include "gpu/plan.h"

#include "core/base/mem.h"

#include <math.h>
#include <string.h>

enum {
    MAX_COUNT = 65536,     /* values, weights */
    MAX_ROPES = 4096,      /* rope tables */
    MAX_COLUMNS = 1 << 22, /* of a value; of a weight, and its rows */
    MAX_CONTEXT = 1 << 24,
    MAX_LAYERS = 4096,
};

static const struct op_info {
    const char *name;
    uint8_t in_least, in_most, w_least, w_most, has_out;
} op_table[MP_N_OPS] = {
#define X(op, name, in0, in1, w0, w1, out) {name, in0, in1, w0, w1, out},
    MP_OPS(X)
#undef X
};

static const char *const act_names[MP_N_ACTS] = {
#define X(act, name) name,
    MP_ACTS(X)
#undef X
};

static const char *const rows_names[] = {"tok", "out", "seq"};
static const char *const role_names[] = {"matmul", "embed", "both", "vec"};

const char *mp_op_name(uint32_t op)
{
    return op < MP_N_OPS ? op_table[op].name : "unknown";
}

const char *mp_act_name(uint32_t act)
{
    return act < MP_N_ACTS ? act_names[act] : "unknown";
}

struct mp_plan *mp_plan_new(void)
{
    return mp_calloc(sizeof(struct mp_plan));
}

void mp_plan_free(struct mp_plan *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n_ropes; i++)
        mp_free(p->ropes[i].freq);
    mp_free(p->vals);
    mp_free(p->nodes);
    mp_free(p->kvs);
    mp_free(p->weights);
    mp_free(p->ropes);
    mp_free(p);
}

/* Room for one more element behind n: arrays double at powers of two, so that no capacity need be kept. */
static void *grown(void *array, uint32_t n, size_t size)
{
    if (n & (n - 1))
        return array;
    return mp_realloc(array, (n ? (size_t)n * 2 : 1) * size);
}

uint32_t mp_plan_val(struct mp_plan *p, enum mp_rows rows, uint32_t n)
{
    p->vals = grown(p->vals, p->n_vals, sizeof(*p->vals));
    p->vals[p->n_vals] = (struct mp_val){.rows = (uint8_t)rows, .n = n};
    return p->n_vals++;
}

uint32_t mp_plan_weight(struct mp_plan *p, const char *name, enum mp_role role, uint32_t columns, uint32_t rows)
{
    p->weights = grown(p->weights, p->n_weights, sizeof(*p->weights));
    struct mp_wref *w = &p->weights[p->n_weights];
    *w = (struct mp_wref){.role = (uint8_t)role, .ne = {columns, rows}};
    /* A name that does not fit is left empty, which mp_plan_check refuses. */
    size_t n = strlen(name);
    if (n < sizeof(w->name))
        memcpy(w->name, name, n);
    return p->n_weights++;
}

uint32_t mp_plan_kv(struct mp_plan *p, const struct mp_kvg *g)
{
    p->kvs = grown(p->kvs, p->n_kvs, sizeof(*p->kvs));
    p->kvs[p->n_kvs] = *g;
    return p->n_kvs++;
}

uint32_t mp_plan_rope(struct mp_plan *p, enum mp_rope_style style, uint32_t dims, float attn_factor, const float *freq)
{
    p->ropes = grown(p->ropes, p->n_ropes, sizeof(*p->ropes));
    struct mp_rope *r = &p->ropes[p->n_ropes];
    *r = (struct mp_rope){.style = (uint8_t)style, .dims = dims, .attn_factor = attn_factor};
    if (dims >= 2 && dims <= MP_MAX_HEAD_DIM) { /* else refused by mp_plan_check */
        r->freq = mp_malloc(dims / 2 * sizeof(float));
        memcpy(r->freq, freq, dims / 2 * sizeof(float));
    }
    return p->n_ropes++;
}

void mp_plan_node(struct mp_plan *p, const struct mp_node *n)
{
    p->nodes = grown(p->nodes, p->n_nodes, sizeof(*p->nodes));
    p->nodes[p->n_nodes++] = *n;
}

/* --- checking ----------------------------------------------------------------------------------------------------- */

static int check_tables(const struct mp_plan *p, struct mp_err *err)
{
    if (p->n_nodes < 1 || p->n_nodes > MP_MAX_NODES)
        return mp_err_set(err, MP_EINVAL, "plan: %u nodes; 1 to %d are allowed", p->n_nodes, MP_MAX_NODES);
    if (p->n_vals > MAX_COUNT || p->n_weights > MAX_COUNT || p->n_ropes > MAX_ROPES || p->n_kvs > MP_MAX_KVS)
        return mp_err_set(err, MP_EINVAL, "plan: too many values, weights, rope tables or kv groups");
    if (p->n_context < 1 || p->n_context > MAX_CONTEXT)
        return mp_err_set(err, MP_EINVAL, "plan: a context of %u; 1 to %d are allowed", p->n_context, MAX_CONTEXT);
    for (uint32_t i = 0; i < p->n_vals; i++)
        if (p->vals[i].rows > MP_R_OUT || p->vals[i].n < 1 || p->vals[i].n > MAX_COLUMNS)
            return mp_err_set(err, MP_EINVAL, "plan: value %%%u has a bad shape", i);
    for (uint32_t i = 0; i < p->n_kvs; i++) {
        const struct mp_kvg *g = &p->kvs[i];
        if (g->layers < 1 || g->layers > MAX_LAYERS || g->heads < 1 || g->heads > MAX_LAYERS || g->dim_k < 1 ||
            g->dim_k > MP_MAX_HEAD_DIM || g->dim_v > MP_MAX_HEAD_DIM)
            return mp_err_set(err, MP_EINVAL, "plan: kv group %u: layers, heads or head sizes out of range", i);
        if (g->dim_v < 1)
            return mp_err_set(err, MP_EUNSUPPORTED, "plan: kv group %u: values inside keys (MLA) are not built yet", i);
    }
    for (uint32_t i = 0; i < p->n_weights; i++) {
        const struct mp_wref *w = &p->weights[i];
        if (!w->name[0] || !memchr(w->name, 0, sizeof(w->name)))
            return mp_err_set(err, MP_EINVAL, "plan: weight %u has no name, or one of more than %zu bytes", i,
                              sizeof(w->name) - 1);
        if (w->role > MP_W_VEC || w->ne[0] < 1 || w->ne[0] > MAX_COLUMNS || w->ne[1] < 1 || w->ne[1] > MAX_COLUMNS ||
            (w->role == MP_W_VEC && w->ne[1] != 1))
            return mp_err_set(err, MP_EINVAL, "plan: weight %s has a bad role or shape", w->name);
    }
    for (uint32_t i = 0; i < p->n_ropes; i++) {
        const struct mp_rope *r = &p->ropes[i];
        if (r->style > MP_ROPE_NEOX || r->dims < 2 || r->dims > MP_MAX_HEAD_DIM || r->dims % 2 || !r->freq ||
            !isfinite(r->attn_factor))
            return mp_err_set(err, MP_EINVAL, "plan: rope table %u: bad style, size or factor", i);
        for (uint32_t k = 0; k < r->dims / 2; k++)
            if (!isfinite(r->freq[k]))
                return mp_err_set(err, MP_EINVAL, "plan: rope table %u: frequency %u is not finite", i, k);
    }
    return 0;
}

struct check {
    const struct mp_plan *p;
    bool *defined;      /* [n_vals] */
    bool *put;          /* [n_kvs][MAX_LAYERS] */
    uint32_t n_outputs; /* seen so far */
    bool logits;
};

static bool named(const char name[32])
{
    return name[0] && memchr(name, 0, 32);
}

/* The attributes and shapes of one node whose ids are known to be good. NULL, or what is wrong. */
static const char *shape_fault(struct check *c, const struct mp_node *n)
{
    const struct mp_plan *p = c->p;
    const struct mp_attr *a = &n->attr;
    const struct mp_val none = {0, 0};
    struct mp_val x = n->in[0] != MP_NONE ? p->vals[n->in[0]] : none;
    struct mp_val x2 = n->in[1] != MP_NONE ? p->vals[n->in[1]] : none;
    struct mp_val y = n->out != MP_NONE ? p->vals[n->out] : none;
    const struct mp_wref *w = n->w[0] != MP_NONE ? &p->weights[n->w[0]] : NULL;
    const struct mp_wref *bias = n->w[1] != MP_NONE ? &p->weights[n->w[1]] : NULL;
    bool same = x.n == y.n && x.rows == y.rows;

    if (!isfinite(a->eps) || !isfinite(a->scale) || !isfinite(a->softcap) || a->eps < 0 || a->softcap < 0)
        return "eps, scale or softcap is out of range";
    switch (n->op) {
    case MP_OP_PARAM: return NULL;
    case MP_OP_EMBED:
        if (y.rows != MP_R_TOK || w->ne[0] != y.n)
            return "rows must be tok and columns the weight's";
        return w->role == MP_W_EMBED || w->role == MP_W_BOTH ? NULL : "its weight's role is not embed or both";
    case MP_OP_GATHER:
        return x.rows == MP_R_TOK && y.rows == MP_R_OUT && x.n == y.n ? NULL : "goes from tok to out, columns equal";
    case MP_OP_LINEAR:
        if (w->role != MP_W_MATMUL && w->role != MP_W_BOTH)
            return "its weight's role is not matmul or both";
        if (x.rows != y.rows || w->ne[0] != x.n || w->ne[1] != y.n)
            return "shapes of input, weight and output disagree";
        return !bias || (bias->role == MP_W_VEC && bias->ne[0] == y.n) ? NULL : "the bias has another shape";
    case MP_OP_RMS_NORM: {
        uint32_t group = a->group ? a->group : x.n;
        if (!same || group > x.n || x.n % group)
            return "shapes disagree, or the columns are no whole number of groups";
        return !w || (w->role == MP_W_VEC && w->ne[0] == group) ? NULL : "the weight is not one group long";
    }
    case MP_OP_LAYER_NORM:
        if (!same || w->role != MP_W_VEC || w->ne[0] != x.n)
            return "shapes of input, weight and output disagree";
        return !bias || (bias->role == MP_W_VEC && bias->ne[0] == x.n) ? NULL : "the bias has another shape";
    case MP_OP_ADD:
    case MP_OP_MUL: return same && x2.n == x.n && x2.rows == x.rows ? NULL : "shapes disagree";
    case MP_OP_SCALE: return same ? NULL : "shapes disagree";
    case MP_OP_SOFTCAP: return same && a->softcap > 0 ? NULL : "shapes disagree, or the cap is 0";
    case MP_OP_ACT: return same && a->act < MP_N_ACTS ? NULL : "shapes disagree, or an unknown activation";
    case MP_OP_GLU:
        return same && x2.n == x.n && x2.rows == x.rows && a->act < MP_N_ACTS
                   ? NULL
                   : "shapes disagree, or an unknown activation";
    case MP_OP_ROPE:
        if (!same || x.rows != MP_R_TOK || a->rope >= p->n_ropes)
            return "shapes disagree, or no such rope table";
        return a->heads >= 1 && x.n % a->heads == 0 && p->ropes[a->rope].dims <= x.n / a->heads
                   ? NULL
                   : "heads do not divide the columns, or are smaller than the table";
    case MP_OP_SLICE:
        return x.rows == y.rows && a->from < a->to && a->to <= x.n && a->to - a->from == y.n
                   ? NULL
                   : "the columns lie outside the input or disagree with the output";
    case MP_OP_KV_PUT: {
        if (a->kv >= p->n_kvs || a->layer >= p->kvs[a->kv].layers)
            return "no such kv group or layer";
        const struct mp_kvg *g = &p->kvs[a->kv];
        if (n->in[1] == MP_NONE || x.rows != MP_R_TOK || x2.rows != MP_R_TOK || x.n != (uint32_t)g->heads * g->dim_k ||
            x2.n != (uint32_t)g->heads * g->dim_v)
            return "k and v do not have the group's heads";
        bool *put = &c->put[a->kv * MAX_LAYERS + a->layer];
        if (*put)
            return "puts to a layer a second time";
        *put = true;
        return NULL;
    }
    case MP_OP_ATTN: {
        if (a->kv >= p->n_kvs || a->layer >= p->kvs[a->kv].layers)
            return "no such kv group or layer";
        const struct mp_kvg *g = &p->kvs[a->kv];
        if (!c->put[a->kv * MAX_LAYERS + a->layer])
            return "reads a layer of the cache before it is put";
        if (x.rows != MP_R_TOK || y.rows != MP_R_TOK || a->heads < 1 || a->heads > MAX_LAYERS || a->heads % g->heads ||
            x.n != a->heads * g->dim_k || y.n != a->heads * g->dim_v)
            return "heads do not agree with the kv group";
        if (g->window && (!a->window || a->window > g->window))
            return "sees beyond its kv group's window";
        return a->scale > 0 ? NULL : "the scale must be above 0";
    }
    case MP_OP_OUTPUT:
        if (!named(a->output))
            return "has no name";
        for (const struct mp_node *o = p->nodes; o < n; o++)
            if (o->op == MP_OP_OUTPUT && !strcmp(o->attr.output, a->output))
                return "another output has its name";
        c->n_outputs++;
        if (strcmp(a->output, "logits"))
            return NULL;
        c->logits = true;
        return p->n_vocab == x.n ? NULL : "the columns of logits are not the plan's vocabulary";
    }
    return "unknown op";
}

static const char *node_fault(struct check *c, const struct mp_node *n)
{
    const struct mp_plan *p = c->p;
    if (n->op >= MP_N_OPS)
        return "unknown op";
    const struct op_info *op = &op_table[n->op];
    for (uint32_t i = 0; i < 2; i++) {
        if ((n->in[i] == MP_NONE && i < op->in_least) || (n->in[i] != MP_NONE && i >= op->in_most))
            return "has the wrong number of inputs";
        if (n->in[i] != MP_NONE && (n->in[i] >= p->n_vals || !c->defined[n->in[i]]))
            return "reads a value that no node before it makes";
        if ((n->w[i] == MP_NONE && i < op->w_least) || (n->w[i] != MP_NONE && i >= op->w_most))
            return "has the wrong number of weights";
        if (n->w[i] != MP_NONE && n->w[i] >= p->n_weights)
            return "names a weight that is not there";
    }
    if ((n->out != MP_NONE) != (op->has_out != 0))
        return op->has_out ? "has no output" : "may not have an output";
    if (n->out != MP_NONE && (n->out >= p->n_vals || c->defined[n->out]))
        return "makes a value that is not there or was made before";
    const char *fault = shape_fault(c, n);
    if (!fault && n->out != MP_NONE)
        c->defined[n->out] = true;
    return fault;
}

int mp_plan_check(const struct mp_plan *p, struct mp_err *err)
{
    int rc = check_tables(p, err);
    if (rc)
        return rc;
    struct check c = {.p = p, .defined = mp_calloc(p->n_vals), .put = mp_calloc((size_t)p->n_kvs * MAX_LAYERS)};
    for (uint32_t i = 0; i < p->n_nodes && !rc; i++) {
        const struct mp_node *n = &p->nodes[i];
        const char *fault = node_fault(&c, n);
        if (fault)
            rc = mp_err_set(err, MP_EINVAL, "plan: node %u (%s, layer %d): %s", i, mp_op_name(n->op),
                            n->layer == 0xffff ? -1 : (int)n->layer, fault);
    }
    if (!rc && !c.n_outputs)
        rc = mp_err_set(err, MP_EINVAL, "plan: it has no output");
    if (!rc && !c.logits && p->n_vocab)
        rc = mp_err_set(err, MP_EINVAL, "plan: a vocabulary of %u, but no output named logits", p->n_vocab);
    mp_free(c.defined);
    mp_free(c.put);
    return rc;
}

/* --- printing ----------------------------------------------------------------------------------------------------- */

static void print_attr(const struct mp_plan *p, const struct mp_node *n, struct mp_buf *out)
{
    const struct mp_attr *a = &n->attr;
    switch (n->op) {
    case MP_OP_EMBED:
    case MP_OP_SCALE:
        if (a->scale != 0)
            mp_buf_printf(out, " scale=%g", (double)a->scale);
        break;
    case MP_OP_RMS_NORM:
        if (a->group)
            mp_buf_printf(out, " group=%u", a->group);
        mp_buf_printf(out, " eps=%g", (double)a->eps);
        break;
    case MP_OP_LAYER_NORM: mp_buf_printf(out, " eps=%g", (double)a->eps); break;
    case MP_OP_SOFTCAP: mp_buf_printf(out, " cap=%g", (double)a->softcap); break;
    case MP_OP_ACT:
    case MP_OP_GLU: mp_buf_printf(out, " %s", mp_act_name(a->act)); break;
    case MP_OP_ROPE:
        mp_buf_printf(out, " heads=%u table=%u", a->heads, a->rope);
        if (a->rope < p->n_ropes)
            mp_buf_printf(out, "(%s %u)", p->ropes[a->rope].style == MP_ROPE_NEOX ? "neox" : "norm",
                          p->ropes[a->rope].dims);
        break;
    case MP_OP_SLICE: mp_buf_printf(out, " %u..%u", a->from, a->to); break;
    case MP_OP_KV_PUT: mp_buf_printf(out, " kv%u.%u", a->kv, a->layer); break;
    case MP_OP_ATTN:
        mp_buf_printf(out, " kv%u.%u heads=%u scale=%g", a->kv, a->layer, a->heads, (double)a->scale);
        if (a->softcap > 0)
            mp_buf_printf(out, " cap=%g", (double)a->softcap);
        if (a->window)
            mp_buf_printf(out, " window=%u", a->window);
        break;
    case MP_OP_OUTPUT: mp_buf_printf(out, " %.*s", (int)sizeof(a->output), a->output); break;
    }
}

void mp_plan_print(const struct mp_plan *p, struct mp_buf *out)
{
    mp_buf_printf(out, "plan: %u nodes, %u weights, vocabulary %u, context %u, %.4g flops per token\n", p->n_nodes,
                  p->n_weights, p->n_vocab, p->n_context, (double)mp_plan_flops(p));
    for (uint32_t i = 0; i < p->n_kvs; i++) {
        const struct mp_kvg *g = &p->kvs[i];
        mp_buf_printf(out, "kv%u: %u layers, %u heads, k %u, v %u", i, g->layers, g->heads, g->dim_k, g->dim_v);
        if (g->window)
            mp_buf_printf(out, ", window %u", g->window);
        mp_buf_putc(out, '\n');
    }
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const struct mp_node *n = &p->nodes[i];
        if (n->layer == 0xffff)
            mp_buf_puts(out, "   - ");
        else
            mp_buf_printf(out, "%4u ", n->layer);
        if (n->out < p->n_vals) {
            const struct mp_val *v = &p->vals[n->out];
            mp_buf_printf(out, "%%%u %s[%u] = ", n->out, v->rows < MP_COUNT(rows_names) ? rows_names[v->rows] : "?",
                          v->n);
        }
        mp_buf_puts(out, mp_op_name(n->op));
        for (uint32_t k = 0; k < 2; k++)
            if (n->in[k] != MP_NONE)
                mp_buf_printf(out, " %%%u", n->in[k]);
        for (uint32_t k = 0; k < 2; k++)
            if (n->w[k] < p->n_weights) {
                const struct mp_wref *w = &p->weights[n->w[k]];
                mp_buf_printf(out, " %.*s(%s %ux%u)", (int)sizeof(w->name), w->name,
                              w->role < MP_COUNT(role_names) ? role_names[w->role] : "?", w->ne[0], w->ne[1]);
            }
        print_attr(p, n, out);
        mp_buf_putc(out, '\n');
    }
}

uint64_t mp_plan_flops(const struct mp_plan *p)
{
    uint64_t flops = 0;
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (p->nodes[i].op == MP_OP_LINEAR && p->nodes[i].w[0] < p->n_weights) {
            const struct mp_wref *w = &p->weights[p->nodes[i].w[0]];
            flops += 2 * (uint64_t)w->ne[0] * w->ne[1];
        }
    return flops;
}
