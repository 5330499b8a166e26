/* core/pool/call.h — one request at a model, from the worker that sends it. core/script's model:chat and its kin use it.
 *
 * A call lives on one worker's loop. It goes: sent → prepared (rendered and tokenized: the token count is known) → started
 * → text … → exactly one end: `done`, `failed`, or mp_call_cancel. No event comes after the end, and none from inside
 * mp_call_new. An event may cancel and free its own call. */
#ifndef MP_CALL_H
#define MP_CALL_H
#include "core/pool/pool.h"

struct mp_call;

enum mp_call_kind {
    MP_CALL_CHAT, /* payload: the JSON array of messages, as the client sent it (a valid span, opaque to the gateway) */
    MP_CALL_TEXT, /* payload: UTF-8 text */
    MP_CALL_IDS,  /* payload: token ids, little-endian uint32 each */
};

enum { MP_CALL_MAX_STOP = 8, MP_CALL_MAX_STOP_BYTES = 256 };

/* How to generate. Ranges are checked again by mp_call_new (MP_EINVAL names the field). Strings are borrowed during
 * mp_call_new only. */
struct mp_call_settings {
    uint32_t max_tokens; /* 0: up to the context */
    uint64_t seed;
    double temperature;                                         /* 0: greedy; up to 10 */
    double top_p, min_p;                                        /* (0, 1], 1 off; [0, 1], 0 off */
    int32_t top_k;                                              /* 0 off */
    double repeat_penalty, frequency_penalty, presence_penalty; /* 1 off; 0 off; 0 off */
    struct mp_call_stop {
        const char *text;
        size_t len;
    } stop[MP_CALL_MAX_STOP];
    uint32_t n_stop;
    bool special; /* TEXT: the text of control tokens means the tokens (an endpoint opts in); default false */
    bool ignore_eos;
};

/* The model's declared defaults over the house's (temperature 1, all else off, a random seed). */
void mp_call_settings_init(struct mp_call_settings *s, const struct mp_model_decl *decl);

struct mp_usage { /* cumulative */
    uint32_t prompt_tokens, completion_tokens;
    uint64_t device_ns; /* this call's part of the device's busy time */
};

#define MP_FINISHES(X)                                              \
    X(STOP, "stop")     /* the model's own end, or a stop string */ \
    X(LENGTH, "length") /* max_tokens or the context is used up  */
enum mp_finish {
#define X(code, name) MP_FINISH_##code,
    MP_FINISHES(X)
#undef X
};
const char *mp_finish_name(int finish); /* "stop"; NULL for unknown numbers */

struct mp_call_events {
    /* (optional) The prompt's length is known; the call starts when this returns, unless it was cancelled in it, or
     * `hold` was asked for: then on mp_call_start. */
    void (*prepared)(void *user, uint32_t prompt_tokens);
    /* (optional) More text: whole UTF-8 sequences as the model made them (bytes that are not UTF-8 pass as they are).
     * Up to `window` bytes come before mp_call_consumed must give room again. */
    void (*text)(void *user, const char *s, size_t n, const struct mp_usage *so_far);
    void (*done)(void *user, enum mp_finish finish, const struct mp_usage *usage);
    /* MP_EENGINE: the engine died after it had begun; MP_EUNAVAILABLE: no engine within startup_timeout; MP_ECONTEXT,
     * MP_EINVAL, MP_ENAN …: the engine's own words. */
    void (*failed)(void *user, const struct mp_err *err);
};

/* Sends a request. payload is copied. events must outlive the call; user is passed to each. hold: wait for mp_call_start
 * after prepared. NULL when it is refused at once (err says why). */
struct mp_call *mp_call_new(struct mp_pool_port *port, const struct mp_catalog_entry *model, enum mp_call_kind kind,
                            const void *payload, size_t n, const struct mp_call_settings *settings, bool hold,
                            const struct mp_call_events *events, void *user, struct mp_err *err);
void mp_call_start(struct mp_call *c);  /* of a call that was held; nothing when it has ended */
void mp_call_cancel(struct mp_call *c); /* ends it without an event; nothing when it has ended */
/* n more bytes of text went where they go: gives the engine room for as many. */
void mp_call_consumed(struct mp_call *c, size_t n);
bool mp_call_ended(const struct mp_call *c);
void mp_call_free(struct mp_call *c); /* cancels a running one first; NULL is fine */

#endif
