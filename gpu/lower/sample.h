/* gpu/lower/sample.h — the sampler that devices share: what gpu/device.h says of struct mp_pick, in scalar code whose bits
 * depend on nothing but its inputs. Slots hold what sampling must remember of a sequence. */
#ifndef MP_SAMPLE_H
#define MP_SAMPLE_H
#include "gpu/device.h"

struct mp_slot {  /* zero-initialised is a slot in which nothing was sampled */
    bool any;     /* last holds something */
    int32_t last; /* token sampled last; 0 after a bad one */
    /* token counts for penalties: open addressing, cap a power of two, ids -1 where free */
    int32_t *ids;
    uint32_t *counts;
    uint32_t cap, used;
};

void mp_slot_free(struct mp_slot *s);                                /* leaves it zero-initialised */
void mp_slot_set(struct mp_slot *s, const int32_t *ids, uint32_t n); /* forgets all, then counts the ids */
void mp_slot_push(struct mp_slot *s, int32_t id);                    /* id was sampled; -1: a bad one, counts nothing */
uint32_t mp_slot_count(const struct mp_slot *s, int32_t id);

/* Checks what came from outside: ranges of a pick. n_out, n_slots: what row and slot must be below. */
int mp_pick_check(const struct mp_pick *p, uint32_t n_out, uint32_t n_slots, struct mp_err *err);
/* Samples one row of n_vocab logits; scratch: 2 * n_vocab floats. The slot is read only: the caller pushes got->id. */
void mp_sample_row(const float *logits, uint32_t n_vocab, const struct mp_pick *p, const struct mp_slot *s,
                   float *scratch, struct mp_got *got);

/* One block of philox4x32-10 (Salmon et al. 2011). */
void mp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
