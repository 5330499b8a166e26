/* spec/fuzz/driver.c — runs a fuzz target where libFuzzer is not: every seed as it is, then mutations of them, the same ones for
 * the same --seed. spec/unit/fuzz_spec.lua runs each target so for a moment; `./dev fuzz` uses it where there is no clang.
 *
 *     NAME_fuzz [--runs N] [--seconds N] [--seed N] [--crash FILE] [FILE or FOLDER…]
 *
 * An input that crashes, or takes longer than ten seconds, is written to FILE (default ./crash-input), and the exit is not 0. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_BYTES = 1 << 16, SEEDS_MAX = 4096, INPUT_SECONDS = 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    uint8_t *data;
    size_t size;
};

static struct input seeds[SEEDS_MAX];
static size_t n_seeds;
static uint8_t now[INPUT_BYTES]; /* the input under way; also read when it has crashed */
static size_t now_size;
static const char *crash_path = "crash-input";
static uint64_t state;

static uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t below(size_t n)
{
    return n ? (size_t)(next_random() % n) : 0;
}

/* Async-signal-safe: keeps the input that was under way. */
static void keep_input(void)
{
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, now, now_size) < 0)
        _exit(99);
    close(fd);
}

static void on_signal(int number)
{
    static const char slow[] = "driver: an input takes longer than ten seconds\n";
    if (number == SIGALRM && write(2, slow, sizeof slow - 1) < 0)
        _exit(99);
    keep_input();
    _exit(98);
}

static void add_seed(const char *path)
{
    int fd = open(path, O_RDONLY);
    uint8_t *data = malloc(INPUT_BYTES);
    ssize_t size = fd < 0 || !data ? -1 : read(fd, data, INPUT_BYTES);
    if (size < 0 || n_seeds == SEEDS_MAX) {
        fprintf(stderr, "driver: cannot read the seed %s\n", path);
        exit(1);
    }
    close(fd);
    seeds[n_seeds++] = (struct input){data, (size_t)size};
}

static void add_seeds(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        struct dirent **names;
        int n = scandir(path, &names, NULL, alphasort);
        for (int i = 0; i < n; i++) {
            char file[4096];
            snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
            if (stat(file, &st) == 0 && S_ISREG(st.st_mode))
                add_seed(file);
            free(names[i]);
        }
        if (n >= 0)
            free(names);
    } else {
        add_seed(path);
    }
}

/* One change to `now`: what parsers of lengths and offsets trip over. */
static void mutate(void)
{
    static const uint64_t edges[] = {0,      1,          0x7f,        0x80,        0xff,      0x7fff,    0x8000,
                                     0xffff, 0x7fffffff, 0x80000000u, 0xffffffffu, INT64_MAX, UINT64_MAX};
    size_t at = below(now_size), n;
    switch (below(7)) {
    case 0: /* a bit */
        if (now_size)
            now[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1: /* a byte */
        if (now_size)
            now[at] = (uint8_t)next_random();
        break;
    case 2: { /* a number of 1, 2, 4 or 8 bytes, at an edge or near it */
        uint64_t value = edges[below(sizeof edges / sizeof *edges)] + below(3) - 1;
        n = (size_t)1 << below(4);
        if (at + n <= now_size)
            memcpy(now + at, &value, n);
        break;
    }
    case 3: /* cut off the end */ now_size = at; break;
    case 4: /* take out a piece */
        n = below(now_size - at);
        memmove(now + at, now + at + n, now_size - at - n);
        now_size -= n;
        break;
    case 5: /* put in noise, or a piece of itself */
        n = 1 + below(32);
        if (now_size + n > INPUT_BYTES)
            break;
        memmove(now + at + n, now + at, now_size - at);
        now_size += n;
        if (below(2) && at >= n)
            memcpy(now + at, now + at - n, n);
        else
            for (size_t i = 0; i < n; i++)
                now[at + i] = (uint8_t)next_random();
        break;
    default: /* go on with another seed's end */
        if (n_seeds) {
            const struct input *other = &seeds[below(n_seeds)];
            size_t from = below(other->size);
            n = other->size - from;
            n = n < INPUT_BYTES - at ? n : INPUT_BYTES - at;
            memcpy(now + at, other->data + from, n);
            now_size = at + n;
        }
    }
}

static void run_one(void)
{
    alarm(INPUT_SECONDS);
    uint8_t *copy = malloc(now_size ? now_size : 1); /* of its exact size, so that a sanitizer sees a read beyond it */
    if (!copy)
        abort();
    memcpy(copy, now, now_size);
    LLVMFuzzerTestOneInput(copy, now_size);
    free(copy);
    alarm(0);
}

static void take(const struct input *seed)
{
    memcpy(now, seed->data, seed->size);
    now_size = seed->size;
}

int main(int argc, char **argv)
{
    uint64_t runs = 0, limit = 10000, seconds = 0;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && !strcmp(argv[i], "--runs"))
            limit = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--seconds"))
            seconds = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
            state = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--crash"))
            crash_path = argv[++i];
        else
            add_seeds(argv[i]);
    }
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(keep_input);
    else
        signal(SIGSEGV, on_signal);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    for (size_t i = 0; i < n_seeds; i++, runs++) {
        take(&seeds[i]);
        run_one();
    }
    time_t end = time(NULL) + (time_t)seconds;
    for (uint64_t i = 0; seconds ? time(NULL) < end : i < limit; i++, runs++) {
        now_size = 0;
        if (n_seeds)
            take(&seeds[below(n_seeds)]);
        for (size_t changes = 1 + below(8); changes; changes--)
            mutate();
        run_one();
    }
    printf("%llu inputs from %zu seeds, none crashed\n", (unsigned long long)runs, n_seeds);
    while (n_seeds)
        free(seeds[--n_seeds].data);
    return 0;
}
