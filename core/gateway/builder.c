/* core/gateway/builder.c — see builder.h. */
#include "core/gateway/builder.h"

#include "core/base/log.h"
#include "core/base/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { NICENESS = 5 }; /* workers go first on a busy machine */

struct task {
    struct task *next;
    void (*work)(void *arg), (*then)(void *arg);
    void *arg;
};

struct mp_builder {
    struct mp_evloop *loop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct task *first, **last; /* guarded by lock */
    bool end;                   /* guarded by lock */
};

static struct task *next_task(struct mp_builder *b)
{
    struct task *t;
    pthread_mutex_lock(&b->lock);
    while (!b->first && !b->end)
        pthread_cond_wait(&b->more, &b->lock);
    t = b->first;
    if (t) {
        b->first = t->next;
        if (!b->first)
            b->last = &b->first;
    }
    pthread_mutex_unlock(&b->lock);
    return t;
}

static void *run(void *arg)
{
    struct mp_builder *b = arg;
    struct task *t;
    pthread_setname_np(pthread_self(), "builder");
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICENESS); /* of this thread alone, on Linux */
    while ((t = next_task(b)) != NULL) {
        t->work(t->arg);
        if (t->then)
            mp_evloop_post(b->loop, t->then, t->arg);
        mp_free(t);
    }
    return NULL;
}

struct mp_builder *mp_builder_new(struct mp_evloop *loop)
{
    struct mp_builder *b = mp_calloc(sizeof *b);
    int rc;
    b->loop = loop;
    b->last = &b->first;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->more, NULL);
    rc = pthread_create(&b->thread, NULL, run, b);
    if (rc != 0) {
        mp_error("cannot start the builder thread: %s", strerror(rc));
        abort();
    }
    return b;
}

void mp_builder_do(struct mp_builder *b, void (*work)(void *arg), void (*then)(void *arg), void *arg)
{
    struct task *t = mp_malloc(sizeof *t);
    *t = (struct task){NULL, work, then, arg};
    pthread_mutex_lock(&b->lock);
    *b->last = t;
    b->last = &t->next;
    pthread_cond_signal(&b->more);
    pthread_mutex_unlock(&b->lock);
}

void mp_builder_free(struct mp_builder *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->end = true;
    pthread_cond_signal(&b->more);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    pthread_cond_destroy(&b->more);
    pthread_mutex_destroy(&b->lock);
    mp_free(b);
}
