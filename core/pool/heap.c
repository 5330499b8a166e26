/* core/pool/heap.c — see heap.h. */
#include "core/pool/heap.h"

#include "core/base/mem.h"

#include <stddef.h>

static void put(struct mp_heap *h, uint32_t i, struct mp_heap_node *node)
{
    h->v[i] = node;
    node->at = i + 1;
}

/* Moves a node from i to where it belongs. */
static void settle(struct mp_heap *h, uint32_t i, struct mp_heap_node *node)
{
    while (i > 0 && h->less(node, h->v[(i - 1) / 2])) {
        put(h, i, h->v[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child + 1 < h->n && h->less(h->v[child + 1], h->v[child]))
            child++;
        if (child >= h->n || !h->less(h->v[child], node))
            break;
        put(h, i, h->v[child]);
        i = child;
    }
    put(h, i, node);
}

void mp_heap_free(struct mp_heap *h)
{
    mp_free(mp_move(&h->v));
    h->n = h->cap = 0;
}

void mp_heap_push(struct mp_heap *h, struct mp_heap_node *node)
{
    if (h->n == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 16;
        h->v = mp_realloc(h->v, h->cap * sizeof *h->v);
    }
    settle(h, h->n++, node);
}

struct mp_heap_node *mp_heap_top(const struct mp_heap *h)
{
    return h->n ? h->v[0] : NULL;
}

void mp_heap_remove(struct mp_heap *h, struct mp_heap_node *node)
{
    uint32_t i = node->at - 1;
    if (node->at == 0)
        return;
    node->at = 0;
    if (i < --h->n)
        settle(h, i, h->v[h->n]);
}
