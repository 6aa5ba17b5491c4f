/* A Modbus TCP server for benchmarks: many units of float32 registers that it computes when asked.
 *
 *   modbus_load FILE LINKS TAGS STEP_MS BASE_STEP
 *
 * listens on LINKS free loopback ports and says so in its first line ("ports 40001 40002 ...").
 * Every unit of every port has TAGS float32 tags (ABCD) from register 0 on, read with function 3 or
 * 4. A value depends on port, unit, tag and the number of the step (wall clock / STEP_MS), so that
 * a reader can tell which was right; gateway_load.py has the same formulas:
 *
 *   tag 0      when the answer was made: wall clock in 1/8 ms, modulo 2**24, as ms
 *   tag 1, 2   counters: a quarter per step since BASE_STEP
 *   others     (tag * 37 + unit * 101 + port * 1009 + step * 11) % 20000 / 10
 *
 * A byte on standard input is answered by "requests scans"; at its end FILE gets one record for
 * each scan (from the request for register 0 on), and the process ends.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define UNITS 256
#define LINKS 64
#define BUFFER 4096

struct scan {
    int64_t first_ns, last_ns; /* CLOCK_MONOTONIC: first request, answer to the last one */
    uint32_t stamp;            /* of tag 0, in 1/8 ms */
    uint32_t requests;
    uint16_t link, unit;
    uint32_t complete; /* whether the last register was asked for */
};
struct peer {
    int fd, link, listens, used;
    uint8_t in[BUFFER];
};

static struct scan *scans;
static size_t scan_count, scan_room;
static size_t open_scan[LINKS][UNITS]; /* its index and one; 0: none yet */
static uint64_t requests, done, base_step;
static uint32_t tags, step_ms;

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct scan *begin(uint32_t link, uint32_t unit) {
    if (scan_count == scan_room) {
        scan_room = scan_room ? 2 * scan_room : 4096;
        if (!(scans = realloc(scans, scan_room * sizeof *scans))) fail("realloc");
    }
    struct scan *s = &scans[scan_count++];
    memset(s, 0, sizeof *s);
    s->link = (uint16_t)link, s->unit = (uint16_t)unit;
    s->first_ns = now_ns(CLOCK_MONOTONIC);
    s->stamp = (uint32_t)(now_ns(CLOCK_REALTIME) / 125000 % (1 << 24));
    open_scan[link][unit] = scan_count;
    return s;
}

static float value(uint32_t tag, uint32_t unit, uint32_t link, uint64_t step, uint32_t stamp) {
    if (tag == 0) return (float)(stamp / 8.0);
    if (tag <= 2) return (float)((double)(step - base_step) * 0.25 + unit * 1000.0);
    return (float)((tag * 37 + unit * 101 + link * 1009 + step * 11) % 20000 / 10.0);
}

/* Write the answer to one request; return its length. */
static size_t answer(const uint8_t *in, uint32_t link, uint8_t *out) {
    uint32_t unit = in[6], function = in[7];
    uint32_t first = in[8] << 8 | in[9], count = in[10] << 8 | in[11];
    requests++;
    memcpy(out, in, 8);
    if ((function != 3 && function != 4) || !count || count > 125 || first + count > 2 * tags) {
        out[4] = 0, out[5] = 3, out[7] |= 0x80, out[8] = function == 3 || function == 4 ? 2 : 1;
        return 9;
    }
    size_t index = open_scan[link][unit];
    struct scan *s = !first || !index ? begin(link, unit) : &scans[index - 1];
    uint64_t step = (uint64_t)(now_ns(CLOCK_REALTIME) / 1000000) / step_ms;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t r = first + i, bits;
        float v = value(r / 2, unit, link, step, s->stamp);
        memcpy(&bits, &v, 4);
        uint16_t word = (uint16_t)(r % 2 ? bits : bits >> 16);
        out[9 + 2 * i] = (uint8_t)(word >> 8), out[10 + 2 * i] = (uint8_t)word;
    }
    s->requests++;
    if (first + count == 2 * tags) s->complete = 1, s->last_ns = now_ns(CLOCK_MONOTONIC), done++;
    out[4] = (uint8_t)((3 + 2 * count) >> 8), out[5] = (uint8_t)(3 + 2 * count);
    out[8] = (uint8_t)(2 * count);
    return 9 + 2 * count;
}

/* Answer what has come; return 0 when the peer is gone. */
static int serve(struct peer *p) {
    ssize_t got = read(p->fd, p->in + p->used, sizeof p->in - (size_t)p->used);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 1;
    if (got <= 0) return 0;
    p->used += (int)got;
    uint8_t out[BUFFER / 12 * 260];
    size_t length = 0;
    int at = 0;
    for (; p->used - at >= 12; at += 12) {
        if (p->in[at + 4] || p->in[at + 5] != 6) return 0;
        length += answer(p->in + at, (uint32_t)p->link, out + length);
    }
    memmove(p->in, p->in + at, (size_t)(p->used - at));
    p->used -= at;
    return !length || write(p->fd, out, length) == (ssize_t)length;
}

static struct peer *add(int epoll, int fd, int link, int listens) {
    struct peer *p = calloc(1, sizeof *p);
    if (!p) fail("calloc");
    p->fd = fd, p->link = link, p->listens = listens;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
    return p;
}

static int listening(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (void *)&a, size) || listen(fd, 16)) fail("listen");
    getsockname(fd, (void *)&a, &size);
    printf(" %d", ntohs(a.sin_port));
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "modbus_load FILE LINKS TAGS STEP_MS BASE_STEP\n"), 2;
    int links = atoi(argv[2]), epoll = epoll_create1(0), one = 1;
    tags = (uint32_t)atoi(argv[3]), step_ms = (uint32_t)atoi(argv[4]);
    base_step = strtoull(argv[5], NULL, 10);
    if (links < 1 || links > LINKS || tags < 4 || !step_ms) return 2;
    printf("ports");
    for (int i = 0; i < links; i++) add(epoll, listening(), i, 1);
    printf("\n"), fflush(stdout);
    add(epoll, 0, -1, 0);
    for (struct epoll_event e[64];;) {
        int n = epoll_wait(epoll, e, 64, -1);
        for (int i = 0; i < n; i++) {
            struct peer *p = e[i].data.ptr;
            if (p->listens) {
                int fd = accept(p->fd, NULL, NULL);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                add(epoll, fd, p->link, 0);
            } else if (p->link < 0) {
                char byte;
                ssize_t got = read(0, &byte, 1);
                if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
                if (got <= 0) goto end;
                printf("%llu %llu\n", (unsigned long long)requests, (unsigned long long)done);
                fflush(stdout);
            } else if (!serve(p)) {
                close(p->fd), free(p);
            }
        }
    }
end:;
    FILE *file = fopen(argv[1], "wb");
    if (!file || fwrite(scans, sizeof *scans, scan_count, file) != scan_count || fclose(file))
        fail(argv[1]);
    return 0;
}
