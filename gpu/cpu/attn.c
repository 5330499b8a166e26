/* gpu/cpu/attn.c — attention of a ragged step over KV pages; see kernels.h for the order of its sums. Called by run.c.
 *
 * Work is cut into units: up to 8 tokens of one sequence by up to 8 query heads of one kv head, so that a block of the
 * cache is read once for all of them. Where there are few units for the threads (decode with a long context), each split of
 * 256 positions of a unit is an item of its own; whoever finishes a unit's last split merges them, in order. Both ways give
 * the same bits: a split's partial result never depends on who computes it. */
#include "gpu/cpu/cpu.h"

#include <math.h>
#include <string.h>

struct unit {
    const struct cpu_tile_tok *tile;
    uint32_t kv_head, head0, heads; /* query heads head0 .. head0+heads-1 */
    uint32_t low, end;              /* positions that some row sees: low .. end-1 */
};

void cpu_attn_plan(struct mp_exec *e)
{
    const struct mp_step *s = &e->step;
    e->n_tiles = 0;
    for (uint32_t i = 0; i < s->n_seq; i++)
        for (uint32_t t = s->start[i]; t < s->start[i + 1]; t += CPU_TILE_TOK) {
            uint32_t left = s->start[i + 1] - t;
            e->tiles[e->n_tiles++] = (struct cpu_tile_tok){i, t, left < CPU_TILE_TOK ? left : CPU_TILE_TOK};
        }
}

static uint32_t low_of(const struct mp_attr *a, uint32_t pos)
{
    return a->window && pos >= a->window ? pos - a->window + 1 : 0;
}

static uint32_t chunks(const struct mp_exec *e, const struct mp_attr *a)
{
    return (a->heads / e->kvs[a->kv].heads + CPU_TILE_HEADS - 1) / CPU_TILE_HEADS;
}

static uint32_t units(const struct mp_exec *e, const struct mp_attr *a)
{
    return e->n_tiles * e->kvs[a->kv].heads * chunks(e, a);
}

static struct unit unit_at(const struct mp_exec *e, const struct mp_attr *a, uint32_t i)
{
    const struct cpu_kv *kv = &e->kvs[a->kv];
    uint32_t n_chunks = chunks(e, a), per_kv = a->heads / kv->heads, chunk = i % n_chunks;
    struct unit u = {.tile = &e->tiles[i / n_chunks / kv->heads], .kv_head = i / n_chunks % kv->heads};
    u.head0 = u.kv_head * per_kv + chunk * CPU_TILE_HEADS;
    uint32_t left = per_kv - chunk * CPU_TILE_HEADS;
    u.heads = left < CPU_TILE_HEADS ? left : CPU_TILE_HEADS;
    u.low = low_of(a, (uint32_t)e->step.pos[u.tile->tok]);
    u.end = (uint32_t)e->step.pos[u.tile->tok + u.tile->n - 1] + 1;
    return u;
}

/* Splits of the step's longest sequence when splits are items of their own, else 0. */
static uint32_t parallel_splits(const struct mp_exec *e, const struct mp_attr *a)
{
    uint32_t n = 0;
    if (e->dev->n_threads == 1 || units(e, a) >= 4 * e->dev->n_threads)
        return 0;
    for (uint32_t i = 0; i < e->step.n_seq; i++) {
        uint32_t splits = (e->step.kv_len[i] + CPU_SPLIT - 1) / CPU_SPLIT;
        n = splits > n ? splits : n;
    }
    uint64_t floats = (uint64_t)e->step.n_tok * a->heads * n * (e->kvs[a->kv].dim_v_pad + 16);
    return n > 1 && floats <= e->part_floats ? n : 0;
}

uint32_t cpu_attn_items(const struct mp_exec *e, const struct mp_node *n)
{
    uint32_t splits = parallel_splits(e, &n->attr);
    return units(e, &n->attr) * (splits ? splits : 1);
}

static void load_q(const struct mp_exec *e, const struct mp_node *n, const struct unit *u, struct cpu_thread *t)
{
    const struct cpu_kv *kv = &e->kvs[n->attr.kv];
    const struct cpu_value *q = &e->values[n->in[0]];
    for (uint32_t i = 0; i < u->tile->n; i++)
        memcpy(t->q + (uint64_t)i * u->heads * kv->dim_k,
               q->at + (uint64_t)(u->tile->tok + i) * q->stride + (uint64_t)u->head0 * kv->dim_k,
               (uint64_t)u->heads * kv->dim_k * sizeof(float));
}

/* Whether a row at pos sees any of first .. end-1. */
static bool sees(const struct mp_attr *a, uint32_t pos, uint32_t first, uint32_t end)
{
    return first <= pos && low_of(a, pos) < end;
}

/* One split of a unit: for each row that sees any of it, states[row] and t->o[row]. Rows: token by token, head by head. */
static void run_split(const struct mp_exec *e, const struct mp_node *n, const struct unit *u, uint32_t split,
                      struct cpu_softmax *states, struct cpu_thread *t)
{
    const struct mp_attr *a = &n->attr;
    const struct cpu_kv *kv = &e->kvs[a->kv];
    const struct cpu_kernels *k = e->dev->k;
    const uint32_t *pages = e->step.pages[a->kv] + (uint64_t)u->tile->seq * e->step.stride[a->kv];
    uint32_t rows = u->tile->n * u->heads, dim = kv->dim_v_pad;
    uint32_t from = split * CPU_SPLIT > u->low ? split * CPU_SPLIT : u->low;
    uint32_t end = (split + 1) * CPU_SPLIT < u->end ? (split + 1) * CPU_SPLIT : u->end;
    for (uint32_t r = 0; r < rows; r++)
        states[r] = (struct cpu_softmax){-INFINITY, 0};
    memset(t->o, 0, (uint64_t)rows * dim * sizeof(float));
    for (uint32_t b = from / CPU_BLOCK * CPU_BLOCK; b < end; b += CPU_BLOCK) {
        const float *v[2] = {NULL, NULL};
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t at = b + half * 16;
            if (at >= u->end || at + 16 <= u->low)
                continue; /* nobody looks, and the page may be gone */
            uint32_t in_page = at % kv->page_tokens;
            const float *head = cpu_kv_head(kv, pages[at / kv->page_tokens], a->layer, u->kv_head);
            v[half] = head + (uint64_t)kv->page_tokens * kv->dim_k + (uint64_t)in_page * dim;
            k->tile[CPU_F32](head + (uint64_t)in_page * kv->dim_k, kv->dim_k, t->q, kv->dim_k, NULL, 0, rows,
                             t->s + half * 16, CPU_BLOCK);
        }
        for (uint32_t r = 0; r < rows; r++) {
            uint32_t pos = (uint32_t)e->step.pos[u->tile->tok + r / u->heads], low = low_of(a, pos);
            if (!sees(a, pos, b, b + CPU_BLOCK))
                continue;
            struct cpu_span span = {.first = (uint8_t)(low > b ? low - b : 0),
                                    .end = (uint8_t)(pos - b < CPU_BLOCK ? pos - b + 1 : CPU_BLOCK)};
            k->attn_block(t->s + r * CPU_BLOCK, span, a->scale, a->softcap, v, dim, &states[r], t->o + r * dim);
        }
    }
}

static void store(const struct mp_exec *e, const struct mp_node *n, const struct unit *u, uint32_t r, float sum,
                  const float *o)
{
    const struct cpu_kv *kv = &e->kvs[n->attr.kv];
    const struct cpu_value *out = &e->values[n->out];
    float *y = out->at + (uint64_t)(u->tile->tok + r / u->heads) * out->stride +
               (uint64_t)(u->head0 + r % u->heads) * kv->dim_v;
    float inv = 1.0f / sum;
    for (uint32_t i = 0; i < kv->dim_v; i++)
        y[i] = o[i] * inv;
}

static void run_unit(const struct mp_exec *e, const struct mp_node *n, const struct unit *u, struct cpu_thread *t)
{
    const struct mp_attr *a = &n->attr;
    uint32_t rows = u->tile->n * u->heads, dim = e->kvs[a->kv].dim_v_pad;
    struct cpu_softmax states[CPU_ATTN_ROWS], all[CPU_ATTN_ROWS];
    for (uint32_t r = 0; r < rows; r++)
        all[r] = (struct cpu_softmax){-INFINITY, 0};
    memset(t->oo, 0, (uint64_t)rows * dim * sizeof(float));
    for (uint32_t split = u->low / CPU_SPLIT; split * CPU_SPLIT < u->end; split++) {
        run_split(e, n, u, split, states, t);
        for (uint32_t r = 0; r < rows; r++)
            if (sees(a, (uint32_t)e->step.pos[u->tile->tok + r / u->heads], split * CPU_SPLIT, (split + 1) * CPU_SPLIT))
                e->dev->k->attn_merge(&all[r], t->oo + r * dim, &states[r], t->o + r * dim, dim);
    }
    for (uint32_t r = 0; r < rows; r++)
        store(e, n, u, r, all[r].sum, t->oo + r * dim);
}

/* Partial results in e->parts: [token][head][split] of max, sum, padding to 16, o. */
static float *part(const struct mp_exec *e, const struct mp_node *n, const struct unit *u, uint32_t r, uint32_t split,
                   uint32_t n_splits)
{
    uint64_t row = (uint64_t)(u->tile->tok + r / u->heads) * n->attr.heads + u->head0 + r % u->heads;
    return e->parts + (row * n_splits + split) * (e->kvs[n->attr.kv].dim_v_pad + 16);
}

static void run_item(struct mp_exec *e, const struct mp_node *n, uint32_t item, uint32_t n_splits, struct cpu_thread *t)
{
    const struct mp_attr *a = &n->attr;
    struct unit u = unit_at(e, a, item / n_splits);
    uint32_t split = item % n_splits, first = u.low / CPU_SPLIT, end = (u.end + CPU_SPLIT - 1) / CPU_SPLIT;
    uint32_t rows = u.tile->n * u.heads, dim = e->kvs[a->kv].dim_v_pad;
    struct cpu_softmax states[CPU_ATTN_ROWS];
    if (split < first || split >= end)
        return;
    load_q(e, n, &u, t);
    run_split(e, n, &u, split, states, t);
    for (uint32_t r = 0; r < rows; r++) {
        float *p = part(e, n, &u, r, split, n_splits);
        p[0] = states[r].max;
        p[1] = states[r].sum;
        memcpy(p + 16, t->o + r * dim, dim * sizeof(float));
    }
    /* Release what was written, acquire what the others wrote. */
    _Atomic uint32_t *done = &e->splits[item / n_splits];
    if (atomic_fetch_add_explicit(done, 1, memory_order_acq_rel) + 1 < end - first)
        return;
    atomic_store_explicit(done, 0, memory_order_relaxed); /* for the next layer, a barrier away */
    for (uint32_t r = 0; r < rows; r++) {
        struct cpu_softmax all = {-INFINITY, 0};
        float *o = t->oo;
        memset(o, 0, dim * sizeof(float));
        for (uint32_t s = first; s < end; s++) {
            const float *p = part(e, n, &u, r, s, n_splits);
            struct cpu_softmax state = {p[0], p[1]};
            if (sees(a, (uint32_t)e->step.pos[u.tile->tok + r / u.heads], s * CPU_SPLIT, (s + 1) * CPU_SPLIT))
                e->dev->k->attn_merge(&all, o, &state, p + 16, dim);
        }
        store(e, n, &u, r, all.sum, o);
    }
}

void cpu_attn_item(struct mp_exec *e, const struct mp_node *n, uint32_t item, struct cpu_thread *t)
{
    uint32_t n_splits = parallel_splits(e, &n->attr);
    if (n_splits) {
        run_item(e, n, item, n_splits, t);
        return;
    }
    struct unit u = unit_at(e, &n->attr, item);
    load_q(e, n, &u, t);
    run_unit(e, n, &u, t);
}
