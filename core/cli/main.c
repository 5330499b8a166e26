/* core/cli/main.c — the entry: finds the subcommand in its table and runs it. */
#include "core/cli/cli.h"

int main(int argc, char **argv)
{
    return mp_cli_main(argc, argv);
}
