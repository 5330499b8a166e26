/* core/base/mem.c — see mem.h. */
#include "core/base/mem.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t fail_in; /* counts down; any thread */

void mp_mem_fail_after(uint64_t nth)
{
    atomic_store(&fail_in, nth);
}

static bool fails_now(void)
{
    uint64_t left = atomic_load_explicit(&fail_in, memory_order_relaxed);
    while (left != 0)
        if (atomic_compare_exchange_weak(&fail_in, &left, left - 1))
            return left == 1;
    return false;
}

static void *or_abort(void *p)
{
    if (!p) {
        fputs("moonpool: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *mp_malloc(size_t n)
{
    return or_abort(malloc(n ? n : 1));
}

void *mp_calloc(size_t n)
{
    return or_abort(calloc(1, n ? n : 1));
}

void *mp_realloc(void *p, size_t n)
{
    return or_abort(realloc(p, n ? n : 1));
}

char *mp_strndup(const char *s, size_t n)
{
    char *d = mp_malloc(n + 1);
    memcpy(d, s, n);
    d[n] = 0;
    return d;
}

char *mp_strdup(const char *s)
{
    return mp_strndup(s, strlen(s));
}

char *mp_asprintf(const char *fmt, ...)
{
    char *out = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    return or_abort(n < 0 ? NULL : out);
}

void *mp_try_malloc(size_t n)
{
    return fails_now() ? NULL : malloc(n ? n : 1);
}

void *mp_try_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : calloc(n ? n : 1, size ? size : 1);
}

void *mp_try_realloc(void *p, size_t n)
{
    return fails_now() ? NULL : realloc(p, n ? n : 1);
}

void mp_free(void *p)
{
    free(p);
}

bool mp_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    return !__builtin_add_overflow(a, b, &r) && (*out = r, true);
}

bool mp_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    return !__builtin_mul_overflow(a, b, &r) && (*out = r, true);
}

bool mp_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    return !__builtin_add_overflow(a, b, &r) && (*out = r, true);
}

bool mp_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    return !__builtin_mul_overflow(a, b, &r) && (*out = r, true);
}

bool mp_align_u64(uint64_t v, uint64_t align, uint64_t *out)
{
    uint64_t up;
    return mp_add_u64(v, align - 1, &up) && (*out = up & ~(align - 1), true);
}
