/*
 * The disk of the simulated world, and how its clock knows that nothing happens.
 *
 * Stands between the process and the C library's file calls, and makes those beneath one directory fail as a control
 * file says. Counts the threads that wait on a futex: everything in Rust that waits for another thread does. A
 * thread that sleeps by the real clock counts as awake: it is waited for.
 *
 * Preloaded by tests/sim, which writes the control file; both sides map or write the same page. Only calls that go
 * through the C library are seen: std's are; the store's preadv2 and statvfs go to the kernel directly, and what they
 * would find is changed in the files themselves.
 *
 * Not for anything that is shipped: the library itself has no C and no unsafe code.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, UNLINK = 16, MKDIR = 32, OPEN = 64, READ = 128, TIMES = 256 };
#define CHANGES (CREATE | WRITE | SYNC | RENAME | UNLINK | MKDIR | TIMES)
#define RULES_MAX 16

struct rule {
    uint32_t kinds;     /* which calls */
    int32_t error;      /* errno; 0: a write takes one byte only */
    int32_t left;       /* how often; -1: always */
    uint32_t hits;      /* how often so far */
    char part[112];     /* of the path; empty: any */
};

/* Little-endian, as tests/sim/disk.rs writes it. */
struct control {
    uint64_t calls;     /* changing calls beneath the live directory so far */
    uint64_t stop_at;   /* the one at which everything stops; 0: never */
    uint32_t stopped;   /* nothing changes any more */
    uint32_t rules_count;
    struct rule rules[RULES_MAX];
    char root[512];     /* calls beneath this are looked at */
    char live[512];     /* beneath root, but not beneath this: nothing changes */
    int64_t threads;    /* beside the first one */
    int64_t asleep;     /* of them: who is woken is counted as awake by who wakes it, so that none is missed */
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LARDER_SIM_DISK");
    int fd;
    if (!path || (fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0)) < 0)
        return;
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED)
        control = NULL;
    syscall(SYS_close, fd);
}

/* The errno with which a call is to fail; 0: it is to be made; -1: made short. */
static int judge(uint32_t kind, const char *path) {
    struct control *c = control;
    if (!c || !c->root[0] || strncmp(path, c->root, strlen(c->root)))
        return 0;
    if (kind & CHANGES) {
        if (strncmp(path, c->live, strlen(c->live)) || c->stopped)
            return EIO;
        uint64_t number = __atomic_add_fetch(&c->calls, 1, __ATOMIC_SEQ_CST);
        if (c->stop_at && number >= c->stop_at) {
            c->stopped = 1;
            return EIO;
        }
    }
    for (uint32_t at = 0; at < c->rules_count && at < RULES_MAX; at++) {
        struct rule *rule = &c->rules[at];
        if (!(rule->kinds & kind) || (rule->part[0] && !strstr(path, rule->part)))
            continue;
        if (rule->left == 0)
            continue;
        if (rule->left > 0)
            __atomic_sub_fetch(&rule->left, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&rule->hits, 1, __ATOMIC_SEQ_CST);
        return rule->error ? rule->error : -1;
    }
    return 0;
}

static int judge_at(uint32_t kind, int directory, const char *name) {
    char path[PATH_MAX], link[64];
    ssize_t len;
    if (!control || !control->root[0])
        return 0;
    if (name[0] == '/' || directory == AT_FDCWD)
        return judge(kind, name);
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    if ((len = readlink(link, path, sizeof path - 1)) < 0)
        return 0;
    snprintf(path + len, sizeof path - len, "/%s", name);
    return judge(kind, path);
}

static int judge_fd(uint32_t kind, int fd) {
    char path[PATH_MAX], link[64];
    ssize_t len;
    if (!control || !control->root[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if ((len = readlink(link, path, sizeof path - 1)) < 0)
        return 0;
    path[len] = 0;
    return judge(kind, path);
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })
#define FAIL_IF(judged) do { int error_ = (judged); if (error_ > 0) { errno = error_; return -1; } } while (0)

static uint32_t kind_of(int flags) {
    return flags & O_CREAT ? CREATE : flags & (O_WRONLY | O_RDWR) ? OPEN | WRITE : OPEN;
}

#define OPENER(name)                                                    \
    int name(const char *path, int flags, ...) {                        \
        mode_t mode = 0;                                                \
        if (flags & (O_CREAT | O_TMPFILE)) {                            \
            va_list more;                                               \
            va_start(more, flags);                                      \
            mode = va_arg(more, mode_t);                                \
            va_end(more);                                               \
        }                                                               \
        FAIL_IF(judge_at(kind_of(flags), AT_FDCWD, path));              \
        return REAL(name)(path, flags, mode);                           \
    }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name)                                                 \
    int name(int directory, const char *path, int flags, ...) {         \
        mode_t mode = 0;                                                \
        if (flags & (O_CREAT | O_TMPFILE)) {                            \
            va_list more;                                               \
            va_start(more, flags);                                      \
            mode = va_arg(more, mode_t);                                \
            va_end(more);                                               \
        }                                                               \
        FAIL_IF(judge_at(kind_of(flags), directory, path));             \
        return REAL(name)(directory, path, flags, mode);                \
    }
OPENER_AT(openat)
OPENER_AT(openat64)

#define WRITER(name, offset_type)                                               \
    ssize_t name(int fd, const void *bytes, size_t count, offset_type offset) { \
        int judged = judge_fd(WRITE, fd);                                       \
        FAIL_IF(judged);                                                        \
        return REAL(name)(fd, bytes, judged < 0 && count > 1 ? 1 : count, offset); \
    }
WRITER(pwrite, off_t)
WRITER(pwrite64, off64_t)

ssize_t write(int fd, const void *bytes, size_t count) {
    int judged = judge_fd(WRITE, fd);
    FAIL_IF(judged);
    return REAL(write)(fd, bytes, judged < 0 && count > 1 ? 1 : count);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset) {
    FAIL_IF(judge_fd(READ, fd));
    return REAL(pread64)(fd, bytes, count, offset);
}

int fsync(int fd) { FAIL_IF(judge_fd(SYNC, fd)); return 0; }
int fdatasync(int fd) { FAIL_IF(judge_fd(SYNC, fd)); return 0; }
int rename(const char *from, const char *to) { FAIL_IF(judge(RENAME, to)); return REAL(rename)(from, to); }
int unlink(const char *path) { FAIL_IF(judge(UNLINK, path)); return REAL(unlink)(path); }
int rmdir(const char *path) { FAIL_IF(judge(UNLINK, path)); return REAL(rmdir)(path); }
int unlinkat(int directory, const char *path, int flags) {
    FAIL_IF(judge_at(UNLINK, directory, path));
    return REAL(unlinkat)(directory, path, flags);
}
int mkdir(const char *path, mode_t mode) { FAIL_IF(judge(MKDIR, path)); return REAL(mkdir)(path, mode); }
int ftruncate64(int fd, off64_t length) { FAIL_IF(judge_fd(WRITE, fd)); return REAL(ftruncate64)(fd, length); }
int futimens(int fd, const struct timespec times[2]) { FAIL_IF(judge_fd(TIMES, fd)); return REAL(futimens)(fd, times); }

#define ADD(field, by) (control ? __atomic_add_fetch(&control->field, by, __ATOMIC_SEQ_CST) : 0)

long syscall(long number, ...) {
    static long (*real)(long, ...);
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int at = 0; at < 6; at++)
        a[at] = va_arg(rest, long);
    va_end(rest);
    if (!real)
        real = dlsym(RTLD_NEXT, "syscall");
    if (number != SYS_futex)
        return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int what = a[1] & FUTEX_CMD_MASK;
    int waits = what == FUTEX_WAIT || what == FUTEX_WAIT_BITSET;
    if (waits)
        ADD(asleep, 1);
    long done = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int error = errno;
    /* Who was woken has been counted as awake already. */
    if (waits && done != 0)
        ADD(asleep, -1);
    if ((what == FUTEX_WAKE || what == FUTEX_WAKE_BITSET) && done > 0)
        ADD(asleep, -done);
    errno = error;
    return done;
}

struct start {
    void *(*routine)(void *);
    void *argument;
};

static void *run(void *given) {
    struct start start = *(struct start *)given;
    free(given);
    void *result = start.routine(start.argument);
    ADD(threads, -1);
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    struct start *start = malloc(sizeof *start);
    *start = (struct start){routine, argument};
    ADD(threads, 1);
    int failed = REAL(pthread_create)(thread, attributes, run, start);
    if (failed) {
        ADD(threads, -1);
        free(start);
    }
    return failed;
}
