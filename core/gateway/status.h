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
/* Is there such a model, to people: the serving generation's, one that is loaded for the next, a removed one that has not gone yet. */
bool mp_status_shown(const struct mp_config *config, const struct mp_pool_model *m);
void mp_status_model(const struct mp_status *s, struct mp_pool_model *m, struct mp_buf *out);
void mp_status_devices(const struct mp_status *s, struct mp_buf *out); /* {"devices": […], "missing": […]} */

#endif
