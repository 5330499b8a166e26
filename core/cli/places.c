/* core/cli/places.c — see places.h. */
#include "core/cli/places.h"

#include "core/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char *env(const char *name)
{
    const char *s = getenv(name);
    return s && *s ? s : NULL;
}

static char *absolute(const char *path)
{
    char *cwd, *out;
    if (path[0] == '/')
        return mp_strdup(path);
    cwd = getcwd(NULL, 0);
    out = mp_asprintf("%s/%s", cwd ? cwd : ".", path);
    free(cwd); /* NOLINT: libc's own */
    return out;
}

/* mkdir -p, each new folder 0700. */
static int make_folders(const char *path, struct mp_err *err)
{
    char *p = mp_strdup(path);
    int rc = 0;
    for (char *at = p + 1; rc == 0; at++) {
        char c = *at;
        if (c != '/' && c != '\0')
            continue;
        *at = '\0';
        if (mkdir(p, 0700) < 0 && errno != EEXIST)
            rc = mp_err_errno(err, MP_EIO, "cannot make the directory %s", p);
        *at = c;
        if (c == '\0')
            break;
    }
    mp_free(p);
    return rc;
}

char *mp_place_state(const char *given, struct mp_err *err)
{
    char *path, *out = NULL;
    if (given)
        path = absolute(given);
    else if (env("STATE_DIRECTORY"))
        path = absolute(env("STATE_DIRECTORY"));
    else if (env("XDG_STATE_HOME"))
        path = mp_asprintf("%s/moonpool", env("XDG_STATE_HOME"));
    else if (env("HOME"))
        path = mp_asprintf("%s/.local/state/moonpool", env("HOME"));
    else {
        mp_err_set(err, MP_EINVAL, "no place for the state: give --state DIR, or set HOME");
        return NULL;
    }
    if (make_folders(path, err) == 0)
        out = mp_move(&path);
    mp_free(path);
    return out;
}

int mp_place_lock(const char *state, const char *note, int *out, struct mp_err *err)
{
    char *path = mp_asprintf("%s/lock", state), text[400] = "";
    int rc = MP_EIO, fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ssize_t n;
    if (fd < 0) {
        mp_err_errno(err, MP_EIO, "cannot open %s", path);
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK) {
            mp_err_errno(err, MP_EIO, "cannot lock %s", path);
            goto out;
        }
        n = pread(fd, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        text[strcspn(text, "\n")] = '\0';
        rc = mp_err_set(err, MP_EBUSY, "the state directory %s is in use by %s (another one: --state DIR)", state,
                        text[0] ? text : "another server");
        goto out;
    }
    n = snprintf(text, sizeof text, "%s\n", note);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, 0) < 0) {
        mp_err_errno(err, MP_EIO, "cannot write %s", path);
        goto out;
    }
    *out = fd;
    fd = -1;
    rc = 0;
out:
    if (fd >= 0)
        close(fd);
    mp_free(path);
    return rc;
}

/* Sockets are named PID.NAME: those whose process is gone are a killed server's. */
static void sweep(const char *runtime)
{
    DIR *d = opendir(runtime);
    struct dirent *e;
    if (!d)
        return;
    while ((e = readdir(d)) != NULL) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (end != e->d_name && *end == '.' && pid > 0 && pid <= INT32_MAX && kill((pid_t)pid, 0) < 0 && errno == ESRCH)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}

char *mp_place_runtime_path(const char *given)
{
    if (given)
        return absolute(given);
    if (env("RUNTIME_DIRECTORY"))
        return absolute(env("RUNTIME_DIRECTORY"));
    if (env("XDG_RUNTIME_DIR"))
        return mp_asprintf("%s/moonpool", env("XDG_RUNTIME_DIR"));
    return mp_asprintf("%s/moonpool-%u", env("TMPDIR") ? env("TMPDIR") : "/tmp", (unsigned)getuid());
}

char *mp_place_runtime(const char *given, struct mp_err *err)
{
    char *path = mp_place_runtime_path(given), *out = NULL;
    struct stat st;
    if (make_folders(path, err) < 0)
        goto out;
    if (lstat(path, &st) < 0)
        mp_err_errno(err, MP_EIO, "cannot look at %s", path);
    else if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        mp_err_set(err, MP_EINVAL,
                   "%s must be a directory of yours that nobody else may enter (mode 0700): engines' sockets lie there",
                   path);
    else {
        sweep(path);
        out = mp_move(&path);
    }
out:
    mp_free(path);
    return out;
}

char *mp_place_socket(const char *runtime, const char *name, struct mp_err *err)
{
    struct sockaddr_un un;
    char *path = mp_asprintf("%s/%d.%s", runtime, (int)getpid(), name);
    if (strlen(path) < sizeof un.sun_path)
        return path;
    mp_err_set(err, MP_EINVAL,
               "the socket's path %s has %zu bytes, a Unix socket's name at most %zu: give a shorter --runtime DIR",
               path, strlen(path), sizeof un.sun_path - 1);
    mp_free(path);
    return NULL;
}
