/* core/script/generation.c — see generation.h. */
#include "core/script/generation.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/generation_impl.h"
#include "core/script/route.h"
#include "core/script/script.h"

#include <stdatomic.h>
#include <string.h>

enum { SCRATCH_MEMORY = 256 << 20 };

struct mp_generation {
    uint64_t number;
    struct mp_sources *sources;
    struct mp_config *config;
    struct mp_routes *routes;
    struct mp_script **scripts; /* one per worker; each its worker's alone once it serves */
    uint32_t n_scripts;
    _Atomic uint32_t pins; /* requests, plus one until it is retired; any thread */
    _Atomic bool retired;
};

/* One VM that has run the configuration; the frozen result in *config. */
static int build_script(struct mp_script **out, struct mp_sources *sources, const struct mp_generation_options *o,
                        size_t memory, struct mp_config **config, struct mp_problems *problems)
{
    struct mp_script_options so = {.memory = memory, .collect_always = o->collect_always};
    struct mp_err err = {0};
    struct mp_script *s = mp_script_new(sources, &so, &err);
    if (!s) {
        mp_problems_add(problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
        return err.code;
    }
    int rc = mp_script_load(s, o->lenient_files, config, problems);
    if (rc == 0)
        *out = mp_move(&s);
    mp_script_free(s);
    return rc;
}

int mp_generation_build(struct mp_generation **out, struct mp_sources *sources, const struct mp_generation_options *o,
                        struct mp_problems *problems)
{
    struct mp_generation *g = mp_calloc(sizeof *g);
    struct mp_script *scratch = NULL;
    struct mp_config *again = NULL;
    g->number = o->number;
    atomic_init(&g->pins, 1);
    int rc = build_script(&scratch, sources, o, SCRATCH_MEMORY, &g->config, problems);
    mp_script_free(scratch);
    if (rc < 0)
        goto out;
    mp_sources_freeze(sources);
    g->routes = mp_routes_new(g->config);
    g->scripts = mp_calloc((o->workers + 1) * sizeof *g->scripts);
    for (uint32_t i = 0; i < o->workers; i++) {
        rc = build_script(&g->scripts[i], sources, o, g->config->server.limits.vm_memory, &again, problems);
        if (rc < 0)
            goto out;
        g->n_scripts++;
        bool same = strcmp(again->json, g->config->json) == 0;
        mp_config_free(again);
        if (!same) {
            mp_problems_add(problems, NULL, mp_sources_config(sources)->name, 0, 0, 0,
                            "it runs once per worker: what it declares must not depend on time, chance or a first run",
                            "two runs declared different things");
            rc = MP_EINVAL;
            goto out;
        }
        mp_script_freeze(g->scripts[i], g->config);
    }
    g->sources = sources;
    *out = mp_move(&g);
out:
    mp_generation_free(g);
    return rc;
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
