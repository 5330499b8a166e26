/* core/engine/host.h — the socket thread's own state: connections, declared models, requests. Shared by host.c (sockets, letters),
 * served.c (a model's states), versions.c (declarations, one version in another's place) and ask.c (a request's life); no other thread sees it.
 *
 *   conn ──► request ──► model: cold ─ LOAD ─► loading ─► warm ─ SUBMIT ─► the runner's loop ─ FRAMES ─► conn
 *                 └ PREPARE ─► front threads                └ BEGIN, LOAD (loader), BUILD
 */
#ifndef MP_HOST_H
#define MP_HOST_H
#include "core/base/map.h"
#include "core/engine/decl.h"
#include "core/engine/engine.h"
#include "core/engine/jobs.h"
#include "core/engine/runner.h"
#include "core/wire/wire.h"

enum {
    MP_HOST_MAX_REQUESTS = 16384,  /* at once, of all connections */
    MP_HOST_MAX_MODELS = 256,      /* declared at once */
    MP_HOST_MAX_QUEUED = 64 << 20, /* bytes that a connection may leave unread before it is closed */
    MP_HOST_MAX_LINES = 1024,
};

struct mp_line {
    struct mp_line *next;
    struct mp_wire *wire;
    uint64_t number;        /* never reused */
    struct mp_map requests; /* the peer's id → struct mp_ask */
    bool closing;           /* to be closed before the next poll */
};

enum mp_ask_state {
    MP_ASK_OPENING,   /* its model's file is being opened: the payload waits */
    MP_ASK_PREPARING, /* at the front threads */
    MP_ASK_PREPARED,  /* tokens are known; START is awaited */
    MP_ASK_LOADING,   /* START came; the model is not warm yet */
    MP_ASK_RUNNING    /* in the runner's hands until its DONE or ERROR */
};

struct mp_ask {
    uint64_t tag, id;     /* ours, the peer's */
    struct mp_line *conn; /* NULL: gone */
    struct mp_served *model;
    struct mp_ask *prev, *next; /* the model's list */
    uint8_t state;              /* enum mp_ask_state */
    uint8_t kind, special;      /* of the prompt */
    struct mp_buf payload;      /* until it runs: another version may have to prepare it again. Away while PREPARING */
    struct mp_ids ids;          /* PREPARED, LOADING */
    uint64_t version;           /* mp_source_identity of what made them */
    uint32_t n_prompt;
    bool told;                  /* PREPARED was sent */
    struct mp_msg_start *start; /* START's settings, once it came and until SUBMIT */
    uint64_t t_start, load_ns, deadline;
};

/* One version of a model on this device group. A name has one that is current; others of that name are retired: they end their
 * requests, or wait to become current (`next`, being opened), or to come back (`old`, when the current one cannot be loaded). */
struct mp_served {
    struct mp_served *link; /* the host's list */
    char *name;
    bool retired;           /* not found by its name, and not told of */
    bool checking;          /* MODEL_CHECK: opened to be looked at, no more */
    struct mp_served *next; /* current: the version that is being opened to replace it */
    struct mp_served
        *old; /* current, not warm yet: whose place it took, still to be had; `next` of another: that other */
    struct mp_model_decl decl;
    bool opening, reopen; /* OPEN is under way; the source must be opened again before it is used */
    bool pinned;          /* brought back: loaded from the file that is open, whatever lies at its path now */
    bool load_next;       /* load it once it is open, or once the device has let go of what was before it */
    bool behind;          /* draining: an earlier version is, and this one waits for it to leave the device */
    bool giving_up;       /* draining: out of a load */
    atomic_bool stop;     /* the loader reads it: give up */
    uint32_t letters;     /* under way that come back */

    uint8_t state; /* enum mp_model_state */
    struct mp_source *source;
    struct mp_err err;
    char cause[200]; /* how the last replacement ended when it failed */
    uint32_t failures;
    uint64_t retry_at; /* monotonic; 0: at once */
    uint64_t done, total, bytes, kv_bytes, need, reserved, load_began, load_ns;
    uint32_t loads;
    char device[128];
    struct mp_ask *requests; /* all that name it */
    uint32_t n_requests, n_running;
    struct mp_asker { /* who gets MODEL_STATE when the file was opened */
        struct mp_asker *next;
        uint64_t line, id;
    } * askers;
};

struct mp_host {
    const struct mp_engine_conf *conf;
    const struct mp_device_ops *ops;
    struct mp_box *box; /* letters to this thread */
    struct mp_jobs *front, *loader;
    struct mp_runner *runner;
    struct mp_line *lines;
    uint32_t n_lines;
    uint64_t next_line, next_tag;
    struct mp_served *models;
    uint32_t n_models;
    uint64_t limit;         /* DEVICE_LIMIT: bytes; 0: none was set */
    struct mp_map requests; /* tag → struct mp_ask */
    int signal_fd;
    uint64_t active; /* when somebody last asked for something */
    bool stopping;
    const char *farewell; /* why, for people */
};

/* host.c */
void mp_host_send(struct mp_host *h, struct mp_line *c, const struct mp_msg *m); /* c NULL: nobody */
void mp_host_send_error(struct mp_host *h, struct mp_line *c, uint64_t id, const struct mp_err *err);
void mp_host_broadcast(struct mp_host *h, const struct mp_msg *m);
struct mp_line *mp_host_line(struct mp_host *h, uint64_t number); /* NULL when it is gone */

/* served.c: a version's states */
struct mp_served *mp_served_find(struct mp_host *h, struct mp_span name); /* the current one; NULL: not declared */
void mp_served_load(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_served_unload(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_served_list(struct mp_host *h, struct mp_line *c, uint64_t id);
/* Sees to it that the file is opened (again), or says why that must wait. */
int mp_served_want_open(struct mp_host *h, struct mp_served *m, struct mp_err *err);
/* The same for warm; 0 also while it is on its way. */
int mp_served_want_warm(struct mp_host *h, struct mp_served *m, struct mp_err *err);
uint64_t mp_served_retry_ns(const struct mp_served *m); /* until another try makes sense; 0: now */
/* A letter that came back. */
void mp_served_letter(struct mp_host *h, struct mp_mail *m);
/* For versions.c. named: NULL, and ERROR went out, when there is none. say: a MODEL_STATE with that id. go_on: loads it if it should be,
 * waits for what is before it on the device, or is cold. let_go: off the device, wherever it stands. */
struct mp_served *mp_served_named(struct mp_host *h, struct mp_line *c, uint64_t id, struct mp_span name);
void mp_served_say(struct mp_host *h, struct mp_line *c, const struct mp_served *m, uint64_t id);
void mp_served_tell(struct mp_host *h, const struct mp_served *m); /* everyone; of the current one only */
void mp_served_open(struct mp_host *h, struct mp_served *m);
void mp_served_replan(struct mp_host *h, struct mp_served *m); /* what it needs may be another */
void mp_served_go_on(struct mp_host *h, struct mp_served *m);
void mp_served_let_go(struct mp_host *h, struct mp_served *m);
bool mp_served_on_device(const struct mp_served *m); /* or on its way there, or from there */

/* versions.c: declarations, and one version taking another's place */
void mp_version_declare(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_version_check(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_version_forget(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_version_answer(struct mp_host *h, struct mp_served *asked,
                       const struct mp_served *m);                         /* its askers, with m's state */
bool mp_version_waits(const struct mp_host *h, const struct mp_served *m); /* an earlier one is still on the device */
/* What happened to a version, for others' sake. opened, failed: true when that was all that was to be done. */
bool mp_version_opened(struct mp_host *h, struct mp_served *m, struct mp_mail *l);
bool mp_version_failed(struct mp_host *h, struct mp_served *m, const struct mp_err *err);
void mp_version_off(struct mp_host *h, struct mp_served *m); /* a retired one left the device */
void mp_version_tick(struct mp_host *h);                     /* frees those that nobody uses any more */
void mp_version_free_all(struct mp_host *h);

/* ask.c */
void mp_ask_prepare(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_ask_start(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_ask_cancel(struct mp_host *h, struct mp_line *c, uint64_t id);
void mp_ask_window(struct mp_host *h, struct mp_line *c, const struct mp_msg *m);
void mp_ask_prepared(struct mp_host *h, struct mp_mail *m); /* PREPARE came back */
void mp_ask_frames(struct mp_host *h, const struct mp_mail *m);
void mp_ask_line_gone(struct mp_host *h, struct mp_line *c);
void mp_ask_model_opened(struct mp_host *h, struct mp_served *m); /* those that wait go on */
void mp_ask_model_warm(struct mp_host *h, struct mp_served *m);
/* Those that do not run go over to another version, which prepares them again. */
void mp_ask_move(struct mp_host *h, struct mp_served *from, struct mp_served *to);
/* Ends all that do not run. */
void mp_ask_model_gone(struct mp_host *h, struct mp_served *m, const struct mp_err *err);
/* Ends those that wait for it to be opened or warm. */
void mp_ask_model_failed(struct mp_host *h, struct mp_served *m, const struct mp_err *err);
void mp_ask_tick(struct mp_host *h, uint64_t now); /* deadlines of those that wait for a load */
void mp_ask_end_all(struct mp_host *h, const struct mp_err *err);

#endif
