/* core/script/schema.h — tables of fields: what a declaration, an endpoint's input or a plugin's configuration may hold.
 *
 * One table serves the checks, the suggestions, the defaults and the documentation (`moonpool check --keys`). The tables
 * of mp.server, mp.model, mp.endpoint and mp.plugin are static (keys.c); `input` and `config` are compiled from what the
 * script wrote. A compiled schema belongs to no VM: every worker's VM checks against the same one. */
#ifndef MP_SCRIPT_SCHEMA_H
#define MP_SCRIPT_SCHEMA_H
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/script/locate.h"

struct lua_State;
struct mp_arena;

#define MP_TYPES(X)                                                                             \
    X(ANY, "any", "any value")                                                                  \
    X(STRING, "string", "a string")                                                             \
    X(NUMBER, "number", "a number")                                                             \
    X(INTEGER, "integer", "a whole number")                                                     \
    X(BOOLEAN, "boolean", "true or false")                                                      \
    X(SECONDS, "seconds", "seconds (a number, or text like \"5m\")")                            \
    X(BYTES, "bytes", "bytes (a number, or text like \"8MiB\")")                                \
    X(ENUM, "enum", "one of its words")                                                         \
    X(LIST, "list", "a list")                                                                   \
    X(MAP, "map", "a table with string keys")                                                   \
    X(TABLE, "table", "a table")                                                                \
    X(FUNCTION, "function", "a function")                                                       \
    X(NAMED, "named", "a name, or a table that begins with one, like { \"ratelimit\", x = 1 }") \
    X(ONE_OR_LIST, "one or list", "one value or a list of them")

enum mp_type {
#define X(code, name, must) MP_TYPE_##code,
    MP_TYPES(X)
#undef X
};

struct mp_schema;

struct mp_field {
    const char *key; /* NULL for the items of lists and maps */
    enum mp_type type;
    bool required;
    bool later;                     /* known, but a later version builds it: setting it is an error that says so */
    double min, max;                /* of the number; characters of a string; items of a list. Both 0: no bounds */
    double built_max;               /* above it: not yet built; 0: no such bound */
    const char *const *choices;     /* ENUM: ends with NULL */
    const char *const *unbuilt;     /* ENUM: words that a later version builds; ends with NULL; or NULL */
    const struct mp_field *item;    /* LIST, MAP, ONE_OR_LIST: NULL means any */
    const struct mp_schema *fields; /* TABLE, NAMED: NULL means any keys */
    const char *preset;             /* the default as JSON, or NULL */
    const char *also;               /* space-separated words that people write for it: for suggestions */
    const char *doc;                /* half a line */
};

struct mp_schema {
    const struct mp_field *fields;
    uint32_t n;
};

enum { MP_SCHEMA_DEPTH = 12 };

struct mp_checker { /* zero, then L, report and ctx */
    struct lua_State *L;
    /* One problem. steps: the way to it from the checked table; hint: NULL or a line. Both are the checker's. */
    void (*report)(void *ctx, const struct mp_step *steps, size_t n, const char *hint, const char *message);
    void *ctx;
    bool coerce;       /* values are text (a query): numbers and booleans are read from it */
    bool field_words;  /* say "field" (of a request), not "key" (of a declaration) */
    uint32_t problems; /* reported so far */
    struct mp_step steps[MP_SCHEMA_DEPTH];
    size_t n_steps;
};

/* Checks the table at idx and pushes a normalised copy: numbers in their unit, defaults filled in, ONE_OR_LIST a list,
 * NAMED { name = …, options = { … } }. With problems the copy is partial. */
void mp_schema_check(struct mp_checker *c, const struct mp_schema *s, int idx); /* -0 +1 */

/* Compiles { topic = {"string", max = 200}, … } at idx. Problems are reported through c; memory comes from a, which
 * must outlive the schema. NULL when there were problems. */
const struct mp_schema *mp_schema_compile(struct mp_checker *c, int idx, struct mp_arena *a); /* -0 +0 */

/* "a.b[2].c" of a way into nested tables; appended. */
void mp_schema_path(struct mp_buf *b, const struct mp_step *steps, size_t n);
/* "5m", "1h30m", "250ms", "10": false when it is neither. */
bool mp_parse_seconds(const char *s, double *out);
/* "8MiB", "64KB", "512", "1.5GiB": false when it is neither, or beyond 2^53. */
bool mp_parse_bytes(const char *s, double *out);
/* Edits (insert, delete, replace, swap neighbours) from a to b, at most `limit` + 1. */
unsigned mp_edit_distance(const char *a, const char *b, unsigned limit);
/* The word of `words` (n of them) nearest to s, or NULL when none is near. */
const char *mp_nearest(const char *s, const char *const *words, size_t n);

/* Markdown table of a schema's keys: what `moonpool check --keys` prints. */
void mp_schema_document(const struct mp_schema *s, struct mp_buf *out);

#endif
