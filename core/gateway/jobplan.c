/* core/gateway/jobplan.c — see jobplan.h. */
#include "core/gateway/jobplan.h"

#include "core/base/hash.h"
#include "core/base/json.h"
#include "core/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_STEPS = 1000, DAY = 86400 };

struct item {
    char *name, *what;
    bool declared;
    uint32_t index;
    bool is_cron; /* else every */
    struct mp_cron cron;
    const struct mp_tz *tz;
    double every, jitter;
    int overlap;
    double from;     /* ticks behind it count */
    double last;     /* the last one that a run began for; 0: none */
    uint32_t missed; /* ticks without a run since then */
    uint32_t running;
    bool waiting; /* "queue": one is due when the run that is under way has ended */
    double wait_tick;
};

struct mp_jobplan {
    struct item *items;
    uint32_t n;
};

enum { SKIP, QUEUE, ALLOW }; /* as in mp_conf_job */

struct mp_jobplan *mp_jobplan_new(void)
{
    return mp_calloc(sizeof(struct mp_jobplan));
}

static void clear(struct mp_jobplan *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        mp_free(p->items[i].name);
        mp_free(p->items[i].what);
    }
    mp_free(mp_move(&p->items));
    p->n = 0;
}

void mp_jobplan_free(struct mp_jobplan *p)
{
    if (!p)
        return;
    clear(p);
    mp_free(p);
}

static struct item *find(const struct mp_jobplan *p, const char *name)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (strcmp(p->items[i].name, name) == 0)
            return &p->items[i];
    return NULL;
}

/* One of those that nobody declares any more makes room. */
static void forget_one(struct mp_jobplan *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (!p->items[i].declared && p->items[i].running == 0) {
            mp_free(p->items[i].name);
            mp_free(p->items[i].what);
            p->items[i] = p->items[--p->n];
            return;
        }
}

static struct item *add(struct mp_jobplan *p, const char *name, size_t n)
{
    if (p->n >= MP_JOBPLAN_MAX)
        forget_one(p);
    p->items = mp_realloc(p->items, (p->n + 1) * sizeof *p->items);
    p->items[p->n] = (struct item){.name = mp_strndup(name, n)};
    return &p->items[p->n++];
}

/* ---- ticks ---- */

static bool next_tick(const struct item *it, double after, double *out)
{
    int64_t t;
    if (!it->is_cron) {
        *out = after + it->every;
        return true;
    }
    if (!mp_cron_next(&it->cron, it->tz, (int64_t)floor(after), &t))
        return false;
    *out = (double)t;
    return true;
}

/* How long a tick is put off: the same for the same job and tick, in every process. */
static double put_off(const struct item *it, double tick)
{
    static const uint64_t key[2] = {0x6a6f6273, 0x6a697474};
    char text[400];
    if (it->jitter <= 0)
        return 0;
    int n = snprintf(text, sizeof text, "%.3f %s", tick, it->name);
    uint64_t h = mp_hash_keyed(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, key);
    return it->jitter * (double)(h >> 11) / 9007199254740992.0;
}

/* A clock that was set back: `every` waits no longer than its seconds, and what lies a day ahead was wrong. */
static void mind_clock(struct item *it, double now)
{
    if (it->from > now + DAY || (!it->is_cron && it->from > now))
        it->from = now;
}

/* The last tick that is due by now, how many before it. */
static bool due_tick(const struct item *it, double now, double *tick, uint32_t *before)
{
    double t, further;
    *before = 0;
    if (!next_tick(it, it->from, &t) || t + put_off(it, t) > now)
        return false;
    if (!it->is_cron && now - t > it->every) { /* many: not one by one */
        double n = floor((now - it->jitter - t) / it->every);
        if (n > 0) {
            *before = n < 1e9 ? (uint32_t)n : 1000000000;
            t += n * it->every;
        }
    }
    for (int i = 0; i < MAX_STEPS && next_tick(it, t, &further) && further + put_off(it, further) <= now; i++) {
        t = further;
        ++*before;
    }
    int64_t newest;
    if (it->is_cron && mp_cron_last(&it->cron, it->tz, (int64_t)floor(now - it->jitter), &newest) && (double)newest > t)
        t = (double)newest; /* more than are counted */
    *tick = t;
    return true;
}

/* ---- declarations ---- */

void mp_jobplan_declare(struct mp_jobplan *p, const struct mp_jobplan_job *jobs, uint32_t n, double now)
{
    for (uint32_t i = 0; i < p->n; i++)
        p->items[i].declared = false;
    for (uint32_t i = 0; i < n; i++) { /* before any other makes room for a new one */
        struct item *it = find(p, jobs[i].name);
        if (it)
            it->declared = true;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_jobplan_job *j = &jobs[i];
        struct item *it = find(p, j->name);
        bool same = it && it->what && it->from > 0 && strcmp(it->what, j->what) == 0;
        if (!it)
            it = add(p, j->name, strlen(j->name));
        it->declared = true;
        it->index = i;
        it->is_cron = j->cron != NULL;
        it->cron = j->cron ? *j->cron : (struct mp_cron){0};
        it->tz = j->tz;
        it->every = j->every;
        it->jitter = j->jitter;
        it->overlap = j->overlap;
        if (!same) {
            it->from = now > it->last ? now : it->last;
            it->missed = 0;
            it->waiting = false;
            mp_free(it->what);
            it->what = mp_strdup(j->what);
        }
    }
    for (uint32_t i = 0; i < p->n; i++) {
        struct item *it = &p->items[i];
        if (!it->declared) { /* when it comes back it counts from then */
            it->from = 0;
            it->waiting = false;
            it->tz = NULL;
        }
    }
}

/* ---- runs ---- */

static void begin(struct item *it, double tick, double now, struct mp_jobplan_due *out)
{
    double late = now - tick - put_off(it, tick);
    *out = (struct mp_jobplan_due){.index = it->index, .tick = tick, .late = late > 0 ? late : 0, .missed = it->missed};
    it->missed = 0;
    it->last = tick;
    it->waiting = false;
    it->running++;
}

/* A tick that cannot run now: dropped, or kept for later. */
static void put_by(struct item *it, double tick, uint32_t *skipped)
{
    if (it->overlap == QUEUE) {
        it->missed += it->waiting;
        it->waiting = true;
        it->wait_tick = tick;
        return;
    }
    it->missed++;
    if (skipped)
        skipped[it->index]++;
}

bool mp_jobplan_next(struct mp_jobplan *p, double now, struct mp_jobplan_due *out, uint32_t *skipped)
{
    struct item *best = NULL;
    double tick = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        struct item *it = &p->items[i];
        double t;
        uint32_t before;
        if (!it->declared)
            continue;
        mind_clock(it, now);
        if (due_tick(it, now, &t, &before)) {
            bool room = it->running == 0 || (it->overlap == ALLOW && it->running < MP_JOBPLAN_RUNS);
            if (!room || it->waiting) {
                it->from = t;
                it->missed += before;
                put_by(it, t, skipped);
            } else if (!best || t < tick) {
                best = it;
                tick = t;
            }
        }
        if (it->waiting && it->running == 0 && (!best || it->wait_tick < tick)) {
            best = it;
            tick = it->wait_tick;
        }
    }
    if (!best)
        return false;
    if (!best->waiting) {
        uint32_t before;
        due_tick(best, now, &tick, &before);
        best->missed += before;
        best->from = tick;
    }
    begin(best, tick, now, out);
    return true;
}

void mp_jobplan_ended(struct mp_jobplan *p, const char *name)
{
    struct item *it = find(p, name);
    if (it && it->running > 0)
        it->running--;
}

bool mp_jobplan_when(const struct mp_jobplan *p, double now, double *out)
{
    double least = INFINITY;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct item *it = &p->items[i];
        double t;
        if (!it->declared)
            continue;
        if (it->waiting && it->running == 0)
            least = fmin(least, now);
        if (next_tick(it, it->from, &t))
            least = fmin(least, t + put_off(it, t));
    }
    *out = least;
    return isfinite(least);
}

void mp_jobplan_status(const struct mp_jobplan *p, uint32_t index, double now, struct mp_jobplan_status *out)
{
    *out = (struct mp_jobplan_status){0};
    for (uint32_t i = 0; i < p->n; i++) {
        const struct item *it = &p->items[i];
        double t;
        if (!it->declared || it->index != index)
            continue;
        out->last = it->last;
        out->running = it->running;
        out->waiting = it->waiting;
        if (next_tick(it, it->from, &t))
            out->next = t > now || it->running == 0 ? t : now;
    }
}

/* ---- memory across restarts ---- */

void mp_jobplan_save(const struct mp_jobplan *p, struct mp_buf *out)
{
    mp_buf_puts(out, "{");
    for (uint32_t i = 0; i < p->n; i++) {
        const struct item *it = &p->items[i];
        mp_buf_puts(out, i ? ",\n" : "\n");
        mp_json_put_string(out, it->name, strlen(it->name));
        mp_buf_puts(out, ":{\"what\":");
        mp_json_put_string(out, it->what, strlen(it->what));
        mp_buf_puts(out, ",\"from\":");
        mp_json_put_number(out, it->from);
        mp_buf_puts(out, ",\"last\":");
        mp_json_put_number(out, it->last);
        mp_buf_printf(out, ",\"missed\":%u", it->missed);
        if (it->waiting) {
            mp_buf_puts(out, ",\"waiting\":");
            mp_json_put_number(out, it->wait_tick);
        }
        mp_buf_puts(out, "}");
    }
    mp_buf_puts(out, "\n}\n");
}

static int bad(struct mp_json *j, struct mp_err *err)
{
    return mp_err_set(err, MP_EFORMAT, "%s", j->err.code ? j->err.message : "not what is remembered of jobs");
}

static int load_item(struct mp_jobplan *p, struct mp_json *j, struct mp_err *err)
{
    struct item *it = memchr(j->text, 0, j->len) ? NULL : add(p, j->text, j->len);
    enum mp_json_tok tok;
    if (!it || mp_json_next(j) != MP_JSON_OBJECT)
        return bad(j, err);
    while ((tok = mp_json_next(j)) == MP_JSON_KEY) {
        char key[8] = "";
        memcpy(key, j->text, j->len < 7 ? j->len : 7);
        tok = mp_json_next(j);
        bool number = tok == MP_JSON_NUMBER && j->number >= 0 && j->number < 1e12;
        if (strcmp(key, "what") == 0 && tok == MP_JSON_STRING && !it->what)
            it->what = mp_strndup(j->text, j->len);
        else if (strcmp(key, "from") == 0 && number)
            it->from = j->number;
        else if (strcmp(key, "last") == 0 && number)
            it->last = j->number;
        else if (strcmp(key, "missed") == 0 && number && j->number <= UINT32_MAX)
            it->missed = (uint32_t)j->number;
        else if (strcmp(key, "waiting") == 0 && number) {
            it->waiting = true;
            it->wait_tick = j->number;
        } else
            return bad(j, err);
    }
    return tok == MP_JSON_OBJECT_END && it->what ? 0 : bad(j, err);
}

int mp_jobplan_load(struct mp_jobplan *p, const char *text, size_t n, struct mp_err *err)
{
    struct mp_json j;
    enum mp_json_tok tok = MP_JSON_ERROR;
    int rc = 0;
    mp_json_init(&j, text, n, 3, 0);
    if (mp_json_next(&j) != MP_JSON_OBJECT)
        rc = bad(&j, err);
    while (rc == 0 && (tok = mp_json_next(&j)) == MP_JSON_KEY)
        rc = load_item(p, &j, err);
    if (rc == 0 && (tok != MP_JSON_OBJECT_END || mp_json_next(&j) != MP_JSON_END))
        rc = bad(&j, err);
    mp_json_free(&j);
    if (rc < 0)
        clear(p);
    return rc;
}
