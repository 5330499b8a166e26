/* core/net/server.c — see server.h: listeners, the list of connections, the flush before the loop sleeps, stopping. */
#include "core/net/server.h"
#include "core/base/mem.h"
#include "core/net/conn.h"
#include "core/net/listener.h"
#include <stdlib.h>
#include <uv.h>

enum { MAX_LISTENERS = 64 };

struct mp_server {
    struct mp_conn_host host; /* first: conn.c sees this part only */
    uv_prepare_t prepare;
    int handles; /* of the server itself; the last to close frees */
    struct mp_listener *listeners[MAX_LISTENERS];
    size_t listener_count;
    bool full;
    void (*gone)(void *ctx);
    void *gone_ctx;
};

void mp_net_limits_init(struct mp_net_limits *l)
{
    *l = (struct mp_net_limits){
#define X(name, def, what) .name = def,
        MP_NET_LIMITS(X)
#undef X
    };
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct mp_server *s = prepare->data;
    mp_conn_flush_all(&s->host);
    if (s->host.stopping && !s->host.conns && s->gone) {
        void (*gone)(void *) = mp_move(&s->gone);
        gone(s->gone_ctx);
    }
    if (!s->host.dirty && s->host.awake_on) {
        s->host.awake_on = false;
        uv_idle_stop(&s->host.awake);
    }
}

static void resume_listeners(struct mp_server *s)
{
    for (size_t i = 0; s->full && i < s->listener_count; i++)
        mp_listener_resume(s->listeners[i]);
    s->full = false;
}

static uint64_t connections(const struct mp_server *s)
{
    return __atomic_load_n(&s->host.gauges.connections, __ATOMIC_RELAXED);
}

static void on_removed(struct mp_conn_host *h)
{
    struct mp_server *s = mp_container_of(h, struct mp_server, host);
    if (connections(s) < h->limits.connections)
        resume_listeners(s);
    mp_conn_wake(h);
}

struct mp_server *mp_server_new(struct mp_evloop *loop, const struct mp_net_limits *limits,
                                const struct mp_handler *handler)
{
    struct mp_server *s = mp_calloc(sizeof *s);
    const char *cap = getenv("MOONPOOL_DEBUG_READ");
    long n = cap ? strtol(cap, NULL, 10) : 0;
    s->host.loop = loop;
    if (limits)
        s->host.limits = *limits;
    else
        mp_net_limits_init(&s->host.limits);
    s->host.handler = *handler;
    s->host.removed = on_removed;
    s->host.read_cap = n > 0 && n < MP_READ_CHUNK ? (size_t)n : MP_READ_CHUNK;
    s->host.scratch = mp_malloc(MP_READ_CHUNK);
    uv_prepare_init(mp_evloop_uv(loop), &s->prepare);
    uv_idle_init(mp_evloop_uv(loop), &s->host.awake);
    s->prepare.data = s->host.awake.data = s;
    s->handles = 2;
    uv_prepare_start(&s->prepare, on_prepare);
    return s;
}

static bool on_accepted(void *ctx, int fd, const char *remote)
{
    struct mp_server *s = ctx;
    mp_conn_new(&s->host, fd, remote, NULL);
    s->full = connections(s) >= s->host.limits.connections;
    if (s->full)
        for (size_t i = 0; i < s->listener_count; i++)
            mp_listener_pause(s->listeners[i]);
    return !s->full;
}

int mp_server_listen(struct mp_server *s, int fd, struct mp_err *err)
{
    if (s->listener_count == MAX_LISTENERS)
        return mp_err_set(err, MP_ELIMIT, "more than %d listening sockets", MAX_LISTENERS);
    int rc = mp_listener_new(&s->listeners[s->listener_count], s->host.loop, fd, on_accepted, s, err);
    if (rc < 0)
        return rc;
    if (s->full)
        mp_listener_pause(s->listeners[s->listener_count]);
    s->listener_count++;
    return 0;
}

void mp_server_unlisten(struct mp_server *s, int fd)
{
    for (size_t i = 0; i < s->listener_count; i++)
        if (mp_listener_fd(s->listeners[i]) == fd) {
            mp_listener_close(s->listeners[i]);
            s->listeners[i] = s->listeners[--s->listener_count];
            return;
        }
}

static void unlisten_all(struct mp_server *s)
{
    while (s->listener_count)
        mp_listener_close(s->listeners[--s->listener_count]);
}

int mp_server_adopt(struct mp_server *s, int fd, struct mp_err *err)
{
    return mp_conn_new(&s->host, fd, "unix", err) ? 0 : MP_EIO;
}

void mp_server_stop(struct mp_server *s, void (*gone)(void *ctx), void *ctx)
{
    unlisten_all(s);
    s->host.stopping = true;
    s->gone = gone;
    s->gone_ctx = ctx;
    for (struct mp_conn *c = s->host.conns, *next; c; c = next) {
        next = mp_conn_next(c);
        if (mp_conn_idle(c))
            mp_conn_close(c, MP_ABORT_STOP);
    }
    mp_conn_wake(&s->host);
}

void mp_server_close(struct mp_server *s)
{
    unlisten_all(s);
    s->host.stopping = true;
    while (s->host.conns)
        mp_conn_close(s->host.conns, MP_ABORT_STOP);
}

static void on_closed(uv_handle_t *handle)
{
    struct mp_server *s = handle->data;
    if (--s->handles)
        return;
    mp_free(s->host.scratch);
    mp_free(s);
}

void mp_server_free(struct mp_server *s)
{
    if (!s)
        return;
    mp_server_close(s);
    uv_close((uv_handle_t *)&s->prepare, on_closed);
    uv_close((uv_handle_t *)&s->host.awake, on_closed);
}

void mp_server_gauges(const struct mp_server *s, struct mp_server_gauges *out)
{
    const struct mp_server_gauges *g = &s->host.gauges;
    *out = (struct mp_server_gauges){
        .connections = __atomic_load_n(&g->connections, __ATOMIC_RELAXED),
        .requests = __atomic_load_n(&g->requests, __ATOMIC_RELAXED),
        .accepted = __atomic_load_n(&g->accepted, __ATOMIC_RELAXED),
        .refused = __atomic_load_n(&g->refused, __ATOMIC_RELAXED),
        .served = __atomic_load_n(&g->served, __ATOMIC_RELAXED),
        .bytes_in = __atomic_load_n(&g->bytes_in, __ATOMIC_RELAXED),
        .bytes_out = __atomic_load_n(&g->bytes_out, __ATOMIC_RELAXED),
    };
}
