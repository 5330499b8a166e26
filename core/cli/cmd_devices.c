/* core/cli/cmd_devices.c — `moonpool devices`: the devices of a running server and what is reserved on them. */
#include "core/cli/ask.h"
#include "core/cli/facts.h"
#include "core/cli/show.h"

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_devices};
    const struct mp_val *v;
    struct mp_buf out = {0};
    int code = MP_EXIT_USAGE;
    if (!mp_ask_options(&a, argc, argv))
        goto out;
    v = mp_ask_get(&a, "/devices", &code);
    if (!v)
        goto out;
    mp_facts_devices(mp_val_get(v, "devices"), &out);
    for (const struct mp_val *m = mp_val_get(v, "missing")->first; m; m = m->next) {
        mp_show_plain(&out, m->text);
        mp_buf_putc(&out, '\n');
    }
    mp_show_out(&out);
out:
    mp_buf_free(&out);
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_devices = {
    "devices",
    "[--json] " MP_ASK_ARGS,
    "shows the devices of a running server and their memory",
    "MEMORY is what may be reserved at once, RESERVED what models hold against it, HELD what the engine has really "
    "taken;\n"
    "SWAPS counts loads that had to let another model go. What was looked for and not found stands below.\n\n"
    "  --json          as JSON, as the server gives it\n" MP_ASK_HELP "\n" MP_ASK_EXIT,
    run,
};
