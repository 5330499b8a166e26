/* core/cli/cli.c — see cli.h. */
#include "core/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct mp_cmd *const table[] = {
    &mp_cmd_serve,   &mp_cmd_gateway,  &mp_cmd_check,       &mp_cmd_status,    &mp_cmd_models, &mp_cmd_devices,
    &mp_cmd_reload,  &mp_cmd_rollback, &mp_cmd_generations, &mp_cmd_decisions, &mp_cmd_run,    &mp_cmd_engine,
    &mp_cmd_inspect, &mp_cmd_tokenize, &mp_cmd_version,     &mp_cmd_help,
};
enum { N_CMDS = sizeof table / sizeof table[0] };

static const struct mp_cmd *find(const char *name)
{
    for (int i = 0; i < N_CMDS; i++)
        if (strcmp(table[i]->name, name) == 0)
            return table[i];
    return NULL;
}

void mp_cli_help(const struct mp_cmd *cmd)
{
    printf("usage: moonpool %s%s%s\n\n%s\n", cmd->name, cmd->args[0] ? " " : "", cmd->args, cmd->summary);
    if (cmd->help)
        printf("\n%s", cmd->help);
}

int mp_cli_usage(const struct mp_cmd *cmd, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "moonpool %s: ", cmd->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: moonpool %s %s\nmore: moonpool help %s\n", cmd->name, cmd->args, cmd->name);
    return MP_EXIT_USAGE;
}

static int run_help(int argc, char **argv)
{
    if (argc > 1) {
        const struct mp_cmd *cmd = find(argv[1]);
        if (!cmd)
            return mp_cli_usage(&mp_cmd_help, "no command '%s'", argv[1]);
        mp_cli_help(cmd);
        return MP_EXIT_OK;
    }
    printf("moonpool %s: a Lua-scriptable inference gateway\n\nusage: moonpool COMMAND [ARGUMENTS]\n\n", MP_VERSION);
    for (int i = 0; i < N_CMDS; i++)
        if (table[i]->name[0] != '_')
            printf("  %-12s%s\n", table[i]->name, table[i]->summary);
    printf("\n`moonpool help COMMAND` tells more.\n");
    return MP_EXIT_OK;
}

static int run_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("moonpool %s\n", MP_VERSION);
    return MP_EXIT_OK;
}

const struct mp_cmd mp_cmd_help = {"help", "[COMMAND]", "says how to use a command", NULL, run_help};
const struct mp_cmd mp_cmd_version = {"version", "", "prints the version", NULL, run_version};

int mp_cli_main(int argc, char **argv)
{
    if (argc < 2) {
        run_help(1, argv);
        return MP_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    const struct mp_cmd *cmd = find(name);
    if (!cmd)
        return mp_cli_usage(&mp_cmd_help, "no command '%s'", name);
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0) {
            mp_cli_help(cmd);
            return MP_EXIT_OK;
        }
    int code = cmd->run(argc - 1, argv + 1);
    if (code == MP_EXIT_OK && (fflush(stdout) != 0 || ferror(stdout))) { /* half an answer is none: a full disk, say */
        fprintf(stderr, "moonpool %s: cannot write the answer: %s\n", cmd->name, strerror(errno));
        code = MP_EXIT_FAILED;
    }
    return code;
}
