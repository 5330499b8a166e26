/* core/cli/places.h — where a server keeps its state and its sockets (DESIGN §8). Used by `moonpool serve`, and by the commands that
 * look for a server (ask.c). */
#ifndef MP_PLACES_H
#define MP_PLACES_H
#include "core/base/err.h"

/* given: --state's argument, or NULL: $STATE_DIRECTORY, $XDG_STATE_HOME/moonpool, ~/.local/state/moonpool. Made (0700) when
 * missing. Returns an absolute path (mp_free), or NULL. */
char *mp_place_state(const char *given, struct mp_err *err);
/* Takes the lock of a state directory for this process's life; *fd holds it. note: a line for whoever comes second. MP_EBUSY
 * when another server has it: err says which. */
int mp_place_lock(const char *state, const char *note, int *fd, struct mp_err *err);
/* given: --runtime's argument, or NULL: $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/moonpool, a private folder under $TMPDIR or /tmp.
 * Made (0700) when missing; one that others may enter, or that is not ours, is refused. What servers that are gone left
 * behind is removed. Returns an absolute path (mp_free), or NULL. */
char *mp_place_runtime(const char *given, struct mp_err *err);
/* Where mp_place_runtime would be, whether or not it is there; absolute (mp_free). */
char *mp_place_runtime_path(const char *given);
/* RUNTIME/PID.NAME (mp_free); NULL when that is longer than a Unix socket's name may be. */
char *mp_place_socket(const char *runtime, const char *name, struct mp_err *err);

#endif
