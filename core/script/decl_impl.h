/* core/script/decl_impl.h — shared by decl.c and decl_endpoint.c only. */
#ifndef MP_SCRIPT_DECL_IMPL_H
#define MP_SCRIPT_DECL_IMPL_H
#include "core/script/decl.h"

/* Replaces the table at the top by its checked copy; false with problems. before: the way to it in e's table. -1 +1 */
bool decl_check(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before, size_t n_before,
                lua_State *L, const struct mp_schema *s);
/* Compiles the schema at the top into the config's arena; NULL with problems. -0 +0 */
const struct mp_schema *decl_compile(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before,
                                     size_t n_before, lua_State *L);
/* Of a checked table at t (absolute): a string in the arena, or NULL. -0 +0 */
const char *decl_string(struct mp_decl *d, lua_State *L, int t, const char *key);
double decl_number(lua_State *L, int t, const char *key, double otherwise); /* -0 +0 */
const char *decl_where(struct mp_decl *d, const struct mp_decl_entry *e);   /* "conf/moonpool.lua:14", in the arena */

void decl_check_entry(struct mp_decl *d, uint32_t i, lua_State *L); /* makes entry i's `checked` */

/* decl_endpoint.c. Runs the files of plugins that `use` lists name and that nobody declared; checks them. -0 +0 */
void decl_load_plugins(struct mp_decl *d, lua_State *L);
/* Endpoints, their plugins, routes of plugins: fills the config and the script's endpoints. -0 +0 */
void decl_take_endpoints(struct mp_decl *d, lua_State *L);

#endif
