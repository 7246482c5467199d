/* Loaded before libc: while the file $SLOW_FILE holds a number, each sync waits for so many milliseconds first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_first(void) {
    const char *path = getenv("SLOW_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    int ms = 0;
    if (file == NULL) return;
    if (fscanf(file, "%d", &ms) != 1) ms = 0;
    fclose(file);
    if (ms > 0) usleep(ms * 1000);
}

int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    wait_first();
    return next(fd);
}

int fdatasync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    wait_first();
    return next(fd);
}
