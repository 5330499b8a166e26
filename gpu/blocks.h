/* gpu/blocks.h — the storage types of weights (ggml's ids and block layouts) as tables. Used by core/model and devices.
 * Source: the GGUF format, version 3; every number is little endian. */
#ifndef MP_BLOCKS_H
#define MP_BLOCKS_H
#include <stdbool.h>
#include <stdint.h>

/* id, name, values per block, bytes per block, what the CPU device computes with (1) or only knows the size of (0) */
#define MP_TYPES(X)                       \
    X(MP_T_F32, 0, "F32", 1, 4, 1)        \
    X(MP_T_F16, 1, "F16", 1, 2, 1)        \
    X(MP_T_Q4_0, 2, "Q4_0", 32, 18, 1)    \
    X(MP_T_Q4_1, 3, "Q4_1", 32, 20, 1)    \
    X(MP_T_Q5_0, 6, "Q5_0", 32, 22, 0)    \
    X(MP_T_Q5_1, 7, "Q5_1", 32, 24, 0)    \
    X(MP_T_Q8_0, 8, "Q8_0", 32, 34, 1)    \
    X(MP_T_Q2_K, 10, "Q2_K", 256, 84, 0)  \
    X(MP_T_Q3_K, 11, "Q3_K", 256, 110, 0) \
    X(MP_T_Q4_K, 12, "Q4_K", 256, 144, 0) \
    X(MP_T_Q5_K, 13, "Q5_K", 256, 176, 0) \
    X(MP_T_Q6_K, 14, "Q6_K", 256, 210, 0) \
    X(MP_T_I8, 24, "I8", 1, 1, 0)         \
    X(MP_T_I16, 25, "I16", 1, 2, 0)       \
    X(MP_T_I32, 26, "I32", 1, 4, 0)       \
    X(MP_T_I64, 27, "I64", 1, 8, 0)       \
    X(MP_T_F64, 28, "F64", 1, 8, 0)       \
    X(MP_T_BF16, 30, "BF16", 1, 2, 1)

enum mp_type {
#define X(code, id, name, values, bytes, computes) code = id,
    MP_TYPES(X)
#undef X
};

struct mp_type_info {
    const char *name;
    uint16_t values, bytes; /* per block */
    bool computes;
};

const struct mp_type_info *mp_type_info(uint32_t type); /* NULL for an id that is not in the table */
/* Bytes of one row of n values; false when the type is unknown, n is no whole number of blocks, or it overflows. */
bool mp_type_row_bytes(uint32_t type, uint64_t n, uint64_t *bytes);
/* Reference dequantisation of n values (a whole number of blocks) of a type that computes; plain C. */
void mp_type_to_f32(uint32_t type, const void *src, float *dst, uint64_t n);

float mp_f16_to_f32(uint16_t h);
uint16_t mp_f32_to_f16(float f); /* round to nearest, ties to even */

#endif
