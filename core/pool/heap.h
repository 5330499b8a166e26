/* core/pool/heap.h — a binary heap of nodes that lie in the caller's own structs: the smallest first, any one removed in O(log n). Used by
 * core/pool's queues and timers. One thread at a time. */
#ifndef MP_HEAP_H
#define MP_HEAP_H
#include <stdbool.h>
#include <stdint.h>

struct mp_heap_node { /* zero-initialised: in no heap */
    uint32_t at;      /* its place in the heap's list, from 1 */
};

struct mp_heap { /* zero-initialised but for `less` is empty and valid */
    bool (*less)(const struct mp_heap_node *a, const struct mp_heap_node *b);
    struct mp_heap_node **v;
    uint32_t n, cap;
};

void mp_heap_free(struct mp_heap *h);                            /* nodes are the caller's */
void mp_heap_push(struct mp_heap *h, struct mp_heap_node *node); /* node: in no heap */
struct mp_heap_node *mp_heap_top(const struct mp_heap *h);       /* the smallest; NULL when empty */
void mp_heap_remove(struct mp_heap *h,
                    struct mp_heap_node *node); /* nothing when it is in none; else it is in this one */

#endif
