/* core/gateway/ctl.c — see ctl.h. */
#include "core/gateway/ctl.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control { /* aligned room for the descriptors */
    struct cmsghdr head;
    char room[CMSG_SPACE(MP_CTL_MAX_FDS * sizeof(int))];
};

int mp_ctl_send(int fd, const struct mp_ctl_msg *m, const int *fds, uint32_t n_fds)
{
    union control control;
    struct iovec io = {.iov_base = (void *)m, .iov_len = sizeof *m};
    struct msghdr h = {.msg_iov = &io, .msg_iovlen = 1};
    ssize_t n;
    if (n_fds > MP_CTL_MAX_FDS)
        return MP_EINVAL;
    if (n_fds > 0) {
        memset(&control, 0, sizeof control);
        h.msg_control = &control;
        h.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    do
        n = sendmsg(fd, &h, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof *m)
        return 0;
    if (errno == EAGAIN)
        return MP_EAGAIN;
    return errno == EPIPE || errno == ECONNRESET ? MP_ECLOSED : MP_EIO;
}

int mp_ctl_recv(int fd, struct mp_ctl_msg *m, int fds[MP_CTL_MAX_FDS], uint32_t *n_fds)
{
    union control control;
    struct iovec io = {.iov_base = m, .iov_len = sizeof *m};
    struct msghdr h = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n;
    *n_fds = 0;
    do
        n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? MP_EAGAIN : errno == ECONNRESET ? MP_ECLOSED : MP_EIO;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *n_fds = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), *n_fds * sizeof(int));
        }
    if (n == (ssize_t)sizeof *m) {
        m->text[sizeof m->text - 1] = '\0';
        m->address.host[sizeof m->address.host - 1] = '\0';
        return 0;
    }
    while (*n_fds > 0)
        close(fds[--*n_fds]);
    return n == 0 ? MP_ECLOSED : MP_EPROTO;
}

int mp_ctl_ask(int fd, struct mp_ctl_msg *m, int fds[MP_CTL_MAX_FDS], uint32_t *n_fds, struct mp_err *err)
{
    int own[MP_CTL_MAX_FDS], rc = mp_ctl_send(fd, m, NULL, 0);
    uint32_t n = 0;
    while (rc == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        rc = mp_ctl_recv(fd, m, fds ? fds : own, &n);
        if (rc != MP_EAGAIN)
            break;
        rc = poll(&p, 1, -1) < 0 && errno != EINTR ? MP_EIO : 0;
    }
    if (rc < 0)
        return mp_err_set(err, rc, "the supervisor does not answer");
    if (n_fds)
        *n_fds = n;
    if (m->type == MP_CTL_REFUSED)
        return mp_err_set(err, m->code < 0 ? m->code : MP_EINTERNAL, "%s", m->text);
    return 0;
}
