/* core/gateway/snapshot.h — the active generation's sources, kept in the state directory so that a gateway that crashed comes
 * back with them. Used by control.c. */
#ifndef MP_SNAPSHOT_H
#define MP_SNAPSHOT_H
#include "core/script/source.h"

/* Replaces STATE/active, whole or not at all, and on disk when it returns. */
int mp_snapshot_save(const char *state, const struct mp_sources *sources, struct mp_err *err);
int mp_snapshot_load(const char *state, struct mp_sources **out, struct mp_err *err);

#endif
