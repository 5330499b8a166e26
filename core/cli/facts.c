/* core/cli/facts.c — see facts.h. */
#include "core/cli/facts.h"

#include "core/cli/show.h"
#include "core/cli/table.h"

#include <string.h>
#include <time.h>

/* "2024-11-24 13:05:00", local. */
static void when(double unix_seconds, char out[32])
{
    time_t t = (time_t)unix_seconds;
    struct tm tm;
    out[0] = '\0';
    if (localtime_r(&t, &tm))
        strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm);
}

void mp_facts_state(const struct mp_val *m, struct mp_buf *out)
{
    const struct mp_val *l = mp_val_get(m, "loading");
    double total = mp_val_number(l, "total"), done = mp_val_number(l, "done"), left = mp_val_number(l, "left");
    mp_show_plain(out, mp_val_text(m, "state"));
    if (l->type != MP_VAL_OBJECT)
        return;
    if (total > 0) {
        mp_buf_printf(out, " %d%%, ", (int)(done / total * 100));
        mp_show_bytes(out, (uint64_t)done);
        mp_buf_puts(out, " of ");
        mp_show_bytes(out, (uint64_t)total);
    }
    if (left > 0) {
        mp_buf_puts(out, ", ");
        mp_show_seconds(out, left);
        mp_buf_puts(out, " left");
    }
}

static void state_cell(struct mp_table *t, const struct mp_val *m)
{
    const struct mp_val *l = mp_val_get(m, "loading");
    double total = mp_val_number(l, "total");
    if (total > 0)
        mp_table_printf(t, "%s %d%%", mp_val_text(m, "state"), (int)(mp_val_number(l, "done") / total * 100));
    else
        mp_table_text(t, mp_val_text(m, "state"));
}

/* What a reader wants to know about the state: why it failed, else the cause of the last change. */
static const char *why(const struct mp_val *m)
{
    const char *reason = mp_val_text(m, "reason");
    return reason[0] ? reason : mp_val_text(m, "why");
}

static double setting(const struct mp_val *m, const char *key)
{
    return mp_val_number(mp_val_get(mp_val_get(m, "settings"), key), "value");
}

void mp_facts_models(const struct mp_val *models, bool wide, struct mp_buf *out)
{
    struct mp_table t = {0};
    if (!models->first) {
        mp_buf_puts(out, "no models\n");
        return;
    }
    mp_table_init(
        &t,
        wide ? "MODEL|STATE|>SINCE|DEVICE|>MEMORY|>NEED|>IN FLIGHT|>QUEUED|>LAST USE|>WARM|>COLD|>LOADS|>REPLICAS|WHY"
             : "MODEL|STATE|>SINCE|DEVICE|>MEMORY|>IN FLIGHT|>QUEUED|>LAST USE|WHY",
        "");
    for (const struct mp_val *m = models->first; m; m = m->next) {
        double busy = mp_val_number(m, "in_flight") + mp_val_number(m, "queued");
        mp_table_text(&t, mp_val_text(m, "name"));
        state_cell(&t, m);
        mp_table_seconds(&t, mp_val_number(m, "seconds"));
        mp_table_text(&t, mp_val_text(m, "group"));
        mp_table_bytes(&t, mp_val_number(m, "reserved"));
        if (wide)
            mp_table_bytes(&t, mp_val_number(m, "need"));
        mp_table_count(&t, mp_val_number(m, "in_flight"));
        mp_table_count(&t, mp_val_number(m, "queued"));
        if (mp_val_number(m, "calls") == 0)
            mp_table_text(&t, "never");
        else if (busy > 0)
            mp_table_text(&t, "now");
        else
            mp_table_seconds(&t, mp_val_number(m, "idle"));
        if (wide) {
            mp_table_count(&t, mp_val_number(m, "warm_starts"));
            mp_table_count(&t, mp_val_number(m, "cold_starts"));
            mp_table_count(&t, mp_val_number(m, "loads"));
            mp_table_printf(&t, "%.0f (%.0f-%.0f)", mp_val_number(m, "replicas"), setting(m, "min_replicas"),
                            setting(m, "max_replicas"));
        }
        mp_table_text(&t, why(m));
    }
    mp_table_print(&t, out);
    mp_table_free(&t);
}

static void line(struct mp_buf *out, const char *name, const char *text)
{
    mp_buf_printf(out, "%-12s ", name);
    mp_show_plain(out, text);
    mp_buf_putc(out, '\n');
}

static void memory_line(struct mp_buf *out, const struct mp_val *m)
{
    mp_buf_printf(out, "%-12s ", "memory");
    mp_show_bytes(out, (uint64_t)mp_val_number(m, "reserved"));
    mp_buf_puts(out, " reserved, ");
    mp_show_bytes(out, (uint64_t)mp_val_number(m, "memory"));
    mp_buf_puts(out, " held; a load needs ");
    if (mp_val_number(m, "need") > 0)
        mp_show_bytes(out, (uint64_t)mp_val_number(m, "need"));
    else
        mp_buf_puts(out, "an amount that is not known yet");
    mp_buf_putc(out, '\n');
}

void mp_facts_model(const struct mp_val *m, struct mp_buf *out)
{
    struct mp_table t = {0};
    struct mp_buf b = {0};
    mp_facts_state(m, &b);
    mp_buf_puts(&b, " for ");
    mp_show_seconds(&b, mp_val_number(m, "seconds"));
    if (why(m)[0])
        mp_buf_printf(&b, ": %s", why(m));
    line(out, "model", mp_val_text(m, "name"));
    line(out, "state", mp_buf_cstr(&b));
    line(out, "source", mp_val_text(m, "source"));
    line(out, "declared", mp_val_true(m, "declared") ? mp_val_text(m, "where") : "no more");
    line(out, "device", mp_val_text(m, "device"));
    memory_line(out, m);
    mp_buf_printf(out, "%-12s %.0f in flight, %.0f queued, %.0f so far (%.0f warm, %.0f cold starts)\n", "requests",
                  mp_val_number(m, "in_flight"), mp_val_number(m, "queued"), mp_val_number(m, "calls"),
                  mp_val_number(m, "warm_starts"), mp_val_number(m, "cold_starts"));
    mp_buf_printf(out, "%-12s %.0f", "loads", mp_val_number(m, "loads"));
    if (mp_val_number(m, "load_seconds") > 0) {
        mp_buf_puts(out, ", the last took ");
        mp_show_seconds(out, mp_val_number(m, "load_seconds"));
    }
    mp_buf_puts(out, "\n\n");
    mp_table_init(&t, "SETTING|>VALUE|FROM", "");
    for (const struct mp_val *s = mp_val_get(m, "settings")->first; s; s = s->next) {
        mp_table_text(&t, s->key);
        mp_table_printf(&t, "%.10g", mp_val_number(s, "value"));
        mp_table_printf(&t, "%s%s%s", mp_val_text(s, "from"), mp_val_text(s, "schedule")[0] ? ": " : "",
                        mp_val_text(s, "schedule"));
    }
    mp_table_print(&t, out);
    mp_table_free(&t);
    mp_buf_free(&b);
}

void mp_facts_devices(const struct mp_val *devices, struct mp_buf *out)
{
    struct mp_table t = {0};
    if (!devices->first) {
        mp_buf_puts(out, "no device is used by a model\n");
        return;
    }
    mp_table_init(&t, "DEVICE|>MEMORY|>RESERVED|>HELD|>MODELS|>SWAPS|>ENGINE|WHAT", "");
    for (const struct mp_val *d = devices->first; d; d = d->next) {
        mp_table_text(&t, mp_val_text(d, "name"));
        if (mp_val_number(d, "memory") > 0)
            mp_table_bytes(&t, mp_val_number(d, "memory"));
        else
            mp_table_text(&t, "no limit");
        mp_table_bytes(&t, mp_val_number(d, "reserved"));
        mp_table_bytes(&t, mp_val_number(d, "used"));
        mp_table_count(&t, mp_val_number(d, "loaded"));
        mp_table_count(&t, mp_val_number(d, "swaps"));
        if (mp_val_number(d, "engine") > 0)
            mp_table_printf(&t, "%.0f", mp_val_number(d, "engine"));
        else
            mp_table_text(&t, mp_val_true(d, "wanted") ? "starting" : "not needed");
        mp_table_text(&t, mp_val_text(d, "device"));
    }
    mp_table_print(&t, out);
    mp_table_free(&t);
}

void mp_facts_generations(const struct mp_val *generations, struct mp_buf *out)
{
    struct mp_table t = {0};
    mp_table_init(&t, ">GENERATION|STATE|SINCE|>MODELS|>ENDPOINTS|>REQUESTS|>MEMORY|HASH", "");
    for (const struct mp_val *g = generations->first; g; g = g->next) {
        char since[32];
        when(mp_val_number(g, "since"), since);
        mp_table_printf(&t, "%.0f", mp_val_number(g, "generation"));
        mp_table_text(&t, mp_val_true(g, "active")     ? "active"
                          : mp_val_true(g, "draining") ? "draining"
                          : mp_val_true(g, "memory")   ? "kept"
                                                       : "on disk");
        mp_table_text(&t, since);
        mp_table_count(&t, mp_val_number(g, "models"));
        mp_table_count(&t, mp_val_number(g, "endpoints"));
        mp_table_count(&t, mp_val_number(g, "requests"));
        mp_table_bytes(&t, mp_val_number(g, "bytes"));
        mp_table_printf(&t, "%.12s", mp_val_text(g, "hash"));
    }
    mp_table_print(&t, out);
    mp_table_free(&t);
}

void mp_facts_jobs(const struct mp_val *jobs, struct mp_buf *out)
{
    struct mp_table t = {0};
    mp_table_init(&t, "JOB|NEXT|LAST|>RUNS|>FAILED|>SKIPPED|>RUNNING|LAST ERROR", "");
    for (const struct mp_val *j = jobs->first; j; j = j->next) {
        const struct mp_val *last = mp_val_get(j, "last"), *next = mp_val_get(j, "next");
        char text[32];
        mp_table_text(&t, mp_val_text(j, "name"));
        when(next->number, text);
        mp_table_text(&t, next->type == MP_VAL_NUMBER ? text : "never");
        when(last->number, text);
        mp_table_text(&t, last->type == MP_VAL_NUMBER ? text : "never");
        mp_table_count(&t, mp_val_number(j, "runs"));
        mp_table_count(&t, mp_val_number(j, "failed"));
        mp_table_count(&t, mp_val_number(j, "skipped"));
        mp_table_count(&t, mp_val_number(j, "running"));
        mp_table_text(&t, mp_val_text(j, "error"));
    }
    mp_table_print(&t, out);
    mp_table_free(&t);
}
