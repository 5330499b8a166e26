/* core/vm/lua_json.h — Lua values from JSON and back, for scripts (mp.json) and chat templates.
 *
 * null is the light userdata NULL (`mp.null`). Arrays become tables with the array metatable, so that an empty one stays
 * one; objects are plain tables. Written: a table with the array metatable, or with 1..n and nothing else, is an array;
 * an empty table without it is {}; any other must have string keys only and is an object, keys sorted by bytes, so that
 * equal values give equal text. NaN, infinities, integers beyond 2^53, functions and the like, holes, cycles and depth
 * past 64 are errors that name the path: "messages[3].content: a function has no JSON form". Paths count from 0, as
 * JSON's readers do. */
#ifndef MP_LUA_JSON_H
#define MP_LUA_JSON_H
#include "core/base/buf.h"
#include "core/base/err.h"

typedef struct lua_State lua_State;
struct mp_json;

/* Parses n bytes. 0: the value is on the stack. Else nothing is, and err is MP_EFORMAT or MP_ELIMIT with line and column,
 * or MP_EINVAL for an integer beyond 2^53, with its path. max_values 0: the default of json.h. Raises only when memory
 * is out. */
int mp_lua_json_decode(lua_State *L, const char *in, size_t n, uint32_t max_values,
                       struct mp_err *err); /* -0 +1 or +0 */
/* Appends the value at idx to out. On error MP_EINVAL or MP_ELIMIT, and out is as it was. max_bytes 0: 64 MiB. Raises
 * only when memory is out. */
int mp_lua_json_encode(lua_State *L, int idx, struct mp_buf *out, size_t max_bytes, struct mp_err *err); /* -0 +0 */

void mp_lua_json_null(lua_State *L);                /* -0 +1: mp.null */
void mp_lua_json_array_meta(lua_State *L);          /* -0 +1: the metatable of arrays, one per VM */
void mp_lua_json_mark_array(lua_State *L, int idx); /* -0 +0: the table at idx is an array from now on */

/* Pushes a table with decode(text) -> value | nil, err table; encode(value) -> text | nil, err table; array(t?) -> t;
 * and null. err table: { code = "bad_format", message = "…" }. core/script puts it at mp.json. */
int mp_lua_json_open(lua_State *L); /* -0 +1 */

#endif
