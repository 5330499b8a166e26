/* core/net/evloop.c — see evloop.h. */
#include "core/net/evloop.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include <pthread.h>
#include <stdlib.h>
#include <uv.h>

struct post {
    struct post *next;
    void (*fn)(void *);
    void *arg;
};

struct mp_evloop {
    uv_loop_t uv;
    uv_async_t async;
    pthread_mutex_t lock;
    struct post *first, **last; /* guarded by lock */
};

static void run_posts(struct mp_evloop *l)
{
    pthread_mutex_lock(&l->lock);
    struct post *p = l->first;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    while (p) {
        struct post *next = p->next;
        p->fn(p->arg);
        mp_free(p);
        p = next;
    }
}

static void on_async(uv_async_t *async)
{
    run_posts(async->data);
}

struct mp_evloop *mp_evloop_new(void)
{
    struct mp_evloop *l = mp_calloc(sizeof *l);
    int rc = uv_loop_init(&l->uv);
    if (rc == 0)
        rc = uv_async_init(&l->uv, &l->async, on_async);
    if (rc < 0) {
        mp_error("cannot make an event loop: %s", uv_strerror(rc));
        abort();
    }
    l->async.data = l;
    pthread_mutex_init(&l->lock, NULL);
    l->last = &l->first;
    return l;
}

void mp_evloop_free(struct mp_evloop *l)
{
    if (!l)
        return;
    run_posts(l);
    uv_close((uv_handle_t *)&l->async, NULL);
    int rc = UV_EBUSY;
    for (int turn = 0; turn < 100 && rc == UV_EBUSY; turn++) {
        uv_run(&l->uv, UV_RUN_NOWAIT);
        rc = uv_loop_close(&l->uv);
    }
    if (rc < 0) {
        mp_error("an event loop was freed while handles were open");
        abort();
    }
    run_posts(l);
    pthread_mutex_destroy(&l->lock);
    mp_free(l);
}

struct uv_loop_s *mp_evloop_uv(struct mp_evloop *l)
{
    return &l->uv;
}

void mp_evloop_run(struct mp_evloop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

bool mp_evloop_turn(struct mp_evloop *l, bool wait)
{
    return uv_run(&l->uv, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT) != 0;
}

void mp_evloop_post(struct mp_evloop *l, void (*fn)(void *arg), void *arg)
{
    struct post *p = mp_malloc(sizeof *p);
    *p = (struct post){NULL, fn, arg};
    pthread_mutex_lock(&l->lock);
    *l->last = p;
    l->last = &p->next;
    /* Inside the lock: whoever frees the loop after having seen this post run must not overtake the wake-up. */
    uv_async_send(&l->async);
    pthread_mutex_unlock(&l->lock);
}

static void stop(void *arg)
{
    uv_stop(&((struct mp_evloop *)arg)->uv);
}

void mp_evloop_stop(struct mp_evloop *l)
{
    mp_evloop_post(l, stop, l);
}

uint64_t mp_evloop_now_ms(struct mp_evloop *l)
{
    return uv_now(&l->uv);
}
