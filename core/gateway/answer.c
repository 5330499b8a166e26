/* core/gateway/answer.c — see answer.h. A request and its run end independently (the client may leave first, or the run may be
 * done while bytes still go out); what joins them goes when both have ended. */
#include "core/gateway/answer.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/route.h"
#include "core/net/response.h"
#include "core/net/sse.h"

#include <string.h>

struct answer {
    struct mp_exchange x;
    struct mp_worker *worker;
    struct mp_req *req;
    struct mp_generation *generation; /* pinned */
    struct mp_route_match match;
    bool running;  /* from mp_run_start to ops->end */
    bool req_done; /* on_end came */
};

static void unpin(struct answer *a)
{
    const struct mp_gateway *g = a->worker->gateway;
    if (mp_generation_unpin(a->generation))
        mp_evloop_post(g->control, g->on_idle_generation, a->generation);
}

static void release(struct answer *a)
{
    if (a->running || !a->req_done)
        return;
    unpin(a);
    mp_free(a);
}

/* ---- what a run does ---- */

static void put_headers(struct mp_req *req, int status, const struct mp_header *headers, size_t n)
{
    struct mp_err err = {0};
    mp_res_status(req, status);
    for (size_t i = 0; i < n; i++)
        if (mp_res_header(req, headers[i].name, headers[i].name_len, headers[i].value, headers[i].value_len, &err) ==
            MP_EINVAL)
            mp_warn("request %s: header dropped: %s", req->id, err.message);
    if (!mp_res_has_header(req, "x-request-id"))
        mp_res_header(req, "x-request-id", 12, req->id, strlen(req->id), NULL);
}

static void x_reply(struct mp_exchange *x, int status, const struct mp_header *headers, size_t n_headers,
                    const void *body, size_t n)
{
    struct answer *a = x->owner;
    put_headers(a->req, status, headers, n_headers);
    mp_res_send(a->req, body, n);
}

static void x_begin(struct mp_exchange *x, int status, const struct mp_header *headers, size_t n_headers)
{
    struct answer *a = x->owner;
    put_headers(a->req, status, headers, n_headers);
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
    if (!mp_route_find(req, w->generation, atomic_load_explicit(&w->gateway->draining, memory_order_relaxed), &match))
        return;
    struct answer *a = mp_calloc(sizeof *a);
    a->worker = w;
    a->req = req;
    a->generation = w->generation;
    a->match = match;
    mp_generation_pin(a->generation);
    req->user = a;
    req->body_limit = match.endpoint->body;
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
                                .body_n = req->body_len};
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
    struct answer *a = req->user;
    (void)ctx;
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
