/* core/base/map.h — a hash map from 64-bit ids to pointers. Used where requests are found by number. One thread at a time.
 * Ids come from our own processes (counters): they are mixed, not keyed against an adversary. */
#ifndef MP_MAP_H
#define MP_MAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_map { /* zero-initialised is empty and valid */
    struct mp_map_slot {
        uint64_t id;
        void *value; /* NULL: the slot is free */
    } * slots;       /* [cap], cap a power of two, at most three quarters in use */
    size_t n, cap;
};

void mp_map_free(struct mp_map *m);                      /* leaves it empty; values are the caller's */
void *mp_map_get(const struct mp_map *m, uint64_t id);   /* NULL when it is not there */
void mp_map_put(struct mp_map *m, uint64_t id, void *v); /* v: not NULL; replaces what was there */
void *mp_map_remove(struct mp_map *m, uint64_t id);      /* what was there, or NULL */
/* Iterates: `size_t at = 0; while (mp_map_next(m, &at, &id, &v))`. No put or remove in between. */
bool mp_map_next(const struct mp_map *m, size_t *at, uint64_t *id, void **v);

#endif
