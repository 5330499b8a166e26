/* core/gateway/snapshot.c — see snapshot.h. */
#include "core/gateway/snapshot.h"

#include "core/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

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

int mp_snapshot_save(const char *state, const struct mp_sources *sources, struct mp_err *err)
{
    char *path = mp_asprintf("%s/active", state), *fresh = mp_asprintf("%s/active.new", state);
    struct mp_buf b = {0};
    int rc = MP_EIO, folder = -1, fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    mp_sources_save(sources, &b);
    if (fd < 0 || write_all(fd, b.data, b.len) < 0 || fsync(fd) < 0 || rename(fresh, path) < 0) {
        mp_err_errno(err, MP_EIO, "cannot write the snapshot %s", path);
        goto out;
    }
    folder = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || fsync(folder) < 0) {
        mp_err_errno(err, MP_EIO, "cannot write to the state directory %s", state);
        goto out;
    }
    rc = 0;
out:
    if (fd >= 0)
        close(fd);
    if (folder >= 0)
        close(folder);
    mp_buf_free(&b);
    mp_free(path);
    mp_free(fresh);
    return rc;
}

int mp_snapshot_load(const char *state, struct mp_sources **out, struct mp_err *err)
{
    char *path = mp_asprintf("%s/active", state);
    struct mp_buf b = {0};
    struct stat st;
    int rc = MP_EIO, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        mp_err_errno(err, MP_EIO, "cannot read the snapshot %s", path);
        goto out;
    }
    if (st.st_size > MP_SOURCES_MAX_BYTES * INT64_C(2)) {
        rc = mp_err_set(err, MP_ELIMIT, "the snapshot %s has %jd bytes", path, (intmax_t)st.st_size);
        goto out;
    }
    mp_buf_reserve(&b, (size_t)st.st_size);
    while (b.len < (size_t)st.st_size) {
        ssize_t n = read(fd, b.data + b.len, (size_t)st.st_size - b.len);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        b.len += n > 0 ? (size_t)n : 0;
    }
    rc = mp_sources_load(out, b.data, b.len, err);
    if (rc < 0)
        mp_err_context(err, "the snapshot %s", path);
out:
    if (fd >= 0)
        close(fd);
    mp_buf_free(&b);
    mp_free(path);
    return rc;
}
