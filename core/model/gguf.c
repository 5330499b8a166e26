/* core/model/gguf.c — see gguf.h. Source of the format: the GGUF specification (ggml, docs/gguf.md), version 3. */
#include "core/model/gguf.h"

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "gpu/blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAGIC = 0x67677566,      /* of a live struct mp_gguf */
    FIRST_READ = 256 * 1024, /* bytes of header read at first; doubled as needed */
    MIN_KV = 8 + 1 + 4 + 1,  /* the smallest records: what bounds the counts */
    MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8,
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
};

struct index {      /* names to numbers: open addressing, at most half full */
    uint32_t *slot; /* number + 1; 0 free */
    uint32_t mask;
};

struct mp_gguf {
    uint32_t magic, version, alignment, n_kv, n_tensors;
    int fd;
    char *path;
    struct mp_gguf_identity id;
    unsigned char *head; /* the file's first head_len bytes */
    size_t head_len;
    uint64_t data_offset;
    struct mp_gguf_kv *kv;
    uint64_t *kv_at; /* offsets of their values */
    struct mp_gguf_tensor *tensor;
    struct index kv_index, tensor_index;
};

struct parse { /* a position in the header, and whose record it is in, for messages */
    struct mp_gguf *g;
    uint64_t at;
    const char *what; /* "key" or "tensor" */
    uint64_t number;
    const char *name; /* NULL until it was read and found printable */
    struct mp_err *err;
};

const char *mp_gguf_type_name(uint32_t type)
{
    static const char *const names[MP_GGUF_N_TYPES] = {
#define X(code, id, name, bytes) [id] = name,
        MP_GGUF_TYPES(X)
#undef X
    };
    return type < MP_GGUF_N_TYPES ? names[type] : "?";
}

static uint32_t type_bytes(uint32_t type)
{
    static const uint8_t sizes[MP_GGUF_N_TYPES] = {
#define X(code, id, name, bytes) [id] = bytes,
        MP_GGUF_TYPES(X)
#undef X
    };
    return type < MP_GGUF_N_TYPES ? sizes[type] : 0;
}

static bool is_integer(uint32_t type)
{
    return type <= MP_GGUF_I32 || type == MP_GGUF_U64 || type == MP_GGUF_I64;
}

/* ---- names ---- */

static int index_init(struct index *ix, uint32_t n, struct mp_err *err)
{
    uint32_t slots = 8;
    while (slots < 2 * n)
        slots *= 2;
    ix->mask = slots - 1;
    ix->slot = mp_try_calloc(slots, sizeof *ix->slot);
    return ix->slot ? 0 : mp_err_set(err, MP_ENOMEM, "no memory for its names");
}

/* The slot that holds name, or the free one where it belongs; nth gives the i-th name. */
static uint32_t *index_slot(const struct index *ix, const char *name,
                            const char *(*nth)(const struct mp_gguf *, uint32_t), const struct mp_gguf *g)
{
    uint32_t at = (uint32_t)mp_hash(name, strlen(name)) & ix->mask;
    while (ix->slot[at] && strcmp(nth(g, ix->slot[at] - 1), name) != 0)
        at = (at + 1) & ix->mask;
    return &ix->slot[at];
}

static const char *kv_name(const struct mp_gguf *g, uint32_t i)
{
    return g->kv[i].key;
}

static const char *tensor_name(const struct mp_gguf *g, uint32_t i)
{
    return g->tensor[i].name;
}

/* ---- reading the header ---- */

static int bad(struct parse *p, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int bad(struct parse *p, int code, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!p->what)
        return mp_err_set(p->err, code, "%s", text);
    if (p->name)
        return mp_err_set(p->err, code, "%s '%s': %s", p->what, p->name, text);
    return mp_err_set(p->err, code, "%s %llu: %s", p->what, (unsigned long long)p->number, text);
}

/* Makes the next n bytes resident and gives their place; the pointer is good until the next call. */
static int take(struct parse *p, uint64_t n, const unsigned char **out)
{
    struct mp_gguf *g = p->g;
    if (n > g->id.size - p->at)
        return bad(p, MP_EFORMAT, "needs %llu bytes at byte %llu, beyond the end of the file (%llu bytes)",
                   (unsigned long long)n, (unsigned long long)p->at, (unsigned long long)g->id.size);
    uint64_t end = p->at + n;
    if (end > MP_GGUF_MAX_HEADER)
        return bad(p, MP_ELIMIT, "the header is larger than %d MiB", MP_GGUF_MAX_HEADER >> 20);
    if (end > g->head_len) {
        uint64_t want = g->head_len < FIRST_READ ? FIRST_READ : 2 * (uint64_t)g->head_len;
        want = want < end ? end : want;
        want = want > g->id.size ? g->id.size : want;
        unsigned char *head = mp_try_realloc(g->head, want);
        if (!head)
            return bad(p, MP_ENOMEM, "no memory for a header of %llu bytes", (unsigned long long)want);
        g->head = head;
        while (g->head_len < want) {
            ssize_t got = pread(g->fd, head + g->head_len, want - g->head_len, (off_t)g->head_len);
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0) {
                mp_err_errno(p->err, MP_EIO, "cannot read it");
                return MP_EIO;
            }
            if (got == 0)
                return bad(p, MP_EIO, "the file shrank while it was read");
            g->head_len += (size_t)got;
        }
    }
    *out = g->head + p->at;
    p->at = end;
    return 0;
}

static int take_u32(struct parse *p, uint32_t *out)
{
    const unsigned char *b;
    int rc = take(p, 4, &b);
    if (rc == 0)
        memcpy(out, b, 4);
    return rc;
}

static int take_u64(struct parse *p, uint64_t *out)
{
    const unsigned char *b;
    int rc = take(p, 8, &b);
    if (rc == 0)
        memcpy(out, b, 8);
    return rc;
}

/* A key or tensor name: 1..max bytes that a message can show as they are. */
static int take_name(struct parse *p, uint64_t max, const char **out, uint64_t *n)
{
    const unsigned char *b;
    int rc = take_u64(p, n);
    if (rc < 0)
        return rc;
    if (*n == 0)
        return bad(p, MP_EFORMAT, "has an empty name");
    if (*n > max)
        return bad(p, MP_EFORMAT, "has a name of %llu bytes; %llu at most", (unsigned long long)*n,
                   (unsigned long long)max);
    rc = take(p, *n, &b);
    if (rc < 0)
        return rc;
    if (mp_utf8_valid_prefix((const char *)b, *n) != *n)
        return bad(p, MP_EFORMAT, "has a name that is not UTF-8");
    for (uint64_t i = 0; i < *n; i++)
        if (b[i] < 0x20 || b[i] == 0x7f)
            return bad(p, MP_EFORMAT, "has a control character in its name");
    *out = (const char *)b;
    return 0;
}

static int check_bools(struct parse *p, const unsigned char *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (b[i] > 1)
            return bad(p, MP_EFORMAT, "holds a bool that is %u", b[i]);
    return 0;
}

/* Passes over the n strings of an array. */
static int take_strings(struct parse *p, uint64_t n)
{
    if (n > (p->g->id.size - p->at) / 8)
        return bad(p, MP_EFORMAT, "is an array of %llu strings, more than the file can hold", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        const unsigned char *b;
        uint64_t len;
        int rc = take_u64(p, &len);
        if (rc == 0)
            rc = take(p, len, &b);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The value behind the type: sets kv->elem, count, bytes, and *at to the offset of its bytes. */
static int take_value(struct parse *p, struct mp_gguf_kv *kv, uint64_t *at)
{
    const unsigned char *b;
    int rc = 0;
    kv->elem = kv->type;
    kv->count = 1;
    if (kv->type == MP_GGUF_STR) {
        rc = take_u64(p, &kv->count);
    } else if (kv->type == MP_GGUF_ARR) {
        rc = take_u32(p, &kv->elem);
        if (rc == 0)
            rc = take_u64(p, &kv->count);
        if (rc == 0 && kv->elem == MP_GGUF_ARR)
            rc = bad(p, MP_EFORMAT, "is an array of arrays");
        if (rc == 0 && kv->elem >= MP_GGUF_N_TYPES)
            rc = bad(p, MP_EFORMAT, "is an array of the unknown type %u", kv->elem);
    }
    if (rc < 0)
        return rc;
    *at = p->at;
    if (kv->type == MP_GGUF_ARR && kv->elem == MP_GGUF_STR) {
        rc = take_strings(p, kv->count);
        kv->bytes = p->at - *at;
        return rc;
    }
    if (!mp_mul_u64(kv->count, kv->elem == MP_GGUF_STR ? 1 : type_bytes(kv->elem), &kv->bytes))
        return bad(p, MP_EFORMAT, "is an array of %llu elements, whose size overflows", (unsigned long long)kv->count);
    rc = take(p, kv->bytes, &b);
    return rc == 0 && kv->elem == MP_GGUF_BOOL ? check_bools(p, b, kv->bytes) : rc;
}

static int read_kvs(struct parse *p)
{
    struct mp_gguf *g = p->g;
    uint32_t n = g->n_kv;
    g->n_kv = 0; /* grows as they become valid */
    g->kv = mp_try_calloc(n, sizeof *g->kv);
    g->kv_at = mp_try_calloc(n, sizeof *g->kv_at);
    if (!g->kv || !g->kv_at)
        return mp_err_set(p->err, MP_ENOMEM, "no memory for %u keys", n);
    int rc = index_init(&g->kv_index, n, p->err);
    p->what = "key";
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        struct mp_gguf_kv *kv = &g->kv[i];
        const char *name;
        uint64_t len;
        p->number = i;
        p->name = NULL;
        rc = take_name(p, MP_GGUF_MAX_KEY, &name, &len);
        if (rc < 0)
            break;
        kv->key = p->name = mp_strndup(name, len);
        g->n_kv = i + 1; /* key is owned from here */
        uint32_t *slot = index_slot(&g->kv_index, kv->key, kv_name, g);
        if (*slot)
            rc = bad(p, MP_EFORMAT, "stands twice");
        *slot = i + 1;
        if (rc == 0)
            rc = take_u32(p, &kv->type);
        if (rc == 0 && kv->type >= MP_GGUF_N_TYPES)
            rc = bad(p, MP_EFORMAT, "has the unknown type %u", kv->type);
        if (rc == 0)
            rc = take_value(p, kv, &g->kv_at[i]);
    }
    p->what = NULL;
    return rc;
}

/* The header grows, and moves, as it is read: values get their addresses when that matters. */
static void point_values(struct mp_gguf *g)
{
    for (uint32_t i = 0; i < g->n_kv; i++)
        g->kv[i].data = g->head + g->kv_at[i];
}

static int read_tensor(struct parse *p, struct mp_gguf_tensor *t)
{
    const char *name;
    uint64_t len, rows = 1;
    p->name = NULL;
    int rc = take_name(p, sizeof t->name - 1, &name, &len);
    if (rc < 0)
        return rc;
    memcpy(t->name, name, len); /* the rest is 0 */
    p->name = t->name;
    rc = take_u32(p, &t->n_dims);
    if (rc < 0)
        return rc;
    if (t->n_dims < 1 || t->n_dims > 4)
        return bad(p, MP_EFORMAT, "has %u dimensions; 1 to 4 are possible", t->n_dims);
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d < t->n_dims && (rc = take_u64(p, &t->ne[d])) < 0)
            return rc;
        if (t->ne[d] == 0)
            return bad(p, MP_EFORMAT, "dimension %u is 0", d);
        if (d > 0 && !mp_mul_u64(rows, t->ne[d], &rows))
            return bad(p, MP_EFORMAT, "its dimensions overflow");
    }
    rc = take_u32(p, &t->type);
    if (rc == 0)
        rc = take_u64(p, &t->offset);
    if (rc < 0)
        return rc;
    if (!mp_mul_u64(rows, t->ne[0], &t->n_values) || t->n_values > INT64_MAX)
        return bad(p, MP_EFORMAT, "its dimensions overflow");
    const struct mp_type_info *type = mp_type_info(t->type);
    if (!type)
        return bad(p, MP_EUNSUPPORTED, "its type %u is not supported", t->type);
    if (t->ne[0] % type->values != 0)
        return bad(p, MP_EFORMAT, "rows of %llu values are no whole number of %s blocks of %u",
                   (unsigned long long)t->ne[0], type->name, type->values);
    if (!mp_type_row_bytes(t->type, t->ne[0], &t->row_bytes) || !mp_mul_u64(rows, t->row_bytes, &t->bytes))
        return bad(p, MP_EFORMAT, "its size overflows");
    uint32_t *slot = index_slot(&p->g->tensor_index, t->name, tensor_name, p->g);
    if (*slot)
        return bad(p, MP_EFORMAT, "stands twice");
    *slot = (uint32_t)(t - p->g->tensor) + 1;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct mp_gguf_tensor *x = *(const struct mp_gguf_tensor *const *)a;
    const struct mp_gguf_tensor *y = *(const struct mp_gguf_tensor *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Offsets become absolute; every tensor lies in the file, aligned, and none on another. */
static int place_tensors(struct parse *p)
{
    struct mp_gguf *g = p->g;
    const struct mp_gguf_tensor **order = mp_try_calloc(g->n_tensors, sizeof *order);
    int rc = 0;
    if (!order)
        return mp_err_set(p->err, MP_ENOMEM, "no memory for %u tensors", g->n_tensors);
    p->what = "tensor";
    for (uint32_t i = 0; i < g->n_tensors && rc == 0; i++) {
        struct mp_gguf_tensor *t = &g->tensor[i];
        uint64_t end;
        order[i] = t;
        p->name = t->name;
        if (t->offset % g->alignment != 0)
            rc = bad(p, MP_EFORMAT, "its offset %llu is not aligned to %u bytes", (unsigned long long)t->offset,
                     g->alignment);
        else if (!mp_add_u64(g->data_offset, t->offset, &t->offset) || !mp_add_u64(t->offset, t->bytes, &end))
            rc = bad(p, MP_EFORMAT, "its offset overflows");
        else if (end > g->id.size)
            rc = bad(p, MP_EFORMAT, "ends %llu bytes beyond the end of the file",
                     (unsigned long long)(end - g->id.size));
    }
    if (rc == 0) {
        qsort(order, g->n_tensors, sizeof *order, by_offset);
        for (uint32_t i = 1; i < g->n_tensors && rc == 0; i++) {
            p->name = order[i]->name;
            if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset)
                rc = bad(p, MP_EFORMAT, "overlaps tensor '%s'", order[i - 1]->name);
        }
    }
    p->what = NULL;
    mp_free(order);
    return rc;
}

static int read_tensors(struct parse *p)
{
    struct mp_gguf *g = p->g;
    g->tensor = mp_try_calloc(g->n_tensors, sizeof *g->tensor);
    if (!g->tensor)
        return mp_err_set(p->err, MP_ENOMEM, "no memory for %u tensors", g->n_tensors);
    int rc = index_init(&g->tensor_index, g->n_tensors, p->err);
    p->what = "tensor";
    for (uint32_t i = 0; i < g->n_tensors && rc == 0; i++) {
        p->number = i;
        rc = read_tensor(p, &g->tensor[i]);
    }
    p->what = NULL;
    if (rc == 0 && !mp_align_u64(p->at, g->alignment, &g->data_offset))
        rc = mp_err_set(p->err, MP_EFORMAT, "its data offset overflows");
    return rc < 0 ? rc : place_tensors(p);
}

/* Keys that decide how the rest is read. */
static int read_layout(struct parse *p)
{
    struct mp_gguf *g = p->g;
    uint32_t splits = 1;
    int rc = mp_gguf_u32(g, "split.count", 0, UINT16_MAX, &splits, p->err);
    if (rc < 0 && rc != MP_ENOENT)
        return rc;
    if (splits > 1)
        return mp_err_set(p->err, MP_EUNSUPPORTED,
                          "is one part of a model split over %u files; join them first "
                          "(split files are not supported)",
                          splits);
    g->alignment = DEFAULT_ALIGNMENT;
    rc = mp_gguf_u32(g, "general.alignment", 1, MAX_ALIGNMENT, &g->alignment, p->err);
    if (rc < 0 && rc != MP_ENOENT)
        return rc;
    if (g->alignment & (g->alignment - 1))
        return mp_err_set(p->err, MP_EFORMAT, "key 'general.alignment': %u is not a power of two", g->alignment);
    return 0;
}

static int read_header(struct mp_gguf *g, struct mp_err *err)
{
    struct parse p = {.g = g, .err = err};
    const unsigned char *b;
    uint64_t n_tensors = 0, n_kv = 0;
    if (g->id.size < 4)
        return mp_err_set(err, MP_EFORMAT, "is no GGUF file: it has %llu bytes", (unsigned long long)g->id.size);
    int rc = take(&p, 4, &b);
    if (rc < 0)
        return rc;
    if (memcmp(b, "GGUF", 4) != 0)
        return mp_err_set(err, MP_EFORMAT, "is no GGUF file: it begins with the bytes %02x %02x %02x %02x", b[0], b[1],
                          b[2], b[3]);
    if ((rc = take_u32(&p, &g->version)) < 0)
        return rc;
    if (g->version != 0 && (g->version & 0xffff) == 0)
        return mp_err_set(err, MP_EUNSUPPORTED, "is a big-endian GGUF file; they are not supported");
    if (g->version < 2 || g->version > 3)
        return mp_err_set(err, MP_EUNSUPPORTED, "is GGUF version %u; versions 2 and 3 are supported", g->version);
    if ((rc = take_u64(&p, &n_tensors)) < 0 || (rc = take_u64(&p, &n_kv)) < 0)
        return rc;
    if (n_kv > (g->id.size - p.at) / MIN_KV)
        return mp_err_set(err, MP_EFORMAT, "claims %llu keys, more than its %llu bytes can hold",
                          (unsigned long long)n_kv, (unsigned long long)g->id.size);
    if (n_tensors > (g->id.size - p.at) / MIN_TENSOR)
        return mp_err_set(err, MP_EFORMAT, "claims %llu tensors, more than its %llu bytes can hold",
                          (unsigned long long)n_tensors, (unsigned long long)g->id.size);
    if (n_kv > MP_GGUF_MAX_KV || n_tensors > MP_GGUF_MAX_TENSORS)
        return mp_err_set(err, MP_ELIMIT, "has %llu keys and %llu tensors; %d and %d at most", (unsigned long long)n_kv,
                          (unsigned long long)n_tensors, MP_GGUF_MAX_KV, MP_GGUF_MAX_TENSORS);
    g->n_kv = (uint32_t)n_kv;
    if ((rc = read_kvs(&p)) < 0)
        return rc;
    point_values(g);
    if ((rc = read_layout(&p)) < 0)
        return rc;
    g->n_tensors = (uint32_t)n_tensors;
    rc = read_tensors(&p);
    point_values(g);
    return rc;
}

/* ---- opening ---- */

static void identify(const struct stat *st, struct mp_gguf_identity *id)
{
    *id = (struct mp_gguf_identity){
        .dev = st->st_dev,
        .inode = st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_ns = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec,
    };
}

/* Takes fd, in every case. */
static int open_taken(struct mp_gguf **out, int fd, const char *name, struct mp_err *err)
{
    struct mp_gguf *g = mp_calloc(sizeof *g);
    struct stat st;
    int rc = 0;
    g->magic = MAGIC;
    g->fd = fd;
    g->path = mp_strdup(name);
    if (fstat(fd, &st) < 0) {
        rc = mp_err_errno(err, MP_EIO, "%s", name);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = mp_err_set(err, MP_EFORMAT, "%s: is no regular file", name);
        goto out;
    }
    identify(&st, &g->id);
    rc = read_header(g, err);
    if (rc < 0) {
        mp_err_context(err, "%s", name);
        goto out;
    }
    *out = mp_move(&g);
out:
    mp_gguf_free(g);
    return rc;
}

int mp_gguf_open(struct mp_gguf **out, const char *path, struct mp_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a FIFO must not hang us */
    if (fd < 0)
        return mp_err_errno(err, errno == ENOENT ? MP_ENOENT : MP_EIO, "cannot open %s", path);
    return open_taken(out, fd, path, err);
}

int mp_gguf_open_fd(struct mp_gguf **out, int fd, const char *name, struct mp_err *err)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return mp_err_errno(err, MP_EIO, "%s", name);
    return open_taken(out, own, name, err);
}

void mp_gguf_free(struct mp_gguf *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; g->kv && i < g->n_kv; i++)
        mp_free((char *)g->kv[i].key);
    mp_free(g->kv);
    mp_free(g->kv_at);
    mp_free(g->tensor);
    mp_free(g->kv_index.slot);
    mp_free(g->tensor_index.slot);
    mp_free(g->head);
    mp_free(g->path);
    close(g->fd);
    g->magic = 0;
    mp_free(g);
}

const char *mp_gguf_path(const struct mp_gguf *g)
{
    return g->path;
}

void mp_gguf_context(const struct mp_gguf *g, struct mp_err *err)
{
    size_t n = strlen(g->path);
    if (err && (strncmp(err->message, g->path, n) != 0 || err->message[n] != ':'))
        mp_err_context(err, "%s", g->path);
}

uint32_t mp_gguf_version(const struct mp_gguf *g)
{
    return g->version;
}

uint32_t mp_gguf_alignment(const struct mp_gguf *g)
{
    return g->alignment;
}

uint64_t mp_gguf_data_offset(const struct mp_gguf *g)
{
    return g->data_offset;
}

const struct mp_gguf_identity *mp_gguf_identity(const struct mp_gguf *g)
{
    return &g->id;
}

int mp_gguf_unchanged(const struct mp_gguf *g, struct mp_err *err)
{
    struct mp_gguf_identity now;
    struct stat st;
    if (fstat(g->fd, &st) < 0)
        return mp_err_errno(err, MP_EIO, "%s", g->path);
    identify(&st, &now);
    if (now.size != g->id.size || now.mtime_ns != g->id.mtime_ns)
        return mp_err_set(err, MP_EIO, "%s: the file changed while it was in use", g->path);
    return 0;
}

int mp_gguf_fd(const struct mp_gguf *g)
{
    return g->fd;
}

/* ---- metadata ---- */

uint32_t mp_gguf_n_kv(const struct mp_gguf *g)
{
    return g->n_kv;
}

const struct mp_gguf_kv *mp_gguf_kv(const struct mp_gguf *g, uint32_t i)
{
    return i < g->n_kv ? &g->kv[i] : NULL;
}

const struct mp_gguf_kv *mp_gguf_find(const struct mp_gguf *g, const char *key)
{
    uint32_t slot = *index_slot(&g->kv_index, key, kv_name, g);
    return slot ? &g->kv[slot - 1] : NULL;
}

static const struct mp_gguf_kv *find_or_say(const struct mp_gguf *g, const char *key, struct mp_err *err)
{
    const struct mp_gguf_kv *kv = mp_gguf_find(g, key);
    if (!kv)
        mp_err_set(err, MP_ENOENT, "%s: key '%s' is missing", g->path, key);
    return kv;
}

/* "an array of u32", "u32": what stands there instead of what was wanted. */
static int wrong_kind(const struct mp_gguf *g, const struct mp_gguf_kv *kv, const char *wanted, struct mp_err *err)
{
    return mp_err_set(err, MP_EFORMAT, "%s: key '%s': is %s%s, not %s", g->path, kv->key,
                      kv->type == MP_GGUF_ARR ? "an array of " : "of type ", mp_gguf_type_name(kv->elem), wanted);
}

bool mp_gguf_int_at(const struct mp_gguf_kv *kv, uint64_t i, int64_t *out)
{
    if (!is_integer(kv->elem) || i >= kv->count)
        return false;
    const unsigned char *b = (const unsigned char *)kv->data + i * type_bytes(kv->elem);
    uint64_t v = 0;
    memcpy(&v, b, type_bytes(kv->elem)); /* little endian: the low bytes */
    switch (kv->elem) {
    case MP_GGUF_I8: *out = (int8_t)v; return true;
    case MP_GGUF_I16: *out = (int16_t)v; return true;
    case MP_GGUF_I32: *out = (int32_t)v; return true;
    case MP_GGUF_I64: *out = (int64_t)v; return true;
    default:
        if (v > INT64_MAX)
            return false;
        *out = (int64_t)v;
        return true;
    }
}

bool mp_gguf_num_at(const struct mp_gguf_kv *kv, uint64_t i, double *out)
{
    int64_t whole;
    if (kv->elem == MP_GGUF_F32 && i < kv->count) {
        float f;
        memcpy(&f, (const unsigned char *)kv->data + 4 * i, 4);
        *out = (double)f;
        return true;
    }
    if (kv->elem == MP_GGUF_F64 && i < kv->count) {
        memcpy(out, (const unsigned char *)kv->data + 8 * i, 8);
        return true;
    }
    if (!mp_gguf_int_at(kv, i, &whole))
        return false;
    *out = (double)whole;
    return true;
}

bool mp_gguf_bool_at(const struct mp_gguf_kv *kv, uint64_t i, bool *out)
{
    if (kv->elem != MP_GGUF_BOOL || i >= kv->count)
        return false;
    *out = ((const unsigned char *)kv->data)[i] != 0;
    return true;
}

bool mp_gguf_str_next(const struct mp_gguf_kv *kv, size_t *at, const char **s, size_t *n)
{
    const unsigned char *b = (const unsigned char *)kv->data + *at;
    uint64_t len;
    if (kv->type != MP_GGUF_ARR || kv->elem != MP_GGUF_STR || *at >= kv->bytes)
        return false;
    memcpy(&len, b, 8);
    *s = (const char *)b + 8;
    *n = (size_t)len;
    *at += 8 + (size_t)len;
    return true;
}

int mp_gguf_u32(const struct mp_gguf *g, const char *key, uint32_t min, uint32_t max, uint32_t *out, struct mp_err *err)
{
    const struct mp_gguf_kv *kv = find_or_say(g, key, err);
    int64_t v;
    if (!kv)
        return MP_ENOENT;
    if (kv->type == MP_GGUF_ARR || !is_integer(kv->type))
        return wrong_kind(g, kv, "an integer", err);
    if (!mp_gguf_int_at(kv, 0, &v))
        v = INT64_MAX;
    if (v < min || v > max)
        return mp_err_set(err, MP_EFORMAT, "%s: key '%s': %lld is not within %u..%u", g->path, key, (long long)v, min,
                          max);
    *out = (uint32_t)v;
    return 0;
}

int mp_gguf_f32(const struct mp_gguf *g, const char *key, float min, float max, float *out, struct mp_err *err)
{
    const struct mp_gguf_kv *kv = find_or_say(g, key, err);
    double v;
    if (!kv)
        return MP_ENOENT;
    if (kv->type != MP_GGUF_F32 && kv->type != MP_GGUF_F64)
        return wrong_kind(g, kv, "a float", err);
    mp_gguf_num_at(kv, 0, &v);
    if (!isfinite(v) || v < (double)min || v > (double)max)
        return mp_err_set(err, MP_EFORMAT, "%s: key '%s': %g is not within %g..%g", g->path, key, v, (double)min,
                          (double)max);
    *out = (float)v;
    return 0;
}

int mp_gguf_bool(const struct mp_gguf *g, const char *key, bool *out, struct mp_err *err)
{
    const struct mp_gguf_kv *kv = find_or_say(g, key, err);
    if (!kv)
        return MP_ENOENT;
    if (kv->type != MP_GGUF_BOOL)
        return wrong_kind(g, kv, "a bool", err);
    mp_gguf_bool_at(kv, 0, out);
    return 0;
}

int mp_gguf_str(const struct mp_gguf *g, const char *key, size_t max, const char **s, size_t *n, struct mp_err *err)
{
    const struct mp_gguf_kv *kv = find_or_say(g, key, err);
    if (!kv)
        return MP_ENOENT;
    if (kv->type != MP_GGUF_STR)
        return wrong_kind(g, kv, "a string", err);
    if (kv->count > max)
        return mp_err_set(err, MP_ELIMIT, "%s: key '%s': has %llu bytes; %zu at most", g->path, key,
                          (unsigned long long)kv->count, max);
    *s = kv->data;
    *n = (size_t)kv->count;
    return 0;
}

int mp_gguf_arr(const struct mp_gguf *g, const char *key, uint32_t elem, const struct mp_gguf_kv **out,
                struct mp_err *err)
{
    const struct mp_gguf_kv *kv = find_or_say(g, key, err);
    if (!kv)
        return MP_ENOENT;
    if (kv->type != MP_GGUF_ARR || (elem != MP_GGUF_ARR && kv->elem != elem)) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "an array%s%s", elem == MP_GGUF_ARR ? "" : " of ",
                 elem == MP_GGUF_ARR ? "" : mp_gguf_type_name(elem));
        return wrong_kind(g, kv, wanted, err);
    }
    *out = kv;
    return 0;
}

/* ---- tensors ---- */

uint32_t mp_gguf_n_tensors(const struct mp_gguf *g)
{
    return g->n_tensors;
}

const struct mp_gguf_tensor *mp_gguf_tensor(const struct mp_gguf *g, uint32_t i)
{
    return i < g->n_tensors ? &g->tensor[i] : NULL;
}

const struct mp_gguf_tensor *mp_gguf_tensor_find(const struct mp_gguf *g, const char *name)
{
    uint32_t slot = *index_slot(&g->tensor_index, name, tensor_name, g);
    return slot ? &g->tensor[slot - 1] : NULL;
}

int mp_gguf_read(const struct mp_gguf *g, const struct mp_gguf_tensor *t, uint64_t at, void *dst, size_t n,
                 struct mp_err *err)
{
    if (at > t->bytes || n > t->bytes - at)
        return mp_err_set(err, MP_EINVAL, "%s: tensor '%s': %zu bytes at %llu lie beyond its %llu", g->path, t->name, n,
                          (unsigned long long)at, (unsigned long long)t->bytes);
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(g->fd, (char *)dst + done, n - done, (off_t)(t->offset + at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return mp_err_errno(err, MP_EIO, "%s: tensor '%s': cannot read", g->path, t->name);
        if (got == 0)
            return mp_err_set(err, MP_EIO, "%s: tensor '%s': the file shrank while it was read", g->path, t->name);
        done += (size_t)got;
    }
    return 0;
}
