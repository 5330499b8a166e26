/* gpu/cpu/kernel_plain.c — the kernels in plain C: the reference that the vector files must equal bit for bit, and what
 * runs where there is no AVX2. Orders and layouts: kernels.h and layout.c. Loops over 16 lanes are written so that the
 * compiler can vectorise them; nothing else is done for speed. */
#include "gpu/cpu/kernels.h"

#include "gpu/blocks.h"
#include "gpu/lower/fmath.h"

#include <math.h>
#include <string.h>

#define LANES(l) for (int l = 0; l < CPU_LANES; l++)

static void halves(const uint8_t *p, float y[CPU_LANES])
{
    uint16_t h[CPU_LANES];
    memcpy(h, p, sizeof(h));
    LANES(l) y[l] = mp_f16_to_f32(h[l]);
}

/* A block of up to 32 columns as floats: q of kernels.h, and d and m where the type has them. */
struct block {
    float q[32][CPU_LANES], d[CPU_LANES], m[CPU_LANES];
};

static void read_nibbles(const uint8_t *p, float q[32][CPU_LANES], uint32_t flip)
{
    for (int g = 0; g < 4; g++) {
        uint32_t eight[CPU_LANES]; /* columns, lowest bits first */
        memcpy(eight, p + g * 64, sizeof(eight));
        for (int i = 0; i < 8; i++)
            LANES(l) q[g * 8 + i][l] = (float)(int32_t)(((eight[l] >> (4 * i) & 15) ^ flip) - flip);
    }
}

/* Block b of a tile of this kind; returns its number of columns. */
static uint32_t read_block(enum cpu_kind kind, const uint8_t *tile, uint32_t k, uint32_t b, struct block *out)
{
    uint32_t columns = k - b * 32 < 32 ? k - b * 32 : 32;
    switch (kind) {
    case CPU_F32: memcpy(out->q, tile + (size_t)b * 32 * 64, columns * 64); break;
    case CPU_F16:
        for (uint32_t i = 0; i < columns; i++)
            halves(tile + ((size_t)b * 32 + i) * 32, out->q[i]);
        break;
    case CPU_BF16:
        for (uint32_t i = 0; i < columns; i++) {
            uint16_t h[CPU_LANES];
            memcpy(h, tile + ((size_t)b * 32 + i) * 32, sizeof(h));
            LANES(l) out->q[i][l] = mp_f_from((uint32_t)h[l] << 16);
        }
        break;
    case CPU_Q8_0:
        tile += (size_t)b * 544;
        for (int i = 0; i < 32; i++)
            LANES(l) out->q[i][l] = (float)(int8_t)tile[i * 16 + l];
        halves(tile + 512, out->d);
        break;
    case CPU_Q4_0: /* two's complement */
        tile += (size_t)b * 288;
        read_nibbles(tile, out->q, 8);
        halves(tile + 256, out->d);
        break;
    default:
        tile += (size_t)b * 320;
        read_nibbles(tile, out->q, 0);
        halves(tile + 256, out->d);
        halves(tile + 288, out->m);
    }
    return columns;
}

/* Four lanes at a time, so that the compiler keeps their sums in a register. */
static inline void group_dot(const float (*q)[CPU_LANES], const float *x, uint32_t columns, float acc[CPU_LANES])
{
    for (uint32_t four = 0; four < CPU_LANES; four += 4) {
        float a[4];
        for (uint32_t l = 0; l < 4; l++)
            a[l] = q[0][four + l] * x[0];
        for (uint32_t i = 1; i < columns; i++)
            for (uint32_t l = 0; l < 4; l++)
                a[l] = a[l] + q[i][four + l] * x[i];
        for (uint32_t l = 0; l < 4; l++)
            acc[four + l] = a[l];
    }
}

static inline void block_dot(const float (*q)[CPU_LANES], const float *x, uint32_t columns, float blk[CPU_LANES])
{
    for (uint32_t g = 0; g < columns; g += 8) {
        float acc[CPU_LANES];
        if (columns - g >= 8)
            group_dot(q + g, x + g, 8, acc);
        else
            group_dot(q + g, x + g, columns - g, acc);
        LANES(l) blk[l] = g ? blk[l] + acc[l] : acc[l];
    }
}

static inline void tile(enum cpu_kind kind, const void *w, uint32_t k, const float *x, size_t x_stride,
                        const float *sums, size_t sums_stride, uint32_t rows, float *y, size_t y_stride)
{
    struct block in;
    for (uint32_t r = 0; r < rows; r++)
        memset(y + r * y_stride, 0, CPU_LANES * sizeof(float));
    for (uint32_t b = 0; b * 32 < k; b++) {
        uint32_t columns = read_block(kind, w, k, b, &in);
        for (uint32_t r = 0; r < rows; r++) {
            float *total = y + r * y_stride, blk[CPU_LANES] = {0};
            block_dot((const float(*)[CPU_LANES])in.q, x + r * x_stride + b * 32, columns, blk);
            if (kind == CPU_Q4_1)
                LANES(l) total[l] = total[l] + (in.d[l] * blk[l] + in.m[l] * sums[r * sums_stride + b]);
            else if (kind == CPU_Q4_0 || kind == CPU_Q8_0)
                LANES(l) total[l] = total[l] + in.d[l] * blk[l];
            else
                LANES(l) total[l] = total[l] + blk[l];
        }
    }
}

#define TILE(name, kind)                                                                            \
    static void name(const void *w, uint32_t k, const float *x, size_t x_stride, const float *sums, \
                     size_t sums_stride, uint32_t rows, float *y, size_t y_stride)                  \
    {                                                                                               \
        tile(kind, w, k, x, x_stride, sums, sums_stride, rows, y, y_stride);                        \
    }
TILE(tile_f32, CPU_F32)
TILE(tile_f16, CPU_F16)
TILE(tile_bf16, CPU_BF16)
TILE(tile_q8_0, CPU_Q8_0)
TILE(tile_q4_0, CPU_Q4_0)
TILE(tile_q4_1, CPU_Q4_1)

static float tree16(float p[CPU_LANES])
{
    for (int half = 8; half >= 1; half /= 2)
        for (int l = 0; l < half; l++)
            p[l] = p[l] + p[l + half];
    return p[0];
}

static float sum16(const float *v, uint32_t n)
{
    float p[CPU_LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        p[i % CPU_LANES] = p[i % CPU_LANES] + v[i];
    return tree16(p);
}

static void block_sums(const float *x, uint32_t k, float *sums)
{
    for (uint32_t b = 0; b * 32 < k; b++)
        sums[b] = sum16(x + b * 32, k - b * 32 < 32 ? k - b * 32 : 32);
}

static void rms_norm(const float *x, const float *w, float *y, uint32_t n, float eps)
{
    float p[CPU_LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        p[i % CPU_LANES] = p[i % CPU_LANES] + x[i] * x[i];
    float inv = 1.0f / sqrtf(tree16(p) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = w ? (x[i] * inv) * w[i] : x[i] * inv;
}

static void layer_norm(const float *x, const float *w, const float *bias, float *y, uint32_t n, float eps)
{
    float mean = sum16(x, n) / (float)n;
    float p[CPU_LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        p[i % CPU_LANES] = p[i % CPU_LANES] + (x[i] - mean) * (x[i] - mean);
    float inv = 1.0f / sqrtf(tree16(p) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) {
        float v = ((x[i] - mean) * inv) * w[i];
        y[i] = bias ? v + bias[i] : v;
    }
}

static void add(const float *a, const float *b, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void mul(const float *a, const float *b, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

static void scale(const float *x, float by, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * by;
}

static void softcap(const float *x, float cap, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = cap * mp_tanhf(x[i] / cap);
}

static float act1(enum mp_act act, float x)
{
    switch (act) {
    case MP_ACT_SILU: return x / (1.0f + mp_expf(-x));
    case MP_ACT_GELU_TANH: return 0.5f * x * (1.0f + mp_tanhf(0.797884561f * (x + 0.044715f * (x * x * x))));
    case MP_ACT_GELU_ERF: return 0.5f * x * (1.0f + mp_erff(x * 0.707106781f));
    case MP_ACT_RELU: return x > 0 ? x : 0;
    case MP_ACT_TANH: return mp_tanhf(x);
    default: return 1.0f / (1.0f + mp_expf(-x)); /* MP_ACT_SIGMOID */
    }
}

static void act(enum mp_act act, const float *x, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = act1(act, x[i]);
}

static void glu(enum mp_act act, const float *gate, const float *up, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = act1(act, gate[i]) * up[i];
}

static void rope(enum mp_rope_style style, const float *x, const float *cs, float *y, uint32_t dims, uint32_t n)
{
    uint32_t half = dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        uint32_t a = style == MP_ROPE_NEOX ? i : 2 * i, b = style == MP_ROPE_NEOX ? i + half : 2 * i + 1;
        float c = cs[i], s = cs[half + i], xa = x[a], xb = x[b];
        y[a] = xa * c - xb * s;
        y[b] = xa * s + xb * c;
    }
    if (y != x)
        memcpy(y + dims, x + dims, (n - dims) * sizeof(float));
}

static void attn_block(float *s, struct cpu_span span, float scale, float softcap, const float *const v[2],
                       uint32_t dim, struct cpu_softmax *state, float *o)
{
    float max = state->max;
    for (int j = 0; j < 32; j++) {
        float t = s[j] * scale;
        if (softcap > 0)
            t = softcap * mp_tanhf(t / softcap);
        s[j] = j >= span.first && j < span.end ? t : -INFINITY;
        max = s[j] > max ? s[j] : max;
    }
    float shrink = mp_expf(state->max - max), p[CPU_LANES] = {0};
    for (int j = 0; j < 32; j++) {
        s[j] = mp_expf(s[j] - max);
        p[j % CPU_LANES] = p[j % CPU_LANES] + s[j];
    }
    state->sum = state->sum * shrink + tree16(p);
    state->max = max;
    for (uint32_t i = 0; i < dim; i++)
        o[i] = o[i] * shrink;
    for (int j = span.first; j < span.end; j++)
        for (uint32_t i = 0; i < dim; i++)
            o[i] = o[i] + s[j] * v[j / 16][(size_t)(j % 16) * dim + i];
}

static void attn_merge(struct cpu_softmax *into, float *into_o, const struct cpu_softmax *state, const float *o,
                       uint32_t dim)
{
    float max = state->max > into->max ? state->max : into->max;
    float a = mp_expf(into->max - max), b = mp_expf(state->max - max);
    into->sum = into->sum * a + state->sum * b;
    into->max = max;
    for (uint32_t i = 0; i < dim; i++)
        into_o[i] = into_o[i] * a + o[i] * b;
}

const struct cpu_kernels cpu_kernels_plain = {
    .name = "plain",
    .tile = {tile_f32, tile_f16, tile_bf16, tile_q8_0, tile_q4_0, tile_q4_1},
    .block_sums = block_sums,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .mul = mul,
    .scale = scale,
    .softcap = softcap,
    .act = act,
    .glu = glu,
    .rope = rope,
    .attn_block = attn_block,
    .attn_merge = attn_merge,
};
