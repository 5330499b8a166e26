/* gpu/cpu/run.c — one step through an exec's stages on all threads of the pool; see cpu.h. Called by device.c. */
#include "gpu/cpu/cpu.h"

#include <string.h>

/* --- checking a step ---------------------------------------------------------------------------------------------- */

int cpu_step_check(struct mp_exec *e, const struct mp_step *s, struct mp_err *err)
{
    int rc = mp_step_check(&e->rules, s, err);
    for (uint32_t i = 0; !rc && i < s->n_seq; i++) {
        const struct mp_slot *slot = &e->slots[s->slot[i]];
        for (uint32_t t = s->start[i]; t < s->start[i + 1]; t++)
            if (s->tok[t] == MP_TOK_LAST &&
                (!slot->any || (e->rules.n_embed && (uint32_t)slot->last >= e->rules.n_embed)))
                return mp_err_set(err, MP_EINVAL, "cpu: sequence %u: no token was sampled in slot %u", i, s->slot[i]);
        for (uint32_t g = 0; g < e->n_kvs; g++) {
            uint32_t at, end;
            for (mp_step_pages(&e->rules, s, i, g, &at, &end); at < end; at++) {
                uint64_t page = s->pages[g][(uint64_t)i * s->stride[g] + at], bytes = e->kvs[g].page_bytes;
                if (!cpu_mem_committed(e->kvs[g].mem, page * bytes, bytes))
                    return mp_err_set(err, MP_EINVAL, "cpu: sequence %u: page %u of kv group %u is not committed", i,
                                      (uint32_t)page, g);
            }
        }
    }
    return rc;
}

/* --- rows --------------------------------------------------------------------------------------------------------- */

static const float *row_of(const struct mp_exec *e, uint32_t val, uint32_t r)
{
    return e->values[val].at + (uint64_t)r * e->values[val].stride;
}

static const float *vec_of(const struct mp_exec *e, uint32_t w)
{
    return w == MP_NONE ? NULL : (const float *)(const void *)e->weights[w].at;
}

static void norm_row(const struct mp_exec *e, const struct mp_node *n, const float *x, float *y, uint32_t columns)
{
    const struct cpu_kernels *k = e->dev->k;
    if (n->op == MP_OP_LAYER_NORM) {
        k->layer_norm(x, vec_of(e, n->w[0]), vec_of(e, n->w[1]), y, columns, n->attr.eps);
        return;
    }
    uint32_t group = n->attr.group ? n->attr.group : columns;
    for (uint32_t at = 0; at < columns; at += group)
        k->rms_norm(x + at, vec_of(e, n->w[0]), y + at, group, n->attr.eps);
}

static void rope_row(const struct mp_exec *e, const struct mp_node *n, const float *x, float *y, uint32_t columns,
                     uint32_t r)
{
    const struct cpu_rope *rope = &e->ropes[n->attr.rope];
    const float *cs = rope->table + (uint64_t)e->step.pos[r] * rope->dims;
    uint32_t size = columns / n->attr.heads;
    for (uint32_t h = 0; h < n->attr.heads; h++)
        e->dev->k->rope(rope->style, x + h * size, cs, y + h * size, rope->dims, size);
}

static void embed_row(const struct mp_exec *e, const struct mp_node *n, float *y, uint32_t r)
{
    const struct cpu_weight *w = &e->weights[n->w[0]];
    cpu_weight_row(w->at, w->kind, w->k, (uint32_t)e->tok[r], y);
    if (n->attr.scale != 0)
        e->dev->k->scale(y, n->attr.scale, y, w->k);
}

static void put_row(const struct mp_exec *e, const struct mp_node *n, uint32_t r)
{
    const struct cpu_kv *kv = &e->kvs[n->attr.kv];
    uint32_t pos = (uint32_t)e->step.pos[r];
    const uint32_t *pages = e->step.pages[n->attr.kv] + (uint64_t)e->seq_of[r] * e->step.stride[n->attr.kv];
    cpu_kv_put(kv, pages[pos / kv->page_tokens], pos % kv->page_tokens, n->attr.layer, row_of(e, n->in[0], r),
               row_of(e, n->in[1], r));
}

static void node_row(const struct mp_exec *e, const struct mp_node *n, uint32_t r)
{
    const struct cpu_kernels *k = e->dev->k;
    const struct mp_attr *a = &n->attr;
    uint32_t from = n->op == MP_OP_GATHER ? e->step.out[r] : r;
    const float *x = n->in[0] != MP_NONE ? row_of(e, n->in[0], from) : NULL;
    const float *x2 = n->in[1] != MP_NONE ? row_of(e, n->in[1], r) : NULL;
    uint32_t columns = n->out != MP_NONE ? e->values[n->out].n : 0;
    float *y = n->out != MP_NONE ? e->values[n->out].at + (uint64_t)r * e->values[n->out].stride : NULL;
    switch (n->op) {
    case MP_OP_EMBED: embed_row(e, n, y, r); return;
    case MP_OP_GATHER: memcpy(y, x, columns * sizeof(float)); return;
    case MP_OP_RMS_NORM:
    case MP_OP_LAYER_NORM: norm_row(e, n, x, y, columns); return;
    case MP_OP_ADD: k->add(x, x2, y, columns); return;
    case MP_OP_MUL: k->mul(x, x2, y, columns); return;
    case MP_OP_SCALE: k->scale(x, a->scale, y, columns); return;
    case MP_OP_SOFTCAP: k->softcap(x, a->softcap, y, columns); return;
    case MP_OP_ACT: k->act(a->act, x, y, columns); return;
    case MP_OP_GLU: k->glu(a->act, x, x2, y, columns); return;
    case MP_OP_ROPE: rope_row(e, n, x, y, columns, r); return;
    case MP_OP_SLICE: memcpy(y, x + a->from, columns * sizeof(float)); return;
    case MP_OP_KV_PUT: put_row(e, n, r); return;
    }
}

/* --- stages ------------------------------------------------------------------------------------------------------- */

static bool take(_Atomic uint32_t *next, uint32_t n, uint32_t *item)
{
    *item = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
    return *item < n;
}

static void run_rows(struct mp_exec *e, const struct cpu_stage *s, uint32_t rows, _Atomic uint32_t *next)
{
    uint32_t chunk = rows / (e->dev->n_threads * 4) + 1, item;
    while (take(next, (rows + chunk - 1) / chunk, &item)) {
        uint32_t end = (item + 1) * chunk < rows ? (item + 1) * chunk : rows;
        for (uint32_t r = item * chunk; r < end; r++)
            for (uint32_t i = 0; i < s->count; i++)
                node_row(e, &e->nodes[s->first + i], r);
    }
}

struct input { /* of a linear stage: what tiles read */
    const float *x, *sums;
    size_t x_stride;
};

/* Norm and block sums of row r of a linear stage's input, into row `at` of x and sums. */
static void prepare_row(const struct mp_exec *e, const struct cpu_stage *s, uint32_t r, float *x, float *sums)
{
    const float *in = row_of(e, s->in, r);
    if (s->norm != MP_NONE) {
        norm_row(e, &e->nodes[s->norm], in, x, s->k);
        in = x;
    }
    if (s->sums)
        e->dev->k->block_sums(in, s->k, sums);
}

static void add_bias(float *y, size_t stride, uint32_t rows, const float *bias)
{
    for (uint32_t r = 0; bias && r < rows; r++)
        for (uint32_t l = 0; l < CPU_LANES; l++)
            y[r * stride + l] = y[r * stride + l] + bias[l];
}

static void run_tile(const struct mp_exec *e, uint32_t weight, uint32_t bias, uint32_t tile, const struct input *in,
                     uint32_t rows, float *y, size_t stride)
{
    const struct cpu_weight *w = &e->weights[weight];
    e->dev->k->tile[w->kind](w->at + tile * w->tile_bytes, w->k, in->x, in->x_stride, in->sums, e->max_blocks, rows, y,
                             stride);
    add_bias(y, stride, rows, bias == MP_NONE ? NULL : vec_of(e, bias) + tile * CPU_LANES);
}

/* Tiles first .. end-1 of the stage's layers, counted through them all, for rows row0 .. row0+rows-1. */
static void run_tiles(struct mp_exec *e, const struct cpu_stage *s, uint32_t first, uint32_t end,
                      const struct input *in, uint32_t row0, uint32_t rows, struct cpu_thread *t)
{
    for (uint32_t i = 0, base = 0; i < s->count && base < end; base += e->linears[s->first + i++].n_tiles) {
        const struct cpu_linear *lin = &e->linears[s->first + i];
        const struct cpu_value *out = &e->values[lin->out];
        uint32_t stop = end - base < lin->n_tiles ? end - base : lin->n_tiles;
        for (uint32_t tile = first > base ? first - base : 0; tile < stop; tile++) {
            uint64_t at = (uint64_t)row0 * out->stride + tile * CPU_LANES;
            float *y = out->at + at;
            if (lin->epilogue == CPU_GLU) {
                run_tile(e, lin->w, lin->bias, tile, in, rows, t->gate, CPU_LANES);
                run_tile(e, lin->w2, lin->bias2, tile, in, rows, t->up, CPU_LANES);
                for (uint32_t r = 0; r < rows; r++)
                    e->dev->k->glu(lin->act, t->gate + r * CPU_LANES, t->up + r * CPU_LANES, y + r * out->stride,
                                   CPU_LANES);
                continue;
            }
            run_tile(e, lin->w, lin->bias, tile, in, rows, y, out->stride);
            if (lin->epilogue == CPU_RESIDUAL)
                for (uint32_t r = 0; r < rows; r++)
                    e->dev->k->add(y + r * out->stride, e->values[lin->residual].at + at + r * out->stride,
                                   y + r * out->stride, CPU_LANES);
        }
    }
}

static void run_linear(struct mp_exec *e, const struct cpu_stage *s, uint32_t rows, _Atomic uint32_t next[2],
                       struct cpu_thread *t)
{
    const struct cpu_value *v = &e->values[s->in];
    struct input in = {.x = v->at, .x_stride = v->stride};
    bool few = rows <= CPU_FEW, prepares = s->norm != MP_NONE || s->sums;
    float *x = few ? t->x : e->prep, *sums = few ? t->sums : e->sums;
    uint32_t item;
    if (prepares && few) {
        for (uint32_t r = 0; r < rows; r++)
            prepare_row(e, s, r, x + r * e->max_k, sums + r * e->max_blocks);
    } else if (prepares) {
        while (take(&next[0], (rows + CPU_FEW - 1) / CPU_FEW, &item))
            for (uint32_t r = item * CPU_FEW; r < rows && r < (item + 1) * CPU_FEW; r++)
                prepare_row(e, s, r, x + (uint64_t)r * e->max_k, sums + (uint64_t)r * e->max_blocks);
        cpu_pool_barrier(e->dev->pool);
    }
    if (s->norm != MP_NONE)
        in.x = x, in.x_stride = e->max_k;
    in.sums = sums;
    /* Items: chunks of tiles by blocks of rows, a chunk's blocks one after the other while its weights are in the cache. */
    uint32_t blocks = (rows + CPU_ROWS_MAX - 1) / CPU_ROWS_MAX;
    uint32_t chunk = s->n_tiles * blocks / (e->dev->n_threads * 16) + 1;
    chunk = chunk < 64 ? chunk : 64;
    uint32_t n_items = (s->n_tiles + chunk - 1) / chunk * blocks;
    while (take(&next[1], n_items, &item)) {
        uint32_t first = item / blocks * chunk, row0 = item % blocks * CPU_ROWS_MAX;
        uint32_t end = first + chunk < s->n_tiles ? first + chunk : s->n_tiles;
        struct input part = {in.x + row0 * in.x_stride, in.sums + (uint64_t)row0 * e->max_blocks, in.x_stride};
        run_tiles(e, s, first, end, &part, row0, rows - row0 < CPU_ROWS_MAX ? rows - row0 : CPU_ROWS_MAX, t);
    }
}

static void run_thread(void *arg, uint32_t thread)
{
    struct mp_exec *e = arg;
    for (uint32_t i = 0; i < e->n_stages; i++) {
        const struct cpu_stage *s = &e->stages[i];
        uint32_t rows = s->rows == MP_R_OUT ? e->step.n_out : e->step.n_tok, item;
        if (!rows)
            continue;
        if (s->kind == CPU_ROWS) {
            run_rows(e, s, rows, &e->next[2 * i]);
        } else if (s->kind == CPU_LINEAR) {
            run_linear(e, s, rows, &e->next[2 * i], &e->threads[thread]);
        } else {
            const struct mp_node *n = &e->nodes[s->first];
            uint32_t n_items = cpu_attn_items(e, n);
            while (take(&e->next[2 * i], n_items, &item))
                cpu_attn_item(e, n, item, &e->threads[thread]);
        }
        if (i + 1 < e->n_stages)
            cpu_pool_barrier(e->dev->pool);
    }
}

void cpu_run(struct mp_exec *e, const struct mp_step *s)
{
    e->step = *s;
    for (uint32_t i = 0; i < s->n_seq; i++)
        for (uint32_t t = s->start[i]; t < s->start[i + 1]; t++) {
            e->seq_of[t] = i;
            e->tok[t] = s->tok[t] == MP_TOK_LAST ? e->slots[s->slot[i]].last : s->tok[t];
        }
    for (uint32_t i = 0; i < 2 * e->n_stages; i++)
        atomic_store_explicit(&e->next[i], 0, memory_order_relaxed);
    for (uint32_t i = 0; e->dev->poison && i < e->n_values; i++)
        if (e->values[i].at && !e->values[i].param)
            memset(e->values[i].at, 0xff, e->values[i].bytes);
    cpu_attn_plan(e);
    cpu_pool_run(e->dev->pool, run_thread, e);
    e->ran_tok = s->n_tok;
    e->ran_out = s->n_out;
    memset(&e->step, 0, sizeof(e->step)); /* its arrays are the caller's again */
}
