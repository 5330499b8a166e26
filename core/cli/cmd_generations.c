/* core/cli/cmd_generations.c — `moonpool generations`: which configurations a running server has, and which one serves. */
#include "core/cli/ask.h"
#include "core/cli/facts.h"
#include "core/cli/show.h"

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_generations};
    const struct mp_val *v;
    struct mp_buf out = {0};
    int code = MP_EXIT_USAGE;
    if (!mp_ask_options(&a, argc, argv))
        goto out;
    v = mp_ask_get(&a, "/generations", &code);
    if (!v)
        goto out;
    mp_facts_generations(mp_val_get(v, "generations"), &out);
    mp_show_out(&out);
out:
    mp_buf_free(&out);
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_generations = {
    "generations",
    "[--json] " MP_ASK_ARGS,
    "lists the generations of a running server's configuration",
    "Each reload that succeeds makes one. `active` serves; `draining` still has requests that began with it; `kept` "
    "and\n"
    "`on disk` are there for `moonpool rollback N`.\n\n"
    "  --json          as JSON, as the server gives it\n" MP_ASK_HELP "\n" MP_ASK_EXIT,
    run,
};
