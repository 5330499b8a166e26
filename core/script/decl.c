/* core/script/decl.c — see decl.h: checks what was declared against keys.c and makes the frozen mp_config of it. */
#include "core/script/decl.h"

#include "core/base/arena.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"
#include "core/vm/lua_json.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const kind_names[] = {"server", "model", "endpoint", "plugin"};

const char *mp_decl_kind_name(enum mp_decl_kind kind)
{
    return kind_names[kind];
}

/* ---- entries ---- */

/* The nearest Lua function that is not of the bundled library. */
static bool caller(lua_State *L, lua_Debug *ar)
{
    for (int level = 0; lua_getstack(L, level, ar); level++)
        if (lua_getinfo(L, "Sl", ar) && ar->currentline > 0 && ar->source[0] == '@')
            return true;
    return false;
}

uint32_t mp_decl_add(struct mp_decl *d, lua_State *L, enum mp_decl_kind kind, const char *name)
{
    lua_Debug ar;
    bool known = caller(L, &ar);
    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 16;
        d->entries = mp_realloc(d->entries, d->cap * sizeof *d->entries);
    }
    d->entries[d->n] = (struct mp_decl_entry){
        .kind = kind,
        .name = name ? mp_strdup(name) : NULL,
        .file = mp_strdup(known ? ar.source + 1 : mp_sources_config(d->script->sources)->name),
        .line = known ? (uint32_t)ar.currentline : 0,
        .table = LUA_NOREF,
        .checked = LUA_NOREF,
    };
    return d->n++;
}

void mp_decl_table(struct mp_decl *d, lua_State *L, uint32_t entry, int idx)
{
    struct mp_decl_entry *e = &d->entries[entry];
    lua_Debug ar;
    /* `return mp.plugin "x" {…}` is a tail call: then the caller is gone, and the name's line must do. */
    if (caller(L, &ar) && strcmp(ar.source + 1, e->file) == 0)
        e->line = (uint32_t)ar.currentline;
    lua_pushvalue(L, idx);
    e->table = luaL_ref(L, LUA_REGISTRYINDEX);
}

void mp_decl_free(struct mp_decl *d)
{
    if (!d)
        return;
    for (uint32_t i = 0; i < d->n; i++) {
        mp_free(d->entries[i].name);
        mp_free(d->entries[i].file);
    }
    mp_free(d->entries);
    mp_config_free(d->config);
    mp_free(d);
}

void mp_config_free(struct mp_config *c)
{
    if (c)
        mp_arena_free(c->arena); /* c lives in it */
}

const struct mp_conf_model *mp_config_model(const struct mp_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, name) == 0)
            return &c->models[i];
    for (uint32_t i = 0; i < c->n_models; i++)
        for (uint32_t k = 0; k < c->models[i].n_aliases; k++)
            if (strcmp(c->models[i].aliases[k], name) == 0)
                return &c->models[i];
    return NULL;
}

/* ---- problems ---- */

void mp_decl_problem(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *steps, size_t n,
                     const char *hint, const char *fmt, ...)
{
    const struct mp_source *f = mp_sources_by_name(d->script->sources, e->file);
    struct mp_place at = {e->line, 0, 0};
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (f && n)
        mp_locate(f->data, f->n, e->line, kind_names[e->kind], e->name, steps, n, &at);
    mp_problems_add(d->problems, d->script->sources, e->file, at.line, at.column, at.width, hint, "mp.%s%s%s%s: %s",
                    kind_names[e->kind], e->name ? " \"" : "", e->name ? e->name : "", e->name ? "\"" : "",
                    len < 0 ? "out of memory" : text);
    free(text);
}

void mp_decl_problem_at(struct mp_decl *d, lua_State *L, const char *fmt, ...)
{
    lua_Debug ar;
    bool known = caller(L, &ar);
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    mp_problems_add(d->problems, d->script->sources, known ? ar.source + 1 : NULL, known ? (uint32_t)ar.currentline : 0,
                    0, 0, NULL, "%s", len < 0 ? "out of memory" : text);
    free(text);
}

/* "conf/x.lua:12: text" → a problem at that line. */
void mp_decl_error(struct mp_decl *d, const struct mp_err *err)
{
    const char *m = err->message;
    for (const char *colon = strchr(m, ':'); colon; colon = strchr(colon + 1, ':')) {
        char *end = NULL, *file = mp_strndup(m, (size_t)(colon - m));
        unsigned long line = isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 0;
        bool ours = line && end[0] == ':' && mp_sources_by_name(d->script->sources, file);
        if (ours)
            mp_problems_add(d->problems, d->script->sources, file, (uint32_t)line, 0, 0, NULL, "%s",
                            end + 1 + (end[1] == ' '));
        mp_free(file);
        if (ours)
            return;
    }
    mp_problems_add(d->problems, d->script->sources, mp_sources_config(d->script->sources)->name, 0, 0, 0, NULL, "%s",
                    m);
}

struct reporting {
    struct mp_decl *d;
    const struct mp_decl_entry *e;
};

static void report(void *ctx, const struct mp_step *steps, size_t n, const char *hint, const char *message)
{
    const struct reporting *r = ctx;
    mp_decl_problem(r->d, r->e, steps, n, hint, "%s", message);
}

bool decl_check(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before, size_t n_before,
                lua_State *L, const struct mp_schema *s)
{
    struct reporting r = {d, e};
    struct mp_checker c = {.L = L, .report = report, .ctx = &r, .n_steps = n_before};
    if (n_before)
        memcpy(c.steps, before, n_before * sizeof *before);
    mp_schema_check(&c, s, -1);
    lua_replace(L, -2);
    return c.problems == 0;
}

const struct mp_schema *decl_compile(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before,
                                     size_t n_before, lua_State *L)
{
    struct reporting r = {d, e};
    struct mp_checker c = {.L = L, .report = report, .ctx = &r, .n_steps = n_before};
    if (n_before)
        memcpy(c.steps, before, n_before * sizeof *before);
    return mp_schema_compile(&c, -1, d->arena);
}

/* ---- reading checked tables ---- */

const char *decl_string(struct mp_decl *d, lua_State *L, int t, const char *key)
{
    size_t n;
    lua_getfield(L, t, key);
    const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    if (s)
        s = mp_arena_strndup(d->arena, s, n);
    lua_pop(L, 1);
    return s;
}

double decl_number(lua_State *L, int t, const char *key, double otherwise)
{
    lua_getfield(L, t, key);
    double v = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return v;
}

const char *decl_where(struct mp_decl *d, const struct mp_decl_entry *e)
{
    char *s = mp_asprintf("%s:%u", e->file, e->line);
    const char *copy = mp_arena_strndup(d->arena, s, strlen(s));
    mp_free(s);
    return copy;
}

/* ---- mp.server ---- */

int mp_listen_parse(const char *text, struct mp_arena *a, struct mp_conf_listen *out, struct mp_err *err)
{
    const char *colon = strrchr(text, ':');
    unsigned char bytes[16];
    char *end = NULL;
    unsigned long port = colon && isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 65536;
    if (!colon || colon == text || !end || *end || port > 65535)
        return mp_err_set(err, MP_EINVAL, "must be an address and a port, like \"127.0.0.1:7171\", not \"%.100s\"",
                          text);
    size_t n = (size_t)(colon - text);
    bool six = text[0] == '[' && text[n - 1] == ']';
    char *host = six ? mp_arena_strndup(a, text + 1, n - 2) : mp_arena_strndup(a, text, n);
    *out =
        (struct mp_conf_listen){.text = mp_arena_strndup(a, text, strlen(text)), .host = host, .port = (uint32_t)port};
    if (six && inet_pton(AF_INET6, host, bytes) == 1) {
        static const unsigned char one[16] = {[15] = 1};
        out->loopback = memcmp(bytes, one, 16) == 0;
    } else if (!six && inet_pton(AF_INET, host, bytes) == 1) {
        out->loopback = bytes[0] == 127;
    } else if (!six && strcmp(host, "localhost") == 0) {
        out->host = "127.0.0.1";
        out->loopback = true;
    } else {
        return mp_err_set(err, MP_EINVAL, "\"%.100s\" is no IP address (IPv6 in brackets: \"[::1]:7171\")", host);
    }
    return 0;
}

static void take_limits(struct mp_conf_limits *out, lua_State *L, int t)
{
    lua_getfield(L, t, "limits");
    if (!lua_istable(L, -1)) { /* has its problem already */
        lua_pop(L, 1);
        return;
    }
    int l = lua_gettop(L);
    out->burst = decl_number(L, l, "burst", 0);
    out->cpu = decl_number(L, l, "cpu", 0);
    out->run_memory = (uint64_t)decl_number(L, l, "run_memory", 0);
    out->vm_memory = (uint64_t)decl_number(L, l, "vm_memory", 0);
    out->json_values = (uint32_t)decl_number(L, l, "json_values", 0);
    out->body = (uint64_t)decl_number(L, l, "body", 0);
    lua_pop(L, 1);
}

/* The checked table is at the top. */
static void take_server(struct mp_decl *d, const struct mp_decl_entry *e, lua_State *L)
{
    struct mp_conf_server *server = &d->config->server;
    int t = lua_gettop(L);
    take_limits(&server->limits, L, t);
    if (!e->bad && server->limits.cpu < server->limits.burst)
        mp_decl_problem(d, e, (struct mp_step[]){{"limits", 0}, {"cpu", 0}}, 2, NULL,
                        "'limits.cpu' is below 'limits.burst': a request may take less in all than at once");
    if (!e->bad && server->limits.vm_memory < 2 * server->limits.run_memory)
        mp_decl_problem(d, e, (struct mp_step[]){{"limits", 0}, {"run_memory", 0}}, 2, NULL,
                        "'limits.vm_memory' must be at least twice 'limits.run_memory'");
    server->workers = (uint32_t)decl_number(L, t, "workers", 0);
    lua_getfield(L, t, "listen");
    server->n_listen = (uint32_t)lua_objlen(L, -1);
    server->listen = mp_arena_zalloc(d->arena, (server->n_listen + 1) * sizeof *server->listen);
    for (uint32_t i = 0; i < server->n_listen; i++) {
        struct mp_step at[] = {{"listen", 0}, {NULL, i + 1}};
        struct mp_err err = {0};
        lua_rawgeti(L, -1, (int)i + 1);
        lua_getfield(L, -1, "name");
        if (!lua_isstring(L, -1)) {
            lua_pop(L, 2);
            continue;
        }
        if (mp_listen_parse(lua_tostring(L, -1), d->arena, &server->listen[i], &err) < 0)
            mp_decl_problem(d, e, at, 2, NULL, "'listen[%u]' %s", i + 1, err.message);
        else if (!server->listen[i].loopback)
            mp_decl_problem(
                d, e, at, 2, "keys are not yet built: listen on 127.0.0.1 or [::1], behind a proxy that asks for one",
                "'listen[%u]' goes beyond loopback, which is refused as long as no API keys protect it", i + 1);
        for (uint32_t j = 0; j < i; j++)
            if (server->listen[i].port && server->listen[j].text && server->listen[i].text &&
                strcmp(server->listen[i].text, server->listen[j].text) == 0)
                mp_decl_problem(d, e, at, 2, NULL, "'listen[%u]' is the same address as 'listen[%u]'", i + 1, j + 1);
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
}

/* ---- mp.model ---- */

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

/* The strings of a checked list, in the arena. */
static const char *const *decl_list(struct mp_decl *d, lua_State *L, int t, const char *key, uint32_t *n)
{
    lua_getfield(L, t, key);
    *n = lua_istable(L, -1) ? (uint32_t)lua_objlen(L, -1) : 0;
    const char **list = mp_arena_zalloc(d->arena, (*n + 1) * sizeof *list);
    for (uint32_t i = 0; i < *n; i++) {
        size_t len;
        lua_rawgeti(L, -1, (int)i + 1);
        const char *s = lua_tolstring(L, -1, &len);
        list[i] = mp_arena_strndup(d->arena, s ? s : "", s ? len : 0);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return list;
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

static const char *spec_json(struct mp_decl *d, const struct mp_conf_model *m)
{
    struct mp_buf b = {0};
    mp_buf_puts(&b, "{\"source\":");
    mp_json_put_string(&b, m->path, strlen(m->path));
    if (m->sha256)
        mp_buf_printf(&b, ",\"sha256\":\"%s\"", m->sha256);
    if (m->context)
        mp_buf_printf(&b, ",\"context\":%u", m->context);
    mp_buf_printf(&b, ",\"numerics\":\"%s\",\"max_concurrency\":%u,\"devices\":[", m->numerics, m->settings.max_concurrency);
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

/* The checked table is at the top; what had problems is nil or empty there. */
static void take_model(struct mp_decl *d, uint32_t self, lua_State *L)
{
    const struct mp_decl_entry *e = &d->entries[self];
    struct mp_conf_model *m = &d->config->models[d->config->n_models++];
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
    mp_pool_settings_init(&m->settings);
    m->settings.min_replicas = (uint32_t)decl_number(L, t, "min_replicas", 0);
    m->settings.max_concurrency = (uint32_t)decl_number(L, t, "max_concurrency", 16);
    m->sampling = take_sampling(L, t);
    m->spec_json = spec_json(d, m);
}

/* ---- everything as data ---- */

/* Copies the value at idx (absolute) with functions as {"function": "file:line"}. -0 +1 */
static void as_data(lua_State *L, int idx, int depth)
{
    lua_Debug ar;
    luaL_checkstack(L, 8, "a declaration is nested too deeply");
    switch (lua_type(L, idx)) {
    case LUA_TFUNCTION:
        lua_newtable(L);
        lua_pushvalue(L, idx);
        lua_getinfo(L, ">S", &ar);
        if (ar.linedefined > 0)
            lua_pushfstring(L, "%s:%d", ar.source[0] == '@' ? ar.source + 1 : ar.short_src, ar.linedefined);
        else
            lua_pushliteral(L, "built in");
        lua_setfield(L, -2, "function");
        break;
    case LUA_TTABLE:
        lua_newtable(L);
        if (depth > 16)
            break;
        if (lua_getmetatable(L, idx))
            lua_setmetatable(L, -2); /* lists stay lists */
        bool typed = false;          /* { "string", max = 200 }: its first value is shown as `type` */
        for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
            typed = typed || (lua_type(L, -2) == LUA_TSTRING && lua_objlen(L, idx) == 1);
        for (lua_pushnil(L); lua_next(L, idx);) {
            int key = lua_gettop(L) - 1;
            as_data(L, key + 1, depth + 1);
            if (typed && lua_type(L, key) == LUA_TNUMBER)
                lua_pushliteral(L, "type");
            else
                lua_pushvalue(L, key);
            lua_insert(L, -2);
            lua_rawset(L, key - 1);
            lua_settop(L, key);
        }
        break;
    case LUA_TUSERDATA:
    case LUA_TTHREAD: lua_pushfstring(L, "(%s)", luaL_typename(L, idx)); break;
    default: lua_pushvalue(L, idx);
    }
}

/* The entries of one kind as a list of their checked tables, with name and where. */
static void kind_as_data(struct mp_decl *d, lua_State *L, enum mp_decl_kind kind)
{
    int n = 0;
    lua_newtable(L);
    mp_lua_json_mark_array(L, -1);
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->kind != kind || e->checked == LUA_NOREF)
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->checked);
        as_data(L, lua_gettop(L), 0);
        if (e->name) {
            lua_pushstring(L, e->name);
            lua_setfield(L, -2, "name");
        }
        if (e->line) {
            lua_pushfstring(L, "%s:%d", e->file, (int)e->line);
            lua_setfield(L, -2, "where");
        }
        lua_rawseti(L, -3, ++n);
        lua_pop(L, 1);
    }
}

static void config_json(struct mp_decl *d, lua_State *L)
{
    struct mp_buf b = {0};
    struct mp_err err = {0};
    lua_newtable(L);
    kind_as_data(d, L, MP_DECL_SERVER);
    lua_rawgeti(L, -1, 1);
    lua_setfield(L, -3, "server");
    lua_pop(L, 1);
    kind_as_data(d, L, MP_DECL_MODEL);
    lua_setfield(L, -2, "models");
    kind_as_data(d, L, MP_DECL_ENDPOINT);
    lua_setfield(L, -2, "endpoints");
    kind_as_data(d, L, MP_DECL_PLUGIN);
    lua_setfield(L, -2, "plugins");
    if (mp_lua_json_encode(L, -1, &b, 0, &err) < 0)
        mp_problems_add(d->problems, NULL, NULL, 0, 0, 0, NULL, "the declarations have no JSON form: %s", err.message);
    else
        d->config->json = mp_arena_strndup(d->arena, b.data, b.len);
    mp_buf_free(&b);
    lua_pop(L, 1);
}

/* ---- the end of the main chunk ---- */

/* Checks entry i's table; leaves the copy as e->checked. */
void decl_check_entry(struct mp_decl *d, uint32_t i, lua_State *L)
{
    static const struct mp_schema *const schemas[] = {&mp_keys_server, &mp_keys_model, &mp_keys_endpoint,
                                                      &mp_keys_plugin};
    if (d->entries[i].table == LUA_NOREF)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, d->entries[i].table);
    d->entries[i].bad = !decl_check(d, &d->entries[i], NULL, 0, L, schemas[d->entries[i].kind]);
    d->entries[i].checked = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* A server nobody declared has the defaults. */
static void default_server(struct mp_decl *d, lua_State *L)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (d->entries[i].kind == MP_DECL_SERVER)
            return;
    uint32_t i = mp_decl_add(d, L, MP_DECL_SERVER, NULL);
    mp_free(d->entries[i].file);
    d->entries[i].file = mp_strdup(mp_sources_config(d->script->sources)->name);
    lua_newtable(L);
    d->entries[i].table = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void find_duplicates(struct mp_decl *d)
{
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->table == LUA_NOREF)
            mp_decl_problem(d, e, NULL, 0, NULL, "the name is not followed by its table: write mp.%s \"%s\" { … }",
                            kind_names[e->kind], e->name);
        for (uint32_t j = 0; j < i; j++) {
            const struct mp_decl_entry *o = &d->entries[j];
            if (e->kind == MP_DECL_SERVER && o->kind == MP_DECL_SERVER)
                mp_decl_problem(d, e, NULL, 0, NULL, "there is one already, at %s:%u", o->file, o->line);
            else if (e->kind == MP_DECL_PLUGIN && o->kind == MP_DECL_PLUGIN && strcmp(e->name, o->name) == 0)
                mp_decl_problem(d, e, NULL, 0, NULL, "the name is taken by the plugin at %s:%u", o->file, o->line);
            else
                continue;
            break;
        }
    }
}

void mp_decl_finish(struct mp_decl *d, lua_State *L)
{
    default_server(d, L);
    for (uint32_t i = 0; i < d->n; i++)
        decl_check_entry(d, i, L);
    decl_load_plugins(d, L); /* more entries */
    find_duplicates(d);
    d->config->models = mp_arena_zalloc(d->arena, (d->n + 1) * sizeof *d->config->models);
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->checked == LUA_NOREF)
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->checked);
        if (e->kind == MP_DECL_SERVER)
            take_server(d, e, L);
        else if (e->kind == MP_DECL_MODEL)
            take_model(d, i, L);
        lua_pop(L, 1);
    }
    decl_take_endpoints(d, L);
    if (d->problems->n == 0)
        config_json(d, L);
}
