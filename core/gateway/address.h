/* core/gateway/address.h — "127.0.0.1:7171", "[::1]:0", "localhost:7171": where a server listens. Used by the supervisor
 * (which makes the sockets) and the gateway (which asks for them). */
#ifndef MP_ADDRESS_H
#define MP_ADDRESS_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct mp_address {
    char host[46]; /* numeric, without brackets: "127.0.0.1", "::1" */
    uint16_t port; /* 0: any free one */
    bool v6;
    bool loopback; /* 127.0.0.0/8 or ::1 */
};

/* text: a numeric address or "localhost", a colon, a port. MP_EINVAL says what is wrong with it. */
int mp_address_parse(struct mp_address *out, const char *text, struct mp_err *err);
void mp_address_format(const struct mp_address *a, char out[56]); /* "127.0.0.1:7171", "[::1]:7171" */

/* n listening sockets (1..64) that share the address by SO_REUSEPORT, non-blocking and close-on-exec; a->port becomes the
 * real one. On failure none is left open, and err says "127.0.0.1:7171 is taken: …" or the like. */
int mp_address_listen(struct mp_address *a, int *fds, uint32_t n, struct mp_err *err);

#endif
