/* core/cli/supervisor.c — see supervisor.h.
 *
 * One loop around poll(2): a signalfd, and the gateway's control socket. Children end by themselves when the one write end of
 * the death pipe is gone with this process; the parent-death signal is there for a child that does not look. */
#include "core/cli/supervisor.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/cli/cli.h"
#include "core/cli/places.h"
#include "core/engine/engine.h"
#include "core/gateway/control.h"
#include "core/gateway/ctl.h"
#include "core/wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ENGINES = 8, MAX_ADDRESSES = 16, MAX_ARGS = 64 };

#define MS             UINT64_C(1000000)
#define CRASHES        5            /* so many failures ... */
#define CRASH_WINDOW   (10000 * MS) /* ... within so long, before it was ever ready: give up */
#define STEADY         (5000 * MS)  /* a child that lived so long starts again at once */
#define BACKOFF_FIRST  (100 * MS)
#define BACKOFF_MOST   (10000 * MS)
#define STOP_PATIENCE  (10000 * MS) /* beyond the drain time; then SIGKILL */
#define HURRY_PATIENCE (3000 * MS)

struct child {
    char name[40];                /* "engine cpu" */
    pid_t pid;                    /* 0: not running */
    uint64_t started, restart_at; /* restart_at 0: none due; an engine waits beyond it until somebody connects */
    uint64_t backoff;
    uint64_t failed[CRASHES]; /* times of the last failures, oldest first */
    uint32_t n_failed;
};

struct engine {
    struct child child;
    char group[24];
    char *path; /* of its socket */
    int fd; /* which listens; kept while engines come and go, and with it what waits to be accepted: who connects starts one */
};

struct address {
    struct mp_address asked, real;
    int fds[MP_CTL_MAX_FDS];
    uint32_t n;
    bool wanted; /* the gateway that runs now asked for it */
};

struct supervisor {
    const struct mp_supervisor_options *o;
    int signals;  /* signalfd */
    int death[2]; /* children hold the reading end */
    int ctl;      /* our end of the gateway's control socket; -1 while it is gone */
    struct child gateway;
    struct engine engines[MAX_ENGINES];
    uint32_t n_engines;
    struct address addresses[MAX_ADDRESSES];
    uint32_t n_addresses;
    char *admin_path; /* of the admin socket, which outlives gateways; NULL until one asked for it */
    int admin;
    bool ever_ready; /* a gateway said so: from now on it comes back with its snapshot */
    bool ready;      /* the one that runs now did */
    bool reload;     /* SIGHUP came while none was ready: it is told when it is */
    bool stopping;
    uint64_t kill_at; /* while stopping: when patience ends */
    int exit_code;
};

/* ---- starting ---- */

/* In the child: everything this process holds is close-on-exec; `keep` are the descriptors that go along. */
static void become(const char *name, char *const *argv, const int *keep, uint32_t n_keep, pid_t parent, int niceness)
{
    sigset_t none;
    int null;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0); /* a ^C in the terminal is the supervisor's to act on */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(MP_EXIT_FAILED);
    if (niceness)
        setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + niceness);
    signal(SIGHUP, SIG_IGN); /* until the child looks for it */
    null = open("/dev/null", O_RDONLY);
    if (null > 0)
        dup2(null, 0), close(null);
    for (uint32_t i = 0; i < n_keep; i++)
        if (keep[i] >= 0)
            fcntl(keep[i], F_SETFD, 0);
    execv("/proc/self/exe", argv);
    mp_log_role("supervisor");
    mp_error("cannot start %s: %s", name, strerror(errno));
    _exit(127);
}

static void child_start(struct child *c, char *const *argv, const int *keep, uint32_t n_keep, int niceness)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(c->name, argv, keep, n_keep, parent, niceness);
    c->restart_at = 0;
    c->started = mp_clock_mono_ns();
    if (pid < 0) {
        mp_error("cannot start %s: %s", c->name, strerror(errno));
        c->restart_at = c->started + BACKOFF_MOST;
    } else
        c->pid = pid;
}

static void gateway_start(struct supervisor *s)
{
    char ctl[12], death[12], drain[32], grace[32];
    char *argv[MAX_ARGS];
    uint32_t n = 0;
    int pair[2];
    if (s->ctl >= 0)
        close(s->ctl);
    s->ctl = -1;
    s->ready = false;
    for (uint32_t i = 0; i < s->n_addresses; i++)
        s->addresses[i].wanted = false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        mp_error("cannot make the gateway's control socket: %s", strerror(errno));
        s->gateway.restart_at = mp_clock_mono_ns() + BACKOFF_MOST;
        return;
    }
    snprintf(ctl, sizeof ctl, "%d", pair[1]);
    snprintf(death, sizeof death, "%d", s->death[0]);
    snprintf(drain, sizeof drain, "%.3f", s->o->drain);
    snprintf(grace, sizeof grace, "%.3f", s->o->grace);
    char *const fixed[] = {"moonpool", "_gateway",          "--ctl-fd", ctl,   "--parent-fd", death,
                           "--state",  (char *)s->o->state, "--drain",  drain, "--grace",     grace};
    for (; n < MP_COUNT(fixed); n++)
        argv[n] = fixed[n];
    for (uint32_t i = 0; i < s->o->n_listen; i++) {
        argv[n++] = "--listen";
        argv[n++] = (char *)s->o->listen[i];
    }
    if (s->o->watch)
        argv[n++] = "--watch";
    if (s->ever_ready)
        argv[n++] = "--restore";
    argv[n++] = "--";
    argv[n++] = (char *)s->o->conf;
    argv[n] = NULL;
    child_start(&s->gateway, argv, (int[]){pair[1], s->death[0]}, 2, 0);
    close(pair[1]);
    s->ctl = pair[0];
}

/* $MOONPOOL_DEVICE_CPU and the like: what the device of a group is opened with ("threads=1"); for specs and measurements. */
static const char *device_options(const char *group)
{
    char name[64];
    snprintf(name, sizeof name, "MOONPOOL_DEVICE_%s", group);
    for (char *c = name; *c; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c == ':' ? '_' : *c;
    return getenv(name);
}

static void engine_start(struct supervisor *s, struct engine *e)
{
    const char *device = device_options(e->group);
    char listener[12], death[12], linger[32];
    snprintf(linger, sizeof linger, "%.3f", s->o->engine_linger);
    snprintf(listener, sizeof listener, "%d", e->fd);
    snprintf(death, sizeof death, "%d", s->death[0]);
    char *const argv[] = {"moonpool",
                          "_engine",
                          "--listen-fd",
                          listener,
                          "--parent-fd",
                          death,
                          "--linger",
                          linger,
                          "--group",
                          e->group,
                          device ? "--device" : NULL,
                          (char *)device,
                          NULL};
    child_start(&e->child, argv, (int[]){e->fd, s->death[0]}, 2, 5); /* gateway workers go first on a busy machine */
}

/* ---- what the gateway asks ---- */

static void answer(struct supervisor *s, const struct mp_ctl_msg *m, const int *fds, uint32_t n)
{
    if (mp_ctl_send(s->ctl, m, fds, n) == MP_EIO)
        mp_error("cannot answer the gateway: %s", strerror(errno));
}

static void refuse(struct supervisor *s, const struct mp_err *err)
{
    struct mp_ctl_msg m = {.type = MP_CTL_REFUSED, .code = err->code};
    snprintf(m.text, sizeof m.text, "%s", err->message);
    answer(s, &m, NULL, 0);
}

static struct address *address_find(struct supervisor *s, const struct mp_address *asked)
{
    for (uint32_t i = 0; i < s->n_addresses; i++)
        if (strcmp(s->addresses[i].asked.host, asked->host) == 0 && s->addresses[i].asked.port == asked->port)
            return &s->addresses[i];
    return NULL;
}

static int address_get(struct supervisor *s, const struct mp_ctl_msg *ask, struct address **out, struct mp_err *err)
{
    struct address *a = address_find(s, &ask->address);
    int rc;
    if (a) {
        if (a->n != ask->count)
            return mp_err_set(err, MP_ESTATE, "the number of workers is fixed at start: it was %u, not %u", a->n,
                              ask->count);
        a->wanted = true;
        *out = a;
        return 0;
    }
    if (s->n_addresses == MAX_ADDRESSES || ask->count < 1 || ask->count > MP_CTL_MAX_FDS)
        return mp_err_set(err, MP_ELIMIT, "at most %d addresses, with 1 to %d workers", MAX_ADDRESSES, MP_CTL_MAX_FDS);
    a = &s->addresses[s->n_addresses];
    *a = (struct address){.asked = ask->address, .real = ask->address, .n = ask->count, .wanted = true};
    rc = mp_address_listen(&a->real, a->fds, a->n, err);
    if (rc < 0)
        return rc;
    s->n_addresses++;
    *out = a;
    return 0;
}

/* Who waits to be accepted there is cut off. */
static void address_drop(struct supervisor *s, struct address *a)
{
    for (uint32_t k = 0; k < a->n; k++)
        close(a->fds[k]);
    *a = s->addresses[--s->n_addresses];
}

/* A gateway that crashed while an address came or went may have left one that nobody accepts from. */
static void addresses_sweep(struct supervisor *s)
{
    for (uint32_t i = s->n_addresses; i-- > 0;)
        if (!s->addresses[i].wanted)
            address_drop(s, &s->addresses[i]);
}

static int admin_get(struct supervisor *s, struct mp_err *err)
{
    char *path;
    int rc;
    if (s->admin >= 0)
        return 0;
    path = mp_place_socket(s->o->runtime, "admin", err);
    if (!path)
        return MP_EINVAL;
    rc = mp_wire_listen(path, 64, &s->admin, err);
    if (rc == 0 && chmod(path, 0600) < 0)
        mp_warn("cannot make %s private: %s", path, strerror(errno)); /* its folder is */
    if (rc == 0)
        s->admin_path = mp_move(&path);
    mp_free(path);
    return rc;
}

static int engine_find(struct supervisor *s, const char *group, struct engine **out, struct mp_err *err)
{
    struct engine *e;
    int rc = MP_EIO;
    for (uint32_t i = 0; i < s->n_engines; i++)
        if (strcmp(s->engines[i].group, group) == 0) {
            *out = &s->engines[i];
            return 0;
        }
    e = &s->engines[s->n_engines];
    if (s->n_engines == MAX_ENGINES || !group[0] || strlen(group) >= sizeof e->group || strchr(group, '/'))
        return mp_err_set(err, MP_ELIMIT, "no engine for the device group '%s'", group);
    memset(e, 0, sizeof *e);
    snprintf(e->group, sizeof e->group, "%s", group);
    e->path = mp_place_socket(s->o->runtime, e->group, err);
    if (!e->path)
        return MP_EINVAL;
    rc = mp_wire_listen(e->path, 128, &e->fd, err);
    if (rc < 0) {
        mp_free(e->path);
        return rc;
    }
    snprintf(e->child.name, sizeof e->child.name, "engine %s", group);
    s->n_engines++;
    *out = e;
    return 0;
}

static void on_ctl(struct supervisor *s)
{
    struct mp_ctl_msg m;
    struct mp_err err = {0};
    struct address *a = NULL;
    struct engine *e = NULL;
    int fds[MP_CTL_MAX_FDS];
    uint32_t n = 0;
    int rc = mp_ctl_recv(s->ctl, &m, fds, &n);
    while (n > 0)
        close(fds[--n]); /* a gateway has none to give */
    if (rc == MP_EAGAIN)
        return;
    if (rc < 0) { /* it ended, or is about to: waitpid tells */
        close(s->ctl);
        s->ctl = -1;
        return;
    }
    switch (m.type) {
    case MP_CTL_LISTEN:
        if (address_get(s, &m, &a, &err) < 0) {
            refuse(s, &err);
            break;
        }
        m = (struct mp_ctl_msg){.type = MP_CTL_SOCKETS, .count = a->n, .address = a->real};
        answer(s, &m, a->fds, a->n);
        break;
    case MP_CTL_ENGINE:
        if (engine_find(s, m.text, &e, &err) < 0) {
            refuse(s, &err);
            break;
        }
        m = (struct mp_ctl_msg){.type = MP_CTL_PATH};
        snprintf(m.text, sizeof m.text, "%s", e->path);
        answer(s, &m, NULL, 0);
        break;
    case MP_CTL_UNLISTEN:
        a = address_find(s, &m.address);
        if (a)
            address_drop(s, a);
        break;
    case MP_CTL_ADMIN:
        if (admin_get(s, &err) < 0) {
            refuse(s, &err);
            break;
        }
        m = (struct mp_ctl_msg){.type = MP_CTL_SOCKETS, .count = 1};
        snprintf(m.text, sizeof m.text, "%s", s->admin_path);
        answer(s, &m, &s->admin, 1);
        break;
    case MP_CTL_READY:
        s->ever_ready = s->ready = true;
        addresses_sweep(s);
        if (s->reload)
            kill(s->gateway.pid, SIGHUP);
        s->reload = false;
        break;
    default: mp_warn("the gateway sent an unknown control message %u", m.type);
    }
}

/* ---- ends ---- */

static void signal_child(const struct child *c, int sig)
{
    if (c->pid > 0)
        kill(c->pid, sig);
}

static void stop_engines(struct supervisor *s, int sig)
{
    for (uint32_t i = 0; i < s->n_engines; i++)
        signal_child(&s->engines[i].child, sig);
}

/* The gateway first: it drains; engines are told when it is gone. */
static void stop_begin(struct supervisor *s, int exit_code)
{
    s->stopping = true;
    s->exit_code = exit_code;
    s->kill_at = mp_clock_mono_ns() + (uint64_t)((s->o->drain + s->o->grace) * 1e9) + STOP_PATIENCE;
    s->gateway.restart_at = 0;
    for (uint32_t i = 0; i < s->n_engines; i++)
        s->engines[i].child.restart_at = 0;
    if (s->gateway.pid > 0)
        signal_child(&s->gateway, MP_CONTROL_STOP_SIGNAL);
    else
        stop_engines(s, MP_ENGINE_STOP_SIGNAL);
}

static void stop_now(struct supervisor *s)
{
    s->kill_at = mp_clock_mono_ns() + HURRY_PATIENCE;
    signal_child(&s->gateway, MP_CONTROL_STOP_SIGNAL); /* its second: at once */
    stop_engines(s, MP_ENGINE_STOP_SIGNAL);
}

static void on_signal(struct supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) {
            if (s->stopping) {
                mp_info("told to stop again: at once");
                stop_now(s);
            } else {
                mp_info("told to stop: draining for %g s at most", s->o->drain);
                stop_begin(s, MP_EXIT_OK);
            }
        } else if (info.ssi_signo == SIGHUP) {
            s->reload = !s->ready;
            if (s->ready)
                signal_child(&s->gateway, SIGHUP);
        } /* SIGCHLD: reap() looks anyway */
}

static void describe(int status, char out[64])
{
    if (WIFSIGNALED(status))
        snprintf(out, 64, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(out, 64, "exit code %d", WEXITSTATUS(status));
}

/* Says when (an engine: no sooner than when) a child that ended starts again; false: it failed too often. */
static bool schedule(struct child *c, const char *how, bool engine, bool was_ready)
{
    uint64_t now = mp_clock_mono_ns();
    if (now - c->started >= STEADY)
        c->backoff = 0;
    c->restart_at = now + c->backoff;
    c->backoff = c->backoff ? c->backoff * 2 : BACKOFF_FIRST;
    if (c->backoff > BACKOFF_MOST)
        c->backoff = BACKOFF_MOST;
    if (c->n_failed == CRASHES)
        memmove(c->failed, c->failed + 1, --c->n_failed * sizeof c->failed[0]);
    c->failed[c->n_failed++] = now;
    if (!was_ready && c->n_failed == CRASHES && now - c->failed[0] <= CRASH_WINDOW) {
        mp_error("%s failed %d times within %d s before it was ever ready (last: %s): giving up", c->name, CRASHES,
                 (int)(CRASH_WINDOW / (1000 * MS)), how);
        return false;
    }
    mp_error("%s ended (%s); it is started again%s", c->name, how, engine ? " when it is needed" : "");
    return true;
}

static void child_ended(struct supervisor *s, struct child *c, int status)
{
    bool gateway = c == &s->gateway;
    char how[64];
    describe(status, how);
    c->pid = 0;
    s->ready &= !gateway;
    if (s->stopping) {
        int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0; /* ours, when it came before the child was set up */
        if (status != 0 && sig != SIGTERM && sig != MP_CONTROL_STOP_SIGNAL) {
            mp_warn("%s ended while stopping: %s", c->name, how);
            if (s->exit_code == MP_EXIT_OK)
                s->exit_code = MP_EXIT_FAILED;
        }
        if (gateway)
            stop_engines(s, MP_ENGINE_STOP_SIGNAL);
        return;
    }
    if (gateway && !s->ever_ready && WIFEXITED(status) && WEXITSTATUS(status) == MP_EXIT_USAGE) {
        stop_begin(s, MP_EXIT_USAGE); /* it said why */
        return;
    }
    if (!gateway && WIFEXITED(status) && WEXITSTATUS(status) == MP_EXIT_OK) {
        mp_info("%s ended: nothing to do", c->name);
        c->backoff = 0;
        return;
    }
    if (!schedule(c, how, !gateway, s->ever_ready))
        stop_begin(s, MP_EXIT_FAILED);
}

static void reap(struct supervisor *s)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->gateway.pid)
            child_ended(s, &s->gateway, status);
        for (uint32_t i = 0; i < s->n_engines; i++)
            if (pid == s->engines[i].child.pid)
                child_ended(s, &s->engines[i].child, status);
    }
}

static bool anything_runs(const struct supervisor *s)
{
    bool any = s->gateway.pid > 0;
    for (uint32_t i = 0; i < s->n_engines; i++)
        any |= s->engines[i].child.pid > 0;
    return any;
}

/* Starts what is due, kills what does not end; returns nanoseconds until there is more to do, or UINT64_MAX. */
static uint64_t due(struct supervisor *s)
{
    uint64_t now = mp_clock_mono_ns(), next = UINT64_MAX;
    if (s->stopping) {
        if (now < s->kill_at)
            return s->kill_at - now;
        mp_warn("what still runs does not end: killed");
        signal_child(&s->gateway, SIGKILL);
        stop_engines(s, SIGKILL);
        s->kill_at = now + HURRY_PATIENCE;
        return HURRY_PATIENCE;
    }
    for (uint32_t i = 0; i < s->n_engines; i++) {
        struct child *c = &s->engines[i].child;
        if (c->restart_at <= now)
            c->restart_at = 0; /* who connects starts it */
        else if (c->restart_at - now < next)
            next = c->restart_at - now;
    }
    if (s->gateway.restart_at && s->gateway.restart_at <= now)
        gateway_start(s);
    if (s->gateway.restart_at && s->gateway.restart_at - now < next)
        next = s->gateway.restart_at > now ? s->gateway.restart_at - now : 0;
    return next;
}

/* The engine's socket while somebody may start it by connecting; -1: it runs, or must not yet. */
static int engine_door(const struct supervisor *s, const struct engine *e)
{
    return !s->stopping && e->child.pid == 0 && e->child.restart_at == 0 ? e->fd : -1;
}

static int set_up(struct supervisor *s, struct mp_err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || (s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0 ||
        pipe2(s->death, O_CLOEXEC) < 0)
        return mp_err_errno(err, MP_EIO, "cannot set the supervisor up");
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

static void tear_down(struct supervisor *s)
{
    for (uint32_t i = 0; i < s->n_engines; i++) {
        close(s->engines[i].fd);
        unlink(s->engines[i].path);
        mp_free(s->engines[i].path);
    }
    for (uint32_t i = 0; i < s->n_addresses; i++)
        for (uint32_t k = 0; k < s->addresses[i].n; k++)
            close(s->addresses[i].fds[k]);
    if (s->admin_path)
        unlink(s->admin_path);
    mp_free(s->admin_path);
    const int fds[] = {s->admin, s->ctl, s->death[0], s->death[1], s->signals};
    for (size_t i = 0; i < MP_COUNT(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

int mp_supervisor_run(const struct mp_supervisor_options *options)
{
    struct supervisor s = {.o = options, .signals = -1, .death = {-1, -1}, .ctl = -1, .admin = -1};
    struct mp_err err = {0};
    mp_log_role("supervisor");
    snprintf(s.gateway.name, sizeof s.gateway.name, "gateway");
    if (set_up(&s, &err) < 0) {
        mp_error("%s", err.message);
        s.exit_code = MP_EXIT_FAILED;
        goto out;
    }
    gateway_start(&s);
    while (!s.stopping || anything_runs(&s)) {
        uint64_t wait = due(&s); /* first: it may start a gateway, with a control socket of its own */
        struct pollfd polls[2 + MAX_ENGINES] = {{.fd = s.signals, .events = POLLIN}, {.fd = s.ctl, .events = POLLIN}};
        uint32_t n_doors = s.n_engines;
        for (uint32_t i = 0; i < n_doors; i++)
            polls[2 + i] = (struct pollfd){.fd = engine_door(&s, &s.engines[i]), .events = POLLIN};
        int ms = wait == UINT64_MAX ? -1 : (int)((wait + MS - 1) / MS < 60000 ? (wait + MS - 1) / MS : 60000);
        if (poll(polls, 2 + n_doors, ms) < 0 && errno != EINTR) {
            mp_error("poll: %s", strerror(errno));
            s.exit_code = MP_EXIT_FAILED;
            break;
        }
        if (polls[1].revents && s.ctl >= 0)
            on_ctl(&s);
        if (polls[0].revents)
            on_signal(&s);
        for (uint32_t i = 0; i < n_doors; i++)
            if (polls[2 + i].revents && engine_door(&s, &s.engines[i]) >= 0)
                engine_start(&s, &s.engines[i]);
        reap(&s);
    }
out:
    tear_down(&s);
    return s.exit_code;
}
