/* core/gateway/reload.c — see reload.h. A job goes through its steps one after the other, on the control thread and on the builder's in turn:
 *
 *   begin → (builder) build → built → models checked → preloaded → (builder) save → commit → every worker swapped → end
 *
 * Until commit nothing that serves was touched, but for a preloaded model; from commit on nothing can fail. */
#include "core/gateway/reload.h"

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/builder.h"
#include "core/gateway/changes.h"
#include "core/gateway/snapshot.h"
#include "core/gateway/sockets.h"
#include "core/gateway/worker.h"
#include "core/telemetry/decisions.h"
#include "core/telemetry/metrics.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

enum { KEPT_IDLE = 2, TICK_MS = 1000, MAX_ENGINES = MP_POOL_MAX_PROVIDERS };

#define DRAIN_SECONDS 600.0                 /* an old generation's requests may run on for so long */
#define DRAIN_BYTES   (UINT64_C(256) << 20) /* and all old ones' VMs may hold so much */

static const char STOPPING[] = "the server is stopping";

struct entry { /* a generation: serving, draining, kept, or on disk only */
    struct mp_snapshot info;
    struct mp_generation *g; /* NULL: on disk only */
    uint64_t retired_ns;     /* when it was replaced; 0: it serves */
    bool expired;            /* its requests were told to end */
};

struct job {
    struct mp_reloader *r;
    enum mp_reload_what what;
    uint64_t number; /* rollback: to which */
    char why[16];    /* "SIGHUP", "watch", "asked" */
    void (*done)(void *user, const struct mp_reload_result *result);
    void *user;
    struct job *next;

    struct mp_generation *active; /* what serves meanwhile */
    struct mp_generation *g;      /* what will; ours until it is an entry's */
    bool in_memory;               /* g is an entry's all along: a rollback */
    struct mp_sources *sources;   /* of a build that failed */
    bool unchanged;
    struct mp_problems problems;
    struct mp_buf text; /* what changes */
    struct mp_sockets sockets;
    bool has_sockets;
    struct {
        const char *group; /* static */
        char *path;
    } engines[MAX_ENGINES];
    uint32_t n_engines;
    struct mp_config merged; /* while models are preloaded: what serves, and those */
    uint64_t preload_until;  /* 0: not preloading */
    struct mp_snapshot info;
    _Atomic uint32_t left; /* workers that have not swapped */
    struct mp_worker_swap swaps[MP_CTL_MAX_FDS];
};

struct mp_reloader {
    struct mp_reload_options o;
    struct mp_evloop *loop;
    struct mp_builder *builder;
    struct mp_generation *active;
    struct entry *entries; /* by number, ascending */
    uint32_t n, cap;
    uint64_t last; /* the highest number ever */
    struct job *now, *queue;
    uv_timer_t tick;
    double drain_seconds;
    bool closed;
    struct mp_buf result; /* of the last that was no dry run: an open JSON object */
    uint64_t result_ns;
};

/* ---- the table of generations ---- */

static struct entry *entry_of(struct mp_reloader *r, uint64_t number)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (r->entries[i].info.number == number)
            return &r->entries[i];
    return NULL;
}

static struct entry *entry_add(struct mp_reloader *r, const struct mp_snapshot *info)
{
    struct entry *e = entry_of(r, info->number);
    uint32_t at = r->n;
    if (e) {
        e->info = *info;
        return e;
    }
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 32;
        r->entries = mp_realloc(r->entries, r->cap * sizeof *r->entries);
    }
    for (; at > 0 && r->entries[at - 1].info.number > info->number; at--)
        r->entries[at] = r->entries[at - 1];
    r->n++;
    r->entries[at] = (struct entry){.info = *info};
    return &r->entries[at];
}

/* Those whose snapshot went (as mp_snapshot_prune does it) and that are not in memory are forgotten. */
static void entries_prune(struct mp_reloader *r)
{
    uint32_t kept = 0;
    for (uint32_t i = r->n; i-- > 0;) {
        struct entry *e = &r->entries[i];
        bool on_disk = e->g == r->active || ++kept <= MP_SNAPSHOTS;
        if (on_disk || e->g)
            continue;
        memmove(e, e + 1, (r->n - i - 1) * sizeof *e);
        r->n--;
    }
}

static void describe(struct mp_snapshot *info, const struct mp_generation *g)
{
    const struct mp_config *c = mp_generation_config(g);
    info->number = mp_generation_number(g);
    info->since = mp_clock_wall_ns() / UINT64_C(1000000000);
    info->models = c->n_models;
    info->endpoints = c->n_endpoints;
    mp_sources_hash(mp_generation_sources(g), info->hash);
}

/* ---- old generations ---- */

static void close_generation(void *arg) /* on the builder thread */
{
    mp_generation_free(arg);
    malloc_trim(0); /* a VM's pages go back to the system: what reloads leave behind does not add up */
}

static void entry_close(struct mp_reloader *r, struct entry *e)
{
    mp_builder_do(r->builder, close_generation, NULL, mp_move(&e->g));
}

/* Before it is in memory, the g of a job is the builder thread's. */
static bool is_old(const struct mp_reloader *r, const struct entry *e)
{
    return e->g && e->g != r->active &&
           !(r->now && ((r->now->in_memory && r->now->g == e->g) || r->now->active == e->g));
}

static bool is_idle(const struct entry *e)
{
    return mp_generation_pins(e->g) == 0;
}

/* The one that was replaced first, of those that are idle or not. */
static struct entry *oldest(struct mp_reloader *r, bool idle)
{
    struct entry *found = NULL;
    for (uint32_t i = 0; i < r->n; i++) {
        struct entry *e = &r->entries[i];
        if (is_old(r, e) && is_idle(e) == idle && (idle || !e->expired) &&
            (!found || e->retired_ns < found->retired_ns))
            found = e;
    }
    return found;
}

static void entry_expire(struct mp_reloader *r, struct entry *e, const char *why)
{
    mp_warn("generation %ju was replaced and still runs %u requests: they are ended, for %s", (uintmax_t)e->info.number,
            mp_generation_pins(e->g), why);
    e->expired = true;
    for (uint32_t i = 0; i < r->o.n_workers; i++)
        mp_worker_expire(&r->o.workers[i], e->g);
}

static uint64_t old_bytes(struct mp_reloader *r, bool with_expired)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < r->n; i++)
        if (is_old(r, &r->entries[i]) && (with_expired || !r->entries[i].expired))
            sum += mp_generation_bytes(r->entries[i].g);
    return sum;
}

static void on_tick(uv_timer_t *t);

static void arm(struct mp_reloader *r)
{
    bool wanted = r->now && r->now->preload_until;
    for (uint32_t i = 0; i < r->n && !wanted; i++)
        wanted = is_old(r, &r->entries[i]) && !is_idle(&r->entries[i]);
    if (!wanted)
        uv_timer_stop(&r->tick);
    else if (!uv_is_active((uv_handle_t *)&r->tick))
        uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS);
}

/* Closes what is idle beyond the last two, ends what is out of time or memory. */
static void sweep(struct mp_reloader *r)
{
    uint64_t now = mp_clock_mono_ns();
    uint32_t idle = 0;
    struct entry *e;
    for (uint32_t i = 0; i < r->n; i++)
        idle += is_old(r, &r->entries[i]) && is_idle(&r->entries[i]);
    while ((e = oldest(r, true)) != NULL && (idle > KEPT_IDLE || old_bytes(r, true) > DRAIN_BYTES)) {
        entry_close(r, e);
        idle--;
    }
    while ((e = oldest(r, false)) != NULL) {
        if ((double)(now - e->retired_ns) / 1e9 > r->drain_seconds)
            entry_expire(r, e, "their time is over");
        else if (old_bytes(r, false) > DRAIN_BYTES)
            entry_expire(r, e, "old generations hold too much memory");
        else
            break;
    }
    entries_prune(r);
    arm(r);
}

static void on_idle(void *user)
{
    struct mp_reloader *r = user;
    if (!r->closed)
        sweep(r);
}

/* ---- the end of a job ---- */

static void start_next(void *arg);

static void say(const struct job *j, const struct mp_reload_result *result)
{
    struct mp_buf line = {0};
    const char *kind = j->what == MP_RELOAD_ROLLBACK ? "rollback" : "reload";
    if (!result->ok) {
        mp_error("%s (%s) refused, generation %ju serves on:", kind, j->why,
                 (uintmax_t)mp_generation_number(j->active));
        for (size_t at = 0, n = strlen(result->text); at < n;) { /* as `moonpool check` prints it, not as log lines */
            ssize_t put = write(STDERR_FILENO, result->text + at, n - at);
            if (put <= 0)
                break;
            at += (size_t)put;
        }
    } else if (j->what == MP_RELOAD_DRY) {
        mp_info("reload (dry run): it would serve");
    } else if (result->unchanged) {
        mp_log(strcmp(j->why, "watch") == 0 ? MP_LOG_DEBUG : MP_LOG_INFO,
               "%s (%s): nothing changed, generation %ju serves on", kind, j->why, (uintmax_t)result->generation);
    } else {
        for (const char *c = result->text; *c; c++)
            if (*c != '\n')
                mp_buf_putc(&line, *c);
            else if (c[1])
                mp_buf_puts(&line, "; ");
        mp_info("%s (%s): generation %ju serves now: %s", kind, j->why, (uintmax_t)result->generation,
                mp_buf_cstr(&line));
    }
    mp_buf_free(&line);
}

static void record(const struct mp_reload_result *result, const char *why)
{
    const char *outcome = !result->ok ? "failed" : result->unchanged ? "unchanged" : "ok";
    char decision[40];
    snprintf(decision, sizeof decision, result->ok ? "generation %ju" : "refused", (uintmax_t)result->generation);
    mp_cell_add(mp_metric_cell(MP_METRIC_RELOADS, &outcome), 1);
    mp_decide(&(struct mp_decision){.kind = "reload",
                                    .policy = "",
                                    .model = "",
                                    .decision = result->unchanged ? "unchanged" : decision,
                                    .reason = why});
}

static void keep_result(struct mp_reloader *r, const struct mp_reload_result *result, const char *why)
{
    r->result_ns = mp_clock_mono_ns();
    mp_buf_clear(&r->result);
    mp_buf_printf(&r->result, "{\"ok\":%s,\"unchanged\":%s,\"generation\":%ju,\"why\":", result->ok ? "true" : "false",
                  result->unchanged ? "true" : "false", (uintmax_t)result->generation);
    mp_json_put_string(&r->result, why, strlen(why));
    mp_buf_puts(&r->result, ",\"text\":");
    mp_json_put_string(&r->result, result->text, strlen(result->text));
}

static void job_free(struct job *j)
{
    if (!j)
        return;
    if (!j->in_memory)
        mp_generation_free(j->g);
    mp_sources_free(j->sources);
    mp_problems_free(&j->problems);
    mp_buf_free(&j->text);
    mp_free(j->merged.models);
    for (uint32_t i = 0; i < j->n_engines; i++)
        mp_free(j->engines[i].path);
    mp_free(j);
}

static void free_job(void *arg) /* on the builder thread: its VMs take a while */
{
    job_free(arg);
}

static void job_end(struct job *j)
{
    struct mp_reloader *r = j->r;
    struct mp_reload_result result = {.unchanged = j->unchanged, .generation = mp_generation_number(r->active)};
    const struct mp_sources *sources = j->g ? mp_generation_sources(j->g) : j->sources;
    struct mp_buf errors = {0};
    result.ok = j->problems.n == 0;
    if (!result.ok)
        mp_problems_print(&j->problems, &errors);
    if (j->what == MP_RELOAD_DRY && result.ok && !j->unchanged)
        result.generation = r->last + 1;
    result.text = mp_buf_cstr(result.ok ? &j->text : &errors);
    r->now = NULL;
    say(j, &result);
    if (j->what != MP_RELOAD_DRY) {
        record(&result, j->why);
        keep_result(r, &result, j->why);
    }
    r->o.ended(r->o.user, result.ok, sources);
    if (j->done)
        j->done(j->user, &result);
    mp_buf_free(&errors);
    mp_builder_do(r->builder, free_job, NULL, j);
    sweep(r);
    mp_evloop_post(r->loop, start_next, r);
}

static void refuse(struct job *j, const char *message)
{
    mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s", message);
    job_end(j);
}

/* ---- commit ---- */

static void on_swapped(void *arg)
{
    struct job *j = arg;
    struct mp_reloader *r = j->r;
    const struct mp_sockets_options so = {.ctl_fd = r->o.ctl_fd, .workers = r->o.n_workers};
    struct entry *was = entry_of(r, mp_generation_number(j->active));
    if (r->closed)
        return;
    mp_sockets_drop(r->o.sockets, &so, &j->sockets);
    *r->o.sockets = j->sockets;
    was->retired_ns = mp_clock_mono_ns();
    was->expired = false;
    mp_generation_retire(was->g);
    job_end(j);
}

static void on_worker_swapped(void *user) /* on the worker's thread */
{
    struct job *j = user;
    if (atomic_fetch_sub(&j->left, 1) == 1)
        mp_evloop_post(j->r->loop, on_swapped, j);
}

static void commit(void *arg)
{
    struct job *j = arg;
    struct mp_reloader *r = j->r;
    struct mp_err err = {0};
    struct entry *e;
    if (r->closed)
        return;
    if (j->problems.n == 0 && atomic_load(&r->o.gateway->draining)) {
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s", STOPPING);
        mp_snapshot_set_active(r->o.state, mp_generation_number(j->active), NULL);
    }
    if (j->problems.n) {
        const struct mp_sockets_options so = {.ctl_fd = r->o.ctl_fd, .workers = r->o.n_workers};
        mp_sockets_drop(&j->sockets, &so, r->o.sockets);
        job_end(j);
        return;
    }
    if (j->info.number > r->last)
        r->last = j->info.number;
    e = entry_add(r, &j->info);
    e->g = j->g;
    e->retired_ns = 0;
    if (j->in_memory)
        mp_generation_revive(j->g);
    j->in_memory = true; /* the entry's from now on */
    r->active = j->g;
    mp_cell_set(mp_metric_cell(MP_METRIC_GENERATION, NULL), (double)j->info.number);
    if (r->o.use(r->o.user, j->g, &err) < 0) /* its models were checked: what is left is logged */
        mp_error("generation %ju: %s", (uintmax_t)j->info.number, err.message);
    atomic_store(&j->left, r->o.n_workers);
    for (uint32_t i = 0; i < r->o.n_workers; i++) {
        struct mp_worker_swap *s = &j->swaps[i];
        *s =
            (struct mp_worker_swap){.generation = j->g, .n_listen = j->sockets.n, .done = on_worker_swapped, .user = j};
        for (uint32_t k = 0; k < j->sockets.n; k++)
            s->listen[k] = j->sockets.list[k].fds[i];
        mp_worker_swap(&r->o.workers[i], s);
    }
}

static void work_save(void *arg) /* on the builder thread */
{
    struct job *j = arg;
    const char *state = j->r->o.state;
    struct mp_err err = {0};
    int rc = mp_snapshot_save(state, &j->info, mp_generation_sources(j->g), &err);
    if (rc == 0)
        rc = mp_snapshot_set_active(state, j->info.number, &err);
    if (rc == 0) {
        mp_snapshot_prune(state, j->info.number);
        return;
    }
    if (j->what != MP_RELOAD_ROLLBACK)
        mp_snapshot_remove(state, j->info.number);
    mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
}

static void save(struct job *j)
{
    if (j->what != MP_RELOAD_ROLLBACK)
        mp_generation_renumber(j->g, j->r->last + 1);
    describe(&j->info, j->g);
    mp_builder_do(j->r->builder, work_save, commit, j);
}

/* ---- models that are to be loaded before they count ---- */

static bool is_preload(const struct job *j, const struct mp_conf_model *m)
{
    const struct mp_config *was = mp_generation_config(j->active);
    for (uint32_t i = 0; i < was->n_models; i++)
        if (strcmp(was->models[i].name, m->name) == 0)
            return false;
    return m->preload;
}

static void preload_look(struct job *j)
{
    struct mp_reloader *r = j->r;
    const struct mp_config *c = mp_generation_config(j->g);
    bool late = mp_clock_mono_ns() > j->preload_until, waits = false;
    struct mp_err err = {0};
    for (uint32_t i = 0; i < c->n_models; i++) {
        const struct mp_conf_model *m = &c->models[i];
        struct mp_pool_model *pooled = mp_pool_find(r->o.gateway->pool, m->name);
        struct mp_pool_status s = {0};
        if (!is_preload(j, m) || !pooled)
            continue;
        mp_pool_model_status(pooled, &s);
        if (s.state == MP_MODEL_WARM)
            continue;
        if (s.state == MP_MODEL_FAILED || late)
            mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL,
                            "%s: mp.model \"%s\": it is to be preloaded and %s%s", m->where, m->name,
                            s.state == MP_MODEL_FAILED ? "failed: " : "was not loaded in time",
                            s.state == MP_MODEL_FAILED ? s.reason : "");
        else
            waits = true;
    }
    if (waits && j->problems.n == 0)
        return;
    j->preload_until = 0;
    if (j->problems.n == 0) {
        save(j);
        return;
    }
    if (r->o.use(r->o.user, j->active, &err) < 0) /* as it was */
        mp_error("generation %ju: %s", (uintmax_t)mp_generation_number(j->active), err.message);
    commit(j); /* has problems: refuses */
}

static void on_model_changed(void *arg)
{
    struct mp_reloader *r = arg;
    if (!r->closed && r->now && r->now->preload_until)
        preload_look(r->now);
}

void mp_reloader_changed(struct mp_reloader *r)
{
    if (r && !r->closed && r->now && r->now->preload_until)
        mp_evloop_post(r->loop, on_model_changed, r); /* it may declare models: not from inside what they tell */
}

/* What serves is declared together with what is to be loaded first. */
static void preload(struct job *j)
{
    struct mp_reloader *r = j->r;
    const struct mp_config *was = mp_generation_config(j->active), *c = mp_generation_config(j->g);
    struct mp_err err = {0};
    double most = 0;
    uint32_t n = was->n_models;
    for (uint32_t i = 0; i < c->n_models; i++)
        n += is_preload(j, &c->models[i]);
    if (n == was->n_models) {
        save(j);
        return;
    }
    j->merged = *was;
    j->merged.models = mp_calloc(n * sizeof *j->merged.models);
    memcpy(j->merged.models, was->models, was->n_models * sizeof *was->models);
    j->merged.n_models = was->n_models;
    for (uint32_t i = 0; i < c->n_models; i++)
        if (is_preload(j, &c->models[i])) {
            const struct mp_conf_model *m = &c->models[i];
            j->merged.models[j->merged.n_models++] = *m;
            most = m->settings.startup_timeout > most ? m->settings.startup_timeout : most;
            mp_info("reload: model '%s' is loaded before generation %ju serves", m->name, (uintmax_t)r->last + 1);
        }
    if (mp_models_declare(r->o.gateway->models, &j->merged, &err) < 0)
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
    j->preload_until = mp_clock_mono_ns() + (uint64_t)(most * 1e9);
    arm(r);
    preload_look(j);
}

static void on_tick(uv_timer_t *t)
{
    struct mp_reloader *r = mp_container_of(t, struct mp_reloader, tick);
    if (r->now && r->now->preload_until)
        preload_look(r->now);
    sweep(r);
}

/* ---- build and check ---- */

static void on_checked(void *user, const struct mp_problems *problems)
{
    struct job *j = user;
    struct mp_reloader *r = j->r;
    if (r->closed)
        return;
    for (uint32_t i = 0; problems && i < problems->n; i++)
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s", problems->list[i].message);
    if (j->problems.n == 0 && j->what != MP_RELOAD_DRY) {
        preload(j);
        return;
    }
    if (j->has_sockets) {
        const struct mp_sockets_options so = {.ctl_fd = r->o.ctl_fd, .workers = r->o.n_workers};
        mp_sockets_drop(&j->sockets, &so, r->o.sockets);
    }
    job_end(j);
}

static void on_built(void *arg)
{
    struct job *j = arg;
    struct mp_reloader *r = j->r;
    struct mp_models *ms = r->o.gateway->models;
    if (r->closed)
        return;
    if (!j->g || j->unchanged) {
        job_end(j);
        return;
    }
    for (uint32_t i = 0; i < j->n_engines; i++) {
        struct mp_engine *e = mp_models_add_engine(ms, j->engines[i].group, j->engines[i].path);
        for (uint32_t k = 0; e && k < r->o.n_workers; k++)
            mp_worker_engine(&r->o.workers[k], e);
        if (!e)
            mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "too many device groups");
    }
    if (mp_models_check(ms, mp_generation_config(j->g), on_checked, j) == 0)
        return;
    if (j->problems.n == 0) /* else it is among them: a model without a device */
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "the models cannot be checked");
    on_checked(j, NULL);
}

/* An engine for every device group that is new. */
static void get_engines(struct job *j)
{
    const struct mp_config *c = mp_generation_config(j->g);
    for (uint32_t i = 0; i < c->n_models; i++) {
        struct mp_err err = {0};
        struct mp_ctl_msg m = {.type = MP_CTL_ENGINE};
        const char *group = mp_models_group(&c->models[i], &err);
        bool there = group && mp_models_find_engine(j->r->o.gateway->models, group);
        for (uint32_t k = 0; group && k < j->n_engines; k++)
            there |= strcmp(j->engines[k].group, group) == 0;
        if (there)
            continue;
        if (group && j->n_engines < MAX_ENGINES) {
            snprintf(m.text, sizeof m.text, "%s", group);
            if (mp_ctl_ask(j->r->o.ctl_fd, &m, NULL, NULL, &err) == 0) {
                j->engines[j->n_engines].group = group;
                j->engines[j->n_engines].path = mp_strdup(m.text);
                j->n_engines++;
                continue;
            }
        }
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s: %s", c->models[i].where, err.message);
    }
}

static bool build(struct job *j)
{
    struct mp_reloader *r = j->r;
    struct mp_generation_options options = {.number = j->number ? j->number : 1};
    struct mp_err err = {0};
    int rc = j->what == MP_RELOAD_ROLLBACK ? mp_snapshot_load(r->o.state, j->number, NULL, &j->sources, &err)
                                           : mp_sources_open(&j->sources, r->o.conf, &err);
    if (rc < 0) {
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
        return false;
    }
    if (mp_generation_build(&j->g, j->sources, &options, &j->problems) < 0)
        return false;
    j->sources = NULL; /* the generation's now */
    return true;
}

static bool same(const struct mp_generation *a, const struct mp_generation *b)
{
    unsigned char x[32], y[32];
    struct mp_buf changed = {0};
    mp_sources_hash(mp_generation_sources(a), x);
    mp_sources_hash(mp_generation_sources(b), y);
    bool equal = memcmp(x, y, sizeof x) == 0 && mp_generation_same_files(a, b, &changed);
    mp_buf_free(&changed);
    return equal;
}

static bool same_listen(const struct mp_config *a, const struct mp_config *b)
{
    bool same = a->server.n_listen == b->server.n_listen;
    for (uint32_t i = 0; same && i < a->server.n_listen; i++)
        same = strcmp(a->server.listen[i].text, b->server.listen[i].text) == 0;
    return same;
}

static void work_build(void *arg) /* on the builder thread */
{
    struct job *j = arg;
    struct mp_reloader *r = j->r;
    const struct mp_sockets_options so = {
        .ctl_fd = r->o.ctl_fd, .workers = r->o.n_workers, .given = r->o.listen, .n_given = r->o.n_listen};
    uint32_t workers;
    if (!j->g && !build(j))
        return;
    j->unchanged = j->what != MP_RELOAD_ROLLBACK && same(j->active, j->g);
    if (j->unchanged)
        return;
    workers = mp_reload_workers(mp_generation_config(j->g));
    if (workers != r->o.n_workers)
        mp_problems_add(&j->problems, NULL, NULL, 0, 0, 0, "stop moonpool and start it again to change it",
                        "mp.server: 'workers' is fixed at start: it is %u, not %u", r->o.n_workers, workers);
    if (!j->in_memory)
        mp_generation_open(j->g, r->o.n_workers, &j->problems);
    j->has_sockets = mp_sockets_get(&j->sockets, &so, mp_generation_config(j->g), r->o.sockets, &j->problems) == 0;
    get_engines(j);
    mp_changes_print(j->active, j->g, &j->text);
    if (r->o.n_listen && !same_listen(mp_generation_config(j->active), mp_generation_config(j->g)))
        mp_buf_puts(&j->text, "listen: --listen was given, and counts instead\n");
    if (j->text.len == 0) /* of a rollback to one of the same files */
        mp_buf_printf(&j->text, "nothing differs from generation %ju\n", (uintmax_t)mp_generation_number(j->active));
}

/* ---- what is asked ---- */

static void begin_rollback(struct job *j)
{
    struct mp_reloader *r = j->r;
    uint64_t active = mp_generation_number(r->active);
    struct entry *e = NULL;
    char text[160];
    for (uint32_t i = 0; i < r->n && j->number == 0; i++)
        if (r->entries[i].info.number < active)
            e = &r->entries[i];
    if (j->number)
        e = entry_of(r, j->number);
    if (!e) {
        if (j->number)
            snprintf(text, sizeof text, "there is no generation %ju to go back to: `moonpool generations` lists them",
                     (uintmax_t)j->number);
        else
            snprintf(text, sizeof text, "there is no generation before %ju to go back to", (uintmax_t)active);
        refuse(j, text);
        return;
    }
    j->number = e->info.number;
    j->unchanged = e->g == r->active;
    if (j->unchanged) {
        job_end(j);
        return;
    }
    j->g = e->g;
    j->in_memory = e->g != NULL;
    mp_builder_do(r->builder, work_build, on_built, j);
}

static void start_next(void *arg)
{
    struct mp_reloader *r = arg;
    struct job *j = r->queue;
    if (r->closed || r->now || !j)
        return;
    r->queue = j->next;
    r->now = j;
    j->active = r->active;
    if (atomic_load(&r->o.gateway->draining))
        refuse(j, STOPPING);
    else if (j->what == MP_RELOAD_ROLLBACK)
        begin_rollback(j);
    else
        mp_builder_do(r->builder, work_build, on_built, j);
}

static struct job *enqueue(struct mp_reloader *r, enum mp_reload_what what, uint64_t number, const char *why)
{
    struct job *j = mp_calloc(sizeof *j), **at = &r->queue;
    j->r = r;
    j->what = what;
    j->number = number;
    snprintf(j->why, sizeof j->why, "%s", why);
    while (*at)
        at = &(*at)->next;
    *at = j;
    mp_evloop_post(r->loop, start_next, r);
    return j;
}

void mp_reload_ask(struct mp_reloader *r, enum mp_reload_what what, uint64_t number,
                   void (*done)(void *user, const struct mp_reload_result *result), void *user)
{
    struct job *j;
    if (r->closed)
        return;
    j = enqueue(r, what, number, "asked");
    j->done = done;
    j->user = user;
}

void mp_reload_poke(struct mp_reloader *r, const char *why)
{
    if (r->closed)
        return;
    for (struct job *j = r->queue; j; j = j->next)
        if (j->what == MP_RELOAD && !j->done)
            return; /* it has not begun: it will see what is on disk */
    enqueue(r, MP_RELOAD, 0, why);
}

struct mp_generation *mp_reload_active(const struct mp_reloader *r)
{
    return r->active;
}

void mp_reload_list(struct mp_reloader *r, struct mp_buf *json)
{
    mp_buf_putc(json, '[');
    for (uint32_t i = r->n; i-- > 0;) {
        const struct entry *e = &r->entries[i];
        bool active = e->g == r->active;
        mp_buf_printf(json, "%s{\"generation\":%ju,\"active\":%s,\"since\":%ju,\"hash\":\"", i + 1 < r->n ? "," : "",
                      (uintmax_t)e->info.number, active ? "true" : "false", (uintmax_t)e->info.since);
        for (size_t k = 0; k < sizeof e->info.hash; k++)
            mp_buf_printf(json, "%02x", e->info.hash[k]);
        mp_buf_printf(
            json, "\",\"models\":%u,\"endpoints\":%u,\"memory\":%s,\"bytes\":%ju,\"requests\":%u,\"draining\":%s}",
            e->info.models, e->info.endpoints, e->g ? "true" : "false", e->g ? (uintmax_t)mp_generation_bytes(e->g) : 0,
            e->g ? mp_generation_pins(e->g) : 0, e->g && !active && mp_generation_pins(e->g) > 0 ? "true" : "false");
    }
    mp_buf_putc(json, ']');
}

void mp_reload_last(const struct mp_reloader *r, struct mp_buf *json)
{
    if (r->result.len == 0) {
        mp_buf_puts(json, "null");
        return;
    }
    mp_buf_put(json, r->result.data, r->result.len);
    mp_buf_puts(json, ",\"age\":");
    mp_json_put_number(json, (double)((mp_clock_mono_ns() - r->result_ns) / 1000000) / 1000);
    mp_buf_putc(json, '}');
}

/* ---- life ---- */

uint32_t mp_reload_workers(const struct mp_config *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (c->server.workers > 0)
        return c->server.workers;
    if (cores <= 3)
        return 1;
    return cores / 2 < MP_CTL_MAX_FDS ? (uint32_t)(cores / 2) : MP_CTL_MAX_FDS;
}

int mp_reload_first(const char *state, struct mp_generation *g, bool restored, struct mp_err *err)
{
    struct mp_snapshot info, there[MP_SNAPSHOTS + 1];
    uint64_t last = 0, active = 0, number;
    uint32_t n;
    int rc;
    if (restored)
        return 0;
    n = mp_snapshot_list(state, mp_sources_config(mp_generation_sources(g))->name, there, MP_COUNT(there), &last);
    number = last + 1;
    describe(&info, g);
    if (mp_snapshot_get_active(state, &active, NULL) == 0)
        for (uint32_t i = 0; i < n; i++)
            if (there[i].number == active && memcmp(there[i].hash, info.hash, sizeof info.hash) == 0)
                number = active;
    mp_generation_renumber(g, number);
    info.number = number;
    rc = mp_snapshot_save(state, &info, mp_generation_sources(g), err);
    if (rc == 0)
        rc = mp_snapshot_set_active(state, number, err);
    if (rc == 0)
        mp_snapshot_prune(state, number);
    return rc;
}

struct mp_reloader *mp_reloader_new(const struct mp_reload_options *options, struct mp_generation *first)
{
    struct mp_reloader *r = mp_calloc(sizeof *r);
    struct mp_snapshot there[MP_SNAPSHOTS + 1];
    const char *drain = getenv("MOONPOOL_DEBUG_DRAIN"); /* for specs: seconds in place of DRAIN_SECONDS */
    uint32_t n;
    struct entry *e;
    r->o = *options;
    r->loop = options->gateway->control;
    r->active = first;
    r->drain_seconds = drain ? strtod(drain, NULL) : DRAIN_SECONDS;
    n = mp_snapshot_list(r->o.state, mp_sources_config(mp_generation_sources(first))->name, there, MP_COUNT(there),
                         &r->last);
    for (uint32_t i = 0; i < n; i++)
        entry_add(r, &there[i]);
    e = entry_of(r, mp_generation_number(first));
    if (!e) {
        struct mp_snapshot info;
        describe(&info, first);
        e = entry_add(r, &info);
    }
    e->g = first;
    if (mp_generation_number(first) > r->last)
        r->last = mp_generation_number(first);
    uv_timer_init(mp_evloop_uv(r->loop), &r->tick);
    options->gateway->on_idle_generation = on_idle;
    options->gateway->on_idle_user = r;
    r->builder = mp_builder_new(r->loop);
    mp_cell_set(mp_metric_cell(MP_METRIC_GENERATION, NULL), (double)mp_generation_number(first));
    return r;
}

void mp_reloader_close(struct mp_reloader *r)
{
    if (!r || r->closed)
        return;
    r->closed = true;
    mp_builder_free(mp_move(&r->builder));
    uv_close((uv_handle_t *)&r->tick, NULL);
}

void mp_reloader_free(struct mp_reloader *r)
{
    if (!r)
        return;
    job_free(r->now);
    for (struct job *j = r->queue, *next; j; j = next) {
        next = j->next;
        job_free(j);
    }
    for (uint32_t i = 0; i < r->n; i++)
        mp_generation_free(r->entries[i].g);
    mp_free(r->entries);
    mp_buf_free(&r->result);
    mp_free(r);
}
