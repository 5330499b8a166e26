/* core/cli/cmd_rollback.c — `moonpool rollback [N]`: has a running server serve a configuration that it had before. */
#include "core/cli/ask.h"

#include <stdio.h>
#include <stdlib.h>

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_rollback};
    const char *number = NULL;
    char body[64] = "{}";
    int code = MP_EXIT_USAGE;
    for (int i = 1; i < argc; i++) {
        int taken = mp_ask_option(&a, argc, argv, &i);
        if (taken < 0)
            goto out;
        if (taken)
            continue;
        if (argv[i][0] == '-' || number) {
            mp_cli_usage(a.cmd, argv[i][0] == '-' ? "unknown option '%s'" : "one generation, not also '%s'", argv[i]);
            goto out;
        }
        number = argv[i];
    }
    if (number) {
        char *end;
        unsigned long long n = strtoull(number, &end, 10);
        if (number[0] < '0' || number[0] > '9' || *end || n < 1 || n >> 53) {
            mp_cli_usage(a.cmd, "'%s' is no generation's number: `moonpool generations` lists them", number);
            goto out;
        }
        snprintf(body, sizeof body, "{\"generation\":%llu}", n);
    }
    code = mp_ask_reload(&a, "/rollback", body);
out:
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_rollback = {
    "rollback",
    "[--json] " MP_ASK_ARGS " [N]",
    "has a running server serve an earlier configuration again",
    "Waits, then prints what changed. The files on disk stay as they are: the next reload takes them.\n\n"
    "  N               the generation's number (`moonpool generations`); without it the one before the active\n"
    "  --json          the server's answer as it is\n" MP_ASK_HELP "\n" MP_ASK_EXIT,
    run,
};
