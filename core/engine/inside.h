/* core/engine/inside.h — the loop's own structs, shared by loop.c (life cycle, results, events) and sched.c (what to issue). */
#ifndef MP_ENGINE_INSIDE_H
#define MP_ENGINE_INSIDE_H
#include "core/engine/seq.h"

enum { MP_LOOP_MAX_DEPTH = 2 };

struct mp_seq_list {
    struct mp_seq *first, *last;
    uint32_t n;
};

struct mp_flight { /* a step that was issued */
    struct mp_replica *rep;
    mp_ticket forward, sample; /* 0: none, or already waited for */
    struct mp_flight_row {
        struct mp_seq *seq;
        uint32_t n_tok;
        uint64_t attended;  /* positions that its tokens attend to, summed: kv_len for a decode row */
        bool samples, last; /* a pick belongs to it; its prompt ends with this step */
    } * rows;               /* [n], room for max_seq */
    uint32_t n, n_tok, cap;
    uint64_t issued_ns, busy_ns;
    int rc;
    struct mp_err err;
};

struct mp_replica {
    uint32_t magic;
    struct mp_loop *loop;
    struct mp_replica *next;
    uint32_t context;
    struct mp_vocab vocab;
    struct mp_body body;
    struct mp_pages *pages[MP_MAX_KVS];
    uint32_t *slots, n_slots_free; /* stack of free slots */
    uint32_t most;                 /* sequences at once */
    uint32_t base_pages;           /* of one context: the load's part */
    uint64_t beyond;               /* held in the room on top of it */
    struct mp_seq_list waiting, running, ended;
    uint32_t n_seqs;    /* alive, their last event not taken */
    uint64_t device_ns; /* of finished steps */
    uint64_t vtime;     /* fairness: device time, lifted to the least of the active ones when it wakes */
    double ns_per_tok;  /* moving average over steps of 8 tokens and more; 0: unknown */
};

struct mp_loop {
    const struct mp_device_ops *ops;
    struct mp_dev *dev;
    struct mp_loop_conf conf;
    struct mp_replica *replicas;
    struct mp_flight flight[MP_LOOP_MAX_DEPTH]; /* a ring: first, first + 1, … */
    uint32_t first, n_flights;
    struct mp_seq *dirty_first, *dirty_last;
    struct mp_buf ev_text; /* what the last event's spans point to */
    struct mp_stop ev_stop;
    struct mp_err ev_err;
    struct mp_loop_stats stats;
    struct mp_step_room { /* the arrays of the step being built, grown as needed */
        int32_t *tok, *pos;
        uint32_t *start, *kv_len, *slot, *out, *pages[MP_MAX_KVS];
        struct mp_pick *pick;
        uint32_t cap_tok, cap_seq;
        size_t cap_pages;
    } room;
};

uint64_t mp_loop_now(const struct mp_loop *l);
void mp_seq_list_add(struct mp_seq_list *list, struct mp_seq *before, struct mp_seq *s); /* before NULL: at the end */
void mp_seq_list_remove(struct mp_seq_list *list, struct mp_seq *s);
/* It runs no more; finish and err are set by the caller. Slot and pages go when its last step is done. */
void mp_seq_end(struct mp_seq *s);

/* Bytes of pages beyond the load's part if `more` were reserved on top. */
uint64_t mp_replica_beyond(const struct mp_replica *r, uint32_t more);
/* Gives back to the room what is not reserved or committed any more. */
void mp_replica_settle(struct mp_replica *r);

void mp_sched_admit(struct mp_replica *r); /* waiting → running, as far as slots and pages go */
bool mp_sched_issue(struct mp_loop *l);    /* one step; false when nobody has work or nothing could be issued */
void mp_sched_free(struct mp_loop *l);     /* the step's arrays */

#endif
