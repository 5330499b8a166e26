/* core/gateway/worker.c — see worker.h. */
#include "core/gateway/worker.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/answer.h"
#include "core/gateway/calls.h"
#include "core/gateway/limits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <uv.h>

/* When the worker's port runs: at once when another thread gave one of its calls a place (`wake` is sent, many at once count as one), and
 * when its earliest waiting call times out. That moment is looked at before each sleep of the loop: calls come and go in every turn. */
struct mp_port_clock {
    struct mp_pool_port *port;
    uv_async_t wake; /* any thread sends it */
    uv_timer_t due;
    uv_prepare_t before_sleep;
    uint64_t armed; /* what the timer is set to; UINT64_MAX: it is not */
    int handles;    /* how many of the three are not closed yet */
};

static void port_run(struct mp_port_clock *k)
{
    mp_pool_port_run(k->port, mp_clock_mono_ns());
}

static void on_wake(uv_async_t *h)
{
    port_run(h->data);
}

static void on_due(uv_timer_t *h)
{
    struct mp_port_clock *k = h->data;
    k->armed = UINT64_MAX;
    port_run(k);
}

static void on_before_sleep(uv_prepare_t *h)
{
    struct mp_port_clock *k = h->data;
    uint64_t due = mp_pool_port_due(k->port), now;
    if (due == k->armed)
        return;
    k->armed = due;
    if (due == UINT64_MAX) {
        uv_timer_stop(&k->due);
        return;
    }
    now = mp_clock_mono_ns();
    uv_update_time(h->loop); /* the timer counts from the loop's own time */
    uv_timer_start(&k->due, on_due, due > now ? (due - now) / 1000000 + 1 : 0, 0);
}

static void port_wake(void *ctx)
{
    struct mp_port_clock *k = ctx;
    uv_async_send(&k->wake);
}

static struct mp_port_clock *clock_new(struct mp_evloop *loop, struct mp_pool *pool)
{
    struct mp_port_clock *k = mp_calloc(sizeof *k);
    uv_loop_t *uv = mp_evloop_uv(loop);
    k->armed = UINT64_MAX;
    k->handles = 3;
    uv_async_init(uv, &k->wake, on_wake);
    uv_timer_init(uv, &k->due);
    uv_prepare_init(uv, &k->before_sleep);
    k->wake.data = k->due.data = k->before_sleep.data = k;
    k->port = mp_pool_port_new(pool, port_wake, k);
    uv_prepare_start(&k->before_sleep, on_before_sleep);
    return k;
}

static void on_clock_closed(uv_handle_t *h)
{
    struct mp_port_clock *k = h->data;
    if (--k->handles == 0)
        mp_free(k);
}

/* The port goes with it: from then on nobody sends `wake`. */
static void clock_free(struct mp_port_clock *k)
{
    mp_pool_port_free(k->port);
    uv_close((uv_handle_t *)&k->wake, on_clock_closed);
    uv_close((uv_handle_t *)&k->due, on_clock_closed);
    uv_close((uv_handle_t *)&k->before_sleep, on_clock_closed);
}

void mp_gateway_unpin(const struct mp_gateway *g, struct mp_generation *generation)
{
    if (mp_generation_unpin(generation))
        mp_evloop_post(g->control, g->on_idle_generation, g->on_idle_user);
}

static int set_up(struct mp_worker *w)
{
    const struct mp_gateway *g = w->gateway;
    struct mp_handler handler = mp_answer_handler(w);
    struct mp_engine *e;
    int rc = 0;
    w->clock = clock_new(w->loop, g->pool);
    w->port = w->clock->port;
    for (uint32_t i = 0; (e = mp_models_engine_at(g->models, i)) != NULL; i++) {
        w->calls[i] = mp_calls_new(w->loop, e);
        mp_pool_port_bind(w->port, mp_engine_slot(e), w->calls[i]);
    }
    w->script = mp_script_worker_new(w->index, mp_evloop_uv(w->loop), w->port);
    w->limits = mp_limits_new();
    w->server = mp_server_new(w->loop, &g->limits, &handler);
    for (uint32_t i = 0; i < w->n_listen && rc == 0; i++)
        rc = mp_server_listen(w->server, w->listen[i], &w->err);
    return rc;
}

static void *run(void *arg)
{
    struct mp_worker *w = arg;
    char name[16];
    snprintf(name, sizeof name, "worker %u", w->index);
    pthread_setname_np(pthread_self(), name);
    set_up(w);
    sem_post(&w->started);
    mp_evloop_run(w->loop);
    mp_server_free(w->server);
    mp_limits_free(w->limits);
    mp_script_worker_free(w->script);
    for (size_t i = 0; i < MP_COUNT(w->calls); i++)
        mp_calls_free(w->calls[i]);
    clock_free(w->clock);
    return NULL;
}

int mp_worker_start(struct mp_worker *w, struct mp_err *err)
{
    int rc;
    w->loop = mp_evloop_new();
    sem_init(&w->started, 0, 0);
    rc = pthread_create(&w->thread, NULL, run, w);
    if (rc != 0) {
        mp_evloop_free(mp_move(&w->loop));
        return mp_err_set(err, MP_EIO, "cannot start a worker thread: %s", strerror(rc));
    }
    while (sem_wait(&w->started) < 0 && errno == EINTR)
        ;
    if (w->err.code && err)
        *err = w->err;
    return w->err.code;
}

static void on_declared(void *arg)
{
    struct mp_worker *w = arg;
    for (size_t i = 0; i < MP_COUNT(w->calls); i++)
        if (w->calls[i])
            mp_calls_declared(w->calls[i]);
}

void mp_worker_declared(struct mp_worker *w)
{
    mp_evloop_post(w->loop, on_declared, w);
}

struct told { /* something that a worker is told */
    struct mp_worker *worker;
    void *what;
};

static void tell(struct mp_worker *w, void (*fn)(void *arg), void *what)
{
    struct told *t = mp_malloc(sizeof *t);
    *t = (struct told){w, what};
    mp_evloop_post(w->loop, fn, t);
}

static void on_engine(void *arg)
{
    struct told *t = arg;
    struct mp_worker *w = t->worker;
    struct mp_engine *e = t->what;
    uint32_t i = 0;
    while (i < MP_COUNT(w->calls) && w->calls[i])
        i++;
    if (i < MP_COUNT(w->calls)) { /* as many as there may be engines */
        w->calls[i] = mp_calls_new(w->loop, e);
        mp_pool_port_bind(w->port, mp_engine_slot(e), w->calls[i]);
    }
    mp_free(t);
}

void mp_worker_engine(struct mp_worker *w, struct mp_engine *e)
{
    tell(w, on_engine, e);
}

static bool among(int fd, const int *fds, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (fds[i] == fd)
            return true;
    return false;
}

static void on_swap(void *arg)
{
    struct mp_worker_swap *s = arg;
    struct mp_worker *w = s->worker;
    struct mp_err err = {0};
    for (uint32_t i = 0; i < w->n_listen; i++)
        if (!among(w->listen[i], s->listen, s->n_listen))
            mp_server_unlisten(w->server, w->listen[i]);
    for (uint32_t i = 0; i < s->n_listen; i++)
        if (!among(s->listen[i], w->listen, w->n_listen) && mp_server_listen(w->server, s->listen[i], &err) < 0)
            mp_error("worker %u does not accept connections on a new address: %s", w->index, err.message);
    memcpy(w->listen, s->listen, s->n_listen * sizeof s->listen[0]);
    w->n_listen = s->n_listen;
    w->generation = s->generation;
    s->done(s->user);
}

void mp_worker_swap(struct mp_worker *w, struct mp_worker_swap *s)
{
    s->worker = w;
    mp_evloop_post(w->loop, on_swap, s);
}

static void on_expire(void *arg)
{
    struct told *t = arg;
    mp_script_worker_cancel(t->worker->script, t->what, MP_CANCEL_SHUTDOWN);
    mp_free(t);
}

void mp_worker_expire(struct mp_worker *w, struct mp_generation *g)
{
    tell(w, on_expire, g);
}

struct script_task {
    struct mp_worker *worker;
    void (*fn)(struct mp_script_worker *script, void *arg);
    void *arg;
};

static void on_script(void *arg)
{
    struct script_task *t = arg;
    t->fn(t->worker->script, t->arg);
    mp_free(t);
}

void mp_worker_script(struct mp_worker *w, void (*fn)(struct mp_script_worker *script, void *arg), void *arg)
{
    struct script_task *t = mp_malloc(sizeof *t);
    *t = (struct script_task){w, fn, arg};
    mp_evloop_post(w->loop, on_script, t);
}

static void on_gone(void *arg)
{
    struct mp_worker *w = arg;
    w->gone(w->gone_user);
}

static void on_drain(void *arg)
{
    struct mp_worker *w = arg;
    mp_server_stop(w->server, on_gone, w);
    for (uint32_t i = 0; i < w->n_listen; i++)
        shutdown(w->listen[i], SHUT_RDWR); /* for all who hold it: connections are refused now, not left waiting */
}

void mp_worker_drain(struct mp_worker *w, void (*gone)(void *user), void *user)
{
    w->gone = gone;
    w->gone_user = user;
    mp_evloop_post(w->loop, on_drain, w);
}

static void on_cancel(void *arg)
{
    struct mp_worker *w = arg;
    mp_script_worker_cancel(w->script, NULL, MP_CANCEL_SHUTDOWN);
}

void mp_worker_cancel(struct mp_worker *w)
{
    mp_evloop_post(w->loop, on_cancel, w);
}

static void on_finish(void *arg)
{
    struct mp_worker *w = arg;
    mp_script_worker_cancel(w->script, NULL, MP_CANCEL_SHUTDOWN);
    mp_server_close(w->server);
    mp_evloop_stop(w->loop);
}

void mp_worker_end(struct mp_worker *w)
{
    if (!w->loop)
        return;
    mp_evloop_post(w->loop, on_finish, w);
    pthread_join(w->thread, NULL);
    mp_evloop_free(mp_move(&w->loop));
    sem_destroy(&w->started);
}
