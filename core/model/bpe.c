/* core/model/bpe.c — see bpe.h.
 *
 * Symbols are a doubly linked list in an array; a heap holds (rank, position of the left symbol) as one number, so that
 * equal ranks come leftmost first. Entries go stale when a neighbour was merged; one is still true exactly when the pair at
 * its position is the pair of its rank. */
#include "core/model/bpe.h"

#include "core/base/hash.h"
#include "core/base/mem.h"

#include <string.h>

#define NO_RANK UINT32_MAX

struct merge {
    int32_t left, right, result;
};

struct mp_bpe {
    uint32_t n, cap, mask;
    uint64_t seed; /* so that a file cannot choose colliding pairs */
    struct merge *merges;
    uint32_t *slot; /* rank + 1 by hash of the pair; 0 free; at most half full */
};

struct symbol {
    int32_t id;          /* -1: merged into its left neighbour */
    uint32_t prev, next; /* positions; NONE at the ends */
};
#define NONE UINT32_MAX

struct mp_bpe_work {
    struct symbol *sym;
    uint64_t *heap; /* rank << 32 | position; at most 2 n entries: n - 1 at first, and a merge takes one and adds two */
    size_t cap, n, n_heap;
};

struct mp_bpe *mp_bpe_new(uint32_t n_merges)
{
    struct mp_bpe *b = mp_calloc(sizeof *b);
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)n_merges)
        slots *= 2;
    b->cap = n_merges;
    b->mask = (uint32_t)(slots - 1);
    b->seed = mp_hash("bpe", 3) | 1;
    b->merges = mp_try_calloc(n_merges, sizeof *b->merges);
    b->slot = mp_try_calloc(slots, sizeof *b->slot);
    if (!b->merges || !b->slot) {
        mp_bpe_free(b);
        return NULL;
    }
    return b;
}

void mp_bpe_free(struct mp_bpe *b)
{
    if (!b)
        return;
    mp_free(b->merges);
    mp_free(b->slot);
    mp_free(b);
}

/* The slot that holds the pair, or the free one where it belongs. */
static uint32_t *slot_of(const struct mp_bpe *b, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ b->seed;
    h *= 0x9e3779b97f4a7c15u; /* the mixer of splitmix64, keyed */
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * (0x94d049bb133111ebu ^ (b->seed << 1));
    uint32_t at = (uint32_t)(h >> 32) & b->mask;
    while (b->slot[at]) {
        const struct merge *m = &b->merges[b->slot[at] - 1];
        if (m->left == left && m->right == right)
            break;
        at = (at + 1) & b->mask;
    }
    return &b->slot[at];
}

void mp_bpe_add(struct mp_bpe *b, int32_t left, int32_t right, int32_t result)
{
    uint32_t *slot = slot_of(b, left, right);
    b->merges[b->n] = (struct merge){left, right, result};
    b->n++;
    if (*slot == 0)
        *slot = b->n;
}

struct mp_bpe_work *mp_bpe_work_new(void)
{
    return mp_calloc(sizeof(struct mp_bpe_work));
}

void mp_bpe_work_free(struct mp_bpe_work *w)
{
    if (!w)
        return;
    mp_free(w->sym);
    mp_free(w->heap);
    mp_free(w);
}

int mp_bpe_begin(struct mp_bpe_work *w, size_t n, struct mp_err *err)
{
    w->n = w->n_heap = 0;
    if (n <= w->cap)
        return 0;
    size_t cap = n < 64 ? 64 : n;
    mp_free(w->sym);
    mp_free(w->heap);
    w->cap = 0;
    w->sym = mp_try_calloc(cap, sizeof *w->sym);
    w->heap = mp_try_calloc(cap, 2 * sizeof *w->heap);
    if (!w->sym || !w->heap)
        return mp_err_set(err, MP_ENOMEM, "no memory to tokenize a piece of %zu bytes", n);
    w->cap = cap;
    return 0;
}

void mp_bpe_symbol(struct mp_bpe_work *w, int32_t id)
{
    uint32_t at = (uint32_t)w->n++;
    w->sym[at] = (struct symbol){id, at ? at - 1 : NONE, NONE};
    if (at)
        w->sym[at - 1].next = at;
}

static uint32_t rank_at(const struct mp_bpe_work *w, const struct mp_bpe *b, uint32_t at)
{
    const struct symbol *s = &w->sym[at];
    uint32_t slot = s->next == NONE ? 0 : *slot_of(b, s->id, w->sym[s->next].id);
    return slot ? slot - 1 : NO_RANK;
}

static void sift_down(uint64_t *heap, size_t n, size_t at)
{
    uint64_t v = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= v)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = v;
}

static void heap_push(struct mp_bpe_work *w, uint64_t v)
{
    size_t at = w->n_heap++;
    while (at > 0 && w->heap[(at - 1) / 2] > v) {
        w->heap[at] = w->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    w->heap[at] = v;
}

static uint64_t heap_pop(struct mp_bpe_work *w)
{
    uint64_t top = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    if (w->n_heap)
        sift_down(w->heap, w->n_heap, 0);
    return top;
}

static void push_pair(struct mp_bpe_work *w, const struct mp_bpe *b, uint32_t at)
{
    uint32_t rank = at == NONE ? NO_RANK : rank_at(w, b, at);
    if (rank != NO_RANK)
        heap_push(w, (uint64_t)rank << 32 | at);
}

void mp_bpe_run(struct mp_bpe_work *w, const struct mp_bpe *b)
{
    for (uint32_t i = 0; i + 1 < w->n; i++) {
        uint32_t rank = rank_at(w, b, i);
        if (rank != NO_RANK)
            w->heap[w->n_heap++] = (uint64_t)rank << 32 | i;
    }
    for (size_t i = w->n_heap / 2; i-- > 0;)
        sift_down(w->heap, w->n_heap, i);
    while (w->n_heap) {
        uint64_t top = heap_pop(w);
        uint32_t at = (uint32_t)top;
        const struct merge *m = &b->merges[top >> 32];
        struct symbol *left = &w->sym[at];
        if (left->id != m->left || left->next == NONE || w->sym[left->next].id != m->right)
            continue; /* stale */
        struct symbol *right = &w->sym[left->next];
        left->id = m->result;
        left->next = right->next;
        right->id = -1;
        if (left->next != NONE)
            w->sym[left->next].prev = at;
        push_pair(w, b, left->prev);
        push_pair(w, b, at);
    }
}

const int32_t *mp_bpe_ids(struct mp_bpe_work *w, size_t *n)
{
    size_t out = 0;
    int32_t *ids = (int32_t *)(void *)w->heap; /* empty by now */
    for (size_t i = 0; i < w->n; i++)
        if (w->sym[i].id >= 0)
            ids[out++] = w->sym[i].id;
    *n = out;
    return ids;
}
