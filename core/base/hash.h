/* core/base/hash.h — SipHash-1-3 for tables keyed by what came from outside (names in files, what users send): keyed with
 * a secret of this process, so that nobody can choose colliding keys. Values differ from run to run: never store them. */
#ifndef MP_HASH_H
#define MP_HASH_H
#include <stddef.h>
#include <stdint.h>

uint64_t mp_hash(const void *data, size_t n);                            /* with the process's secret */
uint64_t mp_hash_keyed(const void *data, size_t n, const uint64_t k[2]); /* with the caller's */

#endif
