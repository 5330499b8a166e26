/* core/base/mem.h — allocation and checked size arithmetic. Used everywhere.
 *
 * Small fixed allocations abort when memory is out; sizes that came from outside go through the try_ forms. */
#ifndef MP_MEM_H
#define MP_MEM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mp_malloc(size_t n);           /* aborts when memory is out; never NULL; n 0 gives a unique pointer */
void *mp_calloc(size_t n);           /* the same, zeroed */
void *mp_realloc(void *p, size_t n); /* aborts when memory is out */
char *mp_strdup(const char *s);      /* s: not NULL */
char *mp_strndup(const char *s, size_t n);
char *mp_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *mp_try_malloc(size_t n); /* NULL when memory is out (or the injected failure's turn has come) */
void *mp_try_calloc(size_t n, size_t size);
void *mp_try_realloc(void *p, size_t n);
void mp_free(void *p); /* NULL is fine */

/* Makes the nth next mp_try_* call of this process fail once (0: none). For failure-injection specs. */
void mp_mem_fail_after(uint64_t nth);

/* Overflow-checked: true and *out set, or false and *out untouched. */
bool mp_add_size(size_t a, size_t b, size_t *out);
bool mp_mul_size(size_t a, size_t b, size_t *out);
bool mp_add_u64(uint64_t a, uint64_t b, uint64_t *out);
bool mp_mul_u64(uint64_t a, uint64_t b, uint64_t *out);
bool mp_align_u64(uint64_t v, uint64_t align, uint64_t *out); /* align: a power of two */

#define MP_COUNT(a) (sizeof(a) / sizeof((a)[0]))
/* Hands a pointer on and leaves NULL behind: `*out = mp_move(&g)`. */
#define mp_move(pp)                       \
    ({                                    \
        __typeof__(*(pp)) moved_ = *(pp); \
        *(pp) = NULL;                     \
        moved_;                           \
    })
#define mp_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
