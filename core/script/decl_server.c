/* core/script/decl_server.c — mp.server: addresses, limits. See decl_impl.h. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/decl_impl.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

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

void decl_take_server(struct mp_decl *d, uint32_t self, lua_State *L)
{
    const struct mp_decl_entry *e = &d->entries[self];
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
    server->policy = decl_string(d, L, t, "policy");
    lua_getfield(L, t, "metrics");
    server->metrics = lua_toboolean(L, -1);
    lua_pop(L, 1);
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
