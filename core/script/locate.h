/* core/script/locate.h — finds where in a Lua source a table constructor's key stands, so that an error can point at it.
 * Used by decl.c. A small lexer over text that LuaJIT has compiled already; when it does not find the place, the caller
 * points at the declaring call instead. */
#ifndef MP_SCRIPT_LOCATE_H
#define MP_SCRIPT_LOCATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_step {     /* one step down into nested tables */
    const char *key; /* a string key; NULL: the index-th positional value */
    uint32_t index;  /* from 1 */
};

struct mp_place {
    uint32_t line, column, width; /* from 1; column and width in bytes */
};

/* line: where the call's argument begins; kind: the called function's last name ("model"); name: its name argument or
 * NULL; steps: the way to the key, at least one. False when it is not written out there; a way that is written out only
 * in part ends at its last part that is. */
bool mp_locate(const char *source, size_t n, uint32_t line, const char *kind, const char *name,
               const struct mp_step *steps, size_t n_steps, struct mp_place *out);

#endif
