/* core/gateway/link.c — see link.h. */
#include "core/gateway/link.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/wire/wire.h"

#include <uv.h>

enum { RETRY_FIRST_MS = 20, RETRY_MOST_MS = 1000 };

struct conn { /* one attempt: libuv may hold its handle a little longer than the link needs it */
    uv_poll_t poll;
    struct mp_link *link; /* NULL once it was given up */
    struct mp_wire *wire;
    int events; /* what poll asks for */
};

struct mp_link {
    uv_loop_t *loop;
    char *path;
    const struct mp_link_events *events;
    void *user;
    struct conn *conn; /* NULL between attempts */
    bool up, wanted;
    uint64_t retry_ms, up_ms; /* until the next try; when it came up, by the loop's time */
    /* Writes what is queued, once per turn. Active while there is something, and then the loop does not sleep: what others
     * queue just before it would (a request that was pipelined) goes out too. */
    uv_idle_t flush;
    uv_timer_t retry; /* when to try next */
    int handles;      /* of those two, how many are not closed yet */
};

static void on_conn_closed(uv_handle_t *h)
{
    mp_free(mp_container_of((uv_poll_t *)h, struct conn, poll));
}

static void drop_conn(struct mp_link *l)
{
    struct conn *c = mp_move(&l->conn);
    if (!c)
        return;
    c->link = NULL;
    uv_idle_stop(&l->flush);
    uv_close((uv_handle_t *)&c->poll, on_conn_closed); /* takes the descriptor out of the loop at once */
    mp_wire_free(mp_move(&c->wire));
}

static void try_connect(struct mp_link *l);

static void on_retry(uv_timer_t *t)
{
    try_connect(mp_container_of(t, struct mp_link, retry));
}

static void lost(struct mp_link *l, const struct mp_err *why)
{
    bool was_up = l->up, steady = why->code == 0 || uv_now(l->loop) - l->up_ms >= RETRY_MOST_MS;
    l->up = false;
    if (was_up && steady)
        l->retry_ms = RETRY_FIRST_MS;
    drop_conn(l);
    if (why->code == MP_EVERSION || why->code == MP_EPROTO)
        mp_error("link to %s: %s", l->path, why->message);
    if (l->wanted) {
        uv_timer_start(&l->retry, on_retry, l->retry_ms, 0);
        l->retry_ms = l->retry_ms * 2 < RETRY_MOST_MS ? l->retry_ms * 2 : RETRY_MOST_MS;
    }
    if (was_up)
        l->events->down(l->user, why); /* last: it may free the link */
}

static void said_bye(struct mp_link *l, const struct mp_msg_bye *bye)
{
    struct mp_err why = {0};
    mp_err_set(&why, 0, "%.*s", (int)bye->reason.n, bye->reason.n ? bye->reason.p : "");
    lost(l, &why);
}

static void came_up(struct mp_link *l)
{
    l->up = true;
    l->up_ms = uv_now(l->loop);
    l->events->up(l->user);
}

/* Gives what has come to the owner. False: the connection is gone, and perhaps the link. */
static bool take_messages(struct conn *c, struct mp_err *err)
{
    struct mp_msg m;
    int rc;
    while (c->link && (rc = mp_wire_next(c->wire, &m, err)) == 1) {
        struct mp_link *l = c->link;
        if (!l->up) {
            came_up(l);
            if (!c->link)
                return false;
        }
        if (m.type == MP_MSG_PING) {
            struct mp_msg pong = {.type = MP_MSG_PONG, .u.pong = {.nonce = m.u.ping.nonce}};
            mp_link_send(l, &pong, NULL);
        } else if (m.type == MP_MSG_BYE) {
            said_bye(l, &m.u.bye);
            return false;
        } else
            l->events->message(l->user, &m);
    }
    if (!c->link)
        return false;
    if (rc < 0) {
        lost(c->link, err);
        return false;
    }
    if (!c->link->up && mp_wire_ready(c->wire)) { /* HELLO alone: the wire keeps it to itself */
        came_up(c->link);
    }
    return c->link != NULL;
}

static void on_poll(uv_poll_t *h, int status, int events);

static bool write_out(struct mp_link *l)
{
    struct conn *c = l->conn;
    struct mp_err err = {0};
    if (mp_wire_writable(c->wire, &err) < 0) {
        /* What the engine still said before it went (an ERROR, perhaps) lies in the socket: reading finds the end. */
        if (err.code != MP_ECLOSED) {
            lost(l, &err);
            return false;
        }
    }
    int want = UV_READABLE | UV_DISCONNECT | (mp_wire_queued(c->wire) > 0 && err.code == 0 ? UV_WRITABLE : 0);
    if (want != c->events) {
        c->events = want;
        uv_poll_start(&c->poll, want, on_poll);
    }
    return true;
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct conn *c = mp_container_of(h, struct conn, poll);
    struct mp_err err = {0}, bad = {0};
    int rc = 0;
    if (status < 0) {
        mp_err_set(&err, MP_EIO, "poll: %s", uv_strerror(status));
        lost(c->link, &err);
        return;
    }
    if (events & (UV_READABLE | UV_DISCONNECT))
        rc = mp_wire_readable(c->wire, &err);
    if (!take_messages(c, &bad))
        return;
    if (rc < 0) {
        lost(c->link, &err);
        return;
    }
    if (events & UV_WRITABLE)
        write_out(c->link);
}

static void on_flush(uv_idle_t *h)
{
    struct mp_link *l = mp_container_of(h, struct mp_link, flush);
    uv_idle_stop(h);
    if (l->conn)
        write_out(l);
}

static void try_connect(struct mp_link *l)
{
    struct mp_err err = {0};
    int fd = -1, rc = mp_wire_connect(l->path, &fd, &err);
    if (rc < 0) {
        mp_debug("link to %s: %s", l->path, err.message);
        lost(l, &err);
        return;
    }
    struct conn *c = mp_calloc(sizeof *c);
    c->link = l;
    c->wire = mp_wire_new(fd, MP_PEER_GATEWAY);
    l->conn = c;
    uv_poll_init(l->loop, &c->poll, fd);
    c->events = 0;
    uv_idle_start(&l->flush, on_flush); /* HELLO */
}

struct mp_link *mp_link_new(struct mp_evloop *loop, const char *path, const struct mp_link_events *events, void *user)
{
    struct mp_link *l = mp_calloc(sizeof *l);
    l->loop = mp_evloop_uv(loop);
    l->path = mp_strdup(path);
    l->events = events;
    l->user = user;
    l->retry_ms = RETRY_FIRST_MS;
    l->handles = 2;
    uv_timer_init(l->loop, &l->retry);
    uv_idle_init(l->loop, &l->flush);
    return l;
}

void mp_link_want(struct mp_link *l, bool wanted)
{
    bool before = l->wanted;
    l->wanted = wanted;
    if (wanted && !before && !l->conn) {
        l->retry_ms = RETRY_FIRST_MS;
        uv_timer_start(&l->retry, on_retry, 0, 0);
    } else if (!wanted && before) {
        uv_timer_stop(&l->retry);
        if (!l->up)
            drop_conn(l);
    }
}

static void link_closed(struct mp_link *l)
{
    if (--l->handles > 0)
        return;
    mp_free(l->path);
    mp_free(l);
}

static void on_timer_closed(uv_handle_t *h)
{
    link_closed(mp_container_of((uv_timer_t *)h, struct mp_link, retry));
}

static void on_flush_closed(uv_handle_t *h)
{
    link_closed(mp_container_of((uv_idle_t *)h, struct mp_link, flush));
}

void mp_link_free(struct mp_link *l)
{
    if (!l)
        return;
    l->up = false;
    drop_conn(l);
    uv_close((uv_handle_t *)&l->retry, on_timer_closed);
    uv_close((uv_handle_t *)&l->flush, on_flush_closed);
}

bool mp_link_up(const struct mp_link *l)
{
    return l->up;
}

uint32_t mp_link_engine(const struct mp_link *l)
{
    return l->up ? mp_wire_peer_pid(l->conn->wire) : 0;
}

int mp_link_send(struct mp_link *l, const struct mp_msg *m, struct mp_err *err)
{
    int rc;
    if (!l->up)
        return mp_err_set(err, MP_EAGAIN, "the engine is away");
    rc = mp_wire_send(l->conn->wire, m, err);
    if (rc == 0)
        uv_idle_start(&l->flush, on_flush);
    return rc;
}
