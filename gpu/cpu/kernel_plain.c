/* gpu/cpu/kernel_plain.c — the kernels in plain C: the reference that the vector files must equal bit for bit, and what
 * runs where there is no AVX2. Orders and layouts: kernels.h and layout.c. Loops over 16 lanes are written so that the
 * compiler can vectorise them; nothing else is done for speed. */
#include "gpu/cpu/kernels.h"

#include "gpu/blocks.h"
#include "gpu/lower/fmath.h"

#include <math.h>
#include <string.h>

#define LANES(l) for (int l = 0; l < CPU_LANES; l++)

static uint16_t u16_at(const uint8_t *p, int i)
{
    uint16_t v;
    memcpy(&v, p + 2 * i, 2);
    return v;
}

/* A weight of group g's i-th column and lane l, as a float. */
static float q8_0(const uint8_t *block, int g, int i, int l)
{
    return (float)(int8_t)block[(g * 8 + i) * 16 + l];
}

static float q4_0(const uint8_t *block, int g, int i, int l)
{
    int nibble = block[g * 64 + l * 4 + i / 2] >> (i % 2 * 4) & 15;
    return (float)((nibble ^ 8) - 8); /* stored as two's complement */
}

static float q4_1(const uint8_t *block, int g, int i, int l)
{
    return (float)(block[g * 64 + l * 4 + i / 2] >> (i % 2 * 4) & 15);
}

/* blk of one block for up to 32 columns; WEIGHT(g, i, l) gives the weight. */
#define BLOCK_DOT(blk, x, columns, WEIGHT)                               \
    for (int g = 0; g * 8 < (columns); g++) {                            \
        float acc[CPU_LANES];                                            \
        LANES(l) acc[l] = WEIGHT(g, 0, l) * (x)[g * 8];                  \
        for (int i = 1; i < 8 && g * 8 + i < (columns); i++)             \
            LANES(l) acc[l] = acc[l] + WEIGHT(g, i, l) * (x)[g * 8 + i]; \
        LANES(l) blk[l] = g ? blk[l] + acc[l] : acc[l];                  \
    }

static void tile_q8_0(const void *w, uint32_t k, const float *x, size_t x_stride, const float *sums, size_t sums_stride,
                      uint32_t rows, float *y, size_t y_stride)
{
    (void)sums, (void)sums_stride;
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *block = w;
        float total[CPU_LANES] = {0};
        for (uint32_t b = 0; b < k / 32; b++, block += 544) {
            float blk[CPU_LANES] = {0};
#define WEIGHT(g, i, l) q8_0(block, g, i, l)
            BLOCK_DOT(blk, x + r * x_stride + b * 32, 32, WEIGHT)
#undef WEIGHT
            LANES(l) total[l] = total[l] + mp_f16_to_f32(u16_at(block + 512, l)) * blk[l];
        }
        memcpy(y + r * y_stride, total, sizeof(total));
    }
}

static void tile_q4_0(const void *w, uint32_t k, const float *x, size_t x_stride, const float *sums, size_t sums_stride,
                      uint32_t rows, float *y, size_t y_stride)
{
    (void)sums, (void)sums_stride;
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *block = w;
        float total[CPU_LANES] = {0};
        for (uint32_t b = 0; b < k / 32; b++, block += 288) {
            float blk[CPU_LANES] = {0};
#define WEIGHT(g, i, l) q4_0(block, g, i, l)
            BLOCK_DOT(blk, x + r * x_stride + b * 32, 32, WEIGHT)
#undef WEIGHT
            LANES(l) total[l] = total[l] + mp_f16_to_f32(u16_at(block + 256, l)) * blk[l];
        }
        memcpy(y + r * y_stride, total, sizeof(total));
    }
}

static void tile_q4_1(const void *w, uint32_t k, const float *x, size_t x_stride, const float *sums, size_t sums_stride,
                      uint32_t rows, float *y, size_t y_stride)
{
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *block = w;
        float total[CPU_LANES] = {0};
        for (uint32_t b = 0; b < k / 32; b++, block += 320) {
            float blk[CPU_LANES] = {0}, sum = sums[r * sums_stride + b];
#define WEIGHT(g, i, l) q4_1(block, g, i, l)
            BLOCK_DOT(blk, x + r * x_stride + b * 32, 32, WEIGHT)
#undef WEIGHT
            LANES(l)
            {
                float d = mp_f16_to_f32(u16_at(block + 256, l)), m = mp_f16_to_f32(u16_at(block + 288, l));
                total[l] = total[l] + (d * blk[l] + m * sum);
            }
        }
        memcpy(y + r * y_stride, total, sizeof(total));
    }
}

/* F32, F16, BF16: column c of the tile as 16 floats. */
#define FLOAT_TILE(name, TYPE, CONVERT)                                                             \
    static void name(const void *w, uint32_t k, const float *x, size_t x_stride, const float *sums, \
                     size_t sums_stride, uint32_t rows, float *y, size_t y_stride)                  \
    {                                                                                               \
        (void)sums, (void)sums_stride;                                                              \
        for (uint32_t r = 0; r < rows; r++) {                                                       \
            float total[CPU_LANES] = {0};                                                           \
            for (uint32_t c = 0; c < k; c += 32) {                                                  \
                int columns = k - c < 32 ? (int)(k - c) : 32;                                       \
                const TYPE *at = (const TYPE *)w + (size_t)c * CPU_LANES;                           \
                float blk[CPU_LANES] = {0};                                                         \
                BLOCK_DOT(blk, x + r * x_stride + c, columns, CONVERT)                              \
                LANES(l) total[l] = total[l] + blk[l];                                              \
            }                                                                                       \
            memcpy(y + r * y_stride, total, sizeof(total));                                         \
        }                                                                                           \
    }
#define AT(g, i, l)   at[((g)*8 + (i)) * CPU_LANES + (l)]
#define BF16(g, i, l) mp_f_from((uint32_t)AT(g, i, l) << 16)
#define F16(g, i, l)  mp_f16_to_f32(AT(g, i, l))
FLOAT_TILE(tile_f32, float, AT)
FLOAT_TILE(tile_f16, uint16_t, F16)
FLOAT_TILE(tile_bf16, uint16_t, BF16)

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
