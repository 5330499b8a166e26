/* core/script/decl_job.c — mp.job and mp.shared: what runs by the clock, and what all workers keep together. See decl_impl.h. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"

#include <string.h>

enum { MAX_JOBS = 1000 }; /* what was fired last is written down for all of them each time that one fires */

static int choice(lua_State *L, int t, const char *key, const char *const *words)
{
    int found = 0;
    lua_getfield(L, t, key);
    for (int i = 0; words[i] && lua_isstring(L, -1); i++)
        if (strcmp(words[i], lua_tostring(L, -1)) == 0)
            found = i;
    lua_pop(L, 1);
    return found;
}

/* "cron 0 8 * * 1-5 Europe/Berlin", "every 30": a declaration that says something else begins anew. */
static const char *what_of(struct mp_decl *d, const struct mp_conf_job *j)
{
    char *s = j->cron_text ? mp_asprintf("cron %s %s", j->cron_text, mp_tz_name(j->tz))
                           : mp_asprintf("every %.17g", j->every);
    const char *copy = mp_arena_strndup(d->arena, s, strlen(s));
    mp_free(s);
    return copy;
}

void decl_take_job(struct mp_decl *d, uint32_t self, lua_State *L)
{
    static const struct mp_step cron_at = {"cron", 0}, every_at = {"every", 0}, tz_at = {"tz", 0},
                                jitter_at = {"jitter", 0};
    const struct mp_decl_entry *e = &d->entries[self];
    struct mp_config *c = d->config;
    uint32_t all = decl_count(d, MP_DECL_JOB);
    int t = lua_gettop(L);
    if (!c->jobs) {
        c->jobs = mp_arena_zalloc(d->arena, all * sizeof *c->jobs);
        d->script->jobs = mp_calloc(all * sizeof *d->script->jobs);
    }
    struct mp_conf_job *j = &c->jobs[c->n_jobs];
    const char *tz = decl_string(d, L, t, "tz");
    j->index = c->n_jobs++;
    j->name = mp_arena_strndup(d->arena, e->name, strlen(e->name));
    j->where = decl_where(d, e);
    j->cron_text = decl_string(d, L, t, "cron");
    j->every = decl_number(L, t, "every", 0);
    j->jitter = decl_number(L, t, "jitter", 0);
    j->timeout = decl_number(L, t, "timeout", 0);
    j->overlap = (unsigned)choice(L, t, "overlap", mp_job_overlaps);
    j->per_worker = choice(L, t, "per", mp_job_places) == 1;
    if (j->index == MAX_JOBS)
        mp_decl_problem(d, e, NULL, 0, NULL, "one job too many: there may be %d", MAX_JOBS);
    if (!e->bad && !j->cron_text && j->every == 0)
        mp_decl_problem(d, e, NULL, 0, "cron = \"0 8 * * 1-5\", or every = \"5m\"", "missing key 'cron' or 'every'");
    if (j->cron_text && j->every > 0)
        mp_decl_problem(d, e, &every_at, 1, NULL, "'cron' and 'every' exclude each other");
    if (!j->cron_text && tz)
        mp_decl_problem(d, e, &tz_at, 1, NULL, "'tz' belongs to 'cron': 'every' has no time of day");
    if (j->every > 0 && j->jitter > j->every)
        mp_decl_problem(d, e, &jitter_at, 1, NULL, "'jitter' is above 'every'");
    if (j->cron_text)
        decl_cron(d, e, &cron_at, 1, j->cron_text, &j->cron);
    decl_zone(d, e, &tz_at, 1, tz, &j->tz);
    j->what = what_of(d, j);
    lua_getfield(L, t, "run");
    d->script->jobs[j->index] = luaL_ref(L, LUA_REGISTRYINDEX); /* of nil: LUA_REFNIL, and there is a problem */
    d->script->n_jobs = c->n_jobs;
}

void decl_take_shared(struct mp_decl *d, uint32_t self, lua_State *L)
{
    const struct mp_decl_entry *e = &d->entries[self];
    struct mp_config *c = d->config;
    if (!c->shared)
        c->shared = mp_arena_zalloc(d->arena, decl_count(d, MP_DECL_SHARED) * sizeof *c->shared);
    c->shared[c->n_shared++] = (struct mp_conf_shared){.name = mp_arena_strndup(d->arena, e->name, strlen(e->name)),
                                                       .where = decl_where(d, e),
                                                       .bytes = (uint64_t)decl_number(L, lua_gettop(L), "bytes", 0)};
}
