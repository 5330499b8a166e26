/* core/cli/doc.c — see doc.h. */
#include "core/cli/doc.h"

#include "core/base/json.h"

#include <string.h>

enum { MAX_VALUES = 4000000 };

static const struct mp_val none = {.key = "", .text = ""};

static struct mp_val *parse(struct mp_arena *a, struct mp_json *j, enum mp_json_tok tok)
{
    struct mp_val *v = mp_arena_alloc(a, sizeof *v), **tail;
    const char *key = "";
    *v = none;
    switch (tok) {
    case MP_JSON_NULL: v->type = MP_VAL_NULL; break;
    case MP_JSON_TRUE:
    case MP_JSON_FALSE:
        v->type = MP_VAL_BOOL;
        v->number = tok == MP_JSON_TRUE;
        break;
    case MP_JSON_NUMBER:
        v->type = MP_VAL_NUMBER;
        v->number = j->number;
        break;
    case MP_JSON_STRING:
        v->type = MP_VAL_STRING;
        v->text = mp_arena_strndup(a, j->text, j->len);
        break;
    case MP_JSON_OBJECT:
    case MP_JSON_ARRAY:
        v->type = tok == MP_JSON_OBJECT ? MP_VAL_OBJECT : MP_VAL_ARRAY;
        for (tail = &v->first; (tok = mp_json_next(j)) != MP_JSON_OBJECT_END && tok != MP_JSON_ARRAY_END;) {
            if (tok == MP_JSON_KEY) {
                key = mp_arena_strndup(a, j->text, j->len);
                tok = mp_json_next(j);
            }
            *tail = parse(a, j, tok);
            if (!*tail)
                return NULL;
            (*tail)->key = key;
            tail = &(*tail)->next;
        }
        break;
    default: return NULL;
    }
    return v;
}

const struct mp_val *mp_doc_parse(struct mp_arena *a, const char *s, size_t n, struct mp_err *err)
{
    struct mp_json j;
    struct mp_val *v;
    mp_json_init(&j, s, n, 0, MAX_VALUES);
    v = parse(a, &j, mp_json_next(&j));
    if (v && mp_json_next(&j) != MP_JSON_END)
        v = NULL;
    if (!v)
        mp_err_set(err, MP_EFORMAT, "not JSON: %s", j.err.message);
    mp_json_free(&j);
    return v;
}

const struct mp_val *mp_val_get(const struct mp_val *v, const char *key)
{
    if (v->type == MP_VAL_OBJECT)
        for (const struct mp_val *m = v->first; m; m = m->next)
            if (strcmp(m->key, key) == 0)
                return m;
    return &none;
}

double mp_val_number(const struct mp_val *v, const char *key)
{
    return mp_val_get(v, key)->number;
}

const char *mp_val_text(const struct mp_val *v, const char *key)
{
    return mp_val_get(v, key)->text;
}

bool mp_val_true(const struct mp_val *v, const char *key)
{
    const struct mp_val *m = mp_val_get(v, key);
    return m->type == MP_VAL_BOOL && m->number != 0;
}
