/* A disk that fails when it is told to: what changes a file whose path has the marked text in it is counted, and the
 * process dies by SIGKILL before the Nth such call, or that call and all later ones fail with an error number. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char marked[256];
static long left = -1; /* calls until it happens; negative: never */
static int failure;    /* 0: die; else the error number */
static long seen;

/* Counted from now on: the path has `text` in it, the call number `calls` (from 0) fails. */
void bad_disk_arm(const char *text, long calls, int error)
{
    snprintf(marked, sizeof marked, "%s", text);
    failure = error;
    left = calls;
    seen = 0;
}

void bad_disk_disarm(void) { left = -1; }

/* How many calls there were since it was armed. */
long bad_disk_seen(void) { return seen; }

static int named(const char *path)
{
    if (left < 0 || !strstr(path, marked))
        return 0;
    seen++;
    if (left > 0) {
        left--;
        return 0;
    }
    if (!failure)
        kill(getpid(), SIGKILL);
    errno = failure;
    return 1;
}

static int fails(int descriptor)
{
    char link[64], path[4096];
    if (left < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return named(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return fails(fd) ? -1 : NEXT(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return fails(fd) ? -1 : NEXT(pwrite64)(fd, data, size, at);
}

ssize_t write(int fd, const void *data, size_t size) { return fails(fd) ? -1 : NEXT(write)(fd, data, size); }

int ftruncate(int fd, off_t size) { return fails(fd) ? -1 : NEXT(ftruncate)(fd, size); }

int ftruncate64(int fd, off64_t size) { return fails(fd) ? -1 : NEXT(ftruncate64)(fd, size); }

int fsync(int fd) { return fails(fd) ? -1 : NEXT(fsync)(fd); }

int fdatasync(int fd) { return fails(fd) ? -1 : NEXT(fdatasync)(fd); }

int unlink(const char *path) { return named(path) ? -1 : NEXT(unlink)(path); }
