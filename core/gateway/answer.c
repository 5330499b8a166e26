/* core/gateway/answer.c — see answer.h. A request and its run end independently (the client may leave first, or the run may be
 * done while bytes still go out); what joins them goes when both have ended. */
#include "core/gateway/answer.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/limits.h"
#include "core/gateway/route.h"
#include "core/net/response.h"
#include "core/net/sse.h"

#include <stdio.h>
#include <string.h>
#include <uv.h>

struct time_limit { /* of an endpoint with a timeout; on the heap: libuv closes it after the answer may be gone */
    uv_timer_t timer;
    struct answer *answer;
};

struct answer {
    struct mp_exchange x;
    struct mp_worker *worker;
    struct mp_req *req;
    struct mp_generation *generation; /* pinned */
    struct mp_route_match match;
    struct mp_limit *limit;
    struct time_limit *time_limit;
    uint64_t deadline_ns; /* the exchange's */
    bool counted;         /* it is one of the limit's requests */
    bool running;         /* from mp_run_start to ops->end */
    bool req_done;        /* on_end came */
};

/* ---- time ---- */

static void free_time_limit(uv_handle_t *h)
{
    mp_free(mp_container_of((uv_timer_t *)(void *)h, struct time_limit, timer));
}

static void stop_time_limit(struct answer *a)
{
    struct time_limit *t = mp_move(&a->time_limit);
    if (t)
        uv_close((uv_handle_t *)&t->timer, free_time_limit);
}

static void on_time_over(uv_timer_t *timer)
{
    struct answer *a = mp_container_of(timer, struct time_limit, timer)->answer;
    struct mp_err err = {0};
    stop_time_limit(a);
    mp_err_set(&err, MP_ETIMEOUT, "%s took longer than its timeout of %g s", a->match.endpoint->route,
               a->match.endpoint->timeout);
    if (a->running)
        mp_exchange_expired(&a->x, &err);
    else if (!a->req_done && !mp_res_ended(a->req)) /* the body is still coming */
        mp_res_error(a->req, mp_err_status(err.code), mp_err_name(err.code), err.message, 0);
}

static void start_time_limit(struct answer *a)
{
    double left = a->match.endpoint->timeout - (double)(mp_clock_mono_ns() - a->req->started_ns) / 1e9;
    if (a->match.endpoint->timeout <= 0)
        return;
    a->time_limit = mp_calloc(sizeof *a->time_limit);
    a->time_limit->answer = a;
    uv_timer_init(mp_evloop_uv(a->worker->loop), &a->time_limit->timer);
    uv_timer_start(&a->time_limit->timer, on_time_over, left > 0 ? (uint64_t)(left * 1000) + 1 : 1, 0);
}

static void leave_limits(struct answer *a)
{
    stop_time_limit(a);
    if (a->counted)
        mp_limit_leave(a->limit);
    a->counted = false;
}

/* X-Deadline: seconds from arrival, digits and at most one point, more than 0. */
static int read_deadline(const struct mp_req *req, uint64_t *out, struct mp_err *err)
{
    const struct mp_header *h = mp_req_header(req, "x-deadline");
    double value = 0, unit = 0;
    *out = 0;
    if (!h)
        return 0;
    size_t digits = 0, n = 0;
    for (const char *c = h->value; n < h->value_len; n++, c++) {
        if (*c == '.' && unit == 0) {
            unit = 1;
            continue;
        }
        if (*c < '0' || *c > '9')
            break;
        digits++;
        value = unit > 0 ? value + (*c - '0') * (unit /= 10) : value * 10 + (*c - '0');
    }
    if (n < h->value_len || !digits || !(value > 0))
        return mp_err_set(err, MP_EINVAL, "the header X-Deadline must be a number of seconds above 0, like 2.5");
    *out = req->started_ns + (uint64_t)((value < 1e9 ? value : 1e9) * 1e9);
    return 0;
}

static void release(struct answer *a)
{
    if (a->running || !a->req_done)
        return;
    leave_limits(a);
    mp_gateway_unpin(a->worker->gateway, a->generation);
    mp_free(a);
}

/* ---- what a run does ---- */

static void put_called(struct mp_req *req, const struct mp_called *c)
{
    char seconds[32];
    const char *start = c->cold ? "cold" : "warm";
    if (!c->model)
        return;
    mp_res_header_set(req, "x-moonpool-start", 16, start, 4, NULL);
    if (!c->queue_known)
        return;
    snprintf(seconds, sizeof seconds, "%.3f", (double)c->queue_ns / 1e9);
    mp_res_header_set(req, "x-moonpool-queue", 16, seconds, strlen(seconds), NULL);
}

static void put_headers(struct answer *a, int status, const struct mp_header *headers, size_t n)
{
    struct mp_req *req = a->req;
    struct mp_err err = {0};
    mp_res_status(req, status);
    for (size_t i = 0; i < n; i++)
        if (mp_res_header(req, headers[i].name, headers[i].name_len, headers[i].value, headers[i].value_len, &err) ==
            MP_EINVAL)
            mp_warn("request %s: header dropped: %s", req->id, err.message);
    if (!mp_res_has_header(req, "x-request-id"))
        mp_res_header(req, "x-request-id", 12, req->id, strlen(req->id), NULL);
    put_called(req, &a->x.called);
}

static void x_reply(struct mp_exchange *x, int status, const struct mp_header *headers, size_t n_headers,
                    const void *body, size_t n)
{
    struct answer *a = x->owner;
    put_headers(a, status, headers, n_headers);
    mp_res_send(a->req, body, n);
}

static void x_begin(struct mp_exchange *x, int status, const struct mp_header *headers, size_t n_headers)
{
    struct answer *a = x->owner;
    put_headers(a, status, headers, n_headers);
    mp_sse_begin(a->req);
}

static bool x_write(struct mp_exchange *x, const void *data, size_t n)
{
    struct answer *a = x->owner;
    return mp_res_write(a->req, data, n) < 0 || !mp_res_full(a->req);
}

static void x_finish(struct mp_exchange *x, bool ok)
{
    struct answer *a = x->owner;
    if (ok)
        mp_res_end(a->req);
    else
        mp_res_abort(a->req);
}

static void x_end(struct mp_exchange *x)
{
    struct answer *a = x->owner;
    struct mp_req *req = a->req;
    a->running = false;
    leave_limits(a); /* before the answer's last byte leaves: who has it may send the next request at once */
    if (!mp_res_ended(req)) {
        mp_error("request %s: its run ended without an answer", req->id);
        if (mp_res_started(req))
            mp_res_abort(req);
        else
            mp_res_error(req, 500, "internal", "the handler ended without an answer", 0);
    }
    release(a);
    mp_req_unref(req);
}

static const struct mp_exchange_ops exchange_ops = {x_reply, x_begin, x_write, x_finish, x_end};

/* ---- what the server tells ---- */

static void on_request(void *ctx, struct mp_req *req)
{
    struct mp_worker *w = ctx;
    struct mp_route_match match = {0};
    struct mp_err err = {0};
    if (!mp_route_find(req, w->generation, w->gateway->pool,
                       atomic_load_explicit(&w->gateway->draining, memory_order_relaxed), &match))
        return;
    struct answer *a = mp_calloc(sizeof *a);
    a->worker = w;
    a->req = req;
    a->generation = w->generation;
    a->match = match;
    mp_generation_pin(a->generation);
    req->user = a;
    req->body_limit = match.endpoint->body;
    a->limit = mp_limits_find(w->limits, w->generation, match.endpoint);
    a->counted = mp_limit_enter(a->limit, match.endpoint->max_concurrency);
    if (!a->counted) {
        mp_err_set(&err, MP_EQUEUE, "%s serves %u requests at once and has no room for another", match.endpoint->route,
                   match.endpoint->max_concurrency);
        err.retry_after = 1;
    } else if (read_deadline(req, &a->deadline_ns, &err) == 0) {
        start_time_limit(a);
        return;
    }
    mp_res_error(req, mp_err_status(err.code), mp_err_name(err.code), err.message, (int)err.retry_after);
}

static void on_body(void *ctx, struct mp_req *req)
{
    struct mp_worker *w = ctx;
    struct answer *a = req->user;
    a->x = (struct mp_exchange){.ops = &exchange_ops,
                                .owner = a,
                                .arena = req->arena,
                                .id = req->id,
                                .method = req->method,
                                .target = req->target,
                                .path = req->path,
                                .query = req->query,
                                .remote = req->remote,
                                .headers = req->headers,
                                .n_headers = req->header_count,
                                .body = req->body,
                                .body_n = req->body_len,
                                .deadline_ns = a->deadline_ns};
    a->running = true;
    mp_req_ref(req);
    mp_run_start(w->script, a->generation, &a->match, &a->x);
}

static void on_writable(void *ctx, struct mp_req *req)
{
    struct answer *a = req->user;
    (void)ctx;
    if (a && a->running)
        mp_exchange_writable(&a->x);
}

static void on_abort(void *ctx, struct mp_req *req, enum mp_abort why)
{
    struct answer *a = req->user;
    (void)ctx;
    (void)why;
    if (a && a->running)
        mp_exchange_closed(&a->x);
}

static void on_end(void *ctx, struct mp_req *req)
{
    struct mp_worker *w = ctx;
    struct answer *a = req->user;
    const struct mp_called *c = a ? &a->x.called : &(struct mp_called){0};
    mp_limits_count(w->limits, a ? a->limit : mp_limits_find(w->limits, NULL, NULL), c->model,
                    !c->model ? "none"
                    : c->cold ? "cold"
                              : "warm",
                    mp_res_code(req));
    if (!a)
        return;
    req->user = NULL;
    a->req_done = true;
    release(a);
}

struct mp_handler mp_answer_handler(struct mp_worker *w)
{
    return (struct mp_handler){.ctx = w,
                               .on_request = on_request,
                               .on_body = on_body,
                               .on_writable = on_writable,
                               .on_abort = on_abort,
                               .on_end = on_end};
}
