/* core/model/bpe.h — the merges of byte-level BPE: pairs of token ids, ranked, applied to one piece of text. Used by the tokenizer only. */
#ifndef MP_BPE_H
#define MP_BPE_H
#include "core/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct mp_bpe;      /* immutable after the last add: threads may share it */
struct mp_bpe_work; /* scratch of one thread */

struct mp_bpe *mp_bpe_new(uint32_t n_merges); /* NULL: no memory. n_merges: adds that will follow, at most */
void mp_bpe_free(struct mp_bpe *b);           /* NULL is fine */
/* The next rank: left and right become result. A pair that is there already keeps its first rank. */
void mp_bpe_add(struct mp_bpe *b, int32_t left, int32_t right, int32_t result);

struct mp_bpe_work *mp_bpe_work_new(void);
void mp_bpe_work_free(struct mp_bpe_work *w); /* NULL is fine */
/* Begins a piece of at most n symbols; n < 2^31. MP_ENOMEM. */
int mp_bpe_begin(struct mp_bpe_work *w, size_t n, struct mp_err *err);
void mp_bpe_symbol(struct mp_bpe_work *w, int32_t id); /* appends one, at most n times */
/* Merges the lowest rank first, the leftmost of equals, until none applies: O(n log n). */
void mp_bpe_run(struct mp_bpe_work *w, const struct mp_bpe *b);
/* The resulting ids; valid until the next begin. */
const int32_t *mp_bpe_ids(struct mp_bpe_work *w, size_t *n);

#endif
