/* core/vm/vm_string.c — string.find, match, gmatch and gsub that can be stopped in the midst of a hostile pattern, with the
 * results of LuaJIT's own. The matcher follows Lua 5.1's lstrlib.c (Lua.org, PUC-Rio; MIT). Opened by vm_lib.c. */
#include "core/base/mem.h"
#include "core/vm/vm_impl.h"

#include <ctype.h>
#include <pthread.h>
#include <string.h>

enum {
    MAX_CAPTURES = 32,
    MAX_DEPTH = 200,
    POLL_STEPS = 4096,
    CAP_OPEN = -1,
    CAP_POSITION = -2,
    STACK_SPARE = 256 << 10
};

struct match {
    lua_State *L;
    const char *src, *src_end, *pat_end;
    uint32_t steps;   /* since the last poll */
    int depth, level; /* of do_match; captures so far */
    struct {
        const char *at;
        ptrdiff_t len; /* or CAP_… */
    } capture[MAX_CAPTURES];
};

/* ---- the C stack ---- */

static __thread const char *stack_low; /* lowest address that a C function which calls back may run at */

void vm_check_stack(lua_State *L)
{
    if (!stack_low) {
        pthread_attr_t attr;
        void *low = NULL;
        size_t size = 0;
        if (pthread_getattr_np(pthread_self(), &attr) == 0) {
            pthread_attr_getstack(&attr, &low, &size);
            pthread_attr_destroy(&attr);
        }
        stack_low = (const char *)low + (size > 2 * (size_t)STACK_SPARE ? STACK_SPARE : size / 2);
    }
    if ((const char *)__builtin_frame_address(0) < stack_low)
        luaL_error(L, "stack overflow: calls through C functions are nested too deeply");
}

/* ---- matching ---- */

static void step(struct match *m)
{
    if (++m->steps >= POLL_STEPS) {
        m->steps = 0;
        mp_vm_poll(m->L);
    }
}

static int one_digit_capture(struct match *m, int c)
{
    c -= '1';
    if (c < 0 || c >= m->level || m->capture[c].len == CAP_OPEN)
        return luaL_error(m->L, "invalid capture index");
    return c;
}

static int capture_to_close(struct match *m)
{
    for (int level = m->level - 1; level >= 0; level--)
        if (m->capture[level].len == CAP_OPEN)
            return level;
    return luaL_error(m->L, "invalid pattern capture");
}

/* Behind the single-character class at p. */
static const char *class_end(struct match *m, const char *p)
{
    char c = *p++;
    if (c == '%') {
        if (p == m->pat_end)
            luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (c != '[')
        return p;
    if (*p == '^')
        p++;
    do { /* the first ']' stands for itself */
        if (p == m->pat_end)
            luaL_error(m->L, "malformed pattern (missing ']')");
        if (*p++ == '%' && p < m->pat_end)
            p++;
    } while (*p != ']');
    return p + 1;
}

static bool in_class(int c, int class)
{
    bool yes;
    switch (tolower(class)) {
    case 'a': yes = isalpha(c); break;
    case 'c': yes = iscntrl(c); break;
    case 'd': yes = isdigit(c); break;
    case 'g': yes = isgraph(c); break;
    case 'l': yes = islower(c); break;
    case 'p': yes = ispunct(c); break;
    case 's': yes = isspace(c); break;
    case 'u': yes = isupper(c); break;
    case 'w': yes = isalnum(c); break;
    case 'x': yes = isxdigit(c); break;
    case 'z': yes = c == 0; break;
    default: return class == c;
    }
    return isupper(class) ? !yes : yes;
}

/* p at '[', end at its ']'. */
static bool in_set(int c, const char *p, const char *end)
{
    bool wanted = true;
    if (p[1] == '^') {
        wanted = false;
        p++;
    }
    while (++p < end) {
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p))
                return wanted;
        } else if (p[1] == '-' && p + 2 < end) {
            p += 2;
            if ((unsigned char)p[-2] <= c && c <= (unsigned char)*p)
                return wanted;
        } else if ((unsigned char)*p == c) {
            return wanted;
        }
    }
    return !wanted;
}

static bool single(const struct match *m, const char *s, const char *p, const char *end)
{
    int c;
    if (s >= m->src_end)
        return false;
    c = (unsigned char)*s;
    switch (*p) {
    case '.': return true;
    case '%': return in_class(c, (unsigned char)p[1]);
    case '[': return in_set(c, p, end - 1);
    default: return (unsigned char)*p == c;
    }
}

static const char *do_match(struct match *m, const char *s, const char *p);

static const char *match_balance(struct match *m, const char *s, const char *p)
{
    int nested = 1;
    if (p + 1 >= m->pat_end)
        luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
    if (s >= m->src_end || *s != *p)
        return NULL;
    while (++s < m->src_end) {
        step(m);
        if (*s == p[1]) {
            if (--nested == 0)
                return s + 1;
        } else if (*s == *p) {
            nested++;
        }
    }
    return NULL;
}

static const char *max_expand(struct match *m, const char *s, const char *p, const char *end)
{
    ptrdiff_t i = 0;
    while (single(m, s + i, p, end)) {
        step(m);
        i++;
    }
    for (; i >= 0; i--) {
        const char *r = do_match(m, s + i, end + 1);
        if (r)
            return r;
        step(m);
    }
    return NULL;
}

static const char *min_expand(struct match *m, const char *s, const char *p, const char *end)
{
    for (;; s++) {
        const char *r = do_match(m, s, end + 1);
        if (r)
            return r;
        step(m);
        if (!single(m, s, p, end))
            return NULL;
    }
}

static const char *start_capture(struct match *m, const char *s, const char *p, int what)
{
    const char *r;
    if (m->level >= MAX_CAPTURES)
        luaL_error(m->L, "too many captures");
    m->capture[m->level].at = s;
    m->capture[m->level].len = what;
    m->level++;
    r = do_match(m, s, p);
    if (!r)
        m->level--;
    return r;
}

static const char *end_capture(struct match *m, const char *s, const char *p)
{
    int level = capture_to_close(m);
    const char *r;
    m->capture[level].len = s - m->capture[level].at;
    r = do_match(m, s, p);
    if (!r)
        m->capture[level].len = CAP_OPEN;
    return r;
}

static const char *match_back(struct match *m, const char *s, int digit)
{
    int level = one_digit_capture(m, digit);
    size_t n;
    if (m->capture[level].len < 0) /* a position */
        return NULL;
    n = (size_t)m->capture[level].len;
    m->steps += (uint32_t)(n / 64);
    if ((size_t)(m->src_end - s) >= n && memcmp(m->capture[level].at, s, n) == 0)
        return s + n;
    return NULL;
}

static bool frontier(const struct match *m, const char *s, const char *p, const char *end)
{
    int before = s == m->src ? 0 : (unsigned char)s[-1], here = s < m->src_end ? (unsigned char)*s : 0;
    return !in_set(before, p, end - 1) && in_set(here, p, end - 1);
}

/* The end of the match of pattern p at s, or NULL. */
static const char *match_here(struct match *m, const char *s, const char *p)
{
    for (;;) {
        const char *end;
        step(m);
        if (p == m->pat_end)
            return s;
        switch (*p) {
        case '(':
            return p[1] == ')' && p + 1 < m->pat_end ? start_capture(m, s, p + 2, CAP_POSITION)
                                                     : start_capture(m, s, p + 1, CAP_OPEN);
        case ')': return end_capture(m, s, p + 1);
        case '$':
            if (p + 1 == m->pat_end)
                return s == m->src_end ? s : NULL;
            break;
        case '%':
            if (p + 1 < m->pat_end && p[1] == 'b') {
                s = match_balance(m, s, p + 2);
                if (!s)
                    return NULL;
                p += 4;
                continue;
            }
            if (p + 1 < m->pat_end && p[1] == 'f') {
                p += 2;
                if (p >= m->pat_end || *p != '[')
                    luaL_error(m->L, "missing '[' after '%%f' in pattern");
                end = class_end(m, p);
                if (!frontier(m, s, p, end))
                    return NULL;
                p = end;
                continue;
            }
            if (p + 1 < m->pat_end && isdigit((unsigned char)p[1])) {
                s = match_back(m, s, (unsigned char)p[1]);
                if (!s)
                    return NULL;
                p += 2;
                continue;
            }
            break;
        default: break;
        }
        end = class_end(m, p);
        switch (end < m->pat_end ? *end : 0) {
        case '?': {
            const char *r = single(m, s, p, end) ? do_match(m, s + 1, end + 1) : NULL;
            if (r)
                return r;
            p = end + 1;
            continue;
        }
        case '*': return max_expand(m, s, p, end);
        case '+': return single(m, s, p, end) ? max_expand(m, s + 1, p, end) : NULL;
        case '-': return min_expand(m, s, p, end);
        default:
            if (!single(m, s, p, end))
                return NULL;
            s++;
            p = end;
        }
    }
}

static const char *do_match(struct match *m, const char *s, const char *p)
{
    const char *r;
    if (++m->depth > MAX_DEPTH)
        luaL_error(m->L, "pattern too complex");
    r = match_here(m, s, p);
    m->depth--;
    return r;
}

/* ---- captures ---- */

static void push_capture(struct match *m, int i, const char *s, const char *e)
{
    if (i >= m->level) {
        if (i != 0)
            luaL_error(m->L, "invalid capture index");
        lua_pushlstring(m->L, s, (size_t)(e - s));
    } else if (m->capture[i].len == CAP_POSITION) {
        lua_pushinteger(m->L, m->capture[i].at - m->src + 1);
    } else if (m->capture[i].len == CAP_OPEN) {
        luaL_error(m->L, "unfinished capture");
    } else {
        lua_pushlstring(m->L, m->capture[i].at, (size_t)m->capture[i].len);
    }
}

/* All captures; the whole match when the pattern has none and s is given. */
static int push_captures(struct match *m, const char *s, const char *e)
{
    int n = m->level == 0 && s ? 1 : m->level;
    luaL_checkstack(m->L, n, "too many captures");
    for (int i = 0; i < n; i++)
        push_capture(m, i, s, e);
    return n;
}

static void match_init(struct match *m, lua_State *L, const char *src, size_t n, const char *pat, size_t pat_n)
{
    m->L = L;
    m->src = src;
    m->src_end = src + n;
    m->pat_end = pat + pat_n;
    m->steps = 0;
    m->depth = m->level = 0;
}

/* ---- find, match, gmatch ---- */

static int find_or_match(lua_State *L, bool find)
{
    size_t n, pat_n;
    const char *s = luaL_checklstring(L, 1, &n), *p = luaL_checklstring(L, 2, &pat_n), *at;
    lua_Number start = luaL_optnumber(L, 3, 1);
    bool anchor = pat_n > 0 && *p == '^';
    struct match m;
    if (start < 0)
        start += (lua_Number)n + 1;
    start = start < 1 ? 0 : start - 1;
    if (!(start <= (lua_Number)n)) /* as LuaJIT: not a failure */
        start = (lua_Number)n;
    at = s + (size_t)start;
    if (find && (lua_toboolean(L, 4) || !memchr(p, 0, pat_n)) &&
        (lua_toboolean(L, 4) || strcspn(p, "^$*+?.([%-") == pat_n)) {
        const char *hit = pat_n == 0 ? at : memmem(at, n - (size_t)start, p, pat_n);
        if (!hit) {
            lua_pushnil(L);
            return 1;
        }
        lua_pushinteger(L, hit - s + 1);
        lua_pushinteger(L, hit - s + (ptrdiff_t)pat_n);
        return 2;
    }
    match_init(&m, L, s, n, p, pat_n);
    p += anchor;
    do {
        const char *e;
        m.level = 0;
        e = do_match(&m, at, p);
        if (!e)
            continue;
        if (!find)
            return push_captures(&m, at, e);
        lua_pushinteger(L, at - s + 1);
        lua_pushinteger(L, e - s);
        return push_captures(&m, NULL, NULL) + 2;
    } while (at++ < m.src_end && !anchor);
    lua_pushnil(L);
    return 1;
}

static int str_find(lua_State *L)
{
    return find_or_match(L, true);
}

static int str_match(lua_State *L)
{
    return find_or_match(L, false);
}

/* Upvalues: the text, the pattern, where to go on. */
static int gmatch_next(lua_State *L)
{
    size_t n, pat_n, start = (size_t)lua_tonumber(L, lua_upvalueindex(3));
    const char *s = lua_tolstring(L, lua_upvalueindex(1), &n), *p = lua_tolstring(L, lua_upvalueindex(2), &pat_n);
    struct match m;
    match_init(&m, L, s, n, p, pat_n);
    for (const char *at = s + start; start <= n && at <= m.src_end; at++) {
        const char *e;
        m.level = 0;
        e = do_match(&m, at, p);
        if (e) {
            lua_pushnumber(L, (lua_Number)(e - s + (e == at)));
            lua_replace(L, lua_upvalueindex(3));
            return push_captures(&m, at, e);
        }
    }
    return 0;
}

static int str_gmatch(lua_State *L)
{
    luaL_checkstring(L, 1);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    lua_pushnumber(L, 0);
    lua_pushcclosure(L, gmatch_next, 3);
    return 1;
}

/* ---- gsub ---- */

static void add_template(struct match *m, luaL_Buffer *b, const char *s, const char *e)
{
    size_t n;
    const char *with = lua_tolstring(m->L, 3, &n);
    for (size_t i = 0; i < n; i++) {
        if (with[i] != '%') {
            luaL_addchar(b, with[i]);
            continue;
        }
        i++; /* the string ends with a NUL: no digit */
        if (!isdigit((unsigned char)with[i])) {
            luaL_addchar(b, with[i]);
        } else if (with[i] == '0') {
            luaL_addlstring(b, s, (size_t)(e - s));
        } else {
            push_capture(m, with[i] - '1', s, e);
            luaL_addvalue(b);
        }
    }
}

static void add_value(struct match *m, luaL_Buffer *b, const char *s, const char *e)
{
    lua_State *L = m->L;
    int type = lua_type(L, 3);
    if (type == LUA_TSTRING || type == LUA_TNUMBER) {
        add_template(m, b, s, e);
        return;
    }
    if (type == LUA_TFUNCTION) {
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(m, s, e), 1);
    } else {
        push_capture(m, 0, s, e);
        lua_gettable(L, 3);
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lua_pushlstring(L, s, (size_t)(e - s));
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    }
    luaL_addvalue(b);
}

static int str_gsub(lua_State *L)
{
    size_t n, pat_n;
    const char *s = luaL_checklstring(L, 1, &n), *p = luaL_checklstring(L, 2, &pat_n);
    int type = lua_type(L, 3);
    lua_Number most = luaL_optnumber(L, 4, (lua_Number)n + 1), done = 0;
    bool anchor = pat_n > 0 && *p == '^';
    struct match m;
    luaL_Buffer b;
    if (type != LUA_TNUMBER && type != LUA_TSTRING && type != LUA_TTABLE && type != LUA_TFUNCTION)
        return luaL_typerror(L, 3, "string/function/table");
    vm_check_stack(L);
    match_init(&m, L, s, n, p, pat_n);
    p += anchor;
    luaL_buffinit(L, &b);
    while (done < most) {
        const char *e;
        m.level = 0;
        e = do_match(&m, s, p);
        if (e) {
            done++;
            add_value(&m, &b, s, e);
        }
        if (e && e > s)
            s = e;
        else if (s < m.src_end)
            luaL_addchar(&b, *s++);
        else
            break;
        if (anchor)
            break;
    }
    luaL_addlstring(&b, s, (size_t)(m.src_end - s));
    luaL_pushresult(&b);
    lua_pushnumber(L, done);
    return 2;
}

void vm_string_lib(lua_State *L, int strings)
{
    static const luaL_Reg functions[] = {
        {"find", str_find}, {"match", str_match}, {"gmatch", str_gmatch}, {"gsub", str_gsub}, {NULL, NULL}};
    lua_pushvalue(L, strings);
    luaL_setfuncs(L, functions, 0);
    lua_pushnil(L);
    lua_setfield(L, -2, "gfind"); /* 5.0's name for gmatch, where it is still there */
    lua_pop(L, 1);
}
