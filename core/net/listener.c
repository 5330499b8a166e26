/* core/net/listener.c — see listener.h. Out of descriptors, it spends a reserve to take the client and close it at once, so
 * that the client learns of it, and pauses. */
#include "core/net/listener.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

enum { ACCEPTS_PER_EVENT = 64, PAUSE_MS = 100 };

struct mp_listener {
    uv_poll_t poll;
    uv_timer_t retry;
    int handles, fd;
    int reserve; /* a descriptor kept for the day when there are none; -1 when spent */
    bool warned;
    bool (*accepted)(void *ctx, int fd, const char *remote);
    void *ctx;
};

static void describe(const struct sockaddr_storage *a, char *out, size_t n)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(out, n, "%s:%u", host, ntohs(in->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)a;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        snprintf(out, n, "[%s]:%u", host, ntohs(in->sin6_port));
    } else {
        snprintf(out, n, "unix");
    }
}

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void on_retry(uv_timer_t *timer)
{
    mp_listener_resume(timer->data);
}

/* Says so once, and waits a little: the socket stays readable, so asking again at once would be a busy loop. */
static void cannot_accept(struct mp_listener *l, int error)
{
    if (!l->warned)
        mp_warn("cannot accept connections: %s; trying again", strerror(error));
    l->warned = true;
    if (l->reserve >= 0 && (error == EMFILE || error == ENFILE)) {
        close(l->reserve);
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            close(fd);
        l->reserve = open_reserve();
    }
    uv_poll_stop(&l->poll);
    uv_timer_start(&l->retry, on_retry, PAUSE_MS, 0);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct mp_listener *l = poll->data;
    (void)events;
    if (status < 0) {
        mp_error("a listening socket failed: %s", uv_strerror(status));
        uv_timer_start(&l->retry, on_retry, PAUSE_MS, 0);
        return;
    }
    for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        memset(&address, 0, sizeof address);
        int fd = accept4(l->fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                cannot_accept(l, errno);
            return;
        }
        char remote[64];
        int on = 1;
        l->warned = false;
        describe(&address, remote, sizeof remote);
        if (address.ss_family != AF_UNIX)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (!l->accepted(l->ctx, fd, remote))
            return;
    }
}

int mp_listener_new(struct mp_listener **out, struct mp_evloop *loop, int fd,
                    bool (*accepted)(void *ctx, int fd, const char *remote), void *ctx, struct mp_err *err)
{
    struct mp_listener *l = mp_calloc(sizeof *l);
    int rc = uv_poll_init(mp_evloop_uv(loop), &l->poll, fd);
    if (rc < 0) {
        mp_free(l);
        return mp_err_set(err, MP_EIO, "cannot watch a listening socket: %s", uv_strerror(rc));
    }
    uv_timer_init(mp_evloop_uv(loop), &l->retry);
    l->poll.data = l->retry.data = l;
    l->handles = 2;
    l->fd = fd;
    l->reserve = open_reserve();
    l->accepted = accepted;
    l->ctx = ctx;
    mp_listener_resume(l);
    *out = l;
    return 0;
}

void mp_listener_pause(struct mp_listener *l)
{
    uv_timer_stop(&l->retry);
    uv_poll_stop(&l->poll);
}

void mp_listener_resume(struct mp_listener *l)
{
    uv_timer_stop(&l->retry);
    uv_poll_start(&l->poll, UV_READABLE, on_poll);
}

static void on_closed(uv_handle_t *handle)
{
    struct mp_listener *l = handle->data;
    if (--l->handles == 0)
        mp_free(l);
}

void mp_listener_close(struct mp_listener *l)
{
    uv_close((uv_handle_t *)&l->poll, on_closed);
    uv_close((uv_handle_t *)&l->retry, on_closed);
    if (l->reserve >= 0)
        close(l->reserve);
}

int mp_listener_fd(const struct mp_listener *l)
{
    return l->fd;
}
