/* core/vm/pattern.c — the matcher of Lua's patterns: an interpreter with its own stack. See pattern.h.
 *
 * A pattern has no alternatives, so which captures were begun and which are open depends on the place in the pattern
 * alone: going back restores two words, and a capture's text is overwritten when its place is passed again. */
#include "core/vm/pattern.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

enum { LONG_SET = 64 }; /* bytes of a set that count with its item; beyond it each member counts */
enum { ALPHA = 1, DIGIT = 2, LOWER = 4, UPPER = 8, SPACE = 16, CNTRL = 32, PUNCT = 64, HEX = 128 };

/* By character, whatever the process's locale; nothing above 127 belongs to a class. */
static const uint8_t kinds[256] = {
    [0 ... 8] = CNTRL,
    [9 ... 13] = CNTRL | SPACE,
    [14 ... 31] = CNTRL,
    [' '] = SPACE,
    ['!' ... '/'] = PUNCT,
    ['0' ... '9'] = DIGIT | HEX,
    [':' ... '@'] = PUNCT,
    ['A' ... 'F'] = ALPHA | UPPER | HEX,
    ['G' ... 'Z'] = ALPHA | UPPER,
    ['[' ... '`'] = PUNCT,
    ['a' ... 'f'] = ALPHA | LOWER | HEX,
    ['g' ... 'z'] = ALPHA | LOWER,
    ['{' ... '~'] = PUNCT,
    [127] = CNTRL,
};

/* By the class's letter less 'a'. */
static const uint8_t classes[26] = {
    ['a' - 'a'] = ALPHA, ['c' - 'a'] = CNTRL,         ['d' - 'a'] = DIGIT, ['g' - 'a'] = ALPHA | DIGIT | PUNCT,
    ['l' - 'a'] = LOWER, ['p' - 'a'] = PUNCT,         ['s' - 'a'] = SPACE, ['u' - 'a'] = UPPER,
    ['x' - 'a'] = HEX,   ['w' - 'a'] = ALPHA | DIGIT,
};

enum choice { SHORTER, LONGER, WITHOUT };

struct point { /* where to go on when what follows has failed */
    enum choice choice;
    uint32_t n_captures, open, depth;
    const char *item, *item_end; /* LONGER: what is repeated */
    const char *at;              /* SHORTER, LONGER: where the repetition ended; WITHOUT: where to go on */
    const char *least;           /* SHORTER: the first place it may end */
    const char *rest;            /* the pattern behind the repetition */
};

struct run {
    struct vm_pattern *m;
    const char *at, *p; /* in the text; in the pattern */
    uint32_t depth, n_points;
    struct point points[VM_PATTERN_DEPTH]; /* each has taken one of depth */
};

void vm_pattern_init(struct vm_pattern *m, lua_State *L, const char *text, size_t n, const char *pattern,
                     size_t pattern_n)
{
    m->L = L;
    m->text = text;
    m->text_end = text + n;
    m->pattern = pattern;
    m->pattern_end = pattern + pattern_n;
    m->work = m->open = m->n_captures = 0;
}

void vm_pattern_work(struct vm_pattern *m, uint32_t units)
{
    m->work += units;
    if (m->work >= VM_PATTERN_POLL) {
        m->work = 0;
        mp_vm_poll(m->L);
    }
}

/* ---- one character ---- */

static bool in_class(unsigned char c, char class)
{
    bool negated = class >= 'A' && class <= 'Z';
    char letter = negated ? (char)(class - 'A' + 'a') : class;
    if (letter == 'z')
        return (c == 0) != negated;
    if (letter < 'a' || letter > 'z' || !classes[letter - 'a'])
        return c == (unsigned char)class;
    return ((kinds[c] & classes[letter - 'a']) != 0) != negated;
}

/* set: behind its '['; last: at its ']'. */
static bool in_set(struct vm_pattern *m, unsigned char c, const char *set, const char *last)
{
    bool negated = *set == '^', is_long = last - set > LONG_SET;
    set += negated;
    while (set < last) {
        if (is_long)
            vm_pattern_work(m, 1);
        if (*set == '%') { /* as the end of a range it may stand before the ']', and then means that */
            if (in_class(c, set[1]))
                return !negated;
            set += 2;
        } else if (set[1] == '-' && last - set > 2) {
            if ((unsigned char)set[0] <= c && c <= (unsigned char)set[2])
                return !negated;
            set += 3;
        } else if ((unsigned char)*set++ == c) {
            return !negated;
        }
    }
    return negated;
}

/* Behind the item at p, which stands for one character. */
static const char *item_end(struct vm_pattern *m, const char *p)
{
    const char *q = p + 1, *end = m->pattern_end, *first;
    if (*p == '%') {
        if (q == end)
            luaL_error(m->L, "malformed pattern (ends with '%%')");
        return q + 1;
    }
    if (*p != '[')
        return q;
    q += q < end && *q == '^';
    for (first = q; q < end && (*q != ']' || q == first);) { /* the first ']' is a member */
        if (q - first > LONG_SET)
            vm_pattern_work(m, 1);
        q += *q == '%' && q + 1 < end ? 2 : 1;
    }
    if (q == end)
        luaL_error(m->L, "malformed pattern (missing ']')");
    return q + 1;
}

/* Whether the character at `at` is one that the item stands for. */
static inline bool fits(struct vm_pattern *m, const char *at, const char *item, const char *end)
{
    if (at == m->text_end)
        return false;
    switch (*item) {
    case '.': return true;
    case '%': return in_class((unsigned char)*at, item[1]);
    case '[': return in_set(m, (unsigned char)*at, item + 1, end - 1);
    default: return *at == *item;
    }
}

/* ---- steps of a match: each goes on in run, or is false when it fails there ---- */

static void deepen(struct run *r)
{
    if (++r->depth > VM_PATTERN_DEPTH)
        luaL_error(r->m->L, "pattern too complex");
}

static struct point *push(struct run *r, enum choice choice, const char *at, const char *rest)
{
    struct point *point = &r->points[r->n_points++]; /* n_points < depth <= VM_PATTERN_DEPTH */
    point->choice = choice;
    point->n_captures = r->m->n_captures;
    point->open = r->m->open;
    point->depth = r->depth;
    point->at = at;
    point->rest = rest;
    return point;
}

/* To the last place where something else can be tried; false when there is none. */
static bool go_back(struct run *r)
{
    struct vm_pattern *m = r->m;
    while (r->n_points) {
        struct point *point = &r->points[r->n_points - 1];
        bool last = true;
        vm_pattern_work(m, 1);
        r->depth = point->depth;
        m->n_captures = point->n_captures;
        m->open = point->open;
        r->p = point->rest;
        switch (point->choice) {
        case WITHOUT: r->at = point->at; break;
        case SHORTER:
            r->depth++;
            r->at = --point->at;
            last = point->at == point->least;
            break;
        case LONGER:
            if (!fits(m, point->at, point->item, point->item_end)) {
                r->n_points--;
                continue;
            }
            r->depth++;
            r->at = ++point->at;
            last = false;
            break;
        }
        r->n_points -= last;
        return true;
    }
    return false;
}

/* least to as many as there are */
static bool repeat(struct run *r, const char *item, const char *end, int least)
{
    struct vm_pattern *m = r->m;
    const char *at = r->at;
    if (*item == '.') {
        at = m->text_end;
    } else {
        while (fits(m, at, item, end)) {
            vm_pattern_work(m, 1);
            at++;
        }
    }
    if (at - r->at < least)
        return false;
    if (at - r->at > least)
        push(r, SHORTER, at, end + 1)->least = r->at + least;
    deepen(r);
    r->at = at;
    r->p = end + 1;
    return true;
}

static bool one_character(struct run *r)
{
    struct vm_pattern *m = r->m;
    const char *item = r->p, *end = item_end(m, item);
    struct point *point;
    switch (end < m->pattern_end ? *end : 0) {
    case '*': return repeat(r, item, end, 0);
    case '+': return repeat(r, item, end, 1);
    case '-':
        point = push(r, LONGER, r->at, end + 1);
        point->item = item;
        point->item_end = end;
        deepen(r);
        r->p = end + 1;
        return true;
    case '?':
        r->p = end + 1;
        if (fits(m, r->at, item, end)) {
            push(r, WITHOUT, r->at, r->p);
            deepen(r);
            r->at++;
        }
        return true;
    default:
        if (!fits(m, r->at, item, end))
            return false;
        r->at++;
        r->p = end;
        return true;
    }
}

static bool begin_capture(struct run *r)
{
    struct vm_pattern *m = r->m;
    bool position = r->p + 1 < m->pattern_end && r->p[1] == ')';
    if (m->n_captures == VM_PATTERN_CAPTURES)
        luaL_error(m->L, "too many captures");
    m->capture[m->n_captures].start = r->at;
    m->capture[m->n_captures].end = NULL;
    if (!position)
        m->open |= UINT32_C(1) << m->n_captures;
    m->n_captures++;
    deepen(r);
    r->p += position ? 2 : 1;
    return true;
}

static bool end_capture(struct run *r)
{
    struct vm_pattern *m = r->m;
    int innermost;
    if (!m->open)
        luaL_error(m->L, "invalid pattern capture");
    innermost = 31 - __builtin_clz(m->open);
    m->capture[innermost].end = r->at;
    m->open &= ~(UINT32_C(1) << innermost);
    deepen(r);
    r->p++;
    return true;
}

/* %1 */
static bool same_again(struct run *r)
{
    struct vm_pattern *m = r->m;
    uint32_t i = (uint32_t)(r->p[1] - '1'); /* %0 is out of range, too */
    size_t n;
    if (i >= m->n_captures || m->open >> i & 1)
        luaL_error(m->L, "invalid capture index");
    if (!m->capture[i].end)
        return false;
    n = (size_t)(m->capture[i].end - m->capture[i].start);
    if ((size_t)(m->text_end - r->at) < n)
        return false;
    vm_pattern_work(m, (uint32_t)(n / 64));
    if (memcmp(m->capture[i].start, r->at, n) != 0)
        return false;
    r->at += n;
    r->p += 2;
    return true;
}

/* %bxy */
static bool balanced(struct run *r)
{
    struct vm_pattern *m = r->m;
    const char *at = r->at, *pair = r->p + 2;
    size_t open = 0;
    if (m->pattern_end - pair < 2)
        luaL_error(m->L, "unbalanced pattern");
    if (at == m->text_end || *at != pair[0])
        return false;
    do {
        vm_pattern_work(m, 1);
        if (open && *at == pair[1]) /* first, for %bxx */
            open--;
        else if (*at == pair[0])
            open++;
        at++;
    } while (open && at < m->text_end);
    if (open)
        return false;
    r->at = at;
    r->p = pair + 2;
    return true;
}

/* %f[set] */
static bool frontier(struct run *r)
{
    struct vm_pattern *m = r->m;
    const char *set = r->p + 2, *end;
    unsigned char before = r->at > m->text ? (unsigned char)r->at[-1] : 0;
    unsigned char here = r->at < m->text_end ? (unsigned char)*r->at : 0;
    if (set >= m->pattern_end || *set != '[')
        luaL_error(m->L, "missing '[' after '%%f' in pattern");
    end = item_end(m, set);
    if (in_set(m, before, set + 1, end - 1) || !in_set(m, here, set + 1, end - 1))
        return false;
    r->p = end;
    return true;
}

static bool step(struct run *r)
{
    struct vm_pattern *m = r->m;
    const char *p = r->p;
    vm_pattern_work(m, 1);
    switch (*p) {
    case '(': return begin_capture(r);
    case ')': return end_capture(r);
    case '$':
        if (p + 1 < m->pattern_end)
            return one_character(r);
        r->p++;
        return r->at == m->text_end;
    case '%':
        if (p + 1 < m->pattern_end) {
            if (p[1] == 'b')
                return balanced(r);
            if (p[1] == 'f')
                return frontier(r);
            if (p[1] >= '0' && p[1] <= '9')
                return same_again(r);
        }
        return one_character(r);
    default: return one_character(r);
    }
}

const char *vm_pattern_match(struct vm_pattern *m, const char *at)
{
    struct run r; /* points are written before they are read */
    r.m = m;
    r.at = at;
    r.p = m->pattern;
    r.depth = 1;
    r.n_points = 0;
    m->n_captures = m->open = 0;
    while (r.p < m->pattern_end)
        if (!step(&r) && !go_back(&r))
            return NULL;
    return r.at;
}
