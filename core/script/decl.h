/* core/script/decl.h — what a configuration declares while it runs, and the check at its end. Private to core/script.
 * Filled by lua_declare.c, judged by decl.c and the decl_<kind>.c. */
#ifndef MP_SCRIPT_DECL_H
#define MP_SCRIPT_DECL_H
#include "core/script/keys.h"
#include "core/script/script.h"

enum mp_decl_kind {
    MP_DECL_SERVER,
    MP_DECL_DEVICE,
    MP_DECL_MODEL,
    MP_DECL_ENDPOINT,
    MP_DECL_PLUGIN,
    MP_DECL_POLICY,
    MP_DECL_JOB,
    MP_DECL_SHARED,
    MP_N_DECL_KINDS
};

struct mp_decl_entry {
    enum mp_decl_kind kind;
    char *name;                     /* of kinds that are named, else NULL */
    char *file;                     /* a source's name */
    uint32_t line;                  /* of the name, then of the table */
    int table;                      /* reference to what was given; LUA_NOREF: a name whose table never came */
    int checked;                    /* reference to the normalised copy, or LUA_NOREF */
    bool bad;                       /* its check found problems */
    const struct mp_schema *config; /* of a plugin: compiled on first use */
    bool routed;                    /* of a plugin: its routes are in */
};

struct mp_decl {
    struct mp_script *script;
    struct mp_problems *problems;
    struct mp_decl_entry *entries;
    uint32_t n, cap;
    struct mp_config *config; /* being filled */
    struct mp_arena *arena;   /* the config's */
    bool lenient_files;
};

/* Called by mp.kind: a new entry at the calling place; its index. file and line of the place come from L. */
uint32_t mp_decl_add(struct mp_decl *d, lua_State *L, enum mp_decl_kind kind, const char *name);
/* Its table is at idx. */
void mp_decl_table(struct mp_decl *d, lua_State *L, uint32_t entry, int idx);
const char *mp_decl_kind_name(enum mp_decl_kind kind); /* "server" */

/* A problem of an entry. steps: the way to the key, n 0 for the declaration itself. */
void mp_decl_problem(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *steps, size_t n,
                     const char *hint, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* A problem at a place that is no declaration's. */
void mp_decl_problem_at(struct mp_decl *d, lua_State *L, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A protected call failed while the configuration loaded: its error becomes a problem at the place its text names. */
void mp_decl_error(struct mp_decl *d, const struct mp_err *err);

/* After the main chunk: checks everything, loads plugins, fills d->config and the script's endpoints. Runs protected;
 * may raise when memory is out. */
void mp_decl_finish(struct mp_decl *d, lua_State *L);
void mp_decl_free(struct mp_decl *d);

#endif
