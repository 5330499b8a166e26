/* core/cli/cli.h — the table of subcommands; one file per subcommand (cmd_<name>.c), each adding its row in cli.c. */
#ifndef MP_CLI_H
#define MP_CLI_H

enum { MP_EXIT_OK = 0, MP_EXIT_FAILED = 1, MP_EXIT_USAGE = 2 }; /* 2: bad command line, bad configuration, bad file */

struct mp_cmd {
    const char *name;                  /* "inspect"; a name that begins with '_' is internal and not listed */
    const char *args;                  /* "FILE [--plan]" */
    const char *summary;               /* one line for `moonpool help` */
    const char *help;                  /* further lines for `moonpool help NAME`: options and exit codes; or NULL */
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name; returns the exit code */
};

int mp_cli_main(int argc, char **argv);
void mp_cli_help(const struct mp_cmd *cmd); /* prints usage and help of one subcommand on stdout */
/* Prints "moonpool NAME: <text>" and how to get help on stderr; returns MP_EXIT_USAGE. */
int mp_cli_usage(const struct mp_cmd *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

extern const struct mp_cmd mp_cmd_serve, mp_cmd_gateway;
extern const struct mp_cmd mp_cmd_run, mp_cmd_engine;
extern const struct mp_cmd mp_cmd_status, mp_cmd_models, mp_cmd_devices, mp_cmd_reload, mp_cmd_rollback,
    mp_cmd_generations;
extern const struct mp_cmd mp_cmd_decisions;
extern const struct mp_cmd mp_cmd_check, mp_cmd_inspect, mp_cmd_tokenize, mp_cmd_version, mp_cmd_help;

#endif
