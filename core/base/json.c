/* core/base/json.c — see json.h. RFC 8259; no extensions: no comments, no NaN, no lone surrogates, no duplicate check. */
#include "core/base/json.h"

#include "core/base/mem.h"
#include "core/base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum state { S_VALUE, S_FIRST_ITEM, S_FIRST_KEY, S_KEY, S_COLON, S_AFTER, S_DONE, S_FAILED };

void mp_json_init(struct mp_json *j, const char *in, size_t n, uint32_t max_depth, uint32_t max_values)
{
    *j = (struct mp_json){.in = in, .n = n, .state = S_VALUE};
    j->max_depth = max_depth && max_depth < MP_JSON_MAX_DEPTH ? max_depth : MP_JSON_MAX_DEPTH;
    j->max_values = max_values ? max_values : MP_JSON_MAX_VALUES;
}

void mp_json_free(struct mp_json *j)
{
    mp_buf_free(&j->scratch);
}

size_t mp_json_offset(const struct mp_json *j)
{
    return j->at;
}

static enum mp_json_tok fail(struct mp_json *j, int code, size_t at, const char *what)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < j->n; i++) {
        column++;
        if (j->in[i] == '\n') {
            line++;
            column = 1;
        }
    }
    mp_err_set(&j->err, code, "line %zu, column %zu: %s", line, column, what);
    j->state = S_FAILED;
    return MP_JSON_ERROR;
}

static int peek(struct mp_json *j)
{
    while (j->at < j->n) {
        char c = j->in[j->at];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r')
            return (unsigned char)c;
        j->at++;
    }
    return -1;
}

static int hex4(const struct mp_json *j, size_t at)
{
    int v = 0;
    if (at + 4 > j->n)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = j->in[i];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* One escape, j->at on the byte behind the backslash. Returns NULL or what is wrong. */
static const char *escape(struct mp_json *j)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *hit = j->at < j->n ? memchr(from, j->in[j->at], sizeof from - 1) : NULL;
    if (hit) {
        mp_buf_putc(&j->scratch, to[hit - from]);
        j->at++;
        return NULL;
    }
    if (j->at >= j->n || j->in[j->at] != 'u')
        return "invalid escape in a string";
    int c = hex4(j, j->at + 1);
    if (c < 0)
        return "\\u needs four hexadecimal digits";
    j->at += 5;
    if (c >= 0xdc00 && c <= 0xdfff)
        return "a low surrogate without its high one";
    if (c >= 0xd800 && c <= 0xdbff) {
        int low = j->at + 1 < j->n && j->in[j->at] == '\\' && j->in[j->at + 1] == 'u' ? hex4(j, j->at + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return "a high surrogate without its low one";
        j->at += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    char utf8[4];
    mp_buf_put(&j->scratch, utf8, mp_utf8_encode((uint32_t)c, utf8));
    return NULL;
}

static enum mp_json_tok string(struct mp_json *j, enum mp_json_tok tok)
{
    size_t start = ++j->at, run = start;
    bool plain = true;
    mp_buf_clear(&j->scratch);
    for (;;) {
        if (j->at >= j->n)
            return fail(j, MP_EFORMAT, j->n, "the text ends inside a string");
        unsigned char c = (unsigned char)j->in[j->at];
        if (c == '"')
            break;
        if (c < 32)
            return fail(j, MP_EFORMAT, j->at, "a control character inside a string must be escaped");
        if (c != '\\') {
            j->at++;
            continue;
        }
        plain = false;
        mp_buf_put(&j->scratch, j->in + run, j->at - run);
        size_t at = j->at++;
        const char *wrong = escape(j);
        if (wrong)
            return fail(j, MP_EFORMAT, at, wrong);
        run = j->at;
    }
    size_t raw = j->at - start, bad = mp_utf8_valid_prefix(j->in + start, raw);
    if (bad != raw)
        return fail(j, MP_EFORMAT, start + bad, "bytes that are not UTF-8");
    if (plain) {
        j->text = j->in + start;
        j->len = raw;
    } else {
        mp_buf_put(&j->scratch, j->in + run, j->at - run);
        j->text = j->scratch.data ? j->scratch.data : "";
        j->len = j->scratch.len;
    }
    j->at++;
    return tok;
}

static bool digits(struct mp_json *j)
{
    size_t from = j->at;
    while (j->at < j->n && j->in[j->at] >= '0' && j->in[j->at] <= '9')
        j->at++;
    return j->at > from;
}

static enum mp_json_tok number(struct mp_json *j)
{
    size_t start = j->at;
    bool whole = true;
    if (j->in[j->at] == '-')
        j->at++;
    if (j->at < j->n && j->in[j->at] == '0')
        j->at++;
    else if (!digits(j))
        return fail(j, MP_EFORMAT, start, "not a JSON value");
    if (j->at < j->n && j->in[j->at] == '.') {
        whole = false;
        j->at++;
        if (!digits(j))
            return fail(j, MP_EFORMAT, j->at, "a digit must follow the decimal point");
    }
    if (j->at < j->n && (j->in[j->at] | 32) == 'e') {
        whole = false;
        j->at++;
        if (j->at < j->n && (j->in[j->at] == '+' || j->in[j->at] == '-'))
            j->at++;
        if (!digits(j))
            return fail(j, MP_EFORMAT, j->at, "a digit must follow the exponent");
    }
    mp_buf_clear(&j->scratch);
    mp_buf_put(&j->scratch, j->in + start, j->at - start);
    j->number = strtod(mp_buf_cstr(&j->scratch), NULL);
    if (!isfinite(j->number))
        return fail(j, MP_EFORMAT, start, "the number is out of range");
    j->integer = whole && fabs(j->number) <= 9007199254740992.0;
    j->text = j->scratch.data;
    j->len = j->scratch.len;
    return MP_JSON_NUMBER;
}

static enum mp_json_tok word(struct mp_json *j, const char *w, enum mp_json_tok tok)
{
    size_t n = strlen(w);
    if (j->n - j->at < n || memcmp(j->in + j->at, w, n) != 0)
        return fail(j, MP_EFORMAT, j->at, "not a JSON value");
    j->at += n;
    return tok;
}

static enum mp_json_tok open(struct mp_json *j, bool object)
{
    if (j->depth >= j->max_depth)
        return fail(j, MP_ELIMIT, j->at, "nested too deeply");
    j->stack[j->depth++] = object;
    j->at++;
    j->state = object ? S_FIRST_KEY : S_FIRST_ITEM;
    return object ? MP_JSON_OBJECT : MP_JSON_ARRAY;
}

static enum mp_json_tok close_(struct mp_json *j)
{
    bool object = j->stack[--j->depth];
    j->at++;
    j->state = j->depth ? S_AFTER : S_DONE;
    return object ? MP_JSON_OBJECT_END : MP_JSON_ARRAY_END;
}

static enum mp_json_tok value(struct mp_json *j, int c)
{
    if (++j->values > j->max_values)
        return fail(j, MP_ELIMIT, j->at, "too many values");
    if (c == '{' || c == '[')
        return open(j, c == '{');
    j->state = j->depth ? S_AFTER : S_DONE;
    switch (c) {
    case '"': return string(j, MP_JSON_STRING);
    case 't': return word(j, "true", MP_JSON_TRUE);
    case 'f': return word(j, "false", MP_JSON_FALSE);
    case 'n': return word(j, "null", MP_JSON_NULL);
    case '-': return number(j);
    default:
        if (c >= '0' && c <= '9')
            return number(j);
        return fail(j, MP_EFORMAT, j->at, c < 0 ? "the text ends where a value should stand" : "not a JSON value");
    }
}

enum mp_json_tok mp_json_next(struct mp_json *j)
{
    if (j->state == S_FAILED)
        return MP_JSON_ERROR;
    int c = peek(j);
    j->start = j->at;
    if (j->state == S_AFTER) { /* behind a value inside a container: its end, or a comma */
        bool object = j->stack[j->depth - 1];
        if (c == (object ? '}' : ']'))
            return close_(j);
        if (c != ',')
            return fail(j, MP_EFORMAT, j->at, object ? "',' or '}' expected" : "',' or ']' expected");
        j->at++;
        j->state = object ? S_KEY : S_VALUE;
        c = peek(j);
        j->start = j->at;
    }
    switch (j->state) {
    case S_DONE: return c < 0 ? MP_JSON_END : fail(j, MP_EFORMAT, j->at, "text behind the value");
    case S_FIRST_ITEM:
        if (c == ']')
            return close_(j);
        return value(j, c);
    case S_FIRST_KEY:
        if (c == '}')
            return close_(j);
        /* fall through */
    case S_KEY: {
        if (c != '"')
            return fail(j, MP_EFORMAT, j->at, "a member's name in quotes expected");
        enum mp_json_tok tok = string(j, MP_JSON_KEY);
        if (tok == MP_JSON_ERROR)
            return tok;
        if (peek(j) != ':')
            return fail(j, MP_EFORMAT, j->at, "':' expected");
        j->at++;
        j->state = S_VALUE;
        return tok;
    }
    default: return value(j, c);
    }
}

int mp_json_skip(struct mp_json *j, enum mp_json_tok tok)
{
    if (tok == MP_JSON_OBJECT || tok == MP_JSON_ARRAY) {
        size_t start = j->start;
        uint32_t outer = j->depth - 1;
        while (j->depth > outer)
            if (mp_json_next(j) == MP_JSON_ERROR)
                break;
        j->start = start;
    }
    return j->state == S_FAILED ? j->err.code : 0;
}

int mp_json_check(const char *in, size_t n, uint32_t max_depth, uint32_t max_values, struct mp_err *err)
{
    struct mp_json j;
    enum mp_json_tok tok;
    mp_json_init(&j, in, n, max_depth, max_values);
    do
        tok = mp_json_next(&j);
    while (tok != MP_JSON_ERROR && tok != MP_JSON_END);
    int rc = tok == MP_JSON_END ? 0 : mp_err_set(err, j.err.code, "%s", j.err.message);
    mp_json_free(&j);
    return rc;
}

void mp_json_put_string(struct mp_buf *b, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    mp_buf_reserve(b, n + 2);
    mp_buf_putc(b, '"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') {
            char two[2] = {'\\', (char)c};
            mp_buf_put(b, two, 2);
            i++;
        } else if (c < 32 || c == 127) {
            static const char from[] = "\b\f\n\r\t", to[] = "bfnrt";
            const char *hit = memchr(from, c, sizeof from - 1);
            if (hit) {
                char two[2] = {'\\', to[hit - from]};
                mp_buf_put(b, two, 2);
            } else {
                char six[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
                mp_buf_put(b, six, 6);
            }
            i++;
        } else if (c < 128) {
            size_t run = i;
            while (i < n && (unsigned char)s[i] >= 32 && (unsigned char)s[i] < 127 && s[i] != '"' && s[i] != '\\')
                i++;
            mp_buf_put(b, s + run, i - run);
        } else {
            size_t len = mp_utf8_sequence(s + i, n - i);
            if (len)
                mp_buf_put(b, s + i, len);
            else
                mp_buf_put(b, MP_UTF8_REPLACEMENT, 3);
            i += len ? len : 1;
        }
    }
    mp_buf_putc(b, '"');
}

void mp_json_put_number(struct mp_buf *b, double v)
{
    char text[40];
    if (v == floor(v) && fabs(v) <= 9007199254740992.0) {
        mp_json_put_int(b, (int64_t)v);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    mp_buf_puts(b, text);
}

void mp_json_put_int(struct mp_buf *b, int64_t v)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)v);
    mp_buf_put(b, text, (size_t)n);
}
