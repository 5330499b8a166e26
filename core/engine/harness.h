/* core/engine/harness.h — a model's logits at every position, through real ragged steps over paged KV, for specs (by FFI) and
 * tools: alone or side by side, in chunks of any size. No scheduler, no threads of its own. */
#ifndef MP_HARNESS_H
#define MP_HARNESS_H
#include "core/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct mp_harness;

struct mp_harness_stats { /* of the last mp_harness_logits */
    uint32_t steps;
    double mean_seq; /* sequences per step */
    double mean_tok; /* tokens per step */
    uint64_t busy_ns;
};

enum { MP_HARNESS_MAX_TOK = 512 /* tokens of one step */, MP_HARNESS_MAX_SEQ = 16 };

/* path: a GGUF file. device: name, then what its open() takes: "cpu", "cpu:threads=1,isa=plain". context: positions per sequence
 * that room is made for; 0: 2048, or less where the model has less. */
int mp_harness_open(struct mp_harness **out, const char *path, const char *device, uint32_t context,
                    struct mp_err *err);
void mp_harness_free(struct mp_harness *h); /* NULL is fine */
uint32_t mp_harness_n_vocab(const struct mp_harness *h);
const char *mp_harness_device(const struct mp_harness *h); /* the device's own name for itself */
/* The id of a text, control tokens off: for specs that have no ids at hand. ids: room for max; returns how many, or < 0. */
int mp_harness_tokenize(const struct mp_harness *h, const char *text, size_t n, int32_t *ids, uint32_t max,
                        struct mp_err *err);

/* n_seq prompts from an empty cache, side by side: ids holds them one behind the other, len[s] of each. Every step takes up to
 * `chunk` tokens (1..MP_HARNESS_MAX_TOK) of every prompt not yet done, in order, as far as MP_HARNESS_MAX_TOK allows. For row
 * i of ids: logits[i * n_vocab ..] (may be NULL) and hash[i], a hash of those bytes (may be NULL; equal across runs). */
int mp_harness_logits(struct mp_harness *h, const int32_t *ids, const uint32_t *len, uint32_t n_seq, uint32_t chunk,
                      float *logits, uint64_t *hash, struct mp_harness_stats *stats, struct mp_err *err);

#endif
