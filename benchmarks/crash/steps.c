/* Counts a process's changes to the files under one folder, and kills it, or fails the call, at a given step.
 *
 * Preloaded (LD_PRELOAD), and armed by `crash_arm` in the process to be killed. A step is a call that changes the disk:
 * creating, writing, truncating, syncing, renaming and removing. Each step and the bytes written are appended to a log
 * outside the folder, from which the disk after a power cut is reconstructed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_FILES 4096

static char *names[MOST_FILES]; /* of open files under the root, by descriptor */
static char root[4096];
static long at, step;
static int how_errno, goes_on, no_exchange, log_file = -1;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...)                                                                                           \
    static type (*real)(__VA_ARGS__);                                                                                   \
    if (!real)                                                                                                          \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* folder: absolute path; number: the step that fails, from 1, 0 for none; error: its errno, 0: the process is killed;
 * on: whether later steps fail too, as on a full disk; exchange: 0 to refuse exchanging names; log: its path or NULL */
void crash_arm(const char *folder, long number, int error, int on, int exchange, const char *log)
{
    REAL(int, open64, const char *, int, ...);
    at = number;
    how_errno = error;
    goes_on = on;
    no_exchange = !exchange;
    step = 0;
    log_file = log ? real(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    snprintf(root, sizeof root, "%s", folder);
}

long crash_steps(void) { return step; }

static const char *place(int folder, const char *path, char *buffer)
{
    if (path[0] == '/')
        snprintf(buffer, 4096, "%s", path);
    else if (folder >= 0 && folder < MOST_FILES && names[folder])
        snprintf(buffer, 4096, "%s/%s", names[folder], path);
    else if (folder == AT_FDCWD && getcwd(buffer, 2048))
        snprintf(buffer + strlen(buffer), 2048, "/%s", path);
    else
        return NULL;
    size_t length = strlen(root);
    return length && !strncmp(buffer, root, length) && (buffer[length] == '/' || !buffer[length]) ? buffer : NULL;
}

/* Whether the step may be done; if not, errno is set. */
static int may(void)
{
    step++;
    if (at && (step == at || (goes_on && step > at))) {
        if (!how_errno) {
            kill(getpid(), SIGKILL);
            for (;;)
                pause();
        }
        errno = how_errno;
        return 0;
    }
    return 1;
}

static void note(const char *what, const char *one, const char *other, off_t offset, const void *data, size_t length)
{
    if (log_file < 0)
        return;
    REAL(ssize_t, write, int, const void *, size_t);
    char head[9000];
    int n = snprintf(head, sizeof head, "%s\t%s\t%s\t%lld\t%zu\n", what, one, other, (long long)offset, length);
    if (real(log_file, head, n) < 0 || (length && real(log_file, data, length) < 0))
        abort();
}

static void remember(int file, const char *name)
{
    if (file < 0 || file >= MOST_FILES)
        return;
    free(names[file]);
    names[file] = name ? strdup(name) : NULL;
}

static int opened(int folder, const char *path, int flags, int mode)
{
    REAL(int, openat64, int, const char *, int, ...);
    char buffer[4096];
    pthread_mutex_lock(&held);
    const char *name = place(folder, path, buffer);
    struct stat status;
    int makes = name && (flags & O_CREAT) && lstat(name, &status) != 0;
    int cuts = name && (flags & O_TRUNC) && !makes;
    int file = (makes || cuts) && !may() ? -1 : real(folder, path, flags, mode);
    if (file >= 0) {
        int error = errno;
        if (makes)
            note("create", name, "", 0, NULL, 0);
        if (cuts)
            note("cut", name, "", 0, NULL, 0);
        remember(file, name);
        errno = error;
    }
    pthread_mutex_unlock(&held);
    return file;
}

#define OPEN(name, first, ...)                                                                                          \
    int name(__VA_ARGS__, ...)                                                                                          \
    {                                                                                                                  \
        va_list more;                                                                                                   \
        va_start(more, flags);                                                                                          \
        int mode = va_arg(more, int);                                                                                    \
        va_end(more);                                                                                                   \
        return opened(first, path, flags, mode);                                                                        \
    }
OPEN(open, AT_FDCWD, const char *path, int flags)
OPEN(open64, AT_FDCWD, const char *path, int flags)
OPEN(openat, folder, int folder, const char *path, int flags)
OPEN(openat64, folder, int folder, const char *path, int flags)

int close(int file)
{
    REAL(int, close, int);
    pthread_mutex_lock(&held);
    remember(file, NULL);
    pthread_mutex_unlock(&held);
    return real(file);
}

static const char *known(int file)
{
    return file >= 0 && file < MOST_FILES ? names[file] : NULL;
}

ssize_t write(int file, const void *data, size_t length)
{
    REAL(ssize_t, write, int, const void *, size_t);
    pthread_mutex_lock(&held);
    const char *name = known(file);
    ssize_t done = -1;
    if (!name)
        done = real(file, data, length);
    else if (may()) {
        off_t offset = fcntl(file, F_GETFL) & O_APPEND ? lseek(file, 0, SEEK_END) : lseek(file, 0, SEEK_CUR);
        done = real(file, data, length);
        if (done > 0)
            note("write", name, "", offset, data, done);
    }
    pthread_mutex_unlock(&held);
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t length, off_t offset)
{
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    pthread_mutex_lock(&held);
    const char *name = known(file);
    ssize_t done = name && !may() ? -1 : real(file, data, length, offset);
    if (name && done > 0)
        note("write", name, "", offset, data, done);
    pthread_mutex_unlock(&held);
    return done;
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return pwrite64(file, data, length, offset); }

int ftruncate64(int file, off_t length)
{
    REAL(int, ftruncate64, int, off_t);
    pthread_mutex_lock(&held);
    const char *name = known(file);
    int failed = name && !may() ? -1 : real(file, length);
    if (name && !failed)
        note("length", name, "", length, NULL, 0);
    pthread_mutex_unlock(&held);
    return failed;
}

int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

#define SYNC(name)                                                                                                      \
    int name(int file)                                                                                                  \
    {                                                                                                                  \
        REAL(int, name, int);                                                                                           \
        pthread_mutex_lock(&held);                                                                                      \
        const char *path = known(file);                                                                                 \
        int failed = path && !may() ? -1 : real(file);                                                                  \
        if (path && !failed)                                                                                            \
            note("sync", path, "", 0, NULL, 0);                                                                          \
        pthread_mutex_unlock(&held);                                                                                    \
        return failed;                                                                                                  \
    }
SYNC(fsync)
SYNC(fdatasync)

#define ON_PATHS(kind, call)                                                                                            \
    pthread_mutex_lock(&held);                                                                                          \
                                                                                                          \
    char here[4096], there[4096];                                                                                       \
    const char *one = place(from_folder, from, here), *other = to ? place(to_folder, to, there) : "";                   \
    int failed = one && !may() ? -1 : (call);                                                                           \
    if (one && !failed)                                                                                                 \
        note(kind, one, other ? other : "", 0, NULL, 0);                                                                \
    pthread_mutex_unlock(&held);                                                                                        \
    return failed;

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    if (flags && no_exchange) {
        errno = EINVAL;
        return -1;
    }
    ON_PATHS(flags ? "exchange" : "rename", real(from_folder, from, to_folder, to, flags))
}

int rename(const char *from, const char *to)
{
    REAL(int, rename, const char *, const char *);
    int from_folder = AT_FDCWD, to_folder = AT_FDCWD;
    ON_PATHS("rename", real(from, to))
}

int mkdir(const char *from, mode_t mode)
{
    REAL(int, mkdir, const char *, mode_t);
    const char *to = NULL;
    int from_folder = AT_FDCWD, to_folder = AT_FDCWD;
    ON_PATHS("folder", real(from, mode))
}

int unlinkat(int from_folder, const char *from, int flags)
{
    REAL(int, unlinkat, int, const char *, int);
    const char *to = NULL;
    int to_folder = AT_FDCWD;
    ON_PATHS("remove", real(from_folder, from, flags))
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
