/* core/net/conn.h — one client connection: reads requests, calls the handler, writes answers. Private to core/net. */
#ifndef MP_CONN_H
#define MP_CONN_H
#include "core/net/http1.h"
#include "core/net/server.h"
#include "core/net/transport.h"
#include <uv.h>

enum { MP_READ_CHUNK = 65536 };

struct mp_conn;

/* What connections share with their server; its head is in struct mp_server. */
struct mp_conn_host {
    struct mp_evloop *loop;
    struct mp_net_limits limits;
    struct mp_handler handler;
    struct mp_conn *conns; /* all, in no order */
    struct mp_conn *dirty; /* to flush before the loop sleeps */
    uv_idle_t awake;       /* runs while something is dirty, so that the loop does not sleep */
    bool awake_on;
    bool stopping;
    size_t read_cap;                         /* bytes a read may return */
    char *scratch;                           /* MP_READ_CHUNK bytes that reads go to first */
    void (*removed)(struct mp_conn_host *h); /* a connection is gone */
    char date[32];                           /* "Tue, 24 Nov 2026 08:00:00 GMT" */
    uint64_t date_s;
    struct mp_server_gauges gauges; /* fields by __atomic builtins: other threads read them */
};

#define mp_gauge_add(h, field, n) __atomic_fetch_add(&(h)->gauges.field, (uint64_t)(n), __ATOMIC_RELAXED)

/* Takes fd: a connected, non-blocking socket. NULL when the loop cannot watch it (fd is closed then). */
struct mp_conn *mp_conn_new(struct mp_conn_host *h, int fd, const char *remote, struct mp_err *err);
bool mp_conn_idle(const struct mp_conn *c);               /* between requests */
void mp_conn_close(struct mp_conn *c, enum mp_abort why); /* at once; its request is aborted */
void mp_conn_flush_all(struct mp_conn_host *h);           /* one round over the dirty ones */
void mp_conn_wake(struct mp_conn_host *h);                /* the loop makes one more turn before it sleeps */
struct mp_conn *mp_conn_next(const struct mp_conn *c);

#endif
