/* core/script/facts.h — core/pool's settings and facts as scripts see them: from a checked table into a struct, from a struct into a table.
 * Used by decl_model.c, lua_model.c and policy.c. */
#ifndef MP_SCRIPT_FACTS_H
#define MP_SCRIPT_FACTS_H
#include "core/pool/facts.h"

struct lua_State;

/* The settings that the table at t (absolute), checked against mp_keys_settings or mp_keys_model, has. -0 +0 */
void mp_settings_take(struct lua_State *L, int t, struct mp_pool_override *out);
/* Sets all of them in the table at t (absolute): t.min_replicas …, t.queue = { max, timeout }. -0 +0 */
void mp_settings_put(struct lua_State *L, int t, const struct mp_pool_settings *s);
/* What is wrong with some settings taken together, or NULL: a static text; *key: the key to point at. Of those not in `set` nothing is said. */
const char *mp_settings_conflict(const struct mp_pool_override *o, const char **key);

void mp_facts_push(struct lua_State *L, const struct mp_pool_facts *f);      /* -0 +1 */
void mp_call_facts_push(struct lua_State *L, const struct mp_call_facts *f); /* -0 +1 */

#endif
