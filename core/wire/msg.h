/* core/wire/msg.h — the messages between gateway and engine: one table, from which structs, names, encoder and decoder are
 * made. Used by core/gateway (links to engines) and core/engine, and by core/wire/wire.c for the handshake.
 *
 * A frame on the wire, little endian: u32 length of what follows | u16 type | u16 flags (0) | u64 request id | payload.
 * Request ids belong to one connection; the asking side (the gateway) chooses them, never reusing one that is not over.
 * Id 0 is the connection itself (HELLO, PING, broadcasts).
 *
 * A generation, as the gateway sees it:
 *   PREPARE -> PREPARED | ERROR (over)        the prompt is tokens now; nothing is scheduled. May come before a model is warm
 *   START   -> TOKENS* -> DONE | ERROR (over) may be sent right behind PREPARE; a cold model is loaded for it
 *   CANCEL  -> DONE(cancelled) (over)         at any time after PREPARE; without effect once the request is over
 *   WINDOW                                    gives back text bytes that the client took, for START's window
 * Models: MODEL_DECLARE, MODEL_LOAD, MODEL_UNLOAD, MODEL_FORGET, MODEL_CHECK -> MODEL_STATE with that id, or ERROR;
 * MODELS -> MODEL_STATE*, MODELS_END; DEVICE_LIMIT -> DEVICE_STATE.
 * Every change of a model's state is broadcast as MODEL_STATE with id 0. Any request may be answered by ERROR, which ends it.
 *
 * Versions of a model. MODEL_DECLARE with another identity (another file, also at the same path; other load options) replaces
 * the model: the new version is opened; if that fails the old one goes on. Else the name is the new version's: the old one's
 * running sequences end on it, it is freed, the new one loads; if that fails, the old one is loaded again from its file, which is
 * still open. `replacing` is 1 meanwhile and `cause` says how it ended. No request mixes versions: one that was prepared on
 * another version than will run it is rendered and tokenized again by the engine before it starts (the counts in DONE are those
 * of what ran; nothing is said otherwise). A gateway may also CANCEL it and PREPARE it anew.
 *
 * An engine that has nothing loaded, no request and no check for a while says BYE and ends; so may one that is told to stop.
 * What a peer sent and had no answer to when BYE came was not begun: it may be sent again to the engine that comes next. A new
 * process knows no models and no limit: both are declared to it anew. */
#ifndef MP_MSG_H
#define MP_MSG_H
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MP_WIRE_MAGIC = 0x6c6f6f70, /* "pool" */
    MP_WIRE_VERSION = 2,        /* what this build speaks */
    MP_WIRE_OLDEST = 2,      /* the oldest it still accepts: the one before, once there was a release (1 was in none) */
    MP_FRAME_MAX = 16 << 20, /* bytes of a frame, its length field included */
    MP_FRAME_HEAD = 16,      /* bytes before the payload */
    MP_MSG_MAX_STOPS = 8,
    MP_MSG_MAX_STOP = 256, /* bytes of one stop string */
};

struct mp_span { /* bytes inside a message: borrowed, not NUL-terminated; p may be NULL when n is 0 */
    const char *p;
    uint32_t n;
};

struct mp_span mp_span_of(const char *s); /* of a NUL-terminated string; NULL gives an empty one */

enum mp_peer { MP_PEER_GATEWAY, MP_PEER_ENGINE, MP_PEER_TOOL, MP_N_PEERS };

/* state, name (users see it). DECLARED: known, its file not looked at yet. LOADING: from the moment it was asked for, so that a load goes
 * through loading to warm, failed or (given up) draining and cold, and through no other. */
#define MP_MODEL_STATES(X)  \
    X(DECLARED, "declared") \
    X(COLD, "cold")         \
    X(LOADING, "loading")   \
    X(WARM, "warm")         \
    X(DRAINING, "draining") \
    X(FAILED, "failed")
enum mp_model_state {
#define X(code, name) MP_MODEL_##code,
    MP_MODEL_STATES(X)
#undef X
        MP_N_MODEL_STATES
};

#define MP_MSG_FINISHES(X) \
    X(STOP, "stop")        \
    X(LENGTH, "length")    \
    X(CANCELLED, "cancelled")
enum mp_msg_finish {
#define X(code, name) MP_MSG_FINISH_##code,
    MP_MSG_FINISHES(X)
#undef X
        MP_MSG_N_FINISHES
};

/* What PREPARE's payload is. CHAT: JSON, the array of messages, or {"messages": […], …} with what else the chat
 * template takes ("tools", "add_generation_prompt", …). TEXT: UTF-8. IDS: i32 token ids. */
enum mp_prepare_kind { MP_PREPARE_CHAT, MP_PREPARE_TEXT, MP_PREPARE_IDS, MP_N_PREPARE_KINDS };

/* Fields: F(kind, name, most). Kinds U8 U16 U32 U64 (0..most), I32 (-most..most), F32 (finite, |x| <= most),
 * SPAN (u32 count and at most `most` bytes), STOPS (u8 count <= 8, each u16 length <= 256, none empty).
 * Ranges hold when encoding and when decoding. */
#define MP_HELLO_FIELDS(F)                                                      \
    F(U32, magic, UINT32_MAX)                                                   \
    F(U16, version, UINT16_MAX)                                                 \
    F(U16, oldest, UINT16_MAX) /* the oldest version that the sender accepts */ \
    F(U8, role, MP_N_PEERS - 1)                                                 \
    F(U32, pid, INT32_MAX)                                                      \
    F(SPAN, build, 64) /* "0.1.0", for people */
#define MP_PING_FIELDS(F) F(U64, nonce, UINT64_MAX)
#define MP_PONG_FIELDS(F)     \
    F(U64, nonce, UINT64_MAX) \
    F(U64, step_ns, UINT64_MAX) /* how long the oldest device step has been under way: shows a hung one; 0: none */
/* spec: JSON, see core/engine/README.md: {"source": path, "sha256"?, "context"?, "numerics"?, "kv_type"?, "max_concurrency"?,
 * "devices"?: ["cpu"]}. Same name and spec, same file: nothing happens. max_concurrency applies in place: less at once; more at once
 * up to twice what was declared at the load (32 at least), beyond that at the next load. What changes the model's identity replaces it (see
 * above). The answer comes when the file was opened, or could not be. */
#define MP_MODEL_DECLARE_FIELDS(F)                           \
    F(SPAN, name, 128) /* as every later message names it */ \
    F(SPAN, spec, 65536)
#define MP_MODEL_LOAD_FIELDS(F) F(SPAN, name, 128)
/* Running sequences finish first (draining). A load under way is given up at its next chunk. */
#define MP_MODEL_UNLOAD_FIELDS(F) F(SPAN, name, 128)
#define MP_MODELS_FIELDS(F)       /* asks for every model's state */
#define MP_MODELS_END_FIELDS(F)   F(U32, count, UINT32_MAX)
/* need, reserved: bytes of the device. need is what a load reserves: weights as the device lays them out, scratch, KV for one full
 * context; known once the file was opened, corrected by what the last load took. reserved is held against the device's limit now: need
 * while loading and warm, more while sequences hold KV beyond one context. cause: how the last replacement ended when it failed, until the
 * next one or a load. */
#define MP_MODEL_STATE_FIELDS(F)                                                                        \
    F(SPAN, name, 128)                                                                                  \
    F(U8, state, MP_N_MODEL_STATES - 1)                                                                 \
    F(U64, identity, UINT64_MAX) /* hash of what the model is: file and load options */                 \
    F(U64, done, UINT64_MAX)     /* loading: bytes so far, of total */                                  \
    F(U64, total, UINT64_MAX)                                                                           \
    F(U32, loads, UINT32_MAX)   /* times it was loaded since the engine started */                      \
    F(U64, load_ns, UINT64_MAX) /* how long the last load took */                                       \
    F(U32, context, UINT32_MAX) /* tokens of prompt and answer together; 0 until the file was opened */ \
    F(U32, n_vocab, UINT32_MAX)                                                                         \
    F(U32, running, UINT32_MAX) /* sequences on the device, and waiting for a place */                  \
    F(U32, waiting, UINT32_MAX)                                                                         \
    F(U64, memory, UINT64_MAX) /* bytes on the device: weights, scratch, committed KV pages */          \
    F(SPAN, device, 128)       /* "cpu: 2 threads, avx2"; empty unless on one */                        \
    F(SPAN, arch, 64)                                                                                   \
    F(I32, error, 4096)          /* why it failed: an MP_E… code, or 0 */                             \
    F(SPAN, reason, 1000)        /* the same for people */                                              \
    F(U64, retry_ns, UINT64_MAX) /* failed: nanoseconds until a START may try again */                  \
    F(U64, need, UINT64_MAX)                                                                            \
    F(U64, reserved, UINT64_MAX)                                                                        \
    F(U8, replacing, 1) /* another version is being opened, waits for the old one to end, or loads */   \
    F(SPAN, cause, 200) /* for people */
/* What all models together may reserve on the device: loads, and KV beyond one context of each. Kept until the process ends. */
#define MP_DEVICE_LIMIT_FIELDS(F) F(U64, memory, UINT64_MAX) /* bytes; 0: what the device has */
#define MP_DEVICE_STATE_FIELDS(F)                                                            \
    F(SPAN, device, 128)         /* "cpu: 2 threads, avx2"; empty while nothing is loaded */ \
    F(U64, memory, UINT64_MAX)   /* the limit in force; 0: none is known */                  \
    F(U64, reserved, UINT64_MAX) /* of that, by all models */                                \
    F(U64, used, UINT64_MAX)     /* bytes taken now, by the device's own count */
/* Would this declaration do? Opens the file's header, lays the model out, compares `need` with the limit; keeps nothing. Answered
 * with a MODEL_STATE: cold, with identity, context, need; or failed, with error and reason. */
#define MP_MODEL_CHECK_FIELDS(F) \
    F(SPAN, name, 128)           \
    F(SPAN, spec, 65536)
/* The name is free at once; what runs ends first, a load under way is given up. */
#define MP_MODEL_FORGET_FIELDS(F) F(SPAN, name, 128)
/* From an engine that is about to end of itself, with id 0; the last message of the connection. */
#define MP_BYE_FIELDS(F) F(SPAN, reason, 200) /* for people: "idle" */
#define MP_PREPARE_FIELDS(F)                                                                      \
    F(SPAN, model, 128)                                                                           \
    F(U8, kind, MP_N_PREPARE_KINDS - 1)                                                           \
    F(U8, special, 1) /* TEXT: control tokens in the text are honoured (the endpoint opted in) */ \
    F(SPAN, payload, (16 << 20) - 4096)
#define MP_PREPARED_FIELDS(F)                                                          \
    F(U32, n_tokens, UINT32_MAX)                                                       \
    F(U32, left, UINT32_MAX) /* context - n_tokens: the most that max_tokens can be */ \
    F(SPAN, hashes, 1 << 20) /* reserved: u64 per full block, for prefix routing */
#define MP_START_FIELDS(F)                                                                            \
    F(U32, max_tokens, UINT32_MAX) /* UINT32_MAX: as many as the context leaves; 0: prefill only */   \
    F(U8, greedy, 1)               /* argmax; the sampling fields are then unused */                  \
    F(U8, ignore_eog, 1)           /* benchmarks: end-of-generation tokens do not stop */             \
    F(U8, top_logprobs, 20)                                                                           \
    F(I32, top_k, INT32_MAX) /* 0: off */                                                             \
    F(F32, temperature, 100) /* 0: greedy */                                                          \
    F(F32, top_p, 1)         /* (0, 1]; 1: off */                                                     \
    F(F32, min_p, 1)         /* 0: off */                                                             \
    F(F32, repetition, 10)   /* penalties; 1, 0, 0: off */                                            \
    F(F32, frequency, 10)                                                                             \
    F(F32, presence, 10)                                                                              \
    F(U64, seed, UINT64_MAX)                                                                          \
    F(U32, window, UINT32_MAX)      /* text bytes that may be unacknowledged (WINDOW); 0: no limit */ \
    F(I32, priority, 1000)          /* higher first in the waiting line */                            \
    F(U64, deadline_ns, UINT64_MAX) /* from receipt; 0: none. Past it: ERROR timeout */               \
    F(STOPS, stops, MP_MSG_MAX_STOPS)
#define MP_TOKENS_FIELDS(F)                                                                                           \
    F(U32, completion_tokens, UINT32_MAX) /* cumulative, of tokens made; text may lag behind (held back for stops) */ \
    F(U64, device_ns, UINT64_MAX)         /* cumulative */                                                            \
    F(SPAN, text, 1 << 20)                /* new since the last message; valid UTF-8, never cut inside a character */ \
    F(SPAN, logprobs, 1 << 20)            /* reserved */
#define MP_DONE_FIELDS(F)                                                                                            \
    F(U8, finish, MP_MSG_N_FINISHES - 1)                                                                             \
    F(SPAN, stop, MP_MSG_MAX_STOP) /* the stop string that matched; empty: an end-of-generation token, or no stop */ \
    F(U32, prompt_tokens, UINT32_MAX)                                                                                \
    F(U32, cached_tokens, UINT32_MAX) /* of the prompt, found in the prefix cache */                                 \
    F(U32, completion_tokens, UINT32_MAX)                                                                            \
    F(U64, device_ns, UINT64_MAX)                                                                                    \
    F(U64, prefill_ns, UINT64_MAX) /* device time of it until the first token was sampled */                         \
    F(U64, queue_ns, UINT64_MAX)   /* from START to the first step, loading included */                              \
    F(U64, load_ns, UINT64_MAX)    /* of that, waiting for the model to load */                                      \
    F(U64, first_ns, UINT64_MAX)   /* from START to the first token */                                               \
    F(U64, total_ns, UINT64_MAX)   /* from START to the end */                                                       \
    F(SPAN, text, 1 << 20)         /* the tail: new since the last TOKENS */                                         \
    F(SPAN, logprobs, 1 << 20)
#define MP_ERROR_FIELDS(F)                                                            \
    F(SPAN, code, 32) /* mp_err_name */                                               \
    F(SPAN, message, 1000)                                                            \
    F(U64, retry_ns, UINT64_MAX)      /* worth trying again after this; 0: unknown */ \
    F(U32, prompt_tokens, UINT32_MAX) /* what is billed all the same */               \
    F(U32, completion_tokens, UINT32_MAX)                                             \
    F(U64, device_ns, UINT64_MAX)
#define MP_CANCEL_FIELDS(F)
#define MP_WINDOW_FIELDS(F) F(U32, bytes, UINT32_MAX)

/* number (part of the wire: never reused), NAME, name */
#define MP_MESSAGES(X)                 \
    X(1, HELLO, hello)                 \
    X(2, PING, ping)                   \
    X(3, PONG, pong)                   \
    X(4, MODEL_DECLARE, model_declare) \
    X(5, MODEL_LOAD, model_load)       \
    X(6, MODEL_UNLOAD, model_unload)   \
    X(7, MODELS, models)               \
    X(8, MODELS_END, models_end)       \
    X(9, MODEL_STATE, model_state)     \
    X(10, PREPARE, prepare)            \
    X(11, PREPARED, prepared)          \
    X(12, START, start)                \
    X(13, TOKENS, tokens)              \
    X(14, DONE, done)                  \
    X(15, ERROR, error)                \
    X(16, CANCEL, cancel)              \
    X(17, WINDOW, window)              \
    X(18, DEVICE_LIMIT, device_limit)  \
    X(19, DEVICE_STATE, device_state)  \
    X(20, MODEL_CHECK, model_check)    \
    X(21, MODEL_FORGET, model_forget)  \
    X(22, BYE, bye)

enum mp_msg_type {
#define X(num, NAME, name) MP_MSG_##NAME = num,
    MP_MESSAGES(X)
#undef X
};

#define MP_FIELD_U8(name)   uint8_t name;
#define MP_FIELD_U16(name)  uint16_t name;
#define MP_FIELD_U32(name)  uint32_t name;
#define MP_FIELD_U64(name)  uint64_t name;
#define MP_FIELD_I32(name)  int32_t name;
#define MP_FIELD_F32(name)  float name;
#define MP_FIELD_F64(name)  double name;
#define MP_FIELD_SPAN(name) struct mp_span name;
#define MP_FIELD_STOPS(name)               \
    struct mp_span name[MP_MSG_MAX_STOPS]; \
    uint8_t n_##name;
#define MP_FIELD(kind, name, most) MP_FIELD_##kind(name)

struct mp_msg_hello {
    MP_HELLO_FIELDS(MP_FIELD)
};
struct mp_msg_ping {
    MP_PING_FIELDS(MP_FIELD)
};
struct mp_msg_pong {
    MP_PONG_FIELDS(MP_FIELD)
};
struct mp_msg_model_declare {
    MP_MODEL_DECLARE_FIELDS(MP_FIELD)
};
struct mp_msg_model_load {
    MP_MODEL_LOAD_FIELDS(MP_FIELD)
};
struct mp_msg_model_unload {
    MP_MODEL_UNLOAD_FIELDS(MP_FIELD)
};
struct mp_msg_models_end {
    MP_MODELS_END_FIELDS(MP_FIELD)
};
struct mp_msg_model_state {
    MP_MODEL_STATE_FIELDS(MP_FIELD)
};
struct mp_msg_prepare {
    MP_PREPARE_FIELDS(MP_FIELD)
};
struct mp_msg_prepared {
    MP_PREPARED_FIELDS(MP_FIELD)
};
struct mp_msg_start {
    MP_START_FIELDS(MP_FIELD)
};
struct mp_msg_tokens {
    MP_TOKENS_FIELDS(MP_FIELD)
};
struct mp_msg_done {
    MP_DONE_FIELDS(MP_FIELD)
};
struct mp_msg_error {
    MP_ERROR_FIELDS(MP_FIELD)
};
struct mp_msg_window {
    MP_WINDOW_FIELDS(MP_FIELD)
};
struct mp_msg_device_limit {
    MP_DEVICE_LIMIT_FIELDS(MP_FIELD)
};
struct mp_msg_device_state {
    MP_DEVICE_STATE_FIELDS(MP_FIELD)
};
struct mp_msg_model_check {
    MP_MODEL_CHECK_FIELDS(MP_FIELD)
};
struct mp_msg_model_forget {
    MP_MODEL_FORGET_FIELDS(MP_FIELD)
};
struct mp_msg_bye {
    MP_BYE_FIELDS(MP_FIELD)
};

struct mp_msg {
    uint16_t type;  /* enum mp_msg_type */
    uint16_t flags; /* 0 */
    uint64_t id;    /* request id; 0: the connection */
    union {         /* MODELS and CANCEL have no fields */
        struct mp_msg_hello hello;
        struct mp_msg_ping ping;
        struct mp_msg_pong pong;
        struct mp_msg_model_declare model_declare;
        struct mp_msg_model_load model_load;
        struct mp_msg_model_unload model_unload;
        struct mp_msg_models_end models_end;
        struct mp_msg_model_state model_state;
        struct mp_msg_prepare prepare;
        struct mp_msg_prepared prepared;
        struct mp_msg_start start;
        struct mp_msg_tokens tokens;
        struct mp_msg_done done;
        struct mp_msg_error error;
        struct mp_msg_window window;
        struct mp_msg_device_limit device_limit;
        struct mp_msg_device_state device_state;
        struct mp_msg_model_check model_check;
        struct mp_msg_model_forget model_forget;
        struct mp_msg_bye bye;
    } u;
};

const char *mp_msg_name(uint32_t type);         /* "model_state"; NULL for an unknown type */
const char *mp_model_state_name(uint32_t s);    /* "warm" */
const char *mp_msg_finish_name(uint32_t f);     /* "stop" */
void mp_msg_start_init(struct mp_msg_start *s); /* greedy off, temperature 1, everything else off, no token limit */

/* Appends the frame. 0, or MP_EINVAL (a field out of its range, or an unknown type: named in err) with out unchanged. */
int mp_msg_encode(struct mp_buf *out, const struct mp_msg *m, struct mp_err *err);
/* From a whole frame's type, flags, id and payload. Spans point into the payload. MP_EPROTO: unknown type, non-zero flags, a
 * field missing or out of its range, bytes left over; err names message and field. */
int mp_msg_decode(struct mp_msg *m, uint16_t type, uint16_t flags, uint64_t id, const void *payload, size_t n,
                  struct mp_err *err);
/* Splits the first frame off n bytes. 1: m is filled and *used its bytes. 0: more bytes are needed. MP_EPROTO. */
int mp_msg_next(struct mp_msg *m, const void *data, size_t n, size_t *used, struct mp_err *err);
/* An ERROR from an mp_err; spans point into err. */
void mp_msg_set_error(struct mp_msg *m, uint64_t id, const struct mp_err *err);

#endif
