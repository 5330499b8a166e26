/* core/gateway/answer.h — from a request of core/net to a run of core/script, and the run's answer back. Used by worker.c. */
#ifndef MP_ANSWER_H
#define MP_ANSWER_H
#include "core/gateway/worker.h"

/* The handler for a worker's server. */
struct mp_handler mp_answer_handler(struct mp_worker *w);

#endif
