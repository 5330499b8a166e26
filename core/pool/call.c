/* core/pool/call.c — a call's life, and its exactly one end; see call.h and provider.h. */
#include "core/pool/call.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/pool/pool_model.h"
#include "core/pool/provider.h"

#include <string.h>

enum { CALL_MAGIC = 0x4c4c4143 };

enum call_state { SENT, PREPARED, STARTED, ENDED };

struct mp_call {
    uint32_t magic;
    enum call_state state;
    struct mp_call_args args; /* payload and stop strings are the call's own */
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
    if (!c->link)
        mp_err_set(err, MP_EUNAVAILABLE, "model '%s': this worker has no way to its engine", args->model->name);
    else if (c->ops->send(c->link, c, err) == 0) {
        atomic_fetch_add_explicit(&args->model->waiting, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&args->model->calls, 1, memory_order_relaxed);
        return c;
    }
    mp_free(c);
    return NULL;
}

static void end(struct mp_call *c)
{
    struct mp_pool_model *m = c->args.model;
    atomic_fetch_sub_explicit(c->state == STARTED ? &m->in_flight : &m->waiting, 1, memory_order_relaxed);
    c->state = ENDED;
}

static void start(struct mp_call *c)
{
    atomic_fetch_sub_explicit(&c->args.model->waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->args.model->in_flight, 1, memory_order_relaxed);
    c->state = STARTED;
    c->ops->go(c->link, c);
}

void mp_call_start(struct mp_call *c)
{
    c->args.hold = false;
    if (c->state == PREPARED)
        start(c);
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

void mp_call_progress(const struct mp_call *c, uint64_t now_ns, struct mp_call_progress *out)
{
    (void)now_ns;
    *out = (struct mp_call_progress){.phase = c->state == STARTED ? MP_CALL_RUNNING
                                              : c->state == ENDED ? MP_CALL_OVER
                                                                  : MP_CALL_QUEUED};
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
        mp_call_cancel(c);
        c->args.events->failed(c->args.user, &err, 0);
        return;
    }
    if (c->args.events->prepared) {
        c->gone = &gone;
        c->args.events->prepared(c->args.user, prompt_tokens, left);
        if (gone)
            return;
        c->gone = NULL;
    }
    if (c->state == PREPARED && !c->args.hold)
        start(c);
}

bool mp_call_on_text(struct mp_call *c, const char *s, size_t n, const struct mp_usage *so_far)
{
    bool gone = false;
    if (c->state != STARTED)
        return false;
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
    if (c->state == ENDED)
        return;
    end(c);
    c->args.events->done(c->args.user, finish, usage);
}

void mp_call_on_failed(struct mp_call *c, const struct mp_err *err, double retry_after)
{
    if (c->state == ENDED)
        return;
    end(c);
    c->args.events->failed(c->args.user, err, retry_after);
}
