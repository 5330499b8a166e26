/* core/engine/pages.c — see pages.h. Free ids are a stack, so that a page just given back, whose memory is committed and warm, is
 * the next one out. */
#include "core/engine/pages.h"

#include "core/base/mem.h"

#include <string.h>

struct mp_pages {
    const struct mp_device_ops *ops;
    struct mp_mem *mem;
    uint64_t page_bytes;
    uint32_t n, n_free, n_reserved, n_committed;
    uint32_t *free;
    uint8_t *state; /* bit 0: committed, bit 1: handed out */
};

enum { COMMITTED = 1, TAKEN = 2 };

struct mp_pages *mp_pages_new(const struct mp_device_ops *ops, struct mp_mem *mem, uint32_t n, uint64_t page_bytes)
{
    struct mp_pages *p = mp_calloc(sizeof *p);
    *p = (struct mp_pages){.ops = ops, .mem = mem, .page_bytes = page_bytes, .n = n, .n_free = n};
    p->free = mp_malloc((size_t)n * sizeof *p->free);
    p->state = mp_calloc(n);
    for (uint32_t i = 0; i < n; i++)
        p->free[i] = n - 1 - i;
    return p;
}

void mp_pages_free(struct mp_pages *p)
{
    if (!p)
        return;
    mp_free(p->free);
    mp_free(p->state);
    mp_free(p);
}

bool mp_pages_reserve(struct mp_pages *p, uint32_t n)
{
    if (n > p->n - p->n_reserved)
        return false;
    p->n_reserved += n;
    return true;
}

void mp_pages_unreserve(struct mp_pages *p, uint32_t n)
{
    p->n_reserved -= n;
}

int mp_pages_take(struct mp_pages *p, uint32_t *page, struct mp_err *err)
{
    if (p->n_free == 0)
        return mp_err_set(err, MP_EINTERNAL, "no KV page is free within a reservation");
    uint32_t id = p->free[p->n_free - 1];
    if (!(p->state[id] & COMMITTED)) {
        int rc = p->ops ? p->ops->mem_commit(p->mem, id * p->page_bytes, p->page_bytes, true, err) : 0;
        if (rc < 0) {
            mp_err_context(err, "no memory for another KV page");
            return MP_ENOMEM;
        }
        p->state[id] |= COMMITTED;
        p->n_committed++;
    }
    p->n_free--;
    p->state[id] |= TAKEN;
    *page = id;
    return 0;
}

void mp_pages_give(struct mp_pages *p, uint32_t page)
{
    p->state[page] &= (uint8_t)~TAKEN;
    p->free[p->n_free++] = page;
}

void mp_pages_trim(struct mp_pages *p, uint32_t keep)
{
    uint32_t kept = 0;
    for (uint32_t i = p->n_free; i-- > 0;) {
        uint32_t id = p->free[i];
        if (!(p->state[id] & COMMITTED) || kept++ < keep)
            continue;
        if (p->ops && p->ops->mem_commit(p->mem, id * p->page_bytes, p->page_bytes, false, NULL) < 0)
            continue;
        p->state[id] &= (uint8_t)~COMMITTED;
        p->n_committed--;
    }
}

uint32_t mp_pages_total(const struct mp_pages *p)
{
    return p->n;
}

uint32_t mp_pages_used(const struct mp_pages *p)
{
    return p->n - p->n_free;
}

uint32_t mp_pages_reserved(const struct mp_pages *p)
{
    return p->n_reserved;
}

uint64_t mp_pages_committed(const struct mp_pages *p)
{
    return p->n_committed * p->page_bytes;
}
