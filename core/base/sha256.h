/* core/base/sha256.h — SHA-256 of bytes and of whole files (libcrypto). Used for model identity and verified downloads. */
#ifndef MP_SHA256_H
#define MP_SHA256_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Called now and then while something long goes on, from the thread that does it; false stops it (MP_ECANCELLED). */
typedef bool mp_progress_fn(void *ctx, uint64_t done, uint64_t total);

int mp_sha256(const void *data, size_t n, uint8_t out[32], struct mp_err *err);
/* The open file's bytes from its beginning, in pieces of 1 MiB; its position is not moved. progress: may be NULL; called
 * about every 16 MiB and at the end. name: for messages. */
int mp_sha256_fd(int fd, const char *name, uint8_t out[32], mp_progress_fn *progress, void *ctx, struct mp_err *err);
void mp_sha256_hex(const uint8_t sum[32], char out[65]); /* lower-case, NUL-terminated */

#endif
