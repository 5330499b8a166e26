/* core/base/utf8.c — see utf8.h. */
#include "core/base/utf8.h"

/* Length of the sequence that lead byte c begins (0: none), and the allowed range of the byte behind it: RFC 3629 §4. */
static size_t lead(unsigned char c, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf)
        return 2;
    if (c >= 0xe0 && c <= 0xef) {
        if (c == 0xe0)
            *low = 0xa0;
        if (c == 0xed)
            *high = 0x9f;
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        if (c == 0xf0)
            *low = 0x90;
        if (c == 0xf4)
            *high = 0x8f;
        return 4;
    }
    return 0;
}

/* Bytes at s that agree with a sequence, up to its length; *need is that length, 0 when the lead byte is bad. */
static size_t agree(const char *s, size_t n, size_t *need)
{
    unsigned char low, high;
    *need = n ? lead((unsigned char)s[0], &low, &high) : 0;
    if (*need == 0)
        return 0;
    size_t i = 1;
    for (; i < *need && i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < low || c > high)
            break;
        low = 0x80;
        high = 0xbf;
    }
    return i;
}

size_t mp_utf8_sequence(const char *s, size_t n)
{
    size_t need, got = agree(s, n, &need);
    return need && got == need ? need : 0;
}

size_t mp_utf8_valid_prefix(const char *s, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t len = (unsigned char)s[at] < 0x80 ? 1 : mp_utf8_sequence(s + at, n - at);
        if (len == 0)
            break;
        at += len;
    }
    return at;
}

size_t mp_utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    static const unsigned char mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    size_t len = mp_utf8_sequence(s, n);
    if (len) {
        uint32_t v = (unsigned char)s[0] & mask[len];
        for (size_t i = 1; i < len; i++)
            v = v << 6 | ((unsigned char)s[i] & 0x3f);
        *cp = v;
    }
    return len;
}

size_t mp_utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(first[n] | cp);
    return n;
}

size_t mp_utf8_partial_tail(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        size_t need, got = agree(s + n - back, back, &need);
        if (need > back && got == back)
            return back;
    }
    return 0;
}

void mp_utf8_clean(struct mp_buf *out, const char *s, size_t n)
{
    while (n) {
        size_t good = mp_utf8_valid_prefix(s, n);
        mp_buf_put(out, s, good);
        s += good;
        n -= good;
        if (n) {
            size_t need, got = agree(s, n, &need);
            size_t skip = got ? got : 1;
            mp_buf_put(out, MP_UTF8_REPLACEMENT, 3);
            s += skip;
            n -= skip;
        }
    }
}
