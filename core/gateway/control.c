/* core/gateway/control.c — see control.h. The main thread of the gateway process: nothing per request or per token comes here. */
#include "core/gateway/control.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/admin.h"
#include "core/gateway/ctl.h"
#include "core/gateway/ready.h"
#include "core/gateway/reload.h"
#include "core/gateway/snapshot.h"
#include "core/gateway/sockets.h"
#include "core/gateway/timetable.h"
#include "core/gateway/watch.h"
#include "core/gateway/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <uv.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_REFUSED = 2 };
enum { SPARE_FDS = 128 }; /* for everything that is no connection */
enum { CUT_MS = 2000 }; /* between the end of the drain time, when handlers are cancelled, and connections being cut */

struct control {
    const struct mp_control_options *o;
    struct mp_gateway shared;
    struct mp_policies *policies; /* scale and evict are asked on this thread */
    struct mp_evloop *loop;
    struct mp_generation *first; /* until the reloader has it */
    struct mp_reloader *reloader;
    struct mp_watcher *watcher; /* --watch */
    struct mp_admin *admin;
    struct mp_timetable *jobs; /* NULL until the workers run */
    int admin_fd;
    struct mp_worker workers[MP_CTL_MAX_FDS];
    uint32_t n_workers;
    struct mp_sockets sockets;
    struct mp_address addresses[MP_WORKER_MAX_LISTEN]; /* of sockets: with their real ports */
    uint32_t n_addresses;

    uv_poll_t signals, parent; /* of signal_fd and o->parent_fd */
    uv_timer_t timer;          /* of the stop */
    int signal_fd;
    pid_t supervisor;
    uint64_t started_ns;
    bool ready;       /* the ready block was printed */
    bool stopping;    /* told to stop */
    bool cut;         /* running requests were cancelled */
    uint32_t drained; /* workers without connections */
    int exit_code;
};

/* ---- what happens while it runs ---- */

static void stop_at_once(struct control *c, int exit_code)
{
    c->stopping = true;
    c->exit_code = exit_code;
    mp_evloop_stop(c->loop);
}

static void check_ready(struct control *c)
{
    struct mp_pool_model *failed = NULL;
    struct mp_pool_status s;
    bool ready = mp_models_ready(c->shared.models, &failed);
    if (c->ready || c->stopping || !c->reloader)
        return;
    if (failed && !c->o->restore) {
        mp_pool_model_status(failed, &s);
        mp_ready_progress_end();
        mp_error("cannot serve: model '%s' was to be loaded at start (min_replicas) and failed: %s",
                 mp_pool_model_name(failed), s.reason);
        stop_at_once(c, EXIT_REFUSED);
    } else if (ready) {
        struct mp_ctl_msg m = {.type = MP_CTL_READY};
        c->ready = true;
        mp_ctl_send(c->o->ctl_fd, &m, NULL, 0);
        if (c->o->restore)
            mp_info("back with generation %ju, all models as before",
                    (uintmax_t)mp_generation_number(mp_reload_active(c->reloader)));
        else
            mp_ready_print(mp_generation_config(mp_reload_active(c->reloader)), c->shared.pool, c->addresses,
                           c->n_addresses);
    }
}

static void on_declared(void *user, struct mp_engine *e)
{
    struct control *c = user;
    (void)e;
    for (uint32_t i = 0; i < c->n_workers; i++)
        if (c->workers[i].loop)
            mp_worker_declared(&c->workers[i]);
    check_ready(c);
}

static void on_changed(void *user, struct mp_pool_model *m)
{
    struct control *c = user;
    if (!c->ready && mp_clock_mono_ns() - c->started_ns > UINT64_C(1000000000))
        mp_ready_progress(m);
    mp_reloader_changed(c->reloader);
    check_ready(c);
}

static const struct mp_models_events models_events = {on_declared, on_changed};

/* ---- reloads ---- */

/* A generation is about to serve. */
static int use(void *user, struct mp_generation *g, struct mp_err *err)
{
    struct control *c = user;
    mp_models_policies(c->shared.models, c->policies, g);
    int rc = mp_models_declare(c->shared.models, mp_generation_config(g), err);
    if (rc == 0 && c->jobs)
        mp_timetable_use(c->jobs, g);
    return rc;
}

static void note_addresses(struct control *c)
{
    c->n_addresses = c->sockets.n;
    for (uint32_t i = 0; i < c->sockets.n; i++)
        c->addresses[i] = c->sockets.list[i].real;
}

static void on_reload_ended(void *user, bool ok, const struct mp_sources *sources)
{
    struct control *c = user;
    (void)ok;
    note_addresses(c);
    if (c->watcher)
        mp_watcher_look(c->watcher, mp_generation_sources(mp_reload_active(c->reloader)), sources);
}

/* ---- the stop ---- */

static void on_cut(uv_timer_t *t)
{
    struct control *c = t->data;
    mp_warn("requests still run after the drain time: cut");
    stop_at_once(c, c->exit_code);
}

static void on_drain_over(uv_timer_t *t)
{
    struct control *c = t->data;
    for (uint32_t i = 0; i < c->n_workers; i++)
        mp_worker_cancel(&c->workers[i]);
    uv_timer_start(t, on_cut, CUT_MS, 0);
}

static void count_drained(void *user)
{
    struct control *c = user;
    if (++c->drained == c->n_workers)
        stop_at_once(c, c->exit_code);
}

static void on_worker_gone(void *user) /* on the worker's thread */
{
    struct control *c = user;
    mp_evloop_post(c->loop, count_drained, c);
}

static void on_grace_over(uv_timer_t *t)
{
    struct control *c = t->data;
    uv_timer_start(t, on_drain_over, (uint64_t)(c->o->drain * 1000), 0);
    for (uint32_t i = 0; i < c->n_workers; i++)
        mp_worker_drain(&c->workers[i], on_worker_gone, c);
}

static void on_signal(uv_poll_t *h, int status, int events)
{
    struct control *c = h->data;
    struct signalfd_siginfo info;
    (void)status;
    (void)events;
    while (read(c->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGHUP) {
            if (!c->stopping)
                mp_reload_poke(c->reloader, "SIGHUP");
            continue;
        }
        if ((pid_t)info.ssi_pid != c->supervisor)
            continue;
        if (c->stopping || !(c->ready || c->o->restore)) { /* a second one; or nobody was promised anything yet */
            stop_at_once(c, EXIT_OK);
            return;
        }
        mp_info("stopping: no new requests, running ones get %g s", c->o->drain);
        c->stopping = true;
        if (c->jobs)
            mp_timetable_stop(c->jobs);
        atomic_store(&c->shared.draining, true);
        uv_timer_start(&c->timer, on_grace_over, (uint64_t)(c->o->grace * 1000), 0);
    }
}

static void on_parent(uv_poll_t *h, int status, int events)
{
    struct control *c = h->data;
    char byte;
    (void)status;
    (void)events;
    if (read(c->o->parent_fd, &byte, 1) < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    uv_poll_stop(h);
    mp_error("the supervisor is gone: ending");
    stop_at_once(c, EXIT_FAILED);
}

/* ---- the start ---- */

static int read_sources(const struct mp_control_options *o, uint64_t *number, struct mp_sources **out,
                        struct mp_err *err)
{
    if (!o->restore)
        return mp_sources_open(out, o->conf, err);
    int rc = mp_snapshot_get_active(o->state, number, err);
    return rc < 0 ? rc : mp_snapshot_load(o->state, *number, NULL, out, err);
}

/* Prints what is wrong with the configuration, all of it, as `moonpool check` would. */
static void print_problems(const struct mp_problems *problems)
{
    struct mp_buf b = {0};
    if (problems->n == 0)
        return;
    mp_problems_print(problems, &b);
    fprintf(stderr, "%s", mp_buf_cstr(&b));
    mp_buf_free(&b);
}

/* The configuration is judged, and says how many workers it wants; then each gets its VM from the snapshot. */
static int build_generation(struct control *c, struct mp_err *err)
{
    struct mp_generation_options options = {.number = 1, .lenient_files = c->o->restore};
    struct mp_sources *sources = NULL;
    struct mp_problems problems = {0};
    int rc = read_sources(c->o, &options.number, &sources, err);
    if (rc < 0)
        goto out;
    rc = mp_generation_build(&c->first, sources, &options, &problems);
    if (rc < 0)
        goto out;
    sources = NULL; /* the generation's now */
    c->n_workers = mp_reload_workers(mp_generation_config(c->first));
    rc = mp_generation_open(c->first, c->n_workers, &problems);
out:
    print_problems(&problems);
    mp_sources_free(sources);
    mp_problems_free(&problems);
    return rc;
}

static int get_sockets(struct control *c)
{
    const struct mp_sockets_options o = {
        .ctl_fd = c->o->ctl_fd, .workers = c->n_workers, .given = c->o->listen, .n_given = c->o->n_listen};
    struct mp_problems problems = {0};
    int rc = mp_sockets_get(&c->sockets, &o, mp_generation_config(c->first), NULL, &problems);
    for (uint32_t i = 0; i < problems.n; i++)
        fprintf(stderr, "moonpool serve: %s\n", problems.list[i].message);
    mp_problems_free(&problems);
    note_addresses(c);
    for (uint32_t k = 0; k < c->n_workers; k++)
        for (uint32_t i = 0; i < c->sockets.n; i++)
            c->workers[k].listen[c->workers[k].n_listen++] = c->sockets.list[i].fds[k];
    return rc;
}

static int get_engines(struct control *c, struct mp_err *err)
{
    const struct mp_config *config = mp_generation_config(c->first);
    for (uint32_t i = 0; i < config->n_models; i++) {
        const char *group = mp_models_group(&config->models[i], err);
        struct mp_ctl_msg m = {.type = MP_CTL_ENGINE};
        int rc;
        if (!group)
            return MP_EUNAVAILABLE;
        if (mp_models_find_engine(c->shared.models, group))
            continue;
        snprintf(m.text, sizeof m.text, "%s", group);
        rc = mp_ctl_ask(c->o->ctl_fd, &m, NULL, NULL, err);
        if (rc < 0)
            return rc;
        if (!mp_models_add_engine(c->shared.models, group, m.text))
            return mp_err_set(err, MP_ELIMIT, "too many device groups");
    }
    return use(c, c->first, err);
}

/* As many descriptors as the workers may have connections; fewer connections where the system does not give them. */
static void fit_descriptors(struct control *c)
{
    struct rlimit r;
    rlim_t want = (rlim_t)c->shared.limits.connections * c->n_workers + SPARE_FDS;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = r.rlim_max < want ? r.rlim_max : want;
    if (setrlimit(RLIMIT_NOFILE, &r) < 0)
        getrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_cur >= want)
        return;
    c->shared.limits.connections = r.rlim_cur > 2 * SPARE_FDS ? (r.rlim_cur - SPARE_FDS) / c->n_workers : SPARE_FDS / 2;
    mp_warn("%ju open files are allowed: at most %ju connections per worker", (uintmax_t)r.rlim_cur,
            (uintmax_t)c->shared.limits.connections);
}

static int start_workers(struct control *c, struct mp_err *err)
{
    int rc = 0;
    fit_descriptors(c);
    for (uint32_t i = 0; i < c->n_workers && rc == 0; i++) {
        struct mp_worker *w = &c->workers[i];
        w->gateway = &c->shared;
        w->index = i;
        w->generation = mp_reload_active(c->reloader);
        rc = mp_worker_start(w, err);
    }
    return rc;
}

static void watch(struct control *c, uv_poll_t *h, int fd, uv_poll_cb cb)
{
    uv_poll_init(mp_evloop_uv(c->loop), h, fd);
    h->data = c;
    uv_poll_start(h, UV_READABLE | UV_DISCONNECT, cb);
}

static int block_signals(struct control *c, struct mp_err *err)
{
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_IGN); /* these two are the supervisor's to judge */
    signal(SIGINT, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, MP_CONTROL_STOP_SIGNAL);
    sigaddset(&set, SIGHUP);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 ||
        (c->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return mp_err_errno(err, MP_EIO, "cannot watch for signals");
    signal(SIGHUP, SIG_DFL); /* ignored from before it ran: blocked now, it waits to be read */
    c->supervisor = getppid();
    return 0;
}

static void post_job(void *user, uint32_t worker, void (*fn)(struct mp_script_worker *w, void *arg), void *arg)
{
    struct control *c = user;
    mp_worker_script(&c->workers[worker], fn, arg);
}

static void unpin_job(void *user, struct mp_generation *g)
{
    struct control *c = user;
    mp_gateway_unpin(&c->shared, g);
}

/* Behind the workers, which run them. */
static void start_jobs(struct control *c)
{
    const struct mp_timetable_hooks hooks = {c->n_workers, post_job, unpin_job};
    c->jobs = mp_timetable_new(c->loop, c->o->state, &hooks, c);
    mp_timetable_use(c->jobs, mp_reload_active(c->reloader));
}

static void start_reloader(struct control *c)
{
    const struct mp_reload_options o = {.gateway = &c->shared,
                                        .workers = c->workers,
                                        .n_workers = c->n_workers,
                                        .conf = c->o->conf,
                                        .state = c->o->state,
                                        .ctl_fd = c->o->ctl_fd,
                                        .listen = c->o->listen,
                                        .n_listen = c->o->n_listen,
                                        .sockets = &c->sockets,
                                        .use = use,
                                        .ended = on_reload_ended,
                                        .user = c};
    c->reloader = mp_reloader_new(&o, mp_move(&c->first));
    if (c->o->watch) {
        c->watcher = mp_watcher_new(c->loop, c->reloader);
        mp_watcher_look(c->watcher, mp_generation_sources(mp_reload_active(c->reloader)), NULL);
    }
}

/* Before the reloader's thread has the supervisor's ear. */
static int get_admin(struct control *c, struct mp_err *err)
{
    struct mp_ctl_msg m = {.type = MP_CTL_ADMIN};
    int fds[MP_CTL_MAX_FDS];
    uint32_t n = 0;
    int rc = mp_ctl_ask(c->o->ctl_fd, &m, fds, &n, err);
    if (rc == 0 && n != 1)
        rc = mp_err_set(err, MP_EINTERNAL, "the supervisor gave %u admin sockets", n);
    else if (rc == 0)
        c->admin_fd = fds[0];
    return rc;
}

static int start_admin(struct control *c, struct mp_err *err)
{
    const struct mp_admin_options o = {.fd = c->admin_fd,
                                       .conf = c->o->conf,
                                       .state = c->o->state,
                                       .gateway = &c->shared,
                                       .reloader = c->reloader,
                                       .jobs = c->jobs,
                                       .addresses = c->addresses,
                                       .n_addresses = &c->n_addresses,
                                       .n_workers = c->n_workers,
                                       .ready = &c->ready};
    c->admin = mp_admin_new(&o, err);
    return c->admin ? 0 : err->code;
}

static int start(struct control *c, struct mp_err *err)
{
    int rc = build_generation(c, err);
    if (rc == 0)
        rc = get_sockets(c);
    if (rc == 0)
        rc = get_engines(c, err);
    if (rc == 0)
        rc = mp_reload_first(c->o->state, c->first, c->o->restore, err);
    if (rc == 0)
        rc = get_admin(c, err);
    if (rc == 0) {
        start_reloader(c);
        rc = start_workers(c, err);
    }
    if (rc == 0) {
        start_jobs(c);
        rc = start_admin(c, err);
    }
    return rc;
}

static void stop(struct control *c)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&c->signals, (uv_handle_t *)&c->parent, (uv_handle_t *)&c->timer};
    mp_watcher_free(c->watcher);
    mp_reloader_close(c->reloader);
    mp_admin_free(c->admin);
    for (uint32_t i = 0; i < c->n_workers; i++)
        mp_worker_end(&c->workers[i]);
    mp_sockets_close(&c->sockets);
    mp_models_free(c->shared.models);
    mp_policies_free(c->policies);
    mp_timetable_free(c->jobs);
    for (size_t i = 0; i < MP_COUNT(handles); i++)
        uv_close(handles[i], NULL);
    mp_evloop_free(c->loop);
    mp_reloader_free(c->reloader);
    mp_generation_free(c->first);
    mp_pool_free(c->shared.pool);
    close(c->signal_fd);
    if (c->admin_fd >= 0)
        close(c->admin_fd);
}

int mp_control_run(const struct mp_control_options *options)
{
    struct control *c = mp_calloc(sizeof *c);
    struct mp_err err = {0};
    int rc;
    mp_log_role("gateway");
    c->o = options;
    c->admin_fd = -1;
    c->started_ns = mp_clock_mono_ns();
    rc = block_signals(c, &err);
    if (rc < 0) {
        mp_error("%s", err.message);
        mp_free(c);
        return EXIT_FAILED;
    }
    c->loop = mp_evloop_new();
    c->policies = mp_policies_new();
    c->shared.control = c->loop;
    c->shared.pool = mp_pool_new();
    c->shared.models = mp_models_new(c->loop, c->shared.pool, &models_events, c);
    mp_net_limits_init(&c->shared.limits);
    watch(c, &c->signals, c->signal_fd, on_signal);
    watch(c, &c->parent, options->parent_fd, on_parent);
    uv_timer_init(mp_evloop_uv(c->loop), &c->timer);
    c->timer.data = c;
    rc = start(c, &err);
    if (rc < 0) {
        if (err.code)
            fprintf(stderr, "moonpool serve: %s\n", err.message);
        c->exit_code = EXIT_REFUSED;
    } else {
        check_ready(c); /* without models there is nothing to wait for */
        if (!c->stopping)
            mp_evloop_run(c->loop);
    }
    rc = c->exit_code;
    stop(c);
    mp_free(c);
    return rc;
}
