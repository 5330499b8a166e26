/* core/script/format_openai.c — streams in OpenAI's grammar: chat completion chunks (a role, the text, an empty last delta with
 * the reason, the usage if asked for, [DONE]) and the older completions' chunks. plugins/openai picks them. */
#include "core/base/json.h"
#include "core/script/format.h"

#include <string.h>

static void put_string(struct mp_buf *out, const char *s)
{
    mp_json_put_string(out, s, strlen(s));
}

static void open_chunk(const struct mp_format_options *o, struct mp_buf *out, const char *prefix, const char *object)
{
    mp_buf_puts(out, "data: {\"id\":");
    if (o->id) {
        put_string(out, o->id);
    } else {
        mp_buf_printf(out, "\"%s", prefix);
        mp_buf_puts(out, o->request_id);
        mp_buf_putc(out, '"');
    }
    mp_buf_printf(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object, (long long)o->created);
    put_string(out, o->model);
}

static void close_chunk(const struct mp_format_options *o, struct mp_buf *out)
{
    /* With usage asked for, every chunk has the member; all but the last have null. */
    mp_buf_puts(out, o->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

static void put_usage(const struct mp_format_options *o, struct mp_buf *out, const struct mp_format_result *r,
                      const char *prefix, const char *object)
{
    if (o->include_usage) {
        open_chunk(o, out, prefix, object);
        const struct mp_usage *u = &r->usage;
        mp_buf_printf(
            out, ",\"choices\":[],\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%llu",
            u->prompt_tokens, u->completion_tokens, (unsigned long long)u->prompt_tokens + u->completion_tokens);
        mp_format_usage_seconds(out, u);
        mp_buf_puts(out, "}}\n\n");
    }
    mp_buf_puts(out, "data: [DONE]\n\n");
}

static void put_error(const struct mp_format_options *o, struct mp_buf *out, const struct mp_err *err)
{
    int status = mp_err_status(err->code);
    (void)o;
    mp_buf_puts(out, "data: {\"error\":{\"message\":");
    put_string(out, err->message);
    mp_buf_printf(out, ",\"type\":\"%s\",\"param\":null,\"code\":",
                  status == 429  ? "rate_limit_error"
                  : status < 500 ? "invalid_request_error"
                                 : "server_error");
    put_string(out, mp_err_name(err->code));
    if (mp_format_wait(err->retry_after))
        mp_buf_printf(out, ",\"retry_after\":%u", mp_format_wait(err->retry_after));
    mp_buf_puts(out, "}}\n\n");
}

/* ---- chat completions ---- */

static const char chat_id[] = "chatcmpl-", chat_object[] = "chat.completion.chunk";

static void chat_begin(const struct mp_format_options *o, struct mp_buf *out)
{
    open_chunk(o, out, chat_id, chat_object);
    mp_buf_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                     "\"finish_reason\":null}]");
    close_chunk(o, out);
}

static void chat_delta(const struct mp_format_options *o, struct mp_buf *out, const char *text, size_t n)
{
    open_chunk(o, out, chat_id, chat_object);
    mp_buf_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{\"content\":");
    mp_json_put_string(out, text, n);
    mp_buf_puts(out, "},\"logprobs\":null,\"finish_reason\":null}]");
    close_chunk(o, out);
}

static void chat_done(const struct mp_format_options *o, struct mp_buf *out, const struct mp_format_result *r)
{
    open_chunk(o, out, chat_id, chat_object);
    mp_buf_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":");
    put_string(out, r->finish_reason);
    mp_buf_puts(out, "}]");
    close_chunk(o, out);
    put_usage(o, out, r, chat_id, chat_object);
}

const struct mp_formatter mp_format_openai_chat = {"openai.chat", chat_begin, chat_delta, chat_done, put_error};

/* ---- completions ---- */

static const char text_id[] = "cmpl-", text_object[] = "text_completion";

static void put_text(const struct mp_format_options *o, struct mp_buf *out, const char *text, size_t n,
                     const char *reason)
{
    open_chunk(o, out, text_id, text_object);
    mp_buf_puts(out, ",\"choices\":[{\"text\":");
    mp_json_put_string(out, text, n);
    mp_buf_puts(out, ",\"index\":0,\"logprobs\":null,\"finish_reason\":");
    if (reason)
        put_string(out, reason);
    else
        mp_buf_puts(out, "null");
    mp_buf_puts(out, "}]");
    close_chunk(o, out);
}

static void text_delta(const struct mp_format_options *o, struct mp_buf *out, const char *text, size_t n)
{
    put_text(o, out, text, n, NULL);
}

static void text_done(const struct mp_format_options *o, struct mp_buf *out, const struct mp_format_result *r)
{
    put_text(o, out, "", 0, r->finish_reason);
    put_usage(o, out, r, text_id, text_object);
}

const struct mp_formatter mp_format_openai_completion = {"openai.completion", NULL, text_delta, text_done, put_error};
