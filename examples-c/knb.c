/* knb: the RPC benchmark of the paper (LUNA, sections 3.1 and 8.1.1) on the C API, in one thread.
 *
 *   knb server [--port P] [--inline]
 *   knb client ADDRESS [--port P] [--size BYTES] [--connections N] [--iodepth N] [--seconds S]
 *   both: [--spin]
 *
 * It speaks with `luna knb` as well: every byte of every request and response is compared with the
 * pattern that both ends know. The client prints key=value words. Status: 0 good, 1 wrong or lost
 * data, 2 usage.
 *
 *   cc -O2 -o knb knb.c -lluna                the calls of luna.h; LUNA_DEV and so on as usual
 *   cc -O2 -DKERNEL -o knb-kernel knb.c       plain BSD sockets: the kernel, or `luna run`
 *
 * --inline serves from luna's loop: the very buffers that a request came in are sent back. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef KERNEL
#define CALL(name) name
#else
#include <luna.h>
#define CALL(name) luna_##name
#endif

#define HELLO_BYTES 16
#define CHUNK_BYTES 65536
#define PERIOD 8191 /* prime: what is lost or repeated does not fit */
#define MESSAGE_BYTES_MAX (16u << 20)
#define IODEPTH_MAX 4096
#define EVENTS_MAX 64
#define TIMES_MAX (8u << 20)

struct conn {
    int fd;
    uint8_t hello[HELLO_BYTES];
    size_t greeted; /* bytes of the hello that are sent, or received */
    uint64_t size, phase;
    uint64_t asked, sent, received; /* bytes of payload; asked: owed, on the server */
    uint64_t starts[IODEPTH_MAX], first, last;
    bool wants_out, is_connected;
};

static struct {
    const char *host;
    uint16_t port;
    uint32_t size, connections, iodepth;
    double seconds;
    bool spin, in_line;
} options = {.port = 7000, .size = 4096, .connections = 1, .iodepth = 1, .seconds = 2};

static uint8_t pattern[PERIOD + CHUNK_BYTES], buffer[CHUNK_BYTES];
static uint32_t *times; /* ns */
static uint64_t requests;

static void fail(const char *what)
{
    fprintf(stderr, "knb: %s: %s\n", what, errno ? strerror(errno) : "wrong data");
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void make_pattern(void)
{
    uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < PERIOD; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pattern[i] = (uint8_t)(state >> 32);
    }
    for (size_t i = PERIOD; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PERIOD];
}

static void put32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get32(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void set_phase(struct conn *conn)
{
    conn->size = get32(conn->hello + 4);
    conn->phase = (uint64_t)get32(conn->hello + 8) * 1237 % PERIOD;
}

/* The server: takes what a hello may still lack. Returns how many bytes were taken. */
static size_t greet(struct conn *conn, const uint8_t *bytes, size_t count)
{
    size_t part = HELLO_BYTES - conn->greeted;
    part = part < count ? part : count;
    memcpy(conn->hello + conn->greeted, bytes, part);
    conn->greeted += part;
    if (part > 0 && conn->greeted == HELLO_BYTES) {
        set_phase(conn);
        if (memcmp(conn->hello, "KNB1", 4) != 0 || conn->size == 0 ||
            conn->size > MESSAGE_BYTES_MAX)
            fail("the client is not knb");
    }
    return part;
}

/* Compares payload that arrived with what it must be. */
static void check(struct conn *conn, const uint8_t *bytes, size_t count)
{
    errno = 0;
    while (count > 0) {
        size_t part = count < CHUNK_BYTES ? count : CHUNK_BYTES;
        if (memcmp(bytes, pattern + (conn->phase + conn->received) % PERIOD, part) != 0)
            fail("payload");
        conn->received += part;
        bytes += part;
        count -= part;
    }
}

static void watch(int epoll, struct conn *conn, int operation)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (conn->wants_out)
        event.events |= EPOLLOUT;
    if (CALL(epoll_ctl)(epoll, operation, conn->fd, &event) < 0)
        fail("epoll_ctl");
}

/* Sends what is due; the hello (a client's) goes with the first payload. */
static void transmit(int epoll, struct conn *conn)
{
    bool wants_out = false;
    while (conn->sent < conn->asked) {
        uint64_t left = conn->asked - conn->sent;
        size_t part = left < CHUNK_BYTES ? left : CHUNK_BYTES, hello = 0;
        const uint8_t *from = pattern + (conn->phase + conn->sent) % PERIOD;
        uint8_t first[HELLO_BYTES + CHUNK_BYTES];
        if (conn->greeted < HELLO_BYTES) {
            hello = HELLO_BYTES - conn->greeted;
            memcpy(first, conn->hello + conn->greeted, hello);
            memcpy(first + hello, from, part);
            from = first;
        }
        ssize_t count = CALL(send)(conn->fd, from, hello + part, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) {
            wants_out = true;
            break;
        }
        if (count < 0)
            fail("send");
        size_t taken = (size_t)count < hello ? (size_t)count : hello;
        conn->greeted += taken;
        conn->sent += (size_t)count - taken;
    }
    if (wants_out != conn->wants_out) {
        conn->wants_out = wants_out;
        watch(epoll, conn, EPOLL_CTL_MOD);
    }
}

static struct sockaddr_in address(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    if (inet_pton(AF_INET, options.host ? options.host : "0.0.0.0", &to.sin_addr) != 1) {
        fprintf(stderr, "knb: %s: an IPv4 address is needed\n", options.host);
        exit(2);
    }
    return to;
}

static struct conn *open_conn(int fd)
{
    struct conn *conn = calloc(1, sizeof *conn);
    int one = 1;
    if (conn == NULL)
        fail("memory");
    conn->fd = fd;
    CALL(setsockopt)(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return conn;
}

/* ---- server ---------------------------------------------------------------------------------- */

/* Reads all there is; false at the end of the stream. */
static bool serve_one(struct conn *conn)
{
    for (;;) {
        ssize_t count = CALL(read)(conn->fd, buffer, sizeof buffer);
        if (count < 0 && errno == EAGAIN)
            return true;
        if (count <= 0)
            return false;
        size_t hello = greet(conn, buffer, (size_t)count);
        check(conn, buffer + hello, (size_t)count - hello);
        if (conn->size > 0)
            conn->asked = conn->received / conn->size * conn->size;
        if ((size_t)count < sizeof buffer)
            return true;
    }
}

static void serve(void)
{
    struct sockaddr_in at = address();
    int one = 1, listener = CALL(socket)(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int epoll = CALL(epoll_create1)(0);
    CALL(setsockopt)(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (CALL(bind)(listener, (struct sockaddr *)&at, sizeof at) < 0)
        fail("bind");
    if (CALL(listen)(listener, 1024) < 0)
        fail("listen");
    struct conn *accepting = open_conn(listener);
    watch(epoll, accepting, EPOLL_CTL_ADD);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = CALL(epoll_wait)(epoll, events, EVENTS_MAX, options.spin ? 0 : -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == accepting) {
                int fd = CALL(accept4)(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd >= 0)
                    watch(epoll, open_conn(fd), EPOLL_CTL_ADD);
            } else if (serve_one(conn)) {
                transmit(epoll, conn);
            } else {
                CALL(close)(conn->fd);
                free(conn);
            }
        }
    }
}

#ifndef KERNEL

/* ---- server, inline, without copying --------------------------------------------------------- */

/* What has arrived of a request that is not complete; sent back when it is. */
#define PIECES_MAX 16384
struct answering {
    struct conn conn;
    struct luna_ziov pieces[PIECES_MAX];
    int first, last;
};

static void *accepted(struct luna_loop *loop, uint64_t listener, void *user, uint64_t conn)
{
    (void)loop, (void)listener, (void)user, (void)conn;
    return calloc(1, sizeof(struct answering));
}

static void answer(struct luna_loop *loop, uint64_t handle, void *user)
{
    struct answering *a = user;
    struct luna_ziov iov[64];
    while (a->conn.sent < a->conn.asked) {
        uint64_t left = a->conn.asked - a->conn.sent;
        int count = 0;
        for (int i = a->first; i < a->last && count < 64 && left > 0; i++, count++) {
            iov[count] = a->pieces[i];
            iov[count].len = iov[count].len < left ? iov[count].len : left;
            left -= iov[count].len;
        }
        ssize_t sent = luna_loop_send(loop, handle, iov, count, 0);
        if (sent < 0)
            return; /* `writable` or `closed` will come */
        a->conn.sent += (uint64_t)sent;
        while (sent > 0) {
            struct luna_ziov *piece = &a->pieces[a->first];
            if ((size_t)sent < piece->len) {
                piece->base = (uint8_t *)piece->base + sent;
                piece->len -= (size_t)sent;
                break;
            }
            sent -= (ssize_t)piece->len;
            luna_zbuf_free((uint8_t *)piece->base);
            a->first++;
        }
    }
    if (a->first == a->last)
        a->first = a->last = 0;
}

static void closed(struct luna_loop *loop, uint64_t handle, void *user, int error)
{
    struct answering *a = user;
    (void)loop, (void)handle, (void)error;
    while (a->first < a->last)
        luna_zbuf_free(a->pieces[a->first++].base);
    free(a);
}

static void readable(struct luna_loop *loop, uint64_t handle, void *user,
                     const struct luna_ziov *iov, int count)
{
    struct answering *a = user;
    if (count == 0) {
        luna_loop_close(loop, handle, 0);
        closed(loop, handle, user, 0);
        return;
    }
    for (int i = 0; i < count; i++) {
        struct luna_ziov piece = iov[i];
        size_t hello = greet(&a->conn, piece.base, piece.len);
        piece.base = (uint8_t *)piece.base + hello;
        piece.len -= hello;
        check(&a->conn, piece.base, piece.len);
        if (piece.len == 0)
            continue;
        if (a->last == PIECES_MAX || luna_zbuf_ref(piece.base) < 0)
            fail("a buffer can't be kept");
        a->pieces[a->last++] = piece;
    }
    if (a->conn.size > 0)
        a->conn.asked = a->conn.received / a->conn.size * a->conn.size;
    answer(loop, handle, user);
}

static void serve_inline(void)
{
    static const struct luna_loop_callbacks callbacks = {
        .size = sizeof callbacks, .accepted = accepted, .readable = readable, .writable = answer,
        .closed = closed,
    };
    struct luna_loop_options how = {.size = sizeof how, .flags = options.spin ? LUNA_LOOP_BUSY : 0};
    struct luna_loop *loop = luna_loop_create(&how);
    struct sockaddr_in at = address();
    if (loop == NULL)
        fail("luna_loop_create");
    if (luna_loop_listen(loop, (struct sockaddr *)&at, sizeof at, 1024, &callbacks, NULL, NULL) < 0)
        fail("luna_loop_listen");
    printf("ready\n");
    fflush(stdout);
    if (luna_loop_run(loop) < 0)
        fail("luna_loop_run");
}

#endif

/* ---- client ---------------------------------------------------------------------------------- */

static void ask(struct conn *conn, uint64_t start)
{
    conn->starts[conn->last++ % IODEPTH_MAX] = start;
    conn->asked += conn->size;
}

static void receive(struct conn *conn)
{
    for (;;) {
        ssize_t count = CALL(read)(conn->fd, buffer, sizeof buffer);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count <= 0)
            fail("the connection is lost");
        uint64_t before = conn->received / conn->size, present = now();
        check(conn, buffer, (size_t)count);
        for (uint64_t done = conn->received / conn->size; before < done; before++) {
            if (requests < TIMES_MAX)
                times[requests] = (uint32_t)(present - conn->starts[conn->first % IODEPTH_MAX]);
            conn->first++;
            requests++;
            ask(conn, present);
        }
        if ((size_t)count < sizeof buffer)
            return;
    }
}

static int by_time(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static void run_client(void)
{
    struct sockaddr_in to = address();
    int epoll = CALL(epoll_create1)(0);
    for (uint32_t id = 0; id < options.connections; id++) {
        struct conn *conn = open_conn(CALL(socket)(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        memcpy(conn->hello, "KNB1", 4);
        put32(conn->hello + 4, options.size);
        put32(conn->hello + 8, id);
        set_phase(conn);
        if (CALL(connect)(conn->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
            fail("connect");
        conn->wants_out = true;
        watch(epoll, conn, EPOLL_CTL_ADD);
    }
    uint64_t begin = now(), end = begin + (uint64_t)(options.seconds * 1e9);
    for (uint64_t present = begin; present < end; present = now()) {
        struct epoll_event events[EVENTS_MAX];
        int count = CALL(epoll_wait)(epoll, events, EVENTS_MAX, options.spin ? 0 : 100);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;
            if (!conn->is_connected) {
                int error = 0;
                socklen_t len = sizeof error;
                CALL(getsockopt)(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
                errno = error;
                if (error != 0)
                    fail("connect");
                conn->is_connected = true;
                for (uint32_t n = 0; n < options.iodepth; n++)
                    ask(conn, now());
            } else {
                receive(conn);
            }
            transmit(epoll, conn);
        }
    }
    uint64_t kept = requests < TIMES_MAX ? requests : TIMES_MAX;
    errno = 0;
    if (kept == 0)
        fail("no answer");
    qsort(times, kept, sizeof *times, by_time);
    printf("requests=%llu rps=%.0f p50_us=%.1f p99_us=%.1f max_us=%.1f\n",
           (unsigned long long)requests, (double)requests * 1e9 / (double)(now() - begin),
           times[kept / 2] / 1e3, times[kept - 1 - kept / 100] / 1e3, times[kept - 1] / 1e3);
}

static int usage(void)
{
    fprintf(stderr, "usage: knb server [--port P] [--inline] [--spin]\n"
                    "       knb client ADDRESS [--port P] [--size BYTES] [--connections N]\n"
                    "                  [--iodepth N] [--seconds S] [--spin]\n");
    return 2;
}

int main(int argc, char **argv)
{
    bool is_client = argc > 2 && strcmp(argv[1], "client") == 0;
    if (!is_client && (argc < 2 || strcmp(argv[1], "server") != 0))
        return usage();
    if (is_client)
        options.host = argv[2];
    for (int i = is_client ? 3 : 2; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--spin") == 0) {
            options.spin = true;
            continue;
        }
        if (strcmp(name, "--inline") == 0) {
            options.in_line = true;
            continue;
        }
        if (++i == argc)
            return usage();
        double value = atof(argv[i]);
        if (strcmp(name, "--port") == 0 && value > 0 && value < 65536)
            options.port = (uint16_t)value;
        else if (strcmp(name, "--size") == 0 && value >= 1 && value <= MESSAGE_BYTES_MAX)
            options.size = (uint32_t)value;
        else if (strcmp(name, "--connections") == 0 && value >= 1 && value <= 100000)
            options.connections = (uint32_t)value;
        else if (strcmp(name, "--iodepth") == 0 && value >= 1 && value <= IODEPTH_MAX)
            options.iodepth = (uint32_t)value;
        else if (strcmp(name, "--seconds") == 0 && value > 0 && value <= 3600)
            options.seconds = value;
        else
            return usage();
    }
    make_pattern();
    if (is_client) {
        times = malloc(TIMES_MAX * sizeof *times);
        if (times == NULL)
            fail("memory");
        run_client();
    } else if (options.in_line) {
#ifdef KERNEL
        return usage();
#else
        serve_inline();
#endif
    } else {
        serve();
    }
    return 0;
}
