/* core/script/answer.c — what a handler returned becomes the answer: table → JSON, string → text, mp.reply, a stream, nil and
 * an error. What it raised becomes an error: an expected one (a table with a code) with its status, anything else a 500
 * whose text stands in the log only. */
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/script/format.h"
#include "core/script/run_impl.h"
#include "core/vm/lua_json.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_HEADERS = 64 };

/* ---- headers ---- */

const char *answer_header_refusal(const char *name, size_t name_n, const char *value, size_t value_n)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection", "keep-alive",
                                       "date",           "upgrade",           "trailer"};
    if (name_n == 0)
        return "a header's name must not be empty";
    for (size_t i = 0; i < name_n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("!#$%&'*+-.^_`|~", name[i]))
            return "it is no header name";
    for (size_t i = 0; i < value_n; i++)
        if ((unsigned char)value[i] < 0x20 ? value[i] != '\t' : value[i] == 0x7f)
            return "its value holds a control character";
    for (size_t i = 0; i < MP_COUNT(ours); i++)
        if (strlen(ours[i]) == name_n && strncasecmp(ours[i], name, name_n) == 0)
            return "it is the server's own";
    return NULL;
}

void answer_header(struct mp_run *run, const char *name, size_t name_n, const char *value, size_t value_n, bool replace)
{
    struct run_answer *a = &run->answer;
    char *lower = mp_arena_strndup(run->arena, name, name_n);
    for (size_t i = 0; i < name_n; i++)
        lower[i] = (char)tolower((unsigned char)lower[i]);
    for (uint32_t i = 0; replace && i < a->n_headers;)
        if (strcmp(a->headers[i].name, lower) == 0) {
            memmove(a->headers + i, a->headers + i + 1, (a->n_headers - i - 1) * sizeof *a->headers);
            a->n_headers--;
        } else {
            i++;
        }
    if (a->n_headers == MAX_HEADERS) {
        mp_warn("script: request %s: header %s dropped: an answer has at most %d", run->x->id, lower, MAX_HEADERS);
        return;
    }
    if (!a->headers)
        a->headers = mp_run_alloc(run, MAX_HEADERS * sizeof *a->headers);
    a->headers[a->n_headers++] =
        (struct mp_header){lower, mp_arena_strndup(run->arena, value, value_n), name_n, value_n};
}

static void content_type(struct mp_run *run, const char *type, bool replace)
{
    for (uint32_t i = 0; !replace && i < run->answer.n_headers; i++)
        if (strcmp(run->answer.headers[i].name, "content-type") == 0)
            return;
    answer_header(run, "content-type", 12, type, strlen(type), true);
}

/* ---- errors ---- */

struct fault { /* an error on its way out */
    const char *code, *message, *param;
    int status;
    double retry_after;
};

static void set_fault(struct mp_run *run, const struct fault *f)
{
    struct run_answer *a = &run->answer;
    struct mp_buf *b = &a->body;
    unsigned wait = mp_format_wait(f->retry_after);
    char seconds[24];
    mp_buf_clear(b);
    if (run->mode == ANSWER_OPEN)
        a->n_headers = 0;
    mp_buf_puts(b, "{\"error\":{\"code\":");
    mp_json_put_string(b, f->code, strlen(f->code));
    mp_buf_puts(b, ",\"message\":");
    mp_json_put_string(b, f->message, strlen(f->message));
    if (f->param) {
        mp_buf_puts(b, ",\"param\":");
        mp_json_put_string(b, f->param, strlen(f->param));
    }
    mp_buf_printf(b, ",\"status\":%d,\"request_id\":", f->status);
    mp_json_put_string(b, run->x->id, strlen(run->x->id));
    mp_buf_puts(b, "}}");
    content_type(run, "application/json", true);
    if (wait) {
        snprintf(seconds, sizeof seconds, "%u", wait);
        answer_header(run, "retry-after", 11, seconds, strlen(seconds), true);
    }
    a->status = f->status;
    a->set = true;
}

void mp_format_error_body(struct mp_buf *out, const struct mp_err *err, const char *request_id)
{
    const char *code = mp_err_name(err->code);
    mp_buf_puts(out, "{\"error\":{\"code\":");
    mp_json_put_string(out, code, strlen(code));
    mp_buf_puts(out, ",\"message\":");
    mp_json_put_string(out, err->message, strlen(err->message));
    mp_buf_printf(out, ",\"status\":%d", mp_err_status(err->code));
    if (mp_format_wait(err->retry_after))
        mp_buf_printf(out, ",\"retry_after\":%u", mp_format_wait(err->retry_after));
    mp_buf_puts(out, ",\"request_id\":");
    mp_json_put_string(out, request_id, strlen(request_id));
    mp_buf_puts(out, "}}");
}

void answer_error(struct mp_run *run, const struct mp_err *err, int status, double retry_after)
{
    struct fault f = {mp_err_name(err->code), err->message, NULL, status ? status : mp_err_status(err->code),
                      retry_after};
    if (run->background)
        background_failed(run, MP_JOB_FAILED, err->code, err->message, NULL);
    else
        set_fault(run, &f);
}

void answer_internal(struct mp_run *run, int code, const char *message, const char *text, const char *trace)
{
    struct fault f = {mp_err_name(code), message, NULL, 500, 0};
    struct mp_buf line = {0};
    if (run->background) {
        background_failed(run, MP_JOB_FAILED, code, text, trace);
        return;
    }
    for (const char *p = trace ? trace : ""; *p; p++) /* one line of the log: its levels side by side */
        if (*p == '\n')
            mp_buf_puts(&line, " <");
        else
            mp_buf_putc(&line, *p);
    mp_error("script: request %s: %s: %s%s%s", run->x->id, run->endpoint->route, text, line.len ? " <" : "",
             mp_buf_cstr(&line));
    mp_buf_free(&line);
    set_fault(run, &f);
}

/* A string member of the table at idx, or NULL; borrowed while the table lives. Numbers are not strings here. */
static const char *member(lua_State *L, int idx, const char *key)
{
    lua_pushstring(L, key);
    lua_rawget(L, idx);
    const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    lua_pop(L, 1);
    return s;
}

static double number_member(lua_State *L, int idx, const char *key)
{
    lua_pushstring(L, key);
    lua_rawget(L, idx);
    double v = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
    lua_pop(L, 1);
    return v;
}

/* The error table at idx (absolute): what the client sees is what it says. False when it is no such table. */
static bool set_error_table(lua_State *L, struct mp_run *run, int idx)
{
    const char *code = member(L, idx, "code"), *message = member(L, idx, "message");
    double status = number_member(L, idx, "status"), retry = number_member(L, idx, "retry_after");
    if (!code && !message)
        return false;
    int known = code ? mp_err_from_name(code) : 0;
    int own = known ? mp_err_status(known) : 500;
    struct fault f = {.code = code ? code : "error",
                      .message = message ? message : code,
                      .param = member(L, idx, "param"),
                      .status = status >= 400 && status <= 599 ? (int)status : own,
                      .retry_after = retry};
    set_fault(run, &f);
    return true;
}

void answer_raised(lua_State *L, struct mp_run *run)
{
    if (run->background) {
        background_raised(L, run);
        return;
    }
    int idx = lua_gettop(L);
    if (!lua_istable(L, idx) || !set_error_table(L, run, idx))
        answer_internal(run, MP_ESCRIPT, "the request's script failed", "it raised a table without code and message",
                        NULL);
    lua_settop(L, idx - 1);
}

/* ---- results ---- */

static void set_json(lua_State *L, struct mp_run *run, int idx, int status)
{
    struct mp_err err = {0};
    mp_buf_clear(&run->answer.body);
    if (mp_lua_json_encode(L, idx, &run->answer.body, (size_t)run->script->config->server.limits.run_memory, &err) <
        0) {
        char text[1100];
        snprintf(text, sizeof text, "the handler's result has no JSON form: %s", err.message);
        answer_internal(run, MP_ESCRIPT, "the request's script failed", text, NULL);
        return;
    }
    content_type(run, "application/json", false);
    run->answer.status = status;
    run->answer.set = true;
}

static void set_text(lua_State *L, struct mp_run *run, int idx, int status, const char *type)
{
    size_t n;
    const char *s = lua_tolstring(L, idx, &n);
    mp_buf_clear(&run->answer.body);
    mp_buf_put(&run->answer.body, s, n);
    content_type(run, type, false);
    run->answer.status = status;
    run->answer.set = true;
}

/* The table that mp.reply made (and checked) at idx. */
static void set_reply(lua_State *L, struct mp_run *run, int idx)
{
    double status = number_member(L, idx, "status");
    int code = isnan(status) ? run->status ? run->status : 200 : (int)status, top = lua_gettop(L);
    lua_getfield(L, idx, "headers"); /* a flat list: name, value, name, value, … */
    for (int i = 1; lua_istable(L, -1) && i < (int)lua_objlen(L, -1); i += 2) {
        size_t name_n, value_n;
        lua_rawgeti(L, top + 1, i);
        lua_rawgeti(L, top + 1, i + 1);
        const char *name = lua_tolstring(L, -2, &name_n), *value = lua_tolstring(L, -1, &value_n);
        answer_header(run, name, name_n, value, value_n, false);
        lua_settop(L, top + 1);
    }
    lua_settop(L, top);
    lua_getfield(L, idx, "json");
    if (!lua_isnil(L, -1)) {
        set_json(L, run, top + 1, code);
        lua_settop(L, top);
        return;
    }
    lua_getfield(L, idx, "text");
    lua_getfield(L, idx, "body");
    if (lua_isstring(L, top + 2)) {
        set_text(L, run, top + 2, code, "text/plain; charset=utf-8");
    } else if (lua_isstring(L, top + 3)) {
        set_text(L, run, top + 3, code, "application/octet-stream");
    } else {
        run->answer.status = code;
        run->answer.set = true;
    }
    lua_settop(L, top);
}

static void wrong_result(lua_State *L, struct mp_run *run, int idx)
{
    char text[200];
    snprintf(text, sizeof text,
             lua_isnil(L, idx)
                 ? "the handler returned nothing and did not use res: return a table, a string, a stream or mp.reply"
                 : "the handler returned a %s: return a table, a string, a stream or mp.reply",
             luaL_typename(L, idx));
    answer_internal(run, MP_ESCRIPT, "the request's script failed", text, NULL);
}

void answer_results(lua_State *L, struct mp_run *run, lua_State *co)
{
    int status = run->status ? run->status : 200;
    struct mp_stream *stream;
    if (run->background) {
        background_results(L, run, co);
        return;
    }
    lua_settop(co, 2);
    lua_settop(L, 0);
    lua_xmove(co, L, 2);
    if (lua_isnil(L, 1) && !lua_isnil(L, 2)) {
        struct fault f = {"error", NULL, NULL, 500, 0};
        if (lua_type(L, 2) == LUA_TSTRING) {
            f.message = lua_tostring(L, 2);
            set_fault(run, &f);
        } else if (!lua_istable(L, 2) || !set_error_table(L, run, 2)) {
            wrong_result(L, run, 2);
        }
    } else if (run->mode == ANSWER_EVENTS) {
        if (!lua_isnil(L, 1))
            answer_internal(run, MP_ESCRIPT, "the request's script failed",
                            "the handler returned a value after res:events() had begun the answer", NULL);
    } else if (lua_reply_is(L, 1)) {
        set_reply(L, run, 1);
    } else if ((stream = lua_stream_test(L, 1)) && !lua_stream_belongs(stream, run)) {
        answer_internal(run, MP_ESCRIPT, "the request's script failed", "the handler returned another request's stream",
                        NULL);
    } else if (stream) {
        run->mode = ANSWER_PUMP;
        run->pump = stream;
        lua_pushvalue(L, 1);
        run->pump_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    } else if (lua_istable(L, 1)) {
        set_json(L, run, 1, status);
    } else if (lua_type(L, 1) == LUA_TSTRING) {
        set_text(L, run, 1, status, "text/plain; charset=utf-8");
    } else {
        wrong_result(L, run, 1);
    }
    lua_settop(L, 0);
}
