/* gpu/cpu/cpu.h — the inside of the CPU device: its objects and what its files offer each other. Nothing outside gpu/cpu
 * includes it.
 *
 *   device.c   the vtable: open, memory, tickets            layout.c   weights and KV pages in the device's own layout
 *   program.c  plan -> stages (fusion), buffers             run.c      a step through the stages, on all threads
 *   attn.c     attention over pages                         pool.c     threads */
#ifndef MP_CPU_H
#define MP_CPU_H
#include "gpu/cpu/kernels.h"
#include "gpu/device.h"
#include "gpu/lower/sample.h"
#include "gpu/lower/step.h"

#include <stdatomic.h>

/* --- pool.c: threads that run one function together; the caller is thread 0 -------------------------------------- */

struct cpu_pool;

int cpu_pool_new(struct cpu_pool **out, uint32_t n_threads, struct mp_err *err);
void cpu_pool_free(struct cpu_pool *p); /* NULL is fine */
uint32_t cpu_pool_size(const struct cpu_pool *p);
/* Runs fn(arg, thread) on every thread, 0 .. size-1; returns when all have. From the owning thread only. */
void cpu_pool_run(struct cpu_pool *p, void (*fn)(void *arg, uint32_t thread), void *arg);
/* Inside fn, by every thread: none goes on before all have come. */
void cpu_pool_barrier(struct cpu_pool *p);
uint32_t cpu_online_cores(void); /* physical cores this process may run on, at least 1 */

/* --- the device's objects ----------------------------------------------------------------------------------------- */

enum { CPU_MAX_THREADS = 64, CPU_DEV_MAGIC = 0x63707564, CPU_MEM_MAGIC = 0x6370756d, CPU_EXEC_MAGIC = 0x63707565 };

struct cpu_result { /* of a ticket that was not waited for yet */
    mp_ticket ticket;
    uint64_t busy_ns;
    struct mp_got *got; /* owned */
    uint32_t n_got;
};

struct mp_dev {
    uint32_t magic;
    const struct cpu_kernels *k;
    struct cpu_pool *pool;
    uint32_t n_threads, page_tokens;
    bool poison;          /* value buffers are filled with NaN before each forward */
    uint64_t used;        /* bytes: committed granules, and what execs hold beside them */
    mp_ticket issued;     /* the last ticket given out */
    struct mp_got *shown; /* what the last wait handed out */
    struct cpu_result *results;
    uint32_t n_results, cap_results;
};

struct mp_mem {
    uint32_t magic;
    struct mp_dev *dev;
    uint8_t *base;
    uint64_t bytes;      /* reserved, a multiple of CPU_GRANULE */
    uint64_t *committed; /* a bit per granule */
};

enum { CPU_GRANULE = 4096 };

bool cpu_mem_committed(const struct mp_mem *m, uint64_t off, uint64_t len);

/* --- layout.c ----------------------------------------------------------------------------------------------------- */

/* Weights (but VEC, which are plain floats): tiles of 16 rows, a tile's columns in order, so that one pass over memory
 * feeds 16 lanes. Per 32 columns: Q4 4 groups of [16 lanes] of 8 nibbles, then 16 f16 d (then 16 f16 m); Q8_0 32 columns of
 * [16 lanes] of a byte, then 16 f16 d; per column F32, F16, BF16 [16 lanes]. Absent rows of the last tile are zero. */
int cpu_kind_of(uint32_t type); /* enum cpu_kind, or -1 */
uint64_t cpu_tile_bytes(enum cpu_kind kind, uint32_t k);
bool cpu_weight_bytes(const struct mp_wref *w, uint32_t type, uint64_t *bytes);
void cpu_weight_put(void *dst, const struct mp_wref *w, uint32_t type, uint64_t row0, uint64_t rows, const void *src);
/* One row of a tiled weight as floats. */
void cpu_weight_row(const void *w, enum cpu_kind kind, uint32_t k, uint32_t row, float *y);

/* A KV page: per layer, per head: k as tiles of 16 positions [page_tokens/16][dim_k][16], then v [page_tokens][dim_v padded
 * to 16], floats. */
struct cpu_kv {
    uint32_t layers, heads, dim_k, dim_v, dim_v_pad, page_tokens;
    uint64_t head_floats; /* one head of one layer */
    uint64_t page_bytes;  /* a multiple of CPU_GRANULE */
    uint8_t *base;        /* of page 0; NULL in need() */
    const struct mp_mem *mem;
};

void cpu_kv_init(struct cpu_kv *kv, const struct mp_kvg *g, uint32_t page_tokens);
float *cpu_kv_head(const struct cpu_kv *kv, uint32_t page, uint32_t layer, uint32_t head);
void cpu_kv_put(const struct cpu_kv *kv, uint32_t page, uint32_t offset, uint32_t layer, const float *k,
                const float *v);

/* --- program.c ---------------------------------------------------------------------------------------------------- */

enum cpu_stage_kind {
    CPU_ROWS,   /* nodes that look at one row at a time, one after the other */
    CPU_LINEAR, /* linear layers of one input, norm before and epilogue behind included */
    CPU_ATTN,
};

struct cpu_weight {
    const uint8_t *at; /* NULL in need() */
    enum cpu_kind kind;
    uint32_t k, n; /* columns, rows */
    uint64_t tile_bytes;
};

enum cpu_epilogue { CPU_STORE, CPU_RESIDUAL, CPU_GLU };

struct cpu_linear {
    uint32_t w, bias;   /* plan's ids; MP_NONE */
    uint32_t w2, bias2; /* CPU_GLU: the second operand's */
    uint8_t epilogue, act;
    uint32_t residual; /* value */
    uint32_t out;      /* value */
    uint32_t n_tiles;
};

struct cpu_stage {
    uint8_t kind, rows;    /* enum cpu_stage_kind, enum mp_rows of its work */
    uint32_t first, count; /* ROWS: in nodes[]; LINEAR: in linears[]; ATTN: one node */
    uint32_t in, norm;     /* LINEAR: value; index of the norm node before it in nodes[], or MP_NONE */
    uint32_t k, n_tiles;   /* LINEAR: columns of the input; tiles of all its layers */
    bool sums;             /* LINEAR: some weight is Q4_1 */
};

struct cpu_value {
    uint8_t rows;
    bool param;          /* fed by the caller */
    uint32_t n, stride;  /* columns; floats from row to row, a multiple of 16 */
    uint64_t bytes, off; /* of its buffer; place in scratch, UINT64_MAX where it needs none */
    float *at;           /* NULL: lives in no buffer */
};

struct cpu_output {
    char name[32];
    uint32_t val;
};

struct cpu_rope {
    uint8_t style;
    uint32_t dims;
    float *table; /* [n_positions][dims]: cos, then sin */
};

struct cpu_thread {        /* a thread's own buffers */
    float *x, *sums;       /* [CPU_FEW][max k] normed rows; [CPU_FEW][max blocks] */
    float *gate, *up;      /* [CPU_ROWS_MAX][16] */
    float *q, *s, *o, *oo; /* attention: [rows][dim_k], [rows][32], [rows][dim_v_pad] twice */
};

enum {
    CPU_FEW = 8,        /* rows up to which each thread norms them itself rather than wait for another */
    CPU_ROWS_MAX = 64,  /* rows of a tile call */
    CPU_TILE_TOK = 8,   /* attention: tokens of one sequence in a unit of work */
    CPU_TILE_HEADS = 8, /* and query heads of one kv head */
    CPU_ATTN_ROWS = CPU_TILE_TOK * CPU_TILE_HEADS,
};

struct cpu_tile_tok { /* attention: up to CPU_TILE_TOK tokens of one sequence */
    uint32_t seq, tok, n;
};

struct mp_exec {
    uint32_t magic;
    struct mp_dev *dev;
    struct mp_limits lim;
    struct mp_step_rules rules;
    /* the program */
    struct cpu_stage *stages;
    struct mp_node *nodes; /* of ROWS and ATTN stages, and norms before linear layers */
    struct cpu_linear *linears;
    struct cpu_value *values;
    struct cpu_weight *weights;
    struct cpu_rope *ropes;
    struct cpu_output *outputs;
    struct cpu_kv kvs[MP_MAX_KVS];
    uint32_t n_stages, n_nodes, n_linears, n_values, n_weights, n_ropes, n_outputs, n_kvs;
    uint32_t n_vocab, logits; /* logits: value, or MP_NONE */
    /* at most over linear layers and kv groups, padded to 16: input columns, their blocks, head sizes */
    uint32_t max_k, max_blocks, max_dim_k, max_dim_v;
    /* scratch memory, by offset until build() */
    uint64_t scratch_bytes, off_prep, off_sums, off_parts, off_threads, off_rope, thread_bytes, part_floats;
    float *prep, *sums,
        *parts; /* normed rows [max_tok][max_k]; their block sums; partial results of attention splits */
    struct cpu_thread threads[CPU_MAX_THREADS];
    /* the step in hand; arrays of lim.max_tok or lim.max_seq, owned */
    struct mp_step step;
    int32_t *tok;
    uint32_t *seq_of;
    struct cpu_tile_tok *tiles;
    uint32_t n_tiles;
    uint32_t ran_tok, ran_out; /* rows of the last forward: what read() and sample() may ask for */
    _Atomic uint32_t *next;    /* [2 * n_stages] work items handed out: any thread */
    _Atomic uint32_t *splits;  /* [4 * n_threads] finished splits of an attention unit: any thread */
    struct mp_slot *slots;     /* [lim.max_slot] */
    float *sample_scratch;     /* [n_threads][2 * n_vocab] */
    uint64_t own_bytes;        /* of those arrays */
};

/* Stages, buffers and their sizes; no memory is touched. 0, or why the plan or the limits cannot be. */
int cpu_program_make(struct mp_exec *e, const struct mp_plan *plan, const struct mp_limits *lim, struct mp_err *err);
/* Gives buffers their places in scratch and fills the rope tables. types: per weight. */
int cpu_program_place(struct mp_exec *e, const struct mp_plan *plan, struct mp_mem *w, const uint64_t *w_off,
                      const uint32_t *w_type, struct mp_mem *scratch, struct mp_mem *const kv[MP_MAX_KVS],
                      struct mp_err *err);
void cpu_program_free(struct mp_exec *e);

/* --- run.c, attn.c ------------------------------------------------------------------------------------------------ */

int cpu_step_check(struct mp_exec *e, const struct mp_step *s, struct mp_err *err);
void cpu_run(struct mp_exec *e, const struct mp_step *s); /* a step that was checked */
void cpu_attn_plan(struct mp_exec *e);                    /* before the threads start: the step's token tiles */
uint32_t cpu_attn_items(const struct mp_exec *e, const struct mp_node *n);
void cpu_attn_item(struct mp_exec *e, const struct mp_node *n, uint32_t item, struct cpu_thread *t);

#endif
