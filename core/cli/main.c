/* core/cli/main.c — the entry: finds the subcommand in its table and runs it. */
#include "core/base/proctitle.h"
#include "core/cli/cli.h"

int main(int argc, char **argv)
{
    mp_proctitle_init(argc, argv);
    return mp_cli_main(argc, argv);
}
