/* core/script/source.c — see source.h. A list, searched by name: configurations have a handful of files. */
#include "core/script/source.h"

#include "core/base/mem.h"
#include "core/base/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAGIC = 0x6372536d, FORMAT = 1 }; /* "mSrc" */

struct mp_sources {
    uint32_t magic;
    char *folder;
    struct mp_source **files; /* [0] is the configuration; data NULL: looked for and not there */
    size_t n, cap, bytes;
    bool frozen;
};

static void source_free(struct mp_source *f)
{
    if (!f)
        return;
    mp_free((char *)f->name);
    mp_free((char *)f->data);
    mp_free(f);
}

static struct mp_source *find_name(const struct mp_sources *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->files[i]->name, name) == 0)
            return s->files[i];
    return NULL;
}

static int add(struct mp_sources *s, struct mp_source *f, struct mp_err *err)
{
    if (s->n >= MP_SOURCES_MAX_FILES)
        return mp_err_set(err, MP_ELIMIT, "a configuration has at most %d files", MP_SOURCES_MAX_FILES);
    if (f->n > MP_SOURCES_MAX_BYTES - s->bytes)
        return mp_err_set(err, MP_ELIMIT, "the files of a configuration have at most %d MiB in all",
                          MP_SOURCES_MAX_BYTES >> 20);
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 8;
        s->files = mp_realloc(s->files, s->cap * sizeof *s->files);
    }
    s->files[s->n++] = f;
    s->bytes += f->n;
    return 0;
}

/* 0 with *data, 0 with NULL when there is no such file, or an error. */
static int read_disk(const char *path, char **data, size_t *n, struct mp_err *err)
{
    char *buf = NULL;
    struct stat st;
    size_t got = 0;
    int rc = MP_EIO, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    *data = NULL;
    *n = 0;
    if (fd < 0) {
        rc = errno == ENOENT || errno == ENOTDIR ? 0 : mp_err_errno(err, MP_EIO, "cannot open %s", path);
        goto out;
    }
    if (fstat(fd, &st) < 0) {
        mp_err_errno(err, MP_EIO, "cannot read %s", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        mp_err_set(err, MP_EIO, "cannot read %s: not a regular file", path);
        goto out;
    }
    if (st.st_size > MP_SOURCE_MAX_BYTES) {
        rc = mp_err_set(err, MP_ELIMIT, "%s is larger than %d MiB", path, MP_SOURCE_MAX_BYTES >> 20);
        goto out;
    }
    buf = mp_malloc((size_t)st.st_size + 1);
    while (got < (size_t)st.st_size) {
        ssize_t r = read(fd, buf + got, (size_t)st.st_size - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0) {
            mp_err_errno(err, MP_EIO, "cannot read %s", path);
            goto out;
        }
        if (r == 0)
            break;
        got += (size_t)r;
    }
    buf[got] = 0;
    *n = got;
    *data = mp_move(&buf);
    rc = 0;
out:
    mp_free(buf);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Takes data (NULL: remembered as not there). */
static int remember(struct mp_sources *s, const char *name, char *data, size_t n, struct mp_source **out,
                    struct mp_err *err)
{
    struct mp_source *f = mp_calloc(sizeof *f);
    f->name = mp_strdup(name);
    f->data = data;
    f->n = n;
    int rc = data ? mp_sha256(data, n, f->hash, err) : 0;
    if (rc == 0)
        rc = add(s, f, err);
    if (rc == 0)
        *out = mp_move(&f);
    source_free(f);
    return rc;
}

static int look(struct mp_sources *s, const char *name, struct mp_source **out, struct mp_err *err)
{
    char *data = NULL;
    size_t n = 0;
    *out = find_name(s, name);
    if (*out)
        return 0;
    if (s->frozen)
        return mp_err_set(err, MP_ENOENT, "%s was not read when the configuration was checked", name);
    int rc = read_disk(name, &data, &n, err);
    if (rc == 0)
        rc = remember(s, name, data, n, out, err);
    return rc;
}

static char *folder_of(const char *config)
{
    const char *slash = strrchr(config, '/');
    if (!slash)
        return mp_strdup("");
    return slash == config ? mp_strdup("/") : mp_strndup(config, (size_t)(slash - config));
}

static char *name_of(const struct mp_sources *s, const char *path)
{
    if (path[0] == '/' || s->folder[0] == 0)
        return mp_strdup(path);
    return mp_asprintf("%s%s%s", s->folder, s->folder[strlen(s->folder) - 1] == '/' ? "" : "/", path);
}

int mp_sources_open(struct mp_sources **out, const char *config, struct mp_err *err)
{
    struct mp_sources *s = mp_calloc(sizeof *s);
    struct mp_source *f = NULL;
    s->magic = MAGIC;
    s->folder = folder_of(config);
    int rc = look(s, config, &f, err);
    if (rc == 0 && !f->data)
        rc = mp_err_set(err, MP_ENOENT, "no configuration %s: no such file", config);
    if (rc == 0)
        *out = mp_move(&s);
    mp_sources_free(s);
    return rc;
}

void mp_sources_free(struct mp_sources *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        source_free(s->files[i]);
    mp_free(s->files);
    mp_free(s->folder);
    s->magic = 0;
    mp_free(s);
}

const struct mp_source *mp_sources_config(const struct mp_sources *s)
{
    return s->files[0];
}

const char *mp_sources_folder(const struct mp_sources *s)
{
    return s->folder;
}

int mp_sources_find(struct mp_sources *s, const char *path, const struct mp_source **out, struct mp_err *err)
{
    struct mp_source *f = NULL;
    char *name = name_of(s, path);
    int rc = look(s, name, &f, err);
    *out = f && f->data ? f : NULL;
    mp_free(name);
    return rc;
}

int mp_sources_read(struct mp_sources *s, const char *path, const struct mp_source **out, struct mp_err *err)
{
    int rc = mp_sources_find(s, path, out, err);
    if (rc == 0 && !*out) {
        char *name = name_of(s, path);
        rc = mp_err_set(err, MP_ENOENT, "cannot open %s: no such file", name);
        mp_free(name);
    }
    return rc;
}

const struct mp_source *mp_sources_by_name(const struct mp_sources *s, const char *name)
{
    struct mp_source *f = find_name(s, name);
    return f && f->data ? f : NULL;
}

const struct mp_source *mp_sources_at(const struct mp_sources *s, size_t i)
{
    return i < s->n ? s->files[i] : NULL;
}

void mp_sources_freeze(struct mp_sources *s)
{
    s->frozen = true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct mp_source *const *)a)->name, (*(struct mp_source *const *)b)->name);
}

void mp_sources_hash(const struct mp_sources *s, unsigned char out[32])
{
    struct mp_buf b = {0};
    struct mp_source **sorted = mp_malloc(s->n * sizeof *sorted + 1);
    memcpy(sorted, s->files, s->n * sizeof *sorted);
    qsort(sorted, s->n, sizeof *sorted, by_name);
    for (size_t i = 0; i < s->n; i++) {
        mp_buf_put(&b, sorted[i]->name, strlen(sorted[i]->name) + 1);
        mp_buf_u8(&b, sorted[i]->data != NULL);
        mp_buf_put(&b, sorted[i]->hash, sizeof sorted[i]->hash);
    }
    mp_sha256(b.data, b.len, out, NULL);
    mp_free(sorted);
    mp_buf_free(&b);
}

void mp_sources_save(const struct mp_sources *s, struct mp_buf *out)
{
    mp_buf_u32(out, MAGIC);
    mp_buf_u32(out, FORMAT);
    mp_buf_u32(out, (uint32_t)s->n);
    for (size_t i = 0; i < s->n; i++) {
        const struct mp_source *f = s->files[i];
        size_t name_n = strlen(f->name);
        mp_buf_u32(out, (uint32_t)name_n);
        mp_buf_put(out, f->name, name_n);
        mp_buf_u8(out, f->data != NULL);
        mp_buf_u32(out, (uint32_t)f->n);
        mp_buf_put(out, f->data, f->n);
        mp_buf_put(out, f->hash, sizeof f->hash);
    }
}

int mp_sources_load(struct mp_sources **out, const void *data, size_t n, struct mp_err *err)
{
    struct mp_sources *s = mp_calloc(sizeof *s);
    struct mp_rd r;
    int rc = MP_EFORMAT;
    s->magic = MAGIC;
    mp_rd_init(&r, data, n);
    uint32_t magic = mp_rd_u32(&r), format = mp_rd_u32(&r), count = mp_rd_u32(&r);
    if (magic != MAGIC || format != FORMAT || count == 0 || count > MP_SOURCES_MAX_FILES) {
        mp_err_set(err, rc, "not a snapshot of sources");
        goto out;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t name_n = mp_rd_u32(&r);
        const char *name = mp_rd_bytes(&r, name_n);
        bool there = mp_rd_u8(&r) != 0;
        uint32_t bytes = mp_rd_u32(&r);
        const char *body = mp_rd_bytes(&r, bytes);
        const void *hash = mp_rd_bytes(&r, 32);
        struct mp_source *f = NULL;
        if (r.bad || memchr(name, 0, name_n) || name_n == 0 || bytes > MP_SOURCE_MAX_BYTES || (i == 0 && !there)) {
            mp_err_set(err, rc, "a snapshot of sources is damaged at file %u", i + 1);
            goto out;
        }
        char *text = mp_strndup(name, name_n);
        char *copy = there ? mp_malloc((size_t)bytes + 1) : NULL;
        if (copy) {
            memcpy(copy, body, bytes);
            copy[bytes] = 0;
        }
        int got = remember(s, text, copy, bytes, &f, err);
        mp_free(text);
        if (got < 0) {
            rc = got;
            goto out;
        }
        if (there && memcmp(f->hash, hash, 32) != 0) {
            mp_err_set(err, rc, "a snapshot of sources is damaged: %s does not have its hash", f->name);
            goto out;
        }
    }
    if (mp_rd_left(&r) != 0) {
        mp_err_set(err, rc, "a snapshot of sources has bytes behind its end");
        goto out;
    }
    s->folder = folder_of(s->files[0]->name);
    s->frozen = true;
    *out = mp_move(&s);
    rc = 0;
out:
    mp_sources_free(s);
    return rc;
}
