/* core/cli/cmd_reload.c — `moonpool reload`: has a running server take its configuration anew, and waits for how that went. */
#include "core/cli/ask.h"

#include <stdio.h>
#include <string.h>

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_reload};
    bool dry = false;
    int code = MP_EXIT_USAGE;
    for (int i = 1; i < argc; i++) {
        int taken = mp_ask_option(&a, argc, argv, &i);
        if (taken < 0)
            goto out;
        if (taken)
            continue;
        if (strcmp(argv[i], "--dry-run") == 0) {
            dry = true;
            continue;
        }
        if (argv[i][0] == '-' || a.conf) {
            mp_cli_usage(a.cmd, argv[i][0] == '-' ? "unknown option '%s'" : "one configuration, not also '%s'",
                         argv[i]);
            goto out;
        }
        a.conf = argv[i];
    }
    code = mp_ask_reload(&a, "/reload", dry ? "{\"dry_run\":true}" : "{}");
out:
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_reload = {
    "reload",
    "[--dry-run] [--json] " MP_ASK_ARGS " [CONF]",
    "has a running server take its configuration anew",
    "Waits, then prints what changed, or every error there is: then the old configuration goes on serving.\n\n"
    "  CONF            the server of this configuration, when several run\n"
    "  --dry-run       check everything and print what would change; nothing does\n"
    "  --json          the server's answer as it is\n" MP_ASK_HELP "\n" MP_ASK_EXIT,
    run,
};
