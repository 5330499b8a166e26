/* core/engine/seq.h — one request inside the loop: its tokens, pages, settings, text. For loop.c, sched.c and seq.c only. */
#ifndef MP_SEQ_H
#define MP_SEQ_H
#include "core/engine/loop.h"
#include "core/engine/pages.h"
#include "core/engine/text.h"

enum mp_seq_state {
    MP_SEQ_WAITING, /* in line: no slot, no page */
    MP_SEQ_RUNNING, /* has a slot and its reservation */
    MP_SEQ_ENDED    /* no new step contains it; its slot and pages go when in_flight is 0 */
};

struct mp_seq {
    uint32_t magic;
    struct mp_replica *rep;
    struct mp_seq *prev, *next; /* the replica's waiting or running list, or its ended one */
    struct mp_seq *dirty_next;  /* the loop's list of sequences with something to tell */
    bool dirty;
    uint8_t state; /* enum mp_seq_state */
    uint64_t tag;

    int32_t *prompt;
    uint32_t n_prompt, max_tokens;
    struct mp_msg_start set; /* stops are in text */
    struct mp_text text;

    bool placed;                 /* holds a slot and its pages */
    uint32_t slot, in_flight;    /* in_flight: steps issued and not done that contain it */
    uint32_t pos;                /* positions given to steps so far */
    uint32_t n_picked, n_made;   /* tokens that steps were asked to sample; those that came back and count */
    int32_t last;                /* the last that came back */
    uint32_t reserved;           /* pages, of every group */
    uint32_t n_pages;            /* pages taken, of every group */
    uint32_t *pages[MP_MAX_KVS]; /* [reserved] */

    struct mp_buf out;        /* text not told yet */
    uint32_t told_made;       /* n_made at the last event */
    uint64_t produced, taken; /* text bytes put into out; bytes that the reader acknowledged */

    uint64_t device_ns, prefill_ns;
    uint64_t t_start, t_first_step, t_first_token, t_end, deadline; /* loop's clock; 0: not yet, deadline 0: none */
    uint8_t finish;                                                 /* once ENDED */
    int stop;                                                       /* index of the stop that matched; -1 */
    struct mp_err err;                                              /* code != 0: ended by an error */
};

struct mp_seq *mp_seq_new(struct mp_replica *r, uint64_t tag, const int32_t *ids, uint32_t n,
                          const struct mp_msg_start *set, uint32_t max_tokens, uint64_t now);
void mp_seq_free(struct mp_seq *s);
/* A sampled token came back for a sequence that runs. True when it ends the sequence (finish and stop are set). */
bool mp_seq_token(struct mp_seq *s, const struct mp_vocab *v, int32_t id);
bool mp_seq_prefilling(const struct mp_seq *s); /* prompt positions are left to issue */
bool mp_seq_decodes(const struct mp_seq *s);    /* a decode step may be issued: tokens are left, the reader keeps up */

#endif
