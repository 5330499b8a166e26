/* core/cli/cmd_engine.c — `moonpool _engine`: the engine process of one device group. Started by the supervisor with inherited
 * descriptors; specs start it with a path. */
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/base/proctitle.h"
#include "core/cli/cli.h"
#include "core/engine/engine.h"
#include "core/wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A large model's first step on a slow, busy processor takes a minute, too: a false alarm costs more than a late one. */
enum { BACKLOG = 64, STEP_TIMEOUT_S = 300 };

static bool whole(const char *s, long most, long *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtol(s, &end, 10);
    return s[0] >= '0' && s[0] <= '9' && !*end && errno == 0 && *out <= most;
}

/* Seconds, at most a day, as nanoseconds. */
static bool seconds(const char *s, uint64_t *out)
{
    char *end = NULL;
    double v = strtod(s, &end);
    if (s[0] < '0' || s[0] > '9' || *end || !(v <= 86400))
        return false;
    *out = (uint64_t)(v * 1e9);
    return true;
}

/* An open descriptor that this process was given; it goes no further. */
static bool descriptor(const char *s, int *fd)
{
    long n = 0;
    if (!whole(s, INT_MAX, &n) || fcntl((int)n, F_SETFD, FD_CLOEXEC) < 0)
        return false;
    *fd = (int)n;
    return true;
}

struct args {
    char *group, *listen, *device; /* copies: the process' title takes argv's place */
    struct mp_buf spec;
    struct mp_engine_conf conf;
};

/* 0, or what was wrong with an option. */
static const char *set_option(struct args *a, const char *name, const char *value)
{
    long n = 0;
    if (strcmp(name, "--listen-fd") == 0)
        return descriptor(value, &a->conf.listen_fd) ? NULL : "not an open descriptor";
    if (strcmp(name, "--parent-fd") == 0)
        return descriptor(value, &a->conf.parent_fd) ? NULL : "not an open descriptor";
    if (strcmp(name, "--threads") == 0) {
        if (!whole(value, 1024, &n) || n < 1)
            return "not a number from 1 to 1024";
        mp_buf_printf(&a->spec, "%sthreads=%ld", a->spec.len > 0 ? "," : "", n);
        return NULL;
    }
    if (strcmp(name, "--linger") == 0)
        return seconds(value, &a->conf.linger_ns) ? NULL : "not seconds from 0 to 86400";
    if (strcmp(name, "--step-timeout") == 0)
        return seconds(value, &a->conf.step_timeout_ns) ? NULL : "not seconds from 0 to 86400";
    char **to = NULL;
    if (strcmp(name, "--group") == 0)
        to = &a->group;
    else if (strcmp(name, "--listen") == 0)
        to = &a->listen;
    else if (strcmp(name, "--device") == 0)
        to = &a->device;
    if (!to)
        return "no such option";
    mp_free(*to);
    *to = mp_strdup(value);
    return NULL;
}

static int run_engine(struct args *a)
{
    struct mp_err err = {0};
    char title[96], role[80];
    const char *chunk = getenv("MOONPOOL_DEBUG_CHUNK"), *level = getenv("MOONPOOL_LOG");
    long n = 0;
    if (level && mp_log_level_parse(level) >= 0)
        mp_log_level((enum mp_log_level)mp_log_level_parse(level));
    a->conf.group = a->group ? a->group : "cpu";
    (void)snprintf(title, sizeof title, "moonpool: engine %s", a->conf.group);
    (void)snprintf(role, sizeof role, "engine %s", a->conf.group);
    if (a->device)
        mp_buf_printf(&a->spec, "%s%s", a->spec.len > 0 ? "," : "", a->device);
    a->conf.device = mp_buf_cstr(&a->spec);
    if (chunk && whole(chunk, 1 << 20, &n))
        a->conf.chunk = (uint32_t)n;
    mp_log_role(role);
    mp_proctitle_set(title);
    if (a->conf.listen_fd < 0 && mp_wire_listen(a->listen, BACKLOG, &a->conf.listen_fd, &err) < 0) {
        mp_error("%s", err.message);
        return MP_EXIT_FAILED;
    }
    if (mp_engine_run(&a->conf, &err) < 0) {
        mp_error("%s", err.message);
        return MP_EXIT_FAILED;
    }
    return MP_EXIT_OK;
}

static int run(int argc, char **argv)
{
    struct args a = {.conf = {.listen_fd = -1,
                              .parent_fd = -1,
                              .linger_ns = UINT64_MAX,
                              .step_timeout_ns = STEP_TIMEOUT_S * UINT64_C(1000000000)}};
    int code = MP_EXIT_OK;
    for (int i = 1; i < argc && code == MP_EXIT_OK; i += 2) {
        const char *why = i + 1 < argc ? set_option(&a, argv[i], argv[i + 1]) : "needs a value";
        if (why)
            code = mp_cli_usage(&mp_cmd_engine, "%s: %s", argv[i], why);
    }
    if (code == MP_EXIT_OK && a.conf.listen_fd < 0 && !a.listen)
        code = mp_cli_usage(&mp_cmd_engine, "--listen-fd or --listen must be given");
    if (code == MP_EXIT_OK)
        code = run_engine(&a);
    mp_free(a.group);
    mp_free(a.listen);
    mp_free(a.device);
    mp_buf_free(&a.spec);
    return code;
}

const struct mp_cmd mp_cmd_engine = {
    "_engine",
    "(--listen-fd N | --listen PATH) [--parent-fd N] [--group cpu] [--threads N] [--device SPEC]\n"
    "       [--linger SECONDS] [--step-timeout SECONDS]",
    "serves one device group over a Unix socket; `moonpool serve` starts it",
    "  --listen-fd N   a listening Unix socket, inherited\n"
    "  --listen PATH   makes that socket\n"
    "  --parent-fd N   ends when this descriptor does\n"
    "  --group NAME    the device group: cpu (the default), fake\n"
    "  --threads N     threads of the device\n"
    "  --device SPEC   further options of the device: isa=avx2\n"
    "  --linger SECONDS        ends, exit 0, when nothing was loaded and nothing asked for so long; default: never\n"
    "  --step-timeout SECONDS  a step of the device that takes longer is hung: the process says so and aborts (60; 0: "
    "never)\n"
    "SIGTERM ends it, exit 0; with --parent-fd SIGUSR1 does, and SIGTERM is the parent's to judge.\n",
    run};
