/* core/engine/loop.h — the engine's one loop: pick work → one step → sample → emit, with two steps in flight. No threads, no
 * sockets, no clock of its own: the device thread (engine.c), `moonpool run` (local.c) and specs with the fake device and
 * virtual time turn it. Every call comes from the thread that owns the device.
 *
 * Replica: one model on this device, warm. Sequence: one request, from mp_loop_submit to its DONE or ERROR event, which comes
 * exactly once and is the last; device time of steps under way is in it, so that the sum over sequences is the device's busy
 * time.
 *
 * Admission: by priority, then in order of arrival; a sequence starts when a slot is free and every page it can ever need
 * (prompt + max_tokens) can be reserved. So nothing that runs ever waits for a page, nothing is preempted, nothing deadlocks,
 * and the first in line is never overtaken for good. A replica's load holds memory for the pages of one full context; pages beyond that,
 * reserved or still committed, are held in the device's room, and where it gives no more the line waits. Among replicas the one that used least device time goes first. */
#ifndef MP_LOOP_H
#define MP_LOOP_H
#include "core/engine/room.h"
#include "core/wire/msg.h"
#include "gpu/device.h"

struct mp_loop;
struct mp_replica;
struct mp_seq;

struct mp_loop_conf {           /* zeros: the defaults */
    uint64_t (*now)(void *ctx); /* NULL: CLOCK_MONOTONIC */
    void *ctx;
    uint32_t depth;       /* steps in flight: 1 or 2 (default) */
    uint32_t chunk;       /* debug cap on prefill tokens of one sequence in one step; 0: none */
    uint64_t step_ns;     /* a step's wanted length while something decodes (default 50 ms) */
    struct mp_room *room; /* borrowed; NULL: memory is not counted */
};

/* dev is borrowed and stays open until mp_loop_free. */
struct mp_loop *mp_loop_new(const struct mp_device_ops *ops, struct mp_dev *dev, const struct mp_loop_conf *conf);
void mp_loop_free(struct mp_loop *l); /* every replica must be gone; NULL is fine */

struct mp_vocab { /* what the loop asks of a tokenizer; NULL functions: no text, no end of generation */
    void *ctx;
    const char *(*piece)(void *ctx, int32_t id, size_t *n);
    bool (*is_eog)(void *ctx, int32_t id);
};

struct mp_body { /* what a replica runs on; borrowed until mp_replica_free */
    struct mp_exec *exec;
    struct mp_limits lim; /* max_slot sequences run at once; max_tok >= max_seq >= max_slot, max_out >= max_seq */
    uint32_t page_tokens, n_kvs, n_vocab;
    struct mp_mem *kv[MP_MAX_KVS];
    uint64_t page_bytes[MP_MAX_KVS];
    double tok_cost, kv_cost; /* flops per token, and per position that a token attends to */
};

/* context: the most positions of one sequence. */
struct mp_replica *mp_replica_new(struct mp_loop *l, uint32_t context, const struct mp_vocab *vocab,
                                  const struct mp_body *body);
void mp_replica_free(struct mp_replica *r);           /* mp_replica_busy must be 0; NULL is fine */
uint32_t mp_replica_busy(const struct mp_replica *r); /* sequences whose last event was not taken */
/* At most n sequences run at once from now on, and never more than lim.max_slot; those that run go on. */
void mp_replica_most(struct mp_replica *r, uint32_t n);

struct mp_replica_stats {
    uint32_t running, waiting;
    uint32_t slots_used, pages_used, pages_reserved;
    uint64_t kv_bytes; /* committed */
    uint64_t beyond;   /* bytes held in the room on top of one context */
    uint64_t device_ns;
};
void mp_replica_stats(const struct mp_replica *r, struct mp_replica_stats *out);
void mp_replica_trim(struct mp_replica *r); /* gives free KV pages' memory back */

/* Puts a request in line. ids and what s points to are copied. tag comes back as the events' id. NULL when it is refused:
 * MP_EINVAL (an empty prompt, an id out of the vocabulary), MP_ECONTEXT. max_tokens beyond the context is cut to it. */
struct mp_seq *mp_loop_submit(struct mp_replica *r, uint64_t tag, const int32_t *ids, uint32_t n,
                              const struct mp_msg_start *s, struct mp_err *err);
/* No step issued from now on contains it. Its DONE (cancelled) comes when the steps under way are over. Nothing when it has
 * ended. s is valid until its last event was taken. */
void mp_seq_cancel(struct mp_seq *s);
void mp_seq_window(struct mp_seq *s, uint32_t bytes); /* the reader took so many bytes more */

/* One turn: takes in what the device finished, issues steps, and waits up to timeout_ns when nothing else can be done and a step
 * is under way. True: something happened, turn again. False: nothing to do until a submit, a window or a deadline. */
bool mp_loop_turn(struct mp_loop *l, uint64_t timeout_ns);
/* The next TOKENS, DONE or ERROR message, with the sequence's tag as id; false when there is none. Spans are valid until the next
 * call. The sequence is gone after its DONE or ERROR. */
bool mp_loop_event(struct mp_loop *l, struct mp_msg *m);
uint64_t mp_loop_deadline(const struct mp_loop *l); /* the earliest of any sequence, by conf.now; UINT64_MAX: none */

struct mp_loop_stats {
    uint64_t steps, tokens, seqs; /* issued; tokens and sequences over all steps */
    uint64_t busy_ns;             /* by the device's clock, of finished steps */
    uint32_t in_flight, most_in_flight;
    uint64_t last_tokens;     /* steps whose input held MP_TOK_LAST */
    uint64_t oldest_issue_ns; /* when the oldest step in flight was issued; 0: none */
};
void mp_loop_stats(const struct mp_loop *l, struct mp_loop_stats *out);

#endif
