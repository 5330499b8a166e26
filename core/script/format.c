/* core/script/format.c — see format.h: the table of formatters, the default one, events. */
#include "core/script/format.h"

#include "core/base/json.h"
#include "core/base/mem.h"

#include <math.h>
#include <string.h>

double mp_format_seconds(uint64_t ns)
{
    return round((double)ns / 1e3) / 1e6;
}

unsigned mp_format_wait(double retry_after)
{
    return retry_after > 0 && isfinite(retry_after) ? (unsigned)ceil(retry_after < 86400 ? retry_after : 86400) : 0;
}

void mp_format_usage_seconds(struct mp_buf *out, const struct mp_usage *u)
{
    const struct {
        const char *name;
        uint64_t ns;
    } times[] = {
#define X(name, field) {name, u->field},
        MP_USAGE_SECONDS(X)
#undef X
    };
    for (size_t i = 0; i < MP_COUNT(times); i++) {
        mp_buf_printf(out, ",\"%s\":", times[i].name);
        mp_json_put_number(out, mp_format_seconds(times[i].ns));
    }
}

void mp_format_event(struct mp_buf *out, const char *json, size_t n)
{
    mp_buf_puts(out, "data: ");
    mp_buf_put(out, json, n);
    mp_buf_puts(out, "\n\n");
}

static void default_delta(const struct mp_format_options *o, struct mp_buf *out, const char *text, size_t n)
{
    (void)o;
    mp_buf_puts(out, "data: {\"text\":");
    mp_json_put_string(out, text, n);
    mp_buf_puts(out, "}\n\n");
}

static void default_done(const struct mp_format_options *o, struct mp_buf *out, const struct mp_format_result *r)
{
    (void)o;
    mp_buf_printf(
        out, "data: {\"done\":true,\"finish_reason\":\"%s\",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u",
        r->finish_reason, r->usage.prompt_tokens, r->usage.completion_tokens);
    mp_format_usage_seconds(out, &r->usage);
    mp_buf_puts(out, "}}\n\n");
}

static void default_error(const struct mp_format_options *o, struct mp_buf *out, const struct mp_err *err)
{
    mp_buf_puts(out, "data: ");
    mp_format_error_body(out, err, o->request_id);
    mp_buf_puts(out, "\n\n");
}

const struct mp_formatter mp_format_default = {"default", NULL, default_delta, default_done, default_error};

static const struct mp_formatter *const all[] = {
    &mp_format_default,
    &mp_format_openai_chat,
    &mp_format_openai_completion,
};

const struct mp_formatter *mp_formatter_find(const char *name)
{
    for (size_t i = 0; i < MP_COUNT(all); i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

void mp_formatter_names(struct mp_buf *out)
{
    for (size_t i = 0; i < MP_COUNT(all); i++)
        mp_buf_printf(out, "%s%s", i ? ", " : "", all[i]->name);
}
