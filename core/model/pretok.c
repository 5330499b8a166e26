/* core/model/pretok.c — see pretok.h. The expressions are those of the families' tokenizer.json files (Hugging Face
 * `tokenizers`), with white space spelt out: PCRE2's \s differs from Unicode's White_Space in U+180E. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/model/pretok.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

#include <pcre2.h>
#include <string.h>

#define SPACE        "\\t-\\r\\x{85}\\p{Z}"
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"

#define GPT2 CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"
/* Every single \p{N} is cut out first, then GPT2 is applied to what lies between: for white space the end of such a span
 * counts as the end of the text, so a run of spaces before a digit stays whole. As one expression: */
#define DIGITS_GPT2 \
    CONTRACTIONS "| ?\\p{L}+|\\p{N}| ?[^" SPACE "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "\\p{N}])|[" SPACE "]+"
#define LLAMA3_LIKE(numbers)                                                                                       \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*|[" SPACE \
    "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

static const struct family {
    const char *name, *pattern;
    bool ignores_merges, adds_bos;
} families[] = {
    {"smollm", DIGITS_GPT2, false, false},
    {"starcoder", DIGITS_GPT2, false, false},
    {"refact", DIGITS_GPT2, false, false},
    {"codeshell", DIGITS_GPT2, false, false},
    {"gpt-2", GPT2, false, false},
    {"llama-bpe", LLAMA3_LIKE("\\p{N}{1,3}"), true, true},
    {"llama3", LLAMA3_LIKE("\\p{N}{1,3}"), true, true},
    {"llama-v3", LLAMA3_LIKE("\\p{N}{1,3}"), true, true},
    {"qwen2", LLAMA3_LIKE("\\p{N}"), false, false},
};

struct mp_pretok {
    const struct family *family;
    pcre2_code *code;
};

struct mp_cut {
    const struct mp_pretok *p;
    const char *text; /* what is matched: valid UTF-8, as long as the caller's text */
    size_t n, at;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    char *shadow; /* a text whose invalid bytes were replaced; owned */
    size_t shadow_cap;
};

int mp_pretok_new(struct mp_pretok **out, const char *name, size_t n, struct mp_err *err)
{
    const struct family *f = NULL;
    struct mp_buf known = {0};
    int rc = MP_EUNSUPPORTED, code = 0;
    PCRE2_SIZE where = 0;
    for (size_t i = 0; i < MP_COUNT(families); i++) {
        if (strlen(families[i].name) == n && memcmp(families[i].name, name, n) == 0)
            f = &families[i];
        mp_buf_printf(&known, "%s%s", i ? ", " : "", families[i].name);
    }
    if (!f) {
        struct mp_buf shown = {0};
        mp_utf8_clean(&shown, name, n > 64 ? 64 : n);
        mp_err_set(err, rc, "pre-tokenizer '%s' is not built yet (there are: %s)", mp_buf_cstr(&shown),
                   mp_buf_cstr(&known));
        mp_buf_free(&shown);
        goto out;
    }
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)f->pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &where, NULL);
    if (!re) {
        rc = mp_err_set(err, MP_EINTERNAL, "pre-tokenizer '%s': PCRE2 error %d at %zu", f->name, code, (size_t)where);
        goto out;
    }
    pcre2_jit_compile(re,
                      PCRE2_JIT_COMPLETE); /* refused where memory may not be executable: the interpreter does it too */
    struct mp_pretok *p = mp_calloc(sizeof *p);
    p->family = f;
    p->code = re;
    *out = p;
    rc = 0;
out:
    mp_buf_free(&known);
    return rc;
}

void mp_pretok_free(struct mp_pretok *p)
{
    if (!p)
        return;
    pcre2_code_free(p->code);
    mp_free(p);
}

const char *mp_pretok_name(const struct mp_pretok *p)
{
    return p->family->name;
}

bool mp_pretok_ignores_merges(const struct mp_pretok *p)
{
    return p->family->ignores_merges;
}

bool mp_pretok_adds_bos(const struct mp_pretok *p)
{
    return p->family->adds_bos;
}

struct mp_cut *mp_cut_new(void)
{
    struct mp_cut *c = mp_calloc(sizeof *c);
    c->match = pcre2_match_data_create(1, NULL);
    c->limits = pcre2_match_context_create(NULL);
    if (!c->match || !c->limits) {
        mp_cut_free(c);
        return NULL;
    }
    return c;
}

void mp_cut_free(struct mp_cut *c)
{
    if (!c)
        return;
    pcre2_match_data_free(c->match);
    pcre2_match_context_free(c->limits);
    mp_free(c->shadow);
    mp_free(c);
}

int mp_cut_begin(struct mp_cut *c, const struct mp_pretok *p, const char *text, size_t n, struct mp_err *err)
{
    size_t good = mp_utf8_valid_prefix(text, n);
    c->p = p;
    c->text = text;
    c->n = n;
    c->at = 0;
    /* Backtracking is one step per character of a run of white space, never more. */
    pcre2_set_match_limit(c->limits, (uint32_t)(1000 + 4 * n));
    pcre2_set_heap_limit(c->limits, 256 * 1024); /* KiB */
    if (good == n)
        return 0;
    if (n > c->shadow_cap) {
        char *shadow = mp_try_realloc(c->shadow, n);
        if (!shadow)
            return mp_err_set(err, MP_ENOMEM, "no memory to cut a text of %zu bytes", n);
        c->shadow = shadow;
        c->shadow_cap = n;
    }
    memcpy(c->shadow, text, n);
    while (good < n) {
        c->shadow[good++] = 1; /* a control character: no letter, number or space */
        good += mp_utf8_valid_prefix(text + good, n - good);
    }
    c->text = c->shadow;
    return 0;
}

int mp_cut_next(struct mp_cut *c, size_t *from, size_t *to, struct mp_err *err)
{
    if (c->at == c->n)
        return 0;
    int rc = pcre2_match(c->p->code, (PCRE2_SPTR)c->text, c->n, c->at, PCRE2_NO_UTF_CHECK, c->match, c->limits);
    if (rc < 0) /* the expressions match every character; what remains are limits and memory */
        return mp_err_set(err, rc == PCRE2_ERROR_NOMEMORY ? MP_ENOMEM : MP_ELIMIT,
                          "the text cannot be cut at byte %zu (PCRE2 error %d)", c->at, rc);
    *from = c->at;
    c->at = *to = pcre2_get_ovector_pointer(c->match)[1];
    return 1;
}
