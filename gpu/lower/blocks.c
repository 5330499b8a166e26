/* gpu/lower/blocks.c — the storage types of weights: sizes, and the reference dequantisation; see gpu/blocks.h. */
#include "gpu/blocks.h"

#include "core/base/mem.h"

#include <string.h>

struct row {
    uint32_t id;
    struct mp_type_info info;
};

static const struct row rows[] = {
#define X(code, id, name, values, bytes, computes) {id, {name, values, bytes, computes}},
    MP_TYPES(X)
#undef X
};

const struct mp_type_info *mp_type_info(uint32_t type)
{
    for (size_t i = 0; i < MP_COUNT(rows); i++)
        if (rows[i].id == type)
            return &rows[i].info;
    return NULL;
}

bool mp_type_row_bytes(uint32_t type, uint64_t n, uint64_t *bytes)
{
    const struct mp_type_info *info = mp_type_info(type);
    return info && n % info->values == 0 && mp_mul_u64(n / info->values, info->bytes, bytes);
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

float mp_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) /* infinity; a NaN becomes quiet, as the hardware's conversion makes it */
        return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
    if (rest >= 0x400)
        return from_bits(sign | ((rest << 13) + (112u << 23)));
    return from_bits(sign | to_bits((float)rest * 0x1p-24f)); /* subnormal: exact */
}

uint16_t mp_f32_to_f16(float f)
{
    uint32_t u = to_bits(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) { /* below 2^-14: let the adder round to a multiple of 2^-24 */
        float g = from_bits(u) + 0.5f;
        return (uint16_t)(sign | (to_bits(g) - to_bits(0.5f)));
    }
    u += 0xfff + (u >> 13 & 1);
    return (uint16_t)(sign | ((u - (112u << 23)) >> 13));
}

static float f16_at(const uint8_t *p)
{
    return mp_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

void mp_type_to_f32(uint32_t type, const void *src, float *dst, uint64_t n)
{
    const uint8_t *p = src;
    switch (type) {
    case MP_T_F32: memcpy(dst, src, n * 4); return;
    case MP_T_F16:
        for (uint64_t i = 0; i < n; i++)
            dst[i] = f16_at(p + 2 * i);
        return;
    case MP_T_BF16:
        for (uint64_t i = 0; i < n; i++)
            dst[i] = from_bits((uint32_t)(p[2 * i] | p[2 * i + 1] << 8) << 16);
        return;
    case MP_T_Q8_0:
        for (uint64_t b = 0; b < n / 32; b++, p += 34)
            for (uint32_t i = 0; i < 32; i++)
                dst[32 * b + i] = f16_at(p) * (float)(int8_t)p[2 + i];
        return;
    case MP_T_Q4_0:
        for (uint64_t b = 0; b < n / 32; b++, p += 18)
            for (uint32_t i = 0; i < 16; i++) {
                dst[32 * b + i] = f16_at(p) * (float)((p[2 + i] & 15) - 8);
                dst[32 * b + 16 + i] = f16_at(p) * (float)((p[2 + i] >> 4) - 8);
            }
        return;
    case MP_T_Q4_1:
        for (uint64_t b = 0; b < n / 32; b++, p += 20)
            for (uint32_t i = 0; i < 16; i++) {
                dst[32 * b + i] = f16_at(p) * (float)(p[4 + i] & 15) + f16_at(p + 2);
                dst[32 * b + 16 + i] = f16_at(p) * (float)(p[4 + i] >> 4) + f16_at(p + 2);
            }
        return;
    }
}
