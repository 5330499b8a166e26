/* gpu/lower/life.c — see life.h. */
#include "gpu/lower/life.h"

#include "core/base/mem.h"

#include <stdlib.h>

static int by_size(const void *pa, const void *pb)
{
    const struct mp_life *a = *(struct mp_life *const *)pa, *b = *(struct mp_life *const *)pb;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? 1 : -1;
    return a < b ? -1 : a > b;
}

uint64_t mp_life_assign(struct mp_life *lives, uint32_t n, uint64_t align)
{
    struct mp_life **order = mp_malloc(n * sizeof(*order));   /* by size */
    struct mp_life **placed = mp_malloc(n * sizeof(*placed)); /* by offset */
    uint32_t n_order = 0, n_placed = 0;
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        if (lives[i].bytes)
            order[n_order++] = &lives[i];
    qsort(order, n_order, sizeof(*order), by_size);
    for (uint32_t i = 0; i < n_order; i++) {
        struct mp_life *v = order[i];
        uint64_t at = 0, size = (v->bytes + align - 1) & ~(align - 1);
        for (uint32_t k = 0; k < n_placed; k++) {
            const struct mp_life *o = placed[k];
            if (o->last < v->first || o->first > v->last)
                continue;
            if (o->off >= at + size)
                break;
            uint64_t end = o->off + ((o->bytes + align - 1) & ~(align - 1));
            at = end > at ? end : at;
        }
        v->off = at;
        total = at + size > total ? at + size : total;
        uint32_t k = n_placed++;
        for (; k > 0 && placed[k - 1]->off > at; k--)
            placed[k] = placed[k - 1];
        placed[k] = v;
    }
    mp_free(order);
    mp_free(placed);
    return total;
}
