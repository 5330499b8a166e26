/* core/gateway/room.c — see room.h. */
#include "core/gateway/room.h"

#include "core/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number in a small file, bytes; UINT64_MAX when there is none ("max", no such file). */
static uint64_t read_number(const char *root, const char *dir, const char *path, const char *name)
{
    char *file = mp_asprintf("%s%s%s%s", root, dir, path, name), line[64] = "", *end = line;
    FILE *f = fopen(file, "re");
    uint64_t v = UINT64_MAX;
    if (f && fgets(line, sizeof line, f) && line[0] >= '0' && line[0] <= '9')
        v = strtoull(line, &end, 10);
    if (f)
        fclose(f);
    mp_free(file);
    return v;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* A group is bound by its own limit and by that of each group above it. */
static uint64_t group_limit(const char *root, const char *dir, char *path, const char *name)
{
    uint64_t v = read_number(root, dir, "", name);
    for (char *slash; (slash = strrchr(path, '/')) != NULL; *slash = '\0')
        v = smaller(v, read_number(root, dir, path, name));
    return v;
}

static uint64_t cgroup_limit(const char *root)
{
    char *file = mp_asprintf("%s/proc/self/cgroup", root), line[4096];
    FILE *f = fopen(file, "re");
    uint64_t v = UINT64_MAX;
    while (f && fgets(line, sizeof line, f)) { /* "0::/a/b", or of version 1 "4:memory:/a/b" */
        char *path = strchr(line, ':'), *names = path ? path + 1 : NULL;
        if (!names || !(path = strchr(names, ':')))
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        if (names[0] == '\0')
            v = smaller(v, group_limit(root, "/sys/fs/cgroup", path, "/memory.max"));
        else if (strcmp(names, "memory") == 0)
            v = smaller(v, group_limit(root, "/sys/fs/cgroup/memory", path, "/memory.limit_in_bytes"));
    }
    if (f)
        fclose(f);
    mp_free(file);
    return v;
}

static uint64_t machine(const char *root)
{
    char *file = mp_asprintf("%s/proc/meminfo", root), line[256];
    FILE *f = fopen(file, "re");
    uint64_t v = UINT64_MAX;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "MemTotal:", 9) == 0)
            v = strtoull(line + 9, NULL, 10) << 10;
    if (f)
        fclose(f);
    mp_free(file);
    return v;
}

uint64_t mp_room_default(const char *root)
{
    uint64_t v = smaller(machine(root), cgroup_limit(root));
    return v == UINT64_MAX ? 0 : v / 5 * 4;
}
