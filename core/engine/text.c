/* core/engine/text.c — see text.h. */
#include "core/engine/text.h"

#include "core/base/mem.h"
#include "core/base/utf8.h"

#include <string.h>

void mp_text_init(struct mp_text *t, const struct mp_span *stops, uint32_t n)
{
    *t = (struct mp_text){.n_stop = n};
    if (n > 0)
        t->stop = mp_calloc(n * sizeof *t->stop);
    for (uint32_t i = 0; i < n; i++) {
        t->stop[i].n = (uint16_t)stops[i].n;
        memcpy(t->stop[i].bytes, stops[i].p, stops[i].n);
    }
}

void mp_text_free(struct mp_text *t)
{
    mp_buf_free(&t->held);
    mp_free(t->stop);
    *t = (struct mp_text){0};
}

/* The stop whose last byte lies at `end` - 1; the longest of several; -1. */
static int stop_ending_at(const struct mp_text *t, size_t end)
{
    int best = -1;
    for (uint32_t i = 0; i < t->n_stop; i++) {
        const struct mp_stop *s = &t->stop[i];
        if (s->n <= end && memcmp(t->held.data + end - s->n, s->bytes, s->n) == 0 &&
            (best < 0 || s->n > t->stop[best].n))
            best = (int)i;
    }
    return best;
}

/* Bytes at the end that are the beginning of a stop string. */
static size_t stop_partial(const struct mp_text *t)
{
    size_t most = 0;
    for (uint32_t i = 0; i < t->n_stop; i++) {
        const struct mp_stop *s = &t->stop[i];
        size_t n = t->held.len < s->n - 1u ? t->held.len : s->n - 1u;
        for (; n > most; n--)
            if (memcmp(t->held.data + t->held.len - n, s->bytes, n) == 0)
                most = n;
    }
    return most;
}

int mp_text_feed(struct mp_text *t, const char *s, size_t n, struct mp_buf *out)
{
    size_t was = t->held.len;
    mp_buf_put(&t->held, s, n);
    for (size_t end = was + 1; t->n_stop > 0 && end <= t->held.len; end++) {
        int stop = stop_ending_at(t, end);
        if (stop >= 0) {
            mp_utf8_clean(out, t->held.data, end - t->stop[stop].n);
            mp_buf_clear(&t->held);
            return stop;
        }
    }
    size_t safe = t->held.len - stop_partial(t);
    safe -= mp_utf8_partial_tail(t->held.data, safe);
    if (safe > 0) {
        mp_utf8_clean(out, t->held.data, safe);
        mp_buf_drop(&t->held, safe);
    }
    return -1;
}

void mp_text_finish(struct mp_text *t, struct mp_buf *out)
{
    mp_utf8_clean(out, t->held.data, t->held.len);
    mp_buf_clear(&t->held);
}
