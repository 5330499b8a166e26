/* core/gateway/changes.c — see changes.h. Compares what two configurations declare as data (struct mp_config's json), so that a new kind of
 * declaration or a new key needs nothing here. Functions have no data: that one was edited shows in the list of files. */
#include "core/gateway/changes.h"

#include "core/base/arena.h"
#include "core/base/json.h"
#include "core/base/mem.h"

#include <string.h>

enum { SHOWN = 60 }; /* bytes of a value that are shown */

struct leaf {
    const char *path, *text; /* "queue.max", "64" */
    struct leaf *next;
};

struct item {
    const char *kind, *id; /* "models", "smol"; id "" where there is one of the kind only */
    struct leaf *leaves, **last;
    struct item *next;
};

struct reading {
    struct mp_json j;
    struct mp_arena *arena;
    struct item *items, **last;
};

static bool is_text(const struct mp_json *j, const char *s)
{
    return j->len == strlen(s) && memcmp(j->text, s, j->len) == 0;
}

/* A value, without what tells only where something stands: "where", and a function's line. */
static void put_value(struct mp_json *j, enum mp_json_tok tok, struct mp_buf *b);

/* {"name": "x", "options": {}} is just x. */
static void put_object(struct mp_json *j, struct mp_buf *out)
{
    struct mp_buf name = {0}, rest = {0};
    while (mp_json_next(j) == MP_JSON_KEY) {
        bool where = is_text(j, "where"), function = is_text(j, "function"), is_name = is_text(j, "name");
        size_t before = rest.len, value;
        mp_buf_printf(&rest, "%s%.*s ", before ? ", " : "", (int)j->len, j->text);
        value = rest.len;
        enum mp_json_tok tok = mp_json_next(j);
        if (tok == MP_JSON_STRING && (where || function)) {
            rest.len = where ? before : value;
        } else if (tok == MP_JSON_STRING && is_name) {
            rest.len = before;
            mp_buf_put(&name, j->text, j->len);
        } else {
            put_value(j, tok, &rest);
            if (rest.len == value + 2 && memcmp(rest.data + value, "{}", 2) == 0)
                rest.len = before;
        }
    }
    if (name.len && !rest.len)
        mp_buf_put(out, name.data, name.len);
    else
        mp_buf_printf(out, "%.*s{%.*s}", (int)name.len, name.data ? name.data : "", (int)rest.len,
                      rest.data ? rest.data : "");
    mp_buf_free(&name);
    mp_buf_free(&rest);
}

static void put_value(struct mp_json *j, enum mp_json_tok tok, struct mp_buf *b)
{
    bool first = true;
    switch (tok) {
    case MP_JSON_STRING: mp_json_put_string(b, j->text, j->len); break;
    case MP_JSON_NUMBER: mp_buf_put(b, j->text, j->len); break;
    case MP_JSON_TRUE: mp_buf_puts(b, "true"); break;
    case MP_JSON_FALSE: mp_buf_puts(b, "false"); break;
    case MP_JSON_ARRAY:
        mp_buf_putc(b, '[');
        while ((tok = mp_json_next(j)) != MP_JSON_ARRAY_END && tok != MP_JSON_ERROR) {
            mp_buf_puts(b, first ? "" : ", ");
            put_value(j, tok, b);
            first = false;
        }
        mp_buf_putc(b, ']');
        break;
    case MP_JSON_OBJECT: put_object(j, b); break;
    default: mp_buf_puts(b, "null");
    }
}

static void add_leaf(struct reading *r, struct item *it, const char *path, enum mp_json_tok tok)
{
    struct leaf *l = mp_arena_zalloc(r->arena, sizeof *l);
    struct mp_buf b = {0};
    bool plain = tok == MP_JSON_STRING && r->j.len > 0 && !memchr(r->j.text, ' ', r->j.len);
    put_value(&r->j, tok, &b);
    l->path = path;
    l->text = plain ? mp_arena_strndup(r->arena, b.data + 1, b.len - 2) : mp_arena_strndup(r->arena, b.data, b.len);
    *it->last = l;
    it->last = &l->next;
    mp_buf_free(&b);
}

/* The members of an object whose beginning was read. */
static void read_members(struct reading *r, struct item *it, const char *prefix)
{
    while (mp_json_next(&r->j) == MP_JSON_KEY) {
        struct mp_buf path = {0};
        const char *key;
        mp_buf_printf(&path, "%s%.*s", prefix, (int)r->j.len, r->j.text);
        key = mp_arena_strndup(r->arena, path.data, path.len);
        mp_buf_free(&path);
        enum mp_json_tok tok = mp_json_next(&r->j);
        bool name = strcmp(key, "name") == 0 || strcmp(key, "route") == 0;
        if (name && tok == MP_JSON_STRING) {
            it->id = mp_arena_strndup(r->arena, r->j.text, r->j.len);
        } else if (strcmp(key, "where") == 0) {
            mp_json_skip(&r->j, tok);
        } else if (tok == MP_JSON_OBJECT && prefix[0] == '\0') {
            char *inner = mp_asprintf("%s.", key);
            read_members(r, it, inner);
            mp_free(inner);
        } else if (tok == MP_JSON_STRING && strlen(key) > 9 && strcmp(key + strlen(key) - 9, ".function") == 0) {
            mp_json_skip(&r->j, tok);
        } else {
            add_leaf(r, it, key, tok);
        }
    }
}

static void read_item(struct reading *r, const char *kind)
{
    struct item *it = mp_arena_zalloc(r->arena, sizeof *it);
    it->kind = kind;
    it->id = "";
    it->last = &it->leaves;
    read_members(r, it, "");
    *r->last = it;
    r->last = &it->next;
}

static struct item *read_config(struct mp_arena *arena, const struct mp_config *c)
{
    struct reading r = {.arena = arena};
    r.last = &r.items;
    mp_json_init(&r.j, c->json, strlen(c->json), 0, UINT32_MAX);
    if (mp_json_next(&r.j) != MP_JSON_OBJECT)
        goto out;
    while (mp_json_next(&r.j) == MP_JSON_KEY) {
        const char *kind = mp_arena_strndup(arena, r.j.text, r.j.len);
        enum mp_json_tok tok = mp_json_next(&r.j);
        if (tok == MP_JSON_OBJECT) {
            read_item(&r, kind);
            continue;
        }
        if (tok != MP_JSON_ARRAY)
            mp_json_skip(&r.j, tok);
        else
            while (mp_json_next(&r.j) == MP_JSON_OBJECT)
                read_item(&r, kind);
    }
out:
    mp_json_free(&r.j);
    return r.items;
}

static const struct item *find(const struct item *list, const struct item *like)
{
    for (; list; list = list->next)
        if (strcmp(list->kind, like->kind) == 0 && strcmp(list->id, like->id) == 0)
            return list;
    return NULL;
}

static const struct leaf *find_leaf(const struct leaf *list, const char *path)
{
    for (; list; list = list->next)
        if (strcmp(list->path, path) == 0)
            return list;
    return NULL;
}

static const char *separator(bool *any)
{
    const char *s = *any ? ", " : "";
    *any = true;
    return s;
}

/* "max_concurrency 16 -> 8, + preload true"; false: nothing differs. */
static bool put_leaves(struct mp_buf *out, const struct item *from, const struct item *to)
{
    bool any = false;
    for (const struct leaf *l = to->leaves; l; l = l->next) {
        const struct leaf *was = find_leaf(from->leaves, l->path);
        if (was && strcmp(was->text, l->text) == 0)
            continue;
        mp_buf_puts(out, separator(&any));
        if (strlen(l->text) > SHOWN || (was && strlen(was->text) > SHOWN))
            mp_buf_printf(out, "%s%s", was ? "" : "+ ", l->path);
        else if (was)
            mp_buf_printf(out, "%s %s -> %s", l->path, was->text, l->text);
        else
            mp_buf_printf(out, "+ %s %s", l->path, l->text);
    }
    for (const struct leaf *l = from->leaves; l; l = l->next)
        if (!find_leaf(to->leaves, l->path))
            mp_buf_printf(out, "%s- %s", separator(&any), l->path);
    return any;
}

static void put_kind(struct mp_buf *out, const char *kind, const struct item *from, const struct item *to)
{
    struct mp_buf line = {0}, leaves = {0};
    bool any = false;
    for (const struct item *i = to; i; i = i->next) {
        const struct item *was = find(from, i);
        if (strcmp(i->kind, kind) != 0)
            continue;
        mp_buf_clear(&leaves);
        if (!was)
            mp_buf_printf(&line, "%s+ %s", separator(&any), i->id);
        else if (put_leaves(&leaves, was, i) && i->id[0])
            mp_buf_printf(&line, "%s~ %s (%s)", separator(&any), i->id, mp_buf_cstr(&leaves));
        else if (leaves.len)
            mp_buf_printf(&line, "%s%s", separator(&any), mp_buf_cstr(&leaves));
    }
    for (const struct item *i = from; i; i = i->next)
        if (strcmp(i->kind, kind) == 0 && !find(to, i))
            mp_buf_printf(&line, "%s- %s", separator(&any), i->id);
    if (any)
        mp_buf_printf(out, "%s: %s\n", kind, mp_buf_cstr(&line));
    mp_buf_free(&line);
    mp_buf_free(&leaves);
}

static bool kind_seen(const struct item *list, const struct item *before)
{
    for (; list && list != before; list = list->next)
        if (strcmp(list->kind, before->kind) == 0)
            return true;
    return false;
}

static bool kind_in(const struct item *list, const char *kind)
{
    for (; list; list = list->next)
        if (strcmp(list->kind, kind) == 0)
            return true;
    return false;
}

static void put_files(struct mp_buf *out, const struct mp_sources *from, const struct mp_sources *to)
{
    struct mp_buf line = {0};
    const struct mp_source *f;
    bool any = false;
    for (size_t i = 0; (f = mp_sources_at(to, i)) != NULL; i++) {
        const struct mp_source *was = mp_sources_by_name(from, f->name);
        if (f->data && !was)
            mp_buf_printf(&line, "%s+ %s", separator(&any), f->name);
        else if (f->data && memcmp(f->hash, was->hash, sizeof f->hash) != 0)
            mp_buf_printf(&line, "%s~ %s", separator(&any), f->name);
    }
    for (size_t i = 0; (f = mp_sources_at(from, i)) != NULL; i++)
        if (f->data && !mp_sources_by_name(to, f->name))
            mp_buf_printf(&line, "%s- %s", separator(&any), f->name);
    if (any)
        mp_buf_printf(out, "files: %s\n", mp_buf_cstr(&line));
    mp_buf_free(&line);
}

void mp_changes_print(const struct mp_generation *from, const struct mp_generation *to, struct mp_buf *out)
{
    struct mp_arena *arena = mp_arena_new();
    const struct item *was = read_config(arena, mp_generation_config(from)),
                      *now = read_config(arena, mp_generation_config(to));
    struct mp_buf replaced = {0};
    for (const struct item *i = now; i; i = i->next)
        if (!kind_seen(now, i))
            put_kind(out, i->kind, was, now);
    for (const struct item *i = was; i; i = i->next) /* kinds of which none is left */
        if (!kind_seen(was, i) && !kind_in(now, i->kind))
            put_kind(out, i->kind, was, now);
    put_files(out, mp_generation_sources(from), mp_generation_sources(to));
    if (!mp_generation_same_files(from, to, &replaced))
        mp_buf_printf(out, "weights: ~ %s (the file was replaced: requests wait while it is loaded anew)\n",
                      mp_buf_cstr(&replaced));
    mp_buf_free(&replaced);
    mp_arena_free(arena);
}
