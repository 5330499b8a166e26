/* core/gateway/room.h — how much memory models may take where the configuration does not say. Used by models.c. */
#ifndef MP_ROOM_H
#define MP_ROOM_H
#include <stdint.h>

/* Four fifths of the machine's memory, or of what a control group (v2 or v1) leaves of it. 0 when neither can be read.
 * root: "" (specs: a folder that holds a proc and a sys). */
uint64_t mp_room_default(const char *root);

#endif
