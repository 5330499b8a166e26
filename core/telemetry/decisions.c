/* core/telemetry/decisions.c — see decisions.h. */
#include "core/telemetry/decisions.h"

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum field { KIND, POLICY, MODEL, DECISION, REASON, FALLBACK, INPUTS, N_FIELDS, N_COMPARED = INPUTS };
static const char *const names[N_FIELDS] = {"kind", "policy", "model", "decision", "reason", "fallback", "inputs"};

struct entry {
    uint64_t key; /* of kind and model */
    uint64_t first_ns, last_ns, times;
    size_t bytes;
    char *text; /* N_FIELDS strings, one behind the other */
};

enum { SLOTS = 8192, PROBES = 8 };

static struct { /* all under the lock */
    pthread_mutex_t lock;
    struct entry ring[MP_DECISIONS_KEPT]; /* number n lies at n % MP_DECISIONS_KEPT */
    uint64_t oldest, next;                /* numbers oldest..next-1 are kept */
    size_t bytes;
    struct { /* the last of a kind and model */
        uint64_t key, n;
    } last[SLOTS];
    void (*wake)(void *ctx);
    void *ctx;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .oldest = 1, .next = 1};

static struct entry *at(uint64_t n)
{
    return &all.ring[n % MP_DECISIONS_KEPT];
}

static uint64_t key_of(const char *kind, const char *model)
{
    char text[300];
    size_t n = strnlen(kind, 40), m = strnlen(model, 250);
    memcpy(text, kind, n);
    text[n] = '\0';
    memcpy(text + n + 1, model, m);
    return mp_hash(text, n + 1 + m) | 1; /* 0: a free slot */
}

/* The slot of a key: its own, else a free one, else that of the oldest number. So a key that is not found is merely new. */
static uint32_t slot_of(uint64_t key)
{
    uint32_t best = (uint32_t)(key >> 32) % SLOTS;
    for (uint32_t i = 0; i < PROBES; i++) {
        uint32_t s = (uint32_t)((key >> 32) + i) % SLOTS;
        if (all.last[s].key == key)
            return s;
        if (all.last[s].n < all.last[best].n)
            best = s;
    }
    return best;
}

static bool same(const struct entry *e, const char *const fields[N_FIELDS])
{
    const char *p = e->text;
    for (int i = 0; i < N_COMPARED; i++) {
        if (strcmp(p, fields[i]) != 0)
            return false;
        p += strlen(p) + 1;
    }
    return true;
}

static void drop_oldest(void)
{
    struct entry *e = at(all.oldest++);
    all.bytes -= e->bytes;
    mp_free(e->text);
    *e = (struct entry){0};
}

/* Bytes of a text that is too long: as many as leave room for the others, in whole characters. */
static size_t fit(const char *s, size_t most)
{
    size_t n = strnlen(s, most + 1);
    return n <= most ? n : most - mp_utf8_partial_tail(s, most);
}

static void append(uint64_t key, const char *const fields[N_FIELDS], uint64_t now)
{
    size_t n[N_FIELDS], total = 0;
    struct entry e = {.key = key, .first_ns = now, .last_ns = now, .times = 1};
    for (int i = 0; i < N_FIELDS; i++) {
        size_t most = i == INPUTS ? MP_DECISION_MAX - total - 1 : MP_DECISION_MAX / N_FIELDS - 1;
        n[i] = fit(fields[i], most);
        if (i == INPUTS && (fields[i][n[i]] != '\0' || mp_json_check(fields[i], n[i], 0, 0, NULL) != 0))
            n[i] = 0; /* no part of it is JSON */
        total += n[i] + 1;
    }
    while (all.oldest < all.next &&
           (all.next - all.oldest == MP_DECISIONS_KEPT || all.bytes + total > MP_DECISIONS_BYTES))
        drop_oldest();
    e.bytes = total;
    char *p = e.text = mp_malloc(total);
    for (int i = 0; i < N_FIELDS; i++) {
        memcpy(p, fields[i], n[i]);
        p[n[i]] = '\0';
        for (char *c = p; i == INPUTS && *c; c++)
            if (*c == '\n' || *c == '\r') /* between values: a decision is one line */
                *c = ' ';
        p += n[i] + 1;
    }
    all.bytes += total;
    *at(all.next++) = e;
}

static bool decide(const struct mp_decision *d, bool only_again)
{
    const char *fields[N_FIELDS] = {d->kind, d->policy, d->model, d->decision, d->reason, d->fallback, d->inputs};
    uint64_t now = mp_clock_wall_ns(), key;
    for (int i = 0; i < N_FIELDS; i++)
        if (!fields[i])
            fields[i] = "";
    bool each = strcmp(d->kind, "state") == 0 || strcmp(d->kind, "reload") == 0 || strcmp(d->kind, "job") == 0;
    key = key_of(fields[KIND], fields[MODEL]);
    pthread_mutex_lock(&all.lock);
    uint32_t s = slot_of(key);
    struct entry *e = all.last[s].key == key && all.last[s].n >= all.oldest ? at(all.last[s].n) : NULL;
    bool again = !each && e && same(e, fields);
    if (again) {
        e->times++;
        e->last_ns = now;
    } else if (!only_again) {
        all.last[s].key = key;
        all.last[s].n = all.next;
        append(key, fields, now);
        void (*wake)(void *ctx) = all.wake;
        all.wake = NULL;
        if (wake)
            wake(all.ctx);
    }
    pthread_mutex_unlock(&all.lock);
    return again;
}

void mp_decide(const struct mp_decision *d)
{
    decide(d, false);
}

bool mp_decide_again(const struct mp_decision *d)
{
    return decide(d, true);
}

bool mp_decisions_last(const char *kind, const char *model, struct mp_buf *reason)
{
    uint64_t key = key_of(kind, model);
    bool found;
    pthread_mutex_lock(&all.lock);
    uint32_t s = slot_of(key);
    found = all.last[s].key == key && all.last[s].n >= all.oldest;
    if (found) {
        const char *p = at(all.last[s].n)->text;
        for (int i = 0; i < REASON; i++)
            p += strlen(p) + 1;
        mp_buf_puts(reason, p);
    }
    pthread_mutex_unlock(&all.lock);
    return found;
}

bool mp_decisions_watch(void (*wake)(void *ctx), void *ctx)
{
    bool armed;
    pthread_mutex_lock(&all.lock);
    armed = all.wake != NULL;
    all.wake = wake;
    all.ctx = ctx;
    pthread_mutex_unlock(&all.lock);
    return armed;
}

static void put_time(struct mp_buf *out, const char *name, uint64_t ns)
{
    mp_buf_printf(out, ",\"%s\":", name);
    mp_json_put_number(out, round((double)(ns / 1000000)) / 1000);
}

static void print(uint64_t n, const struct entry *e, struct mp_buf *out)
{
    const char *p = e->text;
    mp_buf_printf(out, "{\"n\":%ju", (uintmax_t)n);
    put_time(out, "time", e->first_ns);
    for (int i = 0; i < N_FIELDS; i++) {
        size_t len = strlen(p);
        if (i == INPUTS) { /* behind what changes while it is the last */
            mp_buf_printf(out, ",\"times\":%ju", (uintmax_t)e->times);
            if (e->times > 1)
                put_time(out, "last", e->last_ns);
        }
        if (len > 0 || i == DECISION) {
            mp_buf_printf(out, ",\"%s\":", names[i]);
            if (i == INPUTS)
                mp_buf_put(out, p, len);
            else
                mp_json_put_string(out, p, len);
        }
        p += len + 1;
    }
    mp_buf_puts(out, "}\n");
}

uint64_t mp_decisions_print(uint64_t after, uint32_t most, struct mp_buf *out)
{
    uint64_t n, last;
    pthread_mutex_lock(&all.lock);
    last = all.next - 1;
    n = after >= last ? all.next : after >= all.oldest ? after + 1 : all.oldest;
    for (; n < all.next && most > 0; n++, most--) {
        print(n, at(n), out);
        last = n;
    }
    pthread_mutex_unlock(&all.lock);
    return last;
}
