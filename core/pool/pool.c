/* core/pool/pool.c — see pool.h. */
#include "core/pool/pool.h"

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/pool/pool_model.h"
#include "core/pool/provider.h"
#include "core/pool/queue.h"

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
        mp_heap_free(&p->models[i]->ready);
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

void mp_pool_demand(struct mp_pool *p)
{
    if (p->demand)
        p->demand(p->demand_ctx);
}

const char *mp_pool_group(const struct mp_pool *p, uint32_t provider)
{
    return p->providers[provider].group;
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
        m->declared_ns = m->since_ns = mp_pool_now(p);
        m->ready.less = mp_queue_before;
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

/* With the lock held. */
static double idle_seconds(const struct mp_pool_model *m, uint64_t now)
{
    uint64_t last = m->declared_ns > m->used_ns ? m->declared_ns : m->used_ns;
    last = m->warm_ns > last ? m->warm_ns : last;
    return m->waiting + m->in_flight > 0 || last > now ? 0 : (double)(now - last) / 1e9;
}

static double seconds(uint64_t from, uint64_t now)
{
    return now > from ? (double)(now - from) / 1e9 : 0;
}

void mp_pool_model_status(struct mp_pool_model *m, struct mp_pool_status *out)
{
    uint64_t now = mp_pool_now(m->pool);
    pthread_mutex_lock(&m->lock);
    *out = m->said;
    out->state = mp_pool_model_state(m);
    out->load_asked = m->load_asked;
    out->waiting = m->waiting;
    out->in_flight = m->in_flight;
    out->calls = m->calls;
    out->reserved = m->reserved;
    out->loads_total = m->loads_total;
    out->cold_starts = m->cold_starts;
    out->load_seconds = m->load_seconds;
    out->idle = idle_seconds(m, now);
    out->state_seconds = seconds(m->since_ns, now);
    if (m->kept && out->state == MP_MODEL_FAILED) { /* the keeper's words: they know of timeouts and lost engines */
        out->error = m->failure.code;
        snprintf(out->reason, sizeof out->reason, "%s", m->failure.message);
    }
    pthread_mutex_unlock(&m->lock);
}

void mp_pool_model_facts(struct mp_pool_model *m, uint64_t now_ns, struct mp_pool_facts *out)
{
    *out = (struct mp_pool_facts){.name = m->name, .device = mp_pool_group(m->pool, m->provider)};
    pthread_mutex_lock(&m->lock);
    out->state = mp_pool_model_state(m);
    out->warm = out->state == MP_MODEL_WARM;
    out->replicas = out->warm || out->state == MP_MODEL_LOADING || out->state == MP_MODEL_DRAINING;
    out->in_flight = m->in_flight;
    out->queued = m->waiting + (m->nudged && m->waiting == 0);
    out->settings = m->settings;
    out->idle = idle_seconds(m, now_ns);
    out->oldest_wait = mp_queue_oldest(m, now_ns);
    out->load_seconds = m->load_seconds;
    out->service_seconds = m->service;
    out->resident = out->warm ? seconds(m->warm_ns, now_ns) : 0;
    out->memory = m->reserved;
    out->need = m->said.need;
    out->calls = m->calls;
    out->loads = m->loads_total;
    pthread_mutex_unlock(&m->lock);
}

static void put(char *out, size_t size, struct mp_span s)
{
    size_t n = s.n < size - 1 ? s.n : size - 1;
    memcpy(out, s.p ? s.p : "", s.p ? n : 0);
    out[s.p ? n : 0] = '\0';
}

void mp_pool_model_report(struct mp_pool_model *m, const struct mp_msg_model_state *said, uint32_t engine)
{
    uint64_t now = mp_pool_now(m->pool);
    pthread_mutex_lock(&m->lock);
    m->said.state = (enum mp_model_state)said->state;
    m->said.lost = false;
    m->said.done = said->done;
    m->said.total = said->total;
    m->said.memory = said->memory;
    m->said.reserved = said->reserved;
    m->said.context = said->context ? said->context : m->said.context;
    m->said.running = said->running;
    m->said.queued = said->waiting;
    m->said.loads = said->loads;
    m->said.engine = engine;
    m->said.error = said->error;
    if (said->device.n > 0)
        put(m->said.device, sizeof m->said.device, said->device);
    m->said.need = said->need ? said->need : m->said.need;
    put(m->said.arch, sizeof m->said.arch, said->arch);
    put(m->said.reason, sizeof m->said.reason, said->reason);
    if (!m->kept) {
        m->reserved = said->reserved;
        mp_queue_state_locked(m, (enum mp_model_state)said->state, now);
    }
    pthread_mutex_unlock(&m->lock);
}

void mp_pool_model_lost(struct mp_pool_model *m)
{
    uint64_t now = mp_pool_now(m->pool);
    pthread_mutex_lock(&m->lock);
    m->said.state = MP_MODEL_DECLARED;
    m->said.lost = true;
    m->said.done = m->said.total = m->said.memory = m->said.reserved = 0;
    m->said.running = m->said.queued = m->said.loads = m->said.engine = 0;
    if (!m->kept) {
        m->reserved = 0;
        mp_queue_state_locked(m, MP_MODEL_DECLARED, now);
    }
    pthread_mutex_unlock(&m->lock);
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
    mp_pool_demand(m->pool);
    return 0;
}
