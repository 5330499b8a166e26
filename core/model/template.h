/* core/model/template.h — chat templates: a request's messages become the text that the model reads. Used by the engine's
 * front threads and `moonpool run`.
 *
 * A template is Jinja text from the model's file, rendered by lua/moonpool/jinja.lua in a bounded VM of its own. Every byte
 * of the output carries whether it came from the template (trusted) or from the request; the tokenizer lets control
 * tokens match trusted bytes only. One mp_template belongs to one thread at a time. */
#ifndef MP_TEMPLATE_H
#define MP_TEMPLATE_H
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_gguf;
struct mp_template;

enum { MP_TEMPLATE_MAX = 64 << 10 }; /* bytes of a template */

struct mp_template_limits { /* zero: the default */
    uint64_t steps; /* nodes of the template that are evaluated, bytes handled by filters / 64 among them; 4 million */
    size_t output;  /* bytes; 16 MiB */
    uint32_t depth; /* of nested expressions, blocks and macro calls; 200 */
    size_t memory;  /* bytes of Lua memory for one rendering, on top of its request's; 64 MiB */
    int64_t now;    /* seconds since 1970 for strftime_now, in UTC; 0: the clock */
};

/* The file's own template (tokenizer.chat_template), bos and eos by its token ids; ChatML when it has none. Parsed once:
 * MP_EFORMAT with "chat template, line N: …" for one that cannot be read, MP_ELIMIT, MP_EUNSUPPORTED. */
int mp_template_new(struct mp_template **out, const struct mp_gguf *g, struct mp_err *err);
/* From n bytes of text; bos and eos may be NULL (empty then). */
int mp_template_new_text(struct mp_template **out, const char *text, size_t n, const char *bos, const char *eos,
                         struct mp_err *err);
void mp_template_free(struct mp_template *t);             /* NULL is fine */
bool mp_template_is_default(const struct mp_template *t); /* the file had none: ChatML is used */

/* request: JSON, an object with "messages" (a list of 1 to 2,048 objects with a "role"; "content" is a string, null, or a
 * list of {"type": "text", "text": …} parts, joined by newlines unless the template looks into lists itself), and
 * optionally "tools" (a list of at most 128 objects), "template_kwargs" (an object: further variables, not those of the
 * template's own) and "add_generation_prompt" (true unless said otherwise). Other members are ignored.
 * Appends to text, and for each byte of it 1 (trusted) or 0 to trust; on error both are as they were.
 * Errors: MP_EINVAL "messages[2].role: must be a string"; MP_EINVAL for what the template itself refuses
 * (raise_exception: "the chat template refused the request: …"); MP_EFORMAT JSON; MP_ELIMIT; MP_EMEMORY; MP_ESCRIPT "chat template,
 * line N: …" when the template and the request do not fit together. */
int mp_template_render(struct mp_template *t, const char *request, size_t n, const struct mp_template_limits *limits,
                       struct mp_buf *text, struct mp_buf *trust, struct mp_err *err);

#endif
