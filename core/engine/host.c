/* core/engine/host.c — the engine process' socket thread: accepts gateways' connections, takes messages apart, hands letters to the
 * other threads and takes theirs, writes once per connection and round. See host.h for what it holds, engine.h for its face. */
#include "core/engine/host.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum {
    NICE = 5,        /* below the gateway's workers */
    LOADER_NICE = 5, /* and the loader below what decodes */
    N_FRONT = 2,
    TICK_MS = 200, /* retries and deadlines of waiting requests */
    LAST_MS = 200, /* what peers get to take the last words at a stop */
    MMAP_THRESHOLD = 1 << 20,
    FIXED_FDS = 4, /* listener, letters, signals, parent */
};

void mp_host_send(struct mp_host *h, struct mp_line *c, const struct mp_msg *m)
{
    struct mp_err err = {0};
    (void)h;
    if (c && !c->closing && mp_wire_send(c->wire, m, &err) < 0)
        mp_error("to %s: %s", mp_wire_peer(c->wire), err.message);
    if (c && mp_wire_queued(c->wire) > MP_HOST_MAX_QUEUED) {
        mp_warn("%s does not read: closing its connection", mp_wire_peer(c->wire));
        c->closing = true;
    }
}

void mp_host_send_error(struct mp_host *h, struct mp_line *c, uint64_t id, const struct mp_err *err)
{
    struct mp_msg m;
    mp_msg_set_error(&m, id, err);
    mp_host_send(h, c, &m);
}

void mp_host_broadcast(struct mp_host *h, const struct mp_msg *m)
{
    for (struct mp_line *c = h->lines; c; c = c->next)
        if (mp_wire_ready(c->wire))
            mp_host_send(h, c, m);
}

struct mp_line *mp_host_line(struct mp_host *h, uint64_t number)
{
    for (struct mp_line *c = h->lines; c; c = c->next)
        if (c->number == number)
            return c;
    return NULL;
}

/* Connections */

static void accept_all(struct mp_host *h)
{
    int fd = -1;
    struct mp_err err;
    while (mp_wire_accept(h->conf->listen_fd, &fd, &err) == 0) {
        if (h->n_lines >= MP_HOST_MAX_LINES) {
            mp_warn("more than %d connections: one is refused", MP_HOST_MAX_LINES);
            close(fd);
            continue;
        }
        struct mp_line *c = mp_calloc(sizeof *c);
        c->wire = mp_wire_new(fd, MP_PEER_ENGINE);
        c->number = ++h->next_line;
        c->next = h->lines;
        h->lines = c;
        h->n_lines++;
        h->active = mp_clock_mono_ns();
    }
}

static void close_line(struct mp_host *h, struct mp_line *c)
{
    for (struct mp_line **p = &h->lines; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    h->n_lines--;
    mp_ask_line_gone(h, c);
    mp_map_free(&c->requests);
    mp_wire_free(c->wire);
    mp_free(c);
}

static void set_limit(struct mp_host *h, const struct mp_line *c, const struct mp_msg *m)
{
    struct mp_mail *l = mp_mail_new(MP_MAIL_LIMIT, NULL, c->number);
    l->total = m->id;
    l->done = h->limit = m->u.device_limit.memory;
    mp_runner_put(h->runner, l);
}

static void dispatch(struct mp_host *h, struct mp_line *c, const struct mp_msg *m)
{
    struct mp_msg pong = {.type = MP_MSG_PONG, .id = m->id};
    struct mp_err err;
    if (m->type != MP_MSG_PING && m->type != MP_MSG_PONG && m->type != MP_MSG_MODELS) /* who looks on keeps nobody up */
        h->active = mp_clock_mono_ns();
    switch (m->type) {
    case MP_MSG_PING:
        pong.u.pong.nonce = m->u.ping.nonce;
        pong.u.pong.step_ns = mp_runner_step_ns(h->runner);
        mp_host_send(h, c, &pong);
        break;
    case MP_MSG_MODEL_DECLARE: mp_version_declare(h, c, m); break;
    case MP_MSG_MODEL_CHECK: mp_version_check(h, c, m); break;
    case MP_MSG_MODEL_FORGET: mp_version_forget(h, c, m); break;
    case MP_MSG_MODEL_LOAD: mp_served_load(h, c, m); break;
    case MP_MSG_MODEL_UNLOAD: mp_served_unload(h, c, m); break;
    case MP_MSG_MODELS: mp_served_list(h, c, m->id); break;
    case MP_MSG_DEVICE_LIMIT: set_limit(h, c, m); break;
    case MP_MSG_PREPARE: mp_ask_prepare(h, c, m); break;
    case MP_MSG_START: mp_ask_start(h, c, m); break;
    case MP_MSG_CANCEL: mp_ask_cancel(h, c, m->id); break;
    case MP_MSG_WINDOW: mp_ask_window(h, c, m); break;
    case MP_MSG_PONG: break;
    default: /* what only an engine says */
        mp_err_set(&err, MP_EPROTO, "an engine does not take '%s'", mp_msg_name(m->type));
        mp_host_send_error(h, c, m->id, &err);
        c->closing = true;
    }
}

static void read_line(struct mp_host *h, struct mp_line *c)
{
    struct mp_err err = {0}, why = {0};
    struct mp_msg m;
    int rc = mp_wire_readable(c->wire, &err), got = 0;
    while (!c->closing && (got = mp_wire_next(c->wire, &m, &why)) == 1)
        dispatch(h, c, &m);
    if (got < 0) {
        mp_warn("closing a connection: %s", why.message);
        mp_host_send_error(h, c, 0, &why);
    } else if (rc < 0 && rc != MP_ECLOSED) {
        mp_warn("closing a connection: %s", err.message);
    }
    if (rc < 0 || got < 0)
        c->closing = true;
}

static void write_lines(struct mp_host *h)
{
    struct mp_err err;
    for (struct mp_line *c = h->lines, *next; c; c = next) {
        next = c->next;
        if (mp_wire_queued(c->wire) > 0 && mp_wire_writable(c->wire, &err) < 0)
            c->closing = true;
        if (c->closing)
            close_line(h, c);
    }
}

/* Letters */

static void take_letters(struct mp_host *h)
{
    struct mp_mail *m;
    while ((m = mp_box_take(h->box)) != NULL) {
        if (m->kind == MP_MAIL_PREPARE)
            mp_ask_prepared(h, m);
        else if (m->kind == MP_MAIL_FRAMES)
            mp_ask_frames(h, m);
        else
            mp_served_letter(h, m);
        mp_mail_free(m);
    }
}

/* The process */

static int start(struct mp_host *h, const struct mp_engine_conf *conf, struct mp_err *err)
{
    struct mp_loop_conf loop = {.chunk = conf->chunk};
    sigset_t set;
    h->conf = conf;
    h->signal_fd = -1;
    h->ops = mp_device_find(conf->group);
    if (!h->ops)
        return mp_err_set(err, MP_ENOENT, "no device group is called '%s'", conf->group);
    /* Large pieces are mapped and unmapped, always: by default the C library keeps such memory once it was freed. */
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    /* Blocked before any thread starts: they inherit it, and only the descriptor below sees the signal. */
    sigemptyset(&set);
    sigaddset(&set, conf->parent_fd >= 0 ? MP_ENGINE_STOP_SIGNAL : SIGTERM);
    if (conf->parent_fd >= 0)
        (void)signal(SIGTERM, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN); /* the terminal's Ctrl-C is the supervisor's to judge */
    h->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (h->signal_fd < 0)
        return mp_err_errno(err, MP_EIO, "cannot make a signal descriptor");
    (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICE);
    h->box = mp_box_new();
    if (mp_box_fd(h->box) < 0)
        return mp_err_errno(err, MP_EIO, "cannot make an event descriptor");
    h->front = mp_jobs_start("front", N_FRONT, 0, h->ops, conf->device, h->box);
    h->loader = mp_jobs_start("loader", 1, LOADER_NICE, h->ops, conf->device, h->box);
    h->runner = mp_runner_start(h->ops, conf->device, &loop, h->box);
    if (!h->front || !h->loader || !h->runner)
        return mp_err_set(err, MP_EIO, "cannot start the engine's threads");
    return 0;
}

/* True while there is something that only time brings on. */
static bool ticking(const struct mp_host *h)
{
    for (const struct mp_served *m = h->models; m; m = m->link)
        if (m->retired || m->n_requests > 0)
            return true;
    return false;
}

/* When the process ends if nobody asks for anything until then; UINT64_MAX: it has work. */
static uint64_t idle_until(const struct mp_host *h)
{
    uint64_t until = UINT64_MAX;
    if (h->requests.n > 0 || h->conf->linger_ns == UINT64_MAX)
        return UINT64_MAX;
    for (const struct mp_served *m = h->models; m; m = m->link)
        if (m->letters > 0 || mp_served_on_device(m))
            return UINT64_MAX;
    return mp_add_u64(h->active, h->conf->linger_ns, &until) ? until : UINT64_MAX;
}

/* Milliseconds that the thread may sleep. */
static int patience(const struct mp_host *h)
{
    uint64_t until = idle_until(h), now = mp_clock_mono_ns();
    uint64_t ms = until == UINT64_MAX ? UINT64_MAX : until > now ? (until - now) / 1000000 + 1 : 0;
    if (ticking(h) && ms > TICK_MS)
        ms = TICK_MS;
    return ms > 3600000 ? -1 : (int)ms;
}

static void stop_because(struct mp_host *h, const char *why)
{
    h->stopping = true;
    h->farewell = why;
}

static void poll_once(struct mp_host *h, int timeout_ms)
{
    size_t n = FIXED_FDS + h->n_lines, at = FIXED_FDS;
    struct pollfd *fds = mp_calloc(n * sizeof *fds);
    fds[0] = (struct pollfd){h->stopping ? -1 : h->conf->listen_fd, POLLIN, 0};
    fds[1] = (struct pollfd){mp_box_fd(h->box), POLLIN, 0};
    fds[2] = (struct pollfd){h->signal_fd, POLLIN, 0};
    fds[3] = (struct pollfd){h->conf->parent_fd, POLLIN, 0};
    for (struct mp_line *c = h->lines; c; c = c->next, at++) {
        fds[at].fd = mp_wire_fd(c->wire);
        fds[at].events = (short)(POLLIN | (mp_wire_queued(c->wire) > 0 ? POLLOUT : 0));
    }
    if (poll(fds, n, timeout_ms) > 0) {
        struct signalfd_siginfo info;
        char byte;
        at = FIXED_FDS;
        for (struct mp_line *c = h->lines; c; c = c->next, at++)
            if (fds[at].revents & (POLLIN | POLLHUP | POLLERR))
                read_line(h, c);
        if (fds[1].revents)
            take_letters(h);
        if (fds[0].revents)
            accept_all(h); /* last of the lines' business: it changes the list */
        if (fds[2].revents && read(h->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
            stop_because(h, "stopping");
        if (fds[3].revents && read(h->conf->parent_fd, &byte, 1) == 0) {
            mp_info("the supervisor is gone");
            stop_because(h, "stopping");
        }
    }
    mp_free(fds);
}

/* A device that does not come back from a step cannot be stopped from here: the process ends, and with it the device's context. */
static void watch_steps(struct mp_host *h)
{
    uint64_t most = h->conf->step_timeout_ns, ns = most > 0 ? mp_runner_step_ns(h->runner) : 0;
    if (ns <= most)
        return;
    mp_error("the device hangs: a step has been under way for %.1f s (at most %.1f s are allowed); this process aborts",
             (double)ns / 1e9, (double)most / 1e9);
    abort();
}

static void serve(struct mp_host *h)
{
    h->active = mp_clock_mono_ns();
    while (!h->stopping) {
        poll_once(h, patience(h));
        uint64_t now = mp_clock_mono_ns();
        mp_version_tick(h);
        mp_ask_tick(h, now);
        write_lines(h);
        watch_steps(h);
        if (now >= idle_until(h)) {
            poll_once(h, 0); /* what came meanwhile counts */
            if (!h->stopping && now >= idle_until(h))
                stop_because(h, "idle");
        }
    }
}

/* Every request hears that it is over, every peer that no more comes. */
static void say_goodbye(struct mp_host *h)
{
    struct mp_msg bye = {.type = MP_MSG_BYE, .u.bye.reason = mp_span_of(h->farewell)};
    struct mp_err err = {0};
    uint64_t until = mp_clock_mono_ns() + LAST_MS * UINT64_C(1000000);
    mp_err_set(&err, MP_EUNAVAILABLE, "the engine is stopping");
    mp_ask_end_all(h, &err);
    mp_host_broadcast(h, &bye);
    for (bool left = true; left && mp_clock_mono_ns() < until;) {
        write_lines(h);
        left = false;
        for (struct mp_line *c = h->lines; c; c = c->next)
            left = left || mp_wire_queued(c->wire) > 0;
        if (left)
            poll_once(h, 10);
    }
}

static void stop(struct mp_host *h)
{
    mp_jobs_stop(h->front);
    mp_jobs_stop(h->loader);
    /* Models on their way: what they hold of the device goes on its thread. */
    for (struct mp_mail *m; h->box && (m = mp_box_take(h->box)) != NULL;) {
        if (m->loaded && h->runner) {
            m->kind = MP_MAIL_DRAIN;
            mp_runner_put(h->runner, m);
        } else {
            mp_mail_free(m);
        }
    }
    mp_runner_stop(h->runner);
    while (h->lines)
        close_line(h, h->lines);
    mp_version_free_all(h);
    mp_map_free(&h->requests);
    mp_box_free(h->box);
    if (h->signal_fd >= 0)
        close(h->signal_fd);
    close(h->conf->listen_fd);
    if (h->conf->parent_fd >= 0)
        close(h->conf->parent_fd);
}

int mp_engine_run(const struct mp_engine_conf *conf, struct mp_err *err)
{
    struct mp_host *h = mp_calloc(sizeof *h);
    int rc = start(h, conf, err);
    if (rc == 0) {
        mp_info("serving device group '%s'", conf->group);
        serve(h);
        say_goodbye(h);
        mp_info("%s", strcmp(h->farewell, "idle") == 0 ? "nothing to do: ending" : "stopping");
    }
    stop(h);
    mp_free(h);
    return rc;
}
