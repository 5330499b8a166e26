/* core/cli/table.c — see table.h. */
#include "core/cli/table.h"

#include "core/cli/show.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void end_cell(struct mp_table *t)
{
    mp_buf_putc(&t->cells, '\0');
    t->n_cells++;
}

void mp_table_init(struct mp_table *t, const char *head, const char *indent)
{
    t->indent = indent;
    for (const char *p = head; *p && t->n < MP_TABLE_COLUMNS; t->n++) {
        size_t n;
        t->right[t->n] = *p == '>';
        p += t->right[t->n];
        n = strcspn(p, "|");
        mp_buf_put(&t->cells, p, n);
        end_cell(t);
        p += n + (p[n] == '|');
    }
}

void mp_table_text(struct mp_table *t, const char *s)
{
    mp_show_plain(&t->cells, s);
    end_cell(t);
}

void mp_table_printf(struct mp_table *t, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mp_table_text(t, text);
}

void mp_table_bytes(struct mp_table *t, double n)
{
    if (n >= 1 && n < 1.8e19)
        mp_show_bytes(&t->cells, (uint64_t)n);
    else
        mp_buf_putc(&t->cells, '-');
    end_cell(t);
}

void mp_table_seconds(struct mp_table *t, double s)
{
    mp_show_seconds(&t->cells, s);
    end_cell(t);
}

void mp_table_count(struct mp_table *t, double n)
{
    mp_show_count(&t->cells, n >= 0 && n < 1.8e19 ? (uint64_t)n : 0);
    end_cell(t);
}

static uint32_t width(const char *s)
{
    uint32_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void pad(struct mp_buf *out, uint32_t n)
{
    while (n-- > 0)
        mp_buf_putc(out, ' ');
}

void mp_table_print(const struct mp_table *t, struct mp_buf *out)
{
    uint32_t widest[MP_TABLE_COLUMNS] = {0};
    const char *p = t->cells.data;
    for (uint32_t i = 0; i < t->n_cells; i++, p += strlen(p) + 1)
        if (width(p) > widest[i % t->n])
            widest[i % t->n] = width(p);
    p = t->cells.data;
    for (uint32_t i = 0; i < t->n_cells; i++, p += strlen(p) + 1) {
        uint32_t column = i % t->n, room = widest[column] - width(p);
        if (column == 0)
            mp_buf_puts(out, t->indent);
        if (t->right[column])
            pad(out, room);
        mp_buf_puts(out, p);
        if (column + 1 == t->n) {
            while (out->len > 0 && out->data[out->len - 1] == ' ') /* empty cells at the end */
                out->len--;
            mp_buf_putc(out, '\n');
        } else {
            pad(out, (t->right[column] ? 0 : room) + 2);
        }
    }
}

void mp_table_free(struct mp_table *t)
{
    mp_buf_free(&t->cells);
}
