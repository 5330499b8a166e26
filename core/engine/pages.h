/* core/engine/pages.h — the pages of one KV group: ids handed out and taken back, their memory committed on first use. Used by
 * the loop; belongs to the device thread.
 *
 * Reservations make admission safe: a sequence reserves the most it can ever need before it starts, so taking a page within a
 * reservation never waits and running sequences never deadlock on each other. A page is given back by the loop only when the
 * last ticket of a step that names it is done. */
#ifndef MP_PAGES_H
#define MP_PAGES_H
#include "gpu/device.h"

struct mp_pages;

/* mem: room for n pages of page_bytes each, reserved and stays the caller's; ops NULL: nothing is committed (specs). */
struct mp_pages *mp_pages_new(const struct mp_device_ops *ops, struct mp_mem *mem, uint32_t n, uint64_t page_bytes);
void mp_pages_free(struct mp_pages *p); /* NULL is fine */

bool mp_pages_reserve(struct mp_pages *p, uint32_t n); /* false when fewer are unreserved */
void mp_pages_unreserve(struct mp_pages *p, uint32_t n);
/* A page out of a reservation (the reservation stays until mp_pages_unreserve). MP_ENOMEM when its memory cannot be committed. */
int mp_pages_take(struct mp_pages *p, uint32_t *page, struct mp_err *err);
void mp_pages_give(struct mp_pages *p, uint32_t page);
/* Gives the memory of free pages back to the device, beyond the `keep` most recently used. */
void mp_pages_trim(struct mp_pages *p, uint32_t keep);

uint32_t mp_pages_total(const struct mp_pages *p);
uint32_t mp_pages_used(const struct mp_pages *p);
uint32_t mp_pages_reserved(const struct mp_pages *p);
uint64_t mp_pages_committed(const struct mp_pages *p); /* bytes */

#endif
