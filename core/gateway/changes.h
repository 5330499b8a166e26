/* core/gateway/changes.h — what a reload changes, in words. Used by reload.c. */
#ifndef MP_CHANGES_H
#define MP_CHANGES_H
#include "core/base/buf.h"
#include "core/script/generation.h"

/* Appends a line per kind of thing that differs between two generations ("models: + b, ~ a (max_concurrency 16 -> 8)"), then which files do,
 * and which models' weights were replaced. Nothing when they are equal. Any thread. */
void mp_changes_print(const struct mp_generation *from, const struct mp_generation *to, struct mp_buf *out);

#endif
