/* core/vm/lua_json.c — see lua_json.h. */
#include "core/vm/lua_json.h"
#include "core/base/json.h"
#include "core/base/mem.h"

#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = MP_JSON_MAX_DEPTH, DEFAULT_BYTES = 64 << 20, PATH_KEY_MAX = 60 };
static const double max_integer = 9007199254740992.0; /* 2^53 */

/* Where we are: from the innermost outwards. */
struct place {
    const struct place *outer;
    const char *key; /* NULL: an element of an array */
    size_t n;
    uint32_t index;
};

static void put_path(const struct place *p, struct mp_buf *out)
{
    bool plain = true;
    if (!p)
        return;
    put_path(p->outer, out);
    if (!p->key) {
        mp_buf_printf(out, "[%u]", p->index);
        return;
    }
    for (size_t i = 0; i < p->n; i++) {
        char c = p->key[i];
        plain = plain && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_');
    }
    if (plain && p->n > 0 && p->n <= PATH_KEY_MAX) {
        if (p->outer)
            mp_buf_putc(out, '.');
        mp_buf_put(out, p->key, p->n);
    } else {
        mp_buf_putc(out, '[');
        mp_json_put_string(out, p->key, p->n <= PATH_KEY_MAX ? p->n : PATH_KEY_MAX);
        mp_buf_putc(out, ']');
    }
}

static int fail_at(const struct place *p, int code, struct mp_err *err, const char *what)
{
    struct mp_buf path = {0};
    put_path(p, &path);
    mp_err_set(err, code, "%s: %s", path.len ? mp_buf_cstr(&path) : "the value", what);
    mp_buf_free(&path);
    return code;
}

/* ---- arrays and null ---- */

static char array_key;

void mp_lua_json_null(lua_State *L)
{
    lua_pushlightuserdata(L, NULL);
}

void mp_lua_json_array_meta(lua_State *L)
{
    lua_pushlightuserdata(L, &array_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (!lua_isnil(L, -1))
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushliteral(L, "mp.json.array");
    lua_setfield(L, -2, "__metatable");
    lua_pushlightuserdata(L, &array_key);
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void mp_lua_json_mark_array(lua_State *L, int idx)
{
    lua_pushvalue(L, idx);
    mp_lua_json_array_meta(L);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

static bool is_array(lua_State *L, int idx)
{
    bool yes;
    if (!lua_getmetatable(L, idx))
        return false;
    lua_pushlightuserdata(L, &array_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    yes = lua_istable(L, -1) && lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return yes;
}

/* ---- reading ---- */

struct decode {
    struct mp_json json;
    struct mp_err *err;
    int meta; /* stack index of the array metatable */
};

static int read_value(lua_State *L, struct decode *d, enum mp_json_tok tok, const struct place *at);

static int read_error(struct decode *d)
{
    *d->err = d->json.err;
    return d->err->code;
}

static int read_object(lua_State *L, struct decode *d, const struct place *at)
{
    enum mp_json_tok tok;
    lua_newtable(L);
    while ((tok = mp_json_next(&d->json)) == MP_JSON_KEY) {
        struct place here = {.outer = at};
        int rc;
        lua_pushlstring(L, d->json.text, d->json.len);
        here.key = lua_tolstring(L, -1, &here.n);
        rc = read_value(L, d, mp_json_next(&d->json), &here);
        if (rc != 0)
            return rc;
        lua_rawset(L, -3);
    }
    return tok == MP_JSON_OBJECT_END ? 0 : read_error(d);
}

static int read_array(lua_State *L, struct decode *d, const struct place *at)
{
    struct place here = {.outer = at};
    enum mp_json_tok tok;
    lua_newtable(L);
    lua_pushvalue(L, d->meta);
    lua_setmetatable(L, -2);
    while ((tok = mp_json_next(&d->json)) != MP_JSON_ARRAY_END) {
        int rc = read_value(L, d, tok, &here);
        if (rc != 0)
            return rc;
        lua_rawseti(L, -2, (int)++here.index);
    }
    return 0;
}

static bool lossy_integer(const struct mp_json *j)
{
    const char *digits = j->text + (*j->text == '-');
    if (fabs(j->number) < max_integer)
        return false;
    for (size_t i = 0; i < j->len; i++)
        if (j->text[i] == '.' || j->text[i] == 'e' || j->text[i] == 'E')
            return false;
    return fabs(j->number) > max_integer || memcmp(digits, "9007199254740992", 16) != 0;
}

static int read_value(lua_State *L, struct decode *d, enum mp_json_tok tok, const struct place *at)
{
    luaL_checkstack(L, 6, "JSON");
    switch (tok) {
    case MP_JSON_NULL: mp_lua_json_null(L); return 0;
    case MP_JSON_TRUE: lua_pushboolean(L, 1); return 0;
    case MP_JSON_FALSE: lua_pushboolean(L, 0); return 0;
    case MP_JSON_STRING: lua_pushlstring(L, d->json.text, d->json.len); return 0;
    case MP_JSON_NUMBER:
        if (lossy_integer(&d->json))
            return fail_at(at, MP_EINVAL, d->err, "an integer beyond 2^53 would lose digits; send it as a string");
        lua_pushnumber(L, d->json.number);
        return 0;
    case MP_JSON_OBJECT: return read_object(L, d, at);
    case MP_JSON_ARRAY: return read_array(L, d, at);
    default: return read_error(d);
    }
}

static int read_document(lua_State *L) /* pcalled, so that the reader's memory is freed whatever is raised */
{
    struct decode *d = lua_touserdata(L, 1);
    mp_lua_json_array_meta(L);
    d->meta = 2;
    if (read_value(L, d, mp_json_next(&d->json), NULL) != 0)
        return 0;
    if (mp_json_next(&d->json) != MP_JSON_END) {
        read_error(d);
        return 0;
    }
    return 1;
}

int mp_lua_json_decode(lua_State *L, const char *in, size_t n, uint32_t max_values, struct mp_err *err)
{
    struct mp_err mine = {0};
    struct decode d = {.err = err ? err : &mine};
    int status;
    d.err->code = 0;
    lua_pushcfunction(L, read_document);
    lua_pushlightuserdata(L, &d);
    mp_json_init(&d.json, in, n, 0, max_values);
    status = lua_pcall(L, 1, 1, 0);
    mp_json_free(&d.json);
    if (status != 0)
        lua_error(L);
    if (d.err->code != 0)
        lua_pop(L, 1);
    return d.err->code;
}

/* ---- writing ---- */

struct key {
    const char *s; /* a key of the table at hand: stays while that is not changed */
    size_t n;
};

struct encode {
    struct mp_buf *out;
    size_t max;
    struct mp_err *err;
    struct mp_buf keys; /* a stack of struct key, sorted per object */
};

static int write_value(lua_State *L, struct encode *e, int depth, const struct place *at);

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static int write_array(lua_State *L, struct encode *e, uint32_t n, int depth, const struct place *at)
{
    struct place here = {.outer = at};
    mp_buf_putc(e->out, '[');
    for (; here.index < n; here.index++) {
        int rc;
        if (here.index)
            mp_buf_putc(e->out, ',');
        lua_rawgeti(L, -1, (int)here.index + 1);
        rc = lua_isnil(L, -1) ? fail_at(&here, MP_EINVAL, e->err, "missing: a list must not have holes (use mp.null)")
                              : write_value(L, e, depth, &here);
        if (rc != 0)
            return rc;
        lua_pop(L, 1);
    }
    mp_buf_putc(e->out, ']');
    return 0;
}

static int write_object(lua_State *L, struct encode *e, size_t first, int depth, const struct place *at)
{
    size_t n = e->keys.len / sizeof(struct key) - first;
    if (n > 1)
        qsort(e->keys.data + first * sizeof(struct key), n, sizeof(struct key), compare_keys);
    mp_buf_putc(e->out, '{');
    for (size_t i = 0; i < n; i++) {
        struct key k;
        struct place here = {.outer = at};
        int rc;
        memcpy(&k, e->keys.data + (first + i) * sizeof k, sizeof k);
        here.key = k.s;
        here.n = k.n;
        if (i)
            mp_buf_putc(e->out, ',');
        mp_json_put_string(e->out, k.s, k.n);
        mp_buf_putc(e->out, ':');
        lua_pushlstring(L, k.s, k.n);
        lua_rawget(L, -2);
        rc = write_value(L, e, depth, &here);
        if (rc != 0)
            return rc;
        lua_pop(L, 1);
    }
    mp_buf_putc(e->out, '}');
    return 0;
}

static int write_table(lua_State *L, struct encode *e, int depth, const struct place *at)
{
    size_t first = e->keys.len / sizeof(struct key), strings = 0, numbers = 0, length = lua_objlen(L, -1);
    bool array = is_array(L, -1);
    int rc;
    if (depth > MAX_DEPTH)
        return fail_at(at, MP_ELIMIT, e->err, "nested more than 64 deep (or a table inside itself)");
    if (length > INT32_MAX)
        return fail_at(at, MP_ELIMIT, e->err, "too long a list");
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        struct key k;
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING) {
            k.s = lua_tolstring(L, -1, &k.n);
            mp_buf_put(&e->keys, &k, sizeof k);
            strings++;
        } else if (lua_type(L, -1) == LUA_TNUMBER) {
            double v = lua_tonumber(L, -1);
            if (v < 1 || v > INT32_MAX || v != floor(v))
                return fail_at(at, MP_EINVAL, e->err, "a table's keys must be strings, or 1, 2, … of a list");
            numbers++;
        } else {
            lua_pop(L, 1);
            return fail_at(at, MP_EINVAL, e->err, "a table's keys must be strings, or 1, 2, … of a list");
        }
    }
    if (strings && (numbers || array))
        return fail_at(at, MP_EINVAL, e->err, "a table with both list elements and named members has no JSON form");
    if (numbers || array) {
        if (numbers > length)
            return fail_at(at, MP_EINVAL, e->err, "a list must not have holes (use mp.null)");
        rc = write_array(L, e, (uint32_t)length, depth, at);
    } else {
        rc = write_object(L, e, first, depth, at);
    }
    e->keys.len = first * sizeof(struct key);
    return rc;
}

/* The value at the top. -0 +0, or leaves some behind on error. */
static int write_value(lua_State *L, struct encode *e, int depth, const struct place *at)
{
    double v;
    size_t n;
    const char *s;
    if (!lua_checkstack(L, 8))
        return fail_at(at, MP_ELIMIT, e->err, "nested too deeply");
    if (e->out->len > e->max)
        return fail_at(at, MP_ELIMIT, e->err, "the JSON text is longer than allowed");
    switch (lua_type(L, -1)) {
    case LUA_TNIL: mp_buf_puts(e->out, "null"); return 0;
    case LUA_TBOOLEAN: mp_buf_puts(e->out, lua_toboolean(L, -1) ? "true" : "false"); return 0;
    case LUA_TSTRING:
        s = lua_tolstring(L, -1, &n);
        mp_json_put_string(e->out, s, n);
        return 0;
    case LUA_TNUMBER:
        v = lua_tonumber(L, -1);
        if (!isfinite(v))
            return fail_at(at, MP_EINVAL, e->err, isnan(v) ? "NaN has no JSON form" : "infinity has no JSON form");
        if (fabs(v) > max_integer)
            return fail_at(at, MP_EINVAL, e->err, "an integer beyond 2^53 would lose digits; send it as a string");
        if (v == floor(v))
            mp_json_put_int(e->out, (int64_t)v);
        else
            mp_json_put_number(e->out, v);
        return 0;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1) == NULL) {
            mp_buf_puts(e->out, "null");
            return 0;
        }
        return fail_at(at, MP_EINVAL, e->err, "a userdata has no JSON form");
    case LUA_TTABLE: return write_table(L, e, depth + 1, at);
    case LUA_TFUNCTION: return fail_at(at, MP_EINVAL, e->err, "a function has no JSON form");
    case LUA_TTHREAD: return fail_at(at, MP_EINVAL, e->err, "a coroutine has no JSON form");
    default: return fail_at(at, MP_EINVAL, e->err, "a userdata has no JSON form");
    }
}

int mp_lua_json_encode(lua_State *L, int idx, struct mp_buf *out, size_t max_bytes, struct mp_err *err)
{
    struct mp_err mine = {0};
    struct encode e = {.out = out, .err = err ? err : &mine};
    size_t was = out->len;
    int top = lua_gettop(L), rc;
    e.max = was + (max_bytes ? max_bytes : DEFAULT_BYTES);
    lua_pushvalue(L, idx);
    rc = write_value(L, &e, 0, NULL);
    if (rc == 0 && out->len > e.max)
        rc = mp_err_set(e.err, MP_ELIMIT, "the JSON text is longer than allowed");
    if (rc != 0)
        out->len = was;
    lua_settop(L, top);
    mp_buf_free(&e.keys);
    return rc;
}

/* ---- for scripts ---- */

static int push_failure(lua_State *L, const struct mp_err *err)
{
    lua_pushnil(L);
    lua_createtable(L, 0, 2);
    lua_pushstring(L, mp_err_name(err->code));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, err->message);
    lua_setfield(L, -2, "message");
    return 2;
}

/* decode(text) -> value | nil, err */
static int lua_decode(lua_State *L)
{
    struct mp_err err = {0};
    size_t n;
    const char *s = luaL_checklstring(L, 1, &n);
    if (mp_lua_json_decode(L, s, n, 0, &err) != 0)
        return push_failure(L, &err);
    return 1;
}

static int push_text(lua_State *L)
{
    const struct mp_buf *b = lua_touserdata(L, 1);
    lua_pushlstring(L, b->data ? b->data : "", b->len);
    return 1;
}

/* encode(value) -> text | nil, err */
static int lua_encode(lua_State *L)
{
    struct mp_err err = {0};
    struct mp_buf text = {0};
    int status;
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    lua_pushcfunction(L, push_text);
    lua_pushlightuserdata(L, &text);
    if (mp_lua_json_encode(L, 1, &text, 0, &err) != 0)
        return push_failure(L, &err);
    status = lua_pcall(L, 1, 1, 0); /* the text must be freed even when Lua has no memory for its copy */
    mp_buf_free(&text);
    return status == 0 ? 1 : lua_error(L);
}

/* array(t?) -> t, marked */
static int lua_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    mp_lua_json_array_meta(L);
    lua_setmetatable(L, 1);
    return 1;
}

int mp_lua_json_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"decode", lua_decode}, {"encode", lua_encode}, {"array", lua_array}, {NULL, NULL}};
    lua_createtable(L, 0, 4);
    luaL_setfuncs(L, functions, 0);
    mp_lua_json_null(L);
    lua_setfield(L, -2, "null");
    return 1;
}
