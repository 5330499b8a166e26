/* core/script/script.h — a VM with the `mp` API in it: what a generation has one of per worker. Private to core/script.
 *
 * Life: mp_script_new (builder thread) → mp_script_load runs the configuration and collects what it declares
 * → a worker runs requests in it (run.c) → mp_script_free (builder thread). */
#ifndef MP_SCRIPT_SCRIPT_H
#define MP_SCRIPT_SCRIPT_H
#include "core/base/arena.h"
#include "core/script/config.h"
#include "core/script/policy.h"
#include "core/script/problems.h"
#include "core/script/run.h"
#include "core/script/source.h"
#include "core/vm/vm.h"

#include <lauxlib.h>
#include <lua.h>

struct mp_decl;

struct mp_script_link { /* one plugin around an endpoint; references into the registry, LUA_NOREF when absent */
    int conf, admit, handle;
};

struct mp_script_endpoint {
    int handle; /* reference */
    int chain;  /* reference to the Lua list of { conf =, admit =, handle = } */
    uint32_t n_chain;
    const struct mp_schema *input; /* the frozen config's */
};

enum { MP_SCRIPT_SPARE = 32 }; /* coroutines kept for the next request */

struct mp_script {
    uint32_t magic;
    struct mp_vm *vm;
    lua_State *L;
    struct mp_sources *sources;
    const struct mp_config *config; /* of the generation; NULL in a scratch VM */
    struct mp_decl *decl;           /* while the configuration loads */
    struct mp_script_endpoint *endpoints;
    uint32_t n_endpoints;
    int *jobs; /* references to the functions of the config's jobs */
    uint32_t n_jobs;
    int policy[MP_N_POLICY_SLOTS]; /* references to the functions of the policy that counts; LUA_NOREF: the default's */
    const char *deciding;          /* the slot whose function runs now, or NULL: then what is not pure raises */
    enum mp_phase phase;
    struct mp_buf line; /* scratch for C functions that may raise while they build text */

    /* Of the worker's thread. */
    struct mp_run *current; /* the one whose Lua runs now */
    struct mp_run *runs;    /* all that are not at their end */
    int enter;              /* reference to lua/moonpool/init.lua's enter */
    int spare[MP_SCRIPT_SPARE];
    uint32_t n_spare;
};

struct mp_script_options {
    size_t memory;       /* of the VM */
    bool collect_always; /* a full garbage collection at every chance */
};

/* NULL with err. sources: borrowed, outlives the script. */
struct mp_script *mp_script_new(struct mp_sources *sources, const struct mp_script_options *options,
                                struct mp_err *err);
void mp_script_free(struct mp_script *s); /* NULL is fine */
/* Runs the configuration and checks what it declared. On success *out is the frozen result (mp_config_free). Problems go to
 * `problems`; returns 0 or MP_EINVAL. Once per script. */
int mp_script_load(struct mp_script *s, bool lenient_files, struct mp_config **out, struct mp_problems *problems);
/* From now on it serves: config is the generation's frozen one (the script's own result may be freed). */
void mp_script_freeze(struct mp_script *s, const struct mp_config *config);
void mp_config_free(struct mp_config *c); /* NULL is fine */

/* The script that L runs in. */
struct mp_script *mp_script_of(lua_State *L);
/* Where Lua calls from: "conf/moonpool.lua:12", or "" when nowhere is known. Levels of the bundled library are skipped. */
void mp_script_where(lua_State *L, char *out, size_t size);

/* Raises while a policy's function runs: fn ("mp.time") is not pure. Functions that wait ask mp_run_require, which does the same. */
void mp_script_pure(lua_State *L, const char *fn);

/* Pushes `nil, err`: the table { code, message, status, retry_after?, cause? } with __tostring; returns 2. retry_after is err's own. */
int mp_script_fail(lua_State *L, const struct mp_err *err);
void mp_script_mark_err(lua_State *L); /* the table at the top is an error: it prints as its message. -0 +0 */
/* Pushes just the error table. */
void mp_script_push_err(lua_State *L, const struct mp_err *err, int status,
                        double retry_after); /* 0, 0: the code's own, none */

/* "127.0.0.1:7171", "[::1]:0", "localhost:80" → host, port; MP_EINVAL names what is wrong. Strings are a's. */
struct mp_arena;
int mp_listen_parse(const char *text, struct mp_arena *a, struct mp_conf_listen *out, struct mp_err *err);

/* ---- one per API area: each puts its functions into the table at the top (mp). -0 +0 ---- */
void mp_lua_declare_open(lua_State *L); /* server, model, endpoint, plugin, models, and what is not yet built */
void mp_lua_log_open(lua_State *L);     /* log */
void mp_lua_env_open(lua_State *L);     /* env, read_file */
void mp_lua_time_open(lua_State *L);    /* time, sleep, uuid */
void mp_lua_err_open(lua_State *L);     /* the metatable of errors */
void mp_lua_req_open(lua_State *L);     /* the metatable of req */
void mp_lua_res_open(lua_State *L);     /* reply, the metatables of res and events */
void mp_lua_model_open(lua_State *L);   /* the metatable of models */
void mp_lua_stream_open(lua_State *L);  /* the metatable of streams */
void mp_lua_all_open(lua_State *L);     /* all */
void mp_lua_shared_open(lua_State *L);  /* the metatable of shared dictionaries */

void mp_lua_push_shared(lua_State *L, const char *name); /* -0 +1: the handle of a declared dictionary */
void mp_lua_push_models(lua_State *L);                   /* -0 +1: mp.models */
void mp_lua_push_model(lua_State *L, const char *name);  /* -0 +1: the handle of a declared model (not checked here) */

#endif
