/* core/net/transport.h — the seam between a connection and its socket: plain now, TLS beside it. Used by conn.c. */
#ifndef MP_TRANSPORT_H
#define MP_TRANSPORT_H
#include <sys/types.h>

struct iovec;

/* read and writev never block: bytes moved, MP_EAGAIN, or MP_EIO when the connection is broken; read gives 0 at its end. */
struct mp_transport_ops {
    ssize_t (*read)(void *ctx, int fd, void *buf, size_t n);
    ssize_t (*writev)(void *ctx, int fd, const struct iovec *iov, int count);
    void (*finish)(void *ctx, int fd); /* says that no more will be written (FIN; close_notify) */
    void (*close)(void *ctx, int fd);  /* closes fd and frees ctx */
};

struct mp_transport {
    const struct mp_transport_ops *ops;
    void *ctx; /* NULL for plain */
    int fd;    /* owned; what uv_poll watches */
};

extern const struct mp_transport_ops mp_transport_plain;

#endif
