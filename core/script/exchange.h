/* core/script/exchange.h — one request and the way its answer goes: the seam between a run and whoever brought the request.
 *
 * core/gateway fills one from core/net's request and gives it to mp_run_start; specs (and later `moonpool test`) bring
 * their own without a socket. The request part is plain data that stays valid until ops->end. All calls, both ways, come
 * on the worker's thread. A run calls reply once, or begin, any number of writes and finish; then, always and last, end. */
#ifndef MP_SCRIPT_EXCHANGE_H
#define MP_SCRIPT_EXCHANGE_H
#include "core/base/err.h"
#include "core/net/request.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_exchange;
struct mp_run;

struct mp_exchange_ops {
    /* The whole answer. Headers hold content-type, never content-length or connection. Everything is copied. */
    void (*reply)(struct mp_exchange *x, int status, const struct mp_header *headers, size_t n_headers,
                  const void *body, size_t n);
    /* The head of an answer of events (text/event-stream); writes follow. */
    void (*begin)(struct mp_exchange *x, int status, const struct mp_header *headers, size_t n_headers);
    /* Whole events, copied. False when more is unsent now than the run should go on from: it waits for
     * mp_exchange_writable before it writes again. A write after the client left is dropped (and true). */
    bool (*write)(struct mp_exchange *x, const void *data, size_t n);
    /* Behind the last event. ok false: the stream broke off, do not keep the connection alive. */
    void (*finish)(struct mp_exchange *x, bool ok);
    /* Behind everything: the run is gone, x is the owner's again. May be called before mp_run_start returns. */
    void (*end)(struct mp_exchange *x);
};

/* What a run learned from the models it called: for the answer's headers and for counting. */
struct mp_called {
    const char *model; /* the one it called last; NULL: none. Lives as long as the process */
    bool cold;         /* one of them was not warm when it was called */
    bool queue_known;  /* queue_ns holds something */
    uint64_t queue_ns; /* waited in queues so far, of all its calls that have started; loading not counted */
};

struct mp_exchange {
    const struct mp_exchange_ops *ops;
    void *owner; /* the caller's own */

    struct mp_arena *arena; /* of the request: the run allocates from it */
    const char *id;         /* the request id: logs, errors and X-Request-Id show it */
    const char *method;     /* "POST" */
    const char *target;     /* the path percent-encoded as it came, without the query: what was routed */
    const char *path;       /* the same, decoded: what scripts see */
    const char *query;      /* behind the '?', still encoded; "" when there is none */
    const char *remote;     /* "127.0.0.1:51234" */
    const struct mp_header *headers;
    size_t n_headers;
    const char *body; /* body_n bytes and a NUL */
    size_t body_n;
    uint64_t deadline_ns; /* monotonic: no model may start on it after that; 0: none */

    /* The run's; the owner leaves them zero. */
    struct mp_run *run; /* NULL before mp_run_start and from ops->end on */
    bool answered;      /* reply or begin was called */
    struct mp_called called;
};

/* The owner tells: unsent bytes fell enough for more writes. Without a run, or one that does not wait: nothing happens. */
void mp_exchange_writable(struct mp_exchange *x);
/* The owner tells: the request's time is over. What runs is abandoned; err is the answer, or the last event of a stream that has begun;
 * ops->end follows before this returns. */
void mp_exchange_expired(struct mp_exchange *x, const struct mp_err *err);
/* The owner tells: the client left. Waiting functions return nil, err "closed"; generation
 * is cancelled; ops->end follows, possibly before this returns. */
void mp_exchange_closed(struct mp_exchange *x);

#endif
