/* gpu/cpu/device.c — the CPU device as gpu/device.h wants it: opening, memory, building, tickets. Work completes within
 * forward() and sample(); wait() only hands out what was kept. */
#include "gpu/cpu/cpu.h"

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "gpu/blocks.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* --- opening ------------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
/* CPUID leaf 1, ECX bit 29; clang's __builtin_cpu_supports does not know the name. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static bool has_isa(const struct cpu_kernels *k)
{
#if defined(__x86_64__)
    /* The compiler's run-time looks at CPUID and at what the system saves (XCR0). */
    bool avx2 = __builtin_cpu_supports("avx2") && has_f16c();
    if (!strcmp(k->name, "avx2"))
        return avx2;
    if (!strcmp(k->name, "avx512"))
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return k == &cpu_kernels_plain;
}

static const struct cpu_kernels *const all_kernels[] = {
#if defined(__x86_64__)
    &cpu_kernels_avx512,
    &cpu_kernels_avx2,
#endif
    &cpu_kernels_plain,
};

static int parse_number(const char *key, const char *value, uint32_t low, uint32_t high, uint32_t *out,
                        struct mp_err *err)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(value, &end, 10);
    if (errno || *end || end == value || *value == '-' || v < low || v > high)
        return mp_err_set(err, MP_EINVAL, "cpu: %s=%s: a whole number from %u to %u is wanted", key, value, low, high);
    *out = (uint32_t)v;
    return 0;
}

static int parse_isa(const char *value, const struct cpu_kernels **out, struct mp_err *err)
{
    for (size_t i = 0; i < MP_COUNT(all_kernels); i++)
        if (!strcmp(all_kernels[i]->name, value)) {
            if (!has_isa(all_kernels[i]))
                return mp_err_set(err, MP_EUNSUPPORTED, "cpu: isa=%s: this processor does not have it", value);
            *out = all_kernels[i];
            return 0;
        }
    return mp_err_set(err, MP_EINVAL, "cpu: isa=%s: plain, avx2 or avx512 are known", value);
}

static int parse_pair(struct mp_dev *dev, const char *key, const char *value, struct mp_err *err)
{
    if (!strcmp(key, "threads"))
        return parse_number(key, value, 1, CPU_MAX_THREADS, &dev->n_threads, err);
    if (!strcmp(key, "isa"))
        return parse_isa(value, &dev->k, err);
    if (!strcmp(key, "page")) {
        int rc = parse_number(key, value, 16, 32, &dev->page_tokens, err);
        return !rc && dev->page_tokens % 16 ? mp_err_set(err, MP_EINVAL, "cpu: page=%s: 16 or 32", value) : rc;
    }
    if (!strcmp(key, "poison")) {
        uint32_t on = 0;
        int rc = parse_number(key, value, 0, 1, &on, err);
        dev->poison = on;
        return rc;
    }
    return mp_err_set(err, MP_EINVAL, "cpu: unknown key '%s'; known are threads, isa, page, poison", key);
}

static int parse_spec(struct mp_dev *dev, const char *spec, struct mp_err *err)
{
    int rc = 0;
    char *copy = mp_strdup(spec), *save = NULL;
    for (char *pair = strtok_r(copy, ",", &save); pair && !rc; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        if (value)
            *value++ = 0;
        rc = value ? parse_pair(dev, pair, value, err)
                   : mp_err_set(err, MP_EINVAL, "cpu: '%s' is not of the form key=value", pair);
    }
    mp_free(copy);
    return rc;
}

/* Without threads: enough to answer questions. */
static int cpu_open_dry(struct mp_dev **out, const char *spec, struct mp_err *err)
{
    struct mp_dev *dev = mp_calloc(sizeof(*dev));
    dev->magic = CPU_DEV_MAGIC;
    dev->page_tokens = 16;
    uint32_t cores = cpu_online_cores();
    dev->n_threads = cores < CPU_MAX_THREADS ? cores : CPU_MAX_THREADS;
    for (size_t i = 0; !dev->k; i++) /* the last is plain, which every processor has */
        if (has_isa(all_kernels[i]))
            dev->k = all_kernels[i];
    int rc = parse_spec(dev, spec ? spec : "", err);
    if (rc) {
        mp_free(dev);
        return rc;
    }
    *out = dev;
    return 0;
}

static int cpu_open(struct mp_dev **out, const char *spec, struct mp_err *err)
{
    struct mp_dev *dev = NULL;
    int rc = cpu_open_dry(&dev, spec, err);
    if (!rc)
        rc = cpu_pool_new(&dev->pool, dev->n_threads, err);
    if (rc) {
        mp_free(dev);
        return rc;
    }
    *out = dev;
    return 0;
}

static void cpu_close(struct mp_dev *dev)
{
    if (!dev)
        return;
    cpu_pool_free(dev->pool);
    for (uint32_t i = 0; i < dev->n_results; i++)
        mp_free(dev->results[i].got);
    mp_free(dev->results);
    mp_free(dev->shown);
    dev->magic = 0;
    mp_free(dev);
}

static uint64_t cpu_used(struct mp_dev *dev)
{
    return dev->used;
}

static void cpu_caps(struct mp_dev *dev, struct mp_caps *caps)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    *caps = (struct mp_caps){.page_tokens = dev->page_tokens,
                             .n_threads = dev->n_threads,
                             .numerics = 1u << MP_NUM_PLAIN,
                             .granule = CPU_GRANULE,
                             .memory = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0,
                             .invariant = true};
    snprintf(caps->name, sizeof(caps->name), "cpu: %u thread%s, %s", dev->n_threads, dev->n_threads == 1 ? "" : "s",
             dev->k->name);
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

enum { HUGE_PAGE = 2 << 20 };

static int cpu_mem_reserve(struct mp_dev *dev, uint64_t bytes, struct mp_mem **out, struct mp_err *err)
{
    uint64_t size, span;
    if (!bytes || !mp_align_u64(bytes, CPU_GRANULE, &size) || !mp_add_u64(size, HUGE_PAGE, &span) || span > SIZE_MAX)
        return mp_err_set(err, MP_EINVAL, "cpu: cannot reserve %llu bytes", (unsigned long long)bytes);
    struct mp_mem *m = mp_calloc(sizeof(*m));
    m->magic = CPU_MEM_MAGIC;
    m->dev = dev;
    m->bytes = size;
    m->committed = mp_try_calloc(size / CPU_GRANULE / 64 + 1, sizeof(uint64_t));
    uint8_t *at = MAP_FAILED;
    if (m->committed)
        at = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        int rc = mp_err_errno(err, MP_ENOMEM, "cpu: cannot reserve %llu bytes", (unsigned long long)bytes);
        mp_free(m->committed);
        mp_free(m);
        return rc;
    }
    /* Begin where a huge page can, and give the rest back. */
    uint64_t lead = (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE;
    if (lead)
        munmap(at, lead);
    if (span - lead - size)
        munmap(at + lead + size, span - lead - size);
    m->base = at + lead;
    *out = m;
    return 0;
}

bool cpu_mem_committed(const struct mp_mem *m, uint64_t off, uint64_t len)
{
    if (!m || off > m->bytes || len > m->bytes - off)
        return false;
    uint64_t end = (off + len + CPU_GRANULE - 1) / CPU_GRANULE;
    for (uint64_t g = off / CPU_GRANULE; g < end;) {
        if (g % 64 == 0 && end - g >= 64) {
            if (~m->committed[g / 64])
                return false;
            g += 64;
        } else if (m->committed[g / 64] >> (g % 64) & 1) {
            g++;
        } else {
            return false;
        }
    }
    return true;
}

static void mark(struct mp_mem *m, uint64_t first, uint64_t end, bool on)
{
    for (uint64_t g = first; g < end; g++) {
        uint64_t bit = 1ull << (g % 64);
        bool was = m->committed[g / 64] & bit;
        if (on)
            m->committed[g / 64] |= bit;
        else
            m->committed[g / 64] &= ~bit;
        m->dev->used += was == on ? 0 : on ? CPU_GRANULE : 0 - (uint64_t)CPU_GRANULE;
    }
}

static int cpu_mem_commit(struct mp_mem *m, uint64_t off, uint64_t len, bool on, struct mp_err *err)
{
    if (!m || m->magic != CPU_MEM_MAGIC || off > m->bytes || len > m->bytes - off)
        return mp_err_set(err, MP_EINVAL, "cpu: memory to commit lies outside its range");
    uint64_t first = on ? off / CPU_GRANULE : (off + CPU_GRANULE - 1) / CPU_GRANULE;
    uint64_t end = on ? (off + len + CPU_GRANULE - 1) / CPU_GRANULE : (off + len) / CPU_GRANULE;
    if (end <= first)
        return 0;
    uint8_t *at = m->base + first * CPU_GRANULE;
    size_t bytes = (end - first) * CPU_GRANULE;
    if (on) {
        if (mprotect(at, bytes, PROT_READ | PROT_WRITE))
            return mp_err_errno(err, MP_ENOMEM, "cpu: cannot commit %zu bytes", bytes);
        if (bytes >= 2 * HUGE_PAGE)
            madvise(at, bytes, MADV_HUGEPAGE); /* a hint: kernels without it are fine */
    } else {
        /* First drop the pages, so that they come back as zeros, then the right to touch them. */
        if (madvise(at, bytes, MADV_DONTNEED) || mprotect(at, bytes, PROT_NONE))
            return mp_err_errno(err, MP_ENOMEM, "cpu: cannot give %zu bytes back", bytes);
    }
    mark(m, first, end, on);
    return 0;
}

static void cpu_mem_free(struct mp_mem *m)
{
    if (!m)
        return;
    mark(m, 0, m->bytes / CPU_GRANULE, false);
    munmap(m->base, m->bytes);
    mp_free(m->committed);
    m->magic = 0;
    mp_free(m);
}

/* --- weights ------------------------------------------------------------------------------------------------------ */

static int cpu_w_size(struct mp_dev *dev, const struct mp_wref *w, uint32_t type, const struct mp_limits *lim,
                      uint64_t *bytes, struct mp_err *err)
{
    (void)dev, (void)lim;
    const struct mp_type_info *info = mp_type_info(type);
    if (!info || cpu_kind_of(type) < 0)
        return mp_err_set(err, MP_EUNSUPPORTED, "cpu: %s: weights of type %s are not supported", w->name,
                          info ? info->name : "unknown");
    if (!cpu_weight_bytes(w, type, bytes))
        return mp_err_set(err, MP_EINVAL, "cpu: %s: %u columns are no whole number of %s blocks", w->name, w->ne[0],
                          info->name);
    return 0;
}

static int cpu_w_put(struct mp_mem *m, uint64_t off, const struct mp_wref *w, uint32_t type, uint64_t row0,
                     uint64_t rows, const void *src, struct mp_err *err)
{
    uint64_t bytes, end;
    if (!m || m->magic != CPU_MEM_MAGIC || cpu_kind_of(type) < 0 || !cpu_weight_bytes(w, type, &bytes))
        return mp_err_set(err, MP_EINVAL, "cpu: %s: not a weight that fits here", w->name);
    if (off % 64 || !mp_add_u64(off, bytes, &end) || end > m->bytes || !cpu_mem_committed(m, off, bytes))
        return mp_err_set(err, MP_EINVAL, "cpu: %s: its place is not committed, or not at 64 bytes", w->name);
    if (row0 > w->ne[1] || rows > w->ne[1] - row0 || row0 % 64 || (rows % 64 && row0 + rows != w->ne[1]))
        return mp_err_set(err, MP_EINVAL, "cpu: %s: rows %llu + %llu of %u cannot be put", w->name,
                          (unsigned long long)row0, (unsigned long long)rows, w->ne[1]);
    if (rows)
        cpu_weight_put(m->base + off, w, type, row0, rows, src);
    return 0;
}

/* --- building ----------------------------------------------------------------------------------------------------- */

static void cpu_exec_free(struct mp_exec *e)
{
    if (!e)
        return;
    cpu_program_free(e);
    for (uint32_t i = 0; e->slots && i < e->lim.max_slot; i++)
        mp_slot_free(&e->slots[i]);
    mp_free(e->slots);
    mp_free(e->tok);
    mp_free(e->seq_of);
    mp_free(e->tiles);
    mp_free((void *)e->next);
    mp_free((void *)e->splits);
    mp_free(e->sample_scratch);
    e->dev->used -= e->own_bytes;
    e->magic = 0;
    mp_free(e);
}

static int cpu_need(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim, uint64_t *scratch,
                    uint64_t page_bytes[MP_MAX_KVS], struct mp_err *err)
{
    struct mp_exec *e = mp_calloc(sizeof(*e));
    e->dev = dev;
    int rc = cpu_program_make(e, plan, lim, err);
    for (uint32_t i = 0; !rc && i < MP_MAX_KVS; i++)
        page_bytes[i] = i < e->n_kvs ? e->kvs[i].page_bytes : 0;
    if (!rc)
        *scratch = e->scratch_bytes;
    cpu_exec_free(e);
    return rc;
}

/* The arrays of cpu_build(). */
static uint64_t cpu_beside(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim)
{
    const struct mp_exec *e = NULL;
    return lim->max_tok * (sizeof(*e->tok) + sizeof(*e->seq_of) + sizeof(*e->tiles)) +
           lim->max_slot * sizeof(*e->slots) + (uint64_t)dev->n_threads * 2 * plan->n_vocab * sizeof(float);
}

static int cpu_build(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim, struct mp_mem *w,
                     const uint64_t *w_off, const uint32_t *w_type, struct mp_mem *scratch,
                     struct mp_mem *const kv[MP_MAX_KVS], struct mp_exec **out, struct mp_err *err)
{
    struct mp_exec *e = mp_calloc(sizeof(*e));
    e->magic = CPU_EXEC_MAGIC;
    e->dev = dev;
    int rc = cpu_program_make(e, plan, lim, err);
    if (!rc)
        rc = cpu_program_place(e, plan, w, w_off, w_type, scratch, kv, err);
    if (!rc) {
        e->tok = mp_try_calloc(lim->max_tok, sizeof(*e->tok));
        e->seq_of = mp_try_calloc(lim->max_tok, sizeof(*e->seq_of));
        e->tiles = mp_try_calloc(lim->max_tok, sizeof(*e->tiles));
        e->next = mp_try_calloc(2 * (size_t)e->n_stages + 2, sizeof(*e->next));
        e->splits = mp_try_calloc(4 * dev->n_threads, sizeof(*e->splits));
        e->slots = mp_try_calloc(lim->max_slot, sizeof(*e->slots));
        e->sample_scratch = mp_try_calloc((size_t)dev->n_threads * 2 * e->n_vocab + 1, sizeof(float));
        if (!e->tok || !e->seq_of || !e->tiles || !e->next || !e->splits || !e->slots || !e->sample_scratch)
            rc = mp_err_set(err, MP_ENOMEM, "cpu: out of memory for the exec");
    }
    if (rc) {
        cpu_exec_free(e);
        return rc;
    }
    e->own_bytes = cpu_beside(dev, plan, lim);
    dev->used += e->own_bytes;
    *out = e;
    return 0;
}

static void touch_weights(void *arg, uint32_t thread)
{
    struct mp_exec *e = arg;
    unsigned sum = 0;
    for (uint32_t i = thread; i < e->n_weights; i += e->dev->n_threads) {
        const struct cpu_weight *w = &e->weights[i];
        uint64_t bytes = w->tile_bytes * ((w->n + 15) / 16);
        for (uint64_t at = 0; w->n > 1 && at < bytes; at += CPU_GRANULE)
            sum += ((const volatile uint8_t *)w->at)[at];
    }
    (void)sum;
}

static int cpu_warm(struct mp_exec *e, struct mp_err *err)
{
    if (!e || e->magic != CPU_EXEC_MAGIC)
        return mp_err_set(err, MP_ESTATE, "cpu: not an exec");
    cpu_pool_run(e->dev->pool, touch_weights, e);
    return 0;
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static mp_ticket finish(struct mp_dev *dev, uint64_t busy_ns, struct mp_got *got, uint32_t n_got)
{
    if (dev->n_results == dev->cap_results) {
        dev->cap_results = dev->cap_results ? dev->cap_results * 2 : 16;
        dev->results = mp_realloc(dev->results, dev->cap_results * sizeof(*dev->results));
    }
    dev->results[dev->n_results++] =
        (struct cpu_result){.ticket = ++dev->issued, .busy_ns = busy_ns, .got = got, .n_got = n_got};
    return dev->issued;
}

static int cpu_forward(struct mp_exec *e, const struct mp_step *step, mp_ticket *out, struct mp_err *err)
{
    if (!e || e->magic != CPU_EXEC_MAGIC)
        return mp_err_set(err, MP_ESTATE, "cpu: not an exec");
    int rc = cpu_step_check(e, step, err);
    if (rc)
        return rc;
    uint64_t began = mp_clock_mono_ns();
    cpu_run(e, step);
    *out = finish(e->dev, mp_clock_mono_ns() - began, NULL, 0);
    return 0;
}

struct sampling {
    struct mp_exec *e;
    const struct mp_pick *picks;
    struct mp_got *got;
    uint32_t n;
    _Atomic uint32_t next; /* any thread */
};

static void sample_thread(void *arg, uint32_t thread)
{
    struct sampling *s = arg;
    struct mp_exec *e = s->e;
    const struct cpu_value *logits = &e->values[e->logits];
    float *scratch = e->sample_scratch + (size_t)thread * 2 * e->n_vocab;
    for (uint32_t i; (i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->n;) {
        const struct mp_pick *p = &s->picks[i];
        mp_sample_row(logits->at + (uint64_t)p->row * logits->stride, e->n_vocab, p, &e->slots[p->slot], scratch,
                      &s->got[i]);
    }
}

static int cpu_sample(struct mp_exec *e, const struct mp_pick *picks, uint32_t n, mp_ticket *out, struct mp_err *err)
{
    if (!e || e->magic != CPU_EXEC_MAGIC)
        return mp_err_set(err, MP_ESTATE, "cpu: not an exec");
    if (e->logits == MP_NONE)
        return mp_err_set(err, MP_EINVAL, "cpu: this model has no logits to sample from");
    uint32_t rows = e->values[e->logits].rows == MP_R_OUT ? e->ran_out : e->ran_tok;
    for (uint32_t i = 0; i < n; i++) {
        int rc = mp_pick_check(&picks[i], rows, e->lim.max_slot, err);
        if (rc)
            return rc;
    }
    uint64_t began = mp_clock_mono_ns();
    struct sampling s = {.e = e, .picks = picks, .got = mp_calloc(n * sizeof(*s.got)), .n = n};
    if (n > 1)
        cpu_pool_run(e->dev->pool, sample_thread, &s);
    else
        sample_thread(&s, 0);
    for (uint32_t i = 0; i < n; i++)
        mp_slot_push(&e->slots[picks[i].slot], s.got[i].id);
    *out = finish(e->dev, mp_clock_mono_ns() - began, s.got, n);
    return 0;
}

static int cpu_slot_set(struct mp_exec *e, uint32_t slot, const int32_t *ids, uint32_t n)
{
    if (!e || e->magic != CPU_EXEC_MAGIC || slot >= e->lim.max_slot)
        return MP_EINVAL;
    mp_slot_set(&e->slots[slot], ids, n);
    return 0;
}

static int cpu_kv_copy(struct mp_exec *e, int group, uint32_t src, uint32_t dst, mp_ticket *out, struct mp_err *err)
{
    if (!e || e->magic != CPU_EXEC_MAGIC || group < 0 || (uint32_t)group >= e->n_kvs)
        return mp_err_set(err, MP_EINVAL, "cpu: no kv group %d", group);
    const struct cpu_kv *kv = &e->kvs[group];
    if (src >= e->lim.max_pages || dst >= e->lim.max_pages ||
        !cpu_mem_committed(kv->mem, src * kv->page_bytes, kv->page_bytes) ||
        !cpu_mem_committed(kv->mem, dst * kv->page_bytes, kv->page_bytes))
        return mp_err_set(err, MP_EINVAL, "cpu: kv pages %u, %u are out of range or not committed", src, dst);
    uint64_t began = mp_clock_mono_ns();
    if (src != dst)
        memcpy(kv->base + dst * kv->page_bytes, kv->base + src * kv->page_bytes, kv->page_bytes);
    *out = finish(e->dev, mp_clock_mono_ns() - began, NULL, 0);
    return 0;
}

static int cpu_wait(struct mp_dev *dev, mp_ticket ticket, uint64_t timeout_ns, struct mp_done *done)
{
    (void)timeout_ns;
    uint32_t at = 0;
    while (at < dev->n_results && dev->results[at].ticket != ticket)
        at++;
    if (at == dev->n_results)
        return MP_EINVAL; /* never given out, or waited for before */
    mp_free(dev->shown);
    for (uint32_t i = 0; i < at; i++)
        mp_free(dev->results[i].got);
    const struct cpu_result *r = &dev->results[at];
    dev->shown = r->got;
    memset(done, 0, sizeof(*done));
    done->busy_ns = r->busy_ns;
    done->got = r->got;
    done->n_got = r->n_got;
    dev->n_results -= at + 1;
    memmove(dev->results, dev->results + at + 1, dev->n_results * sizeof(*dev->results));
    return 0;
}

static int cpu_read(struct mp_exec *e, const char *output, uint32_t row, float *dst, uint32_t n, struct mp_err *err)
{
    if (!e || e->magic != CPU_EXEC_MAGIC)
        return mp_err_set(err, MP_ESTATE, "cpu: not an exec");
    for (uint32_t i = 0; i < e->n_outputs; i++) {
        const struct cpu_value *v = &e->values[e->outputs[i].val];
        if (strcmp(e->outputs[i].name, output))
            continue;
        uint32_t rows = v->rows == MP_R_OUT ? e->ran_out : e->ran_tok;
        if (row >= rows || n > v->n)
            return mp_err_set(err, MP_EINVAL, "cpu: row %u of %u, %u columns of %u cannot be read", row, rows, n, v->n);
        memcpy(dst, v->at + (uint64_t)row * v->stride, n * sizeof(float));
        return 0;
    }
    return mp_err_set(err, MP_ENOENT, "cpu: no output '%s'", output);
}

static int cpu_feed(struct mp_exec *e, uint32_t val, const float *src, uint32_t rows, struct mp_err *err)
{
    if (!e || e->magic != CPU_EXEC_MAGIC || val >= e->n_values || !e->values[val].param)
        return mp_err_set(err, MP_EINVAL, "cpu: value %u is not fed", val);
    const struct cpu_value *v = &e->values[val];
    if (rows > (v->rows == MP_R_OUT ? e->lim.max_out : e->lim.max_tok))
        return mp_err_set(err, MP_EINVAL, "cpu: %u rows are too many", rows);
    for (uint32_t r = 0; r < rows; r++)
        memcpy(v->at + (uint64_t)r * v->stride, src + (uint64_t)r * v->n, v->n * sizeof(float));
    return 0;
}

const struct mp_device_ops mp_device_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .open_dry = cpu_open_dry,
    .close = cpu_close,
    .caps = cpu_caps,
    .used = cpu_used,
    .mem_reserve = cpu_mem_reserve,
    .mem_commit = cpu_mem_commit,
    .mem_free = cpu_mem_free,
    .w_size = cpu_w_size,
    .w_put = cpu_w_put,
    .need = cpu_need,
    .beside = cpu_beside,
    .build = cpu_build,
    .exec_free = cpu_exec_free,
    .warm = cpu_warm,
    .forward = cpu_forward,
    .sample = cpu_sample,
    .slot_set = cpu_slot_set,
    .kv_copy = cpu_kv_copy,
    .wait = cpu_wait,
    .read = cpu_read,
    .feed = cpu_feed,
};
