/* core/base/arena.c — see arena.h: blocks of doubling size, or a malloc per allocation when debugging. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BLOCK = 2048, LARGEST_BLOCK = 65536 };

struct block {
    struct block *next;
    max_align_t data[];
};

struct mp_arena {
    struct block *blocks;
    char *at;
    size_t left, next_size, bytes;
    bool plain;
};

static bool debugging(void)
{
#if defined(__SANITIZE_ADDRESS__)
    return true;
#else
    const char *s = getenv("MOONPOOL_DEBUG_ARENA");
    return s && s[0] && s[0] != '0';
#endif
}

struct mp_arena *mp_arena_new(void)
{
    struct mp_arena *a = mp_calloc(sizeof *a);
    a->next_size = FIRST_BLOCK;
    a->plain = debugging();
    return a;
}

void mp_arena_free(struct mp_arena *a)
{
    if (!a)
        return;
    while (a->blocks) {
        struct block *b = a->blocks;
        a->blocks = b->next;
        mp_free(b);
    }
    mp_free(a);
}

static void *new_block(struct mp_arena *a, size_t n)
{
    size_t total;
    if (!mp_add_size(n, sizeof(struct block), &total))
        abort();
    struct block *b = mp_malloc(total);
    b->next = a->blocks;
    a->blocks = b;
    return b->data;
}

void *mp_arena_alloc(struct mp_arena *a, size_t n)
{
    size_t aligned;
    a->bytes += n;
    if (a->plain)
        return new_block(a, n);
    if (!mp_add_size(n, sizeof(max_align_t) - 1, &aligned))
        abort();
    aligned &= ~(sizeof(max_align_t) - 1);
    if (aligned > a->left) {
        if (aligned > a->next_size / 2)
            return new_block(a, aligned); /* large ones alone; the rest of the current block stays in use */
        a->at = new_block(a, a->next_size);
        a->left = a->next_size;
        if (a->next_size < LARGEST_BLOCK)
            a->next_size *= 2;
    }
    void *p = a->at;
    a->at += aligned;
    a->left -= aligned;
    return p;
}

void *mp_arena_zalloc(struct mp_arena *a, size_t n)
{
    return memset(mp_arena_alloc(a, n), 0, n);
}

char *mp_arena_strndup(struct mp_arena *a, const char *s, size_t n)
{
    size_t total;
    if (!mp_add_size(n, 1, &total))
        abort();
    char *p = mp_arena_alloc(a, total);
    if (n)
        memcpy(p, s, n);
    p[n] = 0;
    return p;
}

size_t mp_arena_bytes(const struct mp_arena *a)
{
    return a->bytes;
}
