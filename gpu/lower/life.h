/* gpu/lower/life.h — buffers for values by the stages in which they live. Used by every device's build(). */
#ifndef MP_LIFE_H
#define MP_LIFE_H
#include <stdint.h>

struct mp_life {
    uint64_t bytes;       /* 0: needs no buffer */
    uint32_t first, last; /* stages, both ends included */
    uint64_t off;         /* out: a multiple of align */
};

/* Gives each an offset so that two that live in one stage never overlap (first fit, large ones first); returns the bytes
 * of the whole. align: a power of two. The sum of all bytes may not overflow: the caller checked its sizes. */
uint64_t mp_life_assign(struct mp_life *lives, uint32_t n, uint64_t align);

#endif
