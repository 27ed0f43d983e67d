/* What the parts of the preloaded library share: the control page, as tests/sim/disk.rs writes it (little-endian). */
#ifndef SHIM_H
#define SHIM_H

#include <dlfcn.h>
#include <stdint.h>

enum { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, UNLINK = 16, MKDIR = 32, OPEN = 64, READ = 128, TIMES = 256 };
#define CHANGES (CREATE | WRITE | SYNC | RENAME | UNLINK | MKDIR | TIMES)
#define RULES_MAX 16

struct rule {
    uint32_t kinds;     /* which calls */
    int32_t error;      /* errno; 0: a write takes one byte only */
    int32_t left;       /* how often; -1: always */
    uint32_t hits;      /* how often so far */
    uint64_t until_us;  /* such calls do not return before this time of the history; 0: they do */
    char part[104];     /* of the path; empty: any */
};

struct control {
    uint64_t calls;     /* changing calls beneath the live directory so far */
    uint64_t stop_at;   /* the one at which everything stops; 0: never */
    uint32_t stopped;   /* nothing changes any more */
    uint32_t rules_count;
    struct rule rules[RULES_MAX];
    char root[512];     /* calls beneath this are looked at */
    char live[512];     /* beneath root, but not beneath this: nothing changes */
    uint64_t seed;      /* of the history that runs; 0: none does, and threads are the kernel's */
    uint64_t now_us;    /* the history's time */
    uint64_t ready;     /* threads that could run and do not */
    uint64_t size;      /* of the filesystem; 0: the machine's */
    uint64_t taken;     /* of it, by others */
    uint32_t hanging;   /* rules with a time */
    uint32_t blocked;   /* calls of the thread that must not wait for the disk, which would have had to */
};

extern struct control *control;

/* A number drawn from the history's seed. */
uint64_t draw(void);
/* Lets other threads run, now and then: a file call is where the kernel might. */
void maybe_yield(void);
/* Lets others run until this time of the history. */
void wait_until(uint64_t us);
/* Whether this is the thread of the history, on which the daemon's tasks run. */
int is_of_history(void);

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

#endif
