/* core/script/source.h — the source store: every file a configuration read, kept as it was read.
 *
 * A generation is built from one snapshot: the configuration, the modules it requires from its own folder, the plugins
 * beside it, what mp.read_file read. The scratch run fills it; after mp_sources_freeze nothing on disk is looked at any
 * more, so every worker's VM sees the same bytes, and a gateway that crashed comes back with the active generation's
 * snapshot, not with whatever lies on disk. Filled by one thread; once frozen it is read by any. */
#ifndef MP_SCRIPT_SOURCE_H
#define MP_SCRIPT_SOURCE_H
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MP_SOURCE_MAX_BYTES = 16 << 20, MP_SOURCES_MAX_BYTES = 64 << 20, MP_SOURCES_MAX_FILES = 4096 };

struct mp_sources;

struct mp_source {    /* one file; lives as long as the snapshot */
    const char *name; /* as messages show it: the configuration as it was named on the command line, others beside it */
    const char *data; /* n bytes and a NUL */
    size_t n;
    unsigned char hash[32]; /* SHA-256 of the bytes */
};

/* config: the configuration's path as the user wrote it; reads it. Returns 0 or an error naming the path. */
int mp_sources_open(struct mp_sources **out, const char *config, struct mp_err *err);
void mp_sources_free(struct mp_sources *s); /* NULL is fine */

const struct mp_source *mp_sources_config(const struct mp_sources *s);
const char *
mp_sources_folder(const struct mp_sources *s); /* the configuration's folder, "" for the current one; no '/' behind */

/* The file `path`, relative to the configuration's folder or absolute. Read from disk the first time, unless frozen. */
int mp_sources_read(struct mp_sources *s, const char *path, const struct mp_source **out, struct mp_err *err);
/* The same, but a file that is not there is no error: *out is NULL and 0 is returned (and remembered in the snapshot). */
int mp_sources_find(struct mp_sources *s, const char *path, const struct mp_source **out, struct mp_err *err);
/* The file with that message name ("conf/moonpool.lua"), or NULL. Never reads. */
const struct mp_source *mp_sources_by_name(const struct mp_sources *s, const char *name);
/* Each file in turn, those that were looked for and not there with data NULL; NULL behind the last. */
const struct mp_source *mp_sources_at(const struct mp_sources *s, size_t i);
void mp_sources_freeze(struct mp_sources *s);

/* SHA-256 over names and hashes of all files, in an order that does not depend on how they were read. */
void mp_sources_hash(const struct mp_sources *s, unsigned char out[32]);
void mp_sources_save(const struct mp_sources *s, struct mp_buf *out); /* appends; mp_sources_load reads it back */
/* data: untrusted; hashes are verified. The result is frozen. */
int mp_sources_load(struct mp_sources **out, const void *data, size_t n, struct mp_err *err);

#endif
