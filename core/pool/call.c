/* core/pool/call.c — a call's life, and its exactly one end; see call.h and provider.h. */
#include "core/pool/call.h"

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/pool/pool_model.h"
#include "core/pool/provider.h"

#include <math.h>
#include <string.h>
#include <sys/random.h>

enum { CALL_MAGIC = 0x4c4c4143 };

enum call_state { SENT, PREPARED, STARTED, ENDED };

struct mp_call {
    uint32_t magic;
    enum call_state state;
    enum mp_call_kind kind;
    bool hold;
    struct mp_pool_model *model;
    const struct mp_model_decl *decl; /* the generation's own; it outlives the call */
    const struct mp_provider_ops *ops;
    void *link, *tag;
    const struct mp_call_events *events;
    void *user;
    bool *gone; /* set by mp_call_free while an event runs */
    struct mp_call_settings settings;
    char *payload;
    size_t n_payload;
    char stops[]; /* the stop strings' bytes */
};

const char *mp_finish_name(int finish)
{
    static const char *const names[] = {
#define X(code, name) name,
        MP_FINISHES(X)
#undef X
    };
    return finish >= 0 && (size_t)finish < MP_COUNT(names) ? names[finish] : NULL;
}

static double or_else(double v, double otherwise)
{
    return isnan(v) ? otherwise : v;
}

void mp_call_settings_init(struct mp_call_settings *s, const struct mp_model_decl *decl)
{
    const struct mp_model_sampling *d = &decl->sampling;
    memset(s, 0, sizeof *s);
    s->max_tokens = d->max_tokens > 0 && d->max_tokens <= UINT32_MAX ? (uint32_t)d->max_tokens : 0;
    s->temperature = or_else(d->temperature, 1);
    s->top_p = or_else(d->top_p, 1);
    s->min_p = or_else(d->min_p, 0);
    s->top_k = d->top_k >= 0 ? d->top_k : 0;
    s->repeat_penalty = or_else(d->repeat_penalty, 1);
    s->frequency_penalty = or_else(d->frequency_penalty, 0);
    s->presence_penalty = or_else(d->presence_penalty, 0);
    if (d->seed >= 0)
        s->seed = (uint64_t)d->seed;
    else if (getrandom(&s->seed, sizeof s->seed, GRND_NONBLOCK) != (ssize_t)sizeof s->seed)
        s->seed = mp_clock_mono_ns() * 0x9e3779b97f4a7c15u;
}

static int check_settings(const struct mp_call_settings *s, struct mp_err *err)
{
    const struct range {
        const char *name;
        double value, low, high;
    } ranges[] = {
        {"temperature", s->temperature, 0, 10},
        {"top_p", s->top_p, 0, 1},
        {"min_p", s->min_p, 0, 1},
        {"top_k", s->top_k, 0, INT32_MAX},
        {"repeat_penalty", s->repeat_penalty, 0.01, 10},
        {"frequency_penalty", s->frequency_penalty, -2, 2},
        {"presence_penalty", s->presence_penalty, -2, 2},
    };
    for (size_t i = 0; i < MP_COUNT(ranges); i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return mp_err_set(err, MP_EINVAL, "'%s' must lie within %g and %g", ranges[i].name, ranges[i].low,
                              ranges[i].high);
    if (!(s->top_p > 0))
        return mp_err_set(err, MP_EINVAL, "'top_p' must be above 0");
    if (s->n_stop > MP_CALL_MAX_STOP)
        return mp_err_set(err, MP_EINVAL, "'stop' takes at most %d strings", MP_CALL_MAX_STOP);
    for (uint32_t i = 0; i < s->n_stop; i++)
        if (s->stop[i].len == 0 || s->stop[i].len > MP_CALL_MAX_STOP_BYTES)
            return mp_err_set(err, MP_EINVAL, "'stop' strings must have 1 to %d bytes", MP_CALL_MAX_STOP_BYTES);
    return 0;
}

struct mp_call *mp_call_new(struct mp_pool_port *port, const struct mp_catalog_entry *model, enum mp_call_kind kind,
                            const void *payload, size_t n, const struct mp_call_settings *settings, bool hold,
                            const struct mp_call_events *events, void *user, struct mp_err *err)
{
    struct mp_call *c;
    size_t stops = 0, at = 0;
    if (!model->model) {
        mp_err_set(err, MP_EUNAVAILABLE, "model '%s' has no replica here", model->decl->name);
        return NULL;
    }
    if (check_settings(settings, err) < 0)
        return NULL;
    for (uint32_t i = 0; i < settings->n_stop; i++)
        stops += settings->stop[i].len;
    c = mp_calloc(sizeof *c + stops);
    c->magic = CALL_MAGIC;
    c->kind = kind;
    c->hold = hold;
    c->model = model->model;
    c->decl = model->decl;
    c->events = events;
    c->user = user;
    c->settings = *settings;
    for (uint32_t i = 0; i < settings->n_stop; i++) {
        memcpy(c->stops + at, settings->stop[i].text, settings->stop[i].len);
        c->settings.stop[i].text = c->stops + at;
        at += settings->stop[i].len;
    }
    c->ops = mp_pool_port_link(port, c->model, &c->link);
    c->payload = mp_try_malloc(n ? n : 1);
    if (!c->payload)
        mp_err_set(err, MP_ENOMEM, "no memory for a prompt of %zu bytes", n);
    else if (!c->link)
        mp_err_set(err, MP_EUNAVAILABLE, "model '%s': this worker has no way to its engine", c->decl->name);
    else {
        memcpy(c->payload, payload, n);
        c->n_payload = n;
        if (c->ops->send(c->link, c, err) == 0) {
            atomic_fetch_add_explicit(&c->model->waiting, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&c->model->calls, 1, memory_order_relaxed);
            return c;
        }
    }
    mp_free(c->payload);
    mp_free(c);
    return NULL;
}

static void end(struct mp_call *c)
{
    atomic_fetch_sub_explicit(c->state == STARTED ? &c->model->in_flight : &c->model->waiting, 1, memory_order_relaxed);
    c->state = ENDED;
}

static void start(struct mp_call *c)
{
    atomic_fetch_sub_explicit(&c->model->waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->model->in_flight, 1, memory_order_relaxed);
    c->state = STARTED;
    c->ops->go(c->link, c);
}

void mp_call_start(struct mp_call *c)
{
    c->hold = false;
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

void mp_call_free(struct mp_call *c)
{
    if (!c)
        return;
    mp_call_cancel(c);
    if (c->gone)
        *c->gone = true;
    c->magic = 0;
    mp_free(c->payload);
    mp_free(c);
}

/* ---- the provider's side ---- */

struct mp_pool_model *mp_call_model(const struct mp_call *c)
{
    return c->model;
}

const struct mp_model_decl *mp_call_decl(const struct mp_call *c)
{
    return c->decl;
}

enum mp_call_kind mp_call_kind(const struct mp_call *c)
{
    return c->kind;
}

const void *mp_call_payload(const struct mp_call *c, size_t *n)
{
    *n = c->n_payload;
    return c->payload;
}

const struct mp_call_settings *mp_call_settings(const struct mp_call *c)
{
    return &c->settings;
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

void mp_call_on_prepared(struct mp_call *c, uint32_t prompt_tokens)
{
    bool gone = false;
    if (c->state != SENT) /* prepared again, after its engine came back */
        return;
    c->state = PREPARED;
    if (c->events->prepared) {
        c->gone = &gone;
        c->events->prepared(c->user, prompt_tokens);
        if (gone)
            return;
        c->gone = NULL;
    }
    if (c->state == PREPARED && !c->hold)
        start(c);
}

void mp_call_on_text(struct mp_call *c, const char *s, size_t n, const struct mp_usage *so_far)
{
    if (c->state == STARTED && c->events->text)
        c->events->text(c->user, s, n, so_far);
}

void mp_call_on_done(struct mp_call *c, enum mp_finish finish, const struct mp_usage *usage)
{
    if (c->state == ENDED)
        return;
    end(c);
    c->events->done(c->user, finish, usage);
}

void mp_call_on_failed(struct mp_call *c, const struct mp_err *err)
{
    if (c->state == ENDED)
        return;
    end(c);
    c->events->failed(c->user, err);
}
