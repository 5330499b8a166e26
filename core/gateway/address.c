/* core/gateway/address.c — see address.h. */
#include "core/gateway/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 511 };

union any {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool parse_port(const char *s, uint16_t *out)
{
    uint32_t v = 0;
    if (!*s || strlen(s) > 5)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return false;
        v = v * 10 + (uint32_t)(*s - '0');
    }
    *out = (uint16_t)v;
    return v <= UINT16_MAX;
}

int mp_address_parse(struct mp_address *out, const char *text, struct mp_err *err)
{
    const char *colon = strrchr(text, ':'), *host = text;
    struct mp_address a = {0};
    union any any = {0};
    size_t n = colon ? (size_t)(colon - text) : 0;
    bool bracketed = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    if (!colon || !parse_port(colon + 1, &a.port))
        return mp_err_set(err, MP_EINVAL, "'%s' is no address: want ADDRESS:PORT, such as 127.0.0.1:7171 or [::1]:0",
                          text);
    if (bracketed) {
        host++;
        n -= 2;
    }
    if (n == 9 && memcmp(host, "localhost", 9) == 0) {
        host = "127.0.0.1";
        n = 9;
    }
    if (n == 0 || n >= sizeof a.host)
        return mp_err_set(err, MP_EINVAL, "'%s' is no address: the part before the port must be numeric", text);
    memcpy(a.host, host, n);
    if (!bracketed && inet_pton(AF_INET, a.host, &any.v4.sin_addr) == 1)
        a.loopback = ntohl(any.v4.sin_addr.s_addr) >> 24 == 127;
    else if (bracketed && inet_pton(AF_INET6, a.host, &any.v6.sin6_addr) == 1) {
        a.v6 = true;
        a.loopback = IN6_IS_ADDR_LOOPBACK(&any.v6.sin6_addr);
    } else
        return mp_err_set(err, MP_EINVAL,
                          "'%s' is no address: host names are not looked up; IPv6 addresses stand in brackets", text);
    *out = a;
    return 0;
}

void mp_address_format(const struct mp_address *a, char out[56])
{
    snprintf(out, 56, a->v6 ? "[%s]:%u" : "%s:%u", a->host, a->port);
}

static socklen_t fill(const struct mp_address *a, union any *any)
{
    memset(any, 0, sizeof *any);
    if (a->v6) {
        any->v6.sin6_family = AF_INET6;
        any->v6.sin6_port = htons(a->port);
        inet_pton(AF_INET6, a->host, &any->v6.sin6_addr);
        return sizeof any->v6;
    }
    any->v4.sin_family = AF_INET;
    any->v4.sin_port = htons(a->port);
    inet_pton(AF_INET, a->host, &any->v4.sin_addr);
    return sizeof any->v4;
}

/* Without `share` the bind fails when anybody listens there, another server of ours with SO_REUSEPORT included. */
static int bound_socket(const struct mp_address *a, bool share)
{
    union any any;
    socklen_t n = fill(a, &any);
    int on = 1, saved, fd = socket(any.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        (!share || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0) &&
        (!a->v6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == 0) && bind(fd, &any.sa, n) == 0)
        return fd;
    saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
    return -1;
}

static uint16_t port_of(int fd)
{
    union any any;
    socklen_t n = sizeof any;
    if (getsockname(fd, &any.sa, &n) < 0)
        return 0;
    return ntohs(any.sa.sa_family == AF_INET6 ? any.v6.sin6_port : any.v4.sin_port);
}

int mp_address_listen(struct mp_address *a, int *fds, uint32_t n, struct mp_err *err)
{
    struct mp_address real = *a;
    char text[56];
    uint32_t made = 0;
    int rc = MP_EIO, probe = bound_socket(&real, false);
    mp_address_format(a, text);
    if (probe < 0) {
        if (errno == EADDRINUSE)
            rc = mp_err_set(err, MP_EBUSY, "%s is taken: another program listens there (choose another with --listen)",
                            text);
        else if (errno == EADDRNOTAVAIL)
            rc = mp_err_set(err, MP_EINVAL, "%s is not an address of this machine", text);
        else
            rc = mp_err_errno(err, MP_EIO, "cannot listen on %s", text);
        goto out;
    }
    real.port = port_of(probe);
    close(probe);
    for (; made < n; made++) {
        fds[made] = bound_socket(&real, true);
        if (fds[made] < 0 || listen(fds[made], BACKLOG) < 0) {
            rc = mp_err_errno(err, errno == EADDRINUSE ? MP_EBUSY : MP_EIO, "cannot listen on %s", text);
            made += fds[made] >= 0;
            goto out;
        }
    }
    *a = real;
    rc = 0;
out:
    if (rc < 0)
        while (made > 0)
            close(fds[--made]);
    return rc;
}
