/* core/gateway/control.c — see control.h. The main thread of the gateway process: nothing per request or per token comes here. */
#include "core/gateway/control.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/ctl.h"
#include "core/gateway/ready.h"
#include "core/gateway/snapshot.h"
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
    struct mp_evloop *loop;
    struct mp_generation *generation; /* the active one */
    struct mp_worker workers[MP_CTL_MAX_FDS];
    uint32_t n_workers;
    struct mp_address addresses[MP_WORKER_MAX_LISTEN]; /* with their real ports */
    uint32_t n_addresses;

    uv_poll_t signals, parent; /* of signal_fd and o->parent_fd */
    uv_timer_t timer;          /* of the stop */
    int signal_fd;
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
    if (c->ready || c->stopping)
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
            mp_info("back with generation %ju, all models as before", (uintmax_t)mp_generation_number(c->generation));
        else
            mp_ready_print(mp_generation_config(c->generation), c->shared.pool, c->addresses, c->n_addresses);
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
    check_ready(c);
}

static const struct mp_models_events models_events = {on_declared, on_changed};

static void on_idle_generation(void *generation)
{
    mp_generation_free(generation);
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
        if (c->stopping || !(c->ready || c->o->restore)) { /* a second one; or nobody was promised anything yet */
            stop_at_once(c, EXIT_OK);
            return;
        }
        mp_info("stopping: no new requests, running ones get %g s", c->o->drain);
        c->stopping = true;
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

static int read_sources(const struct mp_control_options *o, struct mp_sources **out, struct mp_err *err)
{
    return o->restore ? mp_snapshot_load(o->state, out, err) : mp_sources_open(out, o->conf, err);
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
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int rc = read_sources(c->o, &sources, err);
    if (rc < 0)
        goto out;
    rc = mp_generation_build(&c->generation, sources, &options, &problems);
    if (rc < 0)
        goto out;
    sources = NULL; /* the generation's now */
    c->n_workers = mp_generation_config(c->generation)->server.workers;
    if (c->n_workers == 0)
        c->n_workers = cores > 3 ? (uint32_t)(cores / 2 < MP_CTL_MAX_FDS ? cores / 2 : MP_CTL_MAX_FDS) : 1;
    rc = mp_generation_open(c->generation, c->n_workers, &problems);
out:
    print_problems(&problems);
    mp_sources_free(sources);
    mp_problems_free(&problems);
    return rc;
}

static int add_address(struct control *c, const char *text, bool given, struct mp_err *err)
{
    struct mp_address *a = &c->addresses[c->n_addresses];
    int rc = c->n_addresses == MP_WORKER_MAX_LISTEN
                 ? mp_err_set(err, MP_ELIMIT, "more than %d addresses to listen on", MP_WORKER_MAX_LISTEN)
                 : mp_address_parse(a, text, err);
    if (rc == 0 && !a->loopback)
        rc = mp_err_set(
            err, MP_EINVAL,
            "%s%s: without API keys moonpool listens on loopback only (127.0.0.1, [::1]), and keys are not yet "
            "built",
            given ? "--listen " : "mp.server: listen ", text);
    if (rc == 0)
        c->n_addresses++;
    return rc;
}

static int get_sockets(struct control *c, struct mp_err *err)
{
    const struct mp_config *config = mp_generation_config(c->generation);
    int fds[MP_CTL_MAX_FDS], rc = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->o->n_listen && rc == 0; i++)
        rc = add_address(c, c->o->listen[i], true, err);
    for (uint32_t i = 0; i < config->server.n_listen && rc == 0 && c->o->n_listen == 0; i++)
        rc = add_address(c, config->server.listen[i].text, false, err);
    for (uint32_t i = 0; i < c->n_addresses && rc == 0; i++) {
        struct mp_ctl_msg m = {.type = MP_CTL_LISTEN, .count = c->n_workers, .address = c->addresses[i]};
        rc = mp_ctl_ask(c->o->ctl_fd, &m, fds, &n, err);
        if (rc == 0 && n != c->n_workers)
            rc = mp_err_set(err, MP_EINTERNAL, "the supervisor gave %u sockets for %u workers", n, c->n_workers);
        if (rc < 0)
            break;
        c->addresses[i] = m.address;
        for (uint32_t k = 0; k < n; k++)
            c->workers[k].listen[c->workers[k].n_listen++] = fds[k];
    }
    return rc;
}

static int get_engines(struct control *c, struct mp_err *err)
{
    const struct mp_config *config = mp_generation_config(c->generation);
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
    return mp_models_declare(c->shared.models, config, err);
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
        w->generation = c->generation;
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
    signal(SIGHUP, SIG_IGN); /* these three are the supervisor's to judge */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, MP_CONTROL_STOP_SIGNAL);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 ||
        (c->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return mp_err_errno(err, MP_EIO, "cannot watch for signals");
    return 0;
}

static int start(struct control *c, struct mp_err *err)
{
    int rc = build_generation(c, err);
    if (rc == 0)
        rc = get_sockets(c, err);
    if (rc == 0)
        rc = get_engines(c, err);
    if (rc == 0 && !c->o->restore)
        rc = mp_snapshot_save(c->o->state, mp_generation_sources(c->generation), err);
    if (rc == 0)
        rc = start_workers(c, err);
    return rc;
}

static void stop(struct control *c)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&c->signals, (uv_handle_t *)&c->parent, (uv_handle_t *)&c->timer};
    for (uint32_t i = 0; i < c->n_workers; i++) {
        mp_worker_end(&c->workers[i]);
        for (uint32_t k = 0; k < c->workers[i].n_listen; k++)
            close(c->workers[i].listen[k]);
    }
    mp_models_free(c->shared.models);
    for (size_t i = 0; i < MP_COUNT(handles); i++)
        uv_close(handles[i], NULL);
    mp_evloop_free(c->loop);
    if (c->generation && mp_generation_retire(c->generation))
        mp_generation_free(c->generation);
    mp_pool_free(c->shared.pool);
    close(c->signal_fd);
}

int mp_control_run(const struct mp_control_options *options)
{
    struct control *c = mp_calloc(sizeof *c);
    struct mp_err err = {0};
    int rc;
    mp_log_role("gateway");
    c->o = options;
    c->started_ns = mp_clock_mono_ns();
    rc = block_signals(c, &err);
    if (rc < 0) {
        mp_error("%s", err.message);
        mp_free(c);
        return EXIT_FAILED;
    }
    c->loop = mp_evloop_new();
    c->shared.control = c->loop;
    c->shared.pool = mp_pool_new();
    c->shared.models = mp_models_new(c->loop, c->shared.pool, &models_events, c);
    c->shared.on_idle_generation = on_idle_generation;
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
