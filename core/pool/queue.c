/* core/pool/queue.c — see queue.h. */
#include "core/pool/queue.h"

#include "core/base/mem.h"
#include "core/pool/port.h"

#include <math.h>

static const double SOON = 1, FAR = 3600; /* what a Retry-After may be, seconds */
static const double TELL =
    1; /* seconds: windows so short begin with a turn of the keeper, not some time after the last one */
static const double OFF = 60; /* the same where nobody knows when replicas are allowed again */

static uint64_t since(uint64_t then, uint64_t now)
{
    return now > then ? now - then : 0;
}

static double clamp(double v, double least, double most)
{
    return v < least ? least : v > most ? most : v;
}

static enum mp_model_state state_of(const struct mp_pool_model *m)
{
    return (enum mp_model_state)atomic_load_explicit(&m->state, memory_order_relaxed);
}

/* ---- with the model's lock held ---- */

static bool is_open(const struct mp_pool_model *m)
{
    return !m->kept || state_of(m) == MP_MODEL_WARM;
}

/* How long the model has been loading, all in all: the difference of two is what a wait does not count. */
static uint64_t loading(const struct mp_pool_model *m, uint64_t now)
{
    return m->loading_ns + (state_of(m) == MP_MODEL_LOADING ? since(m->since_ns, now) : 0);
}

static uint64_t loaded(const struct mp_waiter *w, uint64_t now)
{
    return since(w->loading_ns, loading(w->model, now));
}

static bool waits(const struct mp_waiter *w)
{
    return w->state == MP_WAITER_PREPARING || w->state == MP_WAITER_READY;
}

static bool before(const struct mp_waiter *a, const struct mp_waiter *b)
{
    if (a->background != b->background)
        return b->background;
    return a->priority != b->priority ? a->priority > b->priority : a->number < b->number;
}

bool mp_queue_before(const struct mp_heap_node *a, const struct mp_heap_node *b)
{
    return before(mp_container_of(a, struct mp_waiter, ready), mp_container_of(b, struct mp_waiter, ready));
}

double mp_queue_oldest(const struct mp_pool_model *m, uint64_t now_ns)
{
    return m->first ? (double)since(m->first->at_ns + loaded(m->first, now_ns), now_ns) / 1e9 : 0;
}

static uint32_t ahead_of(const struct mp_waiter *w)
{
    uint32_t n = 0;
    for (const struct mp_waiter *o = w->model->first; o; o = o->next)
        n += o != w && before(o, w);
    return n;
}

static double load_left(const struct mp_pool_model *m, uint64_t now)
{
    double passed = (double)since(m->since_ns, now) / 1e9;
    switch (state_of(m)) {
    case MP_MODEL_WARM: return 0;
    case MP_MODEL_LOADING: /* by its progress, once that says something */
        if (m->load_seconds == 0 && m->said.done > 0 && m->said.total > m->said.done)
            return passed * (double)(m->said.total - m->said.done) / (double)m->said.done;
        return fmax(0, m->load_seconds - passed);
    case MP_MODEL_DRAINING: return fmax(0, m->service - passed) + m->load_seconds;
    default: /* its backoff, or its turn, comes first */
        return (double)since(now, m->retry_ns > m->turn_ns ? m->retry_ns : m->turn_ns) / 1e9 + m->load_seconds;
    }
}

/* Seconds until a call starts that has so many before it; what is not known counts as nothing. */
static double expected(const struct mp_pool_model *m, uint32_t ahead, uint64_t now)
{
    uint32_t places = m->settings.max_concurrency;
    uint32_t held = is_open(m) ? m->in_flight : 0, free = places > held ? places - held : 0;
    double turns = ahead < free ? 0 : (double)(ahead - free + 1) / places;
    if (held == 0) /* they start together when it is warm, and end together */
        turns = floor((double)ahead / places);
    return (m->kept ? load_left(m, now) : 0) + turns * m->service;
}

static double seconds_until(uint64_t then, uint64_t now)
{
    return clamp(ceil((double)since(now, then) / 1e9), SOON, FAR);
}

static void set_retry(struct mp_err *err, double seconds)
{
    if (err)
        err->retry_after = clamp(ceil(seconds), SOON, FAR);
}

static void say_failed(const struct mp_pool_model *m, uint64_t now, struct mp_err *err)
{
    mp_err_set(err, MP_EUNAVAILABLE, "model '%s' cannot be loaded: %s", m->name, m->failure.message);
    if (err)
        err->retry_after = seconds_until(m->retry_ns, now);
}

static void say_off(const struct mp_pool_model *m, uint64_t now, struct mp_err *err)
{
    mp_err_set(err, MP_EUNAVAILABLE, "model '%s' takes no requests now: its max_replicas is 0", m->name);
    if (err)
        err->retry_after = m->on_again_ns > now ? seconds_until(m->on_again_ns, now) : OFF;
}

static int refuse(struct mp_pool_model *m, const struct mp_waiter *w, uint64_t now, struct mp_err *err)
{
    const struct mp_pool_settings *s = &m->settings;
    if (m->removed)
        return mp_err_set(err, MP_EUNAVAILABLE, "model '%s' was removed from the configuration", m->name);
    if (s->max_replicas == 0) {
        say_off(m, now, err);
        return MP_EUNAVAILABLE;
    }
    if (m->kept && state_of(m) == MP_MODEL_FAILED && now < m->retry_ns) {
        say_failed(m, now, err);
        return MP_EUNAVAILABLE;
    }
    if ((uint64_t)m->in_flight + m->waiting >= (uint64_t)s->max_concurrency + s->queue_max) {
        mp_err_set(err, MP_EQUEUE, "the queue of model '%s' is full: %u requests wait, %u run", m->name, m->waiting,
                   m->in_flight);
        set_retry(err, expected(m, m->waiting, now));
        return MP_EQUEUE;
    }
    if (w->deadline_ns != 0) {
        double wait = expected(m, m->waiting > 0 ? ahead_of(w) : 0, now);
        double left = (double)since(now, w->deadline_ns) / 1e9;
        if (left == 0 || wait > left) {
            if (left == 0)
                mp_err_set(err, MP_EDEADLINE, "model '%s': the request's deadline has passed", m->name);
            else
                mp_err_set(err, MP_EDEADLINE,
                           "model '%s' is expected to start this request in %.1f seconds, its deadline is in %.1f",
                           m->name, wait, left);
            set_retry(err, wait - left);
            m->nudged = m->nudged || !is_open(m);
            return MP_EDEADLINE;
        }
    }
    return 0;
}

static void unlink_waiter(struct mp_waiter *w)
{
    struct mp_pool_model *m = w->model;
    *(w->prev ? &w->prev->next : &m->first) = w->next;
    *(w->next ? &w->next->prev : &m->last) = w->prev;
    w->prev = w->next = NULL;
    mp_heap_remove(&m->ready, &w->ready);
    m->waiting--;
}

static void place(struct mp_waiter *w, enum mp_waiter_state state, uint64_t now)
{
    unlink_waiter(w);
    w->model->in_flight++;
    w->state = state;
    w->placed_ns = now;
    w->loaded_ns = loaded(w, now);
}

/* Places that are free go to the first in line. */
static void grant(struct mp_pool_model *m, uint64_t now)
{
    struct mp_heap_node *top;
    while (is_open(m) && m->in_flight < m->settings.max_concurrency && (top = mp_heap_top(&m->ready)) != NULL) {
        struct mp_waiter *w = mp_container_of(top, struct mp_waiter, ready);
        place(w, MP_WAITER_PLACED, now);
        mp_port_tell(w->port, w);
    }
}

static void drop_all(struct mp_pool_model *m, enum mp_drop reason)
{
    while (m->first) {
        struct mp_waiter *w = m->first;
        unlink_waiter(w);
        w->state = MP_WAITER_DROPPED;
        w->dropped = reason;
        mp_port_tell(w->port, w);
    }
    m->nudged = false;
}

static uint64_t due(const struct mp_waiter *w, uint64_t now)
{
    uint64_t at = UINT64_MAX;
    if (w->timeout_ns != 0 && !(w->model->kept && state_of(w->model) == MP_MODEL_LOADING))
        at = w->at_ns + w->timeout_ns + loaded(w, now);
    return w->deadline_ns != 0 && w->deadline_ns < at ? w->deadline_ns : at;
}

/* ---- the call's own thread ---- */

int mp_queue_enter(struct mp_waiter *w, struct mp_err *err)
{
    struct mp_pool_model *m = w->model;
    uint64_t now = mp_pool_now(m->pool), due_ns = 0;
    bool demand;
    int rc;
    pthread_mutex_lock(&m->lock);
    bool was_nudged = m->nudged;
    w->number = m->arrivals++;
    rc = refuse(m, w, now, err);
    demand = m->nudged && !was_nudged;
    if (rc == 0) {
        enum mp_model_state state = state_of(m);
        w->cold = state != MP_MODEL_WARM && (m->kept || state != MP_MODEL_DECLARED);
        w->at_ns = m->used_ns = now;
        w->timeout_ns = (uint64_t)(m->settings.queue_timeout * 1e9);
        w->loading_ns = loading(m, now);
        w->state = MP_WAITER_PREPARING;
        w->prev = m->last;
        *(m->last ? &m->last->next : &m->first) = w;
        m->last = w;
        m->cold_starts += w->cold;
        demand = ++m->waiting == 1 && !is_open(m);
        due_ns = due(w, now);
    }
    pthread_mutex_unlock(&m->lock);
    if (rc == 0)
        mp_port_time(w->port, w, due_ns);
    if (demand)
        mp_pool_demand(m->pool);
    return rc;
}

void mp_queue_sent(struct mp_waiter *w)
{
    pthread_mutex_lock(&w->model->lock);
    w->model->calls++;
    pthread_mutex_unlock(&w->model->lock);
}

bool mp_queue_ready(struct mp_waiter *w)
{
    struct mp_pool_model *m = w->model;
    bool placed = false;
    pthread_mutex_lock(&m->lock);
    if (w->state == MP_WAITER_PREPARING && is_open(m) && m->in_flight < m->settings.max_concurrency) {
        place(w, MP_WAITER_RUNNING, mp_pool_now(m->pool)); /* nobody is in line: places do not stay free then */
        placed = true;
    } else if (w->state == MP_WAITER_PREPARING) {
        w->state = MP_WAITER_READY;
        mp_heap_push(&m->ready, &w->ready);
    }
    pthread_mutex_unlock(&m->lock);
    if (placed)
        mp_port_forget(w->port, w);
    return placed;
}

/* The place is worth nothing any more: back to where it was in line. */
static void put_back(struct mp_waiter *w)
{
    struct mp_pool_model *m = w->model;
    m->in_flight--;
    m->waiting++;
    for (w->next = m->first; w->next && w->next->number < w->number; w->next = w->next->next)
        w->prev = w->next;
    *(w->prev ? &w->prev->next : &m->first) = w;
    *(w->next ? &w->next->prev : &m->last) = w;
    w->state = MP_WAITER_READY;
    w->placed_ns = 0;
    mp_heap_push(&m->ready, &w->ready);
}

bool mp_queue_take(struct mp_waiter *w)
{
    struct mp_pool_model *m = w->model;
    bool placed, lost;
    uint64_t due_ns = 0;
    pthread_mutex_lock(&m->lock);
    placed = w->state == MP_WAITER_PLACED;
    /* A replica that drains waits for it; one whose engine died meanwhile is no more. */
    lost = placed && !is_open(m) && state_of(m) != MP_MODEL_DRAINING;
    if (lost) {
        put_back(w);
        due_ns = due(w, mp_pool_now(m->pool));
    } else if (placed) {
        w->state = MP_WAITER_RUNNING;
    }
    pthread_mutex_unlock(&m->lock);
    if (lost) {
        mp_port_time(w->port, w, due_ns);
        mp_pool_demand(m->pool);
    }
    return placed && !lost;
}

void mp_queue_leave(struct mp_waiter *w)
{
    struct mp_pool_model *m = w->model;
    uint64_t now = mp_pool_now(m->pool);
    bool demand = false;
    pthread_mutex_lock(&m->lock);
    if (waits(w)) {
        unlink_waiter(w);
    } else if (w->state == MP_WAITER_PLACED || w->state == MP_WAITER_RUNNING) {
        double held = (double)since(w->placed_ns, now) / 1e9;
        m->service = m->service > 0 ? m->service + (held - m->service) / 5 : held;
        m->in_flight--;
        grant(m, now);
    }
    if (w->state != MP_WAITER_OUT)
        m->used_ns = now;
    w->state = MP_WAITER_OUT;
    demand = m->in_flight == 0 &&
             ((m->waiting == 0 && (m->tell_idle || m->removed || m->settings.scaledown_window < TELL)) ||
              state_of(m) == MP_MODEL_DRAINING);
    pthread_mutex_unlock(&m->lock);
    mp_port_forget(w->port, w);
    if (demand && m->kept)
        mp_pool_demand(m->pool);
}

bool mp_queue_expire(struct mp_waiter *w, uint64_t now_ns, uint64_t *due_ns, struct mp_err *err)
{
    struct mp_pool_model *m = w->model;
    bool over = false;
    *due_ns = UINT64_MAX;
    pthread_mutex_lock(&m->lock);
    if (waits(w)) {
        *due_ns = due(w, now_ns);
        over = *due_ns <= now_ns;
    }
    if (over) {
        bool deadline = w->deadline_ns != 0 && w->deadline_ns <= now_ns;
        unlink_waiter(w);
        w->state = MP_WAITER_DROPPED;
        if (deadline)
            mp_err_set(err, MP_EDEADLINE, "model '%s' had no place for this request before its deadline", m->name);
        else
            mp_err_set(err, MP_EQTIMEOUT, "model '%s' had no place for this request within %g seconds", m->name,
                       (double)w->timeout_ns / 1e9);
        set_retry(err, expected(m, m->waiting, now_ns));
    }
    pthread_mutex_unlock(&m->lock);
    return over;
}

uint64_t mp_queue_due(struct mp_waiter *w, uint64_t now_ns)
{
    pthread_mutex_lock(&w->model->lock);
    uint64_t at = waits(w) ? due(w, now_ns) : UINT64_MAX;
    pthread_mutex_unlock(&w->model->lock);
    return at;
}

bool mp_queue_dropped(struct mp_waiter *w, struct mp_err *err)
{
    struct mp_pool_model *m = w->model;
    uint64_t now = mp_pool_now(m->pool);
    pthread_mutex_lock(&m->lock);
    bool dropped = w->state == MP_WAITER_DROPPED;
    if (dropped)
        (w->dropped == MP_DROP_LOAD_FAILED ? say_failed : say_off)(m, now, err);
    pthread_mutex_unlock(&m->lock);
    return dropped;
}

void mp_queue_times(struct mp_waiter *w, uint64_t now_ns, uint64_t *queue_ns, uint64_t *load_ns)
{
    pthread_mutex_lock(&w->model->lock);
    *load_ns = w->placed_ns ? w->loaded_ns : loaded(w, now_ns);
    *queue_ns = since(w->at_ns + *load_ns, w->placed_ns ? w->placed_ns : now_ns);
    pthread_mutex_unlock(&w->model->lock);
}

void mp_queue_progress(const struct mp_waiter *w, uint64_t now_ns, struct mp_call_progress *out)
{
    struct mp_pool_model *m = w->model;
    *out = (struct mp_call_progress){.phase = MP_CALL_OVER, .start = w->cold ? MP_START_COLD : MP_START_WARM};
    pthread_mutex_lock(&m->lock);
    out->waited = (double)since(w->at_ns, w->placed_ns ? w->placed_ns : now_ns) / 1e9;
    out->load_ns = w->placed_ns ? w->loaded_ns : loaded(w, now_ns);
    out->queue_ns = since(w->at_ns + out->load_ns, w->placed_ns ? w->placed_ns : now_ns);
    if (waits(w)) {
        out->phase = state_of(m) == MP_MODEL_LOADING ? MP_CALL_LOADING : MP_CALL_QUEUED;
        out->ahead = ahead_of(w);
        out->expected = expected(m, out->ahead, now_ns);
        if (out->phase == MP_CALL_LOADING) {
            out->done = m->said.done;
            out->total = m->said.total;
        }
    } else if (w->state == MP_WAITER_PLACED || w->state == MP_WAITER_RUNNING) {
        out->phase = MP_CALL_RUNNING;
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- the control thread ---- */

void mp_queue_state_locked(struct mp_pool_model *m, enum mp_model_state state, uint64_t now_ns)
{
    enum mp_model_state from = state_of(m);
    if (from == state)
        return;
    if (from == MP_MODEL_LOADING) {
        double took = (double)since(m->since_ns, now_ns) / 1e9;
        m->loading_ns = loading(m, now_ns);
        if (state == MP_MODEL_WARM) {
            m->load_seconds = m->load_seconds > 0 ? (m->load_seconds + took) / 2 : took;
            m->loads_total++;
        }
    }
    atomic_store_explicit(&m->state, (int)state, memory_order_release);
    m->since_ns = now_ns;
    if (state == MP_MODEL_WARM)
        m->warm_ns = now_ns;
    m->turn_ns = 0;
    if (state == MP_MODEL_WARM || state == MP_MODEL_LOADING)
        m->nudged = false;
    grant(m, now_ns);
    if (from == MP_MODEL_LOADING)
        for (struct mp_waiter *w = m->first; w; w = w->next)
            mp_port_tell_times(w->port);
}

void mp_queue_state(struct mp_pool_model *m, enum mp_model_state state, uint64_t now_ns)
{
    pthread_mutex_lock(&m->lock);
    mp_queue_state_locked(m, state, now_ns);
    pthread_mutex_unlock(&m->lock);
}

void mp_queue_fail(struct mp_pool_model *m, const struct mp_err *why, uint64_t retry_ns, uint64_t now_ns)
{
    pthread_mutex_lock(&m->lock);
    m->failure = *why;
    m->retry_ns = retry_ns;
    mp_queue_state_locked(m, MP_MODEL_FAILED, now_ns);
    drop_all(m, MP_DROP_LOAD_FAILED);
    pthread_mutex_unlock(&m->lock);
}

bool mp_queue_close(struct mp_pool_model *m, bool idle, uint64_t now_ns)
{
    pthread_mutex_lock(&m->lock);
    bool close = !idle || m->in_flight + m->waiting == 0;
    if (close)
        mp_queue_state_locked(m, MP_MODEL_DRAINING, now_ns);
    pthread_mutex_unlock(&m->lock);
    return close;
}

void mp_queue_settings(struct mp_pool_model *m, const struct mp_pool_settings *s, uint64_t on_again_ns)
{
    pthread_mutex_lock(&m->lock);
    m->settings = *s;
    m->on_again_ns = on_again_ns;
    if (s->max_replicas == 0)
        drop_all(m, MP_DROP_NO_REPLICAS);
    grant(m, mp_pool_now(m->pool));
    pthread_mutex_unlock(&m->lock);
}
