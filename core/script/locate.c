/* core/script/locate.c — see locate.h. */
#include "core/script/locate.h"

#include <ctype.h>
#include <string.h>

enum kind { END, NAME, STRING, NUMBER, PUNCT };

struct token {
    enum kind kind;
    const char *s; /* a STRING's is its inside when it is written without escapes, and n 0 otherwise */
    size_t n;
    const char *start; /* whole token */
    size_t whole;
    uint32_t line;
    const char *line_start;
};

struct lexer {
    const char *at, *end, *line_start;
    uint32_t line;
    struct token tok; /* the current one */
};

static void newline(struct lexer *l)
{
    l->line++;
    l->line_start = l->at;
}

/* At '[': the number of '=' when it opens a long bracket, else -1. */
static int long_level(const struct lexer *l, const char *p)
{
    int level = 0;
    for (p++; p < l->end && *p == '='; p++)
        level++;
    return p < l->end && *p == '[' ? level : -1;
}

static void skip_long(struct lexer *l, int level)
{
    l->at += level + 2;
    while (l->at < l->end) {
        char c = *l->at++;
        if (c == '\n') {
            newline(l);
        } else if (c == ']') {
            const char *p = l->at;
            int n = 0;
            while (p < l->end && *p == '=' && n < level) {
                p++;
                n++;
            }
            if (n == level && p < l->end && *p == ']') {
                l->at = p + 1;
                return;
            }
        }
    }
}

static void skip_space(struct lexer *l)
{
    while (l->at < l->end) {
        if (*l->at == '\n') {
            l->at++;
            newline(l);
        } else if (isspace((unsigned char)*l->at)) {
            l->at++;
        } else if (l->end - l->at >= 2 && l->at[0] == '-' && l->at[1] == '-') {
            l->at += 2;
            int level = l->at < l->end && *l->at == '[' ? long_level(l, l->at) : -1;
            if (level >= 0)
                skip_long(l, level);
            else
                while (l->at < l->end && *l->at != '\n')
                    l->at++;
        } else {
            return;
        }
    }
}

static bool name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static void next(struct lexer *l)
{
    struct token *t = &l->tok;
    skip_space(l);
    *t = (struct token){.s = l->at, .start = l->at, .line = l->line, .line_start = l->line_start};
    if (l->at >= l->end)
        return;
    char c = *l->at;
    if (c == '"' || c == '\'') {
        bool plain = true;
        t->kind = STRING;
        for (l->at++; l->at < l->end && *l->at != c && *l->at != '\n'; l->at++)
            if (*l->at == '\\') {
                plain = false;
                if (l->at + 1 < l->end && *++l->at == '\n') {
                    l->line++;
                    l->line_start = l->at + 1;
                }
            }
        t->s++;
        t->n = plain ? (size_t)(l->at - t->s) : 0;
        l->at += l->at < l->end;
    } else if (c == '[' && long_level(l, l->at) >= 0) {
        int level = long_level(l, l->at);
        t->kind = STRING;
        skip_long(l, level);
        t->s += level + 2;
        t->n = (size_t)(l->at - t->s) - (size_t)level - 2;
    } else if (isdigit((unsigned char)c)) {
        t->kind = NUMBER;
        while (l->at < l->end &&
               (name_char(*l->at) || *l->at == '.' || ((*l->at == '-' || *l->at == '+') && strchr("eEpP", l->at[-1]))))
            l->at++;
    } else if (name_char(c)) {
        t->kind = NAME;
        while (l->at < l->end && name_char(*l->at))
            l->at++;
    } else {
        t->kind = PUNCT;
        l->at++;
    }
    t->whole = (size_t)(l->at - t->start);
    if (t->kind != STRING)
        t->n = t->whole;
}

static bool is(const struct token *t, enum kind kind, const char *s)
{
    return t->kind == kind && t->n == strlen(s) && memcmp(t->s, s, t->n) == 0;
}

static bool opens_block(const struct token *t)
{
    return is(t, NAME, "function") || is(t, NAME, "if") || is(t, NAME, "do") || is(t, NAME, "repeat");
}

/* From a value's first token to the separator or bracket behind it. */
static void skip_value(struct lexer *l)
{
    int depth = 0;
    while (l->tok.kind != END) {
        const struct token *t = &l->tok;
        if (depth == 0 && (is(t, PUNCT, ",") || is(t, PUNCT, ";") || is(t, PUNCT, "}")))
            return;
        if (is(t, PUNCT, "{") || is(t, PUNCT, "(") || is(t, PUNCT, "[") || opens_block(t))
            depth++;
        else if (is(t, PUNCT, "}") || is(t, PUNCT, ")") || is(t, PUNCT, "]") || is(t, NAME, "end") ||
                 is(t, NAME, "until"))
            depth--;
        next(l);
    }
}

static void place(struct mp_place *out, const struct token *t)
{
    *out = (struct mp_place){t->line, (uint32_t)(t->start - t->line_start) + 1, (uint32_t)t->whole};
}

/* l stands at '{'. */
static bool descend(struct lexer *l, const struct mp_step *steps, size_t n, struct mp_place *out)
{
    uint32_t index = 0;
    next(l);
    while (l->tok.kind != END && !is(&l->tok, PUNCT, "}")) {
        struct token key;
        bool keyed = true;
        if (is(&l->tok, PUNCT, "[")) { /* [expr] = value; only a plain string can be what is looked for */
            int depth = 0;
            next(l);
            key = l->tok;
            for (; l->tok.kind != END && !(depth == 0 && is(&l->tok, PUNCT, "]")); next(l))
                depth += is(&l->tok, PUNCT, "[") - is(&l->tok, PUNCT, "]");
            next(l); /* = */
            next(l);
            if (key.kind == NAME)
                key.kind = NUMBER; /* a variable's value is not known here */
        } else {
            struct lexer back = *l;
            key = l->tok;
            next(l);
            keyed = key.kind == NAME && is(&l->tok, PUNCT, "=") && !(l->at < l->end && *l->at == '=');
            if (keyed)
                next(l);
            else
                *l = back;
        }
        const char *want = steps[0].key;
        bool here =
            keyed ? want && (is(&key, NAME, want) || is(&key, STRING, want)) : !want && steps[0].index == index + 1;
        index += !keyed;
        if (here) {
            place(out, keyed ? &key : &l->tok);
            if (n > 1 && is(&l->tok, PUNCT, "{"))
                descend(l, steps + 1, n - 1, out);
            return true;
        }
        skip_value(l);
        if (!is(&l->tok, PUNCT, "}") && l->tok.kind != END)
            next(l);
    }
    return false;
}

bool mp_locate(const char *source, size_t n, uint32_t line, const char *kind, const char *name,
               const struct mp_step *steps, size_t n_steps, struct mp_place *out)
{
    struct lexer l = {.at = source, .end = source + n, .line_start = source, .line = 1};
    struct token before = {0};
    for (next(&l); l.tok.kind != END && l.tok.line <= line; next(&l)) {
        bool ours = name ? before.kind == STRING && is(&before, STRING, name) : is(&before, NAME, kind);
        if (is(&before, PUNCT, "("))
            ours = true; /* mp.server({…}) */
        if (l.tok.line == line && is(&l.tok, PUNCT, "{") && ours) {
            struct lexer inside = l;
            if (descend(&inside, steps, n_steps, out))
                return true;
        }
        before = l.tok;
    }
    return false;
}
