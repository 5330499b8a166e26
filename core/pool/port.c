/* core/pool/port.c — a worker's port (pool.h, port.h): links to providers, news for the calls of its thread, and their times. */
#include "core/pool/port.h"

#include "core/base/mem.h"
#include "core/pool/queue.h"

static bool sooner(const struct mp_heap_node *a, const struct mp_heap_node *b)
{
    return mp_container_of(a, struct mp_waiter, time)->due_ns < mp_container_of(b, struct mp_waiter, time)->due_ns;
}

struct mp_pool_port *mp_pool_port_new(struct mp_pool *p, void (*wake)(void *ctx), void *ctx)
{
    struct mp_pool_port *port = mp_calloc(sizeof *port);
    port->pool = p;
    port->wake = wake;
    port->wake_ctx = ctx;
    port->times.less = sooner;
    pthread_mutex_init(&port->lock, NULL);
    return port;
}

void mp_pool_port_free(struct mp_pool_port *port)
{
    if (!port)
        return;
    mp_heap_free(&port->times);
    pthread_mutex_destroy(&port->lock);
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
    void *ctx;
    *link = port->links[m->provider];
    return mp_pool_provider(port->pool, m->provider, &ctx);
}

/* ---- news, from any thread ---- */

static void wake(struct mp_pool_port *port)
{
    if (!port->woken && port->wake)
        port->wake(port->wake_ctx);
    port->woken = true;
}

void mp_port_tell(struct mp_pool_port *port, struct mp_waiter *w)
{
    pthread_mutex_lock(&port->lock);
    w->in_news = true;
    w->news_next = NULL;
    w->news_prev = port->news_last;
    *(port->news_last ? &port->news_last->news_next : &port->news) = w;
    port->news_last = w;
    wake(port);
    pthread_mutex_unlock(&port->lock);
}

void mp_port_tell_times(struct mp_pool_port *port)
{
    pthread_mutex_lock(&port->lock);
    port->again = true;
    wake(port);
    pthread_mutex_unlock(&port->lock);
}

/* ---- its own thread ---- */

static void unlink_news(struct mp_pool_port *port, struct mp_waiter *w)
{
    *(w->news_prev ? &w->news_prev->news_next : &port->news) = w->news_next;
    *(w->news_next ? &w->news_next->news_prev : &port->news_last) = w->news_prev;
    w->news_prev = w->news_next = NULL;
    w->in_news = false;
}

void mp_port_forget(struct mp_pool_port *port, struct mp_waiter *w)
{
    pthread_mutex_lock(&port->lock);
    if (w->in_news)
        unlink_news(port, w);
    pthread_mutex_unlock(&port->lock);
    mp_heap_remove(&port->times, &w->time);
}

void mp_port_time(struct mp_pool_port *port, struct mp_waiter *w, uint64_t due_ns)
{
    mp_heap_remove(&port->times, &w->time);
    w->due_ns = due_ns;
    mp_heap_push(&port->times, &w->time);
}

static struct mp_waiter *next_news(struct mp_pool_port *port)
{
    pthread_mutex_lock(&port->lock);
    struct mp_waiter *w = port->news;
    if (w)
        unlink_news(port, w);
    pthread_mutex_unlock(&port->lock);
    if (w)
        mp_heap_remove(&port->times, &w->time);
    return w;
}

static void count_times_anew(struct mp_pool_port *port, uint64_t now_ns)
{
    struct mp_heap old = port->times;
    port->times = (struct mp_heap){.less = sooner};
    for (uint32_t i = 0; i < old.n; i++) {
        struct mp_waiter *w = mp_container_of(old.v[i], struct mp_waiter, time);
        w->time.at = 0;
        mp_port_time(port, w, mp_queue_due(w, now_ns));
    }
    mp_heap_free(&old);
}

static struct mp_waiter *first_due(const struct mp_pool_port *port)
{
    struct mp_heap_node *top = mp_heap_top(&port->times);
    return top ? mp_container_of(top, struct mp_waiter, time) : NULL;
}

void mp_pool_port_run(struct mp_pool_port *port, uint64_t now_ns)
{
    struct mp_waiter *w;
    struct mp_err err = {0};
    uint64_t due_ns;
    bool again;
    pthread_mutex_lock(&port->lock);
    again = port->again;
    port->again = port->woken = false;
    pthread_mutex_unlock(&port->lock);
    while ((w = next_news(port)) != NULL)
        mp_call_on_news(w);
    if (again)
        count_times_anew(port, now_ns);
    /* Not more than wait now: what an event begins is for the next run. */
    for (uint32_t n = port->times.n; n > 0 && (w = first_due(port)) != NULL && w->due_ns <= now_ns; n--) {
        if (mp_queue_expire(w, now_ns, &due_ns, &err))
            mp_call_on_expired(w, &err);
        else
            mp_port_time(port, w, due_ns);
    }
}

uint64_t mp_pool_port_due(const struct mp_pool_port *port)
{
    const struct mp_waiter *w = first_due(port);
    return w ? w->due_ns : UINT64_MAX;
}
