/* core/engine/room.h — the device's memory as it was promised: what loads hold (weights, scratch, KV of one full context each), and what
 * running sequences hold beyond that. Never more than the limit: a load that does not fit is refused, a sequence waits in its line. Since
 * every replica has one context's KV of its own, the first in each line always comes to its turn. Device's thread only. */
#ifndef MP_ROOM_H
#define MP_ROOM_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct mp_room;

struct mp_room *mp_room_new(void);
void mp_room_free(struct mp_room *r); /* NULL is fine */
/* Bytes; 0: none. A limit below what is held takes nothing away: nothing more is given until it fits again. */
void mp_room_limit(struct mp_room *r, uint64_t bytes);
uint64_t mp_room_limit_get(const struct mp_room *r);
uint64_t mp_room_held(const struct mp_room *r);

/* A load: 0; MP_ENOMEM, err says how much is wanted and free; or MP_EAGAIN: it fits once sequences give back what they hold beyond the
 * loads' part. Who then waits says so by mp_room_wait(true), so that no sequence grows meanwhile, and (false) when it waits no more. */
int mp_room_load(struct mp_room *r, uint64_t bytes, struct mp_err *err);
void mp_room_wait(struct mp_room *r, bool on);
/* What was measured takes the place of what was planned: false when that does not fit, and then nothing changes. */
bool mp_room_correct(struct mp_room *r, uint64_t from, uint64_t to);
void mp_room_unload(struct mp_room *r, uint64_t bytes);

/* A sequence's KV beyond its replica's part. */
bool mp_room_grow(struct mp_room *r, uint64_t bytes);
void mp_room_shrink(struct mp_room *r, uint64_t bytes);

/* "it needs 700 MiB, 120 MiB of the device's 2 GiB are free": MP_ENOMEM, where `taken` of `limit` are not to be had. */
int mp_room_refuse(uint64_t bytes, uint64_t taken, uint64_t limit, struct mp_err *err);

#endif
