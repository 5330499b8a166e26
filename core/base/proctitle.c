/* core/base/proctitle.c — see proctitle.h. The kernel shows the memory where argv began; the environment lies right behind it,
 * so that moving the environment makes room for a long title. */
#include "core/base/proctitle.h"

#include "core/base/mem.h"

#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static struct {
    char *at;
    size_t room;
} area;

void mp_proctitle_init(int argc, char **argv)
{
    size_t n = 0;
    if (area.at || argc < 1 || !argv[0])
        return;
    char *end = argv[0];
    for (int i = 0; i < argc; i++)
        if (argv[i] == end) /* only as far as they lie one behind the other */
            end = argv[i] + strlen(argv[i]) + 1;
    for (; environ && environ[n]; n++)
        if (environ[n] == end)
            end = environ[n] + strlen(environ[n]) + 1;
    /* Lives as long as the process, reachable by `environ`. */
    char **moved = mp_calloc((n + 1) * sizeof *moved);
    for (size_t i = 0; i < n; i++)
        moved[i] = mp_strdup(environ[i]);
    environ = moved;
    area.at = argv[0];
    area.room = (size_t)(end - argv[0]);
}

void mp_proctitle_set(const char *title)
{
    size_t n = strlen(title);
    (void)prctl(PR_SET_NAME, title);
    if (area.room == 0)
        return;
    n = n < area.room - 1 ? n : area.room - 1;
    memset(area.at, 0, area.room);
    memcpy(area.at, title, n);
}
