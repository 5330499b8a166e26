/* core/cli/cmd_gateway.c — `moonpool _gateway`: the gateway process, as the supervisor starts it. Not for people. */
#include "core/base/mem.h"
#include "core/base/proctitle.h"
#include "core/cli/cli.h"
#include "core/gateway/control.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LISTEN = 8 };

static int run_gateway(int argc, char **argv)
{
    char *listen[MAX_LISTEN] = {NULL}, *state = NULL,
         *conf = NULL; /* the title overwrites the arguments: kept as copies */
    struct mp_control_options o = {.ctl_fd = -1, .parent_fd = -1};
    int code;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--restore") == 0) {
            o.restore = true;
            continue;
        }
        if (strcmp(argv[i], "--watch") == 0) {
            o.watch = true;
            continue;
        }
        if (!value)
            break;
        if (strcmp(argv[i], "--ctl-fd") == 0)
            o.ctl_fd = atoi(value);
        else if (strcmp(argv[i], "--parent-fd") == 0)
            o.parent_fd = atoi(value);
        else if (strcmp(argv[i], "--state") == 0)
            state = mp_strdup(value);
        else if (strcmp(argv[i], "--drain") == 0)
            o.drain = strtod(value, NULL);
        else if (strcmp(argv[i], "--grace") == 0)
            o.grace = strtod(value, NULL);
        else if (strcmp(argv[i], "--listen") == 0 && o.n_listen < MAX_LISTEN)
            listen[o.n_listen++] = mp_strdup(value);
        else if (strcmp(argv[i], "--") == 0)
            conf = mp_strdup(value);
        else
            return mp_cli_usage(&mp_cmd_gateway, "unknown option '%s'", argv[i]);
        i++;
    }
    o.conf = conf;
    o.state = state;
    o.listen = (const char *const *)listen;
    if (!conf || !state || fcntl(o.ctl_fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(o.parent_fd, F_SETFD, FD_CLOEXEC) < 0)
        code = mp_cli_usage(&mp_cmd_gateway, "only `moonpool serve` starts this");
    else {
        mp_proctitle_set("moonpool: gateway");
        code = mp_control_run(&o);
    }
    for (uint32_t i = 0; i < o.n_listen; i++)
        mp_free(listen[i]);
    mp_free(conf);
    mp_free(state);
    return code;
}

const struct mp_cmd mp_cmd_gateway = {
    "_gateway",
    "--ctl-fd N --parent-fd N --state DIR [--drain S] [--grace S] [--listen ADDRESS]... [--watch] [--restore] -- CONF",
    "the gateway process of `moonpool serve`", NULL, run_gateway};
