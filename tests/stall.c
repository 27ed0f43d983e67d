/*
 * Makes races likelier: stops a random thread of the process for a random time, again and again.
 *
 * Preloaded into the test programs by `make stall`. A signal handler that sleeps stops a thread wherever it is, between
 * any two instructions, which is what a busy machine does to it once in a thousand runs. Most stalls are short; one in
 * eight is as long as STALL_MAX_US. Found that way: a failed download that could still be joined for a moment.
 *
 * Not for anything that is shipped: the library itself has no C and no unsafe code.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 512

static volatile long stall_us;
static uint64_t state;

static uint32_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? atol(value) : otherwise;
}

static void pause_for(long us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* Runs in the thread that is stopped. Signals do not queue, so that no thread is stopped for ever. */
static void stall(int signal) {
    int before = errno;
    (void)signal;
    pause_for(stall_us);
    errno = before;
}

static void *stall_others(void *unused) {
    long every = setting("STALL_EVERY_US", 1000), longest = setting("STALL_MAX_US", 20000);
    pid_t own = syscall(SYS_gettid), process = getpid();
    for (;;) {
        int threads[THREADS_MAX], count = 0;
        struct dirent *entry;
        DIR *tasks;
        pause_for(1 + draw() % (2 * every));
        if (!(tasks = opendir("/proc/self/task")))
            continue;
        while (count < THREADS_MAX && (entry = readdir(tasks))) {
            int thread = atoi(entry->d_name);
            if (thread > 0 && thread != own)
                threads[count++] = thread;
        }
        closedir(tasks);
        if (count == 0)
            continue;
        stall_us = draw() % 8 == 0 ? longest : draw() % (longest / 8 + 1);
        syscall(SYS_tgkill, process, threads[draw() % count], SIGUSR2);
    }
    return unused;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {.sa_handler = stall, .sa_flags = SA_RESTART};
    struct timespec now;
    sigset_t all, before;
    pthread_t thread;
    clock_gettime(CLOCK_MONOTONIC, &now);
    state = ((uint64_t)now.tv_nsec << 20) ^ (uint64_t)getpid() ^ 1;
    sigaction(SIGUSR2, &action, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_create(&thread, NULL, stall_others, NULL);
    pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
