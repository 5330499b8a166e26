/* core/pool/room.c — the memory of a device, and turns among models that do not fit together. Called by keeper.c once per turn and device.
 *
 * Nothing is loaded that would pass the limit: what loads, is warm, drains, or was given up and is not confirmed yet, is all counted. Who
 * waits for room, the most wanted first and of those who has waited longest for its turn, gets what is free; what others are about to give back is set
 * aside for it. To make room, of the warm ones
 *
 *  - one at rest goes at once when the other is wanted more (enum mp_level). At rest: without a request for as long as loading it again
 *    would take, but not longer than min_residency. So a pause between two requests is none, and a wrong guess costs at most as much
 *    again as the load that it caused;
 *  - one with requests, or that min_residency or min_replicas would keep, goes when a request of the other would otherwise start later than
 *    max_wait after it came, and it has been there for min_residency. Its own queue then waits for its turn.
 *
 * A model that min_replicas keeps is not at rest for others. With 0 as memory there is no limit, and everything fits. */
#include "core/pool/keeper_impl.h"

#include "core/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double UNKNOWN_LOAD = 1; /* seconds */
static const double HASTE = 1.25;     /* loads and last requests may take so much longer than expected */

static bool is_warm(const struct mp_row *r, const struct mp_room *room)
{
    return r->room == room && mp_row_state(r) == MP_MODEL_WARM;
}

static bool has_requests(const struct mp_row *r)
{
    return r->f.in_flight + r->f.queued > 0;
}

/* One that was never loaded is expected to come as fast as the others did. */
static double load_seconds(const struct mp_row *r)
{
    double guess = r->room->seconds_per_byte * (double)r->f.need;
    return r->f.load_seconds > 0 ? r->f.load_seconds : guess > 0 ? guess : UNKNOWN_LOAD;
}

/* ---- who wants room ---- */

static bool wants(const struct mp_keeper *k, const struct mp_row *r)
{
    enum mp_model_state s = mp_row_state(r);
    return (s == MP_MODEL_COLD || s == MP_MODEL_FAILED) && r->level != MP_LEVEL_NONE && k->now_ns >= r->retry_ns &&
           !r->told_unload;
}

/* How long it has waited for its turn: one that was let go a moment ago waits since then, however long its line is. */
static double turn_wait(const struct mp_keeper *k, const struct mp_row *r)
{
    return fmin(r->f.oldest_wait, (double)(k->now_ns - r->let_go_ns) / 1e9);
}

static bool more_wanted(const struct mp_keeper *k, const struct mp_row *a, const struct mp_row *b)
{
    return a->level != b->level ? a->level > b->level : turn_wait(k, a) > turn_wait(k, b);
}

/* ---- who may go ---- */

struct leaver {
    struct mp_row *r;
    bool soft; /* at rest: goes only if no request has come meanwhile */
};

struct leavers {
    struct leaver *v;
    uint32_t n;
    uint64_t bytes;
};

static void add(struct leavers *l, struct mp_row *r, bool soft)
{
    l->v[l->n++] = (struct leaver){r, soft};
    l->bytes += r->reserved;
}

/* Seconds until r is at rest. */
static double until_rest(const struct mp_row *r)
{
    return has_requests(r) ? INFINITY : fmax(0, fmin(load_seconds(r), r->room->min_residency) - r->f.idle);
}

/* Seconds until r may be let go for w although it is not at rest. */
static double until_turn(const struct mp_row *r, const struct mp_row *w)
{
    double drain = r->f.in_flight > 0 ? r->f.service_seconds : 0;
    double spare = r->room->max_wait - w->f.oldest_wait - HASTE * (drain + load_seconds(w));
    return fmax(fmax(0, spare), r->room->min_residency - r->f.resident);
}

static int by_use(const void *a, const void *b)
{
    const struct leaver *x = a, *y = b;
    if (x->soft != y->soft)
        return x->soft ? -1 : 1;
    if (x->r->f.idle != y->r->f.idle)
        return x->r->f.idle > y->r->f.idle ? -1 : 1;
    return x->r->f.resident > y->r->f.resident ? -1 : x->r->f.resident < y->r->f.resident;
}

/* Those that may go for w now; when that may change is noted. Returns in how many seconds the next may go: 0 when one may now. */
static double find_leavers(struct mp_keeper *k, const struct mp_row *w, struct leavers *l)
{
    double next = INFINITY;
    for (uint32_t i = 0; i < k->n_rows; i++) {
        struct mp_row *r = k->rows[i];
        double rest, turn;
        if (!is_warm(r, w->room))
            continue;
        rest = r->level < w->level && r->level < MP_LEVEL_PIN ? until_rest(r) : INFINITY;
        turn = w->level == MP_LEVEL_BUSY ? until_turn(r, w) : INFINITY;
        if (rest <= 0 || turn <= 0)
            add(l, r, rest <= 0);
        else
            mp_keeper_due_in(k, fmin(rest, turn));
        next = fmax(0, fmin(next, fmin(rest, turn)));
    }
    if (l->n > 0)
        qsort(l->v, l->n, sizeof *l->v, by_use);
    return next;
}

/* When it expects its turn: what its calls are told. */
static void expect_turn(struct mp_keeper *k, struct mp_row *w, double seconds)
{
    pthread_mutex_lock(&w->m->lock);
    w->m->turn_ns = isfinite(seconds) ? k->now_ns + (uint64_t)(seconds * 1e9) : 0;
    pthread_mutex_unlock(&w->m->lock);
}

/* The policy's choice instead of `l`, if it is one: some of them, each once, that give `bytes` back. */
static bool ask_evict(struct mp_keeper *k, struct leavers *l, uint64_t bytes, char *reason, size_t size)
{
    struct mp_pool_facts *facts = mp_calloc(l->n * sizeof *facts);
    uint32_t *chosen = mp_calloc(l->n * sizeof *chosen);
    struct leaver *order = mp_calloc(l->n * sizeof *order);
    uint64_t sum = 0;
    int n;
    bool ok;
    for (uint32_t i = 0; i < l->n; i++)
        facts[i] = l->v[i].r->f;
    n = k->ops->evict(k->ctx, facts, l->n, bytes, (double)k->wall_s, chosen, reason, size);
    ok = n > 0 && (uint32_t)n <= l->n;
    for (int i = 0; i < n && ok; i++) {
        ok = chosen[i] < l->n;
        for (int j = 0; j < i && ok; j++)
            ok = chosen[j] != chosen[i];
        if (ok) {
            order[i] = l->v[chosen[i]];
            sum += order[i].r->reserved;
        }
    }
    ok = ok && sum >= bytes;
    if (ok) {
        memcpy(l->v, order, (uint32_t)n * sizeof *order);
        l->n = (uint32_t)n;
    }
    mp_free(order);
    mp_free(chosen);
    mp_free(facts);
    return ok;
}

/* Lets go of as many as give `bytes` back; returns how many will come. Fewer when one got a request meanwhile. */
static uint64_t make_room(struct mp_keeper *k, struct leavers *l, uint64_t bytes, const char *whom)
{
    char reason[400], policy[200] = "";
    uint64_t coming = 0;
    bool asked = l->n > 0 && k->ops->evict && ask_evict(k, l, bytes, policy, sizeof policy);
    snprintf(reason, sizeof reason, "room for %s: %s", whom, asked && policy[0] ? policy : "least recently used");
    for (uint32_t i = 0; i < l->n && coming < bytes; i++) {
        struct mp_row *r = l->v[i].r;
        if (mp_row_let_go(k, r, l->v[i].soft, MP_CAUSE_EVICTED, reason))
            coming += r->reserved;
        else
            mp_keeper_due_in(k, 0);
    }
    return coming;
}

/* ---- a turn ---- */

static void refuse_too_big(struct mp_keeper *k, struct mp_row *w)
{
    struct mp_err why = {0};
    mp_err_set(&why, MP_ENOMEM, "it needs %.0f MiB, and its device '%s' may hold %.0f MiB in all",
               ceil((double)w->f.need / 1048576), w->room->group, (double)w->room->memory / 1048576);
    mp_row_fail(k, w, MP_CAUSE_LOAD_FAILED, &why, 0);
}

/* Its engine has not said yet what a load needs. */
static bool need_unknown(const struct mp_row *w)
{
    struct mp_pool_status s;
    if (w->f.need > 0)
        return false;
    mp_pool_model_status(w->m, &s);
    return s.engine == 0;
}

struct budget {
    uint64_t free, coming; /* bytes nobody holds; that will come back */
};

static void set_aside(struct budget *b, uint64_t bytes)
{
    uint64_t now = bytes < b->free ? bytes : b->free, later = bytes - now;
    b->free -= now;
    b->coming -= later < b->coming ? later : b->coming;
}

static bool is_urgent(const struct mp_row *w)
{
    return w->level == MP_LEVEL_BUSY && w->f.oldest_wait + HASTE * load_seconds(w) >= w->room->max_wait;
}

/* True: it has what it needs. */
static bool serve(struct mp_keeper *k, struct mp_row *w, struct budget *b, struct leavers *l)
{
    uint64_t need = w->f.need;
    bool limited = w->room->memory > 0;
    if (limited && need_unknown(w))
        return false;
    if (limited && need > w->room->memory) {
        refuse_too_big(k, w);
        return false;
    }
    if (!limited || need <= b->free) {
        bool loads = k->now_ns >= w->order_ns && mp_row_load(k, w);
        if (loads || w->order_ns != 0)
            set_aside(b, need);
        return loads;
    }
    if (need > b->free + b->coming) {
        uint64_t missing = need - b->free - b->coming;
        char whom[160];
        l->n = 0;
        l->bytes = 0;
        expect_turn(k, w, find_leavers(k, w, l));
        if (l->bytes >= missing) {
            snprintf(whom, sizeof whom, "'%s'", mp_pool_model_name(w->m));
            b->coming += make_room(k, l, missing, whom);
            w->swaps = true;
        } else if (!is_urgent(w)) {
            return false; /* nobody is sent away in vain, and who fits meanwhile may load */
        }
    }
    set_aside(b, need);
    return false;
}

/* A limit that was lowered: whoever is used least goes. */
static void shrink(struct mp_keeper *k, struct mp_room *room, uint64_t bytes, struct leavers *l)
{
    for (uint32_t i = 0; i < k->n_rows; i++)
        if (is_warm(k->rows[i], room))
            add(l, k->rows[i], !has_requests(k->rows[i]));
    if (l->n > 0)
        qsort(l->v, l->n, sizeof *l->v, by_use);
    make_room(k, l, bytes, "a lower limit of the device's memory");
}

static void tell_idle(struct mp_keeper *k, struct mp_room *room, bool tell)
{
    for (uint32_t i = 0; i < k->n_rows; i++) {
        struct mp_pool_model *m = k->rows[i]->m;
        if (k->rows[i]->room != room)
            continue;
        pthread_mutex_lock(&m->lock);
        m->tell_idle = tell;
        pthread_mutex_unlock(&m->lock);
    }
    room->pressed = tell;
}

void mp_room_share(struct mp_keeper *k, struct mp_room *room)
{
    struct mp_row **wanters = mp_calloc((k->n_rows + 1) * sizeof *wanters);
    struct leavers l = {.v = mp_calloc((k->n_rows + 1) * sizeof *l.v)};
    struct budget b = {0};
    uint64_t reserved = 0;
    uint32_t n = 0;
    bool pressed = false;
    for (uint32_t i = 0; i < k->n_rows; i++) {
        struct mp_row *r = k->rows[i];
        if (r->room != room)
            continue;
        reserved += r->reserved;
        if (!is_warm(r, room) && mp_row_state(r) != MP_MODEL_LOADING && !r->replaced)
            b.coming += r->reserved;
        if (wants(k, r)) {
            uint32_t at = n++;
            for (; at > 0 && more_wanted(k, r, wanters[at - 1]); at--)
                wanters[at] = wanters[at - 1];
            wanters[at] = r;
        }
    }
    b.free = reserved < room->memory ? room->memory - reserved : 0;
    uint64_t over = reserved > room->memory ? reserved - room->memory : 0; /* a limit that was lowered */
    if (room->memory > 0 && over > b.coming) {
        shrink(k, room, over - b.coming, &l);
    } else {
        b.coming -= room->memory > 0 ? over : 0;
        for (uint32_t i = 0; i < n; i++)
            pressed |= !serve(k, wanters[i], &b, &l);
    }
    if (pressed || room->pressed)
        tell_idle(k, room, pressed);
    mp_free(l.v);
    mp_free(wanters);
}
