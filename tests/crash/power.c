/* A disk that keeps only what was fsynced: preloaded into every process of a machine.
 *
 * Each fsync and fdatasync of a file below HSL_POWER_ROOT copies its bytes, and of a folder its names, into
 * HSL_POWER_SHADOW. Nothing else gets there, so what lies there is what a power cut leaves:
 *
 *     data.<inode>    bytes of a file at its last fsync
 *     names.<inode>   lines "inode d name" (f: no folder) of a folder at its last fsync
 *     held.<inode>    a second name of the file, so that no other file gets its inode while the run goes on
 *
 * The real fsync is left out: only this copy is looked at afterwards.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[4096], shadow[4096];
static int frozen;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

void hsl_power_watch(const char *below, const char *kept)
{
    snprintf(root, sizeof root, "%s/", below);
    snprintf(shadow, sizeof shadow, "%s", kept);
}

/* The power is gone: nothing reaches the disk any more. Returns with the lock held, so that no copy is cut in two. */
void hsl_power_cut(void)
{
    pthread_mutex_lock(&one);
    frozen = 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *below = getenv("HSL_POWER_ROOT"), *kept = getenv("HSL_POWER_SHADOW");
    if (below && kept)
        hsl_power_watch(below, kept);
}

static int copy_bytes(int number, const char *to)
{
    char from[64], piece[1 << 16];
    snprintf(from, sizeof from, "/proc/self/fd/%d", number);
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t got = -1;
    while (in >= 0 && out >= 0 && (got = read(in, piece, sizeof piece)) > 0)
        if (write(out, piece, (size_t)got) != got)
            break;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return got;
}

static int copy_names(const char *path, const char *to)
{
    DIR *folder = opendir(path);
    FILE *out = fopen(to, "we");
    if (!folder || !out)
        return -1;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            fprintf(out, "%lu %c %s\n", (unsigned long)entry->d_ino, entry->d_type == DT_DIR ? 'd' : 'f', entry->d_name);
    closedir(folder);
    return fclose(out);
}

/* 0, or -1 with errno where the shadow could not be written: a run that cannot be judged must not pass. */
static int settle(int number)
{
    char link[64], path[4098], temporary[8300], kept[4200], held[4200];
    struct stat facts;
    snprintf(link, sizeof link, "/proc/self/fd/%d", number);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (!root[0] || length < 0 || fstat(number, &facts) < 0)
        return 0;
    path[length] = '/', path[length + 1] = 0;
    if (strncmp(path, root, strlen(root)) || facts.st_nlink == 0)
        return 0;
    int failed = 0;
    int is_folder = S_ISDIR(facts.st_mode);
    snprintf(kept, sizeof kept, "%s/%s.%lu", shadow, is_folder ? "names" : "data", (unsigned long)facts.st_ino);
    snprintf(temporary, sizeof temporary, "%s.%d", kept, (int)getpid());
    snprintf(held, sizeof held, "%s/held.%lu", shadow, (unsigned long)facts.st_ino);
    pthread_mutex_lock(&one);
    if (!frozen) {
        failed = is_folder ? copy_names(path, temporary) : copy_bytes(number, temporary);
        failed = failed || rename(temporary, kept);
        if (!is_folder)
            linkat(AT_FDCWD, link, AT_FDCWD, held, AT_SYMLINK_FOLLOW);
    }
    pthread_mutex_unlock(&one);
    return failed ? -1 : 0;
}

int fsync(int number)
{
    return settle(number);
}

int fdatasync(int number)
{
    return settle(number);
}
