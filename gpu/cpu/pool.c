/* gpu/cpu/pool.c — threads that run one function together; see cpu.h.
 *
 * Between runs and at barriers a thread spins a short while and then sleeps on a futex. Two words carry everything:
 * `round`, raised for each run, and `phase`, raised at each barrier; a waiter waits for the word to change. A sleeper
 * counts itself before the futex looks at the word, a waker changes the word before it looks at the count (both in the one
 * sequentially consistent order), so that either the sleeper sees the change or the waker sees the sleeper. */
#include "gpu/cpu/cpu.h"

#include "core/base/mem.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 1000 }; /* about 20 us: longer than a barrier lasts, shorter than anyone would miss */

struct member {
    struct cpu_pool *pool;
    uint32_t index;
    pthread_t thread;
};

struct cpu_pool {
    uint32_t n;
    int spins;                                       /* 0 where there are more threads than cores */
    _Alignas(64) _Atomic uint32_t round;             /* written by thread 0, read by all */
    _Alignas(64) _Atomic uint32_t phase;             /* written by the last to come, read by all */
    _Alignas(64) _Atomic uint32_t arrived, sleepers; /* all */
    _Alignas(64) void (*fn)(void *, uint32_t);       /* these three: written before round is raised, read after */
    void *arg;
    bool stop;
    struct member members[CPU_MAX_THREADS];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void wait_change(struct cpu_pool *p, _Atomic uint32_t *word, uint32_t old)
{
    for (int i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        relax();
    }
    while (atomic_load(word) == old) {
        atomic_fetch_add(&p->sleepers, 1);
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
        atomic_fetch_sub(&p->sleepers, 1);
    }
}

static void change(struct cpu_pool *p, _Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(&p->sleepers))
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, CPU_MAX_THREADS, NULL, NULL, 0);
}

void cpu_pool_barrier(struct cpu_pool *p)
{
    if (p->n == 1)
        return;
    uint32_t phase = atomic_load_explicit(&p->phase, memory_order_acquire);
    if (atomic_fetch_add(&p->arrived, 1) + 1 == p->n) {
        atomic_store(&p->arrived, 0);
        change(p, &p->phase);
    } else {
        wait_change(p, &p->phase, phase);
    }
}

static void *worker(void *arg)
{
    struct member *m = arg;
    struct cpu_pool *p = m->pool;
    for (uint32_t round = 0;; round++) {
        wait_change(p, &p->round, round);
        if (p->stop)
            return NULL;
        p->fn(p->arg, m->index);
        cpu_pool_barrier(p);
    }
}

void cpu_pool_run(struct cpu_pool *p, void (*fn)(void *arg, uint32_t thread), void *arg)
{
    if (p->n > 1) {
        p->fn = fn;
        p->arg = arg;
        change(p, &p->round);
    }
    fn(arg, 0);
    cpu_pool_barrier(p);
}

int cpu_pool_new(struct cpu_pool **out, uint32_t n_threads, struct mp_err *err)
{
    struct cpu_pool *p = NULL;
    if (posix_memalign((void **)&p, 64, sizeof(*p)))
        return mp_err_set(err, MP_ENOMEM, "out of memory for the thread pool");
    memset(p, 0, sizeof(*p));
    p->n = 1;
    p->spins = n_threads <= cpu_online_cores() ? SPINS : 0;
    /* Workers must not take the process's signals. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (; !rc && p->n < n_threads; p->n += !rc) {
        struct member *m = &p->members[p->n];
        *m = (struct member){.pool = p, .index = p->n};
        rc = pthread_create(&m->thread, NULL, worker, m);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        cpu_pool_free(p);
        errno = rc;
        return mp_err_errno(err, MP_EDEVICE, "cannot start %u threads", n_threads);
    }
    *out = p;
    return 0;
}

void cpu_pool_free(struct cpu_pool *p)
{
    if (!p)
        return;
    if (p->n > 1) {
        p->stop = true;
        change(p, &p->round);
        for (uint32_t i = 1; i < p->n; i++)
            pthread_join(p->members[i].thread, NULL);
    }
    free(p);
}

uint32_t cpu_pool_size(const struct cpu_pool *p)
{
    return p->n;
}

uint32_t cpu_online_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set))
        return 1;
    uint32_t cores = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        /* Of a core's hardware threads only the first counts. */
        char path[96];
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        int first = cpu;
        FILE *f = fopen(path, "re");
        if (f) {
            if (fscanf(f, "%d", &first) != 1)
                first = cpu;
            fclose(f);
        }
        cores += first == cpu || !CPU_ISSET(first, &set);
    }
    return cores ? cores : 1;
}
