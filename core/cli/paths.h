/* core/cli/paths.h — where a command line's MODEL lies. Used by inspect, tokenize, run. */
#ifndef MP_PATHS_H
#define MP_PATHS_H
#include "core/base/err.h"

/* The file that name means: a path (one with a slash, or that exists here), else a file of $MOONPOOL_MODELS (models/ where
 * that is unset), with or without .gguf behind. The caller's (mp_free); NULL and MP_ENOENT, naming what was tried. */
char *mp_cli_model_path(const char *name, struct mp_err *err);

#endif
