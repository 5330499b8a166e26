/* core/telemetry/metrics.c — see metrics.h. */
#include "core/telemetry/metrics.h"

#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum kind { counter, gauge };

struct mp_cell {
    _Atomic uint64_t bits; /* of a double; any thread */
    _Atomic bool hidden;   /* a gauge that was forgotten; any thread */
    bool counts;           /* a counter */
    char *values[MP_METRIC_MAX_LABELS];
    char *line; /* `moonpool_x{label="value"} `: what stands before the number */
};

struct metric {
    const char *name, *labels, *help;
    enum kind kind;
    uint32_t n_labels;
    /* Below: under the lock. */
    struct mp_cell **cells; /* sorted by values */
    uint32_t n, cap;
    struct mp_cell *spill; /* beyond MP_METRIC_MAX_SETS; not among cells while it is a gauge's */
};

static struct metric table[MP_N_METRICS] = {
#define X(id, name, kind, labels, help) {name, labels, help, kind, 0, NULL, 0, 0, NULL},
    MP_METRICS(X)
#undef X
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- series ---- */

static void put_escaped(struct mp_buf *b, const char *s)
{
    for (; *s; s++)
        switch (*s) {
        case '\\': mp_buf_puts(b, "\\\\"); break;
        case '"': mp_buf_puts(b, "\\\""); break;
        case '\n': mp_buf_puts(b, "\\n"); break;
        default: mp_buf_putc(b, *s);
        }
}

static struct mp_cell *cell_new(const struct metric *m, char *const *values)
{
    struct mp_cell *c = mp_calloc(sizeof *c);
    struct mp_buf line = {0};
    const char *label = m->labels;
    c->counts = m->kind == counter;
    mp_buf_printf(&line, "moonpool_%s", m->name);
    for (uint32_t i = 0; i < m->n_labels; i++) {
        size_t n = strcspn(label, ",");
        c->values[i] = mp_strdup(values[i]);
        mp_buf_printf(&line, "%c%.*s=\"", i ? ',' : '{', (int)n, label);
        put_escaped(&line, values[i]);
        mp_buf_putc(&line, '"');
        label += n + 1;
    }
    mp_buf_puts(&line, m->n_labels ? "} " : " ");
    c->line = mp_buf_take(&line, NULL);
    return c;
}

static int compare(const struct mp_cell *c, char *const *values, uint32_t n)
{
    int d = 0;
    for (uint32_t i = 0; i < n && d == 0; i++)
        d = strcmp(c->values[i], values[i]);
    return d;
}

/* Where values are, or belong. */
static bool find(const struct metric *m, char *const *values, uint32_t *at)
{
    uint32_t low = 0, high = m->n;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        int d = compare(m->cells[mid], values, m->n_labels);
        if (d == 0) {
            *at = mid;
            return true;
        }
        if (d < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *at = low;
    return false;
}

static struct mp_cell *insert(struct metric *m, char *const *values, uint32_t at)
{
    struct mp_cell *c = cell_new(m, values);
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 8;
        m->cells = mp_realloc(m->cells, m->cap * sizeof(struct mp_cell *));
    }
    memmove(m->cells + at + 1, m->cells + at, (m->n - at) * sizeof(struct mp_cell *));
    m->cells[at] = c;
    m->n++;
    return c;
}

static struct mp_cell *spill(struct metric *m)
{
    char *values[MP_METRIC_MAX_LABELS];
    uint32_t at;
    for (uint32_t i = 0; i < MP_METRIC_MAX_LABELS; i++)
        values[i] = (char *)"other";
    if (!m->spill && m->kind == gauge)
        m->spill = cell_new(m, values);
    else if (!m->spill)
        m->spill = find(m, values, &at) ? m->cells[at] : insert(m, values, at);
    return m->spill;
}

static void set_up(void)
{
    for (uint32_t i = 0; i < MP_N_METRICS; i++) {
        struct metric *m = &table[i];
        for (const char *c = m->labels; *c; c++)
            m->n_labels += *c == ',';
        m->n_labels += m->labels[0] != '\0';
        if (m->n_labels == 0) /* there from the start */
            insert(m, NULL, 0);
    }
}

/* A label's value as it is kept: UTF-8, bounded. Most are so already and are not copied. */
static char *tidy(const char *value, struct mp_buf *b)
{
    size_t n = value ? strnlen(value, MP_METRIC_MAX_VALUE + 1) : 0, keep = n;
    if (n == 0)
        return (char *)"";
    if (n <= MP_METRIC_MAX_VALUE && mp_utf8_valid_prefix(value, n) == n)
        return (char *)value;
    if (n > MP_METRIC_MAX_VALUE)
        keep = MP_METRIC_MAX_VALUE - mp_utf8_partial_tail(value, MP_METRIC_MAX_VALUE);
    mp_utf8_clean(b, value, keep);
    return (char *)mp_buf_cstr(b);
}

struct mp_cell *mp_metric_cell(enum mp_metric which, const char *const *values)
{
    struct metric *m = &table[which];
    struct mp_buf tidied[MP_METRIC_MAX_LABELS] = {{0}};
    char *v[MP_METRIC_MAX_LABELS];
    struct mp_cell *c;
    uint32_t at;
    pthread_once(&once, set_up);
    for (uint32_t i = 0; i < m->n_labels; i++)
        v[i] = tidy(values[i], &tidied[i]);
    pthread_mutex_lock(&lock);
    if (find(m, v, &at))
        c = m->cells[at];
    else if (m->n < MP_METRIC_MAX_SETS)
        c = insert(m, v, at);
    else
        c = spill(m);
    pthread_mutex_unlock(&lock);
    for (uint32_t i = 0; i < m->n_labels; i++)
        mp_buf_free(&tidied[i]);
    return c;
}

/* ---- values ---- */

static double number(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

void mp_cell_add(struct mp_cell *c, double v)
{
    uint64_t old = atomic_load_explicit(&c->bits, memory_order_relaxed);
    if (!isfinite(v) || (c->counts && v < 0))
        return;
    while (!atomic_compare_exchange_weak_explicit(&c->bits, &old, bits_of(number(old) + v), memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
    if (atomic_load_explicit(&c->hidden, memory_order_relaxed))
        atomic_store_explicit(&c->hidden, false, memory_order_relaxed);
}

void mp_cell_set(struct mp_cell *c, double v)
{
    uint64_t old = atomic_load_explicit(&c->bits, memory_order_relaxed);
    if (!isfinite(v))
        return;
    do {
        if (c->counts && v < number(old))
            return;
    } while (
        !atomic_compare_exchange_weak_explicit(&c->bits, &old, bits_of(v), memory_order_relaxed, memory_order_relaxed));
    if (atomic_load_explicit(&c->hidden, memory_order_relaxed))
        atomic_store_explicit(&c->hidden, false, memory_order_relaxed);
}

double mp_cell_get(const struct mp_cell *c)
{
    return number(atomic_load_explicit(&c->bits, memory_order_relaxed));
}

void mp_metric_forget(enum mp_metric which, const char *first_label)
{
    struct metric *m = &table[which];
    pthread_once(&once, set_up);
    if (m->kind != gauge || m->n_labels == 0)
        return;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < m->n; i++)
        if (strcmp(m->cells[i]->values[0], first_label) == 0)
            atomic_store_explicit(&m->cells[i]->hidden, true, memory_order_relaxed);
    pthread_mutex_unlock(&lock);
}

/* ---- text ---- */

/* The series there are: pointers, which stay good. */
static uint32_t snapshot(const struct metric *m, struct mp_cell ***cells, uint32_t *cap)
{
    uint32_t n;
    pthread_mutex_lock(&lock);
    n = m->n;
    if (n > *cap) {
        *cap = m->cap;
        *cells = mp_realloc(*cells, *cap * sizeof(struct mp_cell *));
    }
    if (n > 0)
        memcpy(*cells, m->cells, n * sizeof(struct mp_cell *));
    pthread_mutex_unlock(&lock);
    return n;
}

void mp_metrics_print(struct mp_buf *out)
{
    struct mp_cell **cells = NULL;
    uint32_t cap = 0;
    pthread_once(&once, set_up);
    for (uint32_t i = 0; i < MP_N_METRICS; i++) {
        const struct metric *m = &table[i];
        bool headed = false;
        uint32_t n = snapshot(m, &cells, &cap);
        for (uint32_t k = 0; k < n; k++) {
            if (atomic_load_explicit(&cells[k]->hidden, memory_order_relaxed))
                continue;
            if (!headed)
                mp_buf_printf(out, "# HELP moonpool_%s %s\n# TYPE moonpool_%s %s\n", m->name, m->help, m->name,
                              m->kind == counter ? "counter" : "gauge");
            headed = true;
            mp_buf_puts(out, cells[k]->line);
            mp_json_put_number(out, mp_cell_get(cells[k]));
            mp_buf_putc(out, '\n');
        }
    }
    mp_free(cells);
}

void mp_metrics_document(struct mp_buf *out)
{
    mp_buf_puts(out, "# Metrics\n\n"
                     "What `GET /metrics` says, in Prometheus' text format: always on the admin socket, on the public "
                     "addresses where\n"
                     "`mp.server { metrics = true }` asks for it. Made by `moonpool check --metrics`.\n\n"
                     "| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for (uint32_t i = 0; i < MP_N_METRICS; i++) {
        const struct metric *m = &table[i];
        mp_buf_printf(out, "| `moonpool_%s` | %s | ", m->name, m->kind == counter ? "counter" : "gauge");
        for (const char *label = m->labels; *label;) {
            size_t n = strcspn(label, ",");
            mp_buf_printf(out, "%s`%.*s`", label == m->labels ? "" : ", ", (int)n, label);
            label += n + (label[n] == ',');
        }
        mp_buf_printf(out, "%s | %s |\n", m->labels[0] ? "" : "none", m->help);
    }
    mp_buf_printf(out,
                  "\nCounters begin at 0 with the gateway process. A metric has at most %d series; what is beyond them "
                  "is counted\n"
                  "with every label `other`.\n",
                  MP_METRIC_MAX_SETS);
}
