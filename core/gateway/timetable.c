/* core/gateway/timetable.c — see timetable.h. */
#include "core/gateway/timetable.h"

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/jobplan.h"
#include "core/script/shared.h"
#include "core/telemetry/decisions.h"
#include "core/telemetry/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

enum { LOOK_MS = 60000, MAX_FILE = 1 << 20 }; /* the wall clock may jump: it is looked at that often */

struct job { /* of the active generation, with what is known of its name */
    char *name;
    uint64_t runs, failed, skipped;
    enum mp_job_result result; /* of its last run */
    bool known;
    char error[1000];
};

struct mp_timetable {
    struct mp_evloop *loop;
    char *path; /* STATE/jobs */
    struct mp_timetable_hooks hooks;
    void *user;
    struct mp_jobplan *plan;
    struct mp_generation *generation; /* borrowed */
    struct job *jobs;
    uint32_t n_jobs;
    uint32_t turn; /* the worker that gets the next job "per node" */
    uint32_t out;  /* parts under way */
    bool stopped, freed;
    bool kept; /* there is something in the file: also who goes is written down */
    uv_timer_t timer;
};

struct fired { /* one run of a job, on one worker or on each */
    struct mp_timetable *js;
    struct mp_generation *generation; /* pinned */
    char *name;
    uint32_t index, left;
    struct mp_job_fired what;
    enum mp_job_result result; /* the worst of its parts */
    struct mp_err err;
};

struct part { /* of a run, on one worker */
    struct fired *run;
    enum mp_job_result result;
    struct mp_err err;
};

static double wall(void)
{
    return (double)mp_clock_wall_ns() / 1e9;
}

/* ---- what is remembered ---- */

/* Whole or not at all, for whoever comes back after a crash of this process. */
static void save(const struct mp_timetable *js)
{
    char *fresh = mp_asprintf("%s.new", js->path);
    struct mp_buf b = {0};
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    mp_jobplan_save(js->plan, &b);
    if (fd < 0 || write(fd, b.data, b.len) != (ssize_t)b.len || rename(fresh, js->path) < 0)
        mp_warn("jobs: cannot write %s: %s: after a restart a tick may run twice", js->path, strerror(errno));
    if (fd >= 0)
        close(fd);
    mp_buf_free(&b);
    mp_free(fresh);
}

static void load(struct mp_timetable *js)
{
    struct mp_err err = {0};
    struct mp_buf b = {0};
    struct stat st;
    int fd = open(js->path, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size <= MAX_FILE) {
        mp_buf_reserve(&b, (size_t)st.st_size);
        n = read(fd, b.data, (size_t)st.st_size);
    }
    if (fd >= 0 && (n < 0 || mp_jobplan_load(js->plan, b.data, (size_t)n, &err) < 0))
        mp_warn("jobs: %s is not used: %s", js->path, n < 0 ? "it cannot be read" : err.message);
    js->kept = fd >= 0;
    if (fd >= 0)
        close(fd);
    mp_buf_free(&b);
}

/* ---- runs ---- */

static const char *result_name(enum mp_job_result r)
{
    static const char *const names[] = {
        [MP_JOB_OK] = "ok", [MP_JOB_FAILED] = "failed", [MP_JOB_TIMEOUT] = "timeout", [MP_JOB_CANCELLED] = "cancelled"};
    return names[r];
}

static void count(const char *name, const char *result, double n)
{
    mp_cell_add(mp_metric_cell(MP_METRIC_JOB_RUNS, (const char *const[]){name, result}), n);
}

static struct job *job_of(struct mp_timetable *js, const char *name)
{
    for (uint32_t i = 0; i < js->n_jobs; i++)
        if (strcmp(js->jobs[i].name, name) == 0)
            return &js->jobs[i];
    return NULL;
}

static void turn(struct mp_timetable *js);

static void destroy(struct mp_timetable *js)
{
    for (uint32_t i = 0; i < js->n_jobs; i++)
        mp_free(js->jobs[i].name);
    mp_free(js->jobs);
    mp_jobplan_free(js->plan);
    mp_free(js->path);
    mp_free(js);
}

static void run_ended(struct fired *f)
{
    struct mp_timetable *js = f->js;
    struct job *j = job_of(js, f->name);
    struct mp_decision d = {.kind = "job", .policy = "", .model = "", .decision = result_name(f->result)};
    char reason[1200];
    snprintf(reason, sizeof reason, "%s%s%s", f->name, f->err.message[0] ? ": " : "", f->err.message);
    d.reason = reason;
    if (!j || !j->known || f->result != MP_JOB_OK ||
        j->result != MP_JOB_OK) /* one that goes well time and again fills no ring */
        mp_decide(&d);
    count(f->name, result_name(f->result), 1);
    if (j) {
        j->runs++;
        j->known = true;
        j->result = f->result;
        j->failed += f->result != MP_JOB_OK && f->result != MP_JOB_CANCELLED;
        if (f->err.message[0])
            snprintf(j->error, sizeof j->error, "%s", f->err.message);
    }
    mp_jobplan_ended(js->plan, f->name);
    js->hooks.unpin(js->user, f->generation);
    mp_free(f->name);
    mp_free(f);
}

static void part_ended(void *arg) /* on the control thread */
{
    struct part *p = arg;
    struct fired *f = p->run;
    struct mp_timetable *js = f->js;
    if (p->result > f->result) {
        f->result = p->result;
        f->err = p->err;
    }
    mp_free(p);
    if (--f->left == 0)
        run_ended(f);
    js->out--;
    if (js->freed && js->out == 0)
        destroy(js);
    else if (!js->stopped)
        turn(js); /* the next one of it may have waited */
}

static void on_done(void *user, enum mp_job_result result, const struct mp_err *err) /* on the worker's thread */
{
    struct part *p = user;
    p->result = result;
    if (err)
        p->err = *err;
    mp_evloop_post(p->run->js->loop, part_ended, p);
}

static void run_part(struct mp_script_worker *w, void *arg) /* on the worker's thread */
{
    struct part *p = arg;
    mp_run_background(w, p->run->generation, p->run->index, &p->run->what, on_done, p);
}

static void start(struct mp_timetable *js, const struct mp_jobplan_due *due)
{
    const struct mp_conf_job *conf = &mp_generation_config(js->generation)->jobs[due->index];
    struct fired *f = mp_calloc(sizeof *f);
    uint32_t first = js->turn % js->hooks.n_workers, n = conf->per_worker ? js->hooks.n_workers : 1;
    *f = (struct fired){.js = js,
                        .generation = js->generation,
                        .name = mp_strdup(conf->name),
                        .index = due->index,
                        .left = n,
                        .what = {due->tick, due->late, due->missed}};
    mp_generation_pin(f->generation);
    js->turn += n == 1;
    js->out += n;
    for (uint32_t i = 0; i < n; i++) {
        struct part *p = mp_calloc(sizeof *p);
        p->run = f;
        js->hooks.post(js->user, (first + i) % js->hooks.n_workers, run_part, p);
    }
}

static void on_timer(uv_timer_t *t)
{
    turn(mp_container_of(t, struct mp_timetable, timer));
}

/* Begins what is due, and sets the timer to what is next. */
static void turn(struct mp_timetable *js)
{
    uint32_t *skipped = mp_calloc((js->n_jobs + 1) * sizeof *skipped), n = 0;
    struct mp_jobplan_due due, *all = NULL;
    double now = wall(), when;
    bool any = false;
    for (; mp_jobplan_next(js->plan, now, &due, skipped); any = true) {
        all = mp_realloc(all, (n + 1) * sizeof *all);
        all[n++] = due;
    }
    for (uint32_t i = 0; i < js->n_jobs; i++)
        if (skipped[i] > 0) {
            js->jobs[i].skipped += skipped[i];
            count(js->jobs[i].name, "skipped", skipped[i]);
            any = true;
        }
    mp_free(skipped);
    if (any)
        save(js); /* before they begin: whoever comes back after a crash fires none of them again */
    for (uint32_t i = 0; i < n; i++)
        start(js, &all[i]);
    mp_free(all);
    if (!mp_jobplan_when(js->plan, now, &when)) {
        uv_timer_stop(&js->timer);
        return;
    }
    double ms = ceil(fmax(when - now, 0) * 1000);
    uv_timer_start(&js->timer, on_timer, ms < LOOK_MS ? (uint64_t)ms + (ms == 0) : LOOK_MS, 0);
}

/* ---- from outside ---- */

struct mp_timetable *mp_timetable_new(struct mp_evloop *loop, const char *state, const struct mp_timetable_hooks *hooks,
                                      void *user)
{
    struct mp_timetable *js = mp_calloc(sizeof *js);
    js->loop = loop;
    js->path = mp_asprintf("%s/jobs", state);
    js->hooks = *hooks;
    js->user = user;
    js->plan = mp_jobplan_new();
    uv_timer_init(mp_evloop_uv(loop), &js->timer);
    load(js);
    return js;
}

void mp_timetable_use(struct mp_timetable *js, struct mp_generation *g)
{
    const struct mp_config *c = mp_generation_config(g);
    struct mp_jobplan_job *list = mp_calloc((c->n_jobs + 1) * sizeof *list);
    struct job *jobs = mp_calloc((c->n_jobs + 1) * sizeof *jobs);
    for (uint32_t i = 0; i < c->n_jobs; i++) {
        const struct mp_conf_job *j = &c->jobs[i];
        struct job *before = job_of(js, j->name);
        if (before) {
            jobs[i] = *before;
            before->name = mp_strdup(""); /* taken over */
        } else
            jobs[i].name = mp_strdup(j->name);
        list[i] = (struct mp_jobplan_job){.name = jobs[i].name,
                                          .what = j->what,
                                          .cron = j->cron_text ? &j->cron : NULL,
                                          .tz = j->tz,
                                          .every = j->every,
                                          .jitter = j->jitter,
                                          .overlap = (int)j->overlap};
    }
    mp_jobplan_declare(js->plan, list, c->n_jobs, wall());
    for (uint32_t i = 0; i < js->n_jobs; i++)
        mp_free(js->jobs[i].name);
    mp_free(js->jobs);
    mp_free(list);
    js->jobs = jobs;
    js->n_jobs = c->n_jobs;
    js->generation = g;
    mp_shared_declare(c);
    js->kept |= c->n_jobs > 0;
    if (js->kept)
        save(js);
    if (!js->stopped)
        turn(js);
}

void mp_timetable_stop(struct mp_timetable *js)
{
    js->stopped = true;
    uv_timer_stop(&js->timer);
}

static void on_closed(uv_handle_t *h)
{
    struct mp_timetable *js = mp_container_of((uv_timer_t *)h, struct mp_timetable, timer);
    js->freed = true;
    if (js->out == 0)
        destroy(js);
}

void mp_timetable_free(struct mp_timetable *js)
{
    if (!js)
        return;
    mp_timetable_stop(js);
    uv_close((uv_handle_t *)&js->timer, on_closed);
}

static void put_time(struct mp_buf *b, const char *name, double t)
{
    mp_buf_printf(b, ",\"%s\":", name);
    if (t > 0)
        mp_json_put_number(b, t);
    else
        mp_buf_puts(b, "null");
}

static void put_text(struct mp_buf *b, const char *name, const char *text)
{
    mp_buf_printf(b, "\"%s\":", name);
    mp_json_put_string(b, text, strlen(text));
}

void mp_timetable_list(struct mp_timetable *js, struct mp_buf *b)
{
    const struct mp_config *c = js->generation ? mp_generation_config(js->generation) : NULL;
    double now = wall();
    mp_buf_puts(b, "[");
    for (uint32_t i = 0; c && i < c->n_jobs; i++) {
        const struct mp_conf_job *conf = &c->jobs[i];
        const struct job *j = &js->jobs[i];
        struct mp_jobplan_status s;
        mp_jobplan_status(js->plan, i, now, &s);
        mp_buf_puts(b, i ? ",{" : "{");
        put_text(b, "name", conf->name);
        mp_buf_puts(b, ",");
        put_text(b, "where", conf->where);
        mp_buf_puts(b, ",");
        if (conf->cron_text) {
            put_text(b, "cron", conf->cron_text);
            mp_buf_puts(b, ",");
            put_text(b, "tz", mp_tz_name(conf->tz));
        } else {
            mp_buf_puts(b, "\"every\":");
            mp_json_put_number(b, conf->every);
        }
        mp_buf_printf(b, ",\"per\":\"%s\"", conf->per_worker ? "worker" : "node");
        put_time(b, "last", s.last);
        put_time(b, "next", s.next);
        mp_buf_printf(b, ",\"running\":%u,\"waiting\":%s,\"runs\":%ju,\"failed\":%ju,\"skipped\":%ju", s.running,
                      s.waiting ? "true" : "false", (uintmax_t)j->runs, (uintmax_t)j->failed, (uintmax_t)j->skipped);
        if (j->error[0]) {
            mp_buf_puts(b, ",");
            put_text(b, "error", j->error);
        }
        mp_buf_puts(b, "}");
    }
    mp_buf_puts(b, "]");
}
