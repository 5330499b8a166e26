/* core/model/pretok.h — pre-tokenizers of byte-level BPE: how a text is cut into pieces before merges are applied, one row a
 * family, by the name in the file's tokenizer.ggml.pre. Used by the tokenizer only. To add a family: its row in pretok.c, and a
 * vocabulary or reference it was checked against in the spec. */
#ifndef MP_PRETOK_H
#define MP_PRETOK_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct mp_pretok; /* immutable: threads may share it */
struct mp_cut;    /* scratch of one thread */

/* name: n bytes from the file. MP_EUNSUPPORTED names it, and those that are known. */
int mp_pretok_new(struct mp_pretok **out, const char *name, size_t n, struct mp_err *err);
void mp_pretok_free(struct mp_pretok *p); /* NULL is fine */
const char *mp_pretok_name(const struct mp_pretok *p);
bool mp_pretok_ignores_merges(const struct mp_pretok *p); /* a piece that is a token as a whole is taken as it is */
bool mp_pretok_adds_bos(const struct mp_pretok *p);       /* unless the file says otherwise */

struct mp_cut *mp_cut_new(void);
void mp_cut_free(struct mp_cut *c); /* NULL is fine */
/* A new text, borrowed until the next call. Its bytes that are not UTF-8 count as characters of no class, one each. */
int mp_cut_begin(struct mp_cut *c, const struct mp_pretok *p, const char *text, size_t n, struct mp_err *err);
/* The next piece: *from..*to in the text, to > from. 1: there is one; 0: the text is done; or an error. */
int mp_cut_next(struct mp_cut *c, size_t *from, size_t *to, struct mp_err *err);

#endif
