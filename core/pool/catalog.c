/* core/pool/catalog.c — declarations of models, and the catalog of one generation; see pool.h. */
#include "core/base/mem.h"
#include "core/pool/pool_model.h"

#include <math.h>
#include <string.h>

struct mp_catalog {
    struct mp_catalog_entry *rows;
    size_t n, cap;
};

struct mp_model_decl *mp_model_decl_new(const char *name, const char *source)
{
    struct mp_model_decl *d = mp_calloc(sizeof *d);
    d->name = mp_strdup(name);
    d->source = mp_strdup(source);
    d->sampling = (struct mp_model_sampling){.temperature = NAN,
                                             .top_p = NAN,
                                             .min_p = NAN,
                                             .repeat_penalty = NAN,
                                             .frequency_penalty = NAN,
                                             .presence_penalty = NAN,
                                             .top_k = -1,
                                             .seed = -1,
                                             .max_tokens = -1};
    d->max_replicas = 1;
    d->max_concurrency = 16;
    d->queue_max = 64;
    d->queue_timeout = 30;
    d->scaledown_window = 300;
    d->startup_timeout = 600;
    return d;
}

static char *copy(const char *s)
{
    return s ? mp_strdup(s) : NULL;
}

struct mp_model_decl *mp_model_decl_copy(const struct mp_model_decl *d)
{
    struct mp_model_decl *c = mp_calloc(sizeof *c);
    *c = *d;
    c->name = copy(d->name);
    c->source = copy(d->source);
    c->path = copy(d->path);
    c->sha256 = copy(d->sha256);
    c->where = copy(d->where);
    c->numerics = copy(d->numerics);
    c->kv_type = copy(d->kv_type);
    for (uint32_t i = 0; i < d->n_devices; i++)
        c->devices[i] = copy(d->devices[i]);
    for (uint32_t i = 0; i < d->n_alias; i++)
        c->alias[i] = copy(d->alias[i]);
    return c;
}

void mp_model_decl_free(struct mp_model_decl *d)
{
    if (!d)
        return;
    mp_free(d->name);
    mp_free(d->source);
    mp_free(d->path);
    mp_free(d->sha256);
    mp_free(d->where);
    mp_free(d->numerics);
    mp_free(d->kv_type);
    for (uint32_t i = 0; i < d->n_devices; i++)
        mp_free(d->devices[i]);
    for (uint32_t i = 0; i < d->n_alias; i++)
        mp_free(d->alias[i]);
    mp_free(d);
}

struct mp_catalog *mp_catalog_new(void)
{
    return mp_calloc(sizeof(struct mp_catalog));
}

void mp_catalog_free(struct mp_catalog *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++) {
        if (c->rows[i].model)
            mp_pool_model_unref(c->rows[i].model);
        mp_model_decl_free((struct mp_model_decl *)c->rows[i].decl);
    }
    mp_free(c->rows);
    mp_free(c);
}

static bool same(const char *s, const char *name, size_t n)
{
    return strlen(s) == n && memcmp(s, name, n) == 0;
}

const struct mp_catalog_entry *mp_catalog_find(const struct mp_catalog *c, const char *name, size_t n)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct mp_model_decl *d = c->rows[i].decl;
        if (same(d->name, name, n))
            return &c->rows[i];
        for (uint32_t k = 0; k < d->n_alias; k++)
            if (same(d->alias[k], name, n))
                return &c->rows[i];
    }
    return NULL;
}

static int taken(const struct mp_catalog *c, const struct mp_model_decl *decl, const char *name, struct mp_err *err)
{
    const struct mp_catalog_entry *e = mp_catalog_find(c, name, strlen(name));
    if (!e)
        return 0;
    return mp_err_set(err, MP_EINVAL, "%s: the model name '%s' is taken: mp.model \"%s\" at %s has it",
                      decl->where ? decl->where : "configuration", name, e->decl->name,
                      e->decl->where ? e->decl->where : "an unknown place");
}

int mp_catalog_take(struct mp_catalog *c, struct mp_model_decl *decl, struct mp_err *err)
{
    int rc = taken(c, decl, decl->name, err);
    for (uint32_t i = 0; i < decl->n_alias && rc == 0; i++)
        rc = taken(c, decl, decl->alias[i], err);
    if (rc < 0) {
        mp_model_decl_free(decl);
        return rc;
    }
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 4;
        c->rows = mp_realloc(c->rows, c->cap * sizeof *c->rows);
    }
    c->rows[c->n++] = (struct mp_catalog_entry){.decl = decl};
    return 0;
}

size_t mp_catalog_count(const struct mp_catalog *c)
{
    return c->n;
}

const struct mp_catalog_entry *mp_catalog_at(const struct mp_catalog *c, size_t i)
{
    return i < c->n ? &c->rows[i] : NULL;
}

struct mp_catalog_entry *mp_catalog_row(struct mp_catalog *c, size_t i)
{
    return &c->rows[i];
}
