/* gpu/plan.h — what a model computes, as flat data: SSA values, nodes in order, typed attributes, no pointers between them.
 * Made by core/model (from lua/moonpool/arch), checked by gpu/lower, compiled by a device's build(). Printable and hashable.
 * All values are logically f32 [rows][n]; rows are symbolic until a step comes. */
#ifndef MP_PLAN_H
#define MP_PLAN_H
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define MP_NONE UINT32_MAX /* no value, no weight */

enum mp_rows { MP_R_TOK, MP_R_OUT, MP_R_SEQ }; /* leading dimension: step.n_tok, step.n_out, step.n_seq */

/* op, name, number of value inputs (least, most), weights (least, most), has an output value */
#define MP_OPS(X)                                                                                                     \
    X(PARAM, "param", 0, 0, 0, 0, 1)           /* fed by the caller: op table, tests                               */ \
    X(EMBED, "embed", 0, 0, 1, 1, 1)           /* W -> TOK; scale                                                  */ \
    X(GATHER, "gather", 1, 1, 0, 0, 1)         /* x TOK -> OUT by step.out                                         */ \
    X(LINEAR, "linear", 1, 1, 1, 2, 1)         /* x, W, bias? -> y                                                 */ \
    X(RMS_NORM, "rms_norm", 1, 1, 0, 1, 1)     /* group (columns per norm; 0: all n), eps, W?                      */ \
    X(LAYER_NORM, "layer_norm", 1, 1, 1, 2, 1) /* eps, W, bias?                                                    */ \
    X(ADD, "add", 2, 2, 0, 0, 1)                                                                                      \
    X(MUL, "mul", 2, 2, 0, 0, 1)                                                                                      \
    X(SCALE, "scale", 1, 1, 0, 0, 1)     /* scale                                                                  */ \
    X(SOFTCAP, "softcap", 1, 1, 0, 0, 1) /* softcap: c*tanh(x/c)                                                   */ \
    X(ACT, "act", 1, 1, 0, 0, 1)         /* act                                                                    */ \
    X(GLU, "glu", 2, 2, 0, 0, 1)         /* act(in0) * in1                                                         */ \
    X(ROPE, "rope", 1, 1, 0, 0, 1)       /* rope (a table of the plan), heads                                      */ \
    X(SLICE, "slice", 1, 1, 0, 0, 1)     /* columns from..to of x                                                  */ \
    X(KV_PUT, "kv_put", 1, 2, 0, 0, 0)   /* k, v? -> pages of kv group, layer; never a value                       */ \
    X(ATTN, "attn", 1, 1, 0, 0, 1)       /* q -> o; kv group, layer, heads, scale, softcap, window; causal         */ \
    X(OUTPUT, "output", 1, 1, 0, 0, 0)   /* output: "logits", "embedding", "hidden.N"                              */

enum mp_op {
#define X(op, name, in0, in1, w0, w1, out) MP_OP_##op,
    MP_OPS(X)
#undef X
        MP_N_OPS
};

#define MP_ACTS(X)            \
    X(SILU, "silu")           \
    X(GELU_TANH, "gelu_tanh") \
    X(GELU_ERF, "gelu_erf")   \
    X(RELU, "relu")           \
    X(TANH, "tanh")           \
    X(SIGMOID, "sigmoid")
enum mp_act {
#define X(act, name) MP_ACT_##act,
    MP_ACTS(X)
#undef X
        MP_N_ACTS
};

enum mp_rope_style { MP_ROPE_NORM, MP_ROPE_NEOX };             /* pairs (2i, 2i+1) | pairs (i, i + dims/2) */
enum mp_role { MP_W_MATMUL, MP_W_EMBED, MP_W_BOTH, MP_W_VEC }; /* BOTH: tied embedding and head, one copy */

struct mp_val {
    uint8_t rows; /* enum mp_rows */
    uint32_t n;   /* columns */
};

struct mp_attr {        /* one per node; fields an op does not name are 0 */
    float eps;          /* RMS_NORM, LAYER_NORM: >= 0 */
    float scale;        /* EMBED: 0 means 1. SCALE: any. ATTN: > 0, of q.k before softcap */
    float softcap;      /* SOFTCAP: > 0. ATTN: 0 none */
    uint32_t group;     /* RMS_NORM: columns per norm */
    uint32_t heads;     /* ROPE, ATTN: heads in the row; head size = n / heads */
    uint32_t from, to;  /* SLICE */
    uint32_t window;    /* ATTN: 0 all, else positions p-j < window are seen */
    uint32_t rope;      /* ROPE: index into plan.ropes */
    uint16_t kv, layer; /* KV_PUT, ATTN: index into plan.kvs, layer of that group */
    uint8_t act;        /* ACT, GLU */
    char output[32];    /* OUTPUT */
};

struct mp_node {
    uint8_t op;
    uint16_t layer;      /* block number for printing; 0xffff outside blocks */
    uint32_t in[2], out; /* value ids, MP_NONE for none */
    uint32_t w[2];       /* weight ids: W, bias */
    struct mp_attr attr;
};

struct mp_kvg {             /* a group of layers that share page tables */
    uint16_t layers, heads; /* heads: kv heads */
    uint16_t dim_k, dim_v;  /* per head */
    uint32_t window;        /* 0 all; else pages wholly behind it may be freed */
};

struct mp_wref {
    char name[64];  /* the tensor's, NUL-terminated: "blk.0.attn_q.weight" */
    uint8_t role;   /* enum mp_role */
    uint32_t ne[2]; /* ne[0] columns (input features), ne[1] rows (output features); VEC: ne[1] = 1 */
};

struct mp_rope {       /* a rope table: frequencies with base, scaling and factors baked in */
    uint8_t style;     /* enum mp_rope_style */
    uint32_t dims;     /* rotated dimensions per head, even; the rest pass through */
    float attn_factor; /* cos and sin are multiplied by it; 1 without YaRN */
    float *freq;       /* [dims/2] radians per position */
};

struct mp_plan { /* owned arrays; made with the functions below */
    uint32_t n_vals, n_nodes, n_kvs, n_weights, n_ropes;
    struct mp_val *vals;
    struct mp_node *nodes;
    struct mp_kvg *kvs;
    struct mp_wref *weights;
    struct mp_rope *ropes;
    uint32_t n_vocab;   /* columns of "logits"; 0 when there is none */
    uint32_t n_context; /* the most positions that it is built for */
};

enum { MP_MAX_KVS = 4, MP_MAX_NODES = 65536, MP_MAX_HEAD_DIM = 512 };

struct mp_plan *mp_plan_new(void);
void mp_plan_free(struct mp_plan *p); /* NULL is fine */
/* Each appends a copy and returns its id. */
uint32_t mp_plan_val(struct mp_plan *p, enum mp_rows rows, uint32_t n);
uint32_t mp_plan_weight(struct mp_plan *p, const char *name, enum mp_role role, uint32_t columns, uint32_t rows);
uint32_t mp_plan_kv(struct mp_plan *p, const struct mp_kvg *g);
uint32_t mp_plan_rope(struct mp_plan *p, enum mp_rope_style style, uint32_t dims, float attn_factor, const float *freq);
void mp_plan_node(struct mp_plan *p, const struct mp_node *n);

/* Every id in range, SSA order, shapes and rows agree, attributes in range. What a device's build() may then rely on. */
int mp_plan_check(const struct mp_plan *p, struct mp_err *err);
void mp_plan_print(const struct mp_plan *p, struct mp_buf *out); /* for `moonpool inspect --plan`; a line per node */
uint64_t mp_plan_flops(const struct mp_plan *p);                 /* per token, without attention over the context */

const char *mp_op_name(uint32_t op);
const char *mp_act_name(uint32_t act);

#endif
