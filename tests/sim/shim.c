/*
 * The disk of the simulated world. Its threads are in threads.c.
 *
 * Stands between the process and the C library's file calls, and makes those beneath one directory fail as a control
 * file says.
 *
 * Preloaded by tests/sim, which writes the control file; both sides map or write the same page. Only calls that go
 * through the C library are seen: std's are, and rustix's where tests are built (its feature use-libc).
 *
 * Not for anything that is shipped: the library itself has no C and no unsafe code.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

struct control *control;

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

/* Less room than a write may need is none. */
#define WRITE_BYTES (128 * 1024)

static uint64_t free_bytes(void);

/* The rule by which a call hangs now. */
static struct rule *hangs_by(uint32_t kind, const char *path) {
    struct control *c = control;
    for (uint32_t at = 0; c->hanging && at < c->rules_count && at < RULES_MAX; at++) {
        struct rule *rule = &c->rules[at];
        if (rule->until_us > c->now_us && rule->kinds & kind && (!rule->part[0] || strstr(path, rule->part)))
            return rule;
    }
    return NULL;
}

/* Returns once the call does not hang any more. It is looked at each second: the disk may be healed. */
static void hang(uint32_t kind, const char *path) {
    struct rule *rule;
    while ((rule = hangs_by(kind, path))) {
        __atomic_add_fetch(&rule->hits, 1, __ATOMIC_SEQ_CST);
        if (is_of_history()) {
            __atomic_add_fetch(&control->blocked, 1, __ATOMIC_SEQ_CST);
            return;
        }
        wait_until(control->now_us + 1000000);
    }
}

/* The errno with which a call is to fail; 0: it is to be made; -1: made short. */
static int judge(uint32_t kind, const char *path) {
    struct control *c = control;
    if (!c || !c->root[0] || strncmp(path, c->root, strlen(c->root)))
        return 0;
    maybe_yield();
    hang(kind, path);
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
        if (rule->until_us || !(rule->kinds & kind) || (rule->part[0] && !strstr(path, rule->part)))
            continue;
        if (rule->left == 0)
            continue;
        if (rule->left > 0)
            __atomic_sub_fetch(&rule->left, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&rule->hits, 1, __ATOMIC_SEQ_CST);
        return rule->error ? rule->error : -1;
    }
    /* Only while others have filled it is it worth counting what is left. */
    if (kind & (CREATE | WRITE | MKDIR) && c->taken && free_bytes() < WRITE_BYTES)
        return ENOSPC;
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

/* The path of an open file beneath the root, if calls hang; empty otherwise. */
static const char *path_if_hanging(int fd, char path[PATH_MAX]) {
    char link[64];
    ssize_t len;
    if (!control || !control->root[0] || !control->hanging)
        return "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if ((len = readlink(link, path, PATH_MAX - 1)) < 0)
        return "";
    path[len] = 0;
    return strncmp(path, control->root, strlen(control->root)) ? "" : path;
}

/* Reads that fail by no rule. On the thread of the history they are of pages that were compared a moment ago. */
ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset) {
    char path[PATH_MAX];
    const char *at = path_if_hanging(fd, path);
    if (at[0] && !is_of_history())
        hang(READ, at);
    return REAL(pread64)(fd, bytes, count, offset);
}

ssize_t read(int fd, void *bytes, size_t count) {
    char path[PATH_MAX];
    const char *at = path_if_hanging(fd, path);
    if (at[0])
        hang(READ, at);
    return REAL(read)(fd, bytes, count);
}

/* The store's reads. What is sent is read by pread64 where sendfile would take it out of the page cache, in which it is since
 * it was compared: that does not fail. */
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    char path[PATH_MAX];
    const char *at = flags & RWF_NOWAIT ? path_if_hanging(fd, path) : "";
    if (at[0] && hangs_by(READ, at)) {
        /* Not in the page cache. */
        errno = EAGAIN;
        return -1;
    }
    FAIL_IF(judge_fd(READ, fd));
    return REAL(preadv64v2)(fd, parts, count, offset, flags);
}

/* The filesystem that the files of the daemon lie on: of a size, and others fill the rest of it. */
static __thread uint64_t used;

static int add(const char *path, const struct stat64 *found, int what, struct FTW *where) {
    (void)path, (void)where;
    if (what == FTW_F)
        used += found->st_blocks * 512;
    return 0;
}

static uint64_t free_bytes(void) {
    used = control->taken;
    nftw64(control->live, add, 16, FTW_PHYS);
    return used < control->size ? control->size - used : 0;
}

int statvfs64(const char *path, struct statvfs64 *found) {
    int failed = REAL(statvfs64)(path, found);
    if (failed || !control || !control->size || strncmp(path, control->root, strlen(control->root)) || !control->root[0])
        return failed;
    found->f_bsize = found->f_frsize = 4096;
    found->f_blocks = control->size / 4096;
    found->f_bfree = found->f_bavail = free_bytes() / 4096;
    /* No bound on inodes: the machine's own must not matter. */
    found->f_files = 0;
    return 0;
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
