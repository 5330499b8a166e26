/* core/cli/paths.c — see paths.h. */
#include "core/cli/paths.h"

#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *mp_cli_model_path(const char *name, struct mp_err *err)
{
    const char *folder = getenv("MOONPOOL_MODELS");
    if (!folder || !folder[0])
        folder = "models";
    if (strchr(name, '/') || access(name, F_OK) == 0)
        return mp_strdup(name);
    for (int with = 0; with < 2; with++) {
        char *path = mp_asprintf("%s/%s%s", folder, name, with ? ".gguf" : "");
        if (access(path, F_OK) == 0)
            return path;
        mp_free(path);
    }
    mp_err_set(err, MP_ENOENT, "no model file '%s': neither here nor in %s/ (with or without .gguf)", name, folder);
    return NULL;
}
