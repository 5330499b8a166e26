/* core/cli/show.c — see show.h. */
#include "core/cli/show.h"

#include "core/base/mem.h"
#include "core/base/utf8.h"

#include <stdio.h>
#include <string.h>

static bool harmful(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

static void put(struct mp_buf *out, const char *s, size_t n, size_t max, bool quoted)
{
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t step = mp_utf8_decode(s + i, n - i, &c);
        if (i >= max) {
            mp_buf_puts(out, "…");
            break;
        }
        if (step == 0) {
            mp_buf_printf(out, "\\x%02x", (unsigned char)s[i]);
            step = 1;
        } else if (quoted && (c == '"' || c == '\\')) {
            mp_buf_putc(out, '\\');
            mp_buf_putc(out, (char)c);
        } else if (c == '\n' || c == '\t' || c == '\r') {
            mp_buf_puts(out, !quoted ? " " : c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r");
        } else if (harmful(c)) {
            mp_buf_printf(out, "\\u{%x}", (unsigned)c);
        } else {
            mp_buf_put(out, s + i, step);
        }
        i += step;
    }
}

void mp_show_text(struct mp_buf *out, const char *s, size_t n, size_t max)
{
    mp_buf_putc(out, '"');
    put(out, s, n, max, true);
    mp_buf_putc(out, '"');
}

void mp_show_plain(struct mp_buf *out, const char *s)
{
    put(out, s, strlen(s), SIZE_MAX, false);
}

void mp_show_out(const struct mp_buf *b)
{
    if (b->len > 0)
        fwrite(b->data, 1, b->len, stdout);
}

void mp_show_seconds(struct mp_buf *out, double s)
{
    uint64_t n;
    if (!(s >= 0))
        s = 0;
    if (s < 9.95) {
        mp_buf_printf(out, "%.1fs", s);
        return;
    }
    n = s < 1e15 ? (uint64_t)(s + 0.5) : (uint64_t)1e15;
    if (n < 60)
        mp_buf_printf(out, "%us", (unsigned)n);
    else if (n < 3600)
        mp_buf_printf(out, "%um%02us", (unsigned)(n / 60), (unsigned)(n % 60));
    else if (n < 86400)
        mp_buf_printf(out, "%uh%02um", (unsigned)(n / 3600), (unsigned)(n / 60 % 60));
    else
        mp_buf_printf(out, "%jud%02uh", (uintmax_t)(n / 86400), (unsigned)(n / 3600 % 24));
}

void mp_show_bytes(struct mp_buf *out, uint64_t n)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)n / 1024;
    size_t unit = 0;
    if (n < 1024) {
        mp_buf_printf(out, "%u B", (unsigned)n);
        return;
    }
    for (; v >= 1024 && unit + 1 < MP_COUNT(units); unit++)
        v /= 1024;
    mp_buf_printf(out, "%.1f %s", v, units[unit]);
}

void mp_show_count(struct mp_buf *out, uint64_t n)
{
    if (n >= 1000) {
        mp_show_count(out, n / 1000);
        mp_buf_printf(out, ",%03u", (unsigned)(n % 1000));
    } else {
        mp_buf_printf(out, "%u", (unsigned)n);
    }
}
