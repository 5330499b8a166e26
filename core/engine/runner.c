/* core/engine/runner.c — see runner.h. */
#include "core/engine/runner.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/map.h"
#include "core/base/mem.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>

enum { TURN_NS = 2000000 };
#define TELL_NS 200000000u  /* memory that changes all the time is told of so often */
#define IDLE_NS 5000000000u /* after so long without work free KV pages are given back */

struct warm { /* a replica on the device */
    struct warm *next;
    struct mp_served *model;
    struct mp_loaded *loaded;
    struct mp_source *source;
    struct mp_replica *replica;
    struct mp_mail *drain;            /* answered when the last sequence is over */
    uint64_t kv_bytes, held, told_at; /* as last told, and when */
};

struct mp_runner {
    const struct mp_device_ops *ops;
    char *spec;
    struct mp_loop_conf conf;
    struct mp_box *in, *back;
    pthread_t thread;
    _Atomic uint64_t turn_ns,
        issue_ns; /* this thread writes, any reads: when the turn, the oldest step began; 0: none */

    /* the thread's own */
    struct mp_dev *dev;
    struct mp_loop *loop;
    struct mp_room *room;
    uint64_t limit; /* as asked for */
    struct warm *warm;
    struct mp_mail *waiting; /* BEGIN letters, planned, that wait for memory; oldest first */
    uint32_t users;          /* models that are loading or warm: the device stays open for them */
    struct mp_map seqs;      /* tag → sequence */
    bool stop;
};

static struct warm *find(struct mp_runner *r, const struct mp_served *model)
{
    for (struct warm *w = r->warm; w; w = w->next)
        if (w->model == model)
            return w;
    return NULL;
}

static void leave(struct mp_runner *r)
{
    if (--r->users > 0)
        return;
    mp_loop_free(r->loop);
    r->ops->close(r->dev);
    r->loop = NULL;
    r->dev = NULL;
    malloc_trim(0); /* nothing is loaded: what the allocator keeps for later goes back to the system */
}

/* The lower of what was asked for and what the device has. */
static void apply_limit(struct mp_runner *r)
{
    struct mp_caps caps = {0};
    if (r->dev)
        r->ops->caps(r->dev, &caps);
    mp_room_limit(r->room, r->limit > 0 && (caps.memory == 0 || r->limit < caps.memory) ? r->limit : caps.memory);
}

/* A BEGIN that ends here goes back. */
static void begun(struct mp_runner *r, struct mp_mail *m, int rc)
{
    m->err.code = rc;
    if (m->loaded)
        m->need = mp_loaded_need(m->loaded)->total;
    if (rc < 0) {
        mp_loaded_free(mp_move(&m->loaded));
        leave(r);
    }
    mp_box_put(r->back, m);
}

static void begin(struct mp_runner *r, struct mp_mail *m)
{
    struct mp_caps caps = {0};
    int rc = r->dev ? 0 : r->ops->open(&r->dev, r->spec, &m->err);
    if (rc < 0) {
        m->err.code = rc;
        mp_box_put(r->back, m);
        return;
    }
    if (!r->loop) {
        r->loop = mp_loop_new(r->ops, r->dev, &r->conf);
        apply_limit(r);
    }
    r->users++;
    r->ops->caps(r->dev, &caps);
    mp_buf_clear(&m->bytes);
    mp_buf_puts(&m->bytes, caps.name);
    rc = mp_load_begin(&m->loaded, m->source, r->ops, r->dev, &m->load, &m->err);
    if (rc < 0) {
        begun(r, m, rc);
        return;
    }
    struct mp_mail **last = &r->waiting;
    while (*last)
        last = &(*last)->next;
    m->next = NULL;
    *last = m;
    mp_room_wait(r->room, true);
}

/* Loads that wait for memory: first come, first served. */
static void claim(struct mp_runner *r)
{
    for (struct mp_mail *m; (m = r->waiting) != NULL;) {
        int rc = mp_load_claim(m->loaded, r->room, &m->err);
        if (rc == MP_EAGAIN) { /* what sequences hold beyond one context, or keep committed */
            for (struct warm *w = r->warm; w; w = w->next)
                mp_replica_trim(w->replica);
            rc = mp_load_claim(m->loaded, r->room, &m->err);
        }
        if (rc == MP_EAGAIN)
            return;
        r->waiting = m->next;
        mp_room_wait(r->room, false);
        begun(r, m, rc);
    }
}

static void give_up(struct mp_runner *r, const struct mp_served *model)
{
    for (struct mp_mail **p = &r->waiting; *p; p = &(*p)->next)
        if ((*p)->model == model) {
            struct mp_mail *m = *p;
            *p = m->next;
            mp_room_wait(r->room, false);
            begun(r, m, mp_err_set(&m->err, MP_ECANCELLED, "loading was given up"));
            return;
        }
}

static void limit(struct mp_runner *r, struct mp_mail *m)
{
    struct mp_caps caps = {0};
    r->limit = m->done;
    apply_limit(r);
    m->done = mp_room_limit_get(r->room);
    m->need = mp_room_held(r->room);
    if (r->dev) {
        r->ops->caps(r->dev, &caps);
        m->kv = r->ops->used ? r->ops->used(r->dev) : 0;
    }
    mp_buf_puts(&m->bytes, caps.name);
}

static void build(struct mp_runner *r, struct mp_mail *m)
{
    struct mp_loaded *loaded = mp_move(&m->loaded);
    m->err.code = mp_load_build(loaded, &m->err);
    if (m->err.code < 0) {
        mp_loaded_free(loaded);
        leave(r);
        return;
    }
    struct warm *w = mp_calloc(sizeof *w);
    struct mp_vocab vocab = mp_source_vocab(m->source);
    w->model = m->model;
    w->loaded = loaded;
    w->source = mp_source_ref(m->source);
    w->replica = mp_replica_new(r->loop, mp_source_context(m->source), &vocab, mp_loaded_body(loaded));
    w->next = r->warm;
    r->warm = w;
    const struct mp_need *need = mp_loaded_need(loaded);
    m->done = need->total - need->kv;
    m->need = w->held = need->total;
}

/* The replica is idle: everything of it goes. */
static void drop(struct mp_runner *r, struct warm *w)
{
    for (struct warm **p = &r->warm; *p; p = &(*p)->next)
        if (*p == w) {
            *p = w->next;
            break;
        }
    mp_replica_free(w->replica);
    mp_loaded_free(w->loaded);
    mp_source_free(w->source);
    mp_free(w);
    leave(r);
}

/* A request that never got into the loop ends by the same kind of frame as others do. */
static void refuse(struct mp_runner *r, uint64_t tag, const struct mp_err *err)
{
    struct mp_mail *m = mp_mail_new(MP_MAIL_FRAMES, NULL, 0);
    struct mp_msg e;
    mp_msg_set_error(&e, tag, err);
    (void)mp_msg_encode(&m->bytes, &e, NULL);
    mp_box_put(r->back, m);
}

static void submit(struct mp_runner *r, const struct mp_mail *m)
{
    struct warm *w = find(r, m->model);
    struct mp_err err = {0};
    struct mp_seq *s = NULL;
    if (w)
        s = mp_loop_submit(w->replica, m->tag, m->ids.data, (uint32_t)m->ids.len, m->start, &err);
    else
        mp_err_set(&err, MP_EINTERNAL, "the model is not on the device");
    if (s)
        mp_map_put(&r->seqs, m->tag, s);
    else
        refuse(r, m->tag, &err);
}

/* Takes one letter in; it is freed or sent back. */
static void handle(struct mp_runner *r, struct mp_mail *m)
{
    struct mp_seq *s = mp_map_get(&r->seqs, m->tag);
    struct warm *w = NULL;
    bool back = false;
    switch (m->kind) {
    case MP_MAIL_STOP: r->stop = true; break;
    case MP_MAIL_BEGIN: begin(r, m); return; /* claim() or begin() sends it back */
    case MP_MAIL_GIVE_UP: give_up(r, m->model); break;
    case MP_MAIL_LIMIT:
        limit(r, m);
        back = true;
        break;
    case MP_MAIL_MOST:
        w = find(r, m->model);
        if (w)
            mp_replica_most(w->replica, (uint32_t)m->done);
        break;
    case MP_MAIL_BUILD:
        build(r, m);
        back = true;
        break;
    case MP_MAIL_DRAIN:
        w = find(r, m->model);
        if (w) {
            w->drain = m; /* idle_replicas() answers */
            return;
        }
        mp_loaded_free(m->loaded);
        m->loaded = NULL;
        leave(r);
        back = true;
        break;
    case MP_MAIL_SUBMIT: submit(r, m); break;
    case MP_MAIL_CANCEL:
        if (s)
            mp_seq_cancel(s);
        break;
    case MP_MAIL_WINDOW:
        if (s)
            mp_seq_window(s, (uint32_t)m->done);
        break;
    }
    if (back)
        mp_box_put(r->back, m);
    else
        mp_mail_free(m);
}

/* What the loop has to tell, as one letter of frames. */
static void tell(struct mp_runner *r)
{
    struct mp_mail *m = NULL;
    struct mp_msg msg;
    struct mp_err err;
    while (mp_loop_event(r->loop, &msg)) {
        if (!m)
            m = mp_mail_new(MP_MAIL_FRAMES, NULL, 0);
        if (msg.type != MP_MSG_TOKENS)
            mp_map_remove(&r->seqs, msg.id);
        if (mp_msg_encode(&m->bytes, &msg, &err) < 0)
            mp_error("cannot tell of request %llu: %s", (unsigned long long)msg.id, err.message);
    }
    if (m)
        mp_box_put(r->back, m);
}

static void idle_replicas(struct mp_runner *r)
{
    for (struct warm *w = r->warm, *next; w; w = next) {
        struct mp_replica_stats stats;
        next = w->next;
        mp_replica_stats(w->replica, &stats);
        uint64_t held = mp_loaded_need(w->loaded)->total + stats.beyond, now = mp_clock_mono_ns();
        if ((stats.kv_bytes != w->kv_bytes || held != w->held) &&
            (now - w->told_at >= TELL_NS || mp_replica_busy(w->replica) == 0)) {
            struct mp_mail *m = mp_mail_new(MP_MAIL_STATS, w->model, 0);
            m->kv = w->kv_bytes = stats.kv_bytes;
            m->need = w->held = held;
            w->told_at = now;
            mp_box_put(r->back, m);
        }
        if (w->drain && mp_replica_busy(w->replica) == 0) {
            struct mp_mail *m = w->drain;
            drop(r, w);
            mp_box_put(r->back, m);
        }
    }
}

static bool turn(struct mp_runner *r)
{
    struct mp_loop_stats stats;
    if (!r->loop)
        return false;
    claim(r);
    if (!r->loop) /* the only load failed */
        return false;
    atomic_store(&r->turn_ns, mp_clock_mono_ns());
    bool busy = mp_loop_turn(r->loop, TURN_NS);
    mp_loop_stats(r->loop, &stats);
    atomic_store(&r->issue_ns, stats.oldest_issue_ns);
    atomic_store(&r->turn_ns, 0);
    tell(r);
    idle_replicas(r);
    return busy;
}

static uint64_t patience(const struct mp_runner *r)
{
    uint64_t until = r->loop ? mp_loop_deadline(r->loop) : UINT64_MAX, now = mp_clock_mono_ns();
    uint64_t wait = until == UINT64_MAX ? IDLE_NS : until > now ? until - now : 0;
    return wait < IDLE_NS ? wait : IDLE_NS;
}

static void finish(struct mp_runner *r)
{
    size_t at = 0;
    uint64_t tag;
    void *s;
    for (struct mp_mail *m; (m = r->waiting) != NULL; leave(r)) {
        r->waiting = m->next;
        mp_loaded_free(mp_move(&m->loaded));
        mp_mail_free(m);
    }
    while (mp_map_next(&r->seqs, &at, &tag, &s))
        mp_seq_cancel(s);
    while (r->seqs.n > 0)
        (void)turn(r);
    while (r->warm) {
        mp_mail_free(r->warm->drain);
        drop(r, r->warm);
    }
}

static void *main_of_thread(void *arg)
{
    struct mp_runner *r = arg;
    bool busy = false;
    (void)prctl(PR_SET_NAME, "device");
    while (!r->stop) {
        struct mp_mail *m = busy ? mp_box_take(r->in) : mp_box_wait(r->in, patience(r));
        if (!m && !busy)
            for (struct warm *w = r->warm; w; w = w->next)
                mp_replica_trim(w->replica);
        for (; m; m = mp_box_take(r->in))
            handle(r, m);
        busy = turn(r);
    }
    finish(r);
    return NULL;
}

struct mp_runner *mp_runner_start(const struct mp_device_ops *ops, const char *spec, const struct mp_loop_conf *conf,
                                  struct mp_box *back)
{
    struct mp_runner *r = mp_calloc(sizeof *r);
    r->ops = ops;
    r->spec = mp_strdup(spec);
    r->conf = *conf;
    r->conf.room = r->room = mp_room_new();
    r->in = mp_box_new();
    r->back = back;
    if (pthread_create(&r->thread, NULL, main_of_thread, r) != 0) {
        mp_box_free(r->in);
        mp_room_free(r->room);
        mp_free(r->spec);
        mp_free(r);
        return NULL;
    }
    return r;
}

void mp_runner_put(struct mp_runner *r, struct mp_mail *m)
{
    mp_box_put(r->in, m);
}

uint64_t mp_runner_step_ns(const struct mp_runner *r)
{
    uint64_t now = mp_clock_mono_ns(), turn_began = atomic_load(&r->turn_ns), issued = atomic_load(&r->issue_ns);
    uint64_t oldest = turn_began && (!issued || turn_began < issued) ? turn_began : issued;
    return oldest > 0 && now > oldest ? now - oldest : 0;
}

void mp_runner_stop(struct mp_runner *r)
{
    if (!r)
        return;
    mp_box_put(r->in, mp_mail_new(MP_MAIL_STOP, NULL, 0));
    pthread_join(r->thread, NULL);
    /* A model was on its way: nobody built it. The thread is over, so this one may free what it had. */
    struct mp_box *const boxes[] = {r->in, r->back};
    for (size_t i = 0; i < MP_COUNT(boxes); i++)
        for (struct mp_mail *m; (m = mp_box_take(boxes[i])) != NULL; mp_mail_free(m))
            mp_loaded_free(m->loaded);
    if (r->dev) {
        mp_loop_free(r->loop);
        r->ops->close(r->dev);
    }
    mp_map_free(&r->seqs);
    mp_room_free(r->room);
    mp_box_free(r->in);
    mp_free(r->spec);
    mp_free(r);
}
