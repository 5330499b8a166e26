/* core/script/keys.h — the keys of every declaration: the tables behind checks, defaults and documentation. */
#ifndef MP_SCRIPT_KEYS_H
#define MP_SCRIPT_KEYS_H
#include "core/script/schema.h"

extern const struct mp_schema mp_keys_server, mp_keys_device, mp_keys_model, mp_keys_endpoint, mp_keys_plugin,
    mp_keys_policy, mp_keys_job, mp_keys_shared;
extern const char *const mp_job_overlaps[],
    *const mp_job_places[]; /* in the order of mp_conf_job's values; end with NULL */
/* Those of struct mp_pool_settings, none with a default: what a schedule's `set` and model:scale{} take. */
extern const struct mp_schema mp_keys_settings;
/* What model:chat{} and its kin take besides messages and prompt: the same ranges as mp.model's `sampling`. */
extern const struct mp_schema mp_keys_chat, mp_keys_complete;

/* Declarations and functions of the API that a later version builds: NULL-terminated. Using one says so. */
extern const char *const mp_later_kinds[];
extern const char *const mp_later_functions[];

void mp_keys_document(struct mp_buf *out); /* Markdown: a heading and a table for each declaration */

#endif
