/* gpu/cpu/layout.c — weights and KV pages in the device's own layout; see cpu.h. */
#include "gpu/cpu/cpu.h"

#include "core/base/mem.h"
#include "gpu/blocks.h"
#include "gpu/lower/fmath.h"

#include <string.h>

static const struct {
    uint16_t type, columns, bytes; /* ggml id; columns of a unit, and its bytes over 16 lanes */
} kinds[CPU_N_KINDS] = {
    [CPU_F32] = {MP_T_F32, 1, 64},     [CPU_F16] = {MP_T_F16, 1, 32},     [CPU_BF16] = {MP_T_BF16, 1, 32},
    [CPU_Q8_0] = {MP_T_Q8_0, 32, 544}, [CPU_Q4_0] = {MP_T_Q4_0, 32, 288}, [CPU_Q4_1] = {MP_T_Q4_1, 32, 320},
};

int cpu_kind_of(uint32_t type)
{
    for (int i = 0; i < CPU_N_KINDS; i++)
        if (kinds[i].type == type)
            return i;
    return -1;
}

uint64_t cpu_tile_bytes(enum cpu_kind kind, uint32_t k)
{
    return (uint64_t)(k / kinds[kind].columns) * kinds[kind].bytes;
}

bool cpu_weight_bytes(const struct mp_wref *w, uint32_t type, uint64_t *bytes)
{
    int kind = cpu_kind_of(type);
    if (kind < 0 || w->ne[0] % kinds[kind].columns)
        return false;
    if (w->role == MP_W_VEC) {
        *bytes = ((uint64_t)w->ne[0] + 15) / 16 * 64;
        return true;
    }
    uint64_t all;
    return mp_mul_u64(cpu_tile_bytes(kind, w->ne[0]), ((uint64_t)w->ne[1] + 15) / 16, &all) &&
           mp_align_u64(all, 64, bytes);
}

/* One row of the file into lane l of its tile. */
static void put_row(uint8_t *tile, enum cpu_kind kind, uint32_t k, uint32_t l, const uint8_t *src)
{
    switch (kind) {
    case CPU_F32:
        for (uint32_t i = 0; i < k; i++)
            memcpy(tile + (i * 16 + l) * 4, src + i * 4, 4);
        return;
    case CPU_F16:
    case CPU_BF16:
        for (uint32_t i = 0; i < k; i++)
            memcpy(tile + (i * 16 + l) * 2, src + i * 2, 2);
        return;
    case CPU_Q8_0:
        for (uint32_t b = 0; b < k / 32; b++, tile += 544, src += 34) {
            for (uint32_t c = 0; c < 32; c++)
                tile[c * 16 + l] = src[2 + c];
            memcpy(tile + 512 + l * 2, src, 2);
        }
        return;
    default: { /* Q4_0, Q4_1: the file's byte j holds columns j and j + 16; ours 2j and 2j + 1 */
        uint32_t head = kind == CPU_Q4_1 ? 4 : 2;
        uint8_t flip = kind == CPU_Q4_1 ? 0 : 0x88; /* Q4_0: n - 8 as two's complement */
        for (uint32_t b = 0; b < k / 32; b++, tile += 256 + 16 * head, src += 16 + head) {
            for (uint32_t j = 0; j < 16; j++) {
                uint32_t c = 2 * j; /* columns c and c + 1 */
                uint8_t lo = c < 16 ? src[head + c] & 15 : src[head + c - 16] >> 4;
                uint8_t hi = c < 16 ? src[head + c + 1] & 15 : src[head + c - 15] >> 4;
                tile[j / 4 * 64 + l * 4 + j % 4] = (uint8_t)(lo | hi << 4) ^ flip;
            }
            for (uint32_t i = 0; i < head; i += 2)
                memcpy(tile + 256 + i * 16 + l * 2, src + i, 2);
        }
    }
    }
}

void cpu_weight_put(void *dst, const struct mp_wref *w, uint32_t type, uint64_t row0, uint64_t rows, const void *src)
{
    uint32_t k = w->ne[0];
    uint64_t row_bytes = 0;
    mp_type_row_bytes(type, k, &row_bytes);
    if (w->role == MP_W_VEC) {
        memset((float *)dst + k, 0, (16 - k % 16) % 16 * sizeof(float));
        mp_type_to_f32(type, src, dst, k);
        return;
    }
    enum cpu_kind kind = (enum cpu_kind)cpu_kind_of(type);
    uint64_t tile_bytes = cpu_tile_bytes(kind, k);
    for (uint64_t r = row0; r < row0 + rows; r++) {
        uint8_t *tile = (uint8_t *)dst + r / 16 * tile_bytes;
        if (r % 16 == 0 && row0 + rows - r < 16)
            memset(tile, 0, tile_bytes);
        put_row(tile, kind, k, r % 16, (const uint8_t *)src + (r - row0) * row_bytes);
    }
}

static float f16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return mp_f16_to_f32(h);
}

void cpu_weight_row(const void *w, enum cpu_kind kind, uint32_t k, uint32_t row, float *y)
{
    const uint8_t *tile = (const uint8_t *)w + row / 16 * cpu_tile_bytes(kind, k);
    uint32_t l = row % 16;
    switch (kind) {
    case CPU_F32:
        for (uint32_t i = 0; i < k; i++)
            memcpy(&y[i], tile + (i * 16 + l) * 4, 4);
        return;
    case CPU_F16:
        for (uint32_t i = 0; i < k; i++)
            y[i] = f16_at(tile + (i * 16 + l) * 2);
        return;
    case CPU_BF16:
        for (uint32_t i = 0; i < k; i++) {
            uint16_t h;
            memcpy(&h, tile + (i * 16 + l) * 2, 2);
            y[i] = mp_f_from((uint32_t)h << 16);
        }
        return;
    case CPU_Q8_0:
        for (uint32_t i = 0; i < k; i++) {
            const uint8_t *block = tile + i / 32 * 544;
            uint32_t c = i % 32;
            y[i] = f16_at(block + 512 + l * 2) * (float)(int8_t)block[c * 16 + l];
        }
        return;
    default:
        for (uint32_t i = 0; i < k; i++) {
            const uint8_t *block = tile + (uint64_t)(i / 32) * kinds[kind].bytes;
            uint32_t c = i % 32;
            int n = block[c / 8 * 64 + l * 4 + c % 8 / 2] >> (c % 2 * 4) & 15;
            float d = f16_at(block + 256 + l * 2);
            y[i] = kind == CPU_Q4_1 ? d * (float)n + f16_at(block + 288 + l * 2) : d * (float)((n ^ 8) - 8);
        }
    }
}

void cpu_kv_init(struct cpu_kv *kv, const struct mp_kvg *g, uint32_t page_tokens)
{
    *kv = (struct cpu_kv){.layers = g->layers, .heads = g->heads, .dim_k = g->dim_k, .dim_v = g->dim_v};
    kv->dim_v_pad = (kv->dim_v + 15) / 16 * 16;
    kv->page_tokens = page_tokens;
    kv->head_floats = (uint64_t)page_tokens * (kv->dim_k + kv->dim_v_pad);
    /* At most 4096 layers and heads of 1024 floats by 32 tokens: far from overflow. */
    uint64_t bytes = (uint64_t)kv->layers * kv->heads * kv->head_floats * sizeof(float);
    kv->page_bytes = (bytes + CPU_GRANULE - 1) / CPU_GRANULE * CPU_GRANULE;
}

float *cpu_kv_head(const struct cpu_kv *kv, uint32_t page, uint32_t layer, uint32_t head)
{
    return (float *)(void *)(kv->base + page * kv->page_bytes) + ((uint64_t)layer * kv->heads + head) * kv->head_floats;
}

void cpu_kv_put(const struct cpu_kv *kv, uint32_t page, uint32_t offset, uint32_t layer, const float *k, const float *v)
{
    for (uint32_t h = 0; h < kv->heads; h++) {
        float *at = cpu_kv_head(kv, page, layer, h);
        float *tile = at + (uint64_t)(offset / 16) * kv->dim_k * 16 + offset % 16;
        for (uint32_t i = 0; i < kv->dim_k; i++)
            tile[i * 16] = k[h * kv->dim_k + i];
        float *row = at + (uint64_t)kv->page_tokens * kv->dim_k + (uint64_t)offset * kv->dim_v_pad;
        memcpy(row, v + h * kv->dim_v, kv->dim_v * sizeof(float));
        memset(row + kv->dim_v, 0, (kv->dim_v_pad - kv->dim_v) * sizeof(float));
    }
}
