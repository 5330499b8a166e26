/* core/cli/table.h — a table for people: columns as wide as what stands in them. Used by the commands that ask a server. */
#ifndef MP_TABLE_H
#define MP_TABLE_H
#include "core/base/buf.h"

#include <stdbool.h>

enum { MP_TABLE_COLUMNS = 16 };

struct mp_table { /* zero-initialised, then mp_table_init */
    uint32_t n;   /* columns */
    bool right[MP_TABLE_COLUMNS];
    struct mp_buf cells; /* each with a NUL behind it, row by row; the head first */
    uint32_t n_cells;
    const char *indent;
};

/* head: the columns' titles, separated by '|'; '>' before one: its cells stand at the right. indent: before each line. */
void mp_table_init(struct mp_table *t, const char *head, const char *indent);
/* The next cell: its text is made harmless for terminals. */
void mp_table_text(struct mp_table *t, const char *s);
void mp_table_printf(struct mp_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mp_table_bytes(struct mp_table *t, double n); /* "-" for 0 */
void mp_table_seconds(struct mp_table *t, double s);
void mp_table_count(struct mp_table *t, double n);
void mp_table_print(const struct mp_table *t, struct mp_buf *out);
void mp_table_free(struct mp_table *t);

#endif
