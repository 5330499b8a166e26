/* core/pool/call.h — one request at a model, from the worker that sends it. core/script's model:chat and its kin use it.
 *
 * A call lives on one worker's loop. It is refused at once (the model's queue is full, its load failed a moment ago, the deadline lies
 * before the expected start), or it goes: queued for a place among its model's max_concurrency, and at the same time sent → prepared
 * (rendered and tokenized: the token count is known; a prompt that cannot be used fails now, not after a load) → with a place, on a warm
 * replica, started → text … → exactly one end: `done`, `failed`, or mp_call_cancel. No event comes after the end, and none from inside
 * mp_call_new. An event may cancel and free its own call. */
#ifndef MP_CALL_H
#define MP_CALL_H
#include "core/pool/pool.h"

struct mp_call;

struct mp_usage { /* cumulative */
    uint32_t prompt_tokens, cached_tokens,
        completion_tokens; /* cached: of the prompt, found in the prefix cache; at the end */
    uint64_t device_ns;    /* this call's part of the device's busy time */
    /* At the end, wall time: waiting (loading not counted); waiting while the model loaded; from the start on the device to the first
     * token; from there to the last; from mp_call_new to the first token. */
    uint64_t queue_ns, load_ns, prefill_ns, decode_ns, ttft_ns;
};

enum mp_call_start_kind {
    MP_START_NONE,
    MP_START_WARM,
    MP_START_COLD
}; /* COLD: the model was not warm when the call came */

struct mp_call_progress {
    enum {
        MP_CALL_QUEUED,
        MP_CALL_LOADING,
        MP_CALL_RUNNING,
        MP_CALL_OVER
    } phase; /* LOADING: waits while its model loads */
    enum mp_call_start_kind start;
    uint32_t ahead;             /* QUEUED: calls before it */
    uint64_t done, total;       /* LOADING: bytes */
    double waited;              /* seconds since mp_call_new until now, or until it started */
    uint64_t queue_ns, load_ns; /* of these: loading not counted, and while the model loaded */
    double expected;            /* seconds until it starts; 0: unknown */
};

struct mp_call_events {
    /* (optional) The prompt's length is known; the call starts when this returns, unless it was cancelled in it, or
     * `hold` was asked for: then on mp_call_start. left: the most that max_tokens can be. */
    void (*prepared)(void *user, uint32_t prompt_tokens, uint32_t left);
    /* (optional) More text, n > 0: valid UTF-8, never cut inside a character. At most start's `window` bytes come before
     * mp_call_consumed gives room again. */
    void (*text)(void *user, const char *s, size_t n, const struct mp_usage *so_far);
    /* finish: MP_MSG_FINISH_STOP or _LENGTH. */
    void (*done)(void *user, enum mp_msg_finish finish, const struct mp_usage *usage);
    /* MP_EENGINE: the engine died after the call had started; MP_EUNAVAILABLE: no engine came back in time; MP_ECONTEXT,
     * MP_EINVAL, MP_ENAN …: the engine's own words. retry_after: seconds, 0 unknown. */
    void (*failed)(void *user, const struct mp_err *err, double retry_after);
};

struct mp_call_args {
    struct mp_pool_model *model;
    enum mp_prepare_kind kind; /* what payload is */
    bool special;              /* TEXT: the text of control tokens means the tokens (an endpoint opts in) */
    bool hold;                 /* wait for mp_call_start after prepared; until then it takes no place from others */
    bool background;           /* a job's: starts when no other call waits, whatever its priority */
    int32_t priority;          /* -1000..1000: higher starts first, then first come, first served */
    uint64_t deadline_ns;      /* monotonic: no start after it; 0: none */
    bool exact;                /* max_tokens was asked for: more than the context leaves fails; else it is cut */
    const void *payload;       /* n bytes; copied */
    size_t n;
    struct mp_msg_start start;           /* how to generate: mp_msg_start_init, then fields; stop strings are copied */
    const struct mp_call_events *events; /* must outlive the call */
    void *user;                          /* passed to each event */
};

/* Sends a request. NULL when it is refused at once: err says why (MP_EINVAL names the field that is out of its range; MP_EQUEUE: full;
 * MP_EDEADLINE; MP_EUNAVAILABLE: max_replicas is 0, or the load failed and is not tried again yet), err->retry_after when to try again. */
struct mp_call *mp_call_new(struct mp_pool_port *port, const struct mp_call_args *args, struct mp_err *err);
void mp_call_start(struct mp_call *c);  /* of a call that was held; nothing when it has ended */
void mp_call_cancel(struct mp_call *c); /* ends it without an event; nothing when it has ended */
/* n more bytes of text went where they go: gives the engine room for as many. */
void mp_call_consumed(struct mp_call *c, size_t n);
bool mp_call_ended(const struct mp_call *c);
bool mp_call_cold(const struct mp_call *c); /* the model was not warm when it came */
void mp_call_progress(const struct mp_call *c, uint64_t now_ns, struct mp_call_progress *out);
void mp_call_free(struct mp_call *c); /* cancels a running one first; NULL is fine */

#endif
