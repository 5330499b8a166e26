/* core/engine/decl.c — see decl.h. */
#include "core/engine/decl.h"

#include "core/base/json.h"
#include "core/base/mem.h"
#include "gpu/device.h"

#include <string.h>

enum { DEFAULT_CONCURRENCY = 16 };

void mp_model_decl_free(struct mp_model_decl *d)
{
    mp_free(d->path);
    mp_free(d->sha256);
    *d = (struct mp_model_decl){0};
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool mp_model_decl_same(const struct mp_model_decl *a, const struct mp_model_decl *b)
{
    return same_text(a->path, b->path) && same_text(a->sha256, b->sha256) && a->context == b->context &&
           a->numerics == b->numerics;
}

static int want(struct mp_json *j, enum mp_json_tok tok, enum mp_json_tok wanted, const char *key, const char *what,
                struct mp_err *err)
{
    if (tok == wanted)
        return 0;
    if (tok == MP_JSON_ERROR)
        return mp_err_set(err, MP_EINVAL, "%s", j->err.message);
    return mp_err_set(err, MP_EINVAL, "%s: must be %s", key, what);
}

static int count(struct mp_json *j, const char *key, double most, uint32_t *out, struct mp_err *err)
{
    int rc = want(j, mp_json_next(j), MP_JSON_NUMBER, key, "a whole number", err);
    if (rc == 0 && (!j->integer || j->number < 1 || j->number > most))
        rc = mp_err_set(err, MP_EINVAL, "%s: must be a whole number from 1 to %.0f", key, most);
    if (rc == 0)
        *out = (uint32_t)j->number;
    return rc;
}

static int text(struct mp_json *j, const char *key, char **out, struct mp_err *err)
{
    int rc = want(j, mp_json_next(j), MP_JSON_STRING, key, "a string", err);
    if (rc == 0 && (j->len == 0 || memchr(j->text, 0, j->len)))
        rc = mp_err_set(err, MP_EINVAL, "%s: must be a string, not empty, without NUL", key);
    if (rc == 0) {
        mp_free(*out);
        *out = mp_strndup(j->text, j->len);
    }
    return rc;
}

static int devices(struct mp_json *j, const char *group, bool *here, struct mp_err *err)
{
    int rc = want(j, mp_json_next(j), MP_JSON_ARRAY, "devices", "a list of strings", err);
    *here = false;
    while (rc == 0) {
        enum mp_json_tok tok = mp_json_next(j);
        if (tok == MP_JSON_ARRAY_END)
            break;
        rc = want(j, tok, MP_JSON_STRING, "devices", "a list of strings", err);
        if (rc == 0 && strlen(group) == j->len && memcmp(group, j->text, j->len) == 0)
            *here = true;
    }
    return rc;
}

/* One member of the specification, its key just read. */
static int member(struct mp_json *j, const char *key, const char *group, struct mp_model_decl *d, bool *here,
                  struct mp_err *err)
{
    char *word = NULL;
    int rc = 0;
    if (strcmp(key, "source") == 0) {
        rc = text(j, key, &d->path, err);
    } else if (strcmp(key, "sha256") == 0) {
        rc = text(j, key, &d->sha256, err);
        if (rc == 0 && (strlen(d->sha256) != 64 || strspn(d->sha256, "0123456789abcdefABCDEF") != 64))
            rc = mp_err_set(err, MP_EINVAL, "sha256: must be 64 hex digits");
    } else if (strcmp(key, "context") == 0) {
        rc = count(j, key, 1 << 24, &d->context, err);
    } else if (strcmp(key, "max_concurrency") == 0) {
        rc = count(j, key, MP_MODEL_MAX_CONCURRENCY, &d->max_seq, err);
    } else if (strcmp(key, "devices") == 0) {
        rc = devices(j, group, here, err);
    } else if (strcmp(key, "numerics") == 0) {
        rc = text(j, key, &word, err);
        int n = rc == 0 ? mp_numerics_parse(word) : 0;
        if (rc == 0 && n < 0)
            rc = mp_err_set(err, MP_EINVAL, "numerics: '%s' is none of plain, exact, fast", word);
        d->numerics = (uint8_t)(rc == 0 ? n : 0);
    } else if (strcmp(key, "kv_type") == 0) {
        rc = text(j, key, &word, err);
        if (rc == 0 && strcmp(word, "f32") != 0)
            rc = mp_err_set(err, MP_EUNSUPPORTED, "kv_type: '%s' is not built yet (f32 is)", word);
    } else {
        rc = mp_err_set(err, MP_EINVAL, "unknown key '%s'", key);
    }
    mp_free(word);
    return rc;
}

int mp_model_decl_parse(struct mp_span spec, const char *group, struct mp_model_decl *d, struct mp_err *err)
{
    struct mp_json j;
    char key[32] = "";
    bool here = true; /* its devices name this engine's group */
    *d = (struct mp_model_decl){.max_seq = DEFAULT_CONCURRENCY};
    mp_json_init(&j, spec.n ? spec.p : "", spec.n, 4, 1000);
    int rc = want(&j, mp_json_next(&j), MP_JSON_OBJECT, "the specification", "a JSON object", err);
    while (rc == 0) {
        enum mp_json_tok tok = mp_json_next(&j);
        if (tok == MP_JSON_OBJECT_END)
            break;
        rc = want(&j, tok, MP_JSON_KEY, "the specification", "a JSON object", err);
        size_t n = j.len < sizeof key - 1 ? j.len : sizeof key - 1;
        if (rc == 0) {
            memcpy(key, j.text, n);
            key[n] = 0;
            rc = member(&j, key, group, d, &here, err);
        }
    }
    if (rc == 0)
        rc = want(&j, mp_json_next(&j), MP_JSON_END, "the specification", "one JSON object", err);
    if (rc == 0 && !d->path)
        rc = mp_err_set(err, MP_EINVAL, "source: must be given");
    if (rc == 0 && !here)
        rc = mp_err_set(err, MP_EUNSUPPORTED, "devices: '%s' is not among them", group);
    mp_json_free(&j);
    if (rc < 0)
        mp_model_decl_free(d);
    return rc;
}
