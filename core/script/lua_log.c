/* core/script/lua_log.c — mp.log.debug, info, warn, error (text, fields?): a line of the server's log, with the request's id
 * when there is one; print. Any phase. One run may write only so much: a loop of it would fill the disk, and stop its worker while it does. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/utf8.h"
#include "core/script/run_impl.h"
#include "core/vm/lua_json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FIELDS = 32, MAX_LINE = 4096, RUN_LINES = 100, RUN_LINES_A_SECOND = 10 };

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A line of the run that goes on now, or of none. */
static bool may_log(struct mp_run *run)
{
    if (!run)
        return true;
    struct run_log *l = &run->log;
    if (l->left < 1) {
        uint64_t now = mp_clock_mono_ns();
        l->left = l->since_ns ? l->left + (double)(now - l->since_ns) / 1e9 * RUN_LINES_A_SECOND : RUN_LINES;
        l->left = l->left < RUN_LINES ? l->left : RUN_LINES;
        l->since_ns = now;
    }
    if (l->left < 1) {
        l->dropped++;
        return false;
    }
    l->left -= 1;
    lua_log_end(run);
    return true;
}

void lua_log_end(struct mp_run *run)
{
    if (run->log.dropped)
        mp_warn("script: %llu lines were not logged: a request may log %d, then %d a second request=%s",
                (unsigned long long)run->log.dropped, RUN_LINES, RUN_LINES_A_SECOND, run->x ? run->x->id : "-");
    run->log.dropped = 0;
}

void lua_log_print(void *script, const char *where, const char *text, size_t n)
{
    struct mp_script *s = script;
    if (may_log(s->current))
        mp_info("%s: %.*s", where, (int)(n < MAX_LINE ? n : MAX_LINE), text);
}

/* " key=value" of the field whose key stands at the top; the table is at 2. -0 +0 */
static void put_field(lua_State *L, struct mp_buf *line, const char *key)
{
    struct mp_err err = {0};
    size_t n;
    lua_pushstring(L, key);
    lua_rawget(L, 2);
    mp_buf_printf(line, " %.64s=", key);
    if (lua_type(L, -1) == LUA_TSTRING) {
        const char *s = lua_tolstring(L, -1, &n);
        mp_utf8_clean(line, s, n < MAX_LINE ? n : MAX_LINE);
    } else if (mp_lua_json_encode(L, -1, line, MAX_LINE, &err) < 0) {
        mp_buf_printf(line, "(%s)", luaL_typename(L, -1));
    }
    lua_pop(L, 1);
}

/* mp.log.level(text, fields?). Upvalue 1: the level. */
static int lua_log(lua_State *L)
{
    enum mp_log_level level = (enum mp_log_level)lua_tointeger(L, lua_upvalueindex(1));
    struct mp_script *s = mp_script_of(L);
    const char *keys[MAX_FIELDS];
    size_t n = 0, n_text;
    if (lua_type(L, 1) != LUA_TSTRING)
        return luaL_error(L, "mp.log: text must be a string, not a %s", luaL_typename(L, 1));
    if (!lua_isnoneornil(L, 2) && lua_type(L, 2) != LUA_TTABLE)
        return luaL_error(L, "mp.log: fields must be a table, not a %s", luaL_typename(L, 2));
    if (!mp_log_enabled(level) || !may_log(s->current))
        return 0;
    lua_settop(L, 2);
    for (lua_pushnil(L); lua_istable(L, 2) && lua_next(L, 2) && n < MAX_FIELDS; lua_pop(L, 1))
        if (lua_type(L, -2) == LUA_TSTRING)
            keys[n++] = lua_tostring(L, -2);
    lua_settop(L, 2);
    qsort(keys, n, sizeof *keys, by_name);
    /* The line is built in the script's own buffer: what follows may raise when memory is out. */
    struct mp_buf *line = &s->line;
    const char *text = lua_tolstring(L, 1, &n_text);
    mp_buf_clear(line);
    mp_utf8_clean(line, text, n_text < MAX_LINE ? n_text : MAX_LINE);
    if (s->current)
        mp_buf_printf(line, " %s=%s", mp_run_kind(s->current), mp_run_exchange(s->current)->id);
    for (size_t i = 0; i < n; i++)
        put_field(L, line, keys[i]);
    mp_log(level, "%s", mp_buf_cstr(line));
    return 0;
}

void mp_lua_log_open(lua_State *L)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    lua_newtable(L);
    for (int i = 0; i < 4; i++) {
        lua_pushinteger(L, MP_LOG_DEBUG + i);
        lua_pushcclosure(L, lua_log, 1);
        lua_setfield(L, -2, names[i]);
    }
    lua_setfield(L, -2, "log");
}
