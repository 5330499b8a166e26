/* core/script/generation.h — one configuration as it serves: frozen declarations, a route table, a VM per worker and one more, the control
 * thread's, where policies decide.
 *
 * Built off the workers' threads (the builder thread), swapped in as one pointer per worker, pinned by each request from
 * routing to its end, and closed by the builder thread when nothing pins it. Connections pin nothing. */
#ifndef MP_SCRIPT_GENERATION_H
#define MP_SCRIPT_GENERATION_H
#include "core/base/err.h"
#include "core/script/config.h"
#include "core/script/problems.h"
#include "core/script/source.h"

struct mp_generation;
struct mp_script; /* a worker's VM in one generation: core/script/run.c and the lua_*.c */

struct mp_generation_options {
    uint32_t
        workers; /* VMs to build, and one for control; 0: none, a scratch VM is run and closed (mp_generation_open) */
    uint64_t number; /* 1 for the first; logs name it */
    bool
        lenient_files; /* a snapshot comes back after a crash: a weights file that has gone is the engine's to report */
    bool collect_always; /* specs: a full garbage collection before every resume */
};

/* Runs the snapshot in a scratch VM, collects every problem, freezes the snapshot, builds the VMs. On success *out has no
 * pins and owns the snapshot; on failure *out is NULL, `problems` says everything that was wrong and the snapshot stays the
 * caller's. Returns 0 or MP_EINVAL (problems) or another error (problems holds its text too). Any thread. */
int mp_generation_build(struct mp_generation **out, struct mp_sources *sources,
                        const struct mp_generation_options *options, struct mp_problems *problems);
/* Builds the VMs of a generation that was built without: `workers` and the control thread's. 0 or an error (problems). Any thread. */
int mp_generation_open(struct mp_generation *g, uint32_t workers, struct mp_problems *problems);
/* Closes the VMs (milliseconds: not on a worker's thread). No pins may be left. NULL is fine. */
void mp_generation_free(struct mp_generation *g);

uint64_t mp_generation_number(const struct mp_generation *g);
const struct mp_config *mp_generation_config(const struct mp_generation *g);
const struct mp_sources *mp_generation_sources(const struct mp_generation *g);
void mp_generation_renumber(struct mp_generation *g, uint64_t number); /* before it serves */
uint64_t mp_generation_bytes(const struct mp_generation *g);           /* that its VMs hold now; any thread */
/* Each model's file as it was when the generation was built: two generations of the same sources differ in what they serve when a file was
 * replaced. Appends the names of the models whose file differs, ", " between. */
bool mp_generation_same_files(const struct mp_generation *a, const struct mp_generation *b, struct mp_buf *changed);

/* Requests that pin the generation, counted over all workers (atomic). */
void mp_generation_pin(struct mp_generation *g);
/* True when this was the last pin and mp_generation_retire was called: now the caller sees to mp_generation_free. */
bool mp_generation_unpin(struct mp_generation *g);
/* No new request will pin it (the pointer was swapped on every worker). True when nothing pins it: free it now. */
bool mp_generation_retire(struct mp_generation *g);
void mp_generation_revive(struct mp_generation *g); /* a retired one, with or without pins, that serves again */
uint32_t mp_generation_pins(const struct mp_generation *g);

enum { MP_ROUTE_PARAMS = 8 };

enum mp_route_result {
    MP_ROUTE_FOUND,
    MP_ROUTE_UNKNOWN_PATH,   /* → 404 */
    MP_ROUTE_UNKNOWN_METHOD, /* → 405 with `allow` */
    MP_ROUTE_BAD_PATH,       /* a broken percent escape, or one that gives NUL → 400 */
};

struct mp_route_match {
    const struct mp_conf_endpoint *endpoint; /* FOUND */
    const char *allow;                       /* UNKNOWN_METHOD: "GET, HEAD, POST"; lives as long as the generation */
    uint32_t n_params;
    struct mp_route_param {
        const char *name;  /* name_n bytes; lives as long as the generation */
        const char *value; /* encoded, in `path`; n bytes */
        size_t name_n, n;
    } params[MP_ROUTE_PARAMS];
};

/* path: without the query, percent-encoded as it came; the match borrows it. HEAD finds GET's endpoint. Any thread. */
enum mp_route_result mp_generation_route(const struct mp_generation *g, const char *method, const char *path,
                                         struct mp_route_match *match);

#endif
