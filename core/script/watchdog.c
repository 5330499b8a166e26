/* core/script/watchdog.c — see watchdog.h. */
#include "core/script/watchdog.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/vm/vm.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#if defined(__SANITIZE_THREAD__)
/* TSan holds signals back until its next interceptor, which a Lua loop never reaches: there the watchdog arms the hook
 * from its own thread. lua_sethook stores a few words; LuaJIT is not instrumented. */
enum { ARM_DIRECTLY = 1 };
#else
enum { ARM_DIRECTLY = 0 };
#endif

enum { TICK_NS = 1000000, IDLE_TICKS = 20 };

struct mp_watch {
    struct mp_watch *next; /* under the lock */
    pthread_t thread;
    clockid_t clock;
    uint32_t joined;            /* the thread's own: joins without a leave */
    uint64_t number, began;     /* the thread's own */
    uint64_t credit;            /* the thread's own: of what it uses, so much is not counted */
    _Atomic(struct mp_vm *) vm; /* written by the thread, read by its signal handler (and by the watchdog under TSan) */
    _Atomic uint64_t run;   /* number of what runs now, 0 for nothing; written by the thread, read by the watchdog */
    _Atomic uint64_t until; /* CPU ns at which it is too late; changes only while run is 0 */
    _Atomic uint64_t kill;  /* number of the run to stop; written by the watchdog, read by the signal handler */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static struct mp_watch *list; /* under the lock */
static pthread_t thread;      /* under the lock */
static bool running;          /* under the lock */
static uintptr_t epoch;       /* under the lock: a watchdog of an older one ends */
static _Atomic bool asleep;   /* the watchdog waits for `wake`: set under the lock, read by threads that begin */
static _Thread_local struct mp_watch *self;

static int signal_number(void)
{
    return SIGRTMIN + 4;
}

static uint64_t cpu_now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void arm(struct mp_watch *w)
{
    uint64_t run = atomic_load(&w->run);
    struct mp_vm *vm = atomic_load(&w->vm);
    if (run && run == atomic_load(&w->kill) && vm)
        mp_vm_arm_kill(vm);
}

static void on_signal(int number)
{
    (void)number;
    if (self)
        arm(self);
}

/* Under the lock. True when any thread runs Lua. */
static bool look(void)
{
    bool busy = false;
    for (struct mp_watch *w = list; w; w = w->next) {
        uint64_t run = atomic_load(&w->run), until = atomic_load(&w->until);
        if (!run)
            continue;
        busy = true;
        if (cpu_now(w->clock) < until || atomic_load(&w->run) != run)
            continue;
        atomic_store(&w->kill, run);
        if (ARM_DIRECTLY)
            arm(w);
        else
            pthread_kill(w->thread, signal_number());
    }
    return busy;
}

static void *watch(void *arg)
{
    uintptr_t mine = (uintptr_t)arg;
    int idle = 0;
    pthread_mutex_lock(&lock);
    while (epoch == mine) {
        idle = look() ? 0 : idle + 1;
        if (idle >= IDLE_TICKS) {
            atomic_store(&asleep, true);
            /* A run that began before it could see `asleep` is seen by this look. */
            if (!look() && epoch == mine)
                pthread_cond_wait(&wake, &lock);
            atomic_store(&asleep, false);
            idle = 0;
            continue;
        }
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += TICK_NS;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_cond_clockwait(&wake, &lock, CLOCK_MONOTONIC, &t);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

struct mp_watch *mp_watch_join(void)
{
    if (self) {
        self->joined++;
        return self;
    }
    struct mp_watch *w = mp_calloc(sizeof *w);
    sigset_t set, all, old;
    w->joined = 1;
    w->thread = pthread_self();
    pthread_getcpuclockid(w->thread, &w->clock);
    self = w;
    sigemptyset(&set);
    sigaddset(&set, signal_number());
    pthread_mutex_lock(&lock);
    w->next = list;
    list = w;
    if (!running) {
        struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigaction(signal_number(), &sa, NULL);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old); /* signals to the process are not the watchdog's */
        if (pthread_create(&thread, NULL, watch, (void *)epoch) != 0) {
            mp_error("the watchdog's thread cannot be started");
            abort();
        }
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        running = true;
    }
    pthread_mutex_unlock(&lock);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return w;
}

void mp_watch_leave(struct mp_watch *w)
{
    pthread_t ended;
    bool last = false;
    if (!w || --w->joined > 0)
        return;
    pthread_mutex_lock(&lock);
    for (struct mp_watch **p = &list; *p; p = &(*p)->next)
        if (*p == w) {
            *p = w->next;
            break;
        }
    if (!list && running) {
        last = true;
        epoch++;
        running = false;
        ended = thread;
        pthread_cond_broadcast(&wake);
    }
    pthread_mutex_unlock(&lock);
    if (last)
        pthread_join(ended, NULL);
    self = NULL;
    mp_free(w);
}

void mp_watch_begin(struct mp_watch *w, struct mp_vm *vm, uint64_t cpu_ns)
{
    w->began = cpu_now(CLOCK_THREAD_CPUTIME_ID);
    w->credit = 0;
    atomic_store(&w->vm, vm);
    atomic_store(&w->until, w->began + cpu_ns);
    atomic_store(&w->run, ++w->number);
    if (atomic_load(&asleep)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }
}

void mp_watch_credit(struct mp_watch *w, uint64_t cpu_ns)
{
    w->credit += cpu_ns;
    atomic_store(&w->run, 0);
    atomic_store(&w->until, atomic_load(&w->until) + cpu_ns);
    atomic_store(&w->run, ++w->number); /* a new number: a kill that was judged by the old time hits nothing */
}

void mp_watch_nest(struct mp_watch *w, struct mp_watch_outer *outer, uint64_t cpu_ns)
{
    uint64_t now = cpu_now(CLOCK_THREAD_CPUTIME_ID), until = atomic_load(&w->until);
    *outer = (struct mp_watch_outer){w->began, w->credit, until > now ? until - now : 0};
    atomic_store(&w->run, 0);
    w->began = now;
    w->credit = 0;
    atomic_store(&w->until, now + cpu_ns);
    atomic_store(&w->run, ++w->number);
}

uint64_t mp_watch_unnest(struct mp_watch *w, const struct mp_watch_outer *outer)
{
    uint64_t now = cpu_now(CLOCK_THREAD_CPUTIME_ID), used = now - w->began;
    atomic_store(&w->run, 0);
    w->began = outer->began;
    w->credit = outer->credit + used;
    atomic_store(&w->until, now + outer->left);
    atomic_store(&w->run, ++w->number);
    return used;
}

uint64_t mp_watch_end(struct mp_watch *w)
{
    atomic_store(&w->run, 0);
    atomic_store(&w->vm, NULL);
    uint64_t used = cpu_now(CLOCK_THREAD_CPUTIME_ID) - w->began;
    return used > w->credit ? used - w->credit : 0;
}
