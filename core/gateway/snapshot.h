/* core/gateway/snapshot.h — generations in the state directory: STATE/generations/N holds what generation N was built from, STATE/active names
 * the one that serves. A gateway that crashed comes back with it, and a rollback finds the others. Every file is there whole or not at all,
 * and on disk when the call returns. Blocks: used by reload.c on its builder thread, and at the start. */
#ifndef MP_SNAPSHOT_H
#define MP_SNAPSHOT_H
#include "core/script/source.h"

enum { MP_SNAPSHOTS = 20 }; /* so many are kept beside the active one */

struct mp_snapshot {
    uint64_t number;        /* from 1 */
    uint64_t since;         /* Unix seconds: when it was built */
    unsigned char hash[32]; /* mp_sources_hash */
    uint32_t models, endpoints;
};

int mp_snapshot_save(const char *state, const struct mp_snapshot *what, const struct mp_sources *sources,
                     struct mp_err *err);                    /* writes STATE/generations/N */
void mp_snapshot_remove(const char *state, uint64_t number); /* one that came to nothing */
void mp_snapshot_prune(const char *state, uint64_t active);  /* the oldest beyond MP_SNAPSHOTS go, but never that one */
/* STATE/active. get: MP_ENOENT when no generation ever was. */
int mp_snapshot_set_active(const char *state, uint64_t number, struct mp_err *err);
int mp_snapshot_get_active(const char *state, uint64_t *number, struct mp_err *err);
/* what may be NULL. MP_ENOENT: there is no such generation. */
int mp_snapshot_load(const char *state, uint64_t number, struct mp_snapshot *what, struct mp_sources **out,
                     struct mp_err *err);
/* Those of the configuration `conf` (as it was named), newest first, at most n; returns how many. *last: the highest number of any. */
uint32_t mp_snapshot_list(const char *state, const char *conf, struct mp_snapshot *out, uint32_t n, uint64_t *last);

#endif
