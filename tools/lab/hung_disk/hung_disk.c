/* A file system that does not answer while it is told not to: who opens, stats or lists a path that begins with
 * HUNG_DISK waits for as long as the file HUNG_DISK_SWITCH is there; HUNG_DISK_WAITING is made as the first does. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void wait_for(const char *path)
{
    const char *hung = getenv("HUNG_DISK"), *turned = getenv("HUNG_DISK_SWITCH"), *waiting = getenv("HUNG_DISK_WAITING");
    if (path == NULL || hung == NULL || turned == NULL || strncmp(path, hung, strlen(hung)) != 0)
        return;
    struct timespec step = {0, 10000000};
    while (NEXT(access)(turned, F_OK) == 0) {
        int made = waiting ? NEXT(open)(waiting, O_CREAT | O_WRONLY | O_CLOEXEC, 0644) : -1;
        if (made >= 0)
            close(made);
        nanosleep(&step, NULL);
    }
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) wait_for(path); return NEXT(open)(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) wait_for(path); return NEXT(open64)(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) wait_for(path); return NEXT(openat)(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) wait_for(path); return NEXT(openat64)(at, path, flags, mode); }
int stat(const char *path, struct stat *told) { wait_for(path); return NEXT(stat)(path, told); }
int stat64(const char *path, struct stat64 *told) { wait_for(path); return NEXT(stat64)(path, told); }
int lstat(const char *path, struct stat *told) { wait_for(path); return NEXT(lstat)(path, told); }
int fstatat(int at, const char *path, struct stat *told, int flags) { wait_for(path); return NEXT(fstatat)(at, path, told, flags); }
int fstatat64(int at, const char *path, struct stat64 *told, int flags) { wait_for(path); return NEXT(fstatat64)(at, path, told, flags); }
DIR *opendir(const char *path) { wait_for(path); return NEXT(opendir)(path); }
ssize_t readlink(const char *path, char *told, size_t most) { wait_for(path); return NEXT(readlink)(path, told, most); }
