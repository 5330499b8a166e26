/* core/engine/mail.c — see mail.h. */
#include "core/engine/mail.h"

#include "core/base/mem.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct mp_box {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t there;
    struct mp_mail *first, *last;
    int fd; /* -1 until mp_box_fd */
};

struct mp_mail *mp_mail_new(enum mp_mail_kind kind, struct mp_served *model, uint64_t tag)
{
    struct mp_mail *m = mp_calloc(sizeof *m);
    m->kind = (uint8_t)kind;
    m->model = model;
    m->tag = tag;
    return m;
}

void mp_mail_free(struct mp_mail *m)
{
    if (!m)
        return;
    mp_source_free(m->source);
    mp_ids_free(&m->ids);
    mp_buf_free(&m->bytes);
    mp_free(m->start);
    mp_free(m);
}

struct mp_msg_start *mp_start_copy(const struct mp_msg_start *s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_stops; i++)
        n += s->stops[i].n;
    struct mp_msg_start *copy = mp_malloc(sizeof *copy + n);
    char *at = (char *)(copy + 1);
    *copy = *s;
    for (uint32_t i = 0; i < s->n_stops; i++) {
        memcpy(at, s->stops[i].p, s->stops[i].n);
        copy->stops[i].p = at;
        at += s->stops[i].n;
    }
    return copy;
}

struct mp_box *mp_box_new(void)
{
    struct mp_box *b = mp_calloc(sizeof *b);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->there, &attr);
    pthread_condattr_destroy(&attr);
    b->fd = -1;
    return b;
}

void mp_box_free(struct mp_box *b)
{
    if (!b)
        return;
    for (struct mp_mail *m = b->first, *next; m; m = next) {
        next = m->next;
        mp_mail_free(m);
    }
    if (b->fd >= 0)
        close(b->fd);
    pthread_cond_destroy(&b->there);
    pthread_mutex_destroy(&b->lock);
    mp_free(b);
}

void mp_box_put(struct mp_box *b, struct mp_mail *m)
{
    m->next = NULL;
    pthread_mutex_lock(&b->lock);
    if (b->last)
        b->last->next = m;
    else
        b->first = m;
    b->last = m;
    if (b->fd >= 0)
        (void)eventfd_write(b->fd, 1);
    pthread_cond_signal(&b->there);
    pthread_mutex_unlock(&b->lock);
}

static struct mp_mail *pop(struct mp_box *b)
{
    struct mp_mail *m = b->first;
    if (m) {
        b->first = m->next;
        if (!b->first)
            b->last = NULL;
        m->next = NULL;
    }
    return m;
}

struct mp_mail *mp_box_take(struct mp_box *b)
{
    eventfd_t count;
    pthread_mutex_lock(&b->lock);
    struct mp_mail *m = pop(b);
    if (!m && b->fd >= 0)
        (void)eventfd_read(b->fd, &count);
    pthread_mutex_unlock(&b->lock);
    return m;
}

struct mp_mail *mp_box_wait(struct mp_box *b, uint64_t timeout_ns)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + timeout_ns % 1000000000u;
    uint64_t seconds = timeout_ns / 1000000000u < 86400 ? timeout_ns / 1000000000u : 86400;
    until.tv_sec += (time_t)(seconds + ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    pthread_mutex_lock(&b->lock);
    while (!b->first && rc == 0)
        rc = pthread_cond_timedwait(&b->there, &b->lock, &until);
    struct mp_mail *m = pop(b);
    pthread_mutex_unlock(&b->lock);
    return m;
}

int mp_box_fd(struct mp_box *b)
{
    pthread_mutex_lock(&b->lock);
    if (b->fd < 0)
        b->fd = eventfd(b->first ? 1 : 0, EFD_NONBLOCK | EFD_CLOEXEC);
    pthread_mutex_unlock(&b->lock);
    return b->fd;
}
