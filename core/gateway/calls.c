/* core/gateway/calls.c — see calls.h. */
#include "core/gateway/calls.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/gateway/link.h"

#include <string.h>
#include <uv.h>

enum { PATIENCE_MS = 30000, TICK_MS = 250, MODELS_ID = 1 /* below every call's */ };

enum { NO_SLOT = UINT32_MAX, SLOT_BITS = 24 };

struct slot {
    struct mp_call *call; /* NULL: free */
    uint64_t id;          /* on the wire: the slot's number, and above it a count, so that an old id finds nothing */
    uint32_t next_free;
    uint32_t prompt_tokens; /* from PREPARED */
    bool sent, started;     /* PREPARE, START went out on the present connection */
    uint64_t deadline_ns;   /* not sent, though it has its place: when to give up */
};

/* Which version of a model the engine has, as it said on this connection. The first is heard before any PREPARE is sent: MODELS goes out
 * when the link comes up. */
struct version {
    char *model;
    uint64_t identity;
};

struct mp_calls {
    struct mp_engine *engine;
    struct mp_link *link;
    struct slot *slots;
    uint32_t n_slots, free;
    uint32_t active;  /* slots taken: the link is wanted */
    uint32_t waiting; /* of these not sent; the engine's own count follows it (mp_engine_waiting) */
    uint64_t count;
    struct version *versions;
    uint32_t n_versions;
    uint32_t patience_ms;
    uv_timer_t tick; /* while a call that has its place waits for an engine */
};

static struct slot *slot_of(struct mp_calls *c, const struct mp_call *call)
{
    return &c->slots[(uintptr_t)mp_call_tag(call)];
}

static struct slot *slot_by_id(struct mp_calls *c, uint64_t id)
{
    uint64_t i = id & ((1u << SLOT_BITS) - 1);
    return i < c->n_slots && c->slots[i].call && c->slots[i].id == id ? &c->slots[i] : NULL;
}

static void set_sent(struct mp_calls *c, struct slot *s, bool sent)
{
    if (s->sent == sent)
        return;
    s->sent = sent;
    c->waiting += sent ? -1u : 1u;
    mp_engine_waiting(c->engine, sent ? -1 : 1);
}

static struct slot *slot_take(struct mp_calls *c, struct mp_call *call)
{
    uint32_t i = c->free;
    if (i == NO_SLOT) {
        uint32_t n = c->n_slots ? 2 * c->n_slots : 16;
        if (n > 1u << SLOT_BITS)
            return NULL;
        c->slots = mp_realloc(c->slots, n * sizeof *c->slots);
        for (uint32_t k = n; k-- > c->n_slots;) {
            c->slots[k] = (struct slot){.next_free = c->free};
            c->free = k;
        }
        c->n_slots = n;
        i = c->free;
    }
    c->free = c->slots[i].next_free;
    c->slots[i] = (struct slot){.call = call, .id = ++c->count << SLOT_BITS | i, .sent = true};
    set_sent(c, &c->slots[i], false);
    mp_call_set_tag(call, (void *)(uintptr_t)i);
    if (c->active++ == 0)
        mp_link_want(c->link, true);
    return &c->slots[i];
}

static struct mp_call *slot_give(struct mp_calls *c, struct slot *s)
{
    struct mp_call *call = mp_move(&s->call);
    set_sent(c, s, true);
    if (--c->active == 0)
        mp_link_want(c->link, false);
    s->next_free = c->free;
    c->free = (uint32_t)(s - c->slots);
    return call;
}

/* Ends a call that still holds its slot. The call may be gone after this. */
static void fail(struct mp_calls *c, struct slot *s, struct mp_err *err, double retry_after)
{
    err->retry_after = retry_after;
    mp_call_on_failed(slot_give(c, s), err, retry_after);
}

static bool usable(const struct mp_calls *c)
{
    return mp_link_up(c->link) && mp_engine_declared(c->engine) == mp_link_engine(c->link);
}

static int send_start(struct mp_calls *c, struct slot *s, struct mp_err *err)
{
    struct mp_msg m = {.type = MP_MSG_START, .id = s->id, .u.start = mp_call_args(s->call)->start};
    s->started = true;
    return mp_link_send(c->link, &m, err);
}

static int send_prepare(struct mp_calls *c, struct slot *s, struct mp_err *err)
{
    const struct mp_call_args *a = mp_call_args(s->call);
    struct mp_msg m = {.type = MP_MSG_PREPARE, .id = s->id};
    int rc;
    m.u.prepare = (struct mp_msg_prepare){.model = mp_span_of(mp_pool_model_name(a->model)),
                                          .kind = (uint8_t)a->kind,
                                          .special = a->special,
                                          .payload = {a->payload, (uint32_t)a->n}};
    if (a->n > UINT32_MAX)
        return mp_err_set(err, MP_ELIMIT, "a prompt of %zu bytes is too long", a->n);
    rc = mp_link_send(c->link, &m, err);
    if (rc == 0) {
        set_sent(c, s, true);
        if (mp_call_started(s->call))
            rc = send_start(c, s, err);
    }
    return rc;
}

static void on_tick(uv_timer_t *t);

/* It has its place, and no engine is there just now. */
static void be_patient(struct mp_calls *c, struct slot *s)
{
    s->deadline_ns = mp_clock_mono_ns() + c->patience_ms * UINT64_C(1000000);
    uv_timer_start(&c->tick, on_tick, TICK_MS, TICK_MS);
}

/* ---- the provider's functions ---- */

static int ops_send(void *link, struct mp_call *call, struct mp_err *err)
{
    struct mp_calls *c = link;
    struct slot *s = slot_take(c, call);
    int rc = 0;
    if (!s)
        return mp_err_set(err, MP_EBUSY, "too many requests at once");
    if (usable(c))
        rc = send_prepare(c, s, err);
    if (rc < 0)
        slot_give(c, s);
    return rc;
}

static void ops_go(void *link, struct mp_call *call)
{
    struct mp_calls *c = link;
    struct slot *s = slot_of(c, call);
    if (!s->sent)
        be_patient(c, s);
    else if (!s->started)
        send_start(c, s, NULL); /* the args were encoded once before; away means `down` is on its way */
}

static void ops_cancel(void *link, struct mp_call *call)
{
    struct mp_calls *c = link;
    struct slot *s = slot_of(c, call);
    struct mp_msg m = {.type = MP_MSG_CANCEL, .id = s->id};
    if (s->call != call) /* it was let go before its last event */
        return;
    if (s->sent)
        mp_link_send(c->link, &m, NULL);
    slot_give(c, s);
}

static void ops_window(void *link, struct mp_call *call, size_t bytes)
{
    struct mp_calls *c = link;
    struct slot *s = slot_of(c, call);
    struct mp_msg m = {.type = MP_MSG_WINDOW, .id = s->id};
    m.u.window.bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    if (s->call == call && s->started)
        mp_link_send(c->link, &m, NULL);
}

/* ---- what the engine says ---- */

static void on_up(void *user)
{
    struct mp_calls *c = user;
    struct mp_msg ask = {.type = MP_MSG_MODELS, .id = MODELS_ID};
    mp_link_send(c->link, &ask, NULL);
    if (usable(c))
        mp_calls_declared(c);
}

static void forget_versions(struct mp_calls *c)
{
    for (uint32_t i = 0; i < c->n_versions; i++)
        mp_free(c->versions[i].model);
    c->n_versions = 0;
}

static void on_down(void *user, const struct mp_err *why)
{
    struct mp_calls *c = user;
    (void)why; /* the control thread's link has it too, and says it */
    forget_versions(c);
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct slot *s = &c->slots[i];
        struct mp_err err = {0};
        if (!s->call || !s->sent)
            continue;
        if (s->started) {
            mp_err_set(&err, MP_EENGINE,
                       "the engine of model '%s' ended while it worked on this request; it is restarted",
                       mp_pool_model_name(mp_call_model(s->call)));
            fail(c, s, &err, 1);
        } else
            set_sent(c, s, false);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct mp_calls *c = mp_container_of(t, struct mp_calls, tick);
    uint64_t now = mp_clock_mono_ns();
    bool patient = false;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct slot *s = &c->slots[i];
        struct mp_err err = {0};
        if (!s->call || s->sent || s->deadline_ns == 0)
            continue;
        if (s->deadline_ns > now) {
            patient = true;
            continue;
        }
        mp_err_set(&err, MP_EUNAVAILABLE, "no engine for model '%s' came within %g seconds",
                   mp_pool_model_name(mp_call_model(s->call)), c->patience_ms / 1000.0);
        fail(c, s, &err, 5);
    }
    if (!patient)
        uv_timer_stop(t);
}

void mp_calls_declared(struct mp_calls *c)
{
    if (!usable(c))
        return;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct slot *s = &c->slots[i];
        struct mp_err err = {0};
        if (s->call && !s->sent && send_prepare(c, s, &err) < 0)
            fail(c, s, &err, 0);
    }
}

/* The engine has another version of the model from here on: what has not started is prepared anew, under another id (an answer to the old
 * one may be on its way). */
static void prepare_anew(struct mp_calls *c, const char *model)
{
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct slot *s = &c->slots[i];
        struct mp_msg m = {.type = MP_MSG_CANCEL, .id = s->id};
        struct mp_err err = {0};
        if (!s->call || !s->sent || s->started || strcmp(mp_pool_model_name(mp_call_model(s->call)), model) != 0)
            continue;
        mp_link_send(c->link, &m, NULL);
        s->id = ++c->count << SLOT_BITS | i;
        set_sent(c, s, false);
        if (send_prepare(c, s, &err) < 0)
            fail(c, s, &err, 0);
    }
}

static void on_state(struct mp_calls *c, const struct mp_msg_model_state *said)
{
    uint32_t i = 0;
    if (said->identity == 0)
        return;
    while (i < c->n_versions && !(strlen(c->versions[i].model) == said->name.n &&
                                  memcmp(c->versions[i].model, said->name.p, said->name.n) == 0))
        i++;
    if (i == c->n_versions) {
        c->versions = mp_realloc(c->versions, ++c->n_versions * sizeof *c->versions);
        c->versions[i] = (struct version){mp_strndup(said->name.p, said->name.n), said->identity};
    } else if (c->versions[i].identity != said->identity) {
        c->versions[i].identity = said->identity;
        prepare_anew(c, c->versions[i].model);
    }
}

static void on_done(struct mp_calls *c, struct slot *s, const struct mp_msg_done *d)
{
    struct mp_usage usage = {.prompt_tokens = d->prompt_tokens,
                             .cached_tokens = d->cached_tokens,
                             .completion_tokens = d->completion_tokens,
                             .device_ns = d->device_ns};
    struct mp_err err = {0};
    uint64_t id = s->id;
    if (d->text.n > 0) {
        mp_call_on_text(s->call, d->text.p, d->text.n, &usage);
        s = slot_by_id(c, id); /* it may have been cancelled, the slots moved */
        if (!s)
            return;
    }
    if (d->finish == MP_MSG_FINISH_CANCELLED) {
        mp_err_set(&err, MP_EENGINE, "the engine gave this request up");
        fail(c, s, &err, 1);
    } else
        mp_call_on_done(slot_give(c, s), (enum mp_msg_finish)d->finish, &usage);
}

static void on_error(struct mp_calls *c, struct slot *s, const struct mp_msg_error *e)
{
    struct mp_err err = {0};
    char code[33];
    memcpy(code, e->code.p ? e->code.p : "", e->code.n < 32 ? e->code.n : 32);
    code[e->code.n < 32 ? e->code.n : 32] = '\0';
    int known = mp_err_from_name(code);
    mp_err_set(&err, known ? known : MP_EINTERNAL, "%.*s", (int)e->message.n, e->message.p ? e->message.p : "");
    fail(c, s, &err, (double)e->retry_ns / 1e9);
}

static void on_message(void *user, const struct mp_msg *m)
{
    struct mp_calls *c = user;
    struct slot *s = m->id ? slot_by_id(c, m->id) : NULL;
    struct mp_usage usage = {0};
    if (m->type == MP_MSG_MODEL_STATE)
        on_state(c, &m->u.model_state);
    if (!s) /* a broadcast (the control thread reads those), or of a call that was cancelled */
        return;
    switch (m->type) {
    case MP_MSG_PREPARED:
        s->prompt_tokens = m->u.prepared.n_tokens;
        mp_call_on_prepared(s->call, m->u.prepared.n_tokens, m->u.prepared.left);
        break;
    case MP_MSG_TOKENS:
        usage.prompt_tokens = s->prompt_tokens;
        usage.completion_tokens = m->u.tokens.completion_tokens;
        usage.device_ns = m->u.tokens.device_ns;
        mp_call_on_text(s->call, m->u.tokens.text.p, m->u.tokens.text.n, &usage);
        break;
    case MP_MSG_DONE: on_done(c, s, &m->u.done); break;
    case MP_MSG_ERROR: on_error(c, s, &m->u.error); break;
    default: mp_warn("the engine sent '%s' for a request", mp_msg_name(m->type));
    }
}

static const struct mp_link_events link_events = {on_up, on_message, on_down};

struct mp_calls *mp_calls_new(struct mp_evloop *loop, struct mp_engine *engine)
{
    struct mp_calls *c = mp_calloc(sizeof *c);
    c->engine = engine;
    c->free = NO_SLOT;
    c->patience_ms = PATIENCE_MS;
    uv_timer_init(mp_evloop_uv(loop), &c->tick);
    c->link = mp_link_new(loop, mp_engine_path(engine), &link_events, c);
    return c;
}

void mp_calls_patience(struct mp_calls *c, uint32_t ms)
{
    c->patience_ms = ms;
}

static void on_tick_closed(uv_handle_t *h)
{
    struct mp_calls *c = mp_container_of((uv_timer_t *)h, struct mp_calls, tick);
    forget_versions(c);
    mp_free(c->versions);
    mp_free(c->slots);
    mp_free(c);
}

void mp_calls_free(struct mp_calls *c)
{
    struct mp_err err = {0};
    if (!c)
        return;
    mp_err_set(&err, MP_ECANCELLED, "the server is stopping");
    for (uint32_t i = 0; i < c->n_slots; i++)
        if (c->slots[i].call)
            fail(c, &c->slots[i], &err, 0);
    mp_link_free(c->link);
    uv_close((uv_handle_t *)&c->tick, on_tick_closed);
}

const struct mp_provider_ops mp_provider_engine = {.name = "engine",
                                                   .start = mp_engine_load,
                                                   .stop = mp_engine_unload,
                                                   .ready = mp_engine_ready,
                                                   .send = ops_send,
                                                   .go = ops_go,
                                                   .cancel = ops_cancel,
                                                   .window = ops_window};
