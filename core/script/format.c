/* core/script/format.c — see format.h: the table of formatters, the default one, events. */
#include "core/script/format.h"

#include "core/base/json.h"
#include "core/base/mem.h"

#include <string.h>

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
    mp_buf_printf(out,
                  "data: "
                  "{\"done\":true,\"finish_reason\":\"%s\",\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%"
                  "llu,\"device_seconds\":",
                  r->finish_reason, (unsigned long long)r->prompt_tokens, (unsigned long long)r->completion_tokens);
    mp_json_put_number(out, (double)r->device_ns / 1e9);
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
