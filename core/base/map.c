/* core/base/map.c — see map.h. Linear probing; removal shifts what follows back, so there are no tombstones. */
#include "core/base/map.h"

#include "core/base/mem.h"

static size_t home(const struct mp_map *m, uint64_t id)
{
    id = (id ^ id >> 32) * 0x9e3779b97f4a7c15u;
    return (size_t)(id >> 32) & (m->cap - 1);
}

/* The slot of that id, or the free one where it would go. cap > 0. */
static size_t find(const struct mp_map *m, uint64_t id)
{
    size_t at = home(m, id);
    while (m->slots[at].value && m->slots[at].id != id)
        at = (at + 1) & (m->cap - 1);
    return at;
}

void mp_map_free(struct mp_map *m)
{
    mp_free(m->slots);
    *m = (struct mp_map){0};
}

void *mp_map_get(const struct mp_map *m, uint64_t id)
{
    return m->cap > 0 ? m->slots[find(m, id)].value : NULL;
}

static void grow(struct mp_map *m)
{
    struct mp_map old = *m;
    m->cap = old.cap > 0 ? old.cap * 2 : 16;
    m->slots = mp_calloc(m->cap * sizeof *m->slots);
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i].value)
            m->slots[find(m, old.slots[i].id)] = old.slots[i];
    mp_free(old.slots);
}

void mp_map_put(struct mp_map *m, uint64_t id, void *v)
{
    if (m->n + 1 > m->cap / 4 * 3)
        grow(m);
    struct mp_map_slot *slot = &m->slots[find(m, id)];
    m->n += !slot->value;
    *slot = (struct mp_map_slot){id, v};
}

void *mp_map_remove(struct mp_map *m, uint64_t id)
{
    if (m->cap == 0)
        return NULL;
    size_t hole = find(m, id), mask = m->cap - 1;
    void *was = m->slots[hole].value;
    if (!was)
        return NULL;
    for (size_t at = (hole + 1) & mask; m->slots[at].value; at = (at + 1) & mask)
        if (((at - home(m, m->slots[at].id)) & mask) >= ((at - hole) & mask)) {
            m->slots[hole] = m->slots[at];
            hole = at;
        }
    m->slots[hole].value = NULL;
    m->n--;
    return was;
}

bool mp_map_next(const struct mp_map *m, size_t *at, uint64_t *id, void **v)
{
    for (; *at < m->cap; (*at)++)
        if (m->slots[*at].value) {
            *id = m->slots[*at].id;
            *v = m->slots[*at].value;
            (*at)++;
            return true;
        }
    return false;
}
