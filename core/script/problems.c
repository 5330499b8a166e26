/* core/script/problems.c — see problems.h. */
#include "core/script/problems.h"

#include "core/base/mem.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROBLEMS = 100, MAX_LINE = 160 };

void mp_problems_free(struct mp_problems *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        mp_free((char *)p->list[i].file);
        mp_free((char *)p->list[i].message);
    }
    mp_free(p->list);
    memset(p, 0, sizeof *p);
}

/* Spaces under `n` bytes of text, one per character; tabs stay tabs so that the marker stands right. */
static void indent(struct mp_buf *b, const char *s, size_t n, char c)
{
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            mp_buf_putc(b, c == ' ' && s[i] == '\t' ? '\t' : c);
}

/* The line of the source, and the marker below it. */
static void show_line(struct mp_buf *b, const struct mp_source *f, uint32_t line, uint32_t column, uint32_t width)
{
    const char *at = f->data, *end = f->data + f->n, *stop;
    for (uint32_t i = 1; i < line && at; i++) {
        at = memchr(at, '\n', (size_t)(end - at));
        at = at ? at + 1 : NULL;
    }
    if (!at || at >= end)
        return;
    stop = memchr(at, '\n', (size_t)(end - at));
    size_t n = (size_t)((stop ? stop : end) - at);
    if (n && at[n - 1] == '\r')
        n--;
    bool cut = n > MAX_LINE;
    mp_buf_printf(b, "\n%5u | ", line);
    size_t shown = cut ? MAX_LINE : n;
    while (cut && shown && ((unsigned char)at[shown] & 0xc0) == 0x80)
        shown--;
    mp_buf_put(b, at, shown);
    mp_buf_puts(b, cut ? "…" : "");
    if (width == 0 || column == 0 || (size_t)column - 1 + width > shown)
        return;
    mp_buf_puts(b, "\n      | ");
    indent(b, at, column - 1, ' ');
    indent(b, at + column - 1, width, '^');
}

static int order(const struct mp_problem *p, const char *file, uint32_t line, uint32_t column)
{
    int c = strcmp(p->file ? p->file : "", file ? file : "");
    if (c == 0)
        c = (p->line > line) - (p->line < line);
    return c ? c : (p->column > column) - (p->column < column);
}

void mp_problems_add(struct mp_problems *p, const struct mp_sources *sources, const char *file, uint32_t line,
                     uint32_t column, uint32_t width, const char *hint, const char *fmt, ...)
{
    struct mp_buf b = {0};
    va_list ap;
    if (file && line)
        mp_buf_printf(&b, "%s:%u: ", file, line);
    else if (file)
        mp_buf_printf(&b, "%s: ", file);
    char *text = NULL;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    mp_buf_puts(&b, n < 0 ? "out of memory" : text);
    free(text);
    const struct mp_source *source = file && sources ? mp_sources_by_name(sources, file) : NULL;
    if (source && line)
        show_line(&b, source, line, column, width);
    if (hint && hint[0])
        mp_buf_printf(&b, "\n%s", hint);

    uint32_t at = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (strcmp(p->list[i].message, mp_buf_cstr(&b)) == 0)
            goto out;
    if (p->n == MAX_PROBLEMS)
        goto out; /* a hundred are enough to work on */
    while (at < p->n && order(&p->list[at], file, line, column) <= 0)
        at++;
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 8;
        p->list = mp_realloc(p->list, p->cap * sizeof *p->list);
    }
    memmove(p->list + at + 1, p->list + at, (p->n - at) * sizeof *p->list);
    p->list[at] = (struct mp_problem){file ? mp_strdup(file) : NULL, line, column, mp_buf_take(&b, NULL)};
    p->n++;
out:
    mp_buf_free(&b);
}

void mp_problems_print(const struct mp_problems *p, struct mp_buf *out)
{
    for (uint32_t i = 0; i < p->n; i++)
        mp_buf_printf(out, "%s%s\n", i ? "\n" : "", p->list[i].message);
    if (p->n > 1)
        mp_buf_printf(out, "\n%u problems\n", p->n);
}
