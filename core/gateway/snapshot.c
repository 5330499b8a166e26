/* core/gateway/snapshot.c — see snapshot.h. A file: magic, format, number, since, hash, models, endpoints, the configuration's name, and
 * then what mp_sources_save wrote. */
#include "core/gateway/snapshot.h"

#include "core/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAGIC = 0x6e65476d /* "mGen" */, FORMAT = 1, HEAD_MAX = 8192, MAX_LISTED = 4096 };

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno != EINTR)
            return -1;
        if (w > 0) {
            p += w;
            n -= (size_t)w;
        }
    }
    return 0;
}

/* FOLDER/NAME gets these bytes, whole or not at all. */
static int replace(const char *folder, const char *name, const struct mp_buf *b, struct mp_err *err)
{
    char *path = mp_asprintf("%s/%s", folder, name), *fresh = mp_asprintf("%s/%s.new", folder, name);
    int rc = MP_EIO, dir = -1, fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write_all(fd, b->data, b->len) < 0 || fsync(fd) < 0 || rename(fresh, path) < 0) {
        mp_err_errno(err, MP_EIO, "cannot write %s", path);
        goto out;
    }
    dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fsync(dir) < 0) {
        mp_err_errno(err, MP_EIO, "cannot write to %s", folder);
        goto out;
    }
    rc = 0;
out:
    if (fd >= 0)
        close(fd);
    if (dir >= 0)
        close(dir);
    if (rc < 0)
        (void)unlink(fresh);
    mp_free(path);
    mp_free(fresh);
    return rc;
}

/* At most `most` bytes of a file. */
static int read_file(const char *path, size_t most, struct mp_buf *out, struct mp_err *err)
{
    int rc = MP_EIO, fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    size_t n;
    if (fd < 0 && errno == ENOENT) {
        rc = MP_ENOENT;
        goto out;
    }
    if (fd < 0 || fstat(fd, &st) < 0) {
        mp_err_errno(err, MP_EIO, "cannot read %s", path);
        goto out;
    }
    n = (uint64_t)st.st_size < most ? (size_t)st.st_size : most;
    mp_buf_reserve(out, n);
    while (out->len < n) {
        ssize_t got = read(fd, out->data + out->len, n - out->len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        out->len += (size_t)got;
    }
    rc = 0;
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

/* conf: (optional) where its name is put, borrowed from r's bytes. */
static bool read_head(struct mp_rd *r, struct mp_snapshot *out, const char **conf, uint32_t *conf_n)
{
    const void *hash;
    uint32_t magic = mp_rd_u32(r), format = mp_rd_u32(r);
    out->number = mp_rd_u64(r);
    out->since = mp_rd_u64(r);
    hash = mp_rd_bytes(r, sizeof out->hash);
    out->models = mp_rd_u32(r);
    out->endpoints = mp_rd_u32(r);
    *conf_n = mp_rd_u32(r);
    *conf = mp_rd_bytes(r, *conf_n);
    if (r->bad || magic != MAGIC || format != FORMAT)
        return false;
    memcpy(out->hash, hash, sizeof out->hash);
    return true;
}

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* The numbers of all that are there, newest first; mp_free. */
static uint64_t *numbers(const char *folder, uint32_t *n)
{
    uint64_t *out = mp_malloc(MAX_LISTED * sizeof *out);
    DIR *d = opendir(folder);
    struct dirent *e;
    *n = 0;
    while (d && (e = readdir(d)) != NULL && *n < MAX_LISTED) {
        char *end;
        uint64_t v = strtoull(e->d_name, &end, 10);
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && *end == '\0')
            out[(*n)++] = v;
    }
    if (d)
        closedir(d);
    qsort(out, *n, sizeof *out, descending);
    return out;
}

static char *file_of(const char *state, uint64_t number)
{
    return mp_asprintf("%s/generations/%ju", state, (uintmax_t)number);
}

void mp_snapshot_remove(const char *state, uint64_t number)
{
    char *path = file_of(state, number);
    (void)unlink(path);
    mp_free(path);
}

void mp_snapshot_prune(const char *state, uint64_t active)
{
    char *folder = mp_asprintf("%s/generations", state);
    uint32_t n, kept = 0;
    uint64_t *all = numbers(folder, &n);
    for (uint32_t i = 0; i < n; i++)
        if (all[i] != active && ++kept > MP_SNAPSHOTS)
            mp_snapshot_remove(state, all[i]);
    mp_free(all);
    mp_free(folder);
}

int mp_snapshot_save(const char *state, const struct mp_snapshot *what, const struct mp_sources *sources,
                     struct mp_err *err)
{
    char *folder = mp_asprintf("%s/generations", state), name[24];
    const char *conf = mp_sources_config(sources)->name;
    struct mp_buf b = {0};
    int rc;
    if (mkdir(folder, 0700) < 0 && errno != EEXIST) {
        rc = mp_err_errno(err, MP_EIO, "cannot make %s", folder);
        goto out;
    }
    mp_buf_u32(&b, MAGIC);
    mp_buf_u32(&b, FORMAT);
    mp_buf_u64(&b, what->number);
    mp_buf_u64(&b, what->since);
    mp_buf_put(&b, what->hash, sizeof what->hash);
    mp_buf_u32(&b, what->models);
    mp_buf_u32(&b, what->endpoints);
    mp_buf_u32(&b, (uint32_t)strlen(conf));
    mp_buf_puts(&b, conf);
    mp_sources_save(sources, &b);
    snprintf(name, sizeof name, "%ju", (uintmax_t)what->number);
    rc = replace(folder, name, &b, err);
out:
    mp_buf_free(&b);
    mp_free(folder);
    return rc;
}

int mp_snapshot_set_active(const char *state, uint64_t number, struct mp_err *err)
{
    struct mp_buf b = {0};
    int rc;
    mp_buf_printf(&b, "%ju\n", (uintmax_t)number);
    rc = replace(state, "active", &b, err);
    mp_buf_free(&b);
    return rc;
}

int mp_snapshot_get_active(const char *state, uint64_t *number, struct mp_err *err)
{
    char *path = mp_asprintf("%s/active", state), *end;
    struct mp_buf b = {0};
    int rc = read_file(path, 32, &b, err);
    *number = 0;
    if (rc == MP_ENOENT)
        mp_err_set(err, MP_ENOENT, "no generation is active: there is no %s", path);
    if (rc == 0) {
        const char *text = mp_buf_cstr(&b);
        *number = strtoull(text, &end, 10);
        if (text[0] < '1' || text[0] > '9' || strcmp(end, "\n") != 0)
            rc = mp_err_set(err, MP_EFORMAT, "%s does not name a generation", path);
    }
    mp_buf_free(&b);
    mp_free(path);
    return rc;
}

int mp_snapshot_load(const char *state, uint64_t number, struct mp_snapshot *what, struct mp_sources **out,
                     struct mp_err *err)
{
    char *path = file_of(state, number);
    struct mp_snapshot head;
    struct mp_buf b = {0};
    struct mp_rd r;
    const char *conf;
    uint32_t conf_n;
    int rc = read_file(path, (size_t)MP_SOURCES_MAX_BYTES * 2, &b, err);
    if (rc == MP_ENOENT)
        mp_err_set(err, rc, "there is no generation %ju (%s)", (uintmax_t)number, path);
    if (rc < 0)
        goto out;
    mp_rd_init(&r, b.data, b.len);
    if (!read_head(&r, &head, &conf, &conf_n)) {
        rc = mp_err_set(err, MP_EFORMAT, "%s is not a generation", path);
        goto out;
    }
    rc = mp_sources_load(out, r.p, mp_rd_left(&r), err);
    if (rc < 0)
        mp_err_context(err, "the snapshot %s", path);
    else if (what)
        *what = head;
out:
    mp_buf_free(&b);
    mp_free(path);
    return rc;
}

uint32_t mp_snapshot_list(const char *state, const char *conf, struct mp_snapshot *out, uint32_t n, uint64_t *last)
{
    char *folder = mp_asprintf("%s/generations", state);
    uint32_t all_n, got = 0;
    uint64_t *all = numbers(folder, &all_n);
    *last = all_n > 0 ? all[0] : 0;
    for (uint32_t i = 0; i < all_n && got < n; i++) {
        char *path = file_of(state, all[i]);
        struct mp_buf b = {0};
        struct mp_rd r;
        const char *name;
        uint32_t name_n;
        if (read_file(path, HEAD_MAX, &b, NULL) == 0) {
            mp_rd_init(&r, b.data, b.len);
            if (read_head(&r, &out[got], &name, &name_n) && out[got].number == all[i] && name_n == strlen(conf) &&
                memcmp(name, conf, name_n) == 0)
                got++;
        }
        mp_buf_free(&b);
        mp_free(path);
    }
    mp_free(all);
    mp_free(folder);
    return got;
}
