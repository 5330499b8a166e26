/* core/script/generation.c — see generation.h. */
#include "core/script/generation.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/generation_impl.h"
#include "core/script/route.h"
#include "core/script/script.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { SCRATCH_MEMORY = 256 << 20 };

struct file { /* what tells one weights file from another at the same path */
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};

struct mp_generation {
    uint64_t number;
    struct mp_sources *sources;
    struct mp_config *config;
    struct mp_routes *routes;
    bool collect_always, lenient_files;
    struct mp_script **scripts; /* one per worker, and control's; each its thread's alone once it serves */
    uint32_t n_scripts;
    struct file *files;    /* one per model */
    _Atomic uint32_t pins; /* requests, plus one until it is retired; any thread */
    _Atomic bool retired;
};

/* One VM that has run the configuration; the frozen result in *config. */
static int build_script(struct mp_script **out, struct mp_sources *sources, bool collect_always, bool lenient_files,
                        size_t memory, struct mp_config **config, struct mp_problems *problems)
{
    struct mp_script_options so = {.memory = memory, .collect_always = collect_always};
    struct mp_err err = {0};
    struct mp_script *s = mp_script_new(sources, &so, &err);
    if (!s) {
        mp_problems_add(problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
        return err.code;
    }
    int rc = mp_script_load(s, lenient_files, config, problems);
    if (rc == 0)
        *out = mp_move(&s);
    mp_script_free(s);
    return rc;
}

/* A file that is not there (any more) leaves zeros: the engine says so when it opens it. */
static void look_at_files(struct mp_generation *g)
{
    g->files = mp_calloc(g->config->n_models * sizeof *g->files + 1);
    for (uint32_t i = 0; i < g->config->n_models; i++) {
        struct stat st;
        if (stat(g->config->models[i].path, &st) == 0)
            g->files[i] = (struct file){st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim};
    }
}

int mp_generation_build(struct mp_generation **out, struct mp_sources *sources, const struct mp_generation_options *o,
                        struct mp_problems *problems)
{
    struct mp_generation *g = mp_calloc(sizeof *g);
    struct mp_script *scratch = NULL;
    g->number = o->number;
    g->collect_always = o->collect_always;
    g->lenient_files = o->lenient_files;
    atomic_init(&g->pins, 1);
    int rc = build_script(&scratch, sources, o->collect_always, o->lenient_files, SCRATCH_MEMORY, &g->config, problems);
    mp_script_free(scratch);
    if (rc < 0)
        goto out;
    mp_sources_freeze(sources);
    look_at_files(g);
    g->routes = mp_routes_new(g->config);
    g->sources = sources;
    if (o->workers > 0)
        rc = mp_generation_open(g, o->workers, problems);
    if (rc < 0)
        g->sources = NULL; /* the caller's still */
    else
        *out = mp_move(&g);
out:
    mp_generation_free(g);
    return rc;
}

int mp_generation_open(struct mp_generation *g, uint32_t workers, struct mp_problems *problems)
{
    struct mp_config *again = NULL;
    g->scripts = mp_calloc((workers + 1) * sizeof *g->scripts);
    for (uint32_t i = 0; i <= workers; i++) {
        int rc = build_script(&g->scripts[i], g->sources, g->collect_always, g->lenient_files,
                              g->config->server.limits.vm_memory, &again, problems);
        if (rc < 0)
            return rc;
        g->n_scripts++;
        bool same = strcmp(again->json, g->config->json) == 0;
        mp_config_free(again);
        if (!same) {
            mp_problems_add(problems, NULL, mp_sources_config(g->sources)->name, 0, 0, 0,
                            "it runs once per worker: what it declares must not depend on time, chance or a first run",
                            "two runs declared different things");
            return MP_EINVAL;
        }
        mp_script_freeze(g->scripts[i], g->config);
    }
    return 0;
}

void mp_generation_free(struct mp_generation *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_scripts; i++)
        mp_script_free(g->scripts[i]);
    mp_free(g->scripts);
    mp_routes_free(g->routes);
    mp_config_free(g->config);
    mp_sources_free(g->sources);
    mp_free(g->files);
    mp_free(g);
}

uint64_t mp_generation_number(const struct mp_generation *g)
{
    return g->number;
}

const struct mp_config *mp_generation_config(const struct mp_generation *g)
{
    return g->config;
}

const struct mp_sources *mp_generation_sources(const struct mp_generation *g)
{
    return g->sources;
}

struct mp_script *mp_generation_script(const struct mp_generation *g, uint32_t worker)
{
    return g->scripts[worker];
}

struct mp_script *mp_generation_control(const struct mp_generation *g)
{
    return g->scripts[g->n_scripts - 1];
}

void mp_generation_renumber(struct mp_generation *g, uint64_t number)
{
    g->number = number;
}

uint64_t mp_generation_bytes(const struct mp_generation *g)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < g->n_scripts; i++)
        bytes += mp_vm_used(g->scripts[i]->vm);
    return bytes;
}

bool mp_generation_same_files(const struct mp_generation *a, const struct mp_generation *b, struct mp_buf *changed)
{
    bool same = true;
    for (uint32_t i = 0; i < a->config->n_models; i++)
        for (uint32_t k = 0; k < b->config->n_models; k++) {
            const struct mp_conf_model *m = &a->config->models[i];
            if (strcmp(m->path, b->config->models[k].path) != 0 || strcmp(m->name, b->config->models[k].name) != 0 ||
                memcmp(&a->files[i], &b->files[k], sizeof a->files[i]) == 0)
                continue;
            mp_buf_printf(changed, "%s%s", same ? "" : ", ", m->name);
            same = false;
        }
    return same;
}

void mp_generation_pin(struct mp_generation *g)
{
    atomic_fetch_add(&g->pins, 1);
}

bool mp_generation_unpin(struct mp_generation *g)
{
    return atomic_fetch_sub(&g->pins, 1) == 1;
}

bool mp_generation_retire(struct mp_generation *g)
{
    if (atomic_exchange(&g->retired, true))
        return false;
    return atomic_fetch_sub(&g->pins, 1) == 1;
}

void mp_generation_revive(struct mp_generation *g)
{
    atomic_fetch_add(&g->pins, 1);
    atomic_store(&g->retired, false);
}

uint32_t mp_generation_pins(const struct mp_generation *g)
{
    bool retired = atomic_load(&((struct mp_generation *)g)->retired);
    return atomic_load(&((struct mp_generation *)g)->pins) - !retired;
}

enum mp_route_result mp_generation_route(const struct mp_generation *g, const char *method, const char *path,
                                         struct mp_route_match *match)
{
    return mp_routes_find(g->routes, method, path, match);
}
