/* core/pool/pool.c — see pool.h. */
#include "core/pool/pool.h"

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/pool/pool_model.h"
#include "core/pool/provider.h"

#include <stdio.h>
#include <string.h>

struct provider {
    char *group;
    const struct mp_provider_ops *ops;
    void *ctx;
};

struct mp_pool {
    struct provider providers[MP_POOL_MAX_PROVIDERS]; /* written before workers start */
    uint32_t n_providers;
    pthread_mutex_t lock; /* guards models: control adds, any thread looks up */
    struct mp_pool_model **models;
    size_t n_models, cap_models;
    void (*demand)(void *ctx); /* written before workers start */
    void *demand_ctx;
    _Atomic uint64_t time; /* specs: where the clock stands; 0: it runs */
};

struct mp_pool_port {
    void (*wake)(void *ctx);
    void *wake_ctx;
    struct mp_pool *pool;
    void *links[MP_POOL_MAX_PROVIDERS];
};

struct mp_pool *mp_pool_new(void)
{
    struct mp_pool *p = mp_calloc(sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void mp_pool_free(struct mp_pool *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_models; i++) {
        pthread_mutex_destroy(&p->models[i]->lock);
        mp_free(p->models[i]->name);
        mp_free(p->models[i]);
    }
    mp_free(p->models);
    for (uint32_t i = 0; i < p->n_providers; i++)
        mp_free(p->providers[i].group);
    pthread_mutex_destroy(&p->lock);
    mp_free(p);
}

void mp_pool_on_demand(struct mp_pool *p, void (*demand)(void *ctx), void *ctx)
{
    p->demand = demand;
    p->demand_ctx = ctx;
}

void mp_pool_set_time(struct mp_pool *p, uint64_t now_ns)
{
    atomic_store_explicit(&p->time, now_ns, memory_order_relaxed);
}

uint64_t mp_pool_now(const struct mp_pool *p)
{
    uint64_t t = atomic_load_explicit(&p->time, memory_order_relaxed);
    return t ? t : mp_clock_mono_ns();
}

uint32_t mp_pool_provide(struct mp_pool *p, const char *group, const struct mp_provider_ops *ops, void *ctx)
{
    uint32_t slot = p->n_providers++;
    p->providers[slot] = (struct provider){mp_strdup(group), ops, ctx};
    return slot;
}

const struct mp_provider_ops *mp_pool_provider(const struct mp_pool *p, uint32_t slot, void **ctx)
{
    *ctx = p->providers[slot].ctx;
    return p->providers[slot].ops;
}

static int choose_provider(const struct mp_pool *p, const char *name, const char *const *devices, uint32_t n_devices,
                           uint32_t *slot, struct mp_err *err)
{
    struct mp_buf wanted = {0}, here = {0};
    for (uint32_t i = 0; i < n_devices; i++)
        for (uint32_t k = 0; k < p->n_providers; k++)
            if (strcmp(devices[i], p->providers[k].group) == 0) {
                *slot = k;
                return 0;
            }
    for (uint32_t i = 0; i < n_devices; i++)
        mp_buf_printf(&wanted, "%s%s", i ? ", " : "", devices[i]);
    for (uint32_t k = 0; k < p->n_providers; k++)
        mp_buf_printf(&here, "%s%s", k ? ", " : "", p->providers[k].group);
    mp_err_set(err, MP_EUNAVAILABLE, "model '%s': none of its devices (%s) is here; this server has: %s", name,
               mp_buf_cstr(&wanted), mp_buf_cstr(&here));
    mp_buf_free(&wanted);
    mp_buf_free(&here);
    return MP_EUNAVAILABLE;
}

struct mp_pool_model *mp_pool_find(struct mp_pool *p, const char *name)
{
    struct mp_pool_model *found = NULL;
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < p->n_models && !found; i++)
        if (strcmp(p->models[i]->name, name) == 0)
            found = p->models[i];
    pthread_mutex_unlock(&p->lock);
    return found;
}

struct mp_pool_model *mp_pool_at(struct mp_pool *p, size_t i)
{
    pthread_mutex_lock(&p->lock);
    struct mp_pool_model *m = i < p->n_models ? p->models[i] : NULL;
    pthread_mutex_unlock(&p->lock);
    return m;
}

int mp_pool_declare(struct mp_pool *p, const char *name, const char *const *devices, uint32_t n_devices,
                    struct mp_pool_model **out, struct mp_err *err)
{
    uint32_t slot = 0;
    struct mp_pool_model *m = mp_pool_find(p, name);
    int rc = m ? 0 : choose_provider(p, name, devices, n_devices, &slot, err);
    if (rc < 0)
        return rc;
    if (!m) {
        m = mp_calloc(sizeof *m);
        m->name = mp_strdup(name);
        m->provider = slot;
        m->pool = p;
        mp_pool_settings_init(&m->settings);
        pthread_mutex_init(&m->lock, NULL);
        snprintf(m->said.device, sizeof m->said.device, "%s", p->providers[slot].group);
        pthread_mutex_lock(&p->lock);
        if (p->n_models == p->cap_models) {
            p->cap_models = p->cap_models ? 2 * p->cap_models : 8;
            p->models = mp_realloc(p->models, p->cap_models * sizeof *p->models);
        }
        p->models[p->n_models++] = m;
        pthread_mutex_unlock(&p->lock);
    }
    *out = m;
    return 0;
}

/* ---- a model ---- */

const char *mp_pool_model_name(const struct mp_pool_model *m)
{
    return m->name;
}

uint32_t mp_pool_model_provider(const struct mp_pool_model *m)
{
    return m->provider;
}

enum mp_model_state mp_pool_model_state(const struct mp_pool_model *m)
{
    return (enum mp_model_state)atomic_load_explicit(&m->state, memory_order_acquire);
}

void mp_pool_model_status(struct mp_pool_model *m, struct mp_pool_status *out)
{
    pthread_mutex_lock(&m->lock);
    *out = m->said;
    pthread_mutex_unlock(&m->lock);
    out->waiting = atomic_load_explicit(&m->waiting, memory_order_relaxed);
    out->in_flight = atomic_load_explicit(&m->in_flight, memory_order_relaxed);
    out->calls = atomic_load_explicit(&m->calls, memory_order_relaxed);
}

static void put(char *out, size_t size, struct mp_span s)
{
    size_t n = s.n < size - 1 ? s.n : size - 1;
    memcpy(out, s.p ? s.p : "", s.p ? n : 0);
    out[s.p ? n : 0] = '\0';
}

void mp_pool_model_report(struct mp_pool_model *m, const struct mp_msg_model_state *said, uint32_t engine)
{
    pthread_mutex_lock(&m->lock);
    m->said.state = (enum mp_model_state)said->state;
    m->said.lost = false;
    m->said.done = said->done;
    m->said.total = said->total;
    m->said.memory = said->memory;
    m->said.context = said->context ? said->context : m->said.context;
    m->said.running = said->running;
    m->said.queued = said->waiting;
    m->said.loads = said->loads;
    m->said.engine = engine;
    m->said.error = said->error;
    if (said->device.n > 0)
        put(m->said.device, sizeof m->said.device, said->device);
    put(m->said.arch, sizeof m->said.arch, said->arch);
    put(m->said.reason, sizeof m->said.reason, said->reason);
    atomic_store_explicit(&m->state, said->state, memory_order_release);
    pthread_mutex_unlock(&m->lock);
}

void mp_pool_model_lost(struct mp_pool_model *m)
{
    pthread_mutex_lock(&m->lock);
    m->said.state = MP_MODEL_DECLARED;
    m->said.lost = true;
    m->said.done = m->said.total = m->said.memory = 0;
    m->said.running = m->said.queued = m->said.loads = m->said.engine = 0;
    atomic_store_explicit(&m->state, MP_MODEL_DECLARED, memory_order_release);
    pthread_mutex_unlock(&m->lock);
}

void mp_pool_model_facts(struct mp_pool_model *m, uint64_t now_ns, struct mp_pool_facts *out)
{
    (void)now_ns;
    *out = (struct mp_pool_facts){.name = m->name, .device = m->pool->providers[m->provider].group};
    pthread_mutex_lock(&m->lock);
    out->settings = m->settings;
    out->memory = m->said.memory;
    out->need = m->said.need;
    pthread_mutex_unlock(&m->lock);
    out->state = mp_pool_model_state(m);
    out->in_flight = atomic_load_explicit(&m->in_flight, memory_order_relaxed);
    out->queued = atomic_load_explicit(&m->waiting, memory_order_relaxed);
    out->calls = atomic_load_explicit(&m->calls, memory_order_relaxed);
}

int mp_pool_model_ask(struct mp_pool_model *m, const struct mp_pool_override *o, uint32_t reset, struct mp_err *err)
{
    int rc = mp_pool_override_check(o, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&m->lock);
    mp_pool_override_add(&m->asked, o, reset);
    m->asked_reset = (m->asked_reset | reset) & ~o->set;
    pthread_mutex_unlock(&m->lock);
    if (m->pool->demand)
        m->pool->demand(m->pool->demand_ctx);
    return 0;
}

/* ---- ports ---- */

struct mp_pool_port *mp_pool_port_new(struct mp_pool *p, void (*wake)(void *ctx), void *ctx)
{
    struct mp_pool_port *port = mp_calloc(sizeof *port);
    port->pool = p;
    port->wake = wake;
    port->wake_ctx = ctx;
    return port;
}

void mp_pool_port_run(struct mp_pool_port *port, uint64_t now_ns)
{
    (void)port, (void)now_ns;
}

uint64_t mp_pool_port_due(const struct mp_pool_port *port)
{
    (void)port;
    return UINT64_MAX;
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

struct mp_pool *mp_pool_port_pool(const struct mp_pool_port *port)
{
    return port->pool;
}

const struct mp_provider_ops *mp_pool_port_link(const struct mp_pool_port *port, const struct mp_pool_model *m,
                                                void **link)
{
    *link = port->links[m->provider];
    return port->pool->providers[m->provider].ops;
}
