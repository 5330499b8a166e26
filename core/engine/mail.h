/* core/engine/mail.h — how the engine's threads talk: a letter is handed over whole, whoever takes it owns it and what is in it.
 * Threads share nothing else (but immutable sources, and what atomics name). */
#ifndef MP_MAIL_H
#define MP_MAIL_H
#include "core/engine/load.h"

#include <stdatomic.h>

struct mp_served; /* host.h: only the socket thread looks inside; for others it is a name */

enum mp_mail_kind {
    MP_MAIL_STOP, /* to every thread: end */
    /* to jobs (jobs.h); each comes back to the socket thread, done, with err.code 0 or what went wrong */
    MP_MAIL_OPEN,    /* model, load, bytes: path, sha256, context → source; need: what it will reserve */
    MP_MAIL_PLAN,    /* model, source, load → need */
    MP_MAIL_PREPARE, /* tag, source, kind_of, special, bytes → ids; bytes come back, too */
    MP_MAIL_LOAD, /* model, loaded, stop: reads its weights; and MP_MAIL_PROGRESS (model, done, total) now and then */
    MP_MAIL_PROGRESS,
    /* to the device thread */
    MP_MAIL_BEGIN, /* model, source, load: opens the device if need be, holds and takes memory, when others must give it back
                        first later; comes back with loaded, need and bytes: the device's name, or with err */
    MP_MAIL_GIVE_UP, /* model: a BEGIN that waits for memory comes back, MP_ECANCELLED */
    MP_MAIL_BUILD, /* model, source, loaded; comes back warm with done: its bytes, and need as measured, or with err and
                        everything given back */
    MP_MAIL_MOST,  /* model, done: sequences at once */
    MP_MAIL_LIMIT, /* tag: a connection, total: a request's id, done: bytes; comes back with done: the limit in force,
                        need: bytes held, total: that id, bytes: the device's name, kv: bytes used */
    MP_MAIL_DRAIN, /* model, loaded (of a load that failed) or none; comes back when the last sequence is over and the memory free */
    MP_MAIL_SUBMIT, /* model, tag, ids, start */
    MP_MAIL_CANCEL, /* tag */
    MP_MAIL_WINDOW, /* tag, done: bytes */
    /* from the device thread */
    MP_MAIL_FRAMES, /* bytes: TOKENS, DONE and ERROR frames of one turn, ids are tags */
    MP_MAIL_STATS,  /* model, kv: bytes of KV committed, need: bytes held */
};

struct mp_mail {
    struct mp_mail *next;
    uint8_t kind; /* enum mp_mail_kind */
    uint8_t kind_of, special;
    struct mp_served *model;
    uint64_t tag, done, total, need, kv;
    atomic_bool *stop;        /* set by the socket thread: give up. Lives as long as the letter is under way */
    struct mp_source *source; /* one owner's share */
    struct mp_loaded *loaded; /* for the device thread to free */
    struct mp_load_conf load;
    struct mp_source_conf open; /* strings are in bytes */
    struct mp_ids ids;
    struct mp_msg_start *start; /* owned; its stops lie behind it */
    struct mp_buf bytes;
    struct mp_err err;
};

struct mp_mail *mp_mail_new(enum mp_mail_kind kind, struct mp_served *model, uint64_t tag);
/* With its payload, but not `loaded`: that is freed on the device's thread, and taken out before. NULL is fine. */
void mp_mail_free(struct mp_mail *m);
/* A copy of settings with their stop strings in one piece; mp_free. */
struct mp_msg_start *mp_start_copy(const struct mp_msg_start *s);

struct mp_box;
struct mp_box *mp_box_new(void);
void mp_box_free(struct mp_box *b);                                 /* with the letters in it; nobody waits */
void mp_box_put(struct mp_box *b, struct mp_mail *m);               /* any thread; m is the box's now */
struct mp_mail *mp_box_take(struct mp_box *b);                      /* the oldest letter, or NULL */
struct mp_mail *mp_box_wait(struct mp_box *b, uint64_t timeout_ns); /* waits for one; NULL: time is over */
/* For poll: readable while letters may be there (an eventfd, cleared by mp_box_take when it finds none). Only boxes with one reader. */
int mp_box_fd(struct mp_box *b);

#endif
