/* gpu/cpu/simd.h — 16 floats or integers at a time: one AVX-512 register or a pair of AVX2 ones. Used by kernel.inc, which
 * is compiled once for each. Every operation is the IEEE one per lane; there is no fused multiply-add here on purpose. */
#ifndef MP_CPU_SIMD_H
#define MP_CPU_SIMD_H
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SIMD static inline __attribute__((always_inline))

#if defined(__AVX512F__)

typedef struct {
    __m512 v;
} vf;
typedef struct {
    __m512i v;
} vi;

#define VF2(name, op)              \
    SIMD vf name(vf x, vf y)       \
    {                              \
        return (vf){op(x.v, y.v)}; \
    }
VF2(vf_add, _mm512_add_ps)
VF2(vf_sub, _mm512_sub_ps)
VF2(vf_mul, _mm512_mul_ps)
VF2(vf_div, _mm512_div_ps)
VF2(vf_min, _mm512_min_ps) /* x < y ? x : y */
VF2(vf_max, _mm512_max_ps) /* x > y ? x : y */

SIMD vf vf_set(float x)
{
    return (vf){_mm512_set1_ps(x)};
}

SIMD vf vf_load(const float *p)
{
    return (vf){_mm512_loadu_ps(p)};
}

SIMD void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x.v);
}

SIMD vf vf_f16(const void *p)
{
    return (vf){_mm512_cvtph_ps(_mm256_loadu_si256(p))};
}

SIMD vf vf_bf16(const void *p)
{
    return (vf){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16))};
}

SIMD vf vf_s8(const void *p)
{
    return (vf){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)))};
}

SIMD vi vi_load(const void *p)
{
    return (vi){_mm512_loadu_si512(p)};
}

SIMD vi vi_set(int32_t x)
{
    return (vi){_mm512_set1_epi32(x)};
}

SIMD vi vi_add(vi x, vi y)
{
    return (vi){_mm512_add_epi32(x.v, y.v)};
}

SIMD vi vi_sub(vi x, vi y)
{
    return (vi){_mm512_sub_epi32(x.v, y.v)};
}

SIMD vi vi_and(vi x, vi y)
{
    return (vi){_mm512_and_si512(x.v, y.v)};
}

SIMD vi vi_xor(vi x, vi y)
{
    return (vi){_mm512_xor_si512(x.v, y.v)};
}

#define vi_shl(x, n) ((vi){_mm512_slli_epi32((x).v, n)})
#define vi_shr(x, n) ((vi){_mm512_srli_epi32((x).v, n)})
#define vi_sra(x, n) ((vi){_mm512_srai_epi32((x).v, n)})

SIMD vf vi_to_f(vi x)
{
    return (vf){_mm512_cvtepi32_ps(x.v)};
}

SIMD vi vf_bits(vf x)
{
    return (vi){_mm512_castps_si512(x.v)};
}

SIMD vf vf_from(vi x)
{
    return (vf){_mm512_castsi512_ps(x.v)};
}

/* a < b ? x : y */
SIMD vf vf_lt(vf a, vf b, vf x, vf y)
{
    return (vf){_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}

SIMD __m256 vf_low(vf x)
{
    return _mm512_castps512_ps256(x.v);
}

SIMD __m256 vf_high(vf x)
{
    return _mm512_extractf32x8_ps(x.v, 1);
}

/* One register: what tiles are computed with. Lane 0 of it is at p. */
typedef vf vr;
typedef vi vri;
enum { REGISTER = 16, PARTS = 1, MOST = 8 }; /* lanes of it; registers to 16 lanes; rows of a tile at a time */

#define vr_set       vf_set
#define vr_load      vf_load
#define vr_store     vf_store
#define vr_add       vf_add
#define vr_mul       vf_mul
#define vr_f16       vf_f16
#define vr_bf16      vf_bf16
#define vr_s8        vf_s8
#define vr_ints      vi_load
#define vr_and(x, n) vi_and(x, vi_set(n))
#define vr_shl       vi_shl
#define vr_shr       vi_shr
#define vr_sra       vi_sra
#define vr_to_f      vi_to_f

#else

typedef struct {
    __m256 a, b; /* lanes 0..7, 8..15 */
} vf;
typedef struct {
    __m256i a, b;
} vi;

#define VF2(name, op)                            \
    SIMD vf name(vf x, vf y)                     \
    {                                            \
        return (vf){op(x.a, y.a), op(x.b, y.b)}; \
    }
VF2(vf_add, _mm256_add_ps)
VF2(vf_sub, _mm256_sub_ps)
VF2(vf_mul, _mm256_mul_ps)
VF2(vf_div, _mm256_div_ps)
VF2(vf_min, _mm256_min_ps) /* x < y ? x : y */
VF2(vf_max, _mm256_max_ps) /* x > y ? x : y */

SIMD vf vf_set(float x)
{
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

SIMD vf vf_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

SIMD void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

SIMD vi vi_set(int32_t x)
{
    return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

#define VI2(name, op)                            \
    SIMD vi name(vi x, vi y)                     \
    {                                            \
        return (vi){op(x.a, y.a), op(x.b, y.b)}; \
    }
VI2(vi_add, _mm256_add_epi32)
VI2(vi_sub, _mm256_sub_epi32)
VI2(vi_xor, _mm256_xor_si256)

#define vi_shl(x, n) ((vi){_mm256_slli_epi32((x).a, n), _mm256_slli_epi32((x).b, n)})
#define vi_shr(x, n) ((vi){_mm256_srli_epi32((x).a, n), _mm256_srli_epi32((x).b, n)})
#define vi_sra(x, n) ((vi){_mm256_srai_epi32((x).a, n), _mm256_srai_epi32((x).b, n)})

SIMD vf vi_to_f(vi x)
{
    return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}

SIMD vi vf_bits(vf x)
{
    return (vi){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}

SIMD vf vf_from(vi x)
{
    return (vf){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}

/* a < b ? x : y */
SIMD vf vf_lt(vf a, vf b, vf x, vf y)
{
    return (vf){_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}

SIMD __m256 vf_low(vf x)
{
    return x.a;
}

SIMD __m256 vf_high(vf x)
{
    return x.b;
}

/* One register: what tiles are computed with. Lane 0 of it is at p. */
typedef __m256 vr;
typedef __m256i vri;
enum { REGISTER = 8, PARTS = 2, MOST = 4 }; /* lanes of it; registers to 16 lanes; rows of a tile at a time */

#define vr_set       _mm256_set1_ps
#define vr_load      _mm256_loadu_ps
#define vr_store     _mm256_storeu_ps
#define vr_add       _mm256_add_ps
#define vr_mul       _mm256_mul_ps
#define vr_and(x, n) _mm256_and_si256(x, _mm256_set1_epi32(n))
#define vr_shl       _mm256_slli_epi32
#define vr_shr       _mm256_srli_epi32
#define vr_sra       _mm256_srai_epi32
#define vr_to_f      _mm256_cvtepi32_ps

SIMD vr vr_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

SIMD vr vr_bf16(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

SIMD vr vr_s8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}

SIMD vri vr_ints(const void *p)
{
    return _mm256_loadu_si256(p);
}

#endif

/* The first n of 16 floats; the rest reads as 0. */
SIMD vf vf_load_n(const float *p, uint32_t n)
{
    float t[16] = {0};
    memcpy(t, p, n * sizeof(float));
    return vf_load(t);
}

SIMD void vf_store_n(float *p, vf x, uint32_t n)
{
    float t[16];
    vf_store(t, x);
    memcpy(p, t, n * sizeof(float));
}

SIMD vf vf_neg(vf x)
{
    return vf_from(vi_xor(vf_bits(x), vi_set(INT32_MIN)));
}

/* The tree of kernels.h: l + (l+8), then +4, +2, +1. */
SIMD float vf_tree(vf x)
{
    __m256 e = _mm256_add_ps(vf_low(x), vf_high(x));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

SIMD float vf_highest(vf x)
{
    __m256 e = _mm256_max_ps(vf_low(x), vf_high(x));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#endif
