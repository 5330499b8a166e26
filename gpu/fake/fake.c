/* gpu/fake/fake.c — the scripted device: gpu/device.h without arithmetic, for specs of whoever drives a device. See fake.h and
 * README.md.
 *
 * Its KV cache holds, instead of keys and values, the token and position that were put there. A token it samples is a function
 * of the history that the pages give back, so that a wrong page table, a page reused early or a lost position changes the
 * tokens, and is counted as a violation. Work is carried out late: in order, when the ticket is waited for and its time has
 * come, from copies made when it was issued. */
#include "gpu/fake/fake.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "gpu/blocks.h"
#include "gpu/lower/step.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GRANULE = 4096, MAX_LOG = 1 << 20, MAX_SCRIPT = 4096, LOAD_STEPS = 20, LOAD_NAP_NS = 20000000 };

static _Atomic uint64_t n_loads; /* of the process: a device closes, and forgets, with its last model */

struct option {
    bool virtual_time, echo;
    uint64_t delay_ns, tok_ns, load_ns, memory, seed;
    uint64_t fail_load, fail_forward, fail_sample, fail_commit, fail_ticket, crash_forward,
        bad_sample; /* the nth; 0: none */
    uint64_t trace; /* not 0: forwards are logged */
    uint32_t page_tokens;
    int32_t script[MAX_SCRIPT];
    uint32_t n_script;
};

struct job { /* a ticket that was not waited for */
    struct job *next;
    mp_ticket ticket;
    struct mp_exec *exec;
    bool forward, executed;
    uint64_t end_ns; /* when it may complete */
    uint64_t busy_ns;
    int rc;
    /* forward: copies; sample: picks with copies of their masks */
    struct mp_step step;
    void *arrays; /* one block that the step points into */
    struct mp_pick *picks;
    uint32_t *masks;
    uint32_t n_picks;
    struct mp_got *got;
};

struct mp_dev {
    struct option opt;
    uint64_t now_ns;  /* virtual */
    uint64_t free_ns; /* when the last issued work ends */
    mp_ticket issued;
    uint64_t n_forward, n_sample, n_commit, n_picked;
    uint64_t committed;        /* bytes */
    struct job *first, **last; /* in order */
    struct mp_got *shown;
    struct mp_exec *execs;
    struct mp_buf log, violation;
    uint32_t violations, n_built;
};

struct mp_mem {
    struct mp_dev *dev;
    uint64_t bytes;
    uint64_t *committed; /* a bit per granule */
};

struct cell { /* what a position of a page holds; pos -1: nothing */
    int32_t pos, tok;
};

struct slot {
    bool any;
    int32_t last;
    uint32_t base;  /* index of the first token sampled since slot_set */
    bool started;   /* base is known */
    uint32_t named; /* pending tickets that name the slot */
};

struct mp_exec {
    struct mp_exec *next;
    struct mp_dev *dev;
    uint32_t number; /* 1: the device's first */
    struct mp_limits lim;
    struct mp_step_rules rules;
    uint32_t n_vocab;
    struct mp_mem *kv[MP_MAX_KVS];
    struct cell *cells[MP_MAX_KVS]; /* [max_pages][page_tokens] */
    struct slot *slots;
    /* of the last forward carried out: per output row, its slot's whole history */
    struct history {
        int32_t *tok;
        uint32_t n;
        uint32_t slot;
    } * rows;
    uint32_t n_rows;
    uint32_t n_out_issued; /* rows of the last forward issued: what a sample may name */
};

static void job_free(struct job *j)
{
    mp_free(j->arrays);
    mp_free(j->picks);
    mp_free(j->masks);
    mp_free(j->got);
    mp_free(j);
}

/* --- options ------------------------------------------------------------------------------------------------------ */

static int parse_u64(const char *key, const char *value, uint64_t *out, struct mp_err *err)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    if (errno || end == value || *end || *value == '-')
        return mp_err_set(err, MP_EINVAL, "fake: %s=%s: a whole number is wanted", key, value);
    *out = v;
    return 0;
}

static int parse_script(struct option *o, const char *value, struct mp_err *err)
{
    if (!strcmp(value, "echo")) {
        o->echo = true;
        return 0;
    }
    while (*value) {
        char *end;
        long id = strtol(value, &end, 10);
        if (end == value || id < 0 || id > INT32_MAX || (*end && *end != ':') || o->n_script == MAX_SCRIPT)
            return mp_err_set(err, MP_EINVAL, "fake: script: 'echo', or up to %d token ids as 1:2:3", MAX_SCRIPT);
        o->script[o->n_script++] = (int32_t)id;
        value = *end ? end + 1 : end;
    }
    return 0;
}

static int parse_pair(struct option *o, const char *key, const char *value, struct mp_err *err)
{
    const struct {
        const char *key;
        uint64_t *out;
        uint64_t unit;
    } numbers[] = {
        {"delay_ms", &o->delay_ns, 1000000}, {"delay_us", &o->delay_ns, 1000},
        {"tok_us", &o->tok_ns, 1000},        {"load_ms", &o->load_ns, 1000000},
        {"memory", &o->memory, 1},           {"seed", &o->seed, 1},
        {"fail_load", &o->fail_load, 1},     {"fail_forward", &o->fail_forward, 1},
        {"fail_sample", &o->fail_sample, 1}, {"fail_commit", &o->fail_commit, 1},
        {"fail_ticket", &o->fail_ticket, 1}, {"crash_forward", &o->crash_forward, 1},
        {"bad_sample", &o->bad_sample, 1},   {"trace", &o->trace, 1},
    };
    for (size_t i = 0; i < MP_COUNT(numbers); i++)
        if (!strcmp(key, numbers[i].key)) {
            int rc = parse_u64(key, value, numbers[i].out, err);
            if (!rc && !mp_mul_u64(*numbers[i].out, numbers[i].unit, numbers[i].out))
                rc = mp_err_set(err, MP_EINVAL, "fake: %s=%s is too large", key, value);
            return rc;
        }
    if (!strcmp(key, "page") && (!strcmp(value, "16") || !strcmp(value, "32"))) {
        o->page_tokens = *value == '1' ? 16 : 32;
        return 0;
    }
    if (!strcmp(key, "time") && (!strcmp(value, "real") || !strcmp(value, "virtual"))) {
        o->virtual_time = *value == 'v';
        return 0;
    }
    if (!strcmp(key, "script"))
        return parse_script(o, value, err);
    return mp_err_set(err, MP_EINVAL, "fake: unknown key or value '%s=%s' (gpu/fake/README.md lists them)", key, value);
}

static int fake_open(struct mp_dev **out, const char *spec, struct mp_err *err)
{
    struct mp_dev *dev = mp_calloc(sizeof(*dev));
    dev->opt.page_tokens = 16;
    dev->last = &dev->first;
    int rc = 0;
    char *copy = mp_strdup(spec ? spec : ""), *save = NULL;
    for (char *pair = strtok_r(copy, ",", &save); pair && !rc; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        if (value)
            *value++ = 0;
        rc = parse_pair(&dev->opt, pair, value ? value : "", err);
    }
    mp_free(copy);
    if (rc)
        mp_free(dev);
    else
        *out = dev;
    return rc;
}

/* --- clock, log, rules --------------------------------------------------------------------------------------------- */

uint64_t mp_fake_now(struct mp_dev *dev)
{
    return dev->opt.virtual_time ? dev->now_ns : mp_clock_mono_ns();
}

void mp_fake_advance(struct mp_dev *dev, uint64_t ns)
{
    dev->now_ns += ns;
}

void mp_fake_log(struct mp_dev *dev, struct mp_buf *out)
{
    mp_buf_put(out, dev->log.data, dev->log.len);
    mp_buf_clear(&dev->log);
}

uint32_t mp_fake_violations(struct mp_dev *dev, struct mp_buf *out)
{
    if (out && dev->violation.len)
        mp_buf_put(out, dev->violation.data, dev->violation.len);
    return dev->violations;
}

#define say(dev, ...)                                \
    do {                                             \
        if ((dev)->log.len < MAX_LOG)                \
            mp_buf_printf(&(dev)->log, __VA_ARGS__); \
    } while (0)

/* For who looks at a process from outside, and never at mp_fake_log: the line goes to the log, and is not kept. */
static void trace(struct mp_dev *dev, size_t from)
{
    mp_info("fake: %.*s", (int)(dev->log.len - from), dev->log.len > from ? dev->log.data + from : "");
    mp_buf_clear(&dev->log);
}

#define violate(dev, ...)                                  \
    do {                                                   \
        if (!(dev)->violations++)                          \
            mp_buf_printf(&(dev)->violation, __VA_ARGS__); \
    } while (0)

/* --- memory ------------------------------------------------------------------------------------------------------- */

static int fake_mem_reserve(struct mp_dev *dev, uint64_t bytes, struct mp_mem **out, struct mp_err *err)
{
    uint64_t size;
    if (!bytes || !mp_align_u64(bytes, GRANULE, &size))
        return mp_err_set(err, MP_EINVAL, "fake: cannot reserve %llu bytes", (unsigned long long)bytes);
    uint64_t *bits = mp_try_calloc(size / GRANULE / 64 + 1, sizeof(uint64_t));
    if (!bits)
        return mp_err_set(err, MP_ENOMEM, "fake: cannot reserve %llu bytes", (unsigned long long)bytes);
    struct mp_mem *m = mp_calloc(sizeof(*m));
    *m = (struct mp_mem){dev, size, bits};
    *out = m;
    return 0;
}

static bool committed(const struct mp_mem *m, uint64_t off, uint64_t len)
{
    if (!m || off > m->bytes || len > m->bytes - off)
        return false;
    for (uint64_t g = off / GRANULE; g * GRANULE < off + len; g++)
        if (!(m->committed[g / 64] >> (g % 64) & 1))
            return false;
    return true;
}

/* A kv page lost its memory: nobody may be looking at it, and what it held is gone. */
static void drop_page(struct mp_exec *e, uint32_t g, uint32_t page)
{
    for (const struct job *j = e->dev->first; j; j = j->next) {
        if (!j->forward || j->exec != e || j->executed)
            continue;
        for (uint32_t s = 0; s < j->step.n_seq; s++) {
            uint32_t at, end;
            for (mp_step_pages(&e->rules, &j->step, s, g, &at, &end); at < end; at++)
                if (j->step.pages[g][s * j->step.stride[g] + at] == page)
                    violate(e->dev, "page %u of kv group %u was given back while ticket %llu names it", page, g,
                            (unsigned long long)j->ticket);
        }
    }
    memset(e->cells[g] + (uint64_t)page * e->rules.page_tokens, 0xff, e->rules.page_tokens * sizeof(struct cell));
}

static int fake_mem_commit(struct mp_mem *m, uint64_t off, uint64_t len, bool on, struct mp_err *err)
{
    struct mp_dev *dev = m->dev;
    if (off > m->bytes || len > m->bytes - off)
        return mp_err_set(err, MP_EINVAL, "fake: memory to commit lies outside its range");
    if (on && ++dev->n_commit == dev->opt.fail_commit)
        return mp_err_set(err, MP_ENOMEM, "fake: commit %llu fails, as told", (unsigned long long)dev->n_commit);
    uint64_t first = on ? off / GRANULE : (off + GRANULE - 1) / GRANULE;
    uint64_t end = on ? (off + len + GRANULE - 1) / GRANULE : (off + len) / GRANULE, changed = 0;
    for (uint64_t g = first; g < end; g++)
        changed += (m->committed[g / 64] >> (g % 64) & 1) != on;
    if (on && dev->opt.memory && changed * GRANULE > dev->opt.memory - dev->committed)
        return mp_err_set(err, MP_ENOMEM, "fake: %llu bytes more than the %llu there are",
                          (unsigned long long)(changed * GRANULE), (unsigned long long)dev->opt.memory);
    for (uint64_t g = first; g < end; g++) {
        if (on)
            m->committed[g / 64] |= 1ull << (g % 64);
        else
            m->committed[g / 64] &= ~(1ull << (g % 64));
        for (struct mp_exec *e = on ? NULL : dev->execs; e; e = e->next)
            for (uint32_t k = 0; k < e->rules.n_kvs; k++)
                if (e->kv[k] == m && g < e->lim.max_pages)
                    drop_page(e, k, (uint32_t)g);
    }
    dev->committed += on ? changed * GRANULE : 0 - changed * GRANULE;
    return 0;
}

static void fake_mem_free(struct mp_mem *m)
{
    if (!m)
        return;
    for (uint64_t g = 0; g < m->bytes / GRANULE; g++)
        m->dev->committed -= (m->committed[g / 64] >> (g % 64) & 1) * GRANULE;
    mp_free(m->committed);
    mp_free(m);
}

/* --- weights, building -------------------------------------------------------------------------------------------- */

static int fake_w_size(struct mp_dev *dev, const struct mp_wref *w, uint32_t type, const struct mp_limits *lim,
                       uint64_t *bytes, struct mp_err *err)
{
    (void)dev, (void)lim;
    uint64_t row;
    if (!mp_type_row_bytes(type, w->ne[0], &row) || !mp_mul_u64(row, w->ne[1], &row) || !mp_align_u64(row, 64, bytes))
        return mp_err_set(err, MP_EUNSUPPORTED, "fake: %s: an unknown type, or no whole number of blocks", w->name);
    return 0;
}

static int fake_w_put(struct mp_mem *m, uint64_t off, const struct mp_wref *w, uint32_t type, uint64_t row0,
                      uint64_t rows, const void *src, struct mp_err *err)
{
    uint64_t bytes;
    int rc = fake_w_size(NULL, w, type, NULL, &bytes, err);
    if (rc)
        return rc;
    if (!src || off % 64 || !committed(m, off, bytes) || row0 > w->ne[1] || rows > w->ne[1] - row0 || row0 % 64 ||
        (rows % 64 && row0 + rows != w->ne[1]))
        return mp_err_set(err, MP_EINVAL, "fake: %s: rows %llu + %llu cannot be put there", w->name,
                          (unsigned long long)row0, (unsigned long long)rows);
    return 0;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

/* Takes load_ms, in steps; in virtual time no time passes, for nobody is there to move the clock. */
static int fake_w_wait(struct mp_mem *m, bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                       struct mp_err *err)
{
    const struct option *o = &m->dev->opt;
    uint64_t load = atomic_fetch_add(&n_loads, 1) + 1, began = mp_clock_mono_ns();
    uint64_t all = o->virtual_time ? 0 : o->load_ns, passed = 0;
    do {
        uint64_t nap = all - passed < LOAD_NAP_NS ? all - passed : LOAD_NAP_NS;
        if (progress && !progress(ctx, all ? passed * LOAD_STEPS / all : 0, LOAD_STEPS))
            return mp_err_set(err, MP_ECANCELLED, "fake: loading was cancelled");
        if (nap > 0)
            sleep_ns(nap);
        passed = mp_clock_mono_ns() - began;
    } while (passed < all);
    if (load == o->fail_load)
        return mp_err_set(err, MP_EDEVICE, "fake: load %llu fails, as told", (unsigned long long)load);
    if (progress)
        (void)progress(ctx, LOAD_STEPS, LOAD_STEPS);
    return 0;
}

static int fake_need(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim, uint64_t *scratch,
                     uint64_t page_bytes[MP_MAX_KVS], struct mp_err *err)
{
    (void)dev;
    if (lim->numerics >= MP_N_NUMERICS || !lim->max_tok || !lim->max_seq || !lim->max_slot ||
        (plan->n_kvs && (!lim->max_pages || !lim->max_seq_pages)))
        return mp_err_set(err, MP_EINVAL, "fake: limits out of range");
    *scratch = GRANULE;
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        page_bytes[g] = g < plan->n_kvs ? GRANULE : 0;
    return 0;
}

static void clear_rows(struct mp_exec *e)
{
    for (uint32_t i = 0; i < e->n_rows; i++)
        mp_free(e->rows[i].tok);
    mp_free(e->rows);
    e->rows = NULL;
    e->n_rows = 0;
}

static void fake_exec_free(struct mp_exec *e)
{
    if (!e)
        return;
    struct mp_dev *dev = e->dev;
    for (struct mp_exec **at = &dev->execs; *at; at = &(*at)->next)
        if (*at == e) {
            *at = e->next;
            break;
        }
    dev->last = &dev->first;
    for (struct job *j = dev->first, *next; j; j = next) {
        next = j->next;
        *dev->last = NULL;
        if (j->exec == e) {
            violate(dev, "an exec is freed while ticket %llu is pending", (unsigned long long)j->ticket);
            job_free(j);
        } else {
            *dev->last = j;
            dev->last = &j->next;
        }
    }
    *dev->last = NULL;
    clear_rows(e);
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        mp_free(e->cells[g]);
    mp_free(e->slots);
    mp_free(e);
}

static int fake_build(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim, struct mp_mem *w,
                      const uint64_t *w_off, const uint32_t *w_type, struct mp_mem *scratch,
                      struct mp_mem *const kv[MP_MAX_KVS], struct mp_exec **out, struct mp_err *err)
{
    struct mp_exec *e = mp_calloc(sizeof(*e));
    e->dev = dev;
    e->number = ++dev->n_built;
    e->lim = *lim;
    e->n_vocab = plan->n_vocab;
    mp_step_rules(&e->rules, plan, &e->lim, dev->opt.page_tokens);
    int rc = 0;
    for (uint32_t i = 0; !rc && i < plan->n_weights; i++) {
        uint64_t bytes;
        rc = fake_w_size(dev, &plan->weights[i], w_type[i], lim, &bytes, err);
        if (!rc && !committed(w, w_off[i], bytes))
            rc = mp_err_set(err, MP_EINVAL, "fake: weight %s is not committed", plan->weights[i].name);
    }
    if (!rc && !committed(scratch, 0, GRANULE))
        rc = mp_err_set(err, MP_EINVAL, "fake: scratch memory is not committed");
    e->slots = mp_try_calloc(lim->max_slot, sizeof(*e->slots));
    for (uint32_t g = 0; !rc && g < plan->n_kvs; g++) {
        e->kv[g] = kv[g];
        if (!kv[g] || kv[g]->bytes / GRANULE < lim->max_pages)
            rc = mp_err_set(err, MP_EINVAL, "fake: kv group %u has no memory for %u pages", g, lim->max_pages);
        e->cells[g] = mp_try_calloc((size_t)lim->max_pages * dev->opt.page_tokens, sizeof(struct cell));
        if (!rc && e->cells[g])
            memset(e->cells[g], 0xff, (size_t)lim->max_pages * dev->opt.page_tokens * sizeof(struct cell));
        else if (!rc)
            rc = mp_err_set(err, MP_ENOMEM, "fake: out of memory");
    }
    if (!rc && !e->slots)
        rc = mp_err_set(err, MP_ENOMEM, "fake: out of memory");
    if (rc) {
        fake_exec_free(e);
        return rc;
    }
    e->next = dev->execs;
    dev->execs = e;
    *out = e;
    return 0;
}

/* --- issuing ------------------------------------------------------------------------------------------------------ */

static struct job *issue(struct mp_exec *e, bool forward, uint64_t busy_ns)
{
    struct mp_dev *dev = e->dev;
    struct job *j = mp_calloc(sizeof(*j));
    uint64_t now = mp_fake_now(dev);
    j->ticket = ++dev->issued;
    j->exec = e;
    j->forward = forward;
    j->busy_ns = busy_ns;
    dev->free_ns = (dev->free_ns > now ? dev->free_ns : now) + busy_ns;
    j->end_ns = dev->free_ns;
    if (j->ticket == dev->opt.fail_ticket)
        j->rc = MP_EDEVICE;
    *dev->last = j;
    dev->last = &j->next;
    return j;
}

/* Copies of a step's arrays in one block. */
static void copy_step(struct mp_exec *e, struct job *j, const struct mp_step *s)
{
    uint64_t words = 2ull * s->n_tok + 3ull * s->n_seq + 1 + s->n_out;
    for (uint32_t g = 0; g < e->rules.n_kvs; g++)
        words += (uint64_t)s->n_seq * s->stride[g];
    uint32_t *at = mp_malloc(words * sizeof(uint32_t));
    j->arrays = at;
    j->step = *s;
#define COPY(field, n)                                      \
    memcpy(at, s->field, (uint64_t)(n) * sizeof(uint32_t)); \
    j->step.field = (void *)at;                             \
    at += (n);
    COPY(tok, s->n_tok)
    COPY(pos, s->n_tok)
    COPY(start, s->n_seq + 1)
    COPY(kv_len, s->n_seq)
    COPY(slot, s->n_seq)
    if (s->n_out) {
        COPY(out, s->n_out)
    }
    for (uint32_t g = 0; g < e->rules.n_kvs; g++) {
        COPY(pages[g], s->n_seq * s->stride[g])
    }
#undef COPY
}

/* Whether step s, sequence i writes the page at this index of its table. */
static bool writes(const struct mp_step_rules *r, const struct mp_step *s, uint32_t i, uint32_t index)
{
    return (index + 1) * r->page_tokens > (uint32_t)s->pos[s->start[i]] && index * r->page_tokens < s->kv_len[i];
}

/* A page that a pending step of another slot names may not be written. */
static void check_reuse(struct mp_exec *e, const struct mp_step *s)
{
    for (const struct job *j = e->dev->first; j; j = j->next) {
        if (!j->forward || j->exec != e || j->executed)
            continue;
        const struct mp_step *o = &j->step;
        for (uint32_t g = 0; g < e->rules.n_kvs; g++)
            for (uint32_t a = 0; a < s->n_seq; a++)
                for (uint32_t b = 0; b < o->n_seq; b++) {
                    uint32_t x, x_end, y, y_end, y0;
                    if (s->slot[a] == o->slot[b])
                        continue;
                    mp_step_pages(&e->rules, o, b, g, &y0, &y_end);
                    for (mp_step_pages(&e->rules, s, a, g, &x, &x_end); x < x_end; x++)
                        for (y = y0; y < y_end && writes(&e->rules, s, a, x); y++)
                            if (s->pages[g][a * s->stride[g] + x] == o->pages[g][b * o->stride[g] + y])
                                violate(e->dev, "page %u is written by slot %u while ticket %llu has it for slot %u",
                                        s->pages[g][a * s->stride[g] + x], s->slot[a], (unsigned long long)j->ticket,
                                        o->slot[b]);
                }
    }
}

static int check_step(struct mp_exec *e, const struct mp_step *s, struct mp_err *err)
{
    int rc = mp_step_check(&e->rules, s, err);
    for (uint32_t i = 0; !rc && i < s->n_seq; i++) {
        struct slot *slot = &e->slots[s->slot[i]];
        /* LAST is what the steps before this one sample: one of them must, or have. */
        for (uint32_t t = s->start[i]; t < s->start[i + 1]; t++) {
            bool sampled = slot->any;
            for (const struct job *j = e->dev->first; j && !sampled; j = j->next)
                for (uint32_t k = 0; k < j->n_picks; k++)
                    sampled |= j->exec == e && j->picks[k].slot == s->slot[i];
            if (s->tok[t] == MP_TOK_LAST && !sampled)
                return mp_err_set(err, MP_EINVAL, "fake: sequence %u: no token was sampled in slot %u", i, s->slot[i]);
        }
        for (uint32_t g = 0; g < e->rules.n_kvs; g++) {
            uint32_t at, end;
            for (mp_step_pages(&e->rules, s, i, g, &at, &end); at < end; at++) {
                uint64_t page = s->pages[g][(uint64_t)i * s->stride[g] + at];
                if (!committed(e->kv[g], page * GRANULE, GRANULE))
                    return mp_err_set(err, MP_EINVAL, "fake: sequence %u: page %u of kv group %u is not committed", i,
                                      (uint32_t)page, g);
            }
        }
    }
    return rc;
}

static int fake_forward(struct mp_exec *e, const struct mp_step *s, mp_ticket *out, struct mp_err *err)
{
    struct mp_dev *dev = e->dev;
    int rc = check_step(e, s, err);
    if (rc) {
        violate(dev, "a bad step: %s", err ? err->message : "");
        return rc;
    }
    dev->n_forward++;
    if (dev->n_forward == dev->opt.crash_forward)
        abort(); /* as told: for specs of what survives an engine */
    if (dev->n_forward == dev->opt.fail_forward)
        return mp_err_set(err, MP_EDEVICE, "fake: forward %llu fails, as told", (unsigned long long)dev->n_forward);
    check_reuse(e, s);
    struct job *j = issue(e, true, dev->opt.delay_ns + s->n_tok * dev->opt.tok_ns);
    copy_step(e, j, s);
    e->n_out_issued = s->n_out;
    size_t from = dev->log.len;
    say(dev, "forward ticket=%llu exec=%u tok=%u out=%u", (unsigned long long)j->ticket, e->number, s->n_tok, s->n_out);
    for (uint32_t i = 0; i < s->n_seq; i++) {
        e->slots[s->slot[i]].named++;
        say(dev, " | slot=%u pos=%d n=%u", s->slot[i], s->pos[s->start[i]], s->start[i + 1] - s->start[i]);
    }
    if (dev->opt.trace)
        trace(dev, from);
    say(dev, "\n");
    *out = j->ticket;
    return 0;
}

static int check_pick(const struct mp_exec *e, const struct mp_pick *p, struct mp_err *err)
{
    if (!e->n_vocab || p->row >= e->n_out_issued || p->slot >= e->lim.max_slot || p->top_n > 20)
        return mp_err_set(err, MP_EINVAL, "fake: a pick of row %u, slot %u, %u log-probabilities", p->row, p->slot,
                          p->top_n);
    return 0;
}

static int fake_sample(struct mp_exec *e, const struct mp_pick *picks, uint32_t n, mp_ticket *out, struct mp_err *err)
{
    struct mp_dev *dev = e->dev;
    for (uint32_t i = 0; i < n; i++) {
        int rc = check_pick(e, &picks[i], err);
        if (rc) {
            violate(dev, "a bad pick: %s", err ? err->message : "");
            return rc;
        }
    }
    if (++dev->n_sample == dev->opt.fail_sample)
        return mp_err_set(err, MP_EDEVICE, "fake: sample %llu fails, as told", (unsigned long long)dev->n_sample);
    struct job *j = issue(e, false, 0);
    uint32_t words = (e->n_vocab + 31) / 32, n_masks = 0;
    for (uint32_t i = 0; i < n; i++)
        n_masks += picks[i].allow != NULL;
    j->n_picks = n;
    j->picks = mp_malloc(n * sizeof(*picks));
    memcpy(j->picks, picks, n * sizeof(*picks));
    j->masks = mp_malloc((size_t)n_masks * words * sizeof(uint32_t));
    say(dev, "sample ticket=%llu", (unsigned long long)j->ticket);
    uint32_t *mask = j->masks;
    for (uint32_t i = 0; i < n; i++) {
        e->slots[picks[i].slot].named++;
        say(dev, " | slot=%u index=%u", picks[i].slot, picks[i].index);
        if (picks[i].allow) {
            memcpy(mask, picks[i].allow, words * sizeof(uint32_t));
            j->picks[i].allow = mask;
            mask += words;
        }
    }
    say(dev, "\n");
    *out = j->ticket;
    return 0;
}

static int fake_slot_set(struct mp_exec *e, uint32_t slot, const int32_t *ids, uint32_t n)
{
    (void)ids;
    if (slot >= e->lim.max_slot)
        return MP_EINVAL;
    if (e->slots[slot].named)
        violate(e->dev, "slot %u begins anew while %u pending tickets name it", slot, e->slots[slot].named);
    uint32_t named = e->slots[slot].named;
    e->slots[slot] = (struct slot){.named = named};
    say(e->dev, "slot_set exec=%u slot=%u n=%u\n", e->number, slot, n);
    return 0;
}

static int fake_kv_copy(struct mp_exec *e, int group, uint32_t src, uint32_t dst, mp_ticket *out, struct mp_err *err)
{
    if (group < 0 || (uint32_t)group >= e->rules.n_kvs || src >= e->lim.max_pages || dst >= e->lim.max_pages ||
        !committed(e->kv[group], (uint64_t)src * GRANULE, GRANULE) ||
        !committed(e->kv[group], (uint64_t)dst * GRANULE, GRANULE))
        return mp_err_set(err, MP_EINVAL, "fake: kv pages %u, %u of group %d cannot be copied", src, dst, group);
    struct job *j = issue(e, false, 0);
    uint32_t *pair = mp_malloc(3 * sizeof(uint32_t));
    pair[0] = (uint32_t)group;
    pair[1] = src;
    pair[2] = dst;
    j->arrays = pair;
    *out = j->ticket;
    return 0;
}

/* --- carrying out ------------------------------------------------------------------------------------------------- */

static struct cell *cell_at(struct mp_exec *e, const struct mp_step *s, uint32_t seq, uint32_t g, uint32_t pos)
{
    uint32_t page = s->pages[g][seq * s->stride[g] + pos / e->rules.page_tokens];
    return &e->cells[g][(uint64_t)page * e->rules.page_tokens + pos % e->rules.page_tokens];
}

/* The tokens at positions 0 .. n-1 of a sequence as its pages hold them (its own step's tokens where there is no cache). */
static struct history history_of(struct mp_exec *e, const struct job *j, uint32_t seq, uint32_t n)
{
    const struct mp_step *s = &j->step;
    struct history h = {.tok = mp_malloc(n * sizeof(int32_t)), .n = n, .slot = s->slot[seq]};
    uint32_t first = e->rules.n_kvs ? 0 : (uint32_t)s->pos[s->start[seq]];
    for (uint32_t pos = 0; pos < n; pos++) {
        h.tok[pos] = pos >= first && !e->rules.n_kvs ? s->tok[s->start[seq] + pos - first] : 0;
        for (uint32_t g = 0; g < e->rules.n_kvs; g++) {
            uint32_t low, end;
            mp_step_pages(&e->rules, s, seq, g, &low, &end);
            if (pos < low * e->rules.page_tokens)
                continue; /* behind the window: the page may be gone */
            const struct cell *c = cell_at(e, s, seq, g, pos);
            if (c->pos != (int32_t)pos)
                violate(e->dev, "ticket %llu: slot %u: its page does not hold position %u",
                        (unsigned long long)j->ticket, h.slot, pos);
            h.tok[pos] = c->tok;
        }
    }
    return h;
}

static void run_forward(struct mp_exec *e, struct job *j)
{
    struct mp_step *s = &j->step;
    int32_t *tok = (int32_t *)(void *)j->arrays; /* the copy's first array */
    clear_rows(e);
    e->rows = mp_calloc(s->n_out * sizeof(*e->rows));
    for (uint32_t i = 0, out = 0; i < s->n_seq; i++) {
        e->slots[s->slot[i]].named--;
        for (uint32_t t = s->start[i]; t < s->start[i + 1]; t++) {
            if (tok[t] == MP_TOK_LAST)
                tok[t] = e->slots[s->slot[i]].last;
            for (uint32_t g = 0; g < e->rules.n_kvs; g++)
                *cell_at(e, s, i, g, (uint32_t)s->pos[t]) = (struct cell){s->pos[t], tok[t]};
            for (; out < s->n_out && s->out[out] == t; out++)
                e->rows[e->n_rows++] = history_of(e, j, i, (uint32_t)s->pos[t] + 1);
        }
    }
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static int32_t token_of(struct mp_exec *e, const struct mp_pick *p, const struct history *h)
{
    const struct option *o = &e->dev->opt;
    struct slot *slot = &e->slots[p->slot];
    if (!slot->started) {
        slot->started = true;
        slot->base = p->index;
    }
    uint32_t at = p->index - slot->base;
    uint64_t id;
    if (o->n_script) {
        id = (uint64_t)o->script[at % o->n_script];
    } else if (o->echo) {
        id = (uint64_t)(uint32_t)h->tok[at % (h->n > at ? h->n - at : 1)];
    } else {
        id = mix(o->seed, p->greedy ? 0 : p->seed);
        for (uint32_t i = 0; i < h->n; i++)
            id = mix(id, (uint32_t)h->tok[i]);
    }
    id %= e->n_vocab;
    for (uint32_t i = 0; p->allow && i < e->n_vocab; i++, id = (id + 1) % e->n_vocab)
        if (p->allow[id / 32] >> (id % 32) & 1)
            break;
    return (int32_t)id;
}

static void run_sample(struct mp_exec *e, struct job *j)
{
    j->got = mp_calloc(j->n_picks * sizeof(*j->got));
    for (uint32_t i = 0; i < j->n_picks; i++) {
        const struct mp_pick *p = &j->picks[i];
        struct mp_got *got = &j->got[i];
        struct slot *slot = &e->slots[p->slot];
        slot->named--;
        if (p->row >= e->n_rows || e->rows[p->row].slot != p->slot) {
            violate(e->dev, "ticket %llu: row %u is not of slot %u", (unsigned long long)j->ticket, p->row, p->slot);
            *got = (struct mp_got){.id = -1, .bad = 1};
        } else if (++e->dev->n_picked == e->dev->opt.bad_sample) {
            *got = (struct mp_got){.id = -1, .bad = 1};
        } else {
            got->id = token_of(e, p, &e->rows[p->row]);
            got->logprob = -0.125f;
            got->n_top = p->top_n;
            for (uint32_t k = 0; k < p->top_n; k++)
                got->top[k] =
                    (struct mp_top){(int32_t)(((uint32_t)got->id + k) % e->n_vocab), -0.125f * (float)(k + 1)};
        }
        slot->any = true;
        slot->last = got->id < 0 ? 0 : got->id;
    }
}

static void execute(struct job *j)
{
    struct mp_exec *e = j->exec;
    j->executed = true;
    if (j->forward) {
        run_forward(e, j);
    } else if (j->picks) {
        run_sample(e, j);
    } else {
        const uint32_t *pair = j->arrays;
        uint32_t n = e->rules.page_tokens;
        memmove(e->cells[pair[0]] + (uint64_t)pair[2] * n, e->cells[pair[0]] + (uint64_t)pair[1] * n,
                n * sizeof(struct cell));
    }
    say(e->dev, "done ticket=%llu\n", (unsigned long long)j->ticket);
}

/* Lets the clock reach `end`, or timeout_ns pass; true when it was reached. */
static bool reach(struct mp_dev *dev, uint64_t end, uint64_t timeout_ns)
{
    uint64_t now = mp_fake_now(dev);
    if (now >= end)
        return true;
    uint64_t wait = end - now < timeout_ns ? end - now : timeout_ns;
    if (dev->opt.virtual_time)
        dev->now_ns += wait;
    else
        sleep_ns(wait);
    return mp_fake_now(dev) >= end;
}

static int fake_wait(struct mp_dev *dev, mp_ticket ticket, uint64_t timeout_ns, struct mp_done *done)
{
    struct job *j = dev->first;
    while (j && j->ticket != ticket)
        j = j->next;
    if (!j) {
        violate(dev, "ticket %llu is waited for, but not pending", (unsigned long long)ticket);
        return MP_EINVAL;
    }
    if (!reach(dev, j->end_ns, timeout_ns))
        return MP_EAGAIN;
    while (dev->first != j) { /* earlier ones that nobody waited for */
        struct job *before = dev->first;
        dev->first = before->next;
        execute(before);
        job_free(before);
    }
    execute(j);
    dev->first = j->next;
    if (!dev->first)
        dev->last = &dev->first;
    mp_free(dev->shown);
    memset(done, 0, sizeof(*done));
    done->rc = j->rc;
    if (j->rc)
        mp_err_set(&done->err, j->rc, "fake: ticket %llu fails, as told", (unsigned long long)ticket);
    done->busy_ns = j->busy_ns;
    done->got = dev->shown = mp_move(&j->got);
    done->n_got = j->n_picks;
    job_free(j);
    return 0;
}

/* --- the rest ----------------------------------------------------------------------------------------------------- */

static void fake_close(struct mp_dev *dev)
{
    if (!dev)
        return;
    while (dev->first) {
        struct job *j = dev->first;
        dev->first = j->next;
        job_free(j);
    }
    mp_free(dev->shown);
    mp_buf_free(&dev->log);
    mp_buf_free(&dev->violation);
    mp_free(dev);
}

static void fake_caps(struct mp_dev *dev, struct mp_caps *caps)
{
    *caps = (struct mp_caps){.page_tokens = dev->opt.page_tokens,
                             .n_threads = 1,
                             .numerics = (1u << MP_N_NUMERICS) - 1,
                             .memory = dev->opt.memory,
                             .granule = GRANULE,
                             .invariant = true};
    snprintf(caps->name, sizeof(caps->name), "fake: %s time", dev->opt.virtual_time ? "virtual" : "real");
}

static uint64_t fake_used(struct mp_dev *dev)
{
    return dev->committed;
}

static int fake_read(struct mp_exec *e, const char *output, uint32_t row, float *dst, uint32_t n, struct mp_err *err)
{
    (void)e, (void)output, (void)row, (void)dst, (void)n;
    return mp_err_set(err, MP_EUNSUPPORTED, "fake: it computes no values");
}

static int fake_feed(struct mp_exec *e, uint32_t val, const float *src, uint32_t rows, struct mp_err *err)
{
    (void)e, (void)val, (void)src, (void)rows, (void)err;
    return 0;
}

const struct mp_device_ops mp_device_fake = {
    .name = "fake",
    .open = fake_open,
    .open_dry = fake_open,
    .close = fake_close,
    .caps = fake_caps,
    .used = fake_used,
    .mem_reserve = fake_mem_reserve,
    .mem_commit = fake_mem_commit,
    .mem_free = fake_mem_free,
    .w_size = fake_w_size,
    .w_put = fake_w_put,
    .w_wait = fake_w_wait,
    .need = fake_need,
    .build = fake_build,
    .exec_free = fake_exec_free,
    .forward = fake_forward,
    .sample = fake_sample,
    .slot_set = fake_slot_set,
    .kv_copy = fake_kv_copy,
    .wait = fake_wait,
    .read = fake_read,
    .feed = fake_feed,
};
