/* core/engine/jobs.c — see jobs.h. */
#include "core/engine/jobs.h"

#include "core/base/clock.h"
#include "core/base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { CACHE = 4, PROGRESS_NS = 50000000 };

struct mp_jobs {
    char name[16];
    uint32_t n;
    int nice;
    const struct mp_device_ops *ops;
    const char *spec;
    struct mp_box *in, *back;
    atomic_bool stopping; /* set by the owner, read by the threads */
    pthread_t *threads;
};

struct worker { /* one thread's own: templates of the models it met lately. They keep no file open */
    struct mp_jobs *jobs;
    struct cached {
        uint64_t serial; /* of its source; 0: free */
        struct mp_template *template;
        uint64_t used;
    } cache[CACHE];
    uint64_t clock;
};

static int template_of(struct worker *w, struct mp_source *source, struct mp_template **out, struct mp_err *err)
{
    struct cached *oldest = &w->cache[0];
    for (int i = 0; i < CACHE; i++) {
        struct cached *c = &w->cache[i];
        if (c->serial == mp_source_serial(source)) {
            c->used = ++w->clock;
            *out = c->template;
            return 0;
        }
        if (c->used < oldest->used)
            oldest = c;
    }
    struct mp_template *t = NULL;
    int rc = mp_template_new(&t, mp_source_gguf(source), err);
    if (rc < 0)
        return rc;
    mp_template_free(oldest->template);
    *oldest = (struct cached){mp_source_serial(source), t, ++w->clock};
    *out = t;
    return 0;
}

static int prepare(struct worker *w, struct mp_mail *m)
{
    struct mp_template *t = NULL;
    int rc = m->kind_of == MP_PREPARE_CHAT ? template_of(w, m->source, &t, &m->err) : 0;
    if (rc == 0)
        rc = mp_source_prompt(m->source, t, m->kind_of, m->special, m->bytes.data, m->bytes.len, &m->ids, &m->err);
    return rc;
}

struct progress {
    struct mp_jobs *jobs;
    struct mp_served *model;
    const atomic_bool *stop;
    uint64_t told_ns, told;
};

static bool on_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    uint64_t now = mp_clock_mono_ns();
    if (done != p->told && now - p->told_ns >= PROGRESS_NS) {
        struct mp_mail *m = mp_mail_new(MP_MAIL_PROGRESS, p->model, 0);
        m->done = done;
        m->total = total;
        p->told_ns = now;
        p->told = done;
        mp_box_put(p->jobs->back, m);
    }
    return !atomic_load(&p->jobs->stopping) && !(p->stop && atomic_load(p->stop));
}

static int open_model(const struct mp_jobs *j, struct mp_mail *m)
{
    struct mp_need need = {0};
    int rc = m->source ? 0 : mp_source_open(&m->source, &m->open, &m->err);
    if (rc == 0)
        rc = mp_load_need(m->source, j->ops, j->spec, &m->load, &need, &m->err);
    m->need = need.total;
    return rc;
}

static void work(struct worker *w, struct mp_mail *m)
{
    struct mp_jobs *j = w->jobs;
    struct progress p = {.jobs = j, .model = m->model, .stop = m->stop};
    int rc = MP_EINTERNAL;
    if (m->kind == MP_MAIL_OPEN || m->kind == MP_MAIL_PLAN)
        rc = open_model(j, m);
    else if (m->kind == MP_MAIL_PREPARE)
        rc = prepare(w, m);
    else if (m->kind == MP_MAIL_LOAD)
        rc = mp_load_read(m->loaded, on_progress, &p, &m->err);
    m->err.code = rc;
    mp_box_put(j->back, m);
}

static void *main_of_thread(void *arg)
{
    struct mp_jobs *j = arg;
    struct worker w = {.jobs = j};
    (void)prctl(PR_SET_NAME, j->name);
    if (j->nice > 0) /* of this thread alone, on Linux; nothing depends on it */
        (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + j->nice);
    for (;;) {
        struct mp_mail *m = mp_box_wait(j->in, UINT64_MAX);
        if (m && m->kind == MP_MAIL_STOP) {
            mp_mail_free(m);
            break;
        }
        if (m && atomic_load(&j->stopping)) {
            m->err.code = MP_ECANCELLED;
            mp_box_put(j->back, m); /* what it holds of the device is not for this thread to free */
        } else if (m) {
            work(&w, m);
        }
    }
    for (int i = 0; i < CACHE; i++)
        mp_template_free(w.cache[i].template);
    return NULL;
}

struct mp_jobs *mp_jobs_start(const char *name, uint32_t n, int nice, const struct mp_device_ops *ops, const char *spec,
                              struct mp_box *back)
{
    struct mp_jobs *j = mp_calloc(sizeof *j);
    j->ops = ops;
    j->spec = spec;
    for (size_t i = 0; name[i] && i < sizeof j->name - 1; i++)
        j->name[i] = name[i];
    j->n = n;
    j->nice = nice;
    j->in = mp_box_new();
    j->back = back;
    j->threads = mp_calloc(n * sizeof *j->threads);
    for (uint32_t i = 0; i < n; i++)
        if (pthread_create(&j->threads[i], NULL, main_of_thread, j) != 0) {
            j->n = i;
            break;
        }
    return j;
}

void mp_jobs_put(struct mp_jobs *j, struct mp_mail *m)
{
    mp_box_put(j->in, m);
}

void mp_jobs_stop(struct mp_jobs *j)
{
    if (!j)
        return;
    atomic_store(&j->stopping, true);
    for (uint32_t i = 0; i < j->n; i++)
        mp_box_put(j->in, mp_mail_new(MP_MAIL_STOP, NULL, 0));
    for (uint32_t i = 0; i < j->n; i++)
        pthread_join(j->threads[i], NULL);
    mp_box_free(j->in);
    mp_free(j->threads);
    mp_free(j);
}
