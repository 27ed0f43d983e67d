/*
 * The threads of the simulated world: one runs at a time, until it waits, and the seed decides which is next.
 *
 * Everything in Rust that waits for another thread does so by the system call futex. Here it is made of a list of those who
 * wait; the kernel's scheduler has no say, and a seed replays however busy the machine is. A thread that runs is
 * interrupted where it waits, where it yields, and now and then, as the seed says, before a file call.
 *
 * The monotonic clock shows the history's time, and a wait with a time ends by it. What the kernel's random numbers are
 * is drawn from the seed, too: keys of hash maps, the order of select's branches.
 *
 * Begins with the first history of a process, which then has one thread, and never ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

struct thread {
    struct thread *next;        /* in the list of those that are ready, or that wait */
    pthread_cond_t chosen;
    pthread_t id;
    const void *on;             /* what it waits on: a futex, or a thread whose end it waits for */
    void *(*routine)(void *);
    void *argument;
    struct thread *earlier;     /* in the list of all */
    uint64_t until;             /* when its wait ends, in microseconds of the history; 0: never */
    int woken;
};

/* Waits with a time end at a multiple of this: how long the caller took to work it out does not matter then. */
#define TICK_US 100000

/* What the monotonic clock shows in seconds when a history begins: more than any machine's. */
#define BEGUN 10000000000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct thread first = {.chosen = PTHREAD_COND_INITIALIZER};
static struct thread *running, *ready, *waiting, *newest;
static __thread struct thread *self;
static pthread_key_t at_end;
static uint64_t seeded, state;


static struct thread *take(struct thread **list, struct thread *which) {
    for (; *list; list = &(*list)->next)
        if (*list == which) {
            *list = which->next;
            which->next = NULL;
            return which;
        }
    return NULL;
}

static void append(struct thread **list, struct thread *which) {
    while (*list)
        list = &(*list)->next;
    which->next = NULL;
    *list = which;
}

static void make_ready(struct thread *which) {
    append(&ready, which);
    control->ready++;
}

uint64_t draw(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void end(void *thread);

/* Whether threads are ours; the first call of the first history makes them so. */
static int is_ours(void) {
    if (!control || !control->seed)
        return seeded && self;
    if (control->seed != seeded) {
        state = seeded = control->seed;
        if (!self) {
            self = running = &first;
            first.id = pthread_self();
            pthread_key_create(&at_end, end);
        }
    }
    return self != NULL;
}

/* With the lock: lets the next one run; nearly always the one that has been ready for longest. */
static void choose(void) {
    if (running || !ready)
        return;
    struct thread *next = ready;
    if (control->ready > 1 && draw() % 8 == 0)
        for (uint64_t skip = draw() % control->ready; skip && next->next; skip--)
            next = next->next;
    running = take(&ready, next);
    control->ready--;
    pthread_cond_signal(&running->chosen);
}

/* With the lock: until this thread is chosen. */
static void rest(void) {
    for (choose(); running != self;)
        pthread_cond_wait(&self->chosen, &lock);
}

static void yield(void) {
    pthread_mutex_lock(&lock);
    for (struct thread *at = waiting, *next; at; at = next) {
        next = at->next;
        if (at->until && at->until <= control->now_us)
            make_ready(take(&waiting, at));
    }
    running = NULL;
    make_ready(self);
    rest();
    pthread_mutex_unlock(&lock);
}

void wait_until(uint64_t us) {
    if (!is_ours())
        return;
    pthread_mutex_lock(&lock);
    self->on = self;
    self->until = us;
    append(&waiting, self);
    running = NULL;
    rest();
    pthread_mutex_unlock(&lock);
}

int is_of_history(void) {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    return !strcmp(name, "history");
}

int sched_yield(void) {
    if (!is_ours())
        return REAL(sched_yield)();
    yield();
    return 0;
}

void maybe_yield(void) {
    if (is_ours() && control->ready && draw() % 4 == 0)
        yield();
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock != CLOCK_MONOTONIC || !is_ours() || !control->seed)
        return REAL(clock_gettime)(clock, now);
    now->tv_sec = BEGUN + control->now_us / 1000000;
    now->tv_nsec = control->now_us % 1000000 * 1000;
    return 0;
}

static uint64_t microseconds(const struct timespec *time) {
    return time->tv_sec * 1000000 + time->tv_nsec / 1000;
}

/* When a futex's time is over, as the history counts. */
static uint64_t end_of(const struct timespec *time, int absolute, clockid_t clock) {
    uint64_t length = microseconds(time);
    if (absolute) {
        struct timespec now;
        clock_gettime(clock, &now);
        length -= length > microseconds(&now) ? microseconds(&now) : length;
    }
    return (control->now_us + length + TICK_US) / TICK_US * TICK_US;
}

static long futex_wait(const int *word, int expected, uint64_t until) {
    pthread_mutex_lock(&lock);
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != expected) {
        pthread_mutex_unlock(&lock);
        errno = EAGAIN;
        return -1;
    }
    self->on = word;
    self->until = until;
    self->woken = 0;
    append(&waiting, self);
    running = NULL;
    rest();
    pthread_mutex_unlock(&lock);
    if (self->woken)
        return 0;
    errno = ETIMEDOUT;
    return -1;
}

/* With the lock. */
static long wake(const void *on, long count) {
    long done = 0;
    for (struct thread *at = waiting, *next; at && done < count; at = next) {
        next = at->next;
        if (at->on != on)
            continue;
        take(&waiting, at);
        at->woken = 1;
        make_ready(at);
        done++;
    }
    return done;
}

long syscall(long number, ...) {
    static long (*real)(long, ...);
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int at = 0; at < 6; at++)
        a[at] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_getrandom)
        return getrandom((void *)a[0], a[1], a[2]);
    if (number == SYS_futex && is_ours()) {
        int what = a[1] & FUTEX_CMD_MASK;
        clockid_t clock = a[1] & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
        switch (what) {
        case FUTEX_WAIT:
        case FUTEX_WAIT_BITSET:
            return futex_wait((int *)a[0], a[2],
                              a[3] ? end_of((struct timespec *)a[3], what == FUTEX_WAIT_BITSET, clock) : 0);
        case FUTEX_WAKE:
        case FUTEX_WAKE_BITSET:
            pthread_mutex_lock(&lock);
            long done = wake((void *)a[0], a[2]);
            pthread_mutex_unlock(&lock);
            return done;
        default:
            abort();
        }
    }
    if (!real)
        real = dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* After the destructors of what is local to the thread. */
static void end(void *thread) {
    pthread_mutex_lock(&lock);
    for (struct thread **at = &newest; *at; at = &(*at)->earlier)
        if (*at == thread) {
            *at = (*at)->earlier;
            break;
        }
    wake(thread, 1);
    running = NULL;
    choose();
    pthread_mutex_unlock(&lock);
}

static void *run(void *thread) {
    self = thread;
    pthread_setspecific(at_end, self);
    pthread_mutex_lock(&lock);
    rest();
    pthread_mutex_unlock(&lock);
    return self->routine(self->argument);
}

int pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    if (!is_ours())
        return REAL(pthread_create)(id, attributes, routine, argument);
    struct thread *thread = calloc(1, sizeof *thread);
    pthread_cond_init(&thread->chosen, NULL);
    thread->routine = routine;
    thread->argument = argument;
    int failed = REAL(pthread_create)(&thread->id, attributes, run, thread);
    if (failed) {
        free(thread);
        return failed;
    }
    *id = thread->id;
    pthread_mutex_lock(&lock);
    thread->earlier = newest;
    newest = thread;
    make_ready(thread);
    pthread_mutex_unlock(&lock);
    return 0;
}

int pthread_join(pthread_t id, void **result) {
    if (is_ours()) {
        pthread_mutex_lock(&lock);
        struct thread *joined = newest;
        while (joined && joined->id != id)
            joined = joined->earlier;
        if (joined) {
            self->on = joined;
            self->until = 0;
            append(&waiting, self);
            running = NULL;
            rest();
        }
        pthread_mutex_unlock(&lock);
    }
    return REAL(pthread_join)(id, result);
}

/* Others run while this one waits for the kernel. */
int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    if (timeout == 0 || !is_ours())
        return REAL(epoll_wait)(epoll, events, most, timeout);
    for (int waited = 0;; waited++) {
        int found = REAL(epoll_wait)(epoll, events, most, control->ready ? 0 : 1);
        if (found || (timeout > 0 && waited >= timeout))
            return found;
        yield();
    }
}

/* Hash maps' keys (16 bytes, once a thread) are the same for every thread of a history: which thread is first does not matter
 * then. Everything else (keys, nonces) differs from one draw to the next. */
#define KEYS 16
ssize_t getrandom(void *bytes, size_t count, unsigned flags) {
    if (!is_ours())
        return REAL(getrandom)(bytes, count, flags);
    uint64_t keys = seeded;
    for (size_t at = 0; at < count; at++) {
        keys = keys * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)bytes)[at] = count == KEYS ? keys >> 56 : draw();
    }
    return count;
}
