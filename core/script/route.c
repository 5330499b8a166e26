/* core/script/route.c — see route.h. A node is a segment; literal children are tried before the parameter, with a way
 * back, so "/a/{x}" and "/a/b/c" do not hide each other. */
#include "core/script/route.h"

#include "core/base/mem.h"

#include <ctype.h>
#include <string.h>

static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
enum { N_METHODS = MP_COUNT(methods), GET = 0, HEAD = 1, MAX_SEGMENTS = 32 };

struct node {
    char *segment; /* literal, decoded; NULL for the parameter's node and the root */
    struct node **children;
    uint32_t n_children;
    struct node *param;
    const struct mp_conf_endpoint *endpoints[N_METHODS];
    char *allow; /* made at the end; NULL where no endpoint ends */
};

struct mp_routes {
    struct node root;
};

static int method_of(const char *s, size_t n)
{
    for (int i = 0; i < N_METHODS; i++)
        if (strlen(methods[i]) == n && memcmp(methods[i], s, n) == 0)
            return i;
    return -1;
}

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10 : -1;
}

long mp_route_decode(const char *s, size_t n, char *out)
{
    long len = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            if (n - i < 3 || hex(s[i + 1]) < 0 || hex(s[i + 2]) < 0)
                return -1;
            c = (char)(hex(s[i + 1]) * 16 + hex(s[i + 2]));
            if (!c)
                return -1;
            i += 2;
        }
        out[len++] = c;
    }
    out[len] = 0;
    return len;
}

/* ---- routes as written ---- */

static bool param_name(const char *s, size_t n)
{
    if (n == 0 || n > 64 || isdigit((unsigned char)s[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '_')
            return false;
    return true;
}

static int check_segment(const char *s, size_t n, struct mp_err *err)
{
    if (n && s[0] == '{') {
        if (s[n - 1] != '}' || !param_name(s + 1, n - 2))
            return mp_err_set(err, MP_EINVAL, "'route' has the bad parameter \"%.*s\": write {name}", (int)n, s);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (strchr("{}?#%\\ ", s[i]) || (unsigned char)s[i] < 0x21 || s[i] == 0x7f)
            return mp_err_set(err, MP_EINVAL, "'route' has a '%c' in \"%.*s\"", s[i], (int)n, s);
    return 0;
}

int mp_route_parse(const char *route, struct mp_arena *a, const char **method, const char **pattern, struct mp_err *err)
{
    const char *space = strchr(route, ' '), *seen[MP_ROUTE_PARAMS];
    size_t seen_n[MP_ROUTE_PARAMS];
    int n_params = 0, n_segments = 0;
    if (!space || space[1] != '/')
        return mp_err_set(err, MP_EINVAL, "'route' must be a method and a path, like \"POST /haiku\", not \"%.100s\"",
                          route);
    int m = method_of(route, (size_t)(space - route));
    if (m < 0)
        return mp_err_set(
            err, MP_EINVAL,
            "'route' has the unknown method \"%.*s\": it is one of GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH",
            (int)(space - route), route);
    const char *path = space + 1;
    for (const char *p = path; *p; n_segments++) {
        const char *s = ++p;
        while (*p && *p != '/')
            p++;
        size_t n = (size_t)(p - s);
        int rc = check_segment(s, n, err);
        if (rc < 0)
            return rc;
        if (n == 0 || s[0] != '{')
            continue;
        for (int i = 0; i < n_params; i++)
            if (seen_n[i] == n && memcmp(seen[i], s, n) == 0)
                return mp_err_set(err, MP_EINVAL, "'route' has the parameter %.*s twice", (int)n, s);
        if (n_params == MP_ROUTE_PARAMS)
            return mp_err_set(err, MP_EINVAL, "'route' has more than %d parameters", MP_ROUTE_PARAMS);
        seen[n_params] = s;
        seen_n[n_params++] = n;
    }
    if (n_segments > MAX_SEGMENTS)
        return mp_err_set(err, MP_EINVAL, "'route' has more than %d segments", MAX_SEGMENTS);
    *method = methods[m];
    *pattern = mp_arena_strndup(a, path, strlen(path));
    return 0;
}

bool mp_route_same(const char *a, const char *b)
{
    for (;;) {
        if (*a == '{' && *b == '{') {
            a = strchr(a, '}') + 1;
            b = strchr(b, '}') + 1;
        } else if (*a != *b) {
            return false;
        } else if (!*a) {
            return true;
        } else {
            a++;
            b++;
        }
    }
}

/* ---- the table ---- */

static struct node *literal(struct node *parent, const char *s, size_t n)
{
    for (uint32_t i = 0; i < parent->n_children; i++)
        if (strlen(parent->children[i]->segment) == n && memcmp(parent->children[i]->segment, s, n) == 0)
            return parent->children[i];
    struct node *child = mp_calloc(sizeof *child);
    child->segment = mp_strndup(s, n);
    parent->children = mp_realloc(parent->children, (parent->n_children + 1) * sizeof *parent->children);
    parent->children[parent->n_children++] = child;
    return child;
}

static void insert(struct node *at, const struct mp_conf_endpoint *ep)
{
    for (const char *p = ep->pattern; *p;) {
        const char *s = ++p;
        while (*p && *p != '/')
            p++;
        if (*s == '{') {
            if (!at->param)
                at->param = mp_calloc(sizeof *at->param);
            at = at->param;
        } else {
            at = literal(at, s, (size_t)(p - s));
        }
    }
    at->endpoints[method_of(ep->method, strlen(ep->method))] = ep;
}

static void finish(struct node *n)
{
    struct mp_buf allow = {0};
    for (int i = 0; i < N_METHODS; i++)
        if (n->endpoints[i] || (i == HEAD && n->endpoints[GET]))
            mp_buf_printf(&allow, "%s%s", allow.len ? ", " : "", methods[i]);
    if (allow.len)
        n->allow = mp_buf_take(&allow, NULL);
    mp_buf_free(&allow);
    for (uint32_t i = 0; i < n->n_children; i++)
        finish(n->children[i]);
    if (n->param)
        finish(n->param);
}

static void clear(struct node *n)
{
    for (uint32_t i = 0; i < n->n_children; i++) {
        clear(n->children[i]);
        mp_free(n->children[i]);
    }
    if (n->param) {
        clear(n->param);
        mp_free(n->param);
    }
    mp_free(n->children);
    mp_free(n->segment);
    mp_free(n->allow);
}

struct mp_routes *mp_routes_new(const struct mp_config *c)
{
    struct mp_routes *r = mp_calloc(sizeof *r);
    for (uint32_t i = 0; i < c->n_endpoints; i++)
        insert(&r->root, &c->endpoints[i]);
    finish(&r->root);
    return r;
}

void mp_routes_free(struct mp_routes *r)
{
    if (!r)
        return;
    clear(&r->root);
    mp_free(r);
}

struct search {
    int method;
    const struct node *found, *other; /* other: the path is there, with other methods */
    struct segment {
        const char *raw;
        size_t n;
        const char *text; /* decoded */
    } segments[MAX_SEGMENTS];
    uint32_t n_segments;
    uint32_t params[MP_ROUTE_PARAMS], n_params, found_params[MP_ROUTE_PARAMS];
};

static const struct mp_conf_endpoint *serves(const struct node *n, int method)
{
    if (method < 0)
        return NULL;
    return n->endpoints[method] ? n->endpoints[method] : method == HEAD ? n->endpoints[GET] : NULL;
}

static void walk(struct search *s, const struct node *at, uint32_t i)
{
    if (s->found)
        return;
    if (i == s->n_segments) {
        if (serves(at, s->method)) {
            s->found = at;
            memcpy(s->found_params, s->params, sizeof s->params);
        } else if (at->allow && !s->other) {
            s->other = at;
        }
        return;
    }
    for (uint32_t k = 0; k < at->n_children; k++)
        if (strcmp(at->children[k]->segment, s->segments[i].text) == 0)
            walk(s, at->children[k], i + 1);
    if (at->param && s->segments[i].n && s->n_params < MP_ROUTE_PARAMS) {
        s->params[s->n_params++] = i;
        walk(s, at->param, i + 1);
        s->n_params--;
    }
}

enum mp_route_result mp_routes_find(const struct mp_routes *r, const char *method, const char *path,
                                    struct mp_route_match *match)
{
    struct search s = {.method = method_of(method, strlen(method))};
    char decoded[1024];
    size_t used = 0;
    memset(match, 0, sizeof *match);
    if (path[0] != '/')
        return MP_ROUTE_UNKNOWN_PATH;
    for (const char *p = path; *p;) {
        const char *start = ++p;
        while (*p && *p != '/')
            p++;
        size_t n = (size_t)(p - start);
        /* Longer than any literal can be: then only a parameter matches, and its text is not needed here. */
        bool fits = n < sizeof decoded - used;
        char scratch[8192 + 1];
        char *text = fits ? decoded + used : scratch;
        if (s.n_segments == MAX_SEGMENTS || n >= sizeof scratch)
            return MP_ROUTE_UNKNOWN_PATH;
        long len = mp_route_decode(start, n, text);
        if (len < 0)
            return MP_ROUTE_BAD_PATH;
        if (fits)
            used += (size_t)len + 1;
        s.segments[s.n_segments++] = (struct segment){start, n, fits ? text : "\x7f"};
    }
    walk(&s, &r->root, 0);
    if (!s.found) {
        match->allow = s.other ? s.other->allow : NULL;
        return s.other ? MP_ROUTE_UNKNOWN_METHOD : MP_ROUTE_UNKNOWN_PATH;
    }
    const struct mp_conf_endpoint *ep = serves(s.found, s.method);
    match->endpoint = ep;
    for (const char *p = ep->pattern; (p = strchr(p, '{')); p++) {
        const struct segment *seg = &s.segments[s.found_params[match->n_params]];
        struct mp_route_param *out = &match->params[match->n_params++];
        out->value = seg->raw;
        out->n = seg->n;
        out->name = p + 1;
        out->name_n = strcspn(p + 1, "}");
    }
    return MP_ROUTE_FOUND;
}
