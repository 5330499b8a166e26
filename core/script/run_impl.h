/* core/script/run_impl.h — the inside of a run, shared by run.c, answer.c and the lua_*.c that wait or answer. */
#ifndef MP_SCRIPT_RUN_IMPL_H
#define MP_SCRIPT_RUN_IMPL_H
#include "core/base/arena.h"
#include "core/script/generation_impl.h"
#include "core/script/script.h"
#include "core/script/watchdog.h"

enum {
    BODY_NS_PER_BYTE = 40
}; /* CPU time that reading, or passing on, a request's body may take beside the script's own */

struct mp_stream;

struct inbox; /* lua_shared.c */

struct mp_script_worker {
    uint32_t index;
    struct uv_loop_s *loop;
    struct mp_pool_port *port;
    struct mp_watch *watch;
    struct mp_run *runs; /* all that are not at their end */
    uint32_t n_runs;
    struct inbox *inbox; /* made when something waits for another worker */
};

struct mp_task {          /* one coroutine of a run: the handler's, or a function of mp.all */
    struct mp_task *next; /* in run->tasks */
    struct mp_run *run;
    lua_State *co;
    int ref;                     /* keeps co; LUA_NOREF before it began */
    struct mp_pending *waiting;  /* what it is parked on */
    struct mp_pending writable;  /* what events:send parks on */
    struct mp_task *queued_next; /* in the run's queue of tasks to step */
    bool queued, begun, ended;
    mp_push *push; /* what it goes on with */
    void *push_ud;
    /* mp.all: called protected when the function returned (its n values are the top ones on L), or failed (failed: the
     * error value is at the top). -n +0 */
    void (*child_ended)(lua_State *L, struct mp_task *task, int n, bool failed);
    void *group;
    uint32_t index; /* in the group */
};

struct run_log { /* how much a run may write into the log: see lua_log.c */
    double left;
    uint64_t since_ns; /* when `left` was counted; 0: nothing was logged yet */
    uint64_t dropped;  /* lines, since the last one that went out */
};

enum answer_mode {
    ANSWER_OPEN,   /* nothing was sent */
    ANSWER_EVENTS, /* res:events() began an answer by hand */
    ANSWER_PUMP,   /* the handler returned a stream: C goes on alone */
};

struct run_answer { /* what shall be sent when the handler is over; strings and headers are the run's */
    bool set;
    int status;
    struct mp_header *headers;
    uint32_t n_headers, cap_headers;
    struct mp_buf body;
};

struct run_background; /* background.c */

struct mp_run {
    uint32_t magic;
    enum mp_phase phase;               /* HANDLE or BACKGROUND */
    struct run_background *background; /* of a job's run; then endpoint and mine are NULL, and nobody is answered */
    struct mp_run *next, **prev;       /* in worker->runs */
    struct mp_script *script;
    struct mp_script_worker *worker;
    struct mp_generation *generation;
    const struct mp_conf_endpoint *endpoint;
    const struct mp_script_endpoint *mine;
    struct mp_exchange *x;
    struct mp_arena *arena;
    struct mp_route_match match;
    struct mp_vm_account account;
    struct mp_pending pendings; /* the list's head */
    struct mp_task main, *tasks, *current;
    struct mp_task *queue, **queue_end;
    uint64_t cpu_ns; /* used so far */
    bool stepping, closed, over;
    int refs; /* reference to the Lua list that keeps req and res */
    struct lua_req *req;
    struct lua_res *res, *events;
    enum answer_mode mode;
    struct run_answer answer;
    int status; /* res:status, or 0 */
    struct mp_stream *pump;
    int pump_ref;
    struct run_log log;
    struct mp_buf scratch; /* for C that may raise while it builds text */
};

/* run.c */
/* A run in w's VM of g, for x; nothing of it has run. */
struct mp_run *run_new(struct mp_script_worker *w, struct mp_generation *g, struct mp_exchange *x, enum mp_phase phase);
void run_begin(struct mp_run *run, mp_push *first);        /* first pushes main's function and its arguments */
void run_main_coroutine(lua_State *L, struct mp_run *run); /* makes it; -0 +1, at the bottom of the stack */
void run_queue(struct mp_run *run, struct mp_task *task, mp_push *push, void *ud);
void run_drive(struct mp_run *run);                          /* steps what is queued; the run may be gone after */
void run_complete(struct mp_run *run);                       /* sends the answer that is set, ends the run */
void run_abandon(struct mp_run *run, enum mp_cancel reason); /* the same, but its coroutines are left where they are */
void run_cancel_task(struct mp_run *run, struct mp_task *task, enum mp_cancel reason); /* it never runs again */
int run_park_writable(lua_State *L, struct mp_run *run); /* `return` it: true, or nil, err "closed" */
struct mp_task *run_add_task(struct mp_run *run);

/* answer.c. Those with L run protected; co's values are the handler's results. */
void answer_results(lua_State *L, struct mp_run *run, lua_State *co); /* everything on co; -all +0 on co */
void answer_raised(lua_State *L, struct mp_run *run);                 /* the value at L's top; -1 +0 */
void answer_error(struct mp_run *run, const struct mp_err *err, int status, double retry_after);
/* The same for what the client shall not see: a 500 with `code`; text and trace go to the log. */
void answer_internal(struct mp_run *run, int code, const char *message, const char *text, const char *trace);
/* One more header of the answer; name is made lower case; replace: drops those of that name. Copied. */
void answer_header(struct mp_run *run, const char *name, size_t name_n, const char *value, size_t value_n,
                   bool replace);
/* NULL when the header may be set, else why not. */
const char *answer_header_refusal(const char *name, size_t name_n, const char *value, size_t value_n);

/* lua_log.c: print of a VM; a line on what a run that ends was not allowed to log. */
void lua_log_print(void *script, const char *where, const char *text, size_t n);
void lua_log_end(struct mp_run *run);

/* background.c: what those do for a job's run. */
void background_results(lua_State *L, struct mp_run *run, lua_State *co); /* everything on co; -all +0 on co */
void background_raised(lua_State *L, struct mp_run *run);                 /* the table at L's top; -1 +0 */
void background_failed(struct mp_run *run, enum mp_job_result result, int code, const char *text, const char *trace);

void lua_shared_leave(struct mp_script_worker *w); /* lua_shared.c */

/* lua_req.c, lua_res.c, lua_stream.c */
void lua_req_push(lua_State *L, struct mp_run *run);      /* -0 +1 */
void lua_res_push(lua_State *L, struct mp_run *run);      /* -0 +1 */
void lua_req_forget(struct mp_run *run);                  /* what scripts kept of req is dead from now on */
void lua_res_forget(struct mp_run *run);                  /* the same for res and its events */
int lua_req_input(lua_State *L);                          /* (req) -> input, or nil, err */
bool lua_reply_is(lua_State *L, int idx);                 /* made by mp.reply */
struct mp_stream *lua_stream_test(lua_State *L, int idx); /* or NULL */
bool lua_stream_belongs(const struct mp_stream *s, const struct mp_run *run);
void stream_pump(struct mp_stream *s); /* the handler returned it: from now on C sends what comes */
void stream_pump_writable(struct mp_stream *s);
void stream_pump_break(struct mp_stream *s, const struct mp_err *err); /* its last event, after the head */

#endif
