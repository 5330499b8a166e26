/* core/gateway/status.h — what the admin socket says of the server, its models and devices, as JSON. Used by admin.c, on the control thread.
 * Commands print these facts for people and, with --json, as they are: keys are only ever added. */
#ifndef MP_STATUS_H
#define MP_STATUS_H
#include "core/gateway/admin.h"

struct mp_status {
    const struct mp_admin_options *o;
    char *conf;             /* absolute */
    char *socket;           /* the admin socket's path */
    double started;         /* Unix seconds: the server (its socket was made) */
    double gateway_started; /* this gateway process */
};

void mp_status_server(const struct mp_status *s, struct mp_buf *out); /* {"version", "pid", …}: who answers */
void mp_status_all(const struct mp_status *s, struct mp_buf *out);    /* the server's, and all that follows */
void mp_status_models(const struct mp_status *s, struct mp_buf *out); /* {"models": […]}, in order of declaration */
void mp_status_model(const struct mp_status *s, struct mp_pool_model *m, struct mp_buf *out);
void mp_status_devices(const struct mp_status *s, struct mp_buf *out); /* {"devices": […], "missing": […]} */

#endif
