/* core/vm/vm_string.c — string.find, match, gmatch and gsub over pattern.c, in place of LuaJIT's own, which cannot be
 * stopped; and the guard of the C stack. Opened by vm_lib.c. */
#include "core/vm/pattern.h"
#include "core/vm/vm_impl.h"

#include <pthread.h>
#include <string.h>

enum {
    STACK_SPARE = 256 << 10,
    PLAIN_WINDOW = 256 << 10, /* bytes that a plain find searches between polls */
    PLAIN_TRIES = 16,
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

/* ---- arguments and results ---- */

/* An optional number cut to a whole one, as LuaJIT cuts it; what no int holds becomes the nearest that does. */
static int64_t opt_int(lua_State *L, int arg, int64_t missing)
{
    lua_Number n = luaL_optnumber(L, arg, (lua_Number)missing);
    if (n >= (lua_Number)INT32_MAX)
        return INT32_MAX;
    return n > (lua_Number)INT32_MIN ? (int64_t)n : INT32_MIN; /* NaN, too */
}

/* Begins a match of the strings at two stack indices; true when the pattern is anchored, which gmatch's never are. */
static bool begin(struct vm_pattern *m, lua_State *L, int text, int pattern, bool may_anchor)
{
    size_t n, pattern_n;
    const char *s = lua_tolstring(L, text, &n), *p = lua_tolstring(L, pattern, &pattern_n);
    bool anchored = may_anchor && pattern_n > 0 && *p == '^';
    vm_pattern_init(m, L, s, n, p + anchored, pattern_n - anchored);
    return anchored;
}

/* Capture i of the match from `at` to end; without any, the first is the match itself. */
static void push_capture(const struct vm_pattern *m, uint32_t i, const char *at, const char *end)
{
    if (i == 0 && m->n_captures == 0)
        lua_pushlstring(m->L, at, (size_t)(end - at));
    else if (i >= m->n_captures)
        luaL_error(m->L, "invalid capture index");
    else if (m->open >> i & 1)
        luaL_error(m->L, "unfinished capture");
    else if (!m->capture[i].end)
        lua_pushinteger(m->L, m->capture[i].start - m->text + 1);
    else
        lua_pushlstring(m->L, m->capture[i].start, (size_t)(m->capture[i].end - m->capture[i].start));
}

static int push_captures(const struct vm_pattern *m, const char *at, const char *end)
{
    uint32_t n = m->n_captures ? m->n_captures : 1;
    luaL_checkstack(m->L, (int)n, "too many captures");
    for (uint32_t i = 0; i < n; i++)
        push_capture(m, i, at, end);
    return (int)n;
}

/* ---- find, match ---- */

static bool is_plain(const char *p, size_t n)
{
    static const bool special[256] = {
        ['^'] = 1, ['$'] = 1, ['*'] = 1, ['+'] = 1, ['?'] = 1, ['.'] = 1, ['('] = 1, ['['] = 1, ['%'] = 1, ['-'] = 1};
    for (size_t i = 0; i < n; i++)
        if (special[(unsigned char)p[i]])
            return false;
    return true;
}

/* By the first character while that is rare, which is fastest; then in linear time whatever the texts are. */
static const char *find_window(const char *at, size_t n, const char *what, size_t what_n)
{
    const char *end = at + n;
    for (int tries = 0; tries < PLAIN_TRIES && (size_t)(end - at) >= what_n; tries++) {
        at = memchr(at, what[0], (size_t)(end - at) - what_n + 1);
        if (!at || memcmp(at, what, what_n) == 0)
            return at;
        at++;
    }
    return memmem(at, (size_t)(end - at), what, what_n);
}

static const char *find_plain(lua_State *L, const char *at, size_t n, const char *what, size_t what_n)
{
    if (what_n == 0)
        return at;
    while (what_n <= n) {
        size_t window = n - what_n > PLAIN_WINDOW + what_n ? PLAIN_WINDOW + 2 * what_n : n;
        const char *hit = find_window(at, window, what, what_n);
        if (hit || window == n)
            return hit;
        at += window - what_n + 1;
        n -= window - what_n + 1;
        mp_vm_poll(L);
    }
    return NULL;
}

static int find_or_match(lua_State *L, bool find)
{
    size_t n, pattern_n;
    const char *s = luaL_checklstring(L, 1, &n), *p = luaL_checklstring(L, 2, &pattern_n), *at, *end;
    int64_t start = opt_int(L, 3, 1);
    struct vm_pattern m;
    bool anchored;
    start = start < 0 ? start + (int64_t)n : start - 1;
    if (start < 0)
        start = 0;
    at = s + (start < (int64_t)n ? (size_t)start : n); /* beyond the end is at the end */
    if (find && (lua_toboolean(L, 4) || is_plain(p, pattern_n))) {
        at = find_plain(L, at, (size_t)(s + n - at), p, pattern_n);
        if (!at) {
            lua_pushnil(L);
            return 1;
        }
        lua_pushinteger(L, at - s + 1);
        lua_pushinteger(L, at - s + (ptrdiff_t)pattern_n);
        return 2;
    }
    anchored = begin(&m, L, 1, 2, true);
    end = vm_pattern_match(&m, at);
    while (!end && !anchored && at < m.text_end)
        end = vm_pattern_match(&m, ++at);
    if (!end) {
        lua_pushnil(L);
        return 1;
    }
    if (!find)
        return push_captures(&m, at, end);
    lua_pushinteger(L, at - s + 1);
    lua_pushinteger(L, end - s);
    return m.n_captures ? push_captures(&m, at, end) + 2 : 2;
}

static int str_find(lua_State *L)
{
    return find_or_match(L, true);
}

static int str_match(lua_State *L)
{
    return find_or_match(L, false);
}

/* ---- gmatch ---- */

/* Upvalues: the text, the pattern, how far it came. */
static int gmatch_next(lua_State *L)
{
    struct vm_pattern m;
    begin(&m, L, lua_upvalueindex(1), lua_upvalueindex(2), false);
    for (size_t from = (size_t)lua_tointeger(L, lua_upvalueindex(3)), n = (size_t)(m.text_end - m.text); from <= n;
         from++) {
        const char *at = m.text + from, *end = vm_pattern_match(&m, at);
        if (!end)
            continue;
        lua_pushinteger(L, end - m.text + (end == at));
        lua_replace(L, lua_upvalueindex(3));
        return push_captures(&m, at, end);
    }
    return 0;
}

static int str_gmatch(lua_State *L)
{
    luaL_checkstring(L, 1);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, gmatch_next, 3);
    return 1;
}

/* ---- gsub ---- */

/* Adds the replacement text at stack index 3, with %0 to %9 filled in. */
static void add_text(struct vm_pattern *m, luaL_Buffer *b, const char *at, const char *end)
{
    size_t n;
    const char *text = lua_tolstring(m->L, 3, &n), *text_end = text + n;
    while (text < text_end) {
        const char *percent = memchr(text, '%', (size_t)(text_end - text));
        luaL_addlstring(b, text, (size_t)((percent ? percent : text_end) - text));
        if (!percent)
            break;
        vm_pattern_work(m, 1); /* what it adds may be nothing */
        text = percent + 2;
        if (percent[1] < '0' || percent[1] > '9') { /* the NUL behind the text is added for a '%' that ends it */
            luaL_addchar(b, percent[1]);
        } else if (percent[1] == '0') {
            luaL_addlstring(b, at, (size_t)(end - at));
        } else {
            push_capture(m, (uint32_t)(percent[1] - '1'), at, end);
            luaL_addvalue(b);
        }
    }
}

/* Adds what the table or function at stack index 3 gives for a match. */
static void add_value(const struct vm_pattern *m, luaL_Buffer *b, const char *at, const char *end)
{
    lua_State *L = m->L;
    if (lua_istable(L, 3)) {
        push_capture(m, 0, at, end);
        lua_gettable(L, 3);
    } else {
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(m, at, end), 1);
    }
    if (lua_isstring(L, -1)) {
        luaL_addvalue(b);
        return;
    }
    if (lua_toboolean(L, -1))
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    lua_pop(L, 1);
    luaL_addlstring(b, at, (size_t)(end - at));
}

static int str_gsub(lua_State *L)
{
    size_t n;
    const char *at = luaL_checklstring(L, 1, &n), *copied = at, *end;
    int64_t most, done = 0;
    int type = lua_type(L, 3);
    struct vm_pattern m;
    luaL_Buffer b;
    bool anchored;
    luaL_checkstring(L, 2);
    most = opt_int(L, 4, INT32_MAX);
    if (type != LUA_TNUMBER && type != LUA_TSTRING && type != LUA_TTABLE && type != LUA_TFUNCTION)
        return luaL_argerror(L, 3, "string/function/table expected");
    vm_check_stack(L);
    anchored = begin(&m, L, 1, 2, true);
    luaL_buffinit(L, &b);
    while (done < most) {
        end = vm_pattern_match(&m, at);
        if (end) {
            done++;
            luaL_addlstring(&b, copied, (size_t)(at - copied));
            if (type == LUA_TNUMBER || type == LUA_TSTRING)
                add_text(&m, &b, at, end);
            else
                add_value(&m, &b, at, end);
            copied = end;
        }
        if (anchored || (at == m.text_end && (!end || end == at)))
            break;
        at = end && end > at ? end : at + 1;
    }
    luaL_addlstring(&b, copied, (size_t)(m.text_end - copied));
    luaL_pushresult(&b);
    lua_pushinteger(L, (lua_Integer)done);
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
