/* core/gateway/watch.h — `serve --watch`: reloads when a file of the configuration changes. Used by control.c, on its thread. */
#ifndef MP_WATCH_H
#define MP_WATCH_H
#include "core/gateway/reload.h"
#include "core/net/evloop.h"

struct mp_watcher;

struct mp_watcher *mp_watcher_new(struct mp_evloop *loop, struct mp_reloader *reloader);
void mp_watcher_free(struct mp_watcher *w); /* its memory goes when the loop has closed its handles. NULL is fine */
/* From now on these files count: those that serve, and those that the last try read (NULL: none) — also the ones that were looked for and
 * are not there. */
void mp_watcher_look(struct mp_watcher *w, const struct mp_sources *serving, const struct mp_sources *tried);

#endif
