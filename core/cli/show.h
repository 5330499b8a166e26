/* core/cli/show.h — text from files and models, and sizes, as a terminal may show them. Used by inspect, tokenize and all that
 * ask a server. */
#ifndef MP_SHOW_H
#define MP_SHOW_H
#include "core/base/buf.h"

/* Appends s in double quotes: quotes, backslashes and control characters (C0, C1, DEL, and Unicode's bidirectional controls,
 * which reorder what stands around them) are escaped, bytes that are not UTF-8 as \xff; beyond max bytes "…" behind. */
void mp_show_text(struct mp_buf *out, const char *s, size_t n, size_t max);
void mp_show_plain(struct mp_buf *out,
                   const char *s);        /* the same without quotes around it, whole; newlines become spaces */
void mp_show_out(const struct mp_buf *b); /* on stdout */
void mp_show_bytes(struct mp_buf *out, uint64_t n); /* "512 B", "1.7 MiB" */
void mp_show_seconds(struct mp_buf *out, double s); /* "0.3s", "12s", "3m20s", "2h05m", "4d07h" */
void mp_show_count(struct mp_buf *out, uint64_t n); /* "134,515,008" */

#endif
