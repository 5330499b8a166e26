/* gpu/cpu/program.c — a checked plan becomes stages, with a barrier behind each; see cpu.h. The fused forms of
 * reference/engine.md that it makes: F1/F2 norm before linear layers of one input, F3 neighbouring row-wise nodes in one
 * stage, F6 linear + residual, F7 gate + up + activation. With no_fuse every node is a stage of its own. */
#include "gpu/cpu/cpu.h"

#include "core/base/mem.h"
#include "gpu/lower/life.h"

#include <math.h>
#include <string.h>

enum { MAX_TOK = 65536, MAX_SLOTS = 1 << 20, ALIGN = 128 };

static uint32_t padded(uint32_t n)
{
    return (n + 15) / 16 * 16;
}

static int check_limits(const struct mp_plan *plan, const struct mp_limits *lim, struct mp_err *err)
{
    if (lim->numerics >= MP_N_NUMERICS)
        return mp_err_set(err, MP_EINVAL, "cpu: unknown numerics %u", lim->numerics);
    if (lim->numerics != MP_NUM_PLAIN)
        return mp_err_set(err, MP_EUNSUPPORTED, "cpu: numerics '%s' are not built yet, only 'plain'",
                          mp_numerics_name(lim->numerics));
    if (lim->max_tok < 1 || lim->max_tok > MAX_TOK || lim->max_seq < 1 || lim->max_seq > lim->max_tok ||
        lim->max_out < 1 || lim->max_out > lim->max_tok || lim->max_slot < 1 || lim->max_slot > MAX_SLOTS)
        return mp_err_set(err, MP_EINVAL,
                          "cpu: limits out of range: tokens %u, sequences %u, outputs %u, slots %u (tokens 1 to %d, "
                          "sequences and outputs 1 to tokens, slots 1 to %d)",
                          lim->max_tok, lim->max_seq, lim->max_out, lim->max_slot, MAX_TOK, MAX_SLOTS);
    if (plan->n_kvs && (lim->max_pages < 1 || lim->max_seq_pages < 1 || lim->max_seq_pages > lim->max_pages))
        return mp_err_set(err, MP_EINVAL, "cpu: limits out of range: %u pages, %u of a sequence", lim->max_pages,
                          lim->max_seq_pages);
    return 0;
}

/* --- what belongs together ---------------------------------------------------------------------------------------- */

struct fusion {        /* per node, MP_NONE where there is none */
    bool done;         /* part of another node's stage */
    uint32_t head;     /* LINEAR: first of its group */
    uint32_t next;     /* LINEAR: the next of its group */
    uint32_t last;     /* LINEAR, first of a group: the last of it */
    uint32_t norm;     /* LINEAR, first of a group: the norm before it */
    uint32_t count;    /* LINEAR, first of a group: layers in it */
    uint32_t epilogue; /* LINEAR: the ADD or GLU behind it */
    uint32_t partner;  /* LINEAR with GLU: the second operand's node */
    uint32_t residual; /* LINEAR with ADD: the other operand's value */
};

struct maker {
    const struct mp_plan *plan;
    struct fusion *f;   /* [n_nodes] */
    uint32_t *uses;     /* [n_vals] */
    uint32_t *producer; /* [n_vals] node */
    uint32_t *place;    /* [n_vals] the node at whose place in the order the value is made */
    uint32_t *group;    /* [n_vals] first LINEAR that reads it */
};

static void group_linear(struct maker *m, uint32_t i, bool fuse)
{
    const struct mp_node *n = &m->plan->nodes[i];
    struct fusion *f = &m->f[i];
    uint32_t *head = &m->group[n->in[0]];
    if (!fuse || *head == MP_NONE)
        *head = i;
    f->head = *head;
    struct fusion *first = &m->f[*head];
    if (first->count++)
        m->f[first->last].next = i;
    first->last = i;
    m->place[n->out] = *head;
}

/* The LINEAR that makes this value, if nothing else reads it and nothing was joined to it yet; or MP_NONE. */
static uint32_t open_linear(const struct maker *m, uint32_t val)
{
    uint32_t i = m->producer[val];
    bool open = m->plan->nodes[i].op == MP_OP_LINEAR && m->uses[val] == 1 && m->f[i].epilogue == MP_NONE;
    return open ? i : MP_NONE;
}

static void join_add(struct maker *m, uint32_t i)
{
    const struct mp_node *n = &m->plan->nodes[i];
    for (int side = 0; side < 2; side++) {
        uint32_t l = open_linear(m, n->in[side]), other = n->in[!side];
        if (l == MP_NONE || m->place[other] >= m->f[l].head)
            continue;
        m->f[l].epilogue = i;
        m->f[l].residual = other;
        m->f[i].done = true;
        m->place[n->out] = m->f[l].head;
        return;
    }
}

static void join_glu(struct maker *m, uint32_t i)
{
    const struct mp_node *n = &m->plan->nodes[i];
    uint32_t gate = open_linear(m, n->in[0]), up = open_linear(m, n->in[1]);
    if (gate == MP_NONE || up == MP_NONE || gate == up || m->f[gate].head != m->f[up].head)
        return;
    m->f[gate].epilogue = m->f[up].epilogue = i;
    m->f[gate].partner = up;
    m->f[i].done = true;
    m->place[n->out] = m->f[gate].head;
}

static void find_fusions(struct maker *m, bool fuse)
{
    const struct mp_plan *p = m->plan;
    for (uint32_t v = 0; v < p->n_vals; v++)
        m->producer[v] = m->place[v] = m->group[v] = MP_NONE;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const struct mp_node *n = &p->nodes[i];
        m->f[i] = (struct fusion){.head = MP_NONE,
                                  .next = MP_NONE,
                                  .last = MP_NONE,
                                  .norm = MP_NONE,
                                  .epilogue = MP_NONE,
                                  .partner = MP_NONE,
                                  .residual = MP_NONE};
        for (int k = 0; k < 2; k++)
            if (n->in[k] != MP_NONE)
                m->uses[n->in[k]]++;
        if (n->out != MP_NONE)
            m->producer[n->out] = m->place[n->out] = i;
    }
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        uint8_t op = p->nodes[i].op;
        if (op == MP_OP_LINEAR)
            group_linear(m, i, fuse);
        else if (fuse && op == MP_OP_ADD)
            join_add(m, i);
        else if (fuse && op == MP_OP_GLU)
            join_glu(m, i);
    }
    for (uint32_t i = 0; i < p->n_nodes && fuse; i++) {
        if (p->nodes[i].op != MP_OP_LINEAR || m->f[i].head != i)
            continue;
        uint32_t in = p->nodes[i].in[0], norm = m->producer[in];
        const struct mp_node *n = &p->nodes[norm];
        bool whole = n->op == MP_OP_LAYER_NORM ||
                     (n->op == MP_OP_RMS_NORM && (n->attr.group == 0 || n->attr.group == p->vals[in].n));
        if (whole && m->uses[in] == m->f[i].count) {
            m->f[i].norm = norm;
            m->f[norm].done = true;
        }
    }
}

/* --- stages ------------------------------------------------------------------------------------------------------- */

static void lives(struct mp_life *l, uint32_t stage, uint64_t bytes)
{
    if (!l->bytes) {
        l->bytes = bytes;
        l->first = stage;
    }
    l->last = stage;
}

static void touch(struct mp_exec *e, struct mp_life *l, uint32_t val, uint32_t stage)
{
    if (val != MP_NONE)
        lives(&l[val], stage, e->values[val].bytes);
}

static void emit_linear(struct mp_exec *e, struct maker *m, struct mp_life *l, uint32_t head)
{
    const struct mp_plan *p = m->plan;
    const struct mp_node *h = &p->nodes[head];
    uint32_t at = e->n_stages++;
    struct cpu_stage *s = &e->stages[at];
    *s = (struct cpu_stage){.kind = CPU_LINEAR,
                            .rows = p->vals[h->in[0]].rows,
                            .first = e->n_linears,
                            .in = h->in[0],
                            .norm = MP_NONE,
                            .k = p->vals[h->in[0]].n};
    if (m->f[head].norm != MP_NONE) {
        s->norm = e->n_nodes;
        e->nodes[e->n_nodes++] = p->nodes[m->f[head].norm];
        s->in = p->nodes[m->f[head].norm].in[0];
    }
    touch(e, l, s->in, at);
    for (uint32_t i = head; i != MP_NONE; i = m->f[i].next) {
        const struct mp_node *n = &p->nodes[i];
        const struct fusion *f = &m->f[i];
        if (f->epilogue != MP_NONE && f->partner == MP_NONE && f->residual == MP_NONE)
            continue; /* second operand of a GLU */
        struct cpu_linear *lin = &e->linears[e->n_linears++];
        *lin = (struct cpu_linear){.w = n->w[0],
                                   .bias = n->w[1],
                                   .w2 = MP_NONE,
                                   .bias2 = MP_NONE,
                                   .residual = MP_NONE,
                                   .out = n->out,
                                   .n_tiles = padded(p->vals[n->out].n) / 16};
        if (f->partner != MP_NONE) {
            lin->epilogue = CPU_GLU;
            lin->act = p->nodes[f->epilogue].attr.act;
            lin->w2 = p->nodes[f->partner].w[0];
            lin->bias2 = p->nodes[f->partner].w[1];
        } else if (f->residual != MP_NONE) {
            lin->epilogue = CPU_RESIDUAL;
            lin->residual = f->residual;
        }
        if (f->epilogue != MP_NONE)
            lin->out = p->nodes[f->epilogue].out;
        touch(e, l, lin->residual, at);
        touch(e, l, lin->out, at);
        s->n_tiles += lin->n_tiles;
        s->count++;
    }
    e->max_k = padded(s->k) > e->max_k ? padded(s->k) : e->max_k;
    e->max_blocks = padded((e->max_k + 31) / 32);
}

static void emit_node(struct mp_exec *e, const struct mp_plan *p, struct mp_life *l, const struct mp_node *n, bool fuse)
{
    uint8_t kind = n->op == MP_OP_ATTN ? CPU_ATTN : CPU_ROWS;
    uint8_t rows = n->out != MP_NONE ? p->vals[n->out].rows : (uint8_t)MP_R_TOK;
    struct cpu_stage *last = e->n_stages ? &e->stages[e->n_stages - 1] : NULL;
    /* The last stage's nodes are the last in nodes[] when it is one of rows. */
    if (!(fuse && kind == CPU_ROWS && last && last->kind == CPU_ROWS && last->rows == rows)) {
        last = &e->stages[e->n_stages++];
        *last = (struct cpu_stage){.kind = kind, .rows = rows, .first = e->n_nodes, .in = MP_NONE, .norm = MP_NONE};
    }
    last->count++;
    e->nodes[e->n_nodes++] = *n;
    uint32_t at = e->n_stages - 1;
    touch(e, l, n->in[0], at);
    touch(e, l, n->in[1], at);
    touch(e, l, n->out, at);
}

static bool grow(uint64_t *total, uint64_t count, uint64_t bytes, uint64_t *off)
{
    uint64_t all;
    *off = *total;
    return mp_mul_u64(count, bytes, &all) && mp_align_u64(all, ALIGN, &all) && mp_add_u64(*total, all, total);
}

/* Sizes of everything in scratch behind the values. False on overflow. */
static bool size_scratch(struct mp_exec *e, uint64_t values)
{
    uint64_t n_splits = (e->rules.n_positions + CPU_SPLIT - 1) / CPU_SPLIT, total = values;
    for (uint32_t i = 0; i < e->n_nodes && e->dev->n_threads > 1; i++)
        if (e->nodes[i].op == MP_OP_ATTN) {
            uint64_t part = 2 * e->nodes[i].attr.heads * n_splits * (e->kvs[e->nodes[i].attr.kv].dim_v_pad + 16);
            e->part_floats = part > e->part_floats ? part : e->part_floats;
        }
    uint64_t floats = CPU_FEW * (e->max_k + e->max_blocks) + 2 * CPU_ROWS_MAX * 16;
    floats += CPU_ATTN_ROWS * (e->max_dim_k + 32 + 2 * e->max_dim_v);
    e->thread_bytes = (floats * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
    bool ok = grow(&total, e->lim.max_tok, e->max_k * sizeof(float), &e->off_prep) &&
              grow(&total, e->lim.max_tok, e->max_blocks * sizeof(float), &e->off_sums) &&
              grow(&total, e->part_floats, sizeof(float), &e->off_parts) &&
              grow(&total, e->dev->n_threads, e->thread_bytes, &e->off_threads);
    e->off_rope = total;
    for (uint32_t i = 0; i < e->n_ropes && ok; i++) {
        uint64_t off;
        ok = grow(&total, e->rules.n_positions, e->ropes[i].dims * sizeof(float), &off);
    }
    e->scratch_bytes = total;
    return ok;
}

/* Copies of the plan's tables, so that it need not outlive the exec. */
static void copy_tables(struct mp_exec *e, const struct mp_plan *p)
{
    e->values = mp_calloc(p->n_vals * sizeof(*e->values));
    e->weights = mp_calloc(p->n_weights * sizeof(*e->weights));
    e->ropes = mp_calloc(p->n_ropes * sizeof(*e->ropes));
    e->n_values = p->n_vals;
    e->n_weights = p->n_weights;
    e->n_ropes = p->n_ropes;
    e->n_kvs = p->n_kvs;
    e->n_vocab = p->n_vocab;
    e->logits = MP_NONE;
    for (uint32_t i = 0; i < p->n_vals; i++) {
        struct cpu_value *v = &e->values[i];
        *v = (struct cpu_value){.rows = p->vals[i].rows, .n = p->vals[i].n, .stride = padded(p->vals[i].n)};
        uint64_t rows = v->rows == MP_R_OUT ? e->lim.max_out : e->lim.max_tok; /* 2^16 * 2^22 * 4: no overflow */
        v->bytes = rows * v->stride * sizeof(float);
    }
    for (uint32_t i = 0; i < p->n_kvs; i++) {
        struct cpu_kv *kv = &e->kvs[i];
        cpu_kv_init(kv, &p->kvs[i], e->dev->page_tokens);
        e->max_dim_k = padded(kv->dim_k) > e->max_dim_k ? padded(kv->dim_k) : e->max_dim_k;
        e->max_dim_v = kv->dim_v_pad > e->max_dim_v ? kv->dim_v_pad : e->max_dim_v;
    }
    for (uint32_t i = 0; i < p->n_ropes; i++)
        e->ropes[i] = (struct cpu_rope){.style = p->ropes[i].style, .dims = p->ropes[i].dims};
}

int cpu_program_make(struct mp_exec *e, const struct mp_plan *plan, const struct mp_limits *lim, struct mp_err *err)
{
    int rc = check_limits(plan, lim, err);
    if (rc)
        return rc;
    e->lim = *lim;
    mp_step_rules(&e->rules, plan, &e->lim, e->dev->page_tokens);
    copy_tables(e, plan);
    e->stages = mp_calloc(plan->n_nodes * sizeof(*e->stages));
    e->nodes = mp_calloc(plan->n_nodes * sizeof(*e->nodes));
    e->linears = mp_calloc(plan->n_nodes * sizeof(*e->linears));
    e->outputs = mp_calloc(plan->n_nodes * sizeof(*e->outputs));
    struct maker m = {
        .plan = plan,
        .f = mp_calloc(plan->n_nodes * sizeof(*m.f)),
        .uses = mp_calloc(plan->n_vals * sizeof(uint32_t)),
        .producer = mp_calloc(plan->n_vals * sizeof(uint32_t)),
        .place = mp_calloc(plan->n_vals * sizeof(uint32_t)),
        .group = mp_calloc(plan->n_vals * sizeof(uint32_t)),
    };
    struct mp_life *l = mp_calloc(plan->n_vals * sizeof(*l));

    find_fusions(&m, !lim->no_fuse);
    for (uint32_t i = 0; i < plan->n_nodes; i++) {
        const struct mp_node *n = &plan->nodes[i];
        if (m.f[i].done)
            continue;
        if (n->op == MP_OP_PARAM) {
            e->values[n->out].param = true;
            touch(e, l, n->out, 0);
        } else if (n->op == MP_OP_OUTPUT) {
            struct cpu_output *o = &e->outputs[e->n_outputs++];
            memcpy(o->name, n->attr.output, sizeof(o->name));
            o->val = n->in[0];
            if (!strcmp(o->name, "logits"))
                e->logits = o->val;
        } else if (n->op != MP_OP_LINEAR) {
            emit_node(e, plan, l, n, !lim->no_fuse);
        } else if (m.f[i].head == i) {
            emit_linear(e, &m, l, i);
        }
    }
    /* What the caller writes before a forward or reads behind it keeps its buffer throughout. */
    for (uint32_t i = 0; i < plan->n_nodes; i++) {
        const struct mp_node *n = &plan->nodes[i];
        if (n->op == MP_OP_PARAM)
            touch(e, l, n->out, e->n_stages);
        else if (n->op == MP_OP_OUTPUT)
            touch(e, l, n->in[0], e->n_stages);
    }
    uint64_t total = 0;
    for (uint32_t v = 0; v < plan->n_vals && !rc; v++)
        if (!mp_add_u64(total, l[v].bytes + ALIGN, &total))
            rc = mp_err_set(err, MP_ELIMIT, "cpu: the plan's values do not fit in memory");
    uint64_t values = rc ? 0 : mp_life_assign(l, plan->n_vals, ALIGN);
    for (uint32_t v = 0; v < plan->n_vals; v++) {
        e->values[v].off = l[v].bytes ? l[v].off : UINT64_MAX;
        e->values[v].bytes = l[v].bytes;
    }
    if (!rc && !size_scratch(e, values))
        rc = mp_err_set(err, MP_ELIMIT, "cpu: the plan's buffers do not fit in memory");
    mp_free(m.f);
    mp_free(m.uses);
    mp_free(m.producer);
    mp_free(m.place);
    mp_free(m.group);
    mp_free(l);
    return rc;
}

/* --- placing ------------------------------------------------------------------------------------------------------ */

static int place_weights(struct mp_exec *e, const struct mp_plan *plan, struct mp_mem *w, const uint64_t *off,
                         const uint32_t *type, struct mp_err *err)
{
    for (uint32_t i = 0; i < plan->n_weights; i++) {
        const struct mp_wref *ref = &plan->weights[i];
        uint64_t bytes, end;
        if (!cpu_weight_bytes(ref, type[i], &bytes))
            return mp_err_set(err, MP_EUNSUPPORTED, "cpu: weight %s has a type or shape it cannot compute with",
                              ref->name);
        if (off[i] % 64 || !mp_add_u64(off[i], bytes, &end) || end > w->bytes || !cpu_mem_committed(w, off[i], bytes))
            return mp_err_set(err, MP_EINVAL, "cpu: weight %s lies outside the committed memory, or not at 64 bytes",
                              ref->name);
        struct cpu_weight *cw = &e->weights[i];
        *cw = (struct cpu_weight){
            .at = w->base + off[i], .kind = (enum cpu_kind)cpu_kind_of(type[i]), .k = ref->ne[0], .n = ref->ne[1]};
        cw->tile_bytes = cpu_tile_bytes(cw->kind, cw->k);
    }
    for (uint32_t i = 0; i < e->n_stages; i++) {
        struct cpu_stage *s = &e->stages[i];
        for (uint32_t k = 0; s->kind == CPU_LINEAR && k < s->count; k++) {
            const struct cpu_linear *lin = &e->linears[s->first + k];
            s->sums |=
                e->weights[lin->w].kind == CPU_Q4_1 || (lin->w2 != MP_NONE && e->weights[lin->w2].kind == CPU_Q4_1);
        }
    }
    return 0;
}

/* cos and sin in double by scalar code, rounded once: the same for every instruction set. */
static void fill_ropes(struct mp_exec *e, const struct mp_plan *plan, uint8_t *at)
{
    for (uint32_t i = 0; i < e->n_ropes; i++) {
        struct cpu_rope *r = &e->ropes[i];
        const struct mp_rope *from = &plan->ropes[i];
        uint32_t half = r->dims / 2;
        r->table = (float *)(void *)at;
        for (uint32_t pos = 0; pos < e->rules.n_positions; pos++)
            for (uint32_t k = 0; k < half; k++) {
                double angle = (double)pos * (double)from->freq[k];
                r->table[(uint64_t)pos * r->dims + k] = (float)(cos(angle) * (double)from->attn_factor);
                r->table[(uint64_t)pos * r->dims + half + k] = (float)(sin(angle) * (double)from->attn_factor);
            }
        at += ((uint64_t)e->rules.n_positions * r->dims * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
    }
}

static void place_threads(struct mp_exec *e, uint8_t *base)
{
    for (uint32_t i = 0; i < e->dev->n_threads; i++) {
        float *at = (float *)(void *)(base + i * e->thread_bytes);
        struct cpu_thread *t = &e->threads[i];
        t->x = at;
        t->sums = t->x + CPU_FEW * e->max_k;
        t->gate = t->sums + CPU_FEW * e->max_blocks;
        t->up = t->gate + CPU_ROWS_MAX * 16;
        t->q = t->up + CPU_ROWS_MAX * 16;
        t->s = t->q + CPU_ATTN_ROWS * e->max_dim_k;
        t->o = t->s + CPU_ATTN_ROWS * 32;
        t->oo = t->o + CPU_ATTN_ROWS * e->max_dim_v;
    }
}

int cpu_program_place(struct mp_exec *e, const struct mp_plan *plan, struct mp_mem *w, const uint64_t *w_off,
                      const uint32_t *w_type, struct mp_mem *scratch, struct mp_mem *const kv[MP_MAX_KVS],
                      struct mp_err *err)
{
    int rc = plan->n_weights ? place_weights(e, plan, w, w_off, w_type, err) : 0;
    if (rc)
        return rc;
    if (e->scratch_bytes &&
        (!scratch || scratch->bytes < e->scratch_bytes || !cpu_mem_committed(scratch, 0, e->scratch_bytes)))
        return mp_err_set(err, MP_EINVAL, "cpu: scratch memory of %llu bytes is not committed",
                          (unsigned long long)e->scratch_bytes);
    for (uint32_t i = 0; i < e->n_kvs; i++) {
        uint64_t bytes;
        if (!kv[i] || !mp_mul_u64(e->kvs[i].page_bytes, e->lim.max_pages, &bytes) || kv[i]->bytes < bytes)
            return mp_err_set(err, MP_EINVAL, "cpu: kv group %u has no memory for %u pages", i, e->lim.max_pages);
        e->kvs[i].base = kv[i]->base;
        e->kvs[i].mem = kv[i];
    }
    if (!e->scratch_bytes)
        return 0;
    uint8_t *base = scratch->base;
    for (uint32_t i = 0; i < e->n_values; i++)
        if (e->values[i].off != UINT64_MAX)
            e->values[i].at = (float *)(void *)(base + e->values[i].off);
    e->prep = (float *)(void *)(base + e->off_prep);
    e->sums = (float *)(void *)(base + e->off_sums);
    e->parts = (float *)(void *)(base + e->off_parts);
    place_threads(e, base + e->off_threads);
    fill_ropes(e, plan, base + e->off_rope);
    return 0;
}

void cpu_program_free(struct mp_exec *e)
{
    mp_free(e->stages);
    mp_free(e->nodes);
    mp_free(e->linears);
    mp_free(e->values);
    mp_free(e->weights);
    mp_free(e->ropes);
    mp_free(e->outputs);
}
