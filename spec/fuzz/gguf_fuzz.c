/* spec/fuzz/gguf_fuzz.c — an input is a GGUF file: opened, all of it looked at, its vocabulary and its plan built, a text (the
 * input's own last bytes) encoded and decoded. Checked besides not crashing: what a header says of places and counts holds; untrusted text never
 * becomes a control token; the ids of a text stand for bytes of it, in order. */
#include "core/base/mem.h"
#include "core/model/arch.h"
#include "core/model/gguf.h"
#include "core/model/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void look_at_metadata(const struct mp_gguf *g)
{
    for (uint32_t i = 0; i < mp_gguf_n_kv(g); i++) {
        const struct mp_gguf_kv *kv = mp_gguf_kv(g, i);
        uint64_t n = 0;
        size_t at = 0, len;
        const char *s;
        int64_t whole;
        double number;
        bool flag;
        must(mp_gguf_find(g, kv->key) == kv);
        must(mp_gguf_type_name(kv->elem)[0] != '?');
        while (mp_gguf_str_next(kv, &at, &s, &len)) {
            must(len == 0 || s[0] == s[len - 1] || s[0] != s[len - 1]); /* touches both ends */
            n++;
        }
        if (kv->type == MP_GGUF_ARR && kv->elem == MP_GGUF_STR)
            must(n == kv->count);
        for (n = 0; n < kv->count && n < 1000 && kv->elem != MP_GGUF_STR; n++)
            mp_gguf_int_at(kv, n, &whole), mp_gguf_num_at(kv, n, &number), mp_gguf_bool_at(kv, n, &flag);
        must(!mp_gguf_int_at(kv, kv->count, &whole) && !mp_gguf_num_at(kv, UINT64_MAX, &number));
    }
}

static void look_at_tensors(const struct mp_gguf *g, size_t size)
{
    for (uint32_t i = 0; i < mp_gguf_n_tensors(g); i++) {
        const struct mp_gguf_tensor *t = mp_gguf_tensor(g, i);
        char ends[2];
        must(mp_gguf_tensor_find(g, t->name) == t);
        must(t->bytes > 0 && t->offset <= size && t->bytes <= size - t->offset);
        must(mp_gguf_read(g, t, 0, ends, 1, NULL) == 0 && mp_gguf_read(g, t, t->bytes - 1, ends, 1, NULL) == 0);
        must(mp_gguf_read(g, t, t->bytes, ends, 1, NULL) < 0);
    }
}

static void use_vocabulary(const struct mp_tok *t, const char *text, size_t n)
{
    struct mp_ids ids = {0};
    for (unsigned flags = 0; flags <= (MP_TOK_SPECIAL | MP_TOK_BOS); flags++) {
        size_t at = 0, len;
        ids.len = 0;
        must(mp_tok_encode(t, text, n, NULL, flags, &ids, NULL) == 0);
        for (size_t i = 0; i < ids.len; i++) {
            const char *piece = mp_tok_text(t, ids.data[i], &len);
            must(ids.data[i] >= 0 && (uint32_t)ids.data[i] < mp_tok_n_vocab(t));
            if (i == 0 && (flags & MP_TOK_BOS) && mp_tok_adds_bos(t))
                continue;
            must((flags & MP_TOK_SPECIAL) || !mp_tok_is_control(t, ids.data[i]));
            for (size_t k = 0; k < len; k++, at++) { /* bytes without a token are left out */
                while (at < n && text[at] != piece[k])
                    at++;
                must(at < n);
            }
        }
    }
    mp_ids_free(&ids);
}

static void build_plan(const struct mp_gguf *g)
{
    struct mp_plan *plan = NULL;
    struct mp_err err = {0};
    if (mp_arch_build(g, NULL, &plan, &err) == 0) {
        for (uint32_t i = 0; i < plan->n_weights; i++) {
            const struct mp_gguf_tensor *t = mp_gguf_tensor_find(g, plan->weights[i].name);
            must(t && t->ne[0] == plan->weights[i].ne[0] && t->ne[1] == plan->weights[i].ne[1]);
        }
        must(mp_plan_check(plan, &err) == 0);
    } else {
        must(err.code < 0 && strncmp(err.message, "input: ", 7) == 0);
    }
    mp_plan_free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mp_gguf *g = NULL;
    struct mp_tok *t = NULL;
    struct mp_err err = {0};
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    must(fd >= 0 && (size == 0 || write(fd, data, size) == (ssize_t)size));
    if (mp_gguf_open_fd(&g, fd, "input", &err) == 0) {
        look_at_metadata(g);
        look_at_tensors(g, size);
        if (mp_tok_new(&t, g, &err) == 0)
            use_vocabulary(t, (const char *)data + (size > 256 ? size - 256 : 0), size > 256 ? 256 : size);
        else
            must(err.code < 0 && strncmp(err.message, "input", 5) == 0);
        if (mp_gguf_find(g, "general.architecture"))
            build_plan(g);
    } else {
        must(err.code < 0 && strncmp(err.message, "input: ", 7) == 0);
    }
    mp_tok_free(t);
    mp_gguf_free(g);
    close(fd);
    return 0;
}
