/* core/cli/doc.h — a JSON document as a tree, for commands that show what a server said. */
#ifndef MP_DOC_H
#define MP_DOC_H
#include "core/base/arena.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct mp_val {
    enum { MP_VAL_NONE, MP_VAL_NULL, MP_VAL_BOOL, MP_VAL_NUMBER, MP_VAL_STRING, MP_VAL_ARRAY, MP_VAL_OBJECT } type;
    const char *key;             /* of an object's member; "" otherwise */
    const char *text;            /* STRING: up to its first NUL; "" otherwise */
    double number;               /* NUMBER; BOOL: 0 or 1 */
    struct mp_val *first, *next; /* of ARRAY and OBJECT: the first inside; the next one beside this */
};

/* In a's memory; NULL and err when it is no JSON. */
const struct mp_val *mp_doc_parse(struct mp_arena *a, const char *s, size_t n, struct mp_err *err);
/* The member of that key; where v is no object or has none, one of type NONE: never NULL. */
const struct mp_val *mp_val_get(const struct mp_val *v, const char *key);
double mp_val_number(const struct mp_val *v, const char *key);    /* 0 when it is none */
const char *mp_val_text(const struct mp_val *v, const char *key); /* "" when it is none */
bool mp_val_true(const struct mp_val *v, const char *key);

#endif
