/* core/pool/call.c — a call's life, and its exactly one end; see call.h and provider.h. */
#include "core/pool/call.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/pool/port.h"
#include "core/pool/provider.h"
#include "core/pool/queue.h"

#include <string.h>

enum { CALL_MAGIC = 0x4c4c4143 };

enum call_state { SENT, PREPARED, STARTED, ENDED };

struct mp_call {
    uint32_t magic;
    enum call_state state;
    struct mp_waiter waiter;                /* its place, or its place in the line */
    uint64_t started_ns, first_ns, last_ns; /* when it started; when its first and its latest text came; 0: not yet */
    struct mp_call_args args;               /* payload and stop strings are the call's own */
    const struct mp_provider_ops *ops;
    void *link, *tag;
    bool *gone;   /* set by mp_call_free while an event runs */
    char bytes[]; /* stop strings, then the payload */
};

/* The ranges of mp_msg_start are the wire's table: what cannot be encoded is refused, and the message names the field. */
static int check_start(const struct mp_msg_start *start, struct mp_err *err)
{
    struct mp_buf scratch = {0};
    struct mp_msg m = {.type = MP_MSG_START, .id = 1, .u.start = *start};
    int rc = mp_msg_encode(&scratch, &m, err);
    mp_buf_free(&scratch);
    return rc;
}

struct mp_call *mp_call_new(struct mp_pool_port *port, const struct mp_call_args *args, struct mp_err *err)
{
    struct mp_call *c;
    size_t extra = 0, size, at = 0;
    if (check_start(&args->start, err) < 0)
        return NULL;
    for (uint32_t i = 0; i < args->start.n_stops; i++)
        extra += args->start.stops[i].n;
    if (!mp_add_size(extra, args->n, &size) || !mp_add_size(size, sizeof *c, &size) || !(c = mp_try_calloc(1, size))) {
        mp_err_set(err, MP_ENOMEM, "no memory for a prompt of %zu bytes", args->n);
        return NULL;
    }
    c->magic = CALL_MAGIC;
    c->args = *args;
    for (uint32_t i = 0; i < args->start.n_stops; i++) {
        struct mp_span s = args->start.stops[i];
        memcpy(c->bytes + at, s.p, s.n);
        c->args.start.stops[i].p = c->bytes + at;
        at += s.n;
    }
    if (args->n > 0)
        memcpy(c->bytes + at, args->payload, args->n);
    c->args.payload = c->bytes + at;
    c->ops = mp_pool_port_link(port, args->model, &c->link);
    c->waiter = (struct mp_waiter){.model = args->model,
                                   .port = port,
                                   .priority = args->priority,
                                   .background = args->background,
                                   .deadline_ns = args->deadline_ns};
    if (!c->link) {
        mp_err_set(err, MP_EUNAVAILABLE, "model '%s': this worker has no way to its engine", args->model->name);
    } else if (mp_queue_enter(&c->waiter, err) == 0) {
        if (c->ops->send(c->link, c, err) == 0) {
            mp_queue_sent(&c->waiter);
            return c;
        }
        mp_queue_leave(&c->waiter);
    }
    mp_free(c);
    return NULL;
}

static void end(struct mp_call *c)
{
    c->state = ENDED;
    mp_queue_leave(&c->waiter);
}

static void start(struct mp_call *c)
{
    c->state = STARTED;
    c->started_ns = mp_pool_now(c->args.model->pool);
    c->ops->go(c->link, c);
}

/* It is prepared and not held: it starts, or waits for its place. */
static void want_place(struct mp_call *c)
{
    if (c->state == PREPARED && !c->args.hold && mp_queue_ready(&c->waiter))
        start(c);
}

void mp_call_start(struct mp_call *c)
{
    c->args.hold = false;
    want_place(c);
}

/* Ends it from the gateway's side: its provider forgets it. The call may be gone after this. */
static void fail(struct mp_call *c, const struct mp_err *err)
{
    mp_call_cancel(c);
    c->args.events->failed(c->args.user, err, err->retry_after);
}

void mp_call_on_news(struct mp_waiter *w)
{
    struct mp_call *c = mp_container_of(w, struct mp_call, waiter);
    struct mp_err err = {0};
    if (mp_queue_take(w))
        start(c);
    else if (mp_queue_dropped(w, &err))
        fail(c, &err);
}

void mp_call_on_expired(struct mp_waiter *w, const struct mp_err *err)
{
    fail(mp_container_of(w, struct mp_call, waiter), err);
}

void mp_call_cancel(struct mp_call *c)
{
    if (c->state == ENDED)
        return;
    end(c);
    c->ops->cancel(c->link, c);
}

void mp_call_consumed(struct mp_call *c, size_t n)
{
    if (c->state == STARTED && n > 0)
        c->ops->window(c->link, c, n);
}

bool mp_call_ended(const struct mp_call *c)
{
    return c->state == ENDED;
}

bool mp_call_cold(const struct mp_call *c)
{
    return c->waiter.cold;
}

void mp_call_progress(const struct mp_call *c, uint64_t now_ns, struct mp_call_progress *out)
{
    mp_queue_progress(&c->waiter, now_ns, out);
}

void mp_call_free(struct mp_call *c)
{
    if (!c)
        return;
    mp_call_cancel(c);
    if (c->gone)
        *c->gone = true;
    c->magic = 0;
    mp_free(c);
}

/* ---- the provider's side ---- */

struct mp_pool_model *mp_call_model(const struct mp_call *c)
{
    return c->args.model;
}

const struct mp_call_args *mp_call_args(const struct mp_call *c)
{
    return &c->args;
}

bool mp_call_started(const struct mp_call *c)
{
    return c->state == STARTED;
}

void mp_call_set_tag(struct mp_call *c, void *tag)
{
    c->tag = tag;
}

void *mp_call_tag(const struct mp_call *c)
{
    return c->tag;
}

void mp_call_on_prepared(struct mp_call *c, uint32_t prompt_tokens, uint32_t left)
{
    bool gone = false;
    if (c->state != SENT) /* prepared again: its engine came back while it was held */
        return;
    c->state = PREPARED;
    if (c->args.exact && c->args.start.max_tokens > left) {
        struct mp_err err;
        mp_err_set(&err, MP_EINVAL, "'max_tokens' is %u, but the prompt of %u tokens leaves room for %u in the context",
                   c->args.start.max_tokens, prompt_tokens, left);
        fail(c, &err);
        return;
    }
    if (c->args.events->prepared) {
        c->gone = &gone;
        c->args.events->prepared(c->args.user, prompt_tokens, left);
        if (gone)
            return;
        c->gone = NULL;
    }
    want_place(c);
}

bool mp_call_on_text(struct mp_call *c, const char *s, size_t n, const struct mp_usage *so_far)
{
    bool gone = false;
    if (c->state != STARTED)
        return false;
    c->last_ns = mp_pool_now(c->args.model->pool);
    if (c->first_ns == 0)
        c->first_ns = c->last_ns;
    if (!c->args.events->text || n == 0)
        return true;
    c->gone = &gone;
    c->args.events->text(c->args.user, s, n, so_far);
    if (gone)
        return false;
    c->gone = NULL;
    return c->state == STARTED;
}

void mp_call_on_done(struct mp_call *c, enum mp_msg_finish finish, const struct mp_usage *usage)
{
    struct mp_usage whole = *usage;
    uint64_t now = mp_pool_now(c->args.model->pool);
    if (c->state == ENDED)
        return;
    mp_queue_times(&c->waiter, now, &whole.queue_ns, &whole.load_ns);
    if (c->first_ns == 0) /* an answer without text */
        c->first_ns = c->last_ns = now;
    whole.prefill_ns = c->first_ns - c->started_ns;
    whole.decode_ns = c->last_ns - c->first_ns;
    whole.ttft_ns = c->first_ns - c->waiter.at_ns;
    end(c);
    c->args.events->done(c->args.user, finish, &whole);
}

void mp_call_on_failed(struct mp_call *c, const struct mp_err *err, double retry_after)
{
    if (c->state == ENDED)
        return;
    end(c);
    c->args.events->failed(c->args.user, err, retry_after);
}
