/* core/model/tokenizer.c — see tokenizer.h. Building from a file's metadata; special tokens; encoding; pieces.
 *
 * A token's text in the file is printable: each byte stands as one character (GPT-2's table). Control, unknown and
 * user-defined tokens stand as they are. Here every token is kept as the bytes that it stands for. */
#include "core/model/tokenizer.h"

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/model/bpe.h"
#include "core/model/gguf.h"
#include "core/model/pretok.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY "tokenizer.ggml."

enum { MAGIC = 0x746f6b31, MAX_TEXT = 256 << 20, MAX_MERGES = 16 << 20, MAX_SPECIALS = 65536 };
enum kind { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

struct token {
    uint32_t at, n; /* its bytes in the arena */
    uint8_t kind;   /* enum kind */
    bool eog;
};

struct mp_tok {
    uint32_t magic, n, longest;
    struct token *tokens;
    char *bytes;          /* the arena */
    int32_t byte_id[256]; /* -1: the vocabulary has none */
    int32_t bos, eos;
    bool adds_bos;
    struct mp_pretok *pre;
    struct mp_bpe *bpe;
    int32_t *special; /* ids of control, unknown and user-defined tokens by their bytes, shorter first */
    uint32_t n_special, special_from[257]; /* where those with a first byte begin */
    int32_t *eog;
    size_t n_eog;
    uint32_t *whole,
        whole_mask; /* id + 1 by the hash of a token's bytes; NULL unless whole pieces are taken as tokens */
};

/* What building needs of the file and nothing later does. */
struct source {
    const struct mp_gguf *g;
    struct mp_err *err;
    const char **text; /* each token as it stands in the file */
    uint32_t *len;
    uint32_t *slot, mask; /* id + 1 by the hash of that text */
};

/* ---- building ---- */

/* Byte -> character of GPT-2's table, and back (-1: stands for no byte). */
static uint32_t char_of_byte(unsigned b)
{
    if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae)
        return b;
    if (b <= 0x20)
        return 0x100 + b;
    return b == 0xad ? 0x143 : 0x121 + (b - 0x7f);
}

static int byte_of_char(uint32_t c)
{
    if (c < 0x100)
        return char_of_byte(c) == c ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c < 0x143)
        return (int)(c - 0x121) + 0x7f;
    return c == 0x143 ? 0xad : -1;
}

static int key_error(const struct source *s, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int key_error(const struct source *s, const char *key, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mp_err_set(s->err, MP_EFORMAT, "%s: key '" KEY "%s': %s", mp_gguf_path(s->g), key, text);
}

static int no_memory(const struct source *s)
{
    return mp_err_set(s->err, MP_ENOMEM, "%s: no memory for its vocabulary", mp_gguf_path(s->g));
}

/* The slot of the token with this text in the file, or the free one where it belongs. */
static uint32_t *source_slot(const struct source *s, const char *text, size_t n)
{
    uint32_t at = (uint32_t)mp_hash(text, n) & s->mask;
    while (s->slot[at]) {
        uint32_t id = s->slot[at] - 1;
        if (s->len[id] == n && memcmp(s->text[id], text, n) == 0)
            break;
        at = (at + 1) & s->mask;
    }
    return &s->slot[at];
}

static int32_t source_find(const struct source *s, const char *text, size_t n)
{
    return (int32_t)*source_slot(s, text, n) - 1;
}

static int check_model(const struct source *s)
{
    const char *model;
    size_t n;
    int rc = mp_gguf_str(s->g, KEY "model", 64, &model, &n, s->err);
    if (rc < 0)
        return rc;
    if (n == 4 && memcmp(model, "gpt2", 4) == 0)
        return 0;
    struct mp_buf shown = {0};
    mp_utf8_clean(&shown, model, n);
    rc = mp_err_set(s->err, MP_EUNSUPPORTED, "%s: tokenizer model '%s' is not built yet (there is: gpt2)",
                    mp_gguf_path(s->g), mp_buf_cstr(&shown));
    mp_buf_free(&shown);
    return rc;
}

static int read_pre(struct mp_tok *t, const struct source *s)
{
    const char *name;
    size_t n;
    int rc = mp_gguf_str(s->g, KEY "pre", 256, &name, &n, s->err);
    if (rc == MP_ENOENT)
        return mp_err_set(s->err, MP_EUNSUPPORTED,
                          "%s: key '" KEY "pre' is missing: which pre-tokenizer the model was made for is not known",
                          mp_gguf_path(s->g));
    if (rc == 0)
        rc = mp_pretok_new(&t->pre, name, n, s->err);
    if (rc < 0)
        mp_err_context(s->err, "%s", mp_gguf_path(s->g));
    return rc;
}

/* An optional array with one number per token. */
static int find_per_token(const struct source *s, const struct mp_tok *t, const char *full, uint32_t elem,
                          const struct mp_gguf_kv **out)
{
    *out = NULL;
    int rc = mp_gguf_arr(s->g, full, elem, out, s->err);
    if (rc == MP_ENOENT)
        return 0;
    if (rc == 0 && (*out)->count != t->n)
        return key_error(s, full + strlen(KEY), "has %llu elements for %u tokens", (unsigned long long)(*out)->count,
                         t->n);
    return rc;
}

static int read_tokens(struct mp_tok *t, struct source *s)
{
    const struct mp_gguf_kv *tokens, *types, *scores;
    size_t at = 0, len, used = 0;
    uint32_t slots = 16;
    const char *text;
    int rc = mp_gguf_arr(s->g, KEY "tokens", MP_GGUF_STR, &tokens, s->err);
    if (rc < 0)
        return rc;
    if (tokens->count < 1 || tokens->count > MP_TOK_MAX_VOCAB)
        return key_error(s, "tokens", "has %llu tokens; 1 to %d are possible", (unsigned long long)tokens->count,
                         MP_TOK_MAX_VOCAB);
    t->n = (uint32_t)tokens->count;
    if ((rc = find_per_token(s, t, KEY "token_type", MP_GGUF_I32, &types)) < 0 ||
        (rc = find_per_token(s, t, KEY "scores", MP_GGUF_F32, &scores)) < 0)
        return rc;
    while (slots < 2 * t->n)
        slots *= 2;
    s->mask = slots - 1;
    s->text = mp_try_calloc(t->n, sizeof *s->text);
    s->len = mp_try_calloc(t->n, sizeof *s->len);
    s->slot = mp_try_calloc(slots, sizeof *s->slot);
    t->tokens = mp_try_calloc(t->n, sizeof *t->tokens);
    t->bytes = mp_try_malloc(tokens->bytes); /* a token never stands for more bytes than it is written with */
    if (!s->text || !s->len || !s->slot || !t->tokens || !t->bytes)
        return no_memory(s);
    for (uint32_t id = 0; id < t->n && mp_gguf_str_next(tokens, &at, &text, &len); id++) {
        struct token *tok = &t->tokens[id];
        int64_t kind = NORMAL;
        if (types)
            mp_gguf_int_at(types, id, &kind);
        if (kind < NORMAL || kind > BYTE)
            return key_error(s, "token_type", "token %u has the unknown type %lld", id, (long long)kind);
        if (len > MP_TOK_MAX_TOKEN)
            return key_error(s, "tokens", "token %u has %zu bytes; %d at most", id, len, MP_TOK_MAX_TOKEN);
        s->text[id] = text;
        s->len[id] = (uint32_t)len;
        if (len) { /* several may be empty: nothing finds them */
            uint32_t *slot = source_slot(s, text, len);
            if (*slot)
                return key_error(s, "tokens", "tokens %u and %u are the same", *slot - 1, id);
            *slot = id + 1;
        }
        tok->kind = (uint8_t)kind;
        tok->at = (uint32_t)used;
        bool printable = kind == NORMAL || kind == UNUSED || kind == BYTE;
        for (size_t i = 0; i < len;) {
            uint32_t c = 0;
            size_t step = printable ? mp_utf8_decode(text + i, len - i, &c) : 0;
            int byte = step ? byte_of_char(c) : -1;
            if (byte >= 0) {
                t->bytes[used++] = (char)byte;
                i += step;
            } else {
                t->bytes[used++] = text[i++];
            }
        }
        tok->n = (uint32_t)(used - tok->at);
        if (tok->n > t->longest)
            t->longest = tok->n;
    }
    if (t->longest == 0)
        return key_error(s, "tokens", "every token is empty");
    for (unsigned b = 0; b < 256; b++) {
        char c[4];
        t->byte_id[b] = source_find(s, c, mp_utf8_encode(char_of_byte(b), c));
        if (t->byte_id[b] >= 0 && mp_tok_is_control(t, t->byte_id[b]))
            return key_error(s, "tokens", "the token of byte %u is a control token", b);
    }
    return 0;
}

static int read_merges(struct mp_tok *t, const struct source *s)
{
    const struct mp_gguf_kv *merges;
    struct mp_buf joined = {0};
    size_t at = 0, len;
    const char *text;
    int rc = mp_gguf_arr(s->g, KEY "merges", MP_GGUF_STR, &merges, s->err);
    if (rc < 0)
        return rc;
    if (merges->count > MAX_MERGES)
        return key_error(s, "merges", "has %llu merges; %d at most", (unsigned long long)merges->count, MAX_MERGES);
    t->bpe = mp_bpe_new((uint32_t)merges->count);
    if (!t->bpe)
        return no_memory(s);
    for (uint32_t i = 0; rc == 0 && mp_gguf_str_next(merges, &at, &text, &len); i++) {
        /* The first space behind the first character; a left part that is itself a space is written "Ġ". */
        const char *space = len > 2 && len <= 2 * MP_TOK_MAX_TOKEN + 1 ? memchr(text + 1, ' ', len - 2) : NULL;
        if (!space) {
            rc = key_error(s, "merges", "merge %u is not two tokens with a space between", i);
            break;
        }
        size_t n_left = (size_t)(space - text), n_right = len - n_left - 1;
        mp_buf_clear(&joined);
        mp_buf_put(&joined, text, n_left);
        mp_buf_put(&joined, space + 1, n_right);
        int32_t left = source_find(s, text, n_left), right = source_find(s, space + 1, n_right);
        int32_t result = source_find(s, joined.data, joined.len);
        if (left < 0 || right < 0 || result < 0)
            rc = key_error(s, "merges", "merge %u names %s that is not in the vocabulary", i,
                           left < 0    ? "a left part"
                           : right < 0 ? "a right part"
                                       : "a result");
        else if (mp_tok_is_control(t, result))
            rc = key_error(s, "merges", "merge %u makes the control token %d", i, result);
        else
            mp_bpe_add(t->bpe, left, right, result);
    }
    mp_buf_free(&joined);
    return rc;
}

/* An optional id of the vocabulary; -1 when the key is absent. */
static int read_id(const struct mp_tok *t, const struct source *s, const char *full, int32_t *out)
{
    uint32_t id;
    int rc = mp_gguf_u32(s->g, full, 0, t->n - 1, &id, s->err);
    *out = rc == 0 ? (int32_t)id : -1;
    return rc == MP_ENOENT ? 0 : rc;
}

static bool ends_generation(const char *text, size_t n)
{
    static const char *const names[] = {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
    };
    for (size_t i = 0; i < MP_COUNT(names); i++)
        if (strlen(names[i]) == n && memcmp(names[i], text, n) == 0)
            return true;
    return false;
}

static int read_special_ids(struct mp_tok *t, const struct source *s)
{
    static const char *const ends[] = {KEY "eos_token_id",     KEY "eot_token_id",     KEY "eom_token_id",
                                       KEY "fim_pad_token_id", KEY "fim_rep_token_id", KEY "fim_sep_token_id"};
    static const char *const checked[] = {KEY "unknown_token_id", KEY "padding_token_id"};
    int32_t id;
    int rc = read_id(t, s, KEY "bos_token_id", &t->bos);
    for (size_t i = 0; i < MP_COUNT(checked) && rc == 0; i++)
        rc = read_id(t, s, checked[i], &id);
    for (size_t i = 0; i < MP_COUNT(ends) && rc == 0; i++) {
        rc = read_id(t, s, ends[i], &id);
        if (rc == 0 && id >= 0)
            t->tokens[id].eog = true;
        if (i == 0)
            t->eos = id;
    }
    if (rc < 0)
        return rc;
    t->adds_bos = mp_pretok_adds_bos(t->pre);
    rc = mp_gguf_bool(s->g, KEY "add_bos_token", &t->adds_bos, s->err);
    if (rc < 0 && rc != MP_ENOENT)
        return rc;
    t->adds_bos = t->adds_bos && t->bos >= 0;
    for (uint32_t i = 0; i < t->n; i++) {
        struct token *tok = &t->tokens[i];
        if (tok->kind != NORMAL && ends_generation(t->bytes + tok->at, tok->n))
            tok->eog = true;
        t->n_eog += tok->eog;
    }
    t->eog = mp_try_calloc(t->n_eog, sizeof *t->eog);
    if (!t->eog)
        return no_memory(s);
    for (uint32_t i = 0, n = 0; i < t->n; i++)
        if (t->tokens[i].eog)
            t->eog[n++] = (int32_t)i;
    return 0;
}

static bool is_special(const struct token *tok)
{
    return tok->n > 0 && (tok->kind == CONTROL || tok->kind == UNKNOWN || tok->kind == USER);
}

/* -1, 0, 1: bytes first, then length. */
static int compare_bytes(const char *a, size_t na, const char *b, size_t nb)
{
    int c = memcmp(a, b, na < nb ? na : nb);
    return c ? c : (na > nb) - (na < nb);
}

static int by_bytes(const void *a, const void *b, void *ctx)
{
    const struct mp_tok *t = ctx;
    const struct token *x = &t->tokens[*(const int32_t *)a], *y = &t->tokens[*(const int32_t *)b];
    return compare_bytes(t->bytes + x->at, x->n, t->bytes + y->at, y->n);
}

static int sort_specials(struct mp_tok *t, const struct source *s)
{
    for (uint32_t i = 0; i < t->n; i++)
        t->n_special += is_special(&t->tokens[i]);
    if (t->n_special > MAX_SPECIALS)
        return key_error(s, "token_type", "has %u special tokens; %d at most", t->n_special, MAX_SPECIALS);
    t->special = mp_try_calloc(t->n_special, sizeof *t->special);
    if (!t->special)
        return no_memory(s);
    for (uint32_t i = 0, n = 0; i < t->n; i++)
        if (is_special(&t->tokens[i]))
            t->special[n++] = (int32_t)i;
    qsort_r(t->special, t->n_special, sizeof *t->special, by_bytes, t);
    for (uint32_t i = 0, byte = 0; byte <= 256; byte++) {
        while (i < t->n_special && (unsigned char)t->bytes[t->tokens[t->special[i]].at] < byte)
            i++;
        t->special_from[byte] = i;
    }
    return 0;
}

/* The slot of the ordinary token with these bytes, or the free one where it belongs. */
static uint32_t *whole_slot(const struct mp_tok *t, const char *bytes, size_t n)
{
    uint32_t at = (uint32_t)mp_hash(bytes, n) & t->whole_mask;
    while (t->whole[at]) {
        const struct token *tok = &t->tokens[t->whole[at] - 1];
        if (tok->n == n && memcmp(t->bytes + tok->at, bytes, n) == 0)
            break;
        at = (at + 1) & t->whole_mask;
    }
    return &t->whole[at];
}

static int index_whole(struct mp_tok *t, const struct source *s)
{
    t->whole_mask = s->mask;
    t->whole = mp_try_calloc((size_t)s->mask + 1, sizeof *t->whole);
    if (!t->whole)
        return no_memory(s);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct token *tok = &t->tokens[i];
        uint32_t *slot = tok->kind == NORMAL && tok->n ? whole_slot(t, t->bytes + tok->at, tok->n) : NULL;
        if (slot && *slot == 0)
            *slot = i + 1;
    }
    return 0;
}

int mp_tok_new(struct mp_tok **out, const struct mp_gguf *g, struct mp_err *err)
{
    struct mp_err own = {0};
    struct source s = {.g = g, .err = err ? err : &own};
    struct mp_tok *t = mp_calloc(sizeof *t);
    t->magic = MAGIC;
    t->bos = t->eos = -1;
    int rc = check_model(&s);
    if (rc == 0)
        rc = read_pre(t, &s);
    if (rc == 0)
        rc = read_tokens(t, &s);
    if (rc == 0)
        rc = read_merges(t, &s);
    if (rc == 0)
        rc = read_special_ids(t, &s);
    if (rc == 0)
        rc = sort_specials(t, &s);
    if (rc == 0 && mp_pretok_ignores_merges(t->pre))
        rc = index_whole(t, &s);
    if (rc == 0)
        *out = mp_move(&t);
    mp_tok_free(t);
    mp_free(s.text);
    mp_free(s.len);
    mp_free(s.slot);
    return rc;
}

void mp_tok_free(struct mp_tok *t)
{
    if (!t)
        return;
    if (t->magic != MAGIC)
        abort();
    t->magic = 0;
    mp_pretok_free(t->pre);
    mp_bpe_free(t->bpe);
    mp_free(t->tokens);
    mp_free(t->bytes);
    mp_free(t->special);
    mp_free(t->eog);
    mp_free(t->whole);
    mp_free(t);
}

/* ---- encoding ---- */

struct encoding {
    const struct mp_tok *t;
    struct mp_cut *cut;
    struct mp_bpe_work *work;
    struct mp_ids *out;
    struct mp_err *err;
};

void mp_ids_free(struct mp_ids *ids)
{
    mp_free(ids->data);
    *ids = (struct mp_ids){0};
}

static int put_ids(struct encoding *e, const int32_t *ids, size_t n)
{
    struct mp_ids *out = e->out;
    if (n == 0)
        return 0;
    if (n > out->cap - out->len) {
        size_t cap = out->cap < 64 ? 64 : out->cap, want, bytes;
        if (!mp_add_size(out->len, n, &want))
            return mp_err_set(e->err, MP_ELIMIT, "more tokens than can be counted");
        while (cap < want)
            cap = cap > want / 2 ? 2 * cap : want;
        int32_t *data = mp_mul_size(cap, sizeof *data, &bytes) ? mp_try_realloc(out->data, bytes) : NULL;
        if (!data)
            return mp_err_set(e->err, MP_ENOMEM, "no memory for %zu tokens", cap);
        out->data = data;
        out->cap = cap;
    }
    memcpy(out->data + out->len, ids, n * sizeof *ids);
    out->len += n;
    return 0;
}

/* Text without special tokens: pieces, then merges. A byte that the vocabulary does not have gives nothing, and its
 * neighbours stand side by side (as in `tokenizers`). */
static int encode_plain(struct encoding *e, const char *text, size_t n)
{
    const struct mp_tok *t = e->t;
    size_t from, to;
    int rc = mp_cut_begin(e->cut, t->pre, text, n, e->err);
    while (rc == 0 && (rc = mp_cut_next(e->cut, &from, &to, e->err)) == 1) {
        uint32_t whole = t->whole ? *whole_slot(t, text + from, to - from) : 0;
        if (whole) {
            int32_t id = (int32_t)whole - 1;
            rc = put_ids(e, &id, 1);
            continue;
        }
        rc = mp_bpe_begin(e->work, to - from, e->err);
        if (rc < 0)
            break;
        for (size_t i = from; i < to; i++)
            if (t->byte_id[(unsigned char)text[i]] >= 0)
                mp_bpe_symbol(e->work, t->byte_id[(unsigned char)text[i]]);
        mp_bpe_run(e->work, t->bpe);
        size_t n_ids;
        const int32_t *ids = mp_bpe_ids(e->work, &n_ids);
        rc = put_ids(e, ids, n_ids);
    }
    return rc;
}

static unsigned char byte_at(const struct mp_tok *t, uint32_t special, size_t depth)
{
    return (unsigned char)t->bytes[t->tokens[t->special[special]].at + depth];
}

/* The longest special token that begins at text and may match there; -1: none. */
static int32_t special_at(const struct mp_tok *t, const char *text, size_t n, const uint8_t *trust, bool trusted)
{
    uint32_t lo = t->special_from[(unsigned char)text[0]], hi = t->special_from[(unsigned char)text[0] + 1];
    int32_t found = -1;
    for (size_t depth = 1; lo < hi; depth++) { /* lo..hi: those that share their first `depth` bytes with the text */
        trusted = trusted && (!trust || trust[depth - 1]);
        const struct token *tok = &t->tokens[t->special[lo]];
        if (tok->n == depth) {
            if (trusted || tok->kind == USER)
                found = t->special[lo];
            lo++;
        }
        if (depth == n)
            break;
        unsigned char c = (unsigned char)text[depth];
        uint32_t a = lo, b = hi;
        while (a < b) {
            uint32_t mid = a + (b - a) / 2;
            if (byte_at(t, mid, depth) < c)
                a = mid + 1;
            else
                b = mid;
        }
        lo = a;
        for (b = hi; a < b;) {
            uint32_t mid = a + (b - a) / 2;
            if (byte_at(t, mid, depth) <= c)
                a = mid + 1;
            else
                b = mid;
        }
        hi = a;
    }
    return found;
}

int mp_tok_encode(const struct mp_tok *t, const char *text, size_t n, const uint8_t *trust, unsigned flags,
                  struct mp_ids *out, struct mp_err *err)
{
    struct encoding e = {.t = t, .out = out, .err = err};
    size_t had = out->len, plain = 0;
    bool trusted = trust || (flags & MP_TOK_SPECIAL);
    int rc = MP_ENOMEM;
    if (n > MAX_TEXT)
        return mp_err_set(err, MP_ELIMIT, "a text of %zu bytes; %d at most", n, MAX_TEXT);
    e.cut = mp_cut_new();
    e.work = mp_bpe_work_new();
    if (!e.cut) {
        mp_err_set(err, rc, "no memory to tokenize");
        goto out;
    }
    rc = (flags & MP_TOK_BOS) && t->adds_bos ? put_ids(&e, &t->bos, 1) : 0;
    for (size_t at = 0; at < n && rc == 0;) {
        int32_t id = special_at(t, text + at, n - at, trust ? trust + at : NULL, trusted);
        if (id < 0) {
            at++;
            continue;
        }
        rc = encode_plain(&e, text + plain, at - plain);
        if (rc == 0)
            rc = put_ids(&e, &id, 1);
        at += t->tokens[id].n;
        plain = at;
    }
    if (rc == 0)
        rc = encode_plain(&e, text + plain, n - plain);
out:
    if (rc < 0)
        out->len = had;
    mp_cut_free(e.cut);
    mp_bpe_work_free(e.work);
    return rc;
}

/* ---- tokens ---- */

static const struct token *token_at(const struct mp_tok *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n ? &t->tokens[id] : NULL;
}

const char *mp_tok_text(const struct mp_tok *t, int32_t id, size_t *n)
{
    const struct token *tok = token_at(t, id);
    *n = tok ? tok->n : 0;
    return tok ? t->bytes + tok->at : "";
}

const char *mp_tok_piece(const struct mp_tok *t, int32_t id, bool special, size_t *n)
{
    if (special || !mp_tok_is_control(t, id))
        return mp_tok_text(t, id, n);
    *n = 0;
    return "";
}

uint32_t mp_tok_n_vocab(const struct mp_tok *t)
{
    return t->n;
}

uint32_t mp_tok_longest(const struct mp_tok *t)
{
    return t->longest;
}

const char *mp_tok_pre(const struct mp_tok *t)
{
    return mp_pretok_name(t->pre);
}

int32_t mp_tok_bos(const struct mp_tok *t)
{
    return t->bos;
}

int32_t mp_tok_eos(const struct mp_tok *t)
{
    return t->eos;
}

bool mp_tok_adds_bos(const struct mp_tok *t)
{
    return t->adds_bos;
}

bool mp_tok_is_control(const struct mp_tok *t, int32_t id)
{
    const struct token *tok = token_at(t, id);
    return tok && (tok->kind == CONTROL || tok->kind == UNKNOWN);
}

bool mp_tok_is_eog(const struct mp_tok *t, int32_t id)
{
    const struct token *tok = token_at(t, id);
    return tok && tok->eog;
}

const int32_t *mp_tok_eog(const struct mp_tok *t, size_t *n)
{
    *n = t->n_eog;
    return t->eog;
}

int32_t mp_tok_find(const struct mp_tok *t, const char *text, size_t n)
{
    if (n == 0)
        return -1;
    int32_t id = special_at(t, text, n, NULL, true);
    return id >= 0 && t->tokens[id].n == n ? id : -1;
}
