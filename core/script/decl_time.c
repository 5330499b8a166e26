/* core/script/decl_time.c — what declarations say about time: cron expressions and zones, for schedules and jobs. See decl_impl.h. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"

#include <string.h>

bool decl_cron(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *at, size_t n, const char *text,
               struct mp_cron *out)
{
    struct mp_buf path = {0};
    struct mp_err err = {0};
    int rc = mp_cron_parse(out, text, &err);
    if (rc < 0) {
        mp_schema_path(&path, at, n);
        mp_decl_problem(d, e, at, n, NULL, "'%s' \"%.100s\": %s", mp_buf_cstr(&path), text, err.message);
        mp_buf_free(&path);
    }
    return rc == 0;
}

bool decl_zone(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *at, size_t n, const char *name,
               struct mp_tz **out)
{
    struct mp_config *c = d->config;
    struct mp_buf path = {0};
    struct mp_err err = {0};
    *out = NULL;
    if (!name)
        return true;
    for (uint32_t i = 0; i < c->n_zones; i++)
        if (strcmp(mp_tz_name(c->zones[i]), name) == 0) {
            *out = c->zones[i];
            return true;
        }
    if (mp_tz_open(out, name, &err) < 0) {
        mp_schema_path(&path, at, n);
        mp_decl_problem(d, e, at, n, NULL, "'%s': %s", mp_buf_cstr(&path), err.message);
        mp_buf_free(&path);
        return false;
    }
    struct mp_tz **more = mp_arena_zalloc(d->arena, (c->n_zones + 1) * sizeof *more);
    if (c->n_zones)
        memcpy(more, c->zones, c->n_zones * sizeof *more);
    more[c->n_zones++] = *out;
    c->zones = more;
    return true;
}
