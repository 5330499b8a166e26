/* core/pool/pool.c — see pool.h. */
#include "core/pool/pool.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/pool/pool_model.h"
#include "core/pool/provider.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { POOL_MAGIC = 0x4c4f4f50, PORT_MAGIC = 0x54524f50 };

struct provider {
    char *name;
    const struct mp_provider_ops *ops;
    void *ctx;
};

struct mp_pool {
    uint32_t magic;
    struct provider providers[MP_POOL_MAX_PROVIDERS]; /* written before workers start */
    uint32_t n_providers;
    pthread_mutex_t lock; /* guards models: attach may run beside a sweep */
    struct mp_pool_model **models;
    size_t n_models, cap_models;
};

struct mp_pool_port {
    uint32_t magic;
    struct mp_pool *pool;
    void *links[MP_POOL_MAX_PROVIDERS];
};

const char *mp_replica_state_name(int state)
{
    static const char *const names[] = {
#define X(code, name) name,
        MP_REPLICA_STATES(X)
#undef X
    };
    return state >= 0 && (size_t)state < MP_COUNT(names) ? names[state] : NULL;
}

/* ---- models ---- */

static void model_free(struct mp_pool_model *m)
{
    mp_free(m->identity);
    mp_model_decl_free(m->decl);
    pthread_mutex_destroy(&m->lock);
    mp_free(m);
}

void mp_pool_model_unref(struct mp_pool_model *m)
{
    atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel);
}

uint64_t mp_pool_model_id(const struct mp_pool_model *m)
{
    return m->id;
}

const struct mp_model_decl *mp_pool_model_decl(const struct mp_pool_model *m)
{
    return m->decl;
}

uint32_t mp_pool_model_provider(const struct mp_pool_model *m)
{
    return m->provider;
}

void mp_pool_model_report(struct mp_pool_model *m, enum mp_replica_state state, uint64_t done, uint64_t total,
                          const char *device, const char *message)
{
    pthread_mutex_lock(&m->lock);
    m->done = done;
    m->total = total;
    if (device)
        snprintf(m->device, sizeof m->device, "%s", device);
    snprintf(m->message, sizeof m->message, "%s", message ? message : "");
    atomic_store_explicit(&m->state, state, memory_order_release);
    pthread_mutex_unlock(&m->lock);
}

void mp_pool_model_status(struct mp_pool_model *m, struct mp_pool_status *out)
{
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&m->lock);
    out->state = (enum mp_replica_state)atomic_load_explicit(&m->state, memory_order_acquire);
    out->loaded_bytes = m->done;
    out->total_bytes = m->total;
    memcpy(out->device, m->device, sizeof out->device);
    memcpy(out->message, m->message, sizeof out->message);
    pthread_mutex_unlock(&m->lock);
    out->waiting = atomic_load_explicit(&m->waiting, memory_order_relaxed);
    out->in_flight = atomic_load_explicit(&m->in_flight, memory_order_relaxed);
    out->calls = atomic_load_explicit(&m->calls, memory_order_relaxed);
}

/* ---- the pool ---- */

struct mp_pool *mp_pool_new(void)
{
    struct mp_pool *p = mp_calloc(sizeof *p);
    p->magic = POOL_MAGIC;
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void mp_pool_free(struct mp_pool *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_models; i++)
        model_free(p->models[i]);
    mp_free(p->models);
    for (uint32_t i = 0; i < p->n_providers; i++)
        mp_free(p->providers[i].name);
    pthread_mutex_destroy(&p->lock);
    mp_free(p);
}

uint32_t mp_pool_provide(struct mp_pool *p, const char *name, const struct mp_provider_ops *ops, void *ctx)
{
    uint32_t slot = p->n_providers++;
    p->providers[slot] = (struct provider){mp_strdup(name), ops, ctx};
    return slot;
}

const struct mp_provider_ops *mp_pool_provider(const struct mp_pool *p, uint32_t slot, void **ctx)
{
    *ctx = p->providers[slot].ctx;
    return p->providers[slot].ops;
}

/* The first provider that serves one of the declared devices, in the declaration's order. */
static int choose_provider(const struct mp_pool *p, const struct mp_model_decl *d, uint32_t *slot, struct mp_err *err)
{
    struct mp_buf wanted = {0}, have = {0};
    for (uint32_t i = 0; i < d->n_devices; i++)
        for (uint32_t k = 0; k < p->n_providers; k++)
            if (strcmp(d->devices[i], p->providers[k].name) == 0) {
                *slot = k;
                return 0;
            }
    for (uint32_t i = 0; i < d->n_devices; i++)
        mp_buf_printf(&wanted, "%s'%s'", i ? ", " : "", d->devices[i]);
    for (uint32_t k = 0; k < p->n_providers; k++)
        mp_buf_printf(&have, "%s'%s'", k ? ", " : "", p->providers[k].name);
    mp_err_set(err, MP_EUNAVAILABLE, "%s: mp.model \"%s\": none of its devices is here: wants %s, found %s",
               d->where ? d->where : "configuration", d->name, mp_buf_cstr(&wanted),
               have.len ? mp_buf_cstr(&have) : "none");
    mp_buf_free(&wanted);
    mp_buf_free(&have);
    return MP_EUNAVAILABLE;
}

/* What a loaded model is: the file (by path, inode, size and time of change) and how it was loaded. */
static char *identity_of(const struct mp_model_decl *d, const char *group, struct mp_err *err)
{
    struct stat st;
    if (stat(d->path, &st) < 0) {
        mp_err_errno(err, MP_EIO, "%s: mp.model \"%s\": cannot read %s", d->where ? d->where : "configuration", d->name,
                     d->path);
        return NULL;
    }
    return mp_asprintf("%s|%ju:%ju:%jd:%jd.%09ld|%s|%s|%" PRIu32 "|%s|%s", d->path, (uintmax_t)st.st_dev,
                       (uintmax_t)st.st_ino, (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                       d->sha256 ? d->sha256 : "", group, d->context, d->numerics ? d->numerics : "",
                       d->kv_type ? d->kv_type : "");
}

static uint64_t fnv1a(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h ? h : 1;
}

static struct mp_pool_model *model_by_id(struct mp_pool *p, uint64_t id)
{
    for (size_t i = 0; i < p->n_models; i++)
        if (p->models[i]->id == id)
            return p->models[i];
    return NULL;
}

/* Called with the lock held; takes identity. */
static struct mp_pool_model *model_acquire(struct mp_pool *p, const struct mp_model_decl *d, char *identity,
                                           uint32_t slot)
{
    struct mp_pool_model *m;
    uint64_t id = fnv1a(identity);
    while ((m = model_by_id(p, id)) != NULL && strcmp(m->identity, identity) != 0)
        id++;
    if (m) {
        mp_free(identity);
        atomic_fetch_add_explicit(&m->refs, 1, memory_order_acq_rel);
        return m;
    }
    m = mp_calloc(sizeof *m);
    m->id = id;
    m->identity = identity;
    m->decl = mp_model_decl_copy(d);
    m->provider = slot;
    atomic_init(&m->refs, 1);
    pthread_mutex_init(&m->lock, NULL);
    snprintf(m->device, sizeof m->device, "%s", p->providers[slot].name);
    if (p->n_models == p->cap_models) {
        p->cap_models = p->cap_models ? 2 * p->cap_models : 8;
        p->models = mp_realloc(p->models, p->cap_models * sizeof *p->models);
    }
    p->models[p->n_models++] = m;
    return m;
}

int mp_pool_attach(struct mp_pool *p, struct mp_catalog *c, struct mp_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < mp_catalog_count(c) && rc == 0; i++) {
        struct mp_catalog_entry *e = mp_catalog_row(c, i);
        uint32_t slot = 0;
        char *identity;
        if (e->model)
            continue;
        rc = choose_provider(p, e->decl, &slot, err);
        if (rc < 0)
            break;
        identity = identity_of(e->decl, p->providers[slot].name, err);
        if (identity)
            e->model = model_acquire(p, e->decl, identity, slot);
        else
            rc = MP_EIO;
    }
    pthread_mutex_unlock(&p->lock);
    return rc; /* what was acquired goes back with the catalog */
}

void mp_pool_each(struct mp_pool *p, bool (*visit)(void *user, struct mp_pool_model *m, bool unused), void *user)
{
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < p->n_models;) {
        struct mp_pool_model *m = p->models[i];
        bool unused = atomic_load_explicit(&m->refs, memory_order_acquire) == 0;
        if (visit(user, m, unused) && unused) {
            p->models[i] = p->models[--p->n_models];
            model_free(m);
        } else
            i++;
    }
    pthread_mutex_unlock(&p->lock);
}

struct mp_pool_model *mp_pool_find_id(struct mp_pool *p, uint64_t id)
{
    pthread_mutex_lock(&p->lock);
    struct mp_pool_model *m = model_by_id(p, id);
    pthread_mutex_unlock(&p->lock);
    return m;
}

/* ---- ports ---- */

struct mp_pool_port *mp_pool_port_new(struct mp_pool *p)
{
    struct mp_pool_port *port = mp_calloc(sizeof *port);
    port->magic = PORT_MAGIC;
    port->pool = p;
    return port;
}

void mp_pool_port_free(struct mp_pool_port *port)
{
    mp_free(port);
}

void mp_pool_port_bind(struct mp_pool_port *port, uint32_t provider, void *link)
{
    if (provider < MP_POOL_MAX_PROVIDERS)
        port->links[provider] = link;
}

const struct mp_provider_ops *mp_pool_port_link(const struct mp_pool_port *port, const struct mp_pool_model *m,
                                                void **link)
{
    *link = port->links[m->provider];
    return port->pool->providers[m->provider].ops;
}
