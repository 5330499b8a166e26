/* core/script/format.h — how a stream of tokens looks on the wire: formatters write server-sent events, without Lua.
 *
 * `stream:as "openai.chat"` picks one by name; lua_stream.c pumps tokens through it. "default" is format.c's own; the
 * OpenAI ones are format_openai.c. To add one: write the four functions, add a row to the table in format.c. */
#ifndef MP_SCRIPT_FORMAT_H
#define MP_SCRIPT_FORMAT_H
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/pool/call.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a stream:as call and the request give; strings live as long as the run. */
struct mp_format_options {
    const char *request_id;
    const char *id;    /* of the answer ("chatcmpl-…"): stream:as's `id`, else made from the request's */
    const char *model; /* name to show: stream:as's `model`, else the model's */
    int64_t created;   /* seconds since 1970 */
    bool include_usage;
};

/* How a generation ended. */
struct mp_format_result {
    const char *finish_reason; /* "stop", "length" */
    struct mp_usage usage;
};

/* The times of a usage: member's name, field of struct mp_usage. */
#define MP_USAGE_SECONDS(X)          \
    X("device_seconds", device_ns)   \
    X("queue_seconds", queue_ns)     \
    X("load_seconds", load_ns)       \
    X("prefill_seconds", prefill_ns) \
    X("decode_seconds", decode_ns)   \
    X("ttft_seconds", ttft_ns)
double mp_format_seconds(uint64_t ns); /* whole microseconds */
unsigned
mp_format_wait(double retry_after); /* as Retry-After has it: whole seconds, rounded up, 1 to 86,400; 0: unknown */
/* Appends `,"device_seconds":0.25,"queue_seconds":…`: every time of the usage. */
void mp_format_usage_seconds(struct mp_buf *out, const struct mp_usage *u);

struct mp_formatter {
    const char *name; /* "openai.chat" */
    /* Each appends whole events ("data: {…}\n\n") to out. text: whole UTF-8 sequences, n > 0. */
    void (*begin)(const struct mp_format_options *o,
                  struct mp_buf *out); /* before the first delta (optional: nothing) */
    void (*delta)(const struct mp_format_options *o, struct mp_buf *out, const char *text, size_t n);
    void (*done)(const struct mp_format_options *o, struct mp_buf *out, const struct mp_format_result *r);
    /* After the 200 an error can only be an event; nothing follows it. */
    void (*error)(const struct mp_format_options *o, struct mp_buf *out, const struct mp_err *err);
};

const struct mp_formatter *mp_formatter_find(const char *name); /* NULL when unknown */
void mp_formatter_names(struct mp_buf *out);                    /* appends "default, openai.chat, openai.completion" */

extern const struct mp_formatter mp_format_default;
extern const struct mp_formatter mp_format_openai_chat, mp_format_openai_completion; /* format_openai.c */

/* Appends {"error":{"code":…,"message":…,"status":…,"retry_after"?:…,"request_id":…}} for err: what an error event of ours holds. */
void mp_format_error_body(struct mp_buf *out, const struct mp_err *err, const char *request_id);
/* Appends "data: ", the bytes, "\n\n". The bytes hold no newline (JSON does not). */
void mp_format_event(struct mp_buf *out, const char *json, size_t n);

#endif
