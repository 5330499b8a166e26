/* core/engine/served.c — the states of a model's version, on the socket thread; see host.h.
 *
 *   declared ─ OPEN ─► cold ─ BEGIN, LOAD, BUILD ─► warm ─ DRAIN ─► draining ─► cold
 *      any of them ─► failed; tried again when asked, a START no sooner than the backoff (1 s, doubling to 60 s) allows
 *
 * A load that is given up goes from loading to draining, and is cold when what it held is free. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/engine/host.h"

#include <string.h>

enum { BACKOFF_MOST_S = 60, LEAST_SLOTS = 32, MOST_SLOTS = MP_MODEL_MAX_CONCURRENCY };

static bool same(struct mp_span a, const char *b)
{
    return strlen(b) == a.n && memcmp(a.n ? a.p : "", b, a.n) == 0;
}

struct mp_served *mp_served_find(struct mp_host *h, struct mp_span name)
{
    for (struct mp_served *m = h->models; m; m = m->link)
        if (!m->retired && same(name, m->name))
            return m;
    return NULL;
}

struct mp_served *mp_served_named(struct mp_host *h, struct mp_line *c, uint64_t id, struct mp_span name)
{
    struct mp_served *m = mp_served_find(h, name);
    struct mp_err err;
    if (m)
        return m;
    mp_err_set(&err, MP_ENOENT, "no model '%.*s' is declared", (int)name.n, name.n ? name.p : "");
    mp_host_send_error(h, c, id, &err);
    return NULL;
}

uint64_t mp_served_retry_ns(const struct mp_served *m)
{
    uint64_t now = mp_clock_mono_ns();
    return m->state == MP_MODEL_FAILED && m->retry_at > now ? m->retry_at - now : 0;
}

bool mp_served_on_device(const struct mp_served *m)
{
    return m->state == MP_MODEL_LOADING || m->state == MP_MODEL_WARM || (m->state == MP_MODEL_DRAINING && !m->behind);
}

/* What earlier versions still have on the device is the name's, too. */
static void add_earlier(const struct mp_host *h, const struct mp_served *m, struct mp_msg_model_state *s)
{
    for (const struct mp_served *o = h->models; o; o = o->link)
        if (o != m && o->retired && !o->checking && strcmp(o->name, m->name) == 0) {
            s->running += o->n_running;
            s->waiting += o->n_requests - o->n_running;
            s->memory += o->bytes + o->kv_bytes;
            s->reserved += o->reserved;
        }
}

static void fill_state(const struct mp_host *h, const struct mp_served *m, uint64_t id, struct mp_msg *msg)
{
    struct mp_msg_model_state *s = &msg->u.model_state;
    *msg = (struct mp_msg){.type = MP_MSG_MODEL_STATE, .id = id};
    s->name = mp_span_of(m->name);
    s->state = m->state;
    s->done = m->done;
    s->total = m->total;
    s->loads = m->loads;
    s->load_ns = m->load_ns;
    if (m->source) {
        s->identity = mp_source_identity(m->source) + m->decl.numerics;
        s->context = mp_source_context(m->source);
        s->n_vocab = mp_source_plan(m->source)->n_vocab;
        s->arch = mp_span_of(mp_source_arch(m->source));
        s->need = m->need;
    }
    s->running = m->n_running;
    s->waiting = m->n_requests - m->n_running;
    s->memory = m->bytes + m->kv_bytes;
    s->reserved = m->reserved;
    s->device = mp_span_of(m->device);
    s->replacing = m->next || m->old;
    s->cause = mp_span_of(m->cause);
    if (m->state == MP_MODEL_FAILED) {
        s->error = m->err.code;
        s->reason = mp_span_of(m->err.message);
        s->retry_ns = mp_served_retry_ns(m);
    }
    if (!m->checking)
        add_earlier(h, m, s);
}

void mp_served_say(struct mp_host *h, struct mp_line *c, const struct mp_served *m, uint64_t id)
{
    struct mp_msg msg;
    fill_state(h, m, id, &msg);
    mp_host_send(h, c, &msg);
}

void mp_served_tell(struct mp_host *h, const struct mp_served *m)
{
    struct mp_msg msg;
    if (m->retired)
        return;
    fill_state(h, m, 0, &msg);
    mp_host_broadcast(h, &msg);
}

static void enter(struct mp_host *h, struct mp_served *m, enum mp_model_state state)
{
    m->state = (uint8_t)state;
    if (m->retired)
        return;
    mp_info("model '%s' is %s", m->name, mp_model_state_name(state));
    mp_served_tell(h, m);
}

static void failed(struct mp_host *h, struct mp_served *m, const struct mp_err *err)
{
    uint64_t seconds = m->failures < 6 ? UINT64_C(1) << m->failures : BACKOFF_MOST_S;
    m->done = m->total = m->reserved = 0;
    m->device[0] = 0;
    m->load_next = false;
    if (m->retired) {
        m->state = MP_MODEL_COLD;
        mp_version_off(h, m);
        return;
    }
    if (mp_version_failed(h, m, err))
        return;
    m->err = *err;
    m->failures++;
    m->retry_at = mp_clock_mono_ns() + seconds * 1000000000u;
    m->reopen = true; /* a mended file is another file */
    m->pinned = false;
    mp_warn("model '%s' failed: %s", m->name, err->message);
    enter(h, m, MP_MODEL_FAILED);
    mp_version_answer(h, m, m);
    mp_ask_model_failed(h, m, err);
}

/* Sending letters */

static struct mp_mail *letter(struct mp_served *m, enum mp_mail_kind kind)
{
    m->letters++;
    return mp_mail_new(kind, m, 0);
}

/* Room for twice as many sequences as may run, within reason: it costs little, and max_concurrency can be raised that far in place; what
 * is beyond it takes the next load. */
static struct mp_load_conf load_conf(const struct mp_served *m)
{
    uint32_t slots = 2 * m->decl.max_seq;
    slots = slots < LEAST_SLOTS ? LEAST_SLOTS : slots > MOST_SLOTS ? MOST_SLOTS : slots;
    return (struct mp_load_conf){.max_seq = slots, .numerics = m->decl.numerics};
}

void mp_served_open(struct mp_host *h, struct mp_served *m)
{
    struct mp_mail *l = letter(m, MP_MAIL_OPEN);
    mp_buf_put(&l->bytes, m->decl.path, strlen(m->decl.path) + 1);
    size_t at = l->bytes.len;
    if (m->decl.sha256)
        mp_buf_put(&l->bytes, m->decl.sha256, strlen(m->decl.sha256) + 1);
    l->open = (struct mp_source_conf){
        .path = l->bytes.data, .sha256 = m->decl.sha256 ? l->bytes.data + at : NULL, .context = m->decl.context};
    l->load = load_conf(m);
    m->opening = true;
    mp_jobs_put(h->front, l);
}

void mp_served_replan(struct mp_host *h, struct mp_served *m)
{
    if (m->state == MP_MODEL_WARM) {
        struct mp_mail *most = mp_mail_new(MP_MAIL_MOST, m, 0);
        most->done = m->decl.max_seq;
        mp_runner_put(h->runner, most);
    } else if (m->source && !m->opening) {
        struct mp_mail *l = letter(m, MP_MAIL_PLAN);
        l->source = mp_source_ref(m->source);
        l->load = load_conf(m);
        mp_jobs_put(h->front, l);
    }
}

/* Loading begins with opening the file, where that was not done or the file is another now. */
static void load(struct mp_host *h, struct mp_served *m)
{
    bool first = m->state != MP_MODEL_LOADING;
    if (first) {
        m->load_began = mp_clock_mono_ns();
        m->done = m->total = 0;
        m->err = (struct mp_err){0};
        atomic_store(&m->stop, false);
    }
    if (!m->source || m->reopen || (!m->pinned && !mp_source_current(m->source))) {
        m->load_next = true;
        if (!m->opening)
            mp_served_open(h, m);
    } else {
        struct mp_mail *l = letter(m, MP_MAIL_BEGIN);
        l->source = mp_source_ref(m->source);
        l->load = load_conf(m);
        m->load_next = false;
        m->reserved = m->need;
        mp_runner_put(h->runner, l);
    }
    if (first)
        enter(h, m, MP_MODEL_LOADING);
    else
        mp_served_tell(h, m);
}

void mp_served_let_go(struct mp_host *h, struct mp_served *m)
{
    if (m->state == MP_MODEL_WARM) {
        mp_runner_put(h->runner, letter(m, MP_MAIL_DRAIN));
        enter(h, m, MP_MODEL_DRAINING);
    } else if (m->state == MP_MODEL_LOADING) {
        m->giving_up = true;
        atomic_store(&m->stop, true);
        mp_runner_put(h->runner, mp_mail_new(MP_MAIL_GIVE_UP, m, 0));
        enter(h, m, MP_MODEL_DRAINING);
    }
}

static int check_backoff(const struct mp_served *m, struct mp_err *err)
{
    uint64_t wait = mp_served_retry_ns(m);
    if (wait == 0)
        return 0;
    return mp_err_set(err, MP_EUNAVAILABLE, "model '%s' cannot be loaded: %s", m->name, m->err.message);
}

int mp_served_want_open(struct mp_host *h, struct mp_served *m, struct mp_err *err)
{
    int rc = check_backoff(m, err);
    if (rc == 0 && !m->opening) {
        mp_served_open(h, m);
        if (m->state == MP_MODEL_FAILED)
            enter(h, m, MP_MODEL_DECLARED);
    }
    return rc;
}

int mp_served_want_warm(struct mp_host *h, struct mp_served *m, struct mp_err *err)
{
    int rc = check_backoff(m, err);
    if (rc < 0 || (m->state != MP_MODEL_COLD && m->state != MP_MODEL_FAILED && m->state != MP_MODEL_DECLARED))
        return rc;
    m->load_next = true;
    mp_served_go_on(h, m);
    return 0;
}

/* Letters that came back */

static bool anyone_waits(const struct mp_served *m)
{
    for (const struct mp_ask *r = m->requests; r; r = r->next)
        if (r->state == MP_ASK_LOADING)
            return true;
    return false;
}

void mp_served_go_on(struct mp_host *h, struct mp_served *m)
{
    m->behind = mp_version_waits(h, m);
    if (m->behind) {
        if (m->state != MP_MODEL_DRAINING)
            enter(h, m, MP_MODEL_DRAINING);
    } else if (m->load_next || anyone_waits(m)) {
        load(h, m);
    } else {
        m->old = NULL;
        if (m->state != MP_MODEL_COLD)
            enter(h, m, MP_MODEL_COLD);
    }
}

/* Nothing of it is on the device any more. */
static void gone(struct mp_host *h, struct mp_served *m)
{
    m->bytes = m->kv_bytes = m->done = m->total = m->reserved = 0;
    m->device[0] = 0;
    m->giving_up = false;
    if (m->retired) {
        m->state = MP_MODEL_COLD;
        mp_version_off(h, m);
        return;
    }
    if (!m->load_next && !anyone_waits(m))
        m->old = NULL; /* nothing is being replaced any more */
    enter(h, m, MP_MODEL_COLD);
    mp_served_go_on(h, m);
}

static void opened(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    m->opening = false;
    if (mp_version_opened(h, m, l))
        return;
    if (l->err.code < 0) {
        m->giving_up = false; /* the load that it was for is over either way */
        failed(h, m, &l->err);
        return;
    }
    mp_source_free(m->source);
    m->source = mp_move(&l->source);
    m->need = l->need;
    m->reopen = false;
    m->err = (struct mp_err){0};
    if (m->state == MP_MODEL_DECLARED || m->state == MP_MODEL_FAILED)
        enter(h, m, MP_MODEL_COLD);
    mp_version_answer(h, m, m);
    mp_ask_model_opened(h, m);
    if (m->giving_up)
        gone(h, m);
    else
        mp_served_go_on(h, m);
}

/* Frees what a load that ends has, on the device's thread. */
static void give_back(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    struct mp_mail *next = letter(m, MP_MAIL_DRAIN);
    next->loaded = mp_move(&l->loaded);
    mp_runner_put(h->runner, next);
}

static void began(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    if (l->err.code < 0) {
        if (m->giving_up)
            gone(h, m);
        else
            failed(h, m, &l->err);
        return;
    }
    if (m->giving_up) {
        give_back(h, m, l);
        return;
    }
    size_t n = l->bytes.len < sizeof m->device - 1 ? l->bytes.len : sizeof m->device - 1;
    memcpy(m->device, l->bytes.data, n);
    m->device[n] = 0;
    m->need = m->reserved = l->need;
    struct mp_mail *next = letter(m, MP_MAIL_LOAD);
    next->source = mp_move(&l->source);
    next->loaded = mp_move(&l->loaded);
    next->stop = &m->stop;
    mp_jobs_put(h->loader, next);
    mp_served_tell(h, m);
}

static void was_read(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    if (m->giving_up || l->err.code < 0) {
        if (!m->giving_up)
            m->err = l->err; /* drained() goes on from here: the memory is free then */
        give_back(h, m, l);
        return;
    }
    struct mp_mail *next = letter(m, MP_MAIL_BUILD);
    next->source = mp_move(&l->source);
    next->loaded = mp_move(&l->loaded);
    mp_runner_put(h->runner, next);
}

static void built(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    if (l->err.code < 0) {
        if (m->giving_up)
            gone(h, m);
        else
            failed(h, m, &l->err);
        return;
    }
    if (m->giving_up) {
        mp_runner_put(h->runner, letter(m, MP_MAIL_DRAIN));
        return;
    }
    m->loads++;
    m->failures = 0;
    m->load_ns = mp_clock_mono_ns() - m->load_began;
    m->bytes = l->done;
    m->need = m->reserved = l->need;
    m->old = NULL;
    if (!m->pinned)
        m->cause[0] = 0;
    enter(h, m, MP_MODEL_WARM);
    mp_served_replan(h, m); /* the limit may have changed since the load began */
    mp_ask_model_warm(h, m);
}

static void drained(struct mp_host *h, struct mp_served *m)
{
    struct mp_err err = m->err;
    if (m->state == MP_MODEL_LOADING && !m->giving_up)
        failed(h, m, &err);
    else
        gone(h, m);
}

static void use_stats(struct mp_host *h, struct mp_served *m, const struct mp_mail *l)
{
    bool news = m->reserved != l->need;
    if (m->state != MP_MODEL_WARM && m->state != MP_MODEL_DRAINING)
        return;
    m->kv_bytes = l->kv;
    m->reserved = l->need;
    if (news)
        mp_served_tell(h, m);
}

static void limited(struct mp_host *h, const struct mp_mail *l)
{
    struct mp_msg m = {.type = MP_MSG_DEVICE_STATE, .id = l->total};
    m.u.device_state.device = (struct mp_span){l->bytes.data, (uint32_t)l->bytes.len};
    m.u.device_state.memory = l->done;
    m.u.device_state.reserved = l->need;
    m.u.device_state.used = l->kv;
    mp_host_send(h, mp_host_line(h, l->tag), &m);
}

void mp_served_letter(struct mp_host *h, struct mp_mail *l)
{
    struct mp_served *m = l->model;
    if (m)
        m->letters -= l->kind != MP_MAIL_PROGRESS && l->kind != MP_MAIL_STATS;
    switch (l->kind) {
    case MP_MAIL_OPEN: opened(h, m, l); break;
    case MP_MAIL_PLAN:
        if (l->err.code == 0 && !mp_served_on_device(m)) {
            m->need = l->need;
            mp_served_tell(h, m);
        }
        break;
    case MP_MAIL_BEGIN: began(h, m, l); break;
    case MP_MAIL_LOAD: was_read(h, m, l); break;
    case MP_MAIL_BUILD: built(h, m, l); break;
    case MP_MAIL_DRAIN: drained(h, m); break;
    case MP_MAIL_STATS: use_stats(h, m, l); break;
    case MP_MAIL_LIMIT: limited(h, l); break;
    case MP_MAIL_PROGRESS:
        if (m->state != MP_MODEL_LOADING)
            break;
        m->done = l->done;
        m->total = l->total;
        mp_served_tell(h, m);
        break;
    }
}

/* Messages */

void mp_served_load(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    struct mp_served *m = mp_served_named(h, c, msg->id, msg->u.model_load.name);
    struct mp_err err;
    if (!m)
        return;
    m->retry_at = 0; /* the backoff is for requests: who asks by name means now */
    if (m->state == MP_MODEL_DRAINING)
        m->load_next = true;
    else
        (void)mp_served_want_warm(h, m, &err);
    mp_served_say(h, c, m, msg->id);
}

void mp_served_unload(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    struct mp_served *m = mp_served_named(h, c, msg->id, msg->u.model_unload.name);
    if (!m)
        return;
    m->load_next = false;
    mp_served_let_go(h, m);
    mp_served_say(h, c, m, msg->id);
}

void mp_served_list(struct mp_host *h, struct mp_line *c, uint64_t id)
{
    struct mp_msg end = {.type = MP_MSG_MODELS_END, .id = id};
    for (const struct mp_served *m = h->models; m; m = m->link)
        if (!m->retired) {
            mp_served_say(h, c, m, id);
            end.u.models_end.count++;
        }
    mp_host_send(h, c, &end);
}
