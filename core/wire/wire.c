/* core/wire/wire.c — see wire.h. */
#include "core/wire/wire.h"

#include "core/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ_PIECE = 64 << 10, READ_MOST = 512 << 10, MAGIC = 0x77697265 };

struct mp_wire {
    uint32_t magic;
    int fd;
    enum mp_peer role;
    struct mp_buf in, out;
    size_t in_at, out_at; /* consumed bytes at the front of each */
    uint16_t version;     /* 0: no HELLO yet */
    uint32_t pid;
    char peer[160];
};

static const char *const role_names[] = {"gateway", "engine", "tool"};

struct mp_wire *mp_wire_new(int fd, enum mp_peer role)
{
    struct mp_wire *w = mp_calloc(sizeof *w);
    struct mp_msg m = {.type = MP_MSG_HELLO};
    int flags = fcntl(fd, F_GETFL);
    w->magic = MAGIC;
    w->fd = fd;
    w->role = role;
    memcpy(w->peer, "unknown", sizeof "unknown");
    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    m.u.hello = (struct mp_msg_hello){.magic = MP_WIRE_MAGIC,
                                      .version = MP_WIRE_VERSION,
                                      .oldest = MP_WIRE_OLDEST,
                                      .role = (uint8_t)role,
                                      .pid = (uint32_t)getpid(),
                                      .build = mp_span_of(MP_VERSION)};
    (void)mp_wire_send(w, &m, NULL); /* every field is ours and in range */
    return w;
}

void mp_wire_free(struct mp_wire *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    mp_buf_free(&w->in);
    mp_buf_free(&w->out);
    w->magic = 0;
    mp_free(w);
}

int mp_wire_fd(const struct mp_wire *w)
{
    return w->fd;
}

int mp_wire_readable(struct mp_wire *w, struct mp_err *err)
{
    if (w->in_at > 0) {
        mp_buf_drop(&w->in, w->in_at);
        w->in_at = 0;
    }
    for (size_t got = 0; got < READ_MOST;) {
        mp_buf_reserve(&w->in, READ_PIECE);
        ssize_t n = read(w->fd, w->in.data + w->in.len, READ_PIECE);
        if (n > 0) {
            w->in.len += (size_t)n;
            got += (size_t)n;
        } else if (n == 0) {
            return mp_err_set(err, MP_ECLOSED, "%s closed the connection", w->peer);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return 0;
        } else if (errno == ECONNRESET) {
            return mp_err_set(err, MP_ECLOSED, "%s reset the connection", w->peer);
        } else if (errno != EINTR) {
            return mp_err_errno(err, MP_EIO, "reading from %s", w->peer);
        }
    }
    return 0;
}

/* The version is judged before anything else in the message: a later HELLO may be longer. */
static int take_hello(struct mp_wire *w, const void *payload, size_t n, struct mp_err *err)
{
    struct mp_rd r;
    struct mp_msg m;
    mp_rd_init(&r, payload, n);
    uint32_t magic = mp_rd_u32(&r);
    uint16_t version = mp_rd_u16(&r), oldest = mp_rd_u16(&r);
    if (r.bad || magic != MP_WIRE_MAGIC)
        return mp_err_set(err, MP_EPROTO, "the peer is no moonpool process");
    if (version < MP_WIRE_OLDEST || oldest > MP_WIRE_VERSION)
        return mp_err_set(
            err, MP_EVERSION,
            "the peer speaks wire version %u (accepts %u and later), this process %d (accepts %d and later)", version,
            oldest, MP_WIRE_VERSION, MP_WIRE_OLDEST);
    int rc = mp_msg_decode(&m, MP_MSG_HELLO, 0, 0, payload, n, err);
    if (rc < 0)
        return rc;
    w->version = version < MP_WIRE_VERSION ? version : MP_WIRE_VERSION;
    w->pid = m.u.hello.pid;
    struct mp_buf b = {0};
    mp_buf_printf(&b, "%s %.*s, pid %u", role_names[m.u.hello.role], (int)m.u.hello.build.n,
                  m.u.hello.build.n ? m.u.hello.build.p : "", m.u.hello.pid);
    size_t len = b.len < sizeof w->peer - 1 ? b.len : sizeof w->peer - 1;
    memcpy(w->peer, b.data, len);
    w->peer[len] = 0;
    mp_buf_free(&b);
    return 0;
}

int mp_wire_next(struct mp_wire *w, struct mp_msg *m, struct mp_err *err)
{
    size_t used = 0;
    if (!w->version) {
        struct mp_rd r;
        mp_rd_init(&r, w->in.data ? w->in.data + w->in_at : "", w->in.len - w->in_at);
        if (mp_rd_left(&r) < MP_FRAME_HEAD)
            return 0;
        uint32_t rest = mp_rd_u32(&r);
        if (mp_rd_u16(&r) != MP_MSG_HELLO || rest < MP_FRAME_HEAD - 4 || rest > 4096)
            return mp_err_set(err, MP_EPROTO, "the peer is no moonpool process");
        (void)mp_rd_u16(&r);
        (void)mp_rd_u64(&r);
        if (mp_rd_left(&r) < rest - (MP_FRAME_HEAD - 4))
            return 0;
        int rc = take_hello(w, r.p, rest - (MP_FRAME_HEAD - 4), err);
        if (rc < 0)
            return rc;
        w->in_at += 4 + (size_t)rest;
    }
    int rc = w->in.len > w->in_at ? mp_msg_next(m, w->in.data + w->in_at, w->in.len - w->in_at, &used, err) : 0;
    if (rc == 1 && m->type == MP_MSG_HELLO)
        return mp_err_set(err, MP_EPROTO, "%s said hello twice", w->peer);
    if (rc < 0)
        mp_err_context(err, "from %s", w->peer);
    w->in_at += used;
    return rc;
}

int mp_wire_send(struct mp_wire *w, const struct mp_msg *m, struct mp_err *err)
{
    return mp_msg_encode(&w->out, m, err);
}

void mp_wire_send_frames(struct mp_wire *w, const void *frames, size_t n)
{
    mp_buf_put(&w->out, frames, n);
}

int mp_wire_writable(struct mp_wire *w, struct mp_err *err)
{
    int rc = 0;
    while (w->out_at < w->out.len) {
        ssize_t n = send(w->fd, w->out.data + w->out_at, w->out.len - w->out_at, MSG_NOSIGNAL);
        if (n >= 0) {
            w->out_at += (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            break;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            rc = mp_err_set(err, MP_ECLOSED, "%s closed the connection", w->peer);
            break;
        } else if (errno != EINTR) {
            rc = mp_err_errno(err, MP_EIO, "writing to %s", w->peer);
            break;
        }
    }
    /* Move the rest to the front only when most is gone: a slow peer must not cost a copy per write. */
    if (w->out_at == w->out.len) {
        mp_buf_clear(&w->out);
        w->out_at = 0;
    } else if (w->out_at > w->out.len / 2) {
        mp_buf_drop(&w->out, w->out_at);
        w->out_at = 0;
    }
    return rc;
}

size_t mp_wire_queued(const struct mp_wire *w)
{
    return w->out.len - w->out_at;
}

bool mp_wire_ready(const struct mp_wire *w)
{
    return w->version != 0;
}

uint16_t mp_wire_version(const struct mp_wire *w)
{
    return w->version;
}

const char *mp_wire_peer(const struct mp_wire *w)
{
    return w->peer;
}

uint32_t mp_wire_peer_pid(const struct mp_wire *w)
{
    return w->pid;
}

static int address(const char *path, struct sockaddr_un *a, struct mp_err *err)
{
    size_t n = strlen(path);
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (n == 0 || n >= sizeof a->sun_path)
        return mp_err_set(err, MP_EINVAL, "%s: a Unix socket's path has 1 to %zu bytes, this one %zu", path,
                          sizeof a->sun_path - 1, n);
    memcpy(a->sun_path, path, n);
    return 0;
}

int mp_wire_listen(const char *path, int backlog, int *out, struct mp_err *err)
{
    struct sockaddr_un a;
    struct stat st;
    int fd = -1, rc = address(path, &a, err);
    if (rc < 0)
        goto out;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        rc = mp_err_errno(err, MP_EIO, "cannot make a Unix socket");
        goto out;
    }
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        (void)unlink(path);
    if (bind(fd, (const struct sockaddr *)&a, sizeof a) < 0 || listen(fd, backlog) < 0) {
        rc = mp_err_errno(err, MP_EIO, "cannot listen on %s", path);
        goto out;
    }
    *out = fd;
    fd = -1;
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

int mp_wire_connect(const char *path, int *out, struct mp_err *err)
{
    struct sockaddr_un a;
    int fd = -1, rc = address(path, &a, err);
    if (rc < 0)
        goto out;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        rc = mp_err_errno(err, MP_EIO, "cannot make a Unix socket");
        goto out;
    }
    /* On a Unix socket connect() is done at once, or says EAGAIN when the backlog is full. */
    if (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0) {
        rc = mp_err_errno(err, errno == EAGAIN ? MP_EAGAIN : MP_ECLOSED, "cannot connect to %s", path);
        goto out;
    }
    *out = fd;
    fd = -1;
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

int mp_wire_accept(int listener, int *out, struct mp_err *err)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        bool later = errno == EAGAIN || errno == EWOULDBLOCK || errno == ECONNABORTED || errno == EINTR;
        return mp_err_errno(err, later ? MP_EAGAIN : MP_EIO, "cannot accept a connection");
    }
    *out = fd;
    return 0;
}

int mp_wire_pair(int fds[2], struct mp_err *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
        return mp_err_errno(err, MP_EIO, "cannot make a pair of sockets");
    return 0;
}
