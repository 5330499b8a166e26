/* core/script/schema_compile.c — compiles the schemas that scripts write (`input` of an endpoint, `config` of a plugin)
 * into the same tables of fields that keys.c writes by hand. */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "core/script/schema.h"
#include "core/vm/lua_json.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a field's own table may hold. */
static const struct mp_field spec_fields[] = {
    {"enum", MP_TYPE_LIST, .min = 1, .max = 256, .also = "choices values oneof"},
    {"default", MP_TYPE_ANY, .also = "preset"},
    {"optional", MP_TYPE_BOOLEAN},
    {"min", MP_TYPE_NUMBER, .also = "minimum"},
    {"max", MP_TYPE_NUMBER, .also = "maximum max_length maxlength length"},
    {"of", MP_TYPE_ANY, .also = "items item"},
    {"fields", MP_TYPE_TABLE, .also = "properties"},
};
static const struct mp_schema spec_schema = {spec_fields, MP_COUNT(spec_fields)};

static const char *const words[] = {"any",     "string", "number", "integer", "boolean",
                                    "seconds", "bytes",  "list",   "map",     "table"};
static const enum mp_type types[] = {MP_TYPE_ANY,     MP_TYPE_STRING, MP_TYPE_NUMBER, MP_TYPE_INTEGER, MP_TYPE_BOOLEAN,
                                     MP_TYPE_SECONDS, MP_TYPE_BYTES,  MP_TYPE_LIST,   MP_TYPE_MAP,     MP_TYPE_TABLE};

static void step(struct mp_checker *c, const char *key, uint32_t index)
{
    if (c->n_steps < MP_SCHEMA_DEPTH)
        c->steps[c->n_steps] = (struct mp_step){key, index};
    c->n_steps++;
}

static void report(struct mp_checker *c, const char *hint, const char *fmt, const char *arg)
{
    struct mp_buf b = {0};
    size_t depth = c->n_steps < MP_SCHEMA_DEPTH ? c->n_steps : MP_SCHEMA_DEPTH;
    mp_buf_putc(&b, '\'');
    mp_schema_path(&b, c->steps, depth);
    mp_buf_puts(&b, "' ");
    mp_buf_puts(&b, fmt);
    mp_buf_puts(&b, arg);
    c->problems++;
    c->report(c->ctx, c->steps, depth, hint, mp_buf_cstr(&b));
    mp_buf_free(&b);
}

static bool type_of(struct mp_checker *c, const char *word, enum mp_type *out)
{
    for (size_t i = 0; i < MP_COUNT(words); i++)
        if (strcmp(word, words[i]) == 0) {
            *out = types[i];
            return true;
        }
    struct mp_buf hint = {0}, what = {0};
    const char *near = mp_nearest(word, words, MP_COUNT(words));
    if (near) {
        mp_buf_printf(&hint, "did you mean \"%s\"?", near);
    } else {
        mp_buf_puts(&hint, "types: ");
        for (size_t i = 0; i < MP_COUNT(words); i++)
            mp_buf_printf(&hint, "%s%s", i ? ", " : "", words[i]);
    }
    mp_buf_printf(&what, "\"%.60s\"", word);
    report(c, mp_buf_cstr(&hint), "has the unknown type ", mp_buf_cstr(&what));
    mp_buf_free(&hint);
    mp_buf_free(&what);
    return false;
}

static const struct mp_schema *compile(struct mp_checker *c, int idx, struct mp_arena *a);

/* The words of the list at the top into f->choices. */
static void choices(struct mp_checker *c, struct mp_field *f, struct mp_arena *a)
{
    lua_State *L = c->L;
    size_t n = lua_objlen(L, -1);
    const char **list = mp_arena_zalloc(a, (n + 1) * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        size_t len = 0;
        const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
        if (!s || memchr(s, 0, len))
            report(c, NULL, "has an enum of something other than strings", "");
        list[i] = s ? mp_arena_strndup(a, s, len) : "";
        lua_pop(L, 1);
    }
    f->choices = list;
    f->type = MP_TYPE_ENUM;
}

/* The default must be a value of the field itself; kept as JSON, so that no VM owns it. */
static void preset(struct mp_checker *c, struct mp_field *f, struct mp_arena *a)
{
    lua_State *L = c->L;
    struct mp_buf b = {0};
    struct mp_err err = {0};
    struct mp_field one = *f;
    struct mp_schema s = {&one, 1};
    struct mp_checker judge = *c;
    int top = lua_gettop(L);
    one.key = "default";
    one.required = false;
    judge.problems = 0;
    lua_newtable(L);
    lua_pushvalue(L, top);
    lua_setfield(L, top + 1, "default");
    mp_schema_check(&judge, &s, top + 1);
    c->problems += judge.problems;
    lua_getfield(L, -1, "default");
    if (!judge.problems && mp_lua_json_encode(L, -1, &b, 0, &err) < 0)
        report(c, NULL, "has a default that has no JSON form: ", err.message);
    else if (!judge.problems)
        f->preset = mp_arena_strndup(a, b.data, b.len);
    lua_settop(L, top);
    mp_buf_free(&b);
}

/* One field's spec at the top (taken). */
static void field(struct mp_checker *c, struct mp_field *f, struct mp_arena *a)
{
    lua_State *L = c->L;
    int top = lua_gettop(L), word = 0;
    luaL_checkstack(L, 16, "a schema is nested too deeply");
    if (lua_type(L, top) == LUA_TSTRING) {
        type_of(c, lua_tostring(L, top), &f->type);
        f->required = true;
        lua_settop(L, top - 1);
        return;
    }
    if (lua_type(L, top) != LUA_TTABLE || c->n_steps >= MP_SCHEMA_DEPTH) {
        report(c, NULL,
               c->n_steps >= MP_SCHEMA_DEPTH ? "is nested too deeply"
                                             : "must be a type, like \"string\" or { \"string\", max = 200 }",
               "");
        lua_settop(L, top - 1);
        return;
    }
    lua_newtable(L); /* its keys without [1] */
    for (lua_pushnil(L); lua_next(L, top); lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) == 1 && lua_type(L, -1) == LUA_TSTRING) {
            word = 1;
            type_of(c, lua_tostring(L, -1), &f->type);
            continue;
        }
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, top + 1);
    }
    mp_schema_check(c, &spec_schema, top + 1);
    int spec = top + 2;
    f->required = true;
    lua_getfield(L, spec, "enum");
    bool words_given = lua_istable(L, -1);
    if (words_given)
        choices(c, f, a);
    else if (!word)
        report(c, NULL, "has no type: its first value must be one, like \"string\"", "");
    lua_pop(L, 1);
    lua_getfield(L, spec, "min");
    lua_getfield(L, spec, "max");
    if (!lua_isnil(L, -1) || !lua_isnil(L, -2)) {
        f->min = lua_isnil(L, -2) ? (f->type == MP_TYPE_NUMBER || f->type == MP_TYPE_INTEGER ? -INFINITY : 0)
                                  : lua_tonumber(L, -2);
        f->max = lua_isnil(L, -1) ? INFINITY : lua_tonumber(L, -1);
        if (f->min > f->max)
            report(c, NULL, "has a min above its max", "");
    }
    lua_pop(L, 2);
    lua_getfield(L, spec, "of");
    if (!lua_isnil(L, -1)) {
        struct mp_field *item = mp_arena_zalloc(a, sizeof *item);
        step(c, "of", 0);
        field(c, item, a);
        c->n_steps--;
        f->item = item;
        lua_pushnil(L);
    }
    lua_pop(L, 1);
    lua_getfield(L, spec, "fields");
    if (lua_istable(L, -1)) {
        step(c, "fields", 0);
        f->fields = compile(c, lua_gettop(L), a);
        c->n_steps--;
    }
    lua_pop(L, 1);
    lua_getfield(L, spec, "optional");
    if (lua_toboolean(L, -1))
        f->required = false;
    lua_pop(L, 1);
    lua_getfield(L, spec, "default");
    if (!lua_isnil(L, -1)) {
        f->required = false;
        preset(c, f, a);
    }
    lua_settop(L, top - 1);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct mp_field *)a)->key, ((const struct mp_field *)b)->key);
}

static const struct mp_schema *compile(struct mp_checker *c, int idx, struct mp_arena *a)
{
    lua_State *L = c->L;
    struct mp_schema *s = mp_arena_zalloc(a, sizeof *s);
    uint32_t n = 0, before = c->problems;
    luaL_checkstack(L, 16, "a schema is nested too deeply");
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
        n++;
    struct mp_field *fields = mp_arena_zalloc(a, (n + 1) * sizeof *fields);
    s->fields = fields;
    for (lua_pushnil(L); lua_next(L, idx);) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            step(c, NULL, lua_type(L, -2) == LUA_TNUMBER ? (uint32_t)lua_tonumber(L, -2) : 0);
            report(c, NULL, "is a value without a name", "");
            c->n_steps--;
            lua_pop(L, 1);
            continue;
        }
        size_t len;
        const char *key = lua_tolstring(L, -2, &len);
        struct mp_field *f = &fields[s->n++];
        f->key = mp_arena_strndup(a, key, len);
        step(c, f->key, 0);
        field(c, f, a);
        c->n_steps--;
    }
    qsort(fields, s->n, sizeof *fields, by_key); /* the same order in every VM and message */
    return c->problems == before ? s : NULL;
}

const struct mp_schema *mp_schema_compile(struct mp_checker *c, int idx, struct mp_arena *a)
{
    return compile(c, idx < 0 ? lua_gettop(c->L) + idx + 1 : idx, a);
}
