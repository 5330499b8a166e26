/* core/script/schema.c — see schema.h: the check itself, units, suggestions, documentation. */
#include "core/script/schema.h"

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/vm/lua_json.h"

#include <ctype.h>
#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_must[] = {
#define X(code, name, must) must,
    MP_TYPES(X)
#undef X
};
static const char *const type_names[] = {
#define X(code, name, must) name,
    MP_TYPES(X)
#undef X
};

static void check_value(struct mp_checker *c, const struct mp_field *f, int idx);

/* ---- units ---- */

struct unit {
    const char *name;
    double factor;
};

static const struct unit second_units[] = {{"ms", 1e-3}, {"us", 1e-6}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
static const struct unit byte_units[] = {
    {"B", 1},    {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776},
    {"KB", 1e3}, {"kB", 1e3},   {"MB", 1e6},      {"GB", 1e9},         {"TB", 1e12}};

/* Digits with an optional fraction; false when there are none. */
static bool decimal(const char **s, double *out)
{
    char *end = NULL;
    if (!isdigit((unsigned char)**s))
        return false;
    for (const char *p = *s; *p; p++)
        if (*p == 'x' || *p == 'X' || *p == 'e' || *p == 'E' || *p == 'p' || *p == 'P')
            return false; /* plain decimals only */
    *out = strtod(*s, &end);
    *s = end;
    return true;
}

static bool with_units(const char *s, const struct unit *units, size_t n, bool many, double *out)
{
    double sum = 0, v;
    bool bare = true;
    do {
        if (!decimal(&s, &v))
            return false;
        while (*s == ' ')
            s++;
        if (!*s && bare) {
            sum = v;
            break;
        }
        size_t best = n, len = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        for (size_t i = 0; i < n; i++)
            if (strlen(units[i].name) == len && memcmp(units[i].name, s, len) == 0)
                best = i;
        if (best == n)
            return false;
        sum += v * units[best].factor;
        s += len;
        bare = false;
    } while (*s && many);
    if (*s || !isfinite(sum))
        return false;
    *out = sum;
    return true;
}

bool mp_parse_seconds(const char *s, double *out)
{
    return with_units(s, second_units, MP_COUNT(second_units), true, out);
}

bool mp_parse_bytes(const char *s, double *out)
{
    double v;
    if (!with_units(s, byte_units, MP_COUNT(byte_units), false, &v) || v > 9007199254740992.0 || v != floor(v))
        return false;
    *out = v;
    return true;
}

/* ---- suggestions ---- */

unsigned mp_edit_distance(const char *a, const char *b, unsigned limit)
{
    enum { MAX = 48 };
    unsigned rows[3][MAX + 1];
    size_t na = strlen(a), nb = strlen(b);
    if (na > MAX || nb > MAX)
        return limit + 1;
    for (size_t j = 0; j <= nb; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned best = up[j - 1] + (a[i - 1] != b[j - 1]);
            best = up[j] + 1 < best ? up[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            row[j] = best;
        }
    }
    unsigned d = rows[na % 3][nb];
    return d > limit ? limit + 1 : d;
}

static unsigned tolerance(const char *s)
{
    size_t n = strlen(s);
    return n <= 3 ? 1 : n <= 8 ? 2 : 3;
}

const char *mp_nearest(const char *s, const char *const *words, size_t n)
{
    unsigned best = tolerance(s);
    const char *found = NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned d = mp_edit_distance(s, words[i], best);
        if (d <= best && (!found || d < best)) {
            best = d;
            found = words[i];
        }
    }
    return found;
}

static bool has_word(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = words; p && (p = strstr(p, word)); p += n)
        if ((p == words || p[-1] == ' ') && (p[n] == 0 || p[n] == ' '))
            return true;
    return false;
}

static const struct mp_field *find_field(const struct mp_schema *s, const char *key)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->fields[i].key, key) == 0)
            return &s->fields[i];
    return NULL;
}

static const struct mp_field *nearest_field(const struct mp_schema *s, const char *key)
{
    const struct mp_field *found = NULL;
    unsigned best = tolerance(key);
    for (uint32_t i = 0; i < s->n; i++)
        if (has_word(s->fields[i].also, key))
            return &s->fields[i];
    for (uint32_t i = 0; i < s->n; i++) {
        unsigned d = mp_edit_distance(key, s->fields[i].key, best);
        if (d <= best && (!found || d < best)) {
            best = d;
            found = &s->fields[i];
        }
    }
    return found;
}

/* ---- reporting ---- */

void mp_schema_path(struct mp_buf *b, const struct mp_step *steps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!steps[i].key)
            mp_buf_printf(b, "[%u]", steps[i].index);
        else
            mp_buf_printf(b, "%s%.80s", i ? "." : "", steps[i].key);
}

static void push_step(struct mp_checker *c, const char *key, uint32_t index)
{
    if (c->n_steps < MP_SCHEMA_DEPTH)
        c->steps[c->n_steps] = (struct mp_step){key, index};
    c->n_steps++;
}

static void pop_step(struct mp_checker *c)
{
    c->n_steps--;
}

__attribute__((format(printf, 3, 4))) static void problem(struct mp_checker *c, const char *hint, const char *fmt, ...)
{
    struct mp_buf b = {0};
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    size_t depth = c->n_steps < MP_SCHEMA_DEPTH ? c->n_steps : MP_SCHEMA_DEPTH;
    if (depth) {
        mp_buf_putc(&b, '\'');
        mp_schema_path(&b, c->steps, depth);
        mp_buf_puts(&b, "' ");
    }
    mp_buf_puts(&b, n < 0 ? "out of memory" : text);
    free(text);
    c->problems++;
    c->report(c->ctx, c->steps, depth, hint, mp_buf_cstr(&b));
    mp_buf_free(&b);
}

/* The problem is the key itself: "unknown key 'x'". */
static void key_problem(struct mp_checker *c, const char *word, const char *hint)
{
    struct mp_buf b = {0};
    size_t depth = c->n_steps < MP_SCHEMA_DEPTH ? c->n_steps : MP_SCHEMA_DEPTH;
    mp_buf_printf(&b, "%s %s '", word, c->field_words ? "field" : "key");
    mp_schema_path(&b, c->steps, depth);
    mp_buf_puts(&b, "'");
    c->problems++;
    c->report(c->ctx, c->steps, depth, hint, mp_buf_cstr(&b));
    mp_buf_free(&b);
}

/* How a value is named in "…, not a number". */
static const char *what(lua_State *L, int idx)
{
    switch (lua_type(L, idx)) {
    case LUA_TNIL: return "nothing";
    case LUA_TBOOLEAN: return "a boolean";
    case LUA_TLIGHTUSERDATA: return "null";
    case LUA_TNUMBER: return "a number";
    case LUA_TSTRING: return "a string";
    case LUA_TTABLE: return "a table";
    case LUA_TFUNCTION: return "a function";
    case LUA_TTHREAD: return "a coroutine";
    default: return "an object";
    }
}

static void wrong_type(struct mp_checker *c, const struct mp_field *f, int idx)
{
    problem(c, NULL, "must be %s, not %s", type_must[f->type], what(c->L, idx));
}

/* ---- values ---- */

static void number_text(char out[40], double v, enum mp_type type)
{
    static const struct unit big[] = {{"GiB", 1073741824}, {"MiB", 1048576}, {"KiB", 1024}};
    if (type == MP_TYPE_BYTES)
        for (size_t i = 0; i < MP_COUNT(big); i++)
            if (v >= big[i].factor && fmod(v, big[i].factor) == 0) {
                snprintf(out, 40, "%.0f%s", v / big[i].factor, big[i].name);
                return;
            }
    snprintf(out, 40, type == MP_TYPE_SECONDS ? "%.14gs" : "%.14g", v);
}

static bool in_range(struct mp_checker *c, const struct mp_field *f, double v, const char *of)
{
    char lo[40], hi[40], got[40];
    if (f->min == 0 && f->max == 0)
        return true;
    number_text(lo, f->min, f->type);
    number_text(hi, f->max, f->type);
    number_text(got, v, f->type);
    if (v >= f->min && v <= f->max)
        return true;
    if (*of && v == 0 && f->min == 1)
        problem(c, NULL, "must not be empty");
    else if (isinf(f->min))
        problem(c, NULL, "must be at most %s, not %s", hi, got);
    else if (isinf(f->max))
        problem(c, NULL, "must %s at least %s%s, not %s", *of ? "have" : "be", lo, of, got);
    else if (*of && f->min <= 0)
        problem(c, NULL, "must have at most %s%s, not %s", hi, of, got);
    else
        problem(c, NULL, "must %s between %s and %s%s, not %s", *of ? "have" : "be", lo, hi, of, got);
    return false;
}

static void check_number(struct mp_checker *c, const struct mp_field *f, int idx)
{
    lua_State *L = c->L;
    double v = 0;
    bool ok = false, text = lua_type(L, idx) == LUA_TSTRING;
    const char *s = text ? lua_tostring(L, idx) : NULL;
    if (lua_type(L, idx) == LUA_TNUMBER) {
        v = lua_tonumber(L, idx);
        ok = true;
    } else if (text && f->type == MP_TYPE_SECONDS) {
        ok = mp_parse_seconds(s, &v);
    } else if (text && f->type == MP_TYPE_BYTES) {
        ok = mp_parse_bytes(s, &v);
    } else if (text && c->coerce && lua_isnumber(L, idx)) {
        v = lua_tonumber(L, idx);
        ok = true;
    }
    if (!ok) {
        if (text)
            problem(c, NULL, "must be %s, not \"%.60s\"", type_must[f->type], s);
        else
            wrong_type(c, f, idx);
        lua_pushnil(L);
        return;
    }
    if (!isfinite(v))
        problem(c, NULL, "must be a finite number");
    else if ((f->type == MP_TYPE_INTEGER || f->type == MP_TYPE_BYTES) &&
             (v != floor(v) || fabs(v) > 9007199254740992.0))
        problem(c, NULL, "must be a whole number, not %.14g", v);
    else if ((f->type == MP_TYPE_SECONDS || f->type == MP_TYPE_BYTES) && v < 0)
        problem(c, NULL, "must not be negative");
    else if (in_range(c, f, v, "") && f->built_max && v > f->built_max)
        problem(c, NULL, "above %.14g is not yet built", f->built_max);
    lua_pushnumber(L, v);
}

static size_t characters(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

static void check_string(struct mp_checker *c, const struct mp_field *f, int idx)
{
    size_t n;
    const char *s;
    if (lua_type(c->L, idx) != LUA_TSTRING) {
        wrong_type(c, f, idx);
        lua_pushnil(c->L);
        return;
    }
    s = lua_tolstring(c->L, idx, &n);
    if (mp_utf8_valid_prefix(s, n) != n)
        problem(c, NULL, "must be UTF-8 text");
    else if (!c->field_words && memchr(s, 0, n))
        problem(c, NULL, "must not hold a NUL byte");
    else
        in_range(c, f, (double)characters(s, n), " characters");
    lua_pushvalue(c->L, idx);
}

static void check_enum(struct mp_checker *c, const struct mp_field *f, int idx)
{
    struct mp_buf b = {0}, hint = {0};
    size_t n = 0;
    const char *s = lua_type(c->L, idx) == LUA_TSTRING ? lua_tostring(c->L, idx) : NULL;
    lua_pushvalue(c->L, idx);
    for (; f->choices[n]; n++) {
        if (s && strcmp(s, f->choices[n]) == 0)
            goto out;
        mp_buf_printf(&b, "%s\"%s\"", n ? ", " : "", f->choices[n]);
    }
    for (size_t i = 0; s && f->unbuilt && f->unbuilt[i]; i++)
        if (strcmp(s, f->unbuilt[i]) == 0) {
            problem(c, NULL, "\"%s\" is not yet built (what is: %s)", s, mp_buf_cstr(&b));
            goto out;
        }
    if (!s) {
        problem(c, NULL, "must be %s%s, not %s", n > 1 ? "one of " : "", mp_buf_cstr(&b), what(c->L, idx));
        goto out;
    }
    const char *near = mp_nearest(s, f->choices, n);
    if (near)
        mp_buf_printf(&hint, "did you mean \"%s\"?", near);
    problem(c, near ? mp_buf_cstr(&hint) : NULL, "must be %s%s, not \"%.60s\"", n > 1 ? "one of " : "", mp_buf_cstr(&b),
            s);
out:
    mp_buf_free(&b);
    mp_buf_free(&hint);
}

/* True when the table at idx holds 1..n and nothing else; *n is set. */
static bool is_list(lua_State *L, int idx, size_t *n)
{
    size_t keys = 0;
    *n = lua_objlen(L, idx);
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        double k = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        if (k < 1 || k > (double)*n || k != floor(k)) {
            lua_pop(L, 2);
            return false;
        }
        keys++;
    }
    return keys == *n;
}

static void check_item(struct mp_checker *c, const struct mp_field *item, int idx)
{
    if (item)
        check_value(c, item, idx);
    else
        lua_pushvalue(c->L, idx);
}

static void check_list(struct mp_checker *c, const struct mp_field *f, int idx)
{
    lua_State *L = c->L;
    size_t n = 0;
    lua_newtable(L);
    int out = lua_gettop(L);
    if (lua_type(L, idx) != LUA_TTABLE || !is_list(L, idx, &n)) {
        if (lua_type(L, idx) == LUA_TTABLE)
            problem(c, NULL, "must be a list: values without keys or holes");
        else
            wrong_type(c, f, idx);
        return;
    }
    in_range(c, f, (double)n, " items");
    for (size_t i = 1; i <= n; i++) {
        lua_rawgeti(L, idx, (int)i);
        push_step(c, NULL, (uint32_t)i);
        check_item(c, f->item, out + 1);
        pop_step(c);
        lua_rawseti(L, out, (int)i);
        lua_settop(L, out);
    }
    mp_lua_json_mark_array(L, out);
}

static void check_one_or_list(struct mp_checker *c, const struct mp_field *f, int idx)
{
    lua_State *L = c->L;
    size_t n = 0;
    bool list = lua_type(L, idx) == LUA_TTABLE && is_list(L, idx, &n);
    if (list || (lua_type(L, idx) == LUA_TTABLE && !(f->item && f->item->type == MP_TYPE_NAMED))) {
        check_list(c, f, idx);
        return;
    }
    lua_newtable(L);
    check_item(c, f->item, idx);
    lua_rawseti(L, -2, 1);
    mp_lua_json_mark_array(L, -1);
}

static void check_map(struct mp_checker *c, const struct mp_field *f, int idx)
{
    lua_State *L = c->L;
    lua_newtable(L);
    int out = lua_gettop(L);
    if (lua_type(L, idx) != LUA_TTABLE) {
        wrong_type(c, f, idx);
        return;
    }
    for (lua_pushnil(L); lua_next(L, idx); lua_settop(L, out + 1)) {
        if (lua_type(L, out + 1) != LUA_TSTRING) {
            problem(c, NULL, "must have string keys only");
            lua_settop(L, out);
            return;
        }
        push_step(c, lua_tostring(L, out + 1), 0);
        check_item(c, f->item, out + 2);
        pop_step(c);
        lua_pushvalue(L, out + 1);
        lua_insert(L, -2);
        lua_rawset(L, out);
    }
}

/* { name = …, options = { … } } of "name" or { "name", … }. */
static void check_named(struct mp_checker *c, const struct mp_field *f, int idx)
{
    static const struct mp_field name = {.type = MP_TYPE_STRING, .min = 1, .max = 256};
    lua_State *L = c->L;
    lua_newtable(L);
    int out = lua_gettop(L);
    lua_newtable(L);
    bool table = lua_type(L, idx) == LUA_TTABLE;
    if (table)
        lua_rawgeti(L, idx, 1);
    else
        lua_pushvalue(L, idx);
    if (lua_type(L, -1) != LUA_TSTRING || (table && lua_objlen(L, idx) != 1)) {
        wrong_type(c, f, idx);
        lua_settop(L, out);
        return;
    }
    check_string(c, &name, lua_gettop(L));
    lua_setfield(L, out, "name");
    lua_settop(L, out + 1);
    for (lua_pushnil(L); table && lua_next(L, idx); lua_pop(L, 1))
        if (lua_type(L, -2) == LUA_TSTRING) {
            lua_pushvalue(L, -2);
            lua_pushvalue(L, -2);
            lua_rawset(L, out + 1);
        }
    lua_settop(L, out + 1);
    if (f->fields) {
        mp_schema_check(c, f->fields, out + 1);
        lua_replace(L, out + 1);
    }
    lua_setfield(L, out, "options");
}

/* -0 +1: the value at idx (absolute) as it shall be. */
static void check_value(struct mp_checker *c, const struct mp_field *f, int idx)
{
    lua_State *L = c->L;
    luaL_checkstack(L, 12, "a declaration is nested too deeply");
    if (c->n_steps >= MP_SCHEMA_DEPTH) {
        problem(c, NULL, "is nested too deeply");
        lua_pushnil(L);
        return;
    }
    switch (f->type) {
    case MP_TYPE_NUMBER:
    case MP_TYPE_INTEGER:
    case MP_TYPE_SECONDS:
    case MP_TYPE_BYTES: check_number(c, f, idx); return;
    case MP_TYPE_STRING: check_string(c, f, idx); return;
    case MP_TYPE_ENUM: check_enum(c, f, idx); return;
    case MP_TYPE_LIST: check_list(c, f, idx); return;
    case MP_TYPE_ONE_OR_LIST: check_one_or_list(c, f, idx); return;
    case MP_TYPE_MAP: check_map(c, f, idx); return;
    case MP_TYPE_NAMED: check_named(c, f, idx); return;
    case MP_TYPE_BOOLEAN:
        if (c->coerce && lua_type(L, idx) == LUA_TSTRING) {
            const char *s = lua_tostring(L, idx);
            bool yes = strcmp(s, "true") == 0 || strcmp(s, "1") == 0;
            if (!yes && strcmp(s, "false") != 0 && strcmp(s, "0") != 0)
                problem(c, NULL, "must be %s, not \"%.60s\"", type_must[f->type], s);
            lua_pushboolean(L, yes);
            return;
        }
        if (lua_type(L, idx) != LUA_TBOOLEAN)
            wrong_type(c, f, idx);
        break;
    case MP_TYPE_FUNCTION:
        if (lua_type(L, idx) != LUA_TFUNCTION)
            wrong_type(c, f, idx);
        break;
    case MP_TYPE_TABLE:
        if (lua_type(L, idx) != LUA_TTABLE) {
            wrong_type(c, f, idx);
        } else if (f->fields) {
            mp_schema_check(c, f->fields, idx);
            return;
        }
        break;
    case MP_TYPE_ANY: break;
    }
    lua_pushvalue(L, idx);
}

static void push_preset(struct mp_checker *c, const struct mp_field *f)
{
    struct mp_err err = {0};
    if (mp_lua_json_decode(c->L, f->preset, strlen(f->preset), 0, &err) < 0)
        lua_pushnil(c->L); /* a compiled default was written by our own encoder, a static one is in keys.c */
}

static void unknown_key(struct mp_checker *c, const struct mp_schema *s, const char *key)
{
    struct mp_buf hint = {0};
    const struct mp_field *near = nearest_field(s, key);
    if (near) {
        mp_buf_printf(&hint, "did you mean '%s' (%s%s)?", near->key, type_names[near->type],
                      near->later ? "; not yet built" : "");
    } else if (s->n) {
        mp_buf_puts(&hint, "known: ");
        for (uint32_t i = 0, shown = 0; i < s->n; i++)
            if (!s->fields[i].later)
                mp_buf_printf(&hint, "%s%s", shown++ ? ", " : "", s->fields[i].key);
    }
    key_problem(c, "unknown", hint.len ? mp_buf_cstr(&hint) : NULL);
    mp_buf_free(&hint);
}

void mp_schema_check(struct mp_checker *c, const struct mp_schema *s, int idx)
{
    lua_State *L = c->L;
    if (idx < 0)
        idx = lua_gettop(L) + idx + 1;
    luaL_checkstack(L, 12, "a declaration is nested too deeply");
    lua_newtable(L);
    int out = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, idx); lua_settop(L, out + 1)) { /* key at out+1, value at out+2 */
        if (lua_type(L, out + 1) != LUA_TSTRING) {
            bool number = lua_type(L, out + 1) == LUA_TNUMBER;
            push_step(c, NULL, number ? (uint32_t)lua_tonumber(L, out + 1) : 0);
            problem(c, NULL, number ? "is a value without a key" : "is not a string key");
            pop_step(c);
            continue;
        }
        const char *key = lua_tostring(L, out + 1);
        const struct mp_field *f = find_field(s, key);
        push_step(c, key, 0);
        if (!f) {
            unknown_key(c, s, key);
        } else if (f->later) {
            problem(c, NULL, "is not yet built");
        } else if (lua_type(L, out + 2) != LUA_TLIGHTUSERDATA) { /* null: as if it were not there */
            check_value(c, f, out + 2);
            lua_setfield(L, out, key);
        }
        pop_step(c);
    }
    lua_settop(L, out);
    for (uint32_t i = 0; i < s->n; i++) {
        const struct mp_field *f = &s->fields[i];
        if (f->later)
            continue;
        lua_getfield(L, idx, f->key);
        bool there = !lua_isnil(L, -1) && lua_type(L, -1) != LUA_TLIGHTUSERDATA;
        lua_pop(L, 1);
        if (there)
            continue;
        if (f->preset) {
            push_preset(c, f);
            if (f->type == MP_TYPE_TABLE && f->fields) { /* "{}": the defaults of its own fields */
                mp_schema_check(c, f->fields, -1);
                lua_replace(L, -2);
            }
            lua_setfield(L, out, f->key);
        } else if (f->required) {
            struct mp_buf hint = {0};
            push_step(c, f->key, 0);
            if (f->type != MP_TYPE_ANY)
                mp_buf_printf(&hint, "it must be %s", type_must[f->type]);
            key_problem(c, "missing", hint.len ? mp_buf_cstr(&hint) : NULL);
            mp_buf_free(&hint);
            pop_step(c);
        }
    }
}

/* ---- documentation ---- */

static void document(const struct mp_schema *s, const char *prefix, struct mp_buf *out)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const struct mp_field *f = &s->fields[i];
        mp_buf_printf(out, "| `%s%s` | %s | %s | %s%s |\n", prefix, f->key, type_names[f->type],
                      f->preset     ? f->preset
                      : f->required ? "required"
                                    : "",
                      f->doc ? f->doc : "", f->later ? " (not yet built)" : "");
        if (f->fields && f->type == MP_TYPE_TABLE) {
            struct mp_buf deeper = {0};
            mp_buf_printf(&deeper, "%s%s.", prefix, f->key);
            document(f->fields, mp_buf_cstr(&deeper), out);
            mp_buf_free(&deeper);
        }
    }
}

void mp_schema_document(const struct mp_schema *s, struct mp_buf *out)
{
    mp_buf_puts(out, "| key | type | default | what |\n| --- | --- | --- | --- |\n");
    document(s, "", out);
}
