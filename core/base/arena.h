/* core/base/arena.h — memory that lives as long as one request and dies in one call. Used by net, script, gateway.
 *
 * One thread at a time. With MOONPOOL_DEBUG_ARENA=1 in the environment, and always under AddressSanitizer, every
 * allocation is a malloc of its own, so that overruns and uses after the end are seen. */
#ifndef MP_ARENA_H
#define MP_ARENA_H
#include <stddef.h>

struct mp_arena;

struct mp_arena *mp_arena_new(void);
void mp_arena_free(struct mp_arena *a); /* NULL is fine */
/* Aligned for any type. Aborts when memory is out: sizes from outside are checked against their limits before. */
void *mp_arena_alloc(struct mp_arena *a, size_t n);
void *mp_arena_zalloc(struct mp_arena *a, size_t n);
char *mp_arena_strndup(struct mp_arena *a, const char *s, size_t n); /* NUL-terminated copy; s may hold NULs */
size_t mp_arena_bytes(const struct mp_arena *a);                     /* asked for so far */

#endif
