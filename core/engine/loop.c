/* core/engine/loop.c — see loop.h: replicas and sequences come and go here, finished steps become tokens and costs, and what is
 * to be told waits here until it is fetched. What to issue is sched.c's. */
#include "core/engine/loop.h"

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/engine/inside.h"

#include <string.h>

enum { LOOP_MAGIC = 0x6c6f6f70, REPLICA_MAGIC = 0x7265706c };

static uint64_t monotonic(void *ctx)
{
    (void)ctx;
    return mp_clock_mono_ns();
}

uint64_t mp_loop_now(const struct mp_loop *l)
{
    return l->conf.now(l->conf.ctx);
}

struct mp_loop *mp_loop_new(const struct mp_device_ops *ops, struct mp_dev *dev, const struct mp_loop_conf *conf)
{
    struct mp_loop *l = mp_calloc(sizeof *l);
    l->ops = ops;
    l->dev = dev;
    if (conf)
        l->conf = *conf;
    if (!l->conf.now)
        l->conf.now = monotonic;
    if (l->conf.depth < 1 || l->conf.depth > MP_LOOP_MAX_DEPTH)
        l->conf.depth = MP_LOOP_MAX_DEPTH;
    if (l->conf.step_ns == 0)
        l->conf.step_ns = 50000000;
    return l;
}

void mp_loop_free(struct mp_loop *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < MP_LOOP_MAX_DEPTH; i++)
        mp_free(l->flight[i].rows);
    mp_sched_free(l);
    mp_buf_free(&l->ev_text);
    mp_free(l);
}

void mp_seq_list_add(struct mp_seq_list *list, struct mp_seq *before, struct mp_seq *s)
{
    s->next = before;
    s->prev = before ? before->prev : list->last;
    if (s->prev)
        s->prev->next = s;
    else
        list->first = s;
    if (before)
        before->prev = s;
    else
        list->last = s;
    list->n++;
}

void mp_seq_list_remove(struct mp_seq_list *list, struct mp_seq *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else
        list->first = s->next;
    if (s->next)
        s->next->prev = s->prev;
    else
        list->last = s->prev;
    s->prev = s->next = NULL;
    list->n--;
}

/* Replicas */

struct mp_replica *mp_replica_new(struct mp_loop *l, uint32_t context, const struct mp_vocab *vocab,
                                  const struct mp_body *body)
{
    struct mp_replica *r = mp_calloc(sizeof *r);
    r->magic = REPLICA_MAGIC;
    r->loop = l;
    r->context = context;
    if (vocab)
        r->vocab = *vocab;
    r->body = *body;
    for (uint32_t g = 0; g < body->n_kvs; g++)
        r->pages[g] = mp_pages_new(l->ops, body->kv[g], body->lim.max_pages, body->page_bytes[g]);
    r->n_slots_free = r->most = body->lim.max_slot;
    r->base_pages = body->lim.max_seq_pages < body->lim.max_pages ? body->lim.max_seq_pages : body->lim.max_pages;
    r->slots = mp_malloc(body->lim.max_slot * sizeof *r->slots);
    for (uint32_t i = 0; i < body->lim.max_slot; i++)
        r->slots[i] = body->lim.max_slot - 1 - i;
    r->next = l->replicas;
    l->replicas = r;
    return r;
}

void mp_replica_free(struct mp_replica *r)
{
    if (!r)
        return;
    for (struct mp_replica **p = &r->loop->replicas; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            break;
        }
    if (r->loop->conf.room)
        mp_room_shrink(r->loop->conf.room, r->beyond);
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        mp_pages_free(r->pages[g]);
    mp_free(r->slots);
    r->magic = 0;
    mp_free(r);
}

uint32_t mp_replica_busy(const struct mp_replica *r)
{
    return r->n_seqs;
}

void mp_replica_stats(const struct mp_replica *r, struct mp_replica_stats *out)
{
    *out = (struct mp_replica_stats){.running = r->running.n, .waiting = r->waiting.n, .device_ns = r->device_ns};
    out->slots_used = r->body.lim.max_slot - r->n_slots_free;
    for (uint32_t g = 0; g < r->body.n_kvs; g++) {
        out->pages_used += mp_pages_used(r->pages[g]);
        out->pages_reserved += mp_pages_reserved(r->pages[g]);
        out->kv_bytes += mp_pages_committed(r->pages[g]);
    }
    out->beyond = r->beyond;
}

void mp_replica_most(struct mp_replica *r, uint32_t n)
{
    r->most = n < r->body.lim.max_slot ? n : r->body.lim.max_slot;
}

uint64_t mp_replica_beyond(const struct mp_replica *r, uint32_t more)
{
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < r->body.n_kvs; g++) {
        uint64_t page = r->body.page_bytes[g], committed = page > 0 ? mp_pages_committed(r->pages[g]) / page : 0;
        uint64_t pages = (uint64_t)mp_pages_reserved(r->pages[g]) + more;
        pages = pages > committed ? pages : committed;
        bytes +=
            pages > r->base_pages ? (pages - r->base_pages) * page : 0; /* all pages' bytes were checked at the load */
    }
    return bytes;
}

void mp_replica_settle(struct mp_replica *r)
{
    struct mp_room *room = r->loop->conf.room;
    uint64_t now = mp_replica_beyond(r, 0);
    if (!room || now >= r->beyond)
        return;
    mp_room_shrink(room, r->beyond - now);
    r->beyond = now;
}

void mp_replica_trim(struct mp_replica *r)
{
    for (uint32_t g = 0; g < r->body.n_kvs; g++)
        mp_pages_trim(r->pages[g], 0);
    mp_replica_settle(r);
}

/* Sequences */

static void tell(struct mp_seq *s)
{
    struct mp_loop *l = s->rep->loop;
    if (s->dirty)
        return;
    s->dirty = true;
    s->dirty_next = NULL;
    if (l->dirty_last)
        l->dirty_last->dirty_next = s;
    else
        l->dirty_first = s;
    l->dirty_last = s;
}

/* Its last step is done: slot and pages go back. */
static void release(struct mp_seq *s)
{
    struct mp_replica *r = s->rep;
    if (!s->placed)
        return;
    for (uint32_t g = 0; g < r->body.n_kvs; g++) {
        for (uint32_t i = 0; i < s->n_pages; i++)
            mp_pages_give(r->pages[g], s->pages[g][i]);
        mp_pages_unreserve(r->pages[g], s->reserved);
    }
    r->slots[r->n_slots_free++] = s->slot;
    s->placed = false;
    mp_replica_settle(r);
}

void mp_seq_end(struct mp_seq *s)
{
    struct mp_replica *r = s->rep;
    if (s->state == MP_SEQ_ENDED)
        return;
    mp_seq_list_remove(s->state == MP_SEQ_WAITING ? &r->waiting : &r->running, s);
    mp_seq_list_add(&r->ended, NULL, s);
    s->state = MP_SEQ_ENDED;
    s->t_end = mp_loop_now(r->loop);
    if (s->in_flight == 0)
        release(s);
    tell(s);
}

/* A replica that had nothing to do must not make up for it at the cost of those that worked. */
static void wake(struct mp_replica *r)
{
    uint64_t least = UINT64_MAX;
    if (r->waiting.n + r->running.n > 0)
        return;
    for (const struct mp_replica *o = r->loop->replicas; o; o = o->next)
        if (o != r && o->waiting.n + o->running.n > 0 && o->vtime < least)
            least = o->vtime;
    if (least != UINT64_MAX && r->vtime < least)
        r->vtime = least;
}

struct mp_seq *mp_loop_submit(struct mp_replica *r, uint64_t tag, const int32_t *ids, uint32_t n,
                              const struct mp_msg_start *set, struct mp_err *err)
{
    if (n == 0) {
        mp_err_set(err, MP_EINVAL, "the prompt is empty");
        return NULL;
    }
    if (n > r->context || (n == r->context && set->max_tokens > 0)) {
        mp_err_set(err, MP_ECONTEXT, "the prompt has %u tokens, the model's context holds %u%s", n, r->context,
                   n == r->context ? ": no room is left for an answer" : "");
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= r->body.n_vocab) {
            mp_err_set(err, MP_EINVAL, "token %u of the prompt is %d: the vocabulary has %u", i, ids[i],
                       r->body.n_vocab);
            return NULL;
        }
    uint32_t most = r->context - n;
    struct mp_seq *s =
        mp_seq_new(r, tag, ids, n, set, set->max_tokens < most ? set->max_tokens : most, mp_loop_now(r->loop));
    struct mp_seq *before = r->waiting.first;
    while (before && before->set.priority >= set->priority)
        before = before->next;
    wake(r);
    mp_seq_list_add(&r->waiting, before, s);
    r->n_seqs++;
    return s;
}

void mp_seq_cancel(struct mp_seq *s)
{
    if (s->state == MP_SEQ_ENDED)
        return;
    s->finish = MP_MSG_FINISH_CANCELLED;
    mp_seq_end(s);
}

void mp_seq_window(struct mp_seq *s, uint32_t bytes)
{
    s->taken += bytes;
    if (s->taken > s->produced) /* a reader cannot have taken what was not made */
        s->taken = s->produced;
}

static void expire(struct mp_seq_list *list, uint64_t now)
{
    for (struct mp_seq *s = list->first, *next; s; s = next) {
        next = s->next;
        if (s->deadline > 0 && now >= s->deadline) {
            mp_err_set(&s->err, MP_ETIMEOUT, "the request's deadline passed after %.1f s",
                       (double)(now - s->t_start) / 1e9);
            mp_seq_end(s);
        }
    }
}

uint64_t mp_loop_deadline(const struct mp_loop *l)
{
    uint64_t least = UINT64_MAX;
    for (const struct mp_replica *r = l->replicas; r; r = r->next) {
        for (const struct mp_seq *s = r->waiting.first; s; s = s->next)
            least = s->deadline > 0 && s->deadline < least ? s->deadline : least;
        for (const struct mp_seq *s = r->running.first; s; s = s->next)
            least = s->deadline > 0 && s->deadline < least ? s->deadline : least;
    }
    return least;
}

/* What the device finished */

/* Waits for one ticket of the step. True when it is done; what went wrong is in the flight. */
static bool await(struct mp_loop *l, struct mp_flight *f, mp_ticket *ticket, uint64_t timeout_ns, struct mp_done *done)
{
    memset(done, 0, sizeof *done);
    int rc = l->ops->wait(l->dev, *ticket, timeout_ns, done);
    if (rc == MP_EAGAIN)
        return false;
    *ticket = 0;
    if (rc < 0)
        done->rc = mp_err_set(&done->err, rc, "the device lost a step");
    if (done->rc < 0 && f->rc == 0) {
        f->rc = done->rc;
        f->err = done->err;
        f->err.code = done->rc;
    }
    f->busy_ns += done->busy_ns;
    return true;
}

/* What a sequence is charged of the step: tokens × c1 + positions attended to × c2, scaled to the device's busy time. Shares
 * are differences of a running sum, so that they add up to it exactly. */
static void charge(const struct mp_flight *f)
{
    const struct mp_body *b = &f->rep->body;
    double all = 0, sum = 0;
    uint64_t given = 0;
    for (uint32_t i = 0; i < f->n; i++)
        all += f->rows[i].n_tok * b->tok_cost + (double)f->rows[i].attended * b->kv_cost;
    for (uint32_t i = 0; i < f->n; i++) {
        sum += f->rows[i].n_tok * b->tok_cost + (double)f->rows[i].attended * b->kv_cost;
        uint64_t upto = f->busy_ns;
        if (i + 1 < f->n)
            upto = (uint64_t)((double)f->busy_ns * (all > 0 ? sum / all : (double)(i + 1) / f->n));
        if (upto < given)
            upto = given;
        if (upto > f->busy_ns)
            upto = f->busy_ns;
        f->rows[i].seq->device_ns += upto - given;
        given = upto;
    }
}

/* One row's result; got: of its pick, or NULL. */
static void take(const struct mp_flight *f, const struct mp_flight_row *row, const struct mp_got *got, uint64_t now)
{
    struct mp_seq *s = row->seq;
    s->in_flight--;
    if (s->state == MP_SEQ_ENDED) {
        if (s->in_flight == 0)
            release(s);
        tell(s);
    } else if (f->rc < 0) {
        s->err = f->err;
        mp_seq_end(s);
    } else if (got && (got->bad || got->id < 0)) {
        mp_err_set(&s->err, MP_ENAN, "the model's output is not a number at token %u", s->n_prompt + s->n_made);
        mp_seq_end(s);
    } else if (got) {
        if (s->n_made == 0) {
            s->t_first_token = now;
            s->prefill_ns = s->device_ns;
        }
        if (mp_seq_token(s, &s->rep->vocab, got->id))
            mp_seq_end(s);
        tell(s);
    } else if (row->last) {
        s->prefill_ns = s->device_ns;
        s->finish = MP_MSG_FINISH_LENGTH;
        mp_seq_end(s);
    }
}

/* Takes in the oldest step. False when it is not done yet. */
static bool complete(struct mp_loop *l, uint64_t timeout_ns)
{
    struct mp_flight *f = &l->flight[l->first];
    struct mp_replica *r = f->rep;
    struct mp_done done = {0};
    if (f->forward && !await(l, f, &f->forward, timeout_ns, &done))
        return false;
    bool sampled = f->sample != 0;
    if (f->sample && !await(l, f, &f->sample, timeout_ns, &done))
        return false;
    l->first = (l->first + 1) % MP_LOOP_MAX_DEPTH;
    l->n_flights--;
    l->stats.busy_ns += f->busy_ns;
    r->device_ns += f->busy_ns;
    r->vtime += f->busy_ns;
    if (f->n_tok >= 8) {
        double ns = (double)f->busy_ns / f->n_tok;
        r->ns_per_tok = r->ns_per_tok > 0 ? r->ns_per_tok + (ns - r->ns_per_tok) / 4 : ns;
    }
    charge(f);
    uint64_t now = mp_loop_now(l);
    uint32_t at = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        const struct mp_got *got = NULL;
        if (f->rows[i].samples && sampled && f->rc == 0) {
            if (at < done.n_got)
                got = &done.got[at];
            else
                f->rc = mp_err_set(&f->err, MP_EDEVICE, "the device sampled %u of %u rows", done.n_got, f->n);
            at++;
        }
        take(f, &f->rows[i], got, now);
    }
    return true;
}

bool mp_loop_turn(struct mp_loop *l, uint64_t timeout_ns)
{
    bool worked = false;
    uint64_t now = mp_loop_now(l);
    while (l->n_flights > 0 && complete(l, 0))
        worked = true;
    for (struct mp_replica *r = l->replicas; r; r = r->next) {
        expire(&r->waiting, now);
        expire(&r->running, now);
        mp_sched_admit(r);
    }
    if (l->n_flights < l->conf.depth && mp_sched_issue(l))
        return true;
    if (!worked && l->n_flights > 0)
        (void)complete(l, timeout_ns);
    return worked || l->n_flights > 0 || l->dirty_first;
}

/* What is to be told */

static void fill_done(const struct mp_seq *s, struct mp_msg *m)
{
    struct mp_msg_done *d = &m->u.done;
    uint64_t first_step = s->t_first_step ? s->t_first_step : s->t_end;
    m->type = MP_MSG_DONE;
    d->finish = s->finish;
    d->prompt_tokens = s->n_prompt;
    d->completion_tokens = s->n_made;
    d->device_ns = s->device_ns;
    d->prefill_ns = s->prefill_ns;
    d->queue_ns = first_step - s->t_start;
    d->first_ns = s->t_first_token ? s->t_first_token - s->t_start : 0;
    d->total_ns = s->t_end - s->t_start;
}

static void fill_error(struct mp_loop *l, const struct mp_seq *s, struct mp_msg *m)
{
    l->ev_err = s->err;
    mp_msg_set_error(m, s->tag, &l->ev_err);
    m->u.error.prompt_tokens = s->n_prompt;
    m->u.error.completion_tokens = s->n_made;
    m->u.error.device_ns = s->device_ns;
}

static void forget(struct mp_seq *s)
{
    struct mp_replica *r = s->rep;
    mp_seq_list_remove(&r->ended, s);
    r->n_seqs--;
    mp_seq_free(s);
}

bool mp_loop_event(struct mp_loop *l, struct mp_msg *m)
{
    mp_buf_clear(&l->ev_text);
    while (l->dirty_first) {
        struct mp_seq *s = l->dirty_first;
        bool over = s->state == MP_SEQ_ENDED && s->in_flight == 0;
        bool news = s->out.len > 0 || s->n_made > s->told_made;
        memset(m, 0, sizeof *m);
        m->id = s->tag;
        struct mp_buf text = l->ev_text;
        l->ev_text = s->out;
        s->out = text;
        struct mp_span span = {l->ev_text.data, (uint32_t)l->ev_text.len};
        if (news && (!over || s->err.code != 0)) { /* an error's last text goes before it: the sequence stays in line */
            m->type = MP_MSG_TOKENS;
            m->u.tokens.completion_tokens = s->told_made = s->n_made;
            m->u.tokens.device_ns = s->device_ns;
            m->u.tokens.text = span;
        } else if (over && s->err.code != 0) {
            fill_error(l, s, m);
        } else if (over) {
            fill_done(s, m);
            m->u.done.text = span;
            if (s->stop >= 0) {
                l->ev_stop = s->text.stop[s->stop];
                m->u.done.stop = (struct mp_span){l->ev_stop.bytes, l->ev_stop.n};
            }
        }
        if (m->type != MP_MSG_TOKENS || !over) {
            l->dirty_first = s->dirty_next;
            if (!l->dirty_first)
                l->dirty_last = NULL;
            s->dirty = false;
        }
        if (m->type == MP_MSG_DONE || m->type == MP_MSG_ERROR)
            forget(s);
        if (m->type)
            return true;
    }
    return false;
}

void mp_loop_stats(const struct mp_loop *l, struct mp_loop_stats *out)
{
    *out = l->stats;
    out->in_flight = l->n_flights;
    out->oldest_issue_ns = l->n_flights > 0 ? l->flight[l->first].issued_ns : 0;
}
