/* core/cli/cmd_inspect.c — `moonpool inspect`: what a model file holds, whether it holds together, and what it would need. */
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/cli/cli.h"
#include "core/cli/paths.h"
#include "core/cli/show.h"
#include "core/model/arch.h"
#include "core/model/gguf.h"
#include "core/model/template.h"
#include "core/model/tokenizer.h"
#include "core/model/weights.h"
#include "gpu/blocks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    SHOWN_TEXT = 60,   /* bytes of a string shown */
    SHOWN_ITEMS = 6,   /* elements of an array shown */
    MAX_TYPE = 64,     /* above every storage type's id */
    STEP_TOKENS = 512, /* of the step that scratch is sized for: the engine's defaults */
    STEP_SEQS = 16,
};

struct view { /* what is known of the file; what could not be said has its reason */
    const struct mp_gguf *g;
    struct mp_tok *tok;
    struct mp_err tok_err;
    struct mp_plan *plan;
    struct mp_err plan_err;
    bool has_template; /* else the default's */
    struct mp_err template_err;
    uint64_t values, bytes_of[MAX_TYPE], tensors_of[MAX_TYPE];
    bool sized; /* the memory figures hold */
    struct mp_err size_err;
    char device[64];
    uint64_t weights, scratch, kv_token, kv_context;
};

/* ---- finding out ---- */

/* What the model takes on this device with the engine's usual limits. */
static int size_on(struct view *v, const struct mp_device_ops *ops, struct mp_dev *dev)
{
    struct mp_caps caps = {0};
    struct mp_limits lim = {.max_tok = STEP_TOKENS, .max_seq = STEP_SEQS, .max_out = STEP_SEQS, .max_slot = STEP_SEQS};
    struct mp_weights *w = NULL;
    uint64_t page_bytes[MP_MAX_KVS] = {0};
    ops->caps(dev, &caps);
    lim.max_seq_pages = (v->plan->n_context + caps.page_tokens - 1) / caps.page_tokens;
    lim.max_pages = lim.max_seq_pages;
    lim.numerics = MP_NUM_PLAIN;
    lim.invariant = caps.invariant;
    snprintf(v->device, sizeof v->device, "%s", caps.name);
    int rc = mp_weights_find(&w, v->g, v->plan, ops, dev, &lim, &v->size_err);
    if (rc == 0) {
        v->weights = w->bytes;
        rc = ops->need(dev, v->plan, &lim, &v->scratch, page_bytes, &v->size_err);
    }
    for (uint32_t i = 0; i < v->plan->n_kvs && rc == 0; i++) {
        v->kv_token += page_bytes[i] / caps.page_tokens;
        v->kv_context += page_bytes[i] * lim.max_seq_pages;
    }
    mp_weights_free(w);
    return rc;
}

static void size_up(struct view *v)
{
    const struct mp_device_ops *ops = mp_device_find("cpu");
    struct mp_dev *dev = NULL;
    if (!v->plan)
        v->size_err = v->plan_err;
    else if (!ops)
        mp_err_set(&v->size_err, MP_EUNAVAILABLE, "this build has no CPU device");
    else if (ops->open(&dev, "", &v->size_err) == 0) {
        v->sized = size_on(v, ops, dev) == 0;
        ops->close(dev);
    }
}

/* MP_EFORMAT and the like are the file's faults and end it; what is only not built yet is kept as a reason. */
static int look(struct view *v, struct mp_err *err)
{
    struct mp_template *t = NULL;
    for (uint32_t i = 0; i < mp_gguf_n_tensors(v->g); i++) {
        const struct mp_gguf_tensor *t = mp_gguf_tensor(v->g, i);
        v->values += t->n_values; /* cannot overflow: they lie side by side in one file */
        v->bytes_of[t->type] += t->bytes;
        v->tensors_of[t->type]++;
    }
    int rc = mp_gguf_find(v->g, "tokenizer.ggml.model") ? mp_tok_new(&v->tok, v->g, &v->tok_err)
                                                        : mp_err_set(&v->tok_err, MP_EUNSUPPORTED, "the file has none");
    if (rc < 0 && rc != MP_EUNSUPPORTED) {
        *err = v->tok_err;
        return rc;
    }
    rc = mp_gguf_n_tensors(v->g) > 0
             ? mp_arch_build(v->g, NULL, &v->plan, &v->plan_err)
             : mp_err_set(&v->plan_err, MP_EUNSUPPORTED, "the file holds a vocabulary only: no tensors");
    if (rc < 0 && rc != MP_EUNSUPPORTED) {
        *err = v->plan_err;
        return rc;
    }
    rc = v->tok ? mp_template_new(&t, v->g, &v->template_err)
                : mp_err_set(&v->template_err, MP_EUNSUPPORTED, "there is no tokenizer");
    if (rc == 0) {
        v->template_err.code = 0;
        v->has_template = !mp_template_is_default(t);
    }
    mp_template_free(t);
    if (rc < 0 && rc != MP_EUNSUPPORTED) {
        *err = v->template_err;
        mp_gguf_context(v->g, err);
        return rc;
    }
    size_up(v);
    return 0;
}

/* ---- as text ---- */

static void put_element(struct mp_buf *out, const struct mp_gguf_kv *kv, uint64_t i)
{
    int64_t whole;
    double number;
    bool flag;
    if (mp_gguf_bool_at(kv, i, &flag)) {
        mp_buf_puts(out, flag ? "true" : "false");
    } else if (mp_gguf_int_at(kv, i, &whole)) {
        mp_buf_printf(out, "%lld", (long long)whole);
    } else if (mp_gguf_num_at(kv, i, &number)) {
        mp_buf_printf(out, "%.9g", number);
    } else { /* a u64 beyond i64 */
        uint64_t v;
        memcpy(&v, (const char *)kv->data + 8 * i, 8);
        mp_buf_printf(out, "%llu", (unsigned long long)v);
    }
}

static void put_value(struct mp_buf *out, const struct mp_gguf_kv *kv)
{
    if (kv->type == MP_GGUF_STR) {
        mp_show_text(out, kv->data, kv->bytes, SHOWN_TEXT);
        if (kv->bytes > SHOWN_TEXT) {
            mp_buf_puts(out, " (");
            mp_show_bytes(out, kv->bytes);
            mp_buf_putc(out, ')');
        }
        return;
    }
    if (kv->type != MP_GGUF_ARR) {
        put_element(out, kv, 0);
        return;
    }
    size_t at = 0, n;
    const char *s;
    mp_buf_putc(out, '[');
    for (uint64_t i = 0; i < kv->count && i < SHOWN_ITEMS; i++) {
        mp_buf_puts(out, i ? ", " : "");
        if (mp_gguf_str_next(kv, &at, &s, &n))
            mp_show_text(out, s, n, SHOWN_TEXT / 3);
        else
            put_element(out, kv, i);
    }
    if (kv->count > SHOWN_ITEMS) {
        mp_buf_puts(out, ", … ");
        mp_show_count(out, kv->count);
        mp_buf_puts(out, " in all");
    }
    mp_buf_putc(out, ']');
}

static void put_head(struct mp_buf *out, const struct view *v)
{
    mp_buf_printf(out, "%s: GGUF version %u, ", mp_gguf_path(v->g), mp_gguf_version(v->g));
    mp_show_bytes(out, mp_gguf_identity(v->g)->size);
    mp_buf_puts(out, ", header ");
    mp_show_bytes(out, mp_gguf_data_offset(v->g));
    mp_buf_printf(out, "\n\nmetadata (%u keys)\n", mp_gguf_n_kv(v->g));
    for (uint32_t i = 0; i < mp_gguf_n_kv(v->g); i++) {
        const struct mp_gguf_kv *kv = mp_gguf_kv(v->g, i);
        mp_buf_printf(out, "  %-44s %-4s ", kv->key, mp_gguf_type_name(kv->type));
        put_value(out, kv);
        mp_buf_putc(out, '\n');
    }
}

static void put_tensors(struct mp_buf *out, const struct view *v)
{
    mp_buf_printf(out, "\ntensors (%u)\n", mp_gguf_n_tensors(v->g));
    for (uint32_t i = 0; i < mp_gguf_n_tensors(v->g); i++) {
        const struct mp_gguf_tensor *t = mp_gguf_tensor(v->g, i);
        struct mp_buf shape = {0};
        for (uint32_t d = 0; d < t->n_dims; d++)
            mp_buf_printf(&shape, "%s%llu", d ? " x " : "", (unsigned long long)t->ne[d]);
        mp_buf_printf(out, "  %-44s %-5s %-20s ", t->name, mp_type_info(t->type)->name, mp_buf_cstr(&shape));
        mp_show_bytes(out, t->bytes);
        mp_buf_putc(out, '\n');
        mp_buf_free(&shape);
    }
    mp_buf_puts(out, "\nparameters  ");
    mp_show_count(out, v->values);
    mp_buf_putc(out, '\n');
    for (uint32_t type = 0; type < MAX_TYPE; type++)
        if (v->tensors_of[type]) {
            mp_buf_printf(out, "  %-5s %5llu tensors  ", mp_type_info(type)->name,
                          (unsigned long long)v->tensors_of[type]);
            mp_show_bytes(out, v->bytes_of[type]);
            mp_buf_putc(out, '\n');
        }
}

static void put_needs(struct mp_buf *out, const struct view *v)
{
    mp_buf_puts(out, "\ntokenizer   ");
    if (v->tok) {
        size_t n;
        const int32_t *eog = mp_tok_eog(v->tok, &n);
        mp_buf_printf(out, "byte-level BPE, %s, %u tokens; ends a generation:", mp_tok_pre(v->tok),
                      mp_tok_n_vocab(v->tok));
        for (size_t i = 0; i < n; i++) {
            size_t len;
            const char *text = mp_tok_text(v->tok, eog[i], &len);
            mp_buf_printf(out, "%s%d ", i ? ", " : " ", eog[i]);
            mp_show_text(out, text, len, SHOWN_TEXT);
        }
        mp_buf_puts(out, n ? "\n" : " nothing\n");
    } else {
        mp_buf_printf(out, "none: %s\n", v->tok_err.message);
    }
    if (v->template_err.code)
        mp_buf_printf(out, "template    not usable: %s\n", v->template_err.message);
    else
        mp_buf_printf(out, "template    %s\n", v->has_template ? "the file's own" : "the file has none: ChatML");
    if (!v->sized) {
        mp_buf_printf(out, "memory      not known: %s\n", v->size_err.message);
        return;
    }
    mp_buf_printf(out, "memory      on %s, plain numerics\n  weights   ", v->device);
    mp_show_bytes(out, v->weights);
    mp_buf_puts(out, "\n  KV cache  ");
    mp_show_bytes(out, v->kv_token);
    mp_buf_puts(out, " a token, ");
    mp_show_bytes(out, v->kv_context);
    mp_buf_printf(out, " for a context of %u\n  scratch   ", v->plan->n_context);
    mp_show_bytes(out, v->scratch);
    mp_buf_printf(out, " for steps of %d tokens in %d sequences\n", STEP_TOKENS, STEP_SEQS);
}

/* ---- as JSON ---- */

static void json_element(struct mp_buf *out, const struct mp_gguf_kv *kv, uint64_t i)
{
    double number;
    if (mp_gguf_num_at(kv, i, &number) && (kv->elem == MP_GGUF_F32 || kv->elem == MP_GGUF_F64)) {
        if (isfinite(number))
            mp_json_put_number(out, number);
        else
            mp_buf_puts(out, "null");
    } else {
        put_element(out, kv, i);
    }
}

static void json_value(struct mp_buf *out, const struct mp_gguf_kv *kv)
{
    size_t at = 0, n;
    const char *s;
    if (kv->type == MP_GGUF_STR) {
        mp_json_put_string(out, kv->data, kv->bytes);
        return;
    }
    if (kv->type != MP_GGUF_ARR) {
        json_element(out, kv, 0);
        return;
    }
    mp_buf_printf(out, "{\"count\":%llu,\"first\":[", (unsigned long long)kv->count);
    for (uint64_t i = 0; i < kv->count && i < SHOWN_ITEMS; i++) {
        mp_buf_puts(out, i ? "," : "");
        if (mp_gguf_str_next(kv, &at, &s, &n))
            mp_json_put_string(out, s, n);
        else
            json_element(out, kv, i);
    }
    mp_buf_puts(out, "]}");
}

static void put_json(struct mp_buf *out, const struct view *v, bool with_plan)
{
    mp_buf_puts(out, "{\"file\":");
    mp_json_put_string(out, mp_gguf_path(v->g), strlen(mp_gguf_path(v->g)));
    mp_buf_printf(out, ",\"version\":%u,\"bytes\":%llu,\"header_bytes\":%llu,\"metadata\":{", mp_gguf_version(v->g),
                  (unsigned long long)mp_gguf_identity(v->g)->size, (unsigned long long)mp_gguf_data_offset(v->g));
    for (uint32_t i = 0; i < mp_gguf_n_kv(v->g); i++) {
        const struct mp_gguf_kv *kv = mp_gguf_kv(v->g, i);
        mp_buf_puts(out, i ? "," : "");
        mp_json_put_string(out, kv->key, strlen(kv->key));
        mp_buf_putc(out, ':');
        json_value(out, kv);
    }
    mp_buf_puts(out, "},\"tensors\":[");
    for (uint32_t i = 0; i < mp_gguf_n_tensors(v->g); i++) {
        const struct mp_gguf_tensor *t = mp_gguf_tensor(v->g, i);
        mp_buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        mp_json_put_string(out, t->name, strlen(t->name));
        mp_buf_printf(out, ",\"type\":\"%s\",\"shape\":[", mp_type_info(t->type)->name);
        for (uint32_t d = 0; d < t->n_dims; d++)
            mp_buf_printf(out, "%s%llu", d ? "," : "", (unsigned long long)t->ne[d]);
        mp_buf_printf(out, "],\"offset\":%llu,\"bytes\":%llu}", (unsigned long long)t->offset,
                      (unsigned long long)t->bytes);
    }
    mp_buf_printf(out, "],\"parameters\":%llu,\"memory\":", (unsigned long long)v->values);
    if (v->sized) {
        mp_buf_puts(out, "{\"device\":");
        mp_json_put_string(out, v->device, strlen(v->device));
        mp_buf_printf(out,
                      ",\"weights\":%llu,\"kv_per_token\":%llu,\"kv_context\":%llu,\"context\":%u,\"scratch\":%llu}",
                      (unsigned long long)v->weights, (unsigned long long)v->kv_token,
                      (unsigned long long)v->kv_context, v->plan->n_context, (unsigned long long)v->scratch);
    } else {
        mp_buf_puts(out, "null,\"memory_unknown\":");
        mp_json_put_string(out, v->size_err.message, strlen(v->size_err.message));
    }
    if (!v->tok) {
        mp_buf_puts(out, ",\"no_tokenizer\":");
        mp_json_put_string(out, v->tok_err.message, strlen(v->tok_err.message));
    }
    if (with_plan) {
        struct mp_buf plan = {0};
        mp_plan_print(v->plan, &plan);
        mp_buf_puts(out, ",\"plan\":");
        mp_json_put_string(out, plan.data, plan.len);
        mp_buf_free(&plan);
    }
    mp_buf_puts(out, "}\n");
}

/* ---- the command ---- */

static int run_inspect(int argc, char **argv)
{
    const char *file = NULL;
    bool with_plan = false, json = false, options = true;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!options || strncmp(a, "--", 2) != 0) {
            if (file)
                return mp_cli_usage(&mp_cmd_inspect, "one FILE is wanted; '%s' is a second", a);
            file = a;
        } else if (strcmp(a, "--") == 0) {
            options = false;
        } else if (strcmp(a, "--plan") == 0) {
            with_plan = true;
        } else if (strcmp(a, "--json") == 0) {
            json = true;
        } else {
            return mp_cli_usage(&mp_cmd_inspect, "unknown option '%s'", a);
        }
    }
    if (!file)
        return mp_cli_usage(&mp_cmd_inspect, "FILE is missing");

    struct view v = {0};
    struct mp_err err = {0};
    struct mp_gguf *g = NULL;
    struct mp_buf out = {0};
    char *path = mp_cli_model_path(file, &err);
    int rc = path ? mp_gguf_open(&g, path, &err) : err.code;
    v.g = g;
    if (rc == 0)
        rc = look(&v, &err);
    if (rc == 0 && with_plan && !v.plan) {
        err = v.plan_err;
        rc = err.code;
    }
    if (rc == 0 && json) {
        put_json(&out, &v, with_plan);
    } else if (rc == 0) {
        put_head(&out, &v);
        put_tensors(&out, &v);
        put_needs(&out, &v);
        if (with_plan) {
            mp_buf_puts(&out, "\nplan\n");
            mp_plan_print(v.plan, &out);
        }
    } else {
        fprintf(stderr, "moonpool inspect: %s\n", err.message);
    }
    fwrite(out.data ? out.data : "", 1, out.len, stdout);
    mp_buf_free(&out);
    mp_plan_free(v.plan);
    mp_tok_free(v.tok);
    mp_gguf_free(g);
    mp_free(path);
    return rc == 0 ? MP_EXIT_OK : MP_EXIT_USAGE;
}

const struct mp_cmd mp_cmd_inspect = {
    "inspect",
    "FILE [--plan] [--json]",
    "shows what a model file holds and needs",
    "FILE is a GGUF file, or its name in $MOONPOOL_MODELS (else models/). Its header, vocabulary and shapes are "
    "checked; its\n"
    "weights are not read.\n"
    "\n"
    "  --plan  what the model computes, node by node; fails where its architecture is not built in\n"
    "  --json  the same for programs\n"
    "\n"
    "Exit code: 0; 2 for a bad command line, a missing file, or one that does not hold together.\n",
    run_inspect,
};
