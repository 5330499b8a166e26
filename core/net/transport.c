/* core/net/transport.c — the plain transport: system calls on a non-blocking socket. */
#include "core/net/transport.h"
#include "core/base/err.h"
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static ssize_t failure(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK ? MP_EAGAIN : MP_EIO;
}

static ssize_t plain_read(void *ctx, int fd, void *buf, size_t n)
{
    (void)ctx;
    ssize_t got;
    do {
        got = recv(fd, buf, n, 0);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? failure() : got;
}

static ssize_t plain_writev(void *ctx, int fd, const struct iovec *iov, int count)
{
    (void)ctx;
    struct msghdr msg = {.msg_iov = (struct iovec *)(void *)iov, .msg_iovlen = (size_t)count};
    ssize_t put;
    do {
        put = sendmsg(fd, &msg, MSG_NOSIGNAL); /* writev without SIGPIPE */
    } while (put < 0 && errno == EINTR);
    return put < 0 ? failure() : put;
}

static void plain_finish(void *ctx, int fd)
{
    (void)ctx;
    shutdown(fd, SHUT_WR);
}

static void plain_close(void *ctx, int fd)
{
    (void)ctx;
    close(fd);
}

const struct mp_transport_ops mp_transport_plain = {plain_read, plain_writev, plain_finish, plain_close};
