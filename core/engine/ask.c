/* core/engine/ask.c — a request's life on the socket thread; see host.h. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/engine/host.h"

#include <string.h>

static void join(struct mp_ask *r, struct mp_served *model)
{
    r->model = model;
    r->prev = NULL;
    r->next = model->requests;
    if (r->next)
        r->next->prev = r;
    model->requests = r;
    model->n_requests++;
}

static void part(struct mp_ask *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        r->model->requests = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->model->n_requests--;
}

static struct mp_ask *new_request(struct mp_host *h, struct mp_line *c, uint64_t id, struct mp_served *model)
{
    struct mp_ask *r = mp_calloc(sizeof *r);
    r->tag = ++h->next_tag;
    r->id = id;
    r->conn = c;
    join(r, model);
    mp_map_put(&h->requests, r->tag, r);
    mp_map_put(&c->requests, id, r);
    return r;
}

static void free_request(struct mp_host *h, struct mp_ask *r)
{
    r->model->n_running -= r->state == MP_ASK_RUNNING;
    part(r);
    mp_map_remove(&h->requests, r->tag);
    if (r->conn)
        mp_map_remove(&r->conn->requests, r->id);
    mp_buf_free(&r->payload);
    mp_ids_free(&r->ids);
    mp_free(r->start);
    mp_free(r);
}

/* Ends a request that the runner does not have. */
static void fail(struct mp_host *h, struct mp_ask *r, const struct mp_err *err)
{
    struct mp_msg m;
    mp_msg_set_error(&m, r->id, err);
    m.u.error.prompt_tokens = r->n_prompt;
    m.u.error.retry_ns = err->code == MP_EUNAVAILABLE ? mp_served_retry_ns(r->model) : 0;
    mp_host_send(h, r->conn, &m);
    free_request(h, r);
}

static void end_cancelled(struct mp_host *h, struct mp_ask *r)
{
    struct mp_msg m = {.type = MP_MSG_DONE, .id = r->id};
    m.u.done.finish = MP_MSG_FINISH_CANCELLED;
    m.u.done.prompt_tokens = r->n_prompt;
    mp_host_send(h, r->conn, &m);
    free_request(h, r);
}

/* PREPARE */

static void send_to_front(struct mp_host *h, struct mp_ask *r)
{
    struct mp_mail *m = mp_mail_new(MP_MAIL_PREPARE, r->model, r->tag);
    m->source = mp_source_ref(r->model->source);
    m->kind_of = r->kind;
    m->special = r->special;
    m->bytes = r->payload;
    r->payload = (struct mp_buf){0};
    r->state = MP_ASK_PREPARING;
    mp_jobs_put(h->front, m);
}

/* Makes tokens of it by its model's version, as soon as that is open. */
static void prepare(struct mp_host *h, struct mp_ask *r)
{
    struct mp_err err = {0};
    mp_ids_free(&r->ids);
    r->ids = (struct mp_ids){0};
    r->state = MP_ASK_OPENING;
    if (r->model->source && !r->model->reopen)
        send_to_front(h, r);
    else if (mp_served_want_open(h, r->model, &err) < 0)
        fail(h, r, &err);
}

void mp_ask_prepare(struct mp_host *h, struct mp_line *c, const struct mp_msg *m)
{
    const struct mp_msg_prepare *p = &m->u.prepare;
    struct mp_served *model = mp_served_find(h, p->model);
    struct mp_err err = {0};
    if (m->id == 0 || mp_map_get(&c->requests, m->id))
        mp_err_set(&err, MP_EPROTO, "request %llu is under way already", (unsigned long long)m->id);
    else if (!model)
        mp_err_set(&err, MP_ENOENT, "no model '%.*s' is declared", (int)p->model.n, p->model.n ? p->model.p : "");
    else if (h->stopping)
        mp_err_set(&err, MP_EUNAVAILABLE, "the engine is stopping");
    else if (h->requests.n >= MP_HOST_MAX_REQUESTS)
        mp_err_set(&err, MP_EQUEUE, "the engine holds %d requests already", MP_HOST_MAX_REQUESTS);
    if (err.code) {
        mp_host_send_error(h, c, m->id, &err);
        return;
    }
    struct mp_ask *r = new_request(h, c, m->id, model);
    r->kind = p->kind;
    r->special = p->special;
    mp_buf_put(&r->payload, p->payload.n ? p->payload.p : "", p->payload.n);
    prepare(h, r);
}

void mp_ask_model_opened(struct mp_host *h, struct mp_served *m)
{
    for (struct mp_ask *r = m->requests, *next; r; r = next) {
        next = r->next;
        if (r->state == MP_ASK_OPENING)
            send_to_front(h, r);
    }
}

static void go(struct mp_host *h, struct mp_ask *r);

/* Its tokens are another version's. */
static bool outdated(const struct mp_ask *r)
{
    return !r->model->source || r->model->reopen || r->version != mp_source_identity(r->model->source);
}

void mp_ask_prepared(struct mp_host *h, struct mp_mail *m)
{
    struct mp_ask *r = mp_map_get(&h->requests, m->tag);
    struct mp_msg answer = {.type = MP_MSG_PREPARED};
    if (!r || r->state != MP_ASK_PREPARING)
        return;
    r->payload = m->bytes;
    m->bytes = (struct mp_buf){0};
    r->version = mp_source_identity(m->source);
    if (outdated(r)) {
        prepare(h, r);
        return;
    }
    if (m->err.code < 0) {
        fail(h, r, &m->err);
        return;
    }
    r->ids = m->ids;
    m->ids = (struct mp_ids){0};
    r->n_prompt = (uint32_t)r->ids.len;
    r->state = MP_ASK_PREPARED;
    answer.id = r->id;
    answer.u.prepared.n_tokens = r->n_prompt;
    answer.u.prepared.left = mp_source_context(m->source) - r->n_prompt;
    if (!r->told)
        mp_host_send(h, r->conn, &answer);
    r->told = true;
    if (r->start)
        go(h, r);
}

/* A list's newest is first; who goes over keeps its place. */
static struct mp_ask *oldest(const struct mp_served *m)
{
    struct mp_ask *r = m->requests;
    while (r && r->next)
        r = r->next;
    return r;
}

void mp_ask_move(struct mp_host *h, struct mp_served *from, struct mp_served *to)
{
    for (struct mp_ask *r = oldest(from), *prev; r; r = prev) {
        prev = r->prev;
        if (r->state == MP_ASK_RUNNING)
            continue;
        part(r);
        join(r, to);
        if (r->state != MP_ASK_PREPARING) /* else it is judged when it comes back */
            prepare(h, r);
    }
}

/* START */

static void submit(struct mp_host *h, struct mp_ask *r)
{
    struct mp_mail *m = mp_mail_new(MP_MAIL_SUBMIT, r->model, r->tag);
    m->ids = r->ids;
    m->start = mp_move(&r->start);
    r->ids = (struct mp_ids){0};
    mp_buf_free(&r->payload);
    r->load_ns = mp_clock_mono_ns() - r->t_start;
    if (m->start->deadline_ns > 0)
        m->start->deadline_ns = m->start->deadline_ns > r->load_ns ? m->start->deadline_ns - r->load_ns : 1;
    r->state = MP_ASK_RUNNING;
    r->model->n_running++;
    mp_runner_put(h->runner, m);
}

/* Prepared and asked to start: into the loop, or into the line before the model's load. */
static void go(struct mp_host *h, struct mp_ask *r)
{
    struct mp_err err = {0};
    if (outdated(r)) {
        prepare(h, r);
        return;
    }
    if (r->model->state == MP_MODEL_WARM) {
        submit(h, r);
        return;
    }
    r->state = MP_ASK_LOADING;
    if (mp_served_want_warm(h, r->model, &err) < 0)
        fail(h, r, &err);
}

void mp_ask_start(struct mp_host *h, struct mp_line *c, const struct mp_msg *m)
{
    struct mp_ask *r = mp_map_get(&c->requests, m->id);
    struct mp_err err = {0};
    if (!r)
        mp_err_set(&err, MP_ENOENT, "request %llu was not prepared, or is over", (unsigned long long)m->id);
    else if (r->start || r->state > MP_ASK_PREPARED)
        mp_err_set(&err, MP_EPROTO, "request %llu was started already", (unsigned long long)m->id);
    if (err.code) {
        mp_host_send_error(h, c, m->id, &err);
        return;
    }
    r->start = mp_start_copy(&m->u.start);
    r->t_start = mp_clock_mono_ns();
    if (r->start->deadline_ns > 0 && !mp_add_u64(r->t_start, r->start->deadline_ns, &r->deadline))
        r->deadline = 0;
    if (r->state == MP_ASK_PREPARED)
        go(h, r);
}

void mp_ask_model_warm(struct mp_host *h, struct mp_served *m)
{
    for (struct mp_ask *r = oldest(m), *prev; r; r = prev) {
        prev = r->prev;
        if (r->state == MP_ASK_LOADING)
            go(h, r);
    }
}

void mp_ask_model_gone(struct mp_host *h, struct mp_served *m, const struct mp_err *err)
{
    for (struct mp_ask *r = m->requests, *next; r; r = next) {
        next = r->next;
        if (r->state != MP_ASK_RUNNING)
            fail(h, r, err);
    }
}

void mp_ask_model_failed(struct mp_host *h, struct mp_served *m, const struct mp_err *err)
{
    struct mp_err say = {0};
    mp_err_set(&say, MP_EUNAVAILABLE, "model '%s' cannot be loaded: %s", m->name, err->message);
    for (struct mp_ask *r = m->requests, *next; r; r = next) {
        next = r->next;
        if (r->state == MP_ASK_OPENING || r->state == MP_ASK_LOADING)
            fail(h, r, &say);
    }
}

void mp_ask_tick(struct mp_host *h, uint64_t now)
{
    struct mp_err err = {0};
    for (struct mp_served *m = h->models; m; m = m->link)
        for (struct mp_ask *r = m->requests, *next; r; r = next) {
            next = r->next;
            if (r->deadline > 0 && now >= r->deadline && r->state != MP_ASK_RUNNING) {
                mp_err_set(&err, MP_ETIMEOUT, "the request's deadline passed after %.1f s",
                           (double)(now - r->t_start) / 1e9);
                fail(h, r, &err);
            }
        }
}

/* CANCEL, WINDOW, the end of a connection */

static void tell_runner(struct mp_host *h, const struct mp_ask *r, enum mp_mail_kind kind, uint64_t bytes)
{
    struct mp_mail *m = mp_mail_new(kind, r->model, r->tag);
    m->done = bytes;
    mp_runner_put(h->runner, m);
}

void mp_ask_cancel(struct mp_host *h, struct mp_line *c, uint64_t id)
{
    struct mp_ask *r = mp_map_get(&c->requests, id);
    if (r && r->state == MP_ASK_RUNNING)
        tell_runner(h, r, MP_MAIL_CANCEL, 0);
    else if (r)
        end_cancelled(h, r);
}

void mp_ask_window(struct mp_host *h, struct mp_line *c, const struct mp_msg *m)
{
    struct mp_ask *r = mp_map_get(&c->requests, m->id);
    if (r && r->state == MP_ASK_RUNNING)
        tell_runner(h, r, MP_MAIL_WINDOW, m->u.window.bytes);
}

void mp_ask_line_gone(struct mp_host *h, struct mp_line *c)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (mp_map_next(&c->requests, &at, &id, &value)) {
        struct mp_ask *r = value;
        r->conn = NULL; /* its place in c->requests goes with c */
        if (r->state == MP_ASK_RUNNING)
            tell_runner(h, r, MP_MAIL_CANCEL, 0);
        else
            free_request(h, r);
    }
}

/* What the runner tells, with its tags; the peer sees its own ids. */
void mp_ask_frames(struct mp_host *h, const struct mp_mail *m)
{
    size_t used = 0;
    struct mp_msg msg;
    for (size_t at = 0; at < m->bytes.len; at += used) {
        if (mp_msg_next(&msg, m->bytes.data + at, m->bytes.len - at, &used, NULL) != 1)
            return;
        struct mp_ask *r = mp_map_get(&h->requests, msg.id);
        if (!r)
            continue;
        msg.id = r->id;
        if (msg.type == MP_MSG_DONE) {
            struct mp_msg_done *d = &msg.u.done;
            d->load_ns = r->load_ns;
            d->queue_ns += r->load_ns;
            d->first_ns += d->first_ns > 0 ? r->load_ns : 0;
            d->total_ns += r->load_ns;
        }
        mp_host_send(h, r->conn, &msg);
        if (msg.type != MP_MSG_TOKENS)
            free_request(h, r);
    }
}

void mp_ask_end_all(struct mp_host *h, const struct mp_err *err)
{
    for (struct mp_served *m = h->models; m; m = m->link)
        while (m->requests)
            fail(h, m->requests, err);
}
