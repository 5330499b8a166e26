/* core/model/tokenizer.h — byte-level BPE (GGUF's tokenizer model "gpt2"): text to token ids and back. Used by the engine's front
 * threads, chat templates (texts of special tokens), detokenising streams, `moonpool tokenize`.
 *
 * A tokenizer is built from a file's metadata alone, copies what it needs, and is immutable: any number of threads may use it
 * at once (scratch is per call). Time is O(n log n) in the text's length whatever the text. Bytes that are not UTF-8 are
 * no error: in splitting, each counts as one character that is neither letter, number nor space; then it is encoded as itself. */
#ifndef MP_TOKENIZER_H
#define MP_TOKENIZER_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_gguf;
struct mp_tok;

struct mp_ids { /* growable; zero-initialised is empty and valid */
    int32_t *data;
    size_t len, cap;
};
void mp_ids_free(struct mp_ids *ids); /* leaves it empty */

enum { MP_TOK_MAX_VOCAB = 4 * 1024 * 1024, MP_TOK_MAX_TOKEN = 4096 /* bytes of one token */ };

/* MP_EUNSUPPORTED for another tokenizer model or a pre-tokenizer that we do not know (the message names it: never a guess);
 * MP_EFORMAT for a vocabulary that does not hold together; MP_ENOENT when the file has none. */
int mp_tok_new(struct mp_tok **out, const struct mp_gguf *g, struct mp_err *err);
void mp_tok_free(struct mp_tok *t); /* NULL is fine */

enum {
    MP_TOK_SPECIAL = 1, /* every byte is trusted where `trust` is NULL: control tokens in the text match */
    MP_TOK_BOS = 2,     /* begin with BOS if the model wants one (mp_tok_adds_bos) */
};
/* Appends the text's ids to out. trust: NULL, or n bytes, non-zero where that byte of text came from the template: a control
 * token matches only if all of its bytes are trusted; user-defined tokens match anywhere. MP_ENOMEM, MP_ELIMIT (longer than
 * 256 MiB); out then holds what it held before. */
int mp_tok_encode(const struct mp_tok *t, const char *text, size_t n, const uint8_t *trust, unsigned flags,
                  struct mp_ids *out, struct mp_err *err);

/* The bytes that a token stands for, borrowed until mp_tok_free; n may be 0, and they need not be whole characters. Control
 * tokens give nothing unless special; ids out of range give nothing. */
const char *mp_tok_piece(const struct mp_tok *t, int32_t id, bool special, size_t *n);
const char *mp_tok_text(const struct mp_tok *t, int32_t id, size_t *n); /* of any token, as mp_tok_piece with special */

uint32_t mp_tok_n_vocab(const struct mp_tok *t);
uint32_t
mp_tok_longest(const struct mp_tok *t);         /* bytes of the longest token: n bytes of text are >= n / longest ids */
const char *mp_tok_pre(const struct mp_tok *t); /* pre-tokenizer's name in the file: "smollm" */
int32_t mp_tok_bos(const struct mp_tok *t);     /* -1: none */
int32_t mp_tok_eos(const struct mp_tok *t);     /* -1: none */
bool mp_tok_adds_bos(const struct mp_tok *t);   /* the model wants BOS in front of a text */
bool mp_tok_is_control(const struct mp_tok *t, int32_t id);   /* control or unknown: never from untrusted text */
bool mp_tok_is_eog(const struct mp_tok *t, int32_t id);       /* ends a generation */
const int32_t *mp_tok_eog(const struct mp_tok *t, size_t *n); /* all of them, ascending */
int32_t mp_tok_find(const struct mp_tok *t, const char *text,
                    size_t n); /* id of the special token with this text; -1 */

#endif
