/* core/gateway/watch.c — see watch.h. inotify on folders, for editors rename a new file over the old one: a file's own watch would end with it.
 * A folder that is not there is waited for in the nearest that is. */
#include "core/gateway/watch.h"

#include "core/base/log.h"
#include "core/base/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>
#include <uv.h>

enum {
    QUIET_MS = 100,
    LONGEST_MS = 1000
}; /* without a change, before it is looked at; at most so long after the first one */
enum { MAX_NAMES = 8192 };

#define EVENTS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF)

struct name {
    int watch;  /* inotify's number of the folder */
    char *text; /* what counts in it */
};

struct mp_watcher {
    struct mp_reloader *reloader;
    int fd;
    uv_poll_t poll;
    uv_timer_t timer;
    int handles;       /* that are not closed */
    uint64_t first_ms; /* when the first change of those not yet looked at came; 0: none */
    struct name *names;
    uint32_t n;
    bool said; /* that it cannot watch */
};

static void on_quiet(uv_timer_t *t)
{
    struct mp_watcher *w = t->data;
    w->first_ms = 0;
    mp_reload_poke(w->reloader, "watch");
}

static bool counts(const struct mp_watcher *w, const struct inotify_event *e)
{
    if (e->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF))
        return true;
    for (uint32_t i = 0; i < w->n && e->len > 0; i++)
        if (w->names[i].watch == e->wd && strcmp(w->names[i].text, e->name) == 0)
            return true;
    return false;
}

static void on_change(uv_poll_t *h, int status, int events)
{
    struct mp_watcher *w = h->data;
    _Alignas(struct inotify_event) char buf[16384];
    bool any = false;
    ssize_t n;
    (void)status;
    (void)events;
    while ((n = read(w->fd, buf, sizeof buf)) > 0)
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *e = (const struct inotify_event *)(void *)(buf + at);
            any |= counts(w, e);
            at += (ssize_t)(sizeof *e + e->len);
        }
    if (!any)
        return;
    uint64_t now = uv_now(w->timer.loop);
    if (!w->first_ms)
        w->first_ms = now;
    if (now - w->first_ms < LONGEST_MS)
        uv_timer_start(&w->timer, on_quiet, QUIET_MS, 0);
}

struct mp_watcher *mp_watcher_new(struct mp_evloop *loop, struct mp_reloader *reloader)
{
    struct mp_watcher *w = mp_calloc(sizeof *w);
    w->reloader = reloader;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd < 0) {
        mp_error("--watch: cannot watch files: %s", strerror(errno));
        mp_free(w);
        return NULL;
    }
    uv_poll_init(mp_evloop_uv(loop), &w->poll, w->fd);
    uv_timer_init(mp_evloop_uv(loop), &w->timer);
    w->poll.data = w->timer.data = w;
    w->handles = 2;
    uv_poll_start(&w->poll, UV_READABLE, on_change);
    return w;
}

static void forget(struct mp_watcher *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        mp_free(w->names[i].text);
    w->n = 0;
}

static void on_closed(uv_handle_t *h)
{
    struct mp_watcher *w = h->data;
    if (--w->handles > 0)
        return;
    close(w->fd);
    forget(w);
    mp_free(w->names);
    mp_free(w);
}

void mp_watcher_free(struct mp_watcher *w)
{
    if (!w)
        return;
    uv_close((uv_handle_t *)&w->poll, on_closed);
    uv_close((uv_handle_t *)&w->timer, on_closed);
}

static void add(struct mp_watcher *w, const char *path)
{
    char *folder = mp_strdup(path), *slash, *text;
    int watch = -1;
    for (;;) { /* up, until there is a folder */
        slash = strrchr(folder, '/');
        text = slash ? slash + 1 : folder;
        if (slash)
            *slash = '\0';
        watch = inotify_add_watch(w->fd, !slash ? "." : slash == folder ? "/" : folder, EVENTS | IN_ONLYDIR);
        if (watch >= 0 || !slash || slash == folder || (errno != ENOENT && errno != ENOTDIR))
            break;
    }
    if (watch < 0 && !w->said) {
        mp_error("--watch: cannot watch %s: %s", path, strerror(errno));
        w->said = true;
    }
    for (uint32_t i = 0; i < w->n && watch >= 0; i++)
        if (w->names[i].watch == watch && strcmp(w->names[i].text, text) == 0)
            watch = -1;
    if (watch >= 0 && w->n < MAX_NAMES)
        w->names[w->n++] = (struct name){watch, mp_strdup(text)};
    mp_free(folder);
}

static void add_all(struct mp_watcher *w, const struct mp_sources *sources)
{
    const struct mp_source *f;
    for (size_t i = 0; sources && (f = mp_sources_at(sources, i)) != NULL; i++) {
        char *real = realpath(f->name, NULL);
        add(w, f->name);
        if (real)
            add(w, real); /* of a link: where it leads to */
        free(real);
    }
}

void mp_watcher_look(struct mp_watcher *w, const struct mp_sources *serving, const struct mp_sources *tried)
{
    int was[256];
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n && n < MP_COUNT(was); i++) {
        bool seen = false;
        for (uint32_t k = 0; k < n; k++)
            seen |= was[k] == w->names[i].watch;
        if (!seen)
            was[n++] = w->names[i].watch;
    }
    forget(w);
    if (!w->names)
        w->names = mp_malloc(MAX_NAMES * sizeof *w->names);
    add_all(w, serving);
    add_all(w, tried);
    for (uint32_t k = 0; k < n; k++) { /* folders of which nothing counts any more */
        bool used = false;
        for (uint32_t i = 0; i < w->n; i++)
            used |= w->names[i].watch == was[k];
        if (!used)
            (void)inotify_rm_watch(w->fd, was[k]);
    }
}
