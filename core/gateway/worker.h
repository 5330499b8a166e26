/* core/gateway/worker.h — a worker: one thread, one loop, its server, its Lua VM of the present generation, its links to the
 * engines. Started and told by the control thread (control.c); answers requests in answer.c. */
#ifndef MP_WORKER_H
#define MP_WORKER_H
#include "core/gateway/models.h"
#include "core/net/server.h"
#include "core/script/run.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

/* What the workers share. Set before they start, then only read, but for what says otherwise. */
struct mp_gateway {
    struct mp_evloop *control; /* for posts to the control thread */
    struct mp_pool *pool;
    struct mp_models *models;
    struct mp_net_limits limits;
    _Atomic bool draining; /* control writes, workers read */
    /* On the control thread, posted: nothing pins some retired generation any more. */
    void (*on_idle_generation)(void *user);
    void *on_idle_user;
};

/* Any thread: a request (or a job's run) of the generation has ended. */
void mp_gateway_unpin(const struct mp_gateway *g, struct mp_generation *generation);

enum { MP_WORKER_MAX_LISTEN = 16 };

struct mp_worker {
    const struct mp_gateway *gateway;
    uint32_t index;
    pthread_t thread;
    struct mp_evloop *loop; /* made and freed by control; control posts to it while the worker lives */
    int listen
        [MP_WORKER_MAX_LISTEN]; /* its share of each address's sockets; closed by control. Since it started: the worker's thread only */
    uint32_t n_listen;

    sem_t started; /* the worker posts it once: err says how it went */
    struct mp_err err;

    /* The worker's thread only. */
    struct mp_generation *generation; /* what new requests get */
    struct mp_server *server;
    struct mp_script_worker *script;
    struct mp_limits *limits;
    struct mp_pool_port *port;
    struct mp_port_clock *clock; /* runs the port when it is woken and when it is due */
    struct mp_calls *calls[MP_POOL_MAX_PROVIDERS];
    void (*gone)(void *user); /* called from its thread when a drained server has no connection left */
    void *gone_user;
};

/* Control thread. gateway, index, listen and generation are set; runs the thread and waits until it accepts requests. */
int mp_worker_start(struct mp_worker *w, struct mp_err *err);
void mp_worker_declared(struct mp_worker *w); /* an engine knows its models (again): calls that waited go out */
/* A new engine, known to mp_models: its models' calls go over a link of their own from now on. */
void mp_worker_engine(struct mp_worker *w, struct mp_engine *e);

/* The next generation, and the sockets that go with it, in one turn of the worker's loop: after that no new request gets the old one. */
struct mp_worker_swap { /* the caller's until done was called */
    struct mp_generation *generation;
    int listen[MP_WORKER_MAX_LISTEN];
    uint32_t n_listen;
    void (*done)(void *user); /* on the worker's thread */
    void *user;
    struct mp_worker *worker; /* set by mp_worker_swap */
};
void mp_worker_swap(struct mp_worker *w, struct mp_worker_swap *s);
/* Ends what still runs in an old generation: an open stream ends with an error event, others get 503. */
void mp_worker_expire(struct mp_worker *w, struct mp_generation *g);
/* Runs fn(its script worker, arg) on the worker's thread, in order with what else it is told. */
void mp_worker_script(struct mp_worker *w, void (*fn)(struct mp_script_worker *script, void *arg), void *arg);
/* Stops accepting; running requests go on. gone is posted once, on the worker's thread, when none is left. */
void mp_worker_drain(struct mp_worker *w, void (*gone)(void *user), void *user);
void mp_worker_cancel(struct mp_worker *w); /* running handlers end: 503, or an error event in an open stream */
void mp_worker_end(struct mp_worker *w);    /* cuts what is left, ends the thread, frees what it had */

#endif
