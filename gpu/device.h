/* gpu/device.h — the seam: what a device offers. core/engine drives it; gpu/cpu, gpu/fake (and gpu/cuda, later) implement it.
 * Called by one owning thread per device, wait() included; nothing exits the process, every failure is a code and an mp_err. */
#ifndef MP_DEVICE_H
#define MP_DEVICE_H
#include "core/base/err.h"
#include "gpu/plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_dev;  /* a device, opened */
struct mp_exec; /* a plan, built for a device */
struct mp_mem;  /* a reserved range of device memory, committed in pieces */

typedef uint64_t mp_ticket;       /* monotone per device from 1; done in order */
#define MP_TOK_LAST     INT32_MIN /* step.tok: what the step in flight samples for this sequence's slot */
#define MP_WAIT_FOREVER UINT64_MAX

#define MP_NUMERICS(X)                                                                        \
    X(PLAIN, "plain") /* f32 activations and KV                                            */ \
    X(EXACT, "exact") /* two-term int8 or bf16 activations, f16 KV: later                  */ \
    X(FAST, "fast")   /* int8 activations: later                                           */
enum mp_numerics {
#define X(code, name) MP_NUM_##code,
    MP_NUMERICS(X)
#undef X
        MP_N_NUMERICS
};

struct mp_caps {
    char name[64];        /* "cpu: 2 threads, avx2" */
    uint32_t page_tokens; /* tokens per KV page */
    uint32_t n_threads;
    uint32_t numerics; /* bit set of 1 << enum mp_numerics */
    uint64_t memory;   /* bytes that may be reserved in all; 0 unknown */
    uint64_t granule;  /* memory is committed in multiples of so many bytes; a power of two */
    bool invariant;    /* a request's bits do not depend on its batch */
};

struct mp_limits {                      /* what an exec is built for */
    uint32_t max_tok, max_seq, max_out; /* per step: tokens, sequences, rows that reach the head */
    uint32_t max_slot;                  /* slots are 0..max_slot-1 */
    uint32_t max_pages;                 /* page ids are 0..max_pages-1, per kv group */
    uint32_t max_seq_pages;             /* pages of one sequence at most: the stride of page tables may not exceed it */
    uint8_t numerics;                   /* enum mp_numerics */
    bool invariant;
    bool no_fuse; /* op table: fused against unfused */
};

/* One forward of one model over a ragged batch. Flat, pointer-free once packed. Read during forward() only: the caller may
 * reuse the arrays as soon as it returns. Sequence s owns tokens start[s] .. start[s+1]-1, at consecutive positions. */
struct mp_step {
    uint32_t n_tok, n_seq, n_out;
    const int32_t *tok;                /* [n_tok] id >= 0 or MP_TOK_LAST */
    const int32_t *pos;                /* [n_tok] */
    const uint32_t *start;             /* [n_seq + 1] ragged offsets */
    const uint32_t *kv_len;            /* [n_seq] positions in the cache after this step: pos of its last token + 1 */
    const uint32_t *slot;              /* [n_seq] stable per sequence while it lives: last token, penalty counts */
    const uint32_t *pages[MP_MAX_KVS]; /* per kv group [n_seq][stride] page ids */
    uint32_t stride[MP_MAX_KVS];
    const uint32_t *out; /* [n_out] token rows to keep, ascending */
};

/* Sampling, the same on every device (gpu/lower/sample.h):
 *   z = logit; seen tokens: z < 0 ? z*rep : z/rep; z -= freq*count + pres; tokens outside `allow` are out; z /= temp;
 *   then, as vLLM and transformers do, on the tempered distribution: the top_k largest (lowest id first among equals);
 *   of those the smallest set of the most probable with a sum >= top_p; of those what has >= min_p times the highest
 *   probability; of what is left the largest z + g, g Gumbel noise from philox4x32-10(seed, index, token id).
 * So a token depends on its logits, settings, seed and index alone, never on its batch. */
struct mp_pick {    /* one row of the last forward to sample from */
    uint32_t row;   /* 0 .. n_out-1 */
    uint32_t slot;  /* whose LAST becomes the token */
    uint32_t index; /* position of the sampled token in its text: the counter of its random stream */
    uint64_t seed;
    bool greedy;              /* argmax after penalties and mask, lowest id among equals; temp to min_p are unused */
    int32_t top_k;            /* 0: off */
    float temp, top_p, min_p; /* temp > 0; top_p in (0, 1], 1 off; min_p in [0, 1], 0 off */
    float rep, freq, pres;    /* penalties; rep 1 or 0, freq 0, pres 0: off. Counts are of tokens sampled in this slot,
                                 and those given by slot_set */
    uint16_t top_n;           /* log-probs wanted, 0..20 */
    const uint32_t *allow;    /* bit mask of n_vocab bits, read at sample time; NULL: all */
};

struct mp_got {
    int32_t id;
    uint8_t bad;   /* 1: the logits held a NaN or +inf, or no allowed token has a finite one; id is then -1, and a
                      MP_TOK_LAST that was issued on it is computed as some token: drop what comes of it */
    float logprob; /* log-softmax of the raw logits at id */
    uint16_t n_top;
    struct mp_top {
        int32_t id;
        float logprob;
    } top[20];
};

struct mp_done {
    int rc;                   /* 0, or what went wrong in the ticket's work */
    struct mp_err err;        /* set when rc != 0 */
    uint64_t busy_ns;         /* device time of the ticket's work by the device's clock */
    const struct mp_got *got; /* of a sample ticket, in the order of the picks; valid until the next wait() */
    uint32_t n_got;
};

struct mp_device_ops {
    const char *name; /* "cpu" */
    /* spec: "threads=2,isa=avx2"; keys are the device's own; empty for its defaults. */
    int (*open)(struct mp_dev **out, const char *spec, struct mp_err *err);
    /* (optional) The same for questions only: caps, w_size and need, nothing else. It starts no thread and takes no memory of the device,
     * so that what a load would need is known while nothing is loaded; any thread may have one of its own. Without it: open. */
    int (*open_dry)(struct mp_dev **out, const char *spec, struct mp_err *err);
    void (*close)(struct mp_dev *dev); /* every exec and memory of it must be gone */
    void (*caps)(struct mp_dev *dev, struct mp_caps *caps);
    /* (optional) Bytes taken now, by the device's own count: what is committed, and what execs hold beside it. Without it the planner's
     * figures stand. */
    uint64_t (*used)(struct mp_dev *dev);

    /* Reserves address space; nothing is committed. Committed granules read as zero or poison, never as old data. */
    int (*mem_reserve)(struct mp_dev *dev, uint64_t bytes, struct mp_mem **out, struct mp_err *err);
    /* off and len in bytes: committing rounds outward to the granularity of the device, giving back rounds inward. */
    int (*mem_commit)(struct mp_mem *mem, uint64_t off, uint64_t len, bool on, struct mp_err *err);
    void (*mem_free)(struct mp_mem *mem); /* NULL is fine */

    /* Bytes that a weight takes in the device's own layout; MP_EUNSUPPORTED for a type it cannot compute with. */
    int (*w_size)(struct mp_dev *dev, const struct mp_wref *w, uint32_t type, const struct mp_limits *lim,
                  uint64_t *bytes, struct mp_err *err);
    /* Puts rows row0 .. row0+rows-1 (file layout at src) into the weight's place at off. May be called from a loader
     * thread for different weights at once; row0 and rows in multiples of 64 or up to the end. */
    int (*w_put)(struct mp_mem *mem, uint64_t off, const struct mp_wref *w, uint32_t type, uint64_t row0, uint64_t rows,
                 const void *src, struct mp_err *err);
    /* (optional) On the loader's thread, behind the last w_put of a load: waits until everything is in its place. progress (may be NULL)
     * gets parts done of all, often enough to be asked whether to go on; false gives up, MP_ECANCELLED. Without it what w_put was given
     * is in place when it returns. */
    int (*w_wait)(struct mp_mem *mem, bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                  struct mp_err *err);

    /* What build() will need: scratch bytes, and bytes per KV page of each group. The plan was checked. */
    int (*need)(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim, uint64_t *scratch,
                uint64_t page_bytes[MP_MAX_KVS], struct mp_err *err);
    /* (optional) Bytes that build() takes beside those: what used() counts of an exec. */
    uint64_t (*beside)(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim);
    /* w_off (multiples of 64), w_type: per weight of the plan; scratch is committed wholly. kv[g] holds lim->max_pages pages; the caller commits what steps name. The
     * exec keeps no pointer to plan. */
    int (*build)(struct mp_dev *dev, const struct mp_plan *plan, const struct mp_limits *lim, struct mp_mem *w,
                 const uint64_t *w_off, const uint32_t *w_type, struct mp_mem *scratch,
                 struct mp_mem *const kv[MP_MAX_KVS], struct mp_exec **out, struct mp_err *err);
    void (*exec_free)(struct mp_exec *exec);               /* NULL is fine; none of its tickets may be pending */
    int (*warm)(struct mp_exec *exec, struct mp_err *err); /* (optional) touch every kernel, capture graphs */

    int (*forward)(struct mp_exec *exec, const struct mp_step *step, mp_ticket *out, struct mp_err *err);
    /* Samples from the last forward issued on this exec; picks are copied. */
    int (*sample)(struct mp_exec *exec, const struct mp_pick *picks, uint32_t n, mp_ticket *out, struct mp_err *err);
    /* A sequence begins in this slot: forgets its counts, then counts these ids for penalties. */
    int (*slot_set)(struct mp_exec *exec, uint32_t slot, const int32_t *ids, uint32_t n);
    /* Copies a KV page of a group, every layer of it, to another page. */
    int (*kv_copy)(struct mp_exec *exec, int group, uint32_t src, uint32_t dst, mp_ticket *out, struct mp_err *err);
    /* 0: done is filled for that ticket. MP_EAGAIN: not yet, after timeout_ns (0 polls). Tickets are waited in order. */
    int (*wait)(struct mp_dev *dev, mp_ticket ticket, uint64_t timeout_ns, struct mp_done *done);

    /* For specs and tools, when no ticket is pending: a row of an output of the last forward, and a PARAM's input. */
    int (*read)(struct mp_exec *exec, const char *output, uint32_t row, float *dst, uint32_t n, struct mp_err *err);
    int (*feed)(struct mp_exec *exec, uint32_t val, const float *src, uint32_t rows, struct mp_err *err);
};

extern const struct mp_device_ops mp_device_cpu;              /* gpu/cpu */
extern const struct mp_device_ops mp_device_fake;             /* gpu/fake */
const struct mp_device_ops *mp_device_find(const char *name); /* "cpu", "fake"; NULL when there is none; gpu/lower */

const char *mp_numerics_name(uint32_t n);
int mp_numerics_parse(const char *name); /* or MP_EINVAL */

#endif
