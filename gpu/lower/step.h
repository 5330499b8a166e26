/* gpu/lower/step.h — whether a step keeps to what its exec was built for. Every device's forward() asks first, so that a wrong
 * step is an error and never a crash. */
#ifndef MP_STEP_H
#define MP_STEP_H
#include "gpu/device.h"

struct mp_step_rules {
    const struct mp_limits *lim;
    uint32_t n_embed;     /* token ids are below it; 0: not looked at */
    uint32_t n_positions; /* positions are below it */
    uint32_t n_kvs, page_tokens;
    uint32_t windows[MP_MAX_KVS]; /* of each kv group; 0: all positions are seen */
};

/* Rules for a plan whose tokens are looked up by its EMBED nodes. */
void mp_step_rules(struct mp_step_rules *r, const struct mp_plan *plan, const struct mp_limits *lim,
                   uint32_t page_tokens);
/* Counts, offsets, positions, ids, slots, page ids within the window, output rows. What MP_TOK_LAST stands for and whether
 * pages are committed is the device's to check. */
int mp_step_check(const struct mp_step_rules *r, const struct mp_step *s, struct mp_err *err);
/* The first page of sequence seq that the step may look at in group g, and the end of them: [*first, *end). */
void mp_step_pages(const struct mp_step_rules *r, const struct mp_step *s, uint32_t seq, uint32_t g, uint32_t *first,
                   uint32_t *end);

#endif
