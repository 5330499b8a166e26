/* core/engine/sched.c — picks work and issues it: who is admitted, which replica goes next, which tokens the step holds.
 * Decode tokens first, then prompts in chunks, in order of admission, up to the tokens that fit the step's wanted time. */
#include "core/base/mem.h"
#include "core/engine/inside.h"

#include <string.h>

enum { LEAST_CHUNK = 16, FIRST_CHUNK = 64 };

/* Pages of every group that n positions need. */
static uint32_t pages_of(const struct mp_replica *r, uint32_t positions)
{
    return (positions + r->body.page_tokens - 1) / r->body.page_tokens;
}

/* Holds what n more pages need beyond the load's part; once more after free pages' memory was given back, when it must be. */
static bool hold(struct mp_replica *r, uint32_t n)
{
    struct mp_room *room = r->loop->conf.room;
    uint64_t want = mp_replica_beyond(r, n);
    if (!room || want <= r->beyond)
        return true;
    if (!mp_room_grow(room, want - r->beyond)) {
        for (struct mp_replica *o = r->loop->replicas; o; o = o->next)
            mp_replica_trim(o);
        want = mp_replica_beyond(r, n);
        if (want > r->beyond && !mp_room_grow(room, want - r->beyond))
            return false;
    }
    r->beyond = want > r->beyond ? want : r->beyond;
    return true;
}

static bool reserve(struct mp_replica *r, uint32_t n)
{
    if (!hold(r, n))
        return false;
    for (uint32_t g = 0; g < r->body.n_kvs; g++)
        if (!mp_pages_reserve(r->pages[g], n)) {
            while (g-- > 0)
                mp_pages_unreserve(r->pages[g], n);
            mp_replica_settle(r);
            return false;
        }
    return true;
}

/* The most positions that a sequence ever fills: the last token sampled is never fed back. */
static uint32_t positions_of(const struct mp_seq *s)
{
    return s->n_prompt + (s->max_tokens > 0 ? s->max_tokens - 1 : 0);
}

void mp_sched_admit(struct mp_replica *r)
{
    while (r->waiting.first && r->n_slots_free > 0 && r->body.lim.max_slot - r->n_slots_free < r->most) {
        struct mp_seq *s = r->waiting.first;
        uint32_t need = pages_of(r, positions_of(s));
        if (r->body.n_kvs > 0 && need > r->base_pages) {
            mp_err_set(&s->err, MP_ELIMIT, "the request needs %u pages of KV memory, the model has %u", need,
                       r->base_pages);
            mp_seq_end(s);
            continue;
        }
        if (!reserve(r, need))
            break;
        mp_seq_list_remove(&r->waiting, s);
        mp_seq_list_add(&r->running, NULL, s);
        s->state = MP_SEQ_RUNNING;
        s->placed = true;
        s->reserved = need;
        for (uint32_t g = 0; g < r->body.n_kvs; g++)
            s->pages[g] = mp_malloc((need > 0 ? need : 1) * sizeof *s->pages[g]);
        s->slot = r->slots[--r->n_slots_free];
        int rc = r->loop->ops->slot_set(r->body.exec, s->slot, NULL, 0);
        if (rc < 0) {
            mp_err_set(&s->err, rc, "the device refused to begin a sequence");
            mp_seq_end(s);
        }
    }
}

/* Makes sure that pages for the next n positions are there. */
static int take_pages(struct mp_replica *r, struct mp_seq *s, uint32_t n, struct mp_err *err)
{
    uint32_t need = pages_of(r, s->pos + n);
    while (s->n_pages < need) {
        for (uint32_t g = 0; g < r->body.n_kvs; g++) {
            int rc = mp_pages_take(r->pages[g], &s->pages[g][s->n_pages], err);
            if (rc < 0) {
                while (g-- > 0)
                    mp_pages_give(r->pages[g], s->pages[g][s->n_pages]);
                return rc;
            }
        }
        s->n_pages++;
    }
    return 0;
}

static void *grow(void *p, size_t n, size_t size)
{
    size_t bytes = 0;
    if (!mp_mul_size(n, size, &bytes))
        bytes = SIZE_MAX;
    return mp_realloc(p, bytes);
}

static void make_room(struct mp_loop *l, const struct mp_replica *r)
{
    struct mp_step_room *room = &l->room;
    const struct mp_limits *lim = &r->body.lim;
    size_t pages = (size_t)lim->max_seq * (lim->max_seq_pages > 0 ? lim->max_seq_pages : 1);
    if (lim->max_tok > room->cap_tok) {
        room->cap_tok = lim->max_tok;
        room->tok = grow(room->tok, room->cap_tok, sizeof *room->tok);
        room->pos = grow(room->pos, room->cap_tok, sizeof *room->pos);
    }
    if (lim->max_seq > room->cap_seq) {
        room->cap_seq = lim->max_seq;
        room->start = grow(room->start, room->cap_seq + 1, sizeof *room->start);
        room->kv_len = grow(room->kv_len, room->cap_seq, sizeof *room->kv_len);
        room->slot = grow(room->slot, room->cap_seq, sizeof *room->slot);
        room->out = grow(room->out, room->cap_seq, sizeof *room->out);
        room->pick = grow(room->pick, room->cap_seq, sizeof *room->pick);
    }
    if (pages > room->cap_pages) {
        room->cap_pages = pages;
        for (uint32_t g = 0; g < MP_MAX_KVS; g++)
            room->pages[g] = grow(room->pages[g], pages, sizeof **room->pages);
    }
}

void mp_sched_free(struct mp_loop *l)
{
    struct mp_step_room *room = &l->room;
    mp_free(room->tok);
    mp_free(room->pos);
    mp_free(room->start);
    mp_free(room->kv_len);
    mp_free(room->slot);
    mp_free(room->out);
    mp_free(room->pick);
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        mp_free(room->pages[g]);
    memset(room, 0, sizeof *room);
}

static void set_pick(struct mp_pick *p, const struct mp_seq *s, uint32_t row)
{
    const struct mp_msg_start *set = &s->set;
    *p = (struct mp_pick){.row = row,
                          .slot = s->slot,
                          .index = s->n_prompt + s->n_picked,
                          .seed = set->seed,
                          .greedy = set->greedy || !(set->temperature > 0),
                          .top_k = set->top_k,
                          .temp = set->temperature,
                          .top_p = set->top_p,
                          .min_p = set->min_p,
                          .rep = set->repetition,
                          .freq = set->frequency,
                          .pres = set->presence,
                          .top_n = set->top_logprobs};
}

/* Adds n tokens of a sequence to the step being built. */
static void add_row(struct mp_loop *l, struct mp_flight *f, struct mp_step *step, struct mp_seq *s, uint32_t n)
{
    struct mp_step_room *room = &l->room;
    uint32_t row = step->n_seq++;
    bool prefill = s->pos < s->n_prompt, last = prefill && s->pos + n == s->n_prompt;
    room->start[row] = step->n_tok;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = step->n_tok++;
        room->pos[at] = (int32_t)(s->pos + i);
        if (prefill)
            room->tok[at] = s->prompt[s->pos + i];
        else
            room->tok[at] = s->n_made == s->n_picked ? s->last : MP_TOK_LAST;
    }
    room->start[row + 1] = step->n_tok;
    room->kv_len[row] = s->pos + n;
    room->slot[row] = s->slot;
    bool samples = (last || !prefill) && s->max_tokens > 0;
    if (samples) {
        set_pick(&room->pick[step->n_out], s, step->n_out);
        room->out[step->n_out++] = step->n_tok - 1;
    }
    /* Token i of n attends to pos + i + 1 positions. */
    uint64_t attended = (uint64_t)n * s->pos + (uint64_t)n * (n + 1) / 2;
    f->rows[f->n++] =
        (struct mp_flight_row){.seq = s, .n_tok = n, .attended = attended, .samples = samples, .last = last};
}

static void end_with(struct mp_seq *s, const struct mp_err *err)
{
    s->err = *err;
    mp_seq_end(s);
}

/* Tokens of prompts that fit beside n_decode decode rows. */
static uint32_t prefill_budget(const struct mp_loop *l, const struct mp_replica *r, uint32_t n_decode)
{
    uint32_t most = r->body.lim.max_tok - n_decode;
    double ns = (double)l->conf.step_ns * (n_decode > 0 ? 1 : 4);
    double fit = r->ns_per_tok > 0 ? ns / r->ns_per_tok - n_decode : FIRST_CHUNK;
    if (fit < LEAST_CHUNK)
        fit = LEAST_CHUNK;
    return fit < most ? (uint32_t)fit : most;
}

/* Fills step and flight with the replica's next step; false when it has no work. */
static bool build(struct mp_loop *l, struct mp_replica *r, struct mp_flight *f, struct mp_step *step)
{
    const struct mp_limits *lim = &r->body.lim;
    struct mp_err err;
    make_room(l, r);
    if (f->cap < lim->max_seq) {
        f->cap = lim->max_seq;
        f->rows = grow(f->rows, f->cap, sizeof *f->rows);
    }
    memset(step, 0, sizeof *step);
    f->n = 0;
    for (struct mp_seq *s = r->running.first, *next; s && step->n_seq < lim->max_seq; s = next) {
        next = s->next;
        if (!mp_seq_decodes(s))
            continue;
        int rc = take_pages(r, s, 1, &err);
        if (rc < 0)
            end_with(s, &err);
        else
            add_row(l, f, step, s, 1);
    }
    uint32_t left = prefill_budget(l, r, step->n_tok);
    for (struct mp_seq *s = r->running.first, *next; s && step->n_seq < lim->max_seq && left > 0; s = next) {
        next = s->next;
        if (!mp_seq_prefilling(s))
            continue;
        uint32_t n = s->n_prompt - s->pos;
        n = n < left ? n : left;
        if (l->conf.chunk > 0 && n > l->conf.chunk)
            n = l->conf.chunk;
        int rc = take_pages(r, s, n, &err);
        if (rc < 0) {
            end_with(s, &err);
        } else {
            add_row(l, f, step, s, n);
            left -= n;
        }
    }
    if (step->n_seq == 0)
        return false;

    struct mp_step_room *room = &l->room;
    uint32_t stride = 1;
    for (uint32_t i = 0; i < f->n; i++)
        stride = f->rows[i].seq->n_pages > stride ? f->rows[i].seq->n_pages : stride;
    for (uint32_t g = 0; g < r->body.n_kvs; g++) {
        for (uint32_t i = 0; i < f->n; i++) {
            const struct mp_seq *s = f->rows[i].seq;
            uint32_t *to = room->pages[g] + (size_t)i * stride;
            memcpy(to, s->pages[g], s->n_pages * sizeof *to);
            /* Beyond a sequence's pages nothing is read; a valid id stands there all the same. */
            for (uint32_t p = s->n_pages; p < stride; p++)
                to[p] = s->n_pages > 0 ? s->pages[g][0] : 0;
        }
        step->pages[g] = room->pages[g];
        step->stride[g] = stride;
    }
    step->tok = room->tok;
    step->pos = room->pos;
    step->start = room->start;
    step->kv_len = room->kv_len;
    step->slot = room->slot;
    step->out = room->out;
    return true;
}

/* The replica with work that used least device time. tried: those before it had none after all. */
static struct mp_replica *next_replica(struct mp_loop *l, uint64_t after, const struct mp_replica *last)
{
    struct mp_replica *best = NULL;
    bool passed = last == NULL;
    for (struct mp_replica *r = l->replicas; r; r = r->next) {
        bool later = r->vtime > after || (r->vtime == after && passed);
        if (r == last)
            passed = true;
        if (r != last && (last == NULL || later) && r->running.n > 0 && (!best || r->vtime < best->vtime))
            best = r;
    }
    return best;
}

/* The step goes to the device. False when it refused: its sequences have ended. */
static bool issue(struct mp_loop *l, struct mp_replica *r, struct mp_flight *f, const struct mp_step *step)
{
    struct mp_err err = {0};
    f->rep = r;
    f->forward = f->sample = 0;
    f->busy_ns = 0;
    f->rc = 0;
    f->n_tok = step->n_tok;
    f->issued_ns = mp_loop_now(l);
    if (l->ops->forward(r->body.exec, step, &f->forward, &err) < 0) {
        mp_err_context(&err, "the device refused a step");
        for (uint32_t i = 0; i < f->n; i++)
            end_with(f->rows[i].seq, &err);
        return false;
    }
    if (step->n_out > 0 && (f->rc = l->ops->sample(r->body.exec, l->room.pick, step->n_out, &f->sample, &f->err)) < 0) {
        mp_err_context(&f->err, "the device refused to sample");
        f->sample = 0;
    }
    for (uint32_t i = 0; i < f->n; i++) {
        struct mp_seq *s = f->rows[i].seq;
        if (!s->t_first_step)
            s->t_first_step = f->issued_ns;
        s->pos += f->rows[i].n_tok;
        s->n_picked += f->rows[i].samples;
        s->in_flight++;
    }
    for (uint32_t i = 0; i < step->n_tok; i++)
        if (step->tok[i] == MP_TOK_LAST) {
            l->stats.last_tokens++;
            break;
        }
    l->n_flights++;
    l->stats.steps++;
    l->stats.tokens += step->n_tok;
    l->stats.seqs += step->n_seq;
    if (l->n_flights > l->stats.most_in_flight)
        l->stats.most_in_flight = l->n_flights;
    return true;
}

bool mp_sched_issue(struct mp_loop *l)
{
    struct mp_flight *f = &l->flight[(l->first + l->n_flights) % MP_LOOP_MAX_DEPTH];
    struct mp_step step;
    struct mp_replica *r = next_replica(l, 0, NULL);
    while (r && !build(l, r, f, &step))
        r = next_replica(l, r->vtime, r);
    return r && issue(l, r, f, &step);
}
