/* core/cli/cmd_serve.c — `moonpool serve`: checks the command line, finds the places, and becomes the supervisor. */
#include "core/base/mem.h"
#include "core/cli/cli.h"
#include "core/cli/places.h"
#include "core/cli/supervisor.h"
#include "core/gateway/address.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LISTEN = 8 };

static bool parse_seconds(const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < 0 || v > 86400)
        return false;
    *out = v;
    return true;
}

static int complain(const struct mp_err *err, int code)
{
    fprintf(stderr, "moonpool serve: %s\n", err->message);
    return code;
}

static int check_listen(const char *text, struct mp_err *err)
{
    struct mp_address a;
    int rc = mp_address_parse(&a, text, err);
    if (rc == 0 && !a.loopback)
        rc = mp_err_set(
            err, MP_EINVAL,
            "--listen %s: without API keys moonpool listens on loopback only (127.0.0.1, [::1]), and keys are "
            "not yet built",
            text);
    return rc;
}

static int run_serve(int argc, char **argv)
{
    const char *state = NULL, *runtime = NULL, *conf = NULL, *listen[MAX_LISTEN];
    struct mp_supervisor_options o = {.listen = listen, .drain = 300, .grace = 0, .engine_linger = 60};
    char *state_path = NULL, *runtime_path = NULL, *note = NULL;
    struct mp_err err = {0};
    bool options = true;
    int lock = -1, code;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!options || a[0] != '-') {
            if (conf)
                return mp_cli_usage(&mp_cmd_serve, "one configuration, not '%s' and '%s'", conf, a);
            conf = a;
            continue;
        }
        if (strcmp(a, "--") == 0) {
            options = false;
            continue;
        }
        if (strcmp(a, "--watch") == 0) {
            o.watch = true;
            continue;
        }
        if (strcmp(a, "--listen") != 0 && strcmp(a, "--state") != 0 && strcmp(a, "--runtime") != 0 &&
            strcmp(a, "--drain") != 0 && strcmp(a, "--grace") != 0 && strcmp(a, "--engine-linger") != 0)
            return mp_cli_usage(&mp_cmd_serve, "unknown option '%s'", a);
        if (!value)
            return mp_cli_usage(&mp_cmd_serve, "%s needs a value", a);
        i++;
        if (strcmp(a, "--state") == 0)
            state = value;
        else if (strcmp(a, "--runtime") == 0)
            runtime = value;
        else if (strcmp(a, "--listen") == 0) {
            if (o.n_listen == MAX_LISTEN)
                return mp_cli_usage(&mp_cmd_serve, "at most %d times --listen", MAX_LISTEN);
            if (check_listen(value, &err) < 0)
                return complain(&err, MP_EXIT_USAGE);
            for (uint32_t k = 0; k < o.n_listen; k++)
                if (strcmp(listen[k], value) == 0)
                    return mp_cli_usage(&mp_cmd_serve, "--listen %s is given twice", value);
            listen[o.n_listen++] = value;
        } else if (!parse_seconds(value, strcmp(a, "--drain") == 0   ? &o.drain
                                         : strcmp(a, "--grace") == 0 ? &o.grace
                                                                     : &o.engine_linger))
            return mp_cli_usage(&mp_cmd_serve, "%s wants seconds, 0 to 86400, not '%s'", a, value);
    }
    if (!conf)
        return mp_cli_usage(&mp_cmd_serve, "which configuration?");
    umask(077);
    code = MP_EXIT_USAGE;
    note = mp_asprintf("moonpool serve, pid %d, configuration %s", (int)getpid(), conf);
    state_path = mp_place_state(state, &err);
    if (!state_path || mp_place_lock(state_path, note, &lock, &err) < 0 ||
        !(runtime_path = mp_place_runtime(runtime, &err))) {
        complain(&err, code);
        goto out;
    }
    o.conf = conf;
    o.state = state_path;
    o.runtime = runtime_path;
    code = mp_supervisor_run(&o);
out:
    if (lock >= 0)
        close(lock);
    mp_free(note);
    mp_free(state_path);
    mp_free(runtime_path);
    return code;
}

const struct mp_cmd mp_cmd_serve = {
    "serve",
    "[--watch] [--listen ADDRESS]... [--state DIR] [--runtime DIR] [--drain SECONDS] [--grace SECONDS] "
    "[--engine-linger "
    "SECONDS]\n"
    "       CONF",
    "serves the endpoints and models of a configuration",
    "  --listen ADDRESS   instead of the configuration's addresses: 127.0.0.1:7171, [::1]:0 (0: any free port)\n"
    "  --watch            reload when a file of the configuration changes\n"
    "  --state DIR        what must outlive the server; default $STATE_DIRECTORY, $XDG_STATE_HOME/moonpool,\n"
    "                     ~/.local/state/moonpool. One server at a time\n"
    "  --runtime DIR      sockets; default $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/moonpool, a private folder under /tmp\n"
    "  --drain SECONDS    how long running requests may go on at a stop (300)\n"
    "  --grace SECONDS    how long connections are still accepted at a stop, while /readyz says 503 (0)\n"
    "  --engine-linger SECONDS  how long an engine stays when nothing is loaded and nothing is asked (60)\n\n"
    "SIGHUP: reloads the configuration, as `moonpool reload` does; the outcome is in the log.\n"
    "SIGTERM or SIGINT: stops, letting running requests end; a second one: at once.\n"
    "Prints `ready http://ADDRESS` on stderr once requests are accepted and models with min_replicas >= 1 are loaded.\n"
    "Exit codes: 0 stopped as told; 1 failed; 2 bad command line, configuration, model file, or an address is taken.\n",
    run_serve};
