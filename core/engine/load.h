/* core/engine/load.h — a model file, opened (cold: header, tokenizer, plan) and loaded (warm: weights and KV room on a device).
 * Used by the engine's threads, `moonpool run` and the harness. */
#ifndef MP_LOAD_H
#define MP_LOAD_H
#include "core/base/sha256.h"
#include "core/engine/loop.h"
#include "core/engine/room.h"
#include "core/model/template.h"
#include "core/model/tokenizer.h"

struct mp_source;
struct mp_loaded;

struct mp_source_conf {
    const char *path;
    const char *sha256; /* 64 hex digits to verify before loading, or NULL */
    uint32_t context;   /* positions; 0: the model's own, at most MP_SOURCE_CONTEXT */
};
enum { MP_SOURCE_CONTEXT = 8192 };

/* Reads the file's header only, makes tokenizer and plan, and parses the chat template once to see that it can be. Immutable
 * then: any number of threads may use it. */
int mp_source_open(struct mp_source **out, const struct mp_source_conf *conf, struct mp_err *err);
struct mp_source *mp_source_ref(struct mp_source *s); /* one more owner; any thread */
void mp_source_free(struct mp_source *s);             /* drops one; NULL is fine */
const struct mp_gguf *mp_source_gguf(const struct mp_source *s);
const struct mp_tok *mp_source_tok(const struct mp_source *s);
const struct mp_plan *mp_source_plan(const struct mp_source *s);
uint32_t mp_source_context(const struct mp_source *s);
const char *mp_source_arch(const struct mp_source *s);
uint64_t mp_source_identity(const struct mp_source *s); /* of file and context: equal while neither changes */
uint64_t mp_source_serial(const struct mp_source *s);   /* of no other source of this process; never 0 */
/* The file at that path is still the one that was opened. */
bool mp_source_current(const struct mp_source *s);
/* The file that was opened is what it was then, wherever it lies now. */
bool mp_source_intact(const struct mp_source *s);
struct mp_vocab mp_source_vocab(const struct mp_source *s);

/* A prompt's token ids, appended to ids. kind: enum mp_prepare_kind, payload as PREPARE's. t: this thread's template. MP_EINVAL for
 * an empty one; MP_ECONTEXT when it leaves no room. */
int mp_source_prompt(const struct mp_source *s, struct mp_template *t, uint32_t kind, bool special, const char *payload,
                     size_t n, struct mp_ids *ids, struct mp_err *err);

struct mp_load_conf {
    uint32_t max_seq; /* sequences at once; 0: 16 */
    uint32_t max_tok; /* tokens of a step; 0: 512; at least max_seq */
    uint32_t max_out; /* rows of a step that reach the head; 0: max_seq */
    uint8_t numerics; /* enum mp_numerics */
};

struct mp_need { /* bytes of the device */
    uint64_t weights, scratch,
        beside;  /* as the device lays them out, in whole granules; beside: what else an exec takes */
    uint64_t kv; /* of one full context */
    uint64_t total;
};
/* What loading this would reserve, exactly as mp_load_claim will; MP_EUNSUPPORTED … where it cannot be loaded at all. The device is not
 * opened for it where it can answer without. Any thread. */
int mp_load_need(struct mp_source *src, const struct mp_device_ops *ops, const char *spec,
                 const struct mp_load_conf *conf, struct mp_need *out, struct mp_err *err);

/* In parts, so that steps of other models go on meanwhile. First, on the device's thread: limits and sizes; nothing is taken. dev must
 * stay open. */
int mp_load_begin(struct mp_loaded **out, struct mp_source *src, const struct mp_device_ops *ops, struct mp_dev *dev,
                  const struct mp_load_conf *conf, struct mp_err *err);
/* Second, on the device's thread: what it needs is held in room (NULL: none is kept) and the weights' memory taken. MP_ENOMEM, or
 * MP_EAGAIN as mp_room_load. */
int mp_load_claim(struct mp_loaded *l, struct mp_room *room, struct mp_err *err);
/* Third, on any thread: verifies the checksum if there is one, reads the weights. progress as mp_progress_fn. */
int mp_load_read(struct mp_loaded *l, mp_progress_fn *progress, void *ctx, struct mp_err *err);
/* Fourth, on the device's thread: scratch, KV room, the executable; what is held becomes what the device measured. */
int mp_load_build(struct mp_loaded *l, struct mp_err *err);
void mp_loaded_free(struct mp_loaded *l); /* on the device's thread, after any part; NULL is fine */
const struct mp_body *mp_loaded_body(const struct mp_loaded *l);
const struct mp_need *mp_loaded_need(const struct mp_loaded *l); /* as planned; once built as measured */

#endif
