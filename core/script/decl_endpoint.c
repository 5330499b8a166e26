/* core/script/decl_endpoint.c — plugins named by `use`, endpoints, the routes plugins bring. */
#include "core/base/arena.h"
#include "core/base/bundle.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"
#include "core/script/route.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const struct mp_schema no_config = {NULL, 0};

/* ---- plugins ---- */

static struct mp_decl_entry *find_plugin(struct mp_decl *d, const char *name)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (d->entries[i].kind == MP_DECL_PLUGIN && strcmp(d->entries[i].name, name) == 0)
            return &d->entries[i];
    return NULL;
}

static bool good_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= 64 && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

/* The bundled plugin with the nearest name; appended to hint. */
static void suggest_plugin(struct mp_decl *d, const char *name, struct mp_buf *hint)
{
    const char *names[64], *folder = mp_sources_folder(d->script->sources);
    char *own[64];
    size_t n = 0;
    for (const struct mp_bundle *b = mp_bundle; b->name && n < MP_COUNT(names); b++) {
        const char *end = strncmp(b->name, "plugins/", 8) == 0 ? strstr(b->name + 8, "/init.lua") : NULL;
        if (end && end[9] == 0) {
            own[n] = mp_strndup(b->name + 8, (size_t)(end - b->name - 8));
            names[n] = own[n];
            n++;
        }
    }
    const char *near = mp_nearest(name, names, n);
    if (near)
        mp_buf_printf(hint, "did you mean \"%s\"?", near);
    else
        mp_buf_printf(hint, "looked for %s%splugins/%s/init.lua and among the plugins inside moonpool", folder,
                      folder[0] ? "/" : "", name);
    for (size_t i = 0; i < n; i++)
        mp_free(own[i]);
}

/* Runs the plugin's file. e, at: who uses it. */
static void load_plugin(struct mp_decl *d, lua_State *L, uint32_t user, const struct mp_step *at, size_t n_at,
                        const char *name)
{
    struct mp_buf path = {0}, chunk = {0}, hint = {0};
    const struct mp_source *f = NULL;
    const char *data = NULL;
    size_t n = 0;
    struct mp_err err = {0};
    uint32_t before = d->n;
    mp_buf_printf(&path, "plugins/%s/init.lua", name);
    if (!good_name(name)) {
        mp_decl_problem(d, &d->entries[user], at, n_at, NULL,
                        "\"%s\" is no name for a plugin: letters, digits, '_' and '-'", name);
        goto out;
    }
    if (mp_sources_find(d->script->sources, mp_buf_cstr(&path), &f, &err) < 0) {
        mp_decl_problem(d, &d->entries[user], at, n_at, NULL, "%s", err.message);
        goto out;
    }
    if (f) {
        data = f->data;
        n = f->n;
        mp_buf_printf(&chunk, "@%s", f->name);
    } else if (mp_vm_bundled(mp_buf_cstr(&path), &data, &n)) {
        mp_buf_printf(&chunk, "@%s", mp_buf_cstr(&path));
    } else {
        suggest_plugin(d, name, &hint);
        mp_decl_problem(d, &d->entries[user], at, n_at, mp_buf_cstr(&hint), "no plugin \"%s\"", name);
        goto out;
    }
    int rc = mp_vm_load(L, data, n, mp_buf_cstr(&chunk), &err);
    if (rc == 0)
        rc = mp_vm_pcall(L, 0, 0, NULL, &err);
    if (rc < 0) {
        mp_decl_error(d, &err);
        goto out;
    }
    for (uint32_t i = before; i < d->n; i++) {
        if (d->entries[i].kind != MP_DECL_PLUGIN)
            mp_decl_problem(d, &d->entries[i], NULL, 0, NULL, "the file of a plugin declares only mp.plugin");
        decl_check_entry(d, i, L);
    }
    if (!find_plugin(d, name))
        mp_decl_problem(d, &d->entries[user], at, n_at, NULL, "%s does not declare mp.plugin \"%s\"",
                        mp_buf_cstr(&chunk) + 1, name);
out:
    mp_buf_free(&path);
    mp_buf_free(&chunk);
    mp_buf_free(&hint);
}

/* The name of the i-th item of the `use` list at the top, in the arena; NULL when it was no name. */
static const char *use_name(struct mp_decl *d, lua_State *L, uint32_t i)
{
    lua_rawgeti(L, -1, (int)i);
    const char *name = lua_istable(L, -1) ? decl_string(d, L, lua_gettop(L), "name") : NULL;
    lua_pop(L, 1);
    return name;
}

void decl_load_plugins(struct mp_decl *d, lua_State *L)
{
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->entries[i].checked == LUA_NOREF ||
            (d->entries[i].kind != MP_DECL_SERVER && d->entries[i].kind != MP_DECL_ENDPOINT))
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, d->entries[i].checked);
        lua_getfield(L, -1, "use");
        uint32_t n = lua_istable(L, -1) ? (uint32_t)lua_objlen(L, -1) : 0;
        for (uint32_t k = 1; k <= n; k++) {
            struct mp_step at[] = {{"use", 0}, {NULL, k}};
            const char *name = use_name(d, L, k);
            if (name && !find_plugin(d, name))
                load_plugin(d, L, i, at, 2, name);
        }
        lua_pop(L, 2);
    }
}

/* The compiled `config` of a plugin: no keys when it has none; NULL when it is broken. */
static const struct mp_schema *plugin_schema(struct mp_decl *d, struct mp_decl_entry *p, lua_State *L)
{
    const struct mp_step at = {"config", 0};
    if (p->config || p->checked == LUA_NOREF)
        return p->config;
    lua_rawgeti(L, LUA_REGISTRYINDEX, p->checked);
    lua_getfield(L, -1, "config");
    p->config = lua_istable(L, -1) ? decl_compile(d, p, &at, 1, L) : &no_config;
    lua_pop(L, 2);
    return p->config;
}

/* Appends to the chain (a Lua list at `chain`) the plugins of the `use` list at the top, each { conf, admit, handle }. */
static uint32_t add_links(struct mp_decl *d, const struct mp_decl_entry *user, const struct mp_step *before,
                          size_t n_before, bool is_server, lua_State *L, int chain)
{
    int use = lua_gettop(L);
    uint32_t n = lua_istable(L, use) ? (uint32_t)lua_objlen(L, use) : 0, added = 0;
    struct mp_step at[4];
    if (n_before)
        memcpy(at, before, n_before * sizeof *at);
    at[n_before] = (struct mp_step){"use", 0};
    for (uint32_t k = 1; k <= n; k++) {
        at[n_before + 1] = (struct mp_step){NULL, k};
        lua_pushvalue(L, use);
        const char *name = use_name(d, L, k);
        lua_pop(L, 1);
        struct mp_decl_entry *p = name ? find_plugin(d, name) : NULL;
        const struct mp_schema *schema = p ? plugin_schema(d, p, L) : NULL;
        if (!schema || p->checked == LUA_NOREF)
            continue; /* has its problem already */
        lua_newtable(L);
        int link = lua_gettop(L);
        lua_rawgeti(L, use, (int)k);
        lua_getfield(L, -1, "options");
        lua_remove(L, -2);
        decl_check(d, user, at, n_before + 2, L, schema);
        lua_setfield(L, link, "conf");
        lua_rawgeti(L, LUA_REGISTRYINDEX, p->checked);
        lua_getfield(L, -1, "routes");
        if (!is_server && lua_istable(L, -1) && lua_objlen(L, -1) > 0)
            mp_decl_problem(d, user, at, n_before + 2, NULL,
                            "'use[%u]': plugin \"%s\" brings routes: use it in mp.server", k, name);
        lua_pop(L, 1);
        lua_getfield(L, -1, "admit");
        lua_setfield(L, link, "admit");
        lua_getfield(L, -1, "handle");
        lua_setfield(L, link, "handle");
        lua_pop(L, 1);
        lua_rawseti(L, chain, (int)lua_objlen(L, chain) + 1);
        added++;
    }
    return added;
}

/* ---- endpoints ---- */

struct origin { /* where an endpoint's table stands */
    const struct mp_decl_entry *e;
    struct mp_step steps[4];
    size_t n;
};

static void endpoint_problem(struct mp_decl *d, const struct origin *o, const char *key, const char *hint,
                             const char *text)
{
    struct mp_step at[5];
    memcpy(at, o->steps, o->n * sizeof *at);
    at[o->n] = (struct mp_step){key, 0};
    mp_decl_problem(d, o->e, at, o->n + 1, hint, "%s", text);
}

/* The same method and the same shape: nothing tells them apart. */
static void find_same_route(struct mp_decl *d, const struct origin *o, const struct mp_conf_endpoint *ep)
{
    for (uint32_t i = 0; i < ep->index; i++) {
        const struct mp_conf_endpoint *other = &d->config->endpoints[i];
        if (!other->method || strcmp(other->method, ep->method) != 0 || !mp_route_same(other->pattern, ep->pattern))
            continue;
        char *text = mp_asprintf("the route \"%s\" is taken by the endpoint at %s", ep->route, other->where);
        endpoint_problem(d, o, "route", NULL, text);
        mp_free(text);
        return;
    }
}

/* The endpoint's checked table is at the top; the list of the server's links at server_chain. */
static void take_endpoint(struct mp_decl *d, const struct origin *o, const char *plugin, lua_State *L, int server_chain)
{
    int t = lua_gettop(L);
    struct mp_config *c = d->config;
    struct mp_conf_endpoint *ep = &c->endpoints[c->n_endpoints];
    struct mp_script_endpoint *mine = &d->script->endpoints[c->n_endpoints];
    struct mp_err err = {0};
    ep->index = c->n_endpoints++;
    d->script->n_endpoints = c->n_endpoints;
    *mine = (struct mp_script_endpoint){LUA_NOREF, LUA_NOREF, 0, NULL};
    ep->plugin = plugin;
    ep->where = decl_where(d, o->e);
    ep->route = decl_string(d, L, t, "route");
    ep->body = (uint64_t)decl_number(L, t, "max_body", (double)c->server.limits.body);
    ep->max_concurrency = (uint32_t)decl_number(L, t, "max_concurrency", 0);
    ep->timeout = decl_number(L, t, "timeout", 0);
    if (!ep->route || mp_route_parse(ep->route, d->arena, &ep->method, &ep->pattern, &err) < 0) {
        if (ep->route)
            endpoint_problem(d, o, "route", NULL, err.message);
        ep->method = NULL;
    } else {
        find_same_route(d, o, ep);
    }
    lua_getfield(L, t, "input");
    if (lua_istable(L, -1)) {
        struct mp_step at[5];
        memcpy(at, o->steps, o->n * sizeof *at);
        at[o->n] = (struct mp_step){"input", 0};
        ep->input = decl_compile(d, o->e, at, o->n + 1, L);
    }
    mine->input = ep->input;
    lua_pop(L, 1);

    lua_newtable(L);
    int chain = lua_gettop(L);
    for (mine->n_chain = 0; mine->n_chain < lua_objlen(L, server_chain);) {
        lua_rawgeti(L, server_chain, (int)++mine->n_chain);
        lua_rawseti(L, chain, (int)mine->n_chain);
    }
    lua_getfield(L, t, "use");
    mine->n_chain += add_links(d, o->e, o->steps, o->n, false, L, chain);
    lua_settop(L, chain);
    mine->chain = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, t, "handle");
    mine->handle = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_settop(L, t);
}

/* How many routes the plugin at `checked` brings; its list is left at the top. -0 +1 */
static uint32_t push_routes(lua_State *L, int checked)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, checked);
    lua_getfield(L, -1, "routes");
    lua_remove(L, -2);
    return lua_istable(L, -1) ? (uint32_t)lua_objlen(L, -1) : 0;
}

static void take_plugins(struct mp_decl *d, lua_State *L)
{
    struct mp_config *c = d->config;
    c->plugins = mp_arena_zalloc(d->arena, (d->n + 1) * sizeof *c->plugins);
    for (uint32_t i = 0; i < d->n; i++) {
        struct mp_decl_entry *e = &d->entries[i];
        if (e->kind != MP_DECL_PLUGIN || e->checked == LUA_NOREF)
            continue;
        plugin_schema(d, e, L); /* its problems show even when nobody uses it */
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->checked);
        const char *version = decl_string(d, L, lua_gettop(L), "version");
        lua_pop(L, 1);
        c->plugins[c->n_plugins++] =
            (struct mp_conf_plugin){.name = mp_arena_strndup(d->arena, e->name, strlen(e->name)),
                                    .version = version,
                                    .where = decl_where(d, e)};
    }
}

void decl_take_endpoints(struct mp_decl *d, lua_State *L)
{
    struct mp_config *c = d->config;
    const struct mp_decl_entry *server = NULL;
    int base = lua_gettop(L), server_use = 0, server_chain = 0;
    uint32_t room = 0, n_use = 0;
    take_plugins(d, L);
    for (uint32_t i = 0; i < d->n; i++) {
        const struct mp_decl_entry *e = &d->entries[i];
        if (e->kind == MP_DECL_SERVER && e->checked != LUA_NOREF && !server)
            server = e;
        room += e->kind == MP_DECL_ENDPOINT;
        if (e->kind == MP_DECL_PLUGIN && e->checked != LUA_NOREF)
            room += push_routes(L, e->checked);
        lua_settop(L, base);
    }
    if (server) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, server->checked);
        lua_getfield(L, -1, "use");
        server_use = lua_gettop(L);
        n_use = lua_istable(L, -1) ? (uint32_t)lua_objlen(L, -1) : 0;
    }
    lua_newtable(L);
    server_chain = lua_gettop(L);
    if (server_use) {
        lua_pushvalue(L, server_use);
        add_links(d, server, NULL, 0, true, L, server_chain);
        lua_settop(L, server_chain);
    }
    c->endpoints = mp_arena_zalloc(d->arena, (room + 1) * sizeof *c->endpoints);
    d->script->endpoints = mp_calloc((room + 1) * sizeof *d->script->endpoints);
    for (uint32_t i = 0; i < d->n; i++) {
        struct origin o = {.e = &d->entries[i]};
        if (o.e->kind != MP_DECL_ENDPOINT || o.e->checked == LUA_NOREF)
            continue;
        lua_rawgeti(L, LUA_REGISTRYINDEX, o.e->checked);
        take_endpoint(d, &o, NULL, L, server_chain);
        lua_pop(L, 1);
    }
    for (uint32_t k = 1; k <= n_use; k++) {
        lua_pushvalue(L, server_use);
        const char *name = use_name(d, L, k);
        lua_pop(L, 1);
        struct mp_decl_entry *p = name ? find_plugin(d, name) : NULL;
        if (!p || p->checked == LUA_NOREF || p->routed)
            continue;
        p->routed = true;
        uint32_t n = push_routes(L, p->checked);
        for (uint32_t i = 1; i <= n; i++) {
            struct origin o = {.e = p, .steps = {{"routes", 0}, {NULL, i}}, .n = 2};
            lua_rawgeti(L, -1, (int)i);
            if (lua_istable(L, -1))
                take_endpoint(d, &o, name, L, server_chain);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    lua_settop(L, base);
}
