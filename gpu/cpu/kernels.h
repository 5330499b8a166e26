/* gpu/cpu/kernels.h — what the CPU device computes with: one table of functions per instruction set. Called by run.c on
 * rows and tiles; none knows of steps, threads or pages.
 *
 * Every table gives the same bits. The orders that all keep, T being 16 outputs (lanes) wide:
 *   tile    16 outputs of a linear layer, one lane each; K goes in blocks of 32, each block in 4 groups of 8:
 *             a_g = q[8g]*x[8g], then a_g = a_g + q[8g+i]*x[8g+i] for i = 1..7
 *             blk = ((a_0 + a_1) + a_2) + a_3
 *             total = total + d*blk            Q8_0, Q4_0 (q is the integer, exact in float)
 *             total = total + (d*blk + m*S)    Q4_1, S the block's sum of x
 *             total = total + blk              F32, F16, BF16 (q is the weight); a last block may be shorter
 *           so a row's result does not depend on how many rows are computed beside it.
 *   sum16   over n values: 16 partials p[l], starting at 0, p[i % 16] += v[i]; then p[l] += p[l+8], +4, +2, +1. Norms,
 *           block sums of x (S), and the sum of a softmax block.
 *   attn    positions in blocks of 32 and splits of CPU_SPLIT, both at absolute multiples: q.k as an F32 tile over the head
 *           size (lanes are positions), online softmax block by block, p*V in order of position; splits merged in order.
 * No FMA anywhere: multiplication then addition, so that plain C is fast too and equal. */
#ifndef MP_CPU_KERNELS_H
#define MP_CPU_KERNELS_H
#include "gpu/plan.h"

#include <stddef.h>
#include <stdint.h>

enum cpu_kind { CPU_F32, CPU_F16, CPU_BF16, CPU_Q8_0, CPU_Q4_0, CPU_Q4_1, CPU_N_KINDS };

enum {
    CPU_LANES = 16,
    CPU_BLOCK = 32,  /* columns of a quantised block; positions of an attention block */
    CPU_SPLIT = 256, /* positions of an attention split */
};

struct
    cpu_span { /* of one attention block for one query row: positions first .. end-1 of 0..32 are seen; first < end */
    uint8_t first, end;
};

struct cpu_softmax { /* running state of one query row; its o lies elsewhere */
    float max, sum;
};

struct cpu_kernels {
    const char *name;
    /* y[r*y_stride + 0..15] = x[r] . 16 outputs at w (cpu layout), for r < rows. sums: S per row and block, for Q4_1. */
    void (*tile[CPU_N_KINDS])(const void *w, uint32_t k, const float *x, size_t x_stride, const float *sums,
                              size_t sums_stride, uint32_t rows, float *y, size_t y_stride);
    /* sums[b] = sum16 of x's block b, the last one shorter where 32 does not divide k. */
    void (*block_sums)(const float *x, uint32_t k, float *sums);
    void (*rms_norm)(const float *x, const float *w, float *y, uint32_t n, float eps); /* w NULL: none */
    void (*layer_norm)(const float *x, const float *w, const float *bias, float *y, uint32_t n, float eps);
    void (*add)(const float *a, const float *b, float *y, uint32_t n);
    void (*mul)(const float *a, const float *b, float *y, uint32_t n);
    void (*scale)(const float *x, float by, float *y, uint32_t n);
    void (*softcap)(const float *x, float cap, float *y, uint32_t n); /* cap * tanh(x / cap) */
    void (*act)(enum mp_act act, const float *x, float *y, uint32_t n);
    void (*glu)(enum mp_act act, const float *gate, const float *up, float *y, uint32_t n);
    /* One head: the first dims of x rotated, the rest copied. cs: cos[dims/2], sin[dims/2]. y may be x. */
    void (*rope)(enum mp_rope_style style, const float *x, const float *cs, float *y, uint32_t dims, uint32_t n);
    /* One block for one row: scores s[32] (raw q.k, overwritten) -> state and o[dim] (dim a multiple of 16) are updated.
     * v[0], v[1]: the block's halves, 16 positions of dim floats; read within the span only. */
    void (*attn_block)(float *s, struct cpu_span span, float scale, float softcap, const float *const v[2],
                       uint32_t dim, struct cpu_softmax *state, float *o);
    /* (state, o) merged into (into, into_o). A fresh state is {-INFINITY, 0} with o all 0. */
    void (*attn_merge)(struct cpu_softmax *into, float *into_o, const struct cpu_softmax *state, const float *o,
                       uint32_t dim);
};

extern const struct cpu_kernels cpu_kernels_plain;
extern const struct cpu_kernels cpu_kernels_avx2;   /* needs AVX2 and F16C */
extern const struct cpu_kernels cpu_kernels_avx512; /* needs AVX-512 F, BW, DQ, VL and the above */

#endif
