/* gpu/lower/fmath.h — float functions of our own, used by gpu/cpu's plain kernels and the sampler. One written order of
 * multiplications and additions and no FMA (the build sets -ffp-contract=off), so that scalar and vector code of any
 * instruction set, and a GPU, give the same bits; gpu/cpu/kernel.inc holds the vector forms of the same orders.
 * Polynomials: Cephes (Moshier), single precision. Bodies stand in the header because loops over them must vectorise. */
#ifndef MP_FMATH_H
#define MP_FMATH_H
#include <stdint.h>
#include <string.h>

static inline float mp_f_from(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t mp_f_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* e^x within 2 ulp; 0 below -104, infinity above 88.73; NaN stays NaN. */
static inline float mp_expf(float x)
{
    x = 89.0f < x ? 89.0f : x;
    x = -104.0f > x ? -104.0f : x;
    float t = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the nearest integer */
    float n = t - 12582912.0f;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    /* times 2^n in two steps, so that subnormal results and infinity come out right */
    int32_t i = (int32_t)(mp_f_bits(t) - 0x4b400000u), i1 = i >> 1;
    uint32_t e1 = ((uint32_t)i1 + 127u) << 23, e2 = ((uint32_t)i - (uint32_t)i1 + 127u) << 23;
    return p * mp_f_from(e1) * mp_f_from(e2);
}

/* Natural logarithm of a positive normal x, within 2 ulp. */
static inline float mp_logf(float x)
{
    uint32_t u = mp_f_bits(x);
    float m = mp_f_from((u & 0x7fffffu) | 0x3f000000u); /* [0.5, 1) */
    float e = (float)((int32_t)(u >> 23) - 126);
    float low = m < 0.707106781f ? 1.0f : 0.0f;
    e = e - low;
    m = (m + m * low) - 1.0f; /* m*1 or m*0: exact */
    float z = m * m;
    float y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * z;
    y = y + e * -2.12194440e-4f;
    y = y - 0.5f * z;
    return (m + y) + e * 0.693359375f;
}

/* tanh x, within 2 ulp. */
static inline float mp_tanhf(float x)
{
    float a = x < 0 ? -x : x;
    float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    p = p * z * x + x;
    float b = 1.0f - 2.0f / (mp_expf(a + a) + 1.0f);
    b = x < 0 ? -b : b;
    return a < 0.625f ? p : b;
}

/* erf x, absolute error below 2e-7 (Abramowitz and Stegun 7.1.26): enough for gelu. */
static inline float mp_erff(float x)
{
    float a = x < 0 ? -x : x;
    float t = 1.0f / (1.0f + 0.3275911f * a);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float b = 1.0f - p * t * mp_expf(-(a * a));
    return x < 0 ? -b : b;
}

#endif
