/* core/script/decl_impl.h — shared by decl.c and the decl_<kind>.c only. A new kind of declaration: a row in decl.c's table and in
 * decl.h's enum, its keys in keys.c, its fields in config.h, a decl_<kind>.c that takes what was declared over into the config. */
#ifndef MP_SCRIPT_DECL_IMPL_H
#define MP_SCRIPT_DECL_IMPL_H
#include "core/script/decl.h"

struct decl_kind {
    const char *name;               /* "model": mp.model */
    const char *plural;             /* its key in the JSON of everything declared */
    bool named;                     /* mp.kind "name" {…}; else mp.kind {…} */
    bool own_names;                 /* `take` judges its names itself; else each may be declared once */
    const struct mp_schema *schema; /* NULL: not yet built: using it says so */
    /* After all files ran; the entry's checked table is at the top (partial when `bad`). -0 +0. NULL: decl_take_endpoints does it. */
    void (*take)(struct mp_decl *d, uint32_t entry, lua_State *L);
    /* (optional) What mp.kind "name" {…} returns; without it the table. -0 +1 */
    void (*push)(lua_State *L, const struct mp_decl_entry *e);
};
extern const struct decl_kind decl_kinds[MP_N_DECL_KINDS];

/* Replaces the table at the top by its checked copy; false with problems. before: the way to it in e's table. -1 +1 */
bool decl_check(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before, size_t n_before,
                lua_State *L, const struct mp_schema *s);
/* Compiles the schema at the top into the config's arena; NULL with problems. -0 +0 */
const struct mp_schema *decl_compile(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *before,
                                     size_t n_before, lua_State *L);
/* Of a checked table at t (absolute): a string in the arena, or NULL. -0 +0 */
const char *decl_string(struct mp_decl *d, lua_State *L, int t, const char *key);
const char *const *decl_list(struct mp_decl *d, lua_State *L, int t, const char *key, uint32_t *n); /* its strings */
double decl_number(lua_State *L, int t, const char *key, double otherwise);                         /* -0 +0 */
const char *decl_where(struct mp_decl *d, const struct mp_decl_entry *e); /* "conf/moonpool.lua:14", in the arena */
uint32_t decl_count(const struct mp_decl *d, enum mp_decl_kind kind);     /* entries of that kind */

/* What the text or name at those steps of e means; false after a problem. The zone is the config's own; name NULL: UTC, *out NULL. */
bool decl_cron(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *at, size_t n, const char *text,
               struct mp_cron *out);
bool decl_zone(struct mp_decl *d, const struct mp_decl_entry *e, const struct mp_step *at, size_t n, const char *name,
               struct mp_tz **out);

void decl_take_server(struct mp_decl *d, uint32_t entry, lua_State *L); /* decl_server.c */
void decl_take_model(struct mp_decl *d, uint32_t entry, lua_State *L);  /* decl_model.c */
void decl_take_device(struct mp_decl *d, uint32_t entry, lua_State *L); /* decl_device.c */
void decl_take_policy(struct mp_decl *d, uint32_t entry, lua_State *L); /* decl_policy.c */
void decl_take_job(struct mp_decl *d, uint32_t entry, lua_State *L);    /* decl_job.c */
void decl_take_shared(struct mp_decl *d, uint32_t entry, lua_State *L); /* decl_job.c */
void decl_choose_policy(struct mp_decl *d, lua_State *L); /* after all were taken: the one that mp.server names */

void decl_check_entry(struct mp_decl *d, uint32_t i, lua_State *L); /* makes entry i's `checked` */

/* decl_endpoint.c. Runs the files of plugins that `use` lists name and that nobody declared; checks them. -0 +0 */
void decl_load_plugins(struct mp_decl *d, lua_State *L);
/* Endpoints, their plugins, routes of plugins: fills the config and the script's endpoints. -0 +0 */
void decl_take_endpoints(struct mp_decl *d, lua_State *L);

#endif
