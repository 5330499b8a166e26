/* core/script/decl_model.c — mp.model: its file, its names, its settings. See decl_impl.h. */
#include "core/base/arena.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"
#include "core/script/facts.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *look_in(const char *folder, const char *source)
{
    struct stat st;
    char *path = folder && folder[0] ? mp_asprintf("%s/%s", folder, source) : mp_strdup(source);
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
        return path;
    mp_free(path);
    return NULL;
}

/* The file of a model's source, mp_free'd; NULL after a problem. */
static char *find_file(struct mp_decl *d, const struct mp_decl_entry *e, const char *source)
{
    const struct mp_step at = {"source", 0};
    const char *folder = mp_sources_folder(d->script->sources), *env = getenv("MOONPOOL_MODELS");
    struct mp_buf looked = {0};
    char *found = NULL;
    if (source[0] == '/') {
        found = look_in(NULL, source);
        mp_buf_puts(&looked, source);
    } else {
        found = look_in(folder, source);
        mp_buf_printf(&looked, "%s%s%s", folder, folder[0] ? "/" : "", source);
        if (!found && env && env[0]) {
            found = look_in(env, source);
            mp_buf_printf(&looked, ", %s/%s", env, source);
        }
        if (!found) {
            found = look_in("models", source);
            mp_buf_printf(&looked, ", models/%s%s", source, env && env[0] ? "" : " ($MOONPOOL_MODELS is not set)");
        }
    }
    if (!found && d->lenient_files) {
        found = mp_strdup(source);
    } else if (!found) {
        struct mp_buf hint = {0};
        mp_buf_printf(&hint, "looked for %s", mp_buf_cstr(&looked));
        mp_decl_problem(d, e, &at, 1, mp_buf_cstr(&hint), "no file for 'source' \"%s\"", source);
        mp_buf_free(&hint);
    } else if (access(found, R_OK) < 0) {
        mp_decl_problem(d, e, &at, 1, NULL, "'source' %s cannot be read", found);
    }
    mp_buf_free(&looked);
    char *real = found ? realpath(found, NULL) : NULL;
    if (real) {
        mp_free(found);
        found = mp_strdup(real);
        free(real);
    }
    return found;
}

static struct mp_conf_sampling take_sampling(lua_State *L, int t)
{
    struct mp_conf_sampling s = {NAN, NAN, NAN, -1, -1, -1};
    lua_getfield(L, t, "sampling");
    if (lua_istable(L, -1)) {
        int at = lua_gettop(L);
        s.temperature = decl_number(L, at, "temperature", NAN);
        s.top_p = decl_number(L, at, "top_p", NAN);
        s.min_p = decl_number(L, at, "min_p", NAN);
        s.top_k = (int64_t)decl_number(L, at, "top_k", -1);
        s.seed = (int64_t)decl_number(L, at, "seed", -1);
        s.max_tokens = (int64_t)decl_number(L, at, "max_tokens", -1);
    }
    lua_pop(L, 1);
    return s;
}

/* The model's own settings; what was not written out stands in the table afterwards too, for `moonpool check --json`. */
static void take_settings(struct mp_decl *d, const struct mp_decl_entry *e, lua_State *L, int t,
                          struct mp_pool_settings *out)
{
    struct mp_pool_override o;
    const char *key = NULL;
    mp_pool_settings_init(out);
    mp_settings_take(L, t, &o);
    const char *conflict = mp_settings_conflict(&o, &key);
    if (conflict && !e->bad)
        mp_decl_problem(d, e, &(struct mp_step){key, 0}, 1, NULL, "%s", conflict);
#define X(name, key, type, def, least, most) \
    if (o.set & 1u << MP_SET_##name##_BIT)   \
        out->name = o.value.name;
    MP_POOL_SETTINGS(X)
#undef X
    if (out->target_concurrency > out->max_concurrency)
        out->target_concurrency = out->max_concurrency;
    mp_settings_put(L, t, out);
}

/* The checked list of schedules of the table at t. */
static void take_schedules(struct mp_decl *d, const struct mp_decl_entry *e, lua_State *L, int t,
                           struct mp_conf_model *m)
{
    lua_getfield(L, t, "schedules");
    int list = lua_gettop(L);
    uint32_t n = lua_istable(L, list) && !e->bad ? (uint32_t)lua_objlen(L, list) : 0;
    m->schedules = mp_arena_zalloc(d->arena, (n + 1) * sizeof *m->schedules);
    for (uint32_t i = 1; i <= n; i++, lua_settop(L, list)) {
        struct mp_pool_schedule *s = &m->schedules[m->n_schedules++];
        struct mp_step at[] = {{"schedules", 0}, {NULL, i}, {"cron", 0}};
        const char *key = NULL;
        lua_rawgeti(L, list, (int)i);
        const char *cron = decl_string(d, L, list + 1, "cron"), *tz = decl_string(d, L, list + 1, "tz");
        decl_cron(d, e, at, 3, cron, &s->cron);
        at[2].key = "tz";
        decl_zone(d, e, at, 3, tz, &s->tz);
        char *text = mp_asprintf("%s%s%s", cron, tz ? " " : "", tz ? tz : "");
        s->text = mp_arena_strndup(d->arena, text, strlen(text));
        mp_free(text);
        lua_getfield(L, list + 1, "set");
        mp_settings_take(L, list + 2, &s->override);
        at[2].key = "set";
        const char *conflict = mp_settings_conflict(&s->override, &key);
        if (!s->override.set)
            mp_decl_problem(d, e, at, 3, NULL, "'schedules[%u].set' sets nothing", i);
        else if (conflict)
            mp_decl_problem(d, e, at, 3, NULL, "'schedules[%u].set': %s", i, conflict);
    }
    lua_settop(L, list - 1);
}

static const char *spec_json(struct mp_decl *d, const struct mp_conf_model *m)
{
    struct mp_buf b = {0};
    mp_buf_puts(&b, "{\"source\":");
    mp_json_put_string(&b, m->path, strlen(m->path));
    if (m->sha256)
        mp_buf_printf(&b, ",\"sha256\":\"%s\"", m->sha256);
    if (m->context)
        mp_buf_printf(&b, ",\"context\":%u", m->context);
    mp_buf_printf(&b, ",\"numerics\":\"%s\",\"max_concurrency\":%u,\"devices\":[", m->numerics,
                  m->settings.max_concurrency);
    for (uint32_t i = 0; i < m->n_devices; i++)
        mp_buf_printf(&b, "%s\"%s\"", i ? "," : "", m->devices[i]);
    mp_buf_puts(&b, "]}");
    const char *s = mp_arena_strndup(d->arena, b.data, b.len);
    mp_buf_free(&b);
    return s;
}

static bool hex64(const char *s)
{
    return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64;
}

/* Who has that name or alias already: an entry before `self`, or NULL. *alias: it is one there. */
static const struct mp_decl_entry *name_taken(struct mp_decl *d, lua_State *L, uint32_t self, const char *name,
                                              bool *alias)
{
    for (uint32_t i = 0; i < self; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->kind != MP_DECL_MODEL)
            continue;
        *alias = false;
        if (strcmp(e->name, name) == 0)
            return e;
        if (e->checked == LUA_NOREF)
            continue;
        *alias = true;
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->checked);
        lua_getfield(L, -1, "alias");
        bool hit = false;
        for (int k = 1; lua_istable(L, -1) && k <= (int)lua_objlen(L, -1); k++) {
            lua_rawgeti(L, -1, k);
            hit = hit || (lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), name) == 0);
            lua_pop(L, 1);
        }
        lua_pop(L, 2);
        if (hit)
            return e;
    }
    return NULL;
}

static void check_model_names(struct mp_decl *d, uint32_t self, lua_State *L, int t)
{
    const struct mp_decl_entry *e = &d->entries[self], *other;
    bool alias = false;
    if ((other = name_taken(d, L, self, e->name, &alias)))
        mp_decl_problem(d, e, NULL, 0, NULL, "the name is taken by %s%s at %s:%u", alias ? "an alias of " : "",
                        alias ? other->name : "the model", other->file, other->line);
    lua_getfield(L, t, "alias");
    for (uint32_t i = 1; i <= lua_objlen(L, -1); i++) {
        struct mp_step at[] = {{"alias", 0}, {NULL, i}};
        lua_rawgeti(L, -1, (int)i);
        const char *name = lua_tostring(L, -1);
        if (name && strcmp(name, e->name) == 0)
            mp_decl_problem(d, e, at, 2, NULL, "alias \"%s\" is the model's own name", name);
        else if (name && (other = name_taken(d, L, self, name, &alias)))
            mp_decl_problem(d, e, at, 2, NULL, "alias \"%s\" is taken by %smodel \"%s\" at %s:%u", name,
                            alias ? "an alias of " : "", other->name, other->file, other->line);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* What had problems is nil or empty in the table. */
void decl_take_model(struct mp_decl *d, uint32_t self, lua_State *L)
{
    const struct mp_decl_entry *e = &d->entries[self];
    struct mp_config *c = d->config;
    if (!c->models)
        c->models = mp_arena_zalloc(d->arena, decl_count(d, MP_DECL_MODEL) * sizeof *c->models);
    struct mp_conf_model *m = &c->models[c->n_models++];
    int t = lua_gettop(L);
    check_model_names(d, self, L, t);
    m->name = mp_arena_strndup(d->arena, e->name, strlen(e->name));
    m->where = decl_where(d, e);
    m->source = decl_string(d, L, t, "source");
    char *path = m->source ? find_file(d, e, m->source) : NULL;
    m->path = path ? mp_arena_strndup(d->arena, path, strlen(path)) : "";
    mp_free(path);
    char *sum = (char *)decl_string(d, L, t, "sha256");
    if (sum && !hex64(sum))
        mp_decl_problem(d, e, &(struct mp_step){"sha256", 0}, 1, NULL, "'sha256' must be 64 hexadecimal digits");
    for (char *p = sum; p && *p; p++)
        *p = (char)tolower((unsigned char)*p);
    m->sha256 = sum;
    m->devices = decl_list(d, L, t, "devices", &m->n_devices);
    m->aliases = decl_list(d, L, t, "alias", &m->n_aliases);
    m->context = (uint32_t)decl_number(L, t, "context", 0);
    m->numerics = decl_string(d, L, t, "numerics");
    m->numerics = m->numerics ? m->numerics : "plain";
    take_settings(d, e, L, t, &m->settings);
    take_schedules(d, e, L, t, m);
    lua_getfield(L, t, "preload");
    m->preload = lua_toboolean(L, -1);
    lua_pop(L, 1);
    m->sampling = take_sampling(L, t);
    m->spec_json = spec_json(d, m);
}
