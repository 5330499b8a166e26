/* core/script/problems.h — everything that is wrong with a configuration, all at once, each with its place.
 * Filled by decl.c, schema.c and generation.c; printed by `moonpool check`, `serve` and (later) `reload`. */
#ifndef MP_SCRIPT_PROBLEMS_H
#define MP_SCRIPT_PROBLEMS_H
#include "core/base/buf.h"
#include "core/script/source.h"

struct mp_problem {
    const char *file;      /* name of a source, or NULL: the problem has no place */
    uint32_t line, column; /* from 1; 0 unknown */
    const char *message; /* "conf/moonpool.lua:14: mp.model \"smollm2\": unknown key 'x'\n   14 | …\n      | ^^^\n…" */
};

struct mp_problems { /* zero-initialised is empty and valid */
    struct mp_problem *list;
    uint32_t n, cap;
};

void mp_problems_free(struct mp_problems *p);
/* A problem at file:line; column and width mark a part of that line (width 0: no marker). Both lines of the source are
 * shown when `sources` has the file. hint: a last line ("did you mean 'x'?"), or NULL. Equal problems are kept once; they
 * are kept sorted by file and line. */
void mp_problems_add(struct mp_problems *p, const struct mp_sources *sources, const char *file, uint32_t line,
                     uint32_t column, uint32_t width, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 8, 9)));
/* All messages, an empty line between two, and "N problems" behind more than one. */
void mp_problems_print(const struct mp_problems *p, struct mp_buf *out);

#endif
