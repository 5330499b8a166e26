/* gpu/lower/sample.c — see sample.h, and struct mp_pick in gpu/device.h for what is computed.
 *
 * What may depend on the order of a sum is summed in integers: probabilities as multiples of 2^-30 of the highest. What
 * survives top-k and top-p is described by a cut in the order "larger value first, lower id first among equals", found by
 * a radix histogram (three passes over the row) rather than by sorting. Cost for 49,152 tokens, one Zen 3 core: 0.18 ms greedy,
 * 0.85 ms by temperature alone, 0.67 ms with every filter on. */
#include "gpu/lower/sample.h"

#include "core/base/mem.h"
#include "gpu/lower/fmath.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, WEIGHT_ONE = 1 << 30 };
static const float NOISE_MOST = 22.5f; /* -log of the smallest -log(1 - v): log 2^32 = 22.18 */

/* --- slots -------------------------------------------------------------------------------------------------------- */

void mp_slot_free(struct mp_slot *s)
{
    mp_free(s->ids);
    mp_free(s->counts);
    memset(s, 0, sizeof(*s));
}

static uint32_t find(const struct mp_slot *s, int32_t id)
{
    uint32_t at = ((uint32_t)id * 2654435761u) & (s->cap - 1);
    while (s->ids[at] != -1 && s->ids[at] != id)
        at = (at + 1) & (s->cap - 1);
    return at;
}

static void count(struct mp_slot *s, int32_t id, uint32_t times)
{
    if (2 * (s->used + 1) > s->cap) {
        struct mp_slot old = *s;
        s->cap = old.cap ? old.cap * 2 : 64;
        s->used = 0;
        s->ids = mp_malloc(s->cap * sizeof(*s->ids));
        s->counts = mp_malloc(s->cap * sizeof(*s->counts));
        memset(s->ids, 0xff, s->cap * sizeof(*s->ids));
        for (uint32_t i = 0; i < old.cap; i++)
            if (old.ids[i] != -1)
                count(s, old.ids[i], old.counts[i]);
        mp_free(old.ids);
        mp_free(old.counts);
    }
    uint32_t at = find(s, id);
    if (s->ids[at] == -1) {
        s->ids[at] = id;
        s->counts[at] = 0;
        s->used++;
    }
    s->counts[at] += times;
}

void mp_slot_set(struct mp_slot *s, const int32_t *ids, uint32_t n)
{
    mp_slot_free(s);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= 0)
            count(s, ids[i], 1);
}

void mp_slot_push(struct mp_slot *s, int32_t id)
{
    s->any = true;
    s->last = id < 0 ? 0 : id;
    if (id >= 0)
        count(s, id, 1);
}

uint32_t mp_slot_count(const struct mp_slot *s, int32_t id)
{
    if (!s->cap || id < 0)
        return 0;
    uint32_t at = find(s, id);
    return s->ids[at] == id ? s->counts[at] : 0;
}

/* --- checking ----------------------------------------------------------------------------------------------------- */

int mp_pick_check(const struct mp_pick *p, uint32_t n_out, uint32_t n_slots, struct mp_err *err)
{
    if (p->row >= n_out)
        return mp_err_set(err, MP_EINVAL, "sample: row %u; the last forward kept %u", p->row, n_out);
    if (p->slot >= n_slots)
        return mp_err_set(err, MP_EINVAL, "sample: slot %u; there are %u", p->slot, n_slots);
    if (p->top_n > MP_COUNT(((struct mp_got *)0)->top))
        return mp_err_set(err, MP_EINVAL, "sample: %u log-probabilities; at most 20", p->top_n);
    if (!(p->rep >= 0) || !isfinite(p->rep) || !isfinite(p->freq) || !isfinite(p->pres))
        return mp_err_set(err, MP_EINVAL, "sample: a penalty is out of range");
    if (!p->greedy && (!(p->temp > 0) || !isfinite(p->temp) || !(p->top_p > 0 && p->top_p <= 1) ||
                       !(p->min_p >= 0 && p->min_p <= 1) || p->top_k < 0))
        return mp_err_set(err, MP_EINVAL, "sample: temperature, top_p, min_p or top_k is out of range");
    return 0;
}

/* --- noise -------------------------------------------------------------------------------------------------------- */

void mp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53u * c0, b = (uint64_t)0xcd9e8d57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Gumbel noise of the ids at .. at+15: -log(-log(1 - v)) of 32 random bits each, v = (bits/2 + 0.5) / 2^31. Small v, which
 * make large noise, keep their full precision: -log(1 - v) as log1p, Kahan's way. At most NOISE_MOST. */
static void gumbel16(uint32_t at, const struct mp_pick *p, float noise[LANES])
{
    const uint32_t key[2] = {(uint32_t)p->seed, (uint32_t)(p->seed >> 32)};
    uint32_t bits[LANES];
    for (uint32_t q = 0; q < LANES / 4; q++)
        mp_philox((const uint32_t[4]){at / 4 + q, p->index, 0, 0}, key, bits + 4 * q);
    for (uint32_t l = 0; l < LANES; l++) {
        float v = ((float)(int32_t)(bits[l] >> 1) + 0.5f) * 0x1p-31f;
        v = v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f;
        float u = 1.0f - v, gone = 1.0f - u; /* what the subtraction kept of v */
        float part = v / (gone > 0 ? gone : 1.0f);
        float e = gone > 0 ? -mp_logf(u) * part : v;
        noise[l] = -mp_logf(e);
    }
}

/* --- one row ------------------------------------------------------------------------------------------------------ */

/* The largest value; *bad is set when there is a NaN or +inf. */
static float largest(const float *x, uint32_t n, bool *bad)
{
    float max[LANES], sick[LANES];
    uint32_t i = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        max[l] = -INFINITY;
        sick[l] = 0;
    }
    for (; i + LANES <= n; i += LANES)
        for (uint32_t l = 0; l < LANES; l++) {
            float v = x[i + l];
            max[l] = v > max[l] ? v : max[l];
            sick[l] += v - v; /* 0, or NaN for NaN and infinities: -inf is told apart below */
        }
    for (; i < n; i++) {
        max[0] = x[i] > max[0] ? x[i] : max[0];
        sick[0] += x[i] - x[i];
    }
    float top = -INFINITY, all = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        top = max[l] > top ? max[l] : top;
        all += sick[l];
    }
    if (all != 0) /* NaN: look closely */
        for (i = 0; i < n; i++)
            *bad |= isnan(x[i]) || x[i] == INFINITY;
    return top;
}

/* log of the sum of exp(x), max being the largest. */
static float log_sum_exp(const float *x, uint32_t n, float max)
{
    double total = 0;
    for (uint32_t at = 0; at < n; at += 1024) {
        uint32_t end = n - at < 1024 ? n : at + 1024, i = at;
        float sum[LANES] = {0};
        for (; i + LANES <= end; i += LANES)
            for (uint32_t l = 0; l < LANES; l++)
                sum[l] = sum[l] + mp_expf(x[i + l] - max);
        for (; i < end; i++)
            sum[0] = sum[0] + mp_expf(x[i] - max);
        for (uint32_t l = 0; l < LANES; l++)
            total += (double)sum[l];
    }
    return max + mp_logf((float)total);
}

static void top_logprobs(const float *x, uint32_t n, uint32_t want, float lse, struct mp_got *got)
{
    uint32_t have = 0;
    for (uint32_t i = 0; i < n && want; i++) {
        if (have == want && !(x[i] > got->top[have - 1].logprob))
            continue;
        uint32_t at = have < want ? have++ : have - 1;
        for (; at > 0 && x[i] > got->top[at - 1].logprob; at--)
            got->top[at] = got->top[at - 1];
        got->top[at] = (struct mp_top){(int32_t)i, x[i]};
    }
    for (uint32_t i = 0; i < have; i++)
        got->top[i].logprob = got->top[i].logprob - lse;
    got->n_top = (uint16_t)have;
}

static void penalise(float *z, uint32_t n, const struct mp_pick *p, const struct mp_slot *s)
{
    float rep = p->rep > 0 ? p->rep : 1;
    for (uint32_t i = 0; i < s->cap; i++) {
        if (s->ids[i] < 0 || (uint32_t)s->ids[i] >= n)
            continue;
        float *v = &z[s->ids[i]];
        *v = *v > 0 ? *v / rep : *v * rep;
        *v = *v - (p->freq * (float)s->counts[i] + p->pres);
    }
}

static void mask(float *z, uint32_t n, const uint32_t *allow)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(allow[i / 32] >> (i % 32) & 1))
            z[i] = -INFINITY;
}

static int32_t argmax(const float *z, uint32_t n, float max)
{
    for (uint32_t i = 0; i < n; i++)
        if (z[i] == max)
            return (int32_t)i;
    return -1;
}

struct cut { /* kept: key above, or equal and the id at most last; and a weight of at least least */
    uint32_t key, last, least;
};

/* Unsigned integers in the order of floats. */
static uint32_t key_of(float f)
{
    uint32_t u = mp_f_bits(f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static bool kept(const struct cut *c, uint32_t key, uint32_t id)
{
    return key > c->key || (key == c->key && id <= c->last);
}

/* Moves the cut so that of what is kept the first elements in order stay whose shares reach target; an element's share is
 * its weight, or 1 where w is NULL. The whole reaches target. */
static void cut_at(struct cut *c, const float *z, const uint32_t *w, uint32_t n, uint64_t target)
{
    enum { BITS = 11, BUCKETS = 1 << BITS };
    uint64_t buckets[BUCKETS], above = 0;
    uint32_t prefix = 0, known = 0; /* key bits found so far, from the top */
    while (known < 32) {
        uint32_t bits = 32 - known < BITS ? 32 - known : BITS, shift = 32 - known - bits;
        memset(buckets, 0, sizeof(buckets));
        for (uint32_t i = 0; i < n; i++) {
            uint32_t key = key_of(z[i]);
            if ((known == 0 || key >> (32 - known) == prefix) && kept(c, key, i))
                buckets[key >> shift & ((1u << bits) - 1)] += w ? w[i] : 1;
        }
        uint32_t b = (1u << bits) - 1;
        while (b > 0 && above + buckets[b] < target)
            above += buckets[b--];
        prefix = prefix << bits | b;
        known += bits;
    }
    uint32_t last = 0;
    for (uint32_t i = 0; i < n && above < target; i++)
        if (key_of(z[i]) == prefix && kept(c, prefix, i)) {
            above += w ? w[i] : 1;
            last = i;
        }
    c->key = prefix;
    c->last = last;
}

/* z: distances from the largest over the temperature, at most 0; w: room for as many weights. */
static int32_t draw(const float *z, uint32_t *w, uint32_t n, const struct mp_pick *p)
{
    struct cut c = {.key = 0, .last = 0, .least = 0}; /* nothing is cut off: no float has the key 0 */
    uint64_t total = 0, alive = 0;
    if (p->top_k > 0 && (uint32_t)p->top_k < n) {
        for (uint32_t i = 0; i < n; i++)
            alive += z[i] > -INFINITY;
        if ((uint64_t)p->top_k < alive)
            cut_at(&c, z, NULL, n, (uint64_t)p->top_k);
    }
    bool weighs = p->top_p < 1 || p->min_p > 0;
    for (uint32_t i = 0; i < n && weighs; i++)
        w[i] = (uint32_t)(int32_t)(mp_expf(z[i]) * (float)WEIGHT_ONE);
    if (p->top_p < 1) {
        for (uint32_t i = 0; i < n; i++)
            total += kept(&c, key_of(z[i]), i) ? w[i] : 0;
        cut_at(&c, z, w, n, (uint64_t)ceil((double)p->top_p * (double)total));
    }
    if (p->min_p > 0)
        c.least = (uint32_t)ceil((double)p->min_p * WEIGHT_ONE);

    int32_t best = -1;
    float best_z = -INFINITY;
    for (uint32_t at = 0; at < n; at += LANES) {
        uint32_t end = n - at < LANES ? n : at + LANES;
        float noise[LANES];
        bool drawn = false;
        for (uint32_t i = at; i < end; i++) {
            if (!(z[i] + NOISE_MOST > best_z) || !kept(&c, key_of(z[i]), i) || (weighs && w[i] < c.least))
                continue;
            if (!drawn)
                gumbel16(at, p, noise);
            drawn = true;
            float v = z[i] + noise[i - at];
            if (v > best_z) {
                best_z = v;
                best = (int32_t)i;
            }
        }
    }
    return best;
}

void mp_sample_row(const float *logits, uint32_t n_vocab, const struct mp_pick *p, const struct mp_slot *s,
                   float *scratch, struct mp_got *got)
{
    bool bad = false;
    float max = largest(logits, n_vocab, &bad);
    *got = (struct mp_got){.id = -1, .bad = 1};
    if (bad || max == -INFINITY)
        return;
    float lse = log_sum_exp(logits, n_vocab, max);
    top_logprobs(logits, n_vocab, p->top_n, lse, got);

    const float *z = logits;
    bool penalties = s->used && ((p->rep > 0 && p->rep != 1) || p->freq != 0 || p->pres != 0);
    if (penalties || p->allow) {
        memcpy(scratch, logits, n_vocab * sizeof(float));
        if (penalties)
            penalise(scratch, n_vocab, p, s);
        if (p->allow)
            mask(scratch, n_vocab, p->allow);
        z = scratch;
        max = largest(z, n_vocab, &bad);
        if (bad || max == -INFINITY) {
            got->n_top = 0;
            return;
        }
    }
    if (p->greedy) {
        got->id = argmax(z, n_vocab, max);
    } else {
        for (uint32_t i = 0; i < n_vocab; i++)
            scratch[i] = (z[i] - max) / p->temp;
        got->id = draw(scratch, (uint32_t *)(void *)(scratch + n_vocab), n_vocab, p);
    }
    got->bad = 0;
    got->logprob = logits[got->id] - lse;
}
