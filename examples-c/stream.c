/* stream: a small TCP peer that checks every byte and measures round trips.
 *
 * Plain BSD sockets: the same binary runs on the kernel's stack and, under `luna run`, on luna's.
 *
 *   stream server --port P [--bind A] [--io blocking|epoll|edge] [--busy] [--connections N]
 *   stream bulk   --host A --port P [--io …] [--up BYTES] [--down BYTES] [--seed S]
 *                 [--chunk BYTES] [--connections N]
 *   stream rpc    --host A --port P [--io …] [--busy] [--request BYTES] [--response BYTES]
 *                 [--connections N] [--count N | --seconds S] [--warmup S]
 *   stream short  --host A --port P [--request BYTES] [--response BYTES] [--count N | --seconds S]
 *   stream selftest BYTES SEED
 *   every mode: --timeout S (ends the program, status 4)
 *
 * bulk sends seeded pseudo-random bytes both ways at once, each direction followed by its SHA-256;
 * the receiver compares each byte with the same generator, the digest, and the end of the stream.
 * rpc keeps one request outstanding per connection; short opens a connection for each request.
 * Results are lines of key=value words on standard output. Status: 0 good, 1 a check failed,
 * 2 usage, 3 the connection failed, 4 too slow. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "sha256.h"

#define BLOCK_BYTES 65536
#define HELLO_BYTES 48
#define MESSAGE_BYTES_MAX (1u << 20)
#define EVENTS_MAX 64

enum status { STATUS_GOOD, STATUS_CHECK, STATUS_USAGE, STATUS_CONNECTION, STATUS_SLOW };
enum io { IO_BLOCKING, IO_EPOLL, IO_EDGE };
enum kind { KIND_NONE, KIND_BULK, KIND_RPC, KIND_SHORT };
enum step { STEP_MORE, STEP_BLOCKED, STEP_DONE, STEP_FAILED };

static struct {
    const char *bind, *host, *port;
    enum io io;
    bool busy;
    uint64_t connections, up, down, seed, chunk, request, response, count, seconds, warmup, timeout;
} options = {
    .bind = "0.0.0.0", .port = "7000", .seed = 1, .request = 4096, .response = 4096,
};

static _Atomic int worst = STATUS_GOOD;
static uint8_t pattern[MESSAGE_BYTES_MAX];

/* ---- small things -------------------------------------------------------------------------- */

static void worsen(int status)
{
    int seen = atomic_load(&worst);
    while (seen < status && !atomic_compare_exchange_weak(&worst, &seen, status))
        ;
}

__attribute__((format(printf, 2, 3))) static enum step failed(int status, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    worsen(status);
    printf("result=error status=%d %s\n", status, text);
    return STEP_FAILED;
}

static enum step failed_call(const char *call)
{
    const char *name = strerrorname_np(errno);
    return failed(STATUS_CONNECTION, "call=%s errno=%s", call, name ? name : "?");
}

static void *must_allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (!memory) {
        fputs("stream: out of memory\n", stderr);
        _exit(STATUS_CHECK);
    }
    return memory;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void put_u64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (56 - 8 * i));
}

static uint64_t take_u64(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

/* The stream of bytes that a seed stands for, a block at a time. */
struct source {
    uint64_t state;
    size_t at;
    uint8_t block[BLOCK_BYTES];
};

static void source_refill(struct source *source)
{
    for (size_t i = 0; i < BLOCK_BYTES; i += 8) {
        uint64_t word = next_random(&source->state);
        memcpy(source->block + i, &word, 8);
    }
    source->at = 0;
}

static void source_init(struct source *source, uint64_t seed)
{
    source->state = seed;
    source_refill(source);
}

static void source_advance(struct source *source, size_t count)
{
    source->at += count;
    if (source->at == BLOCK_BYTES)
        source_refill(source);
}

/* Every way there is to write to and read from a stream socket, in turn. */
static ssize_t put(int fd, const uint8_t *bytes, size_t count, unsigned turn)
{
    size_t half = count / 2;
    struct iovec parts[2] = {
        {.iov_base = (void *)(uintptr_t)bytes, .iov_len = half},
        {.iov_base = (void *)(uintptr_t)(bytes + half), .iov_len = count - half},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t done;
    do {
        switch (turn % 4) {
        case 0: done = send(fd, bytes, count, MSG_NOSIGNAL); break;
        case 1: done = write(fd, bytes, count); break;
        case 2: done = writev(fd, parts, 2); break;
        default: done = sendmsg(fd, &message, MSG_NOSIGNAL); break;
        }
    } while (done < 0 && errno == EINTR);
    return done;
}

static ssize_t get(int fd, uint8_t *bytes, size_t count, unsigned turn)
{
    size_t half = count / 2;
    struct iovec parts[2] = {
        {.iov_base = bytes, .iov_len = half},
        {.iov_base = bytes + half, .iov_len = count - half},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t done;
    do {
        switch (turn % 4) {
        case 0: done = recv(fd, bytes, count, 0); break;
        case 1: done = read(fd, bytes, count); break;
        case 2: done = readv(fd, parts, 2); break;
        default: done = recvmsg(fd, &message, 0); break;
        }
    } while (done < 0 && errno == EINTR);
    return done;
}

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

static void set_nonblocking(int fd)
{
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        failed_call("fcntl");
}

/* ---- bulk: both directions at once, every byte checked -------------------------------------- */

enum phase { PHASE_DATA, PHASE_DIGEST, PHASE_END };

/* One direction of a bulk transfer, seen from either of its ends. */
struct half {
    enum phase phase;
    uint64_t total, done;
    struct source source;
    struct sha256 hash;
    uint8_t digest[SHA256_BYTES];
    size_t digest_at;
    uint64_t sizes;
    uint64_t chunk;
    unsigned turn;
};

static void half_init(struct half *half, uint64_t total, uint64_t seed, uint64_t chunk)
{
    half->phase = PHASE_DATA;
    half->total = total;
    half->done = 0;
    source_init(&half->source, seed);
    sha256_init(&half->hash);
    half->digest_at = 0;
    half->sizes = seed ^ 0x5ca1ab1e;
    half->chunk = chunk;
    half->turn = 0;
}

/* How much the next call moves: sizes spread evenly over the powers of two, or a fixed chunk. */
static size_t half_size(struct half *half, uint64_t room)
{
    uint64_t size = half->chunk;
    if (size == 0) {
        uint64_t draw = next_random(&half->sizes);
        size = 1 + (draw >> 8) % ((uint64_t)2 << draw % 16);
    }
    return size < room ? size : room;
}

static enum step send_step(int fd, struct half *half)
{
    if (half->phase == PHASE_DATA && half->done == half->total) {
        sha256_finish(&half->hash, half->digest);
        half->phase = PHASE_DIGEST;
    }
    if (half->phase == PHASE_DIGEST && half->digest_at == SHA256_BYTES) {
        half->phase = PHASE_END;
        return shutdown(fd, SHUT_WR) == 0 ? STEP_DONE : failed_call("shutdown");
    }
    const uint8_t *from = half->digest + half->digest_at;
    size_t count = SHA256_BYTES - half->digest_at;
    if (half->phase == PHASE_DATA) {
        uint64_t room = half->total - half->done;
        if (room > BLOCK_BYTES - half->source.at)
            room = BLOCK_BYTES - half->source.at;
        from = half->source.block + half->source.at;
        count = half_size(half, room);
    }
    ssize_t sent = put(fd, from, count, half->turn++);
    if (sent < 0)
        return would_block() ? STEP_BLOCKED : failed_call("send");
    if (half->phase == PHASE_DIGEST) {
        half->digest_at += (size_t)sent;
        return STEP_MORE;
    }
    sha256_update(&half->hash, from, (size_t)sent);
    source_advance(&half->source, (size_t)sent);
    half->done += (uint64_t)sent;
    return STEP_MORE;
}

static enum step check_bytes(struct half *half, const uint8_t *bytes, size_t count)
{
    sha256_update(&half->hash, bytes, count);
    while (count > 0) {
        size_t take = BLOCK_BYTES - half->source.at;
        if (take > count)
            take = count;
        const uint8_t *expected = half->source.block + half->source.at;
        if (memcmp(bytes, expected, take) != 0) {
            size_t at = 0;
            while (bytes[at] == expected[at])
                at++;
            return failed(STATUS_CHECK, "wrong_byte_at=%" PRIu64 " got=%02x expected=%02x",
                          half->done + at, bytes[at], expected[at]);
        }
        source_advance(&half->source, take);
        half->done += take, bytes += take, count -= take;
    }
    return STEP_MORE;
}

static enum step check_digest(struct half *half, const uint8_t *bytes, size_t count)
{
    uint8_t own[SHA256_BYTES];
    memcpy(half->digest + half->digest_at, bytes, count);
    half->digest_at += count;
    if (half->digest_at < SHA256_BYTES)
        return STEP_MORE;
    sha256_finish(&half->hash, own);
    half->phase = PHASE_END;
    if (memcmp(own, half->digest, SHA256_BYTES) != 0)
        return failed(STATUS_CHECK, "digest=differs");
    return STEP_MORE;
}

static enum step receive_step(int fd, struct half *half)
{
    uint8_t bytes[BLOCK_BYTES];
    if (half->phase == PHASE_DATA && half->done == half->total)
        half->phase = PHASE_DIGEST;
    size_t count = 1;
    if (half->phase == PHASE_DATA)
        count = half_size(half, half->total - half->done);
    else if (half->phase == PHASE_DIGEST)
        count = SHA256_BYTES - half->digest_at;
    if (count > sizeof bytes)
        count = sizeof bytes;
    ssize_t got = get(fd, bytes, count, half->turn++);
    if (got < 0)
        return would_block() ? STEP_BLOCKED : failed_call("recv");
    if (half->phase == PHASE_END)
        return got == 0 ? STEP_DONE : failed(STATUS_CHECK, "bytes=after_the_end");
    if (got == 0)
        return failed(STATUS_CHECK, "end_after=%" PRIu64 " expected=%" PRIu64, half->done,
                      half->total);
    if (half->phase == PHASE_DATA)
        return check_bytes(half, bytes, (size_t)got);
    return check_digest(half, bytes, (size_t)got);
}

/* ---- a connection, on either side ----------------------------------------------------------- */

struct connection {
    int fd;
    enum kind kind;
    bool is_server, connecting, out_done, in_done;
    uint32_t interest;
    uint64_t started_ns;
    uint8_t hello[HELLO_BYTES];
    size_t hello_at;
    struct half *out, *in;
    /* rpc: what is left to send and to receive of the current message */
    size_t to_send, send_bytes, to_receive, receive_bytes;
    uint64_t number;
    uint8_t *message;
};

static void connection_free(struct connection *connection)
{
    close(connection->fd);
    free(connection->out);
    free(connection->in);
    free(connection->message);
    free(connection);
}

static void print_digest(const char *key, const uint8_t digest[SHA256_BYTES])
{
    printf(" %s=", key);
    for (int i = 0; i < SHA256_BYTES; i++)
        printf("%02x", digest[i]);
}

static void report_bulk(const struct connection *connection)
{
    uint64_t bytes = connection->out->done + connection->in->done;
    double seconds = (double)(now_ns() - connection->started_ns) / 1e9;
    flockfile(stdout);
    printf("result=ok mode=bulk side=%s sent=%" PRIu64 " received=%" PRIu64,
           connection->is_server ? "server" : "client", connection->out->done,
           connection->in->done);
    print_digest("sent_sha256", connection->out->digest);
    print_digest("received_sha256", connection->in->digest);
    printf(" seconds=%.3f mbit=%.0f\n", seconds, (double)bytes * 8 / 1e6 / seconds);
    funlockfile(stdout);
}

static void start_bulk(struct connection *connection, uint64_t out_bytes, uint64_t out_seed,
                       uint64_t in_bytes, uint64_t in_seed, uint64_t chunk)
{
    connection->kind = KIND_BULK;
    connection->started_ns = now_ns();
    connection->out = must_allocate(sizeof *connection->out);
    connection->in = must_allocate(sizeof *connection->in);
    half_init(connection->out, out_bytes, out_seed, chunk);
    half_init(connection->in, in_bytes, in_seed, chunk);
}

static void start_messages(struct connection *connection, enum kind kind, size_t send_bytes,
                           size_t receive_bytes)
{
    size_t longer = send_bytes > receive_bytes ? send_bytes : receive_bytes;
    connection->kind = kind;
    connection->send_bytes = send_bytes;
    connection->receive_bytes = receive_bytes;
    connection->message = must_allocate(longer);
}

/* The client's first bytes say what the server shall do. */
static void hello_encode(uint8_t hello[HELLO_BYTES], enum kind kind, uint64_t seed)
{
    memcpy(hello, "luna-str", 8);
    put_u64(hello + 8, (uint64_t)kind << 32 | (options.chunk & 0xffffffffu));
    put_u64(hello + 16, options.request << 32 | options.response);
    put_u64(hello + 24, options.up);
    put_u64(hello + 32, options.down);
    put_u64(hello + 40, seed);
}

static enum step hello_obey(struct connection *connection)
{
    const uint8_t *hello = connection->hello;
    enum kind kind = (enum kind)(take_u64(hello + 8) >> 32);
    uint64_t chunk = take_u64(hello + 8) & 0xffffffffu;
    uint64_t request = take_u64(hello + 16) >> 32, response = take_u64(hello + 16) & 0xffffffffu;
    uint64_t up = take_u64(hello + 24), down = take_u64(hello + 32), seed = take_u64(hello + 40);
    if (memcmp(hello, "luna-str", 8) != 0)
        return failed(STATUS_CHECK, "hello=wrong");
    if (kind == KIND_BULK) {
        start_bulk(connection, down, ~seed, up, seed, chunk);
    } else {
        if (request < 8 || response < 8 || request > MESSAGE_BYTES_MAX ||
            response > MESSAGE_BYTES_MAX)
            return failed(STATUS_CHECK, "hello=impossible_sizes");
        start_messages(connection, kind, response, request);
        connection->to_receive = request;
    }
    return STEP_MORE;
}

static enum step hello_step(struct connection *connection)
{
    ssize_t got = get(connection->fd, connection->hello + connection->hello_at,
                      HELLO_BYTES - connection->hello_at, 0);
    if (got < 0)
        return would_block() ? STEP_BLOCKED : failed_call("recv");
    if (got == 0 && connection->hello_at == 0)
        return STEP_DONE; /* somebody looked whether we are there */
    if (got == 0)
        return failed(STATUS_CHECK, "end=within_hello");
    connection->hello_at += (size_t)got;
    return connection->hello_at == HELLO_BYTES ? hello_obey(connection) : STEP_MORE;
}

static enum step send_message_step(struct connection *connection)
{
    size_t done = connection->send_bytes - connection->to_send;
    uint8_t *message = connection->message;
    if (done == 0) {
        memcpy(message, pattern, connection->send_bytes);
        put_u64(message, connection->number);
    }
    ssize_t sent = put(connection->fd, message + done, connection->to_send, 0);
    if (sent < 0)
        return would_block() ? STEP_BLOCKED : failed_call("send");
    connection->to_send -= (size_t)sent;
    return STEP_MORE;
}

/* STEP_DONE: the peer closed between two messages. */
static enum step receive_message_step(struct connection *connection)
{
    size_t done = connection->receive_bytes - connection->to_receive;
    uint8_t *message = connection->message;
    ssize_t got = get(connection->fd, message + done, connection->to_receive, 0);
    if (got < 0)
        return would_block() ? STEP_BLOCKED : failed_call("recv");
    if (got == 0 && done == 0 && connection->is_server)
        return STEP_DONE;
    if (got == 0)
        return failed(STATUS_CONNECTION, "end=within_message number=%" PRIu64, connection->number);
    connection->to_receive -= (size_t)got;
    if (connection->to_receive > 0)
        return STEP_MORE;
    uint64_t number = take_u64(message);
    if (!connection->is_server && number != connection->number)
        return failed(STATUS_CHECK, "number=%" PRIu64 " expected=%" PRIu64, number,
                      connection->number);
    if (memcmp(message + 8, pattern + 8, connection->receive_bytes - 8) != 0)
        return failed(STATUS_CHECK, "message=differs number=%" PRIu64, number);
    connection->number = number;
    return STEP_MORE;
}

/* ---- server --------------------------------------------------------------------------------- */

/* Receives a request, answers it; after a KIND_SHORT answer the server closes. */
static enum step serve_message_step(struct connection *connection)
{
    if (connection->to_send > 0) {
        enum step step = send_message_step(connection);
        if (step != STEP_MORE || connection->to_send > 0)
            return step;
        connection->to_receive = connection->receive_bytes;
        return connection->kind == KIND_SHORT ? STEP_DONE : STEP_MORE;
    }
    enum step step = receive_message_step(connection);
    if (step == STEP_MORE && connection->to_receive == 0)
        connection->to_send = connection->send_bytes;
    return step;
}

/* Moves one non-blocking connection until it would block. */
static enum step drive(struct connection *connection)
{
    enum step step = STEP_MORE;
    while (step == STEP_MORE && connection->kind == KIND_NONE)
        step = hello_step(connection);
    if (step != STEP_MORE)
        return step;
    if (connection->kind != KIND_BULK) {
        do {
            bool was_sending = connection->to_send > 0;
            step = serve_message_step(connection);
            /* Level-triggered: epoll will say when there is more, so don't ask in vain. */
            if (options.io == IO_EPOLL && was_sending && step == STEP_MORE &&
                connection->to_send == 0)
                return STEP_BLOCKED;
        } while (step == STEP_MORE);
        return step;
    }
    enum step out = STEP_BLOCKED, in = STEP_BLOCKED;
    do {
        out = connection->out_done ? STEP_BLOCKED : send_step(connection->fd, connection->out);
        in = connection->in_done ? STEP_BLOCKED : receive_step(connection->fd, connection->in);
        connection->out_done |= out == STEP_DONE;
        connection->in_done |= in == STEP_DONE;
        if (out == STEP_FAILED || in == STEP_FAILED)
            return STEP_FAILED;
    } while (out == STEP_MORE || in == STEP_MORE);
    if (!connection->out_done || !connection->in_done)
        return STEP_BLOCKED;
    report_bulk(connection);
    return STEP_DONE;
}

static uint32_t wanted_events(const struct connection *connection)
{
    if (options.io == IO_EDGE)
        return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    bool sending = connection->to_send > 0 || connection->connecting;
    bool receiving = !sending;
    if (connection->kind == KIND_BULK && !connection->connecting) {
        sending = !connection->out_done;
        receiving = !connection->in_done;
    }
    return (sending ? (uint32_t)EPOLLOUT : 0) | (receiving ? (uint32_t)EPOLLIN : 0);
}

static bool watch(int epoll, struct connection *connection)
{
    uint32_t wanted = wanted_events(connection);
    if (wanted == connection->interest)
        return true;
    int operation = connection->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    struct epoll_event event = {.events = wanted, .data.ptr = connection};
    connection->interest = wanted;
    return epoll_ctl(epoll, operation, connection->fd, &event) == 0 ||
           failed_call("epoll_ctl") != STEP_FAILED;
}

static enum step block_both_ways(struct connection *connection);

/* One connection of the blocking server, on a thread of its own. */
static enum step serve_blocking(struct connection *connection)
{
    enum step step = STEP_MORE;
    while (step == STEP_MORE && connection->kind == KIND_NONE)
        step = hello_step(connection);
    if (step == STEP_MORE && connection->kind == KIND_BULK)
        return block_both_ways(connection);
    while (step == STEP_MORE)
        step = serve_message_step(connection);
    return step;
}

static _Atomic uint64_t served;

/* Counts a connection that had said what it wanted; ends the program after the last one. */
static void connection_finished(struct connection *connection)
{
    bool counts = connection->kind != KIND_NONE;
    connection_free(connection);
    if (counts && atomic_fetch_add(&served, 1) + 1 == options.connections)
        exit(atomic_load(&worst));
}

static void *serving_thread(void *argument)
{
    struct connection *connection = argument;
    serve_blocking(connection);
    connection_finished(connection);
    return NULL;
}

static void set_nodelay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        failed_call("setsockopt");
}

static struct connection *connection_new(int fd, bool is_server)
{
    struct connection *connection = must_allocate(sizeof *connection);
    connection->fd = fd;
    connection->is_server = is_server;
    if (is_server)
        set_nodelay(fd);
    return connection;
}

static struct addrinfo *resolve(const char *host)
{
    struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int problem = getaddrinfo(host, options.port, &hints, &found);
    if (problem != 0) {
        fprintf(stderr, "stream: %s: %s\n", host, gai_strerror(problem));
        exit(STATUS_USAGE);
    }
    return found;
}

static int listen_at(void)
{
    struct addrinfo *address = resolve(options.bind);
    int on = 1, fd = socket(address->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, 1024) != 0) {
        failed_call("listen");
        exit(STATUS_CONNECTION);
    }
    freeaddrinfo(address);
    printf("listening port=%s\n", options.port);
    return fd;
}

static void serve_with_threads(int listener)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) {
            failed_call("accept");
            return;
        }
        pthread_t thread;
        if (pthread_create(&thread, NULL, serving_thread, connection_new(fd, true)) != 0) {
            failed(STATUS_CHECK, "call=pthread_create");
            return;
        }
        pthread_detach(thread);
    }
}

static void accept_all(int epoll, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0 && errno == ECONNABORTED)
            continue;
        if (fd < 0) {
            if (!would_block())
                failed_call("accept4");
            return;
        }
        struct connection *connection = connection_new(fd, true);
        if (!watch(epoll, connection))
            connection_free(connection);
    }
}

static void serve_with_epoll(int listener)
{
    int epoll = epoll_create1(0);
    struct epoll_event events[EVENTS_MAX] = {{.events = EPOLLIN, .data.ptr = NULL}};
    set_nonblocking(listener);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]) != 0) {
        failed_call("epoll");
        return;
    }
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, options.busy ? 0 : -1);
        if (ready < 0 && errno != EINTR) {
            failed_call("epoll_wait");
            return;
        }
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection)
                accept_all(epoll, listener);
            else if (drive(connection) != STEP_BLOCKED || !watch(epoll, connection))
                connection_finished(connection);
        }
    }
}

static int run_server(void)
{
    int listener = listen_at();
    if (options.io == IO_BLOCKING)
        serve_with_threads(listener);
    else
        serve_with_epoll(listener);
    return atomic_load(&worst);
}

/* ---- client --------------------------------------------------------------------------------- */

/* Opens a connection and has the hello under way; the epoll variants connect without blocking. */
static struct connection *dial(struct addrinfo *address, enum kind kind, uint64_t seed)
{
    bool blocking = options.io == IO_BLOCKING;
    int fd = socket(address->ai_family, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) {
        failed_call("socket");
        return NULL;
    }
    struct connection *connection = connection_new(fd, false);
    set_nodelay(fd);
    hello_encode(connection->hello, kind, seed);
    if (kind == KIND_BULK) {
        start_bulk(connection, options.up, seed, options.down, ~seed, options.chunk);
    } else {
        start_messages(connection, kind, options.request, options.response);
        connection->to_send = options.request;
        connection->to_receive = options.response;
    }
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        if (errno != EINPROGRESS) {
            failed_call("connect");
            connection_free(connection);
            return NULL;
        }
        connection->connecting = true;
    }
    return connection;
}

/* The end of a non-blocking connect, and the hello. 48 bytes always fit an empty send buffer. */
static enum step greet(struct connection *connection)
{
    int problem = 0;
    socklen_t length = sizeof problem;
    if (connection->connecting) {
        if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &problem, &length) != 0)
            return failed_call("getsockopt");
        errno = problem;
        if (problem != 0)
            return failed_call("connect");
        connection->connecting = false;
    }
    if (connection->hello_at < HELLO_BYTES) {
        if (put(connection->fd, connection->hello, HELLO_BYTES, 0) != HELLO_BYTES)
            return failed_call("send");
        connection->hello_at = HELLO_BYTES;
    }
    return STEP_MORE;
}

static void *sending_thread(void *argument)
{
    struct connection *connection = argument;
    enum step step = STEP_MORE;
    while (step == STEP_MORE)
        step = send_step(connection->fd, connection->out);
    connection->out_done = step == STEP_DONE;
    return NULL;
}

/* Blocking bulk: a thread for each direction. */
static enum step block_both_ways(struct connection *connection)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, sending_thread, connection) != 0)
        return failed(STATUS_CHECK, "call=pthread_create");
    enum step step = STEP_MORE;
    while (step == STEP_MORE)
        step = receive_step(connection->fd, connection->in);
    if (step == STEP_FAILED)
        shutdown(connection->fd, SHUT_RDWR); /* so that the sender ends too */
    pthread_join(thread, NULL);
    if (step != STEP_DONE || !connection->out_done)
        return STEP_FAILED;
    report_bulk(connection);
    return STEP_DONE;
}

static void *bulk_thread(void *argument)
{
    struct connection *connection = argument;
    if (greet(connection) == STEP_MORE)
        block_both_ways(connection);
    connection_free(connection);
    return NULL;
}

static void bulk_blocking(struct addrinfo *address)
{
    pthread_t *threads = must_allocate(options.connections * sizeof *threads);
    uint64_t started = 0;
    for (; started < options.connections; started++) {
        struct connection *connection = dial(address, KIND_BULK, options.seed + started);
        if (!connection)
            break;
        if (pthread_create(&threads[started], NULL, bulk_thread, connection) != 0) {
            failed(STATUS_CHECK, "call=pthread_create");
            break;
        }
    }
    for (uint64_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}

static void bulk_epoll(struct addrinfo *address)
{
    int epoll = epoll_create1(0);
    uint64_t open = 0;
    for (uint64_t i = 0; i < options.connections; i++) {
        struct connection *connection = dial(address, KIND_BULK, options.seed + i);
        if (!connection || !watch(epoll, connection))
            return;
        open++;
    }
    while (open > 0) {
        struct epoll_event events[EVENTS_MAX];
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            enum step step = greet(connection);
            if (step == STEP_MORE)
                step = drive(connection);
            if (step == STEP_BLOCKED && watch(epoll, connection))
                continue;
            connection_free(connection);
            open--;
        }
    }
    close(epoll);
}

static int run_bulk(void)
{
    struct addrinfo *address = resolve(options.host);
    if (options.io == IO_BLOCKING)
        bulk_blocking(address);
    else
        bulk_epoll(address);
    freeaddrinfo(address);
    return atomic_load(&worst);
}

/* ---- round trips and their distribution ------------------------------------------------------ */

/* Buckets at most 1/64 wide: 64 for each power of two of nanoseconds, exact below 128. */
static struct {
    uint64_t buckets[64 * 64];
    uint64_t count;
} histogram;

static void histogram_add(uint64_t ns)
{
    unsigned shift = ns < 128 ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 6;
    histogram.buckets[(uint64_t)shift * 64 + (ns >> shift)]++;
    histogram.count++;
}

static double histogram_us(double quantile)
{
    uint64_t rank = (uint64_t)(quantile * (double)histogram.count), seen = 0;
    if (rank == histogram.count)
        rank--; /* the longest */
    for (uint64_t i = 0; i < sizeof histogram.buckets / sizeof *histogram.buckets; i++) {
        seen += histogram.buckets[i];
        if (seen > rank) {
            uint64_t shift = i < 128 ? 0 : i / 64 - 1;
            return (double)((i - shift * 64) << shift) / 1e3;
        }
    }
    return 0;
}

/* When the measurement runs: begins after the warm-up, ends after so many or so long. */
static struct {
    uint64_t warm_ns, begin_ns, end_ns, last_ns;
} span;

static void span_start(void)
{
    uint64_t now = now_ns();
    span.warm_ns = now + options.warmup * 1000000000u;
    span.end_ns = options.seconds ? span.warm_ns + options.seconds * 1000000000u : UINT64_MAX;
    if (!options.seconds && !options.count)
        options.count = 1000;
}

/* Records a round trip; false when the measurement is over. */
static bool span_record(uint64_t started_ns, uint64_t now)
{
    if (started_ns >= span.warm_ns) {
        if (span.begin_ns == 0)
            span.begin_ns = started_ns;
        histogram_add(now - started_ns);
        span.last_ns = now;
    }
    return now < span.end_ns && (!options.count || histogram.count < options.count);
}

static void report_round_trips(const char *mode)
{
    double seconds = (double)(span.last_ns - span.begin_ns) / 1e9;
    if (histogram.count == 0 || atomic_load(&worst) != STATUS_GOOD)
        return;
    printf("result=ok mode=%s requests=%" PRIu64 " seconds=%.3f rps=%.0f p50_us=%.1f p90_us=%.1f"
           " p99_us=%.1f p999_us=%.1f max_us=%.1f\n",
           mode, histogram.count, seconds, (double)histogram.count / seconds, histogram_us(0.5),
           histogram_us(0.9), histogram_us(0.99), histogram_us(0.999), histogram_us(1));
}

/* One request and its answer as far as the socket allows; STEP_DONE when the answer is complete. */
static enum step ask_step(struct connection *connection)
{
    if (connection->to_send > 0) {
        enum step step = send_message_step(connection);
        /* Level-triggered: the answer can't be there yet, so don't ask in vain. */
        bool wait = step == STEP_MORE && connection->to_send == 0 && options.io == IO_EPOLL;
        return wait ? STEP_BLOCKED : step;
    }
    enum step step = receive_message_step(connection);
    return step == STEP_MORE && connection->to_receive == 0 ? STEP_DONE : step;
}

static void next_request(struct connection *connection)
{
    connection->number++;
    connection->to_send = connection->send_bytes;
    connection->to_receive = connection->receive_bytes;
    connection->started_ns = now_ns();
}

/* Moves one connection until it would block; STEP_DONE when the whole measurement is over. */
static enum step ask_on(struct connection *connection)
{
    enum step step = greet(connection);
    while (step == STEP_MORE) {
        if (connection->started_ns == 0)
            connection->started_ns = now_ns();
        step = ask_step(connection);
        if (step != STEP_DONE)
            continue;
        if (!span_record(connection->started_ns, now_ns()))
            return STEP_DONE;
        next_request(connection);
        step = STEP_MORE;
    }
    return step;
}

static void rpc_epoll(struct connection **connections)
{
    int epoll = epoll_create1(0);
    for (uint64_t i = 0; i < options.connections; i++)
        if (!watch(epoll, connections[i]))
            return;
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int ready = epoll_wait(epoll, events, EVENTS_MAX, options.busy ? 0 : -1);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (ask_on(connection) != STEP_BLOCKED || !watch(epoll, connection)) {
                close(epoll);
                return;
            }
        }
    }
}

static int run_rpc(void)
{
    struct addrinfo *address = resolve(options.host);
    if (options.io == IO_BLOCKING && options.connections > 1) {
        fputs("stream: rpc over several connections needs --io epoll or edge\n", stderr);
        return STATUS_USAGE;
    }
    struct connection **connections = must_allocate(options.connections * sizeof *connections);
    for (uint64_t i = 0; i < options.connections; i++) {
        connections[i] = dial(address, KIND_RPC, 0);
        if (!connections[i])
            return atomic_load(&worst);
    }
    span_start();
    if (options.io == IO_BLOCKING)
        ask_on(connections[0]);
    else
        rpc_epoll(connections);
    report_round_trips("rpc");
    for (uint64_t i = 0; i < options.connections; i++)
        connection_free(connections[i]);
    free(connections);
    freeaddrinfo(address);
    return atomic_load(&worst);
}

/* One connection for one request; the server closes first, and we see the end of the stream. */
static bool ask_once(struct addrinfo *address)
{
    uint64_t started_ns = now_ns();
    uint8_t byte;
    struct connection *connection = dial(address, KIND_SHORT, 0);
    enum step step = connection ? greet(connection) : STEP_FAILED;
    while (step == STEP_MORE)
        step = ask_step(connection);
    if (step == STEP_DONE && get(connection->fd, &byte, 1, 0) != 0)
        step = failed(STATUS_CHECK, "end=missing");
    if (connection)
        connection_free(connection);
    return step == STEP_DONE && span_record(started_ns, now_ns());
}

static int run_short(void)
{
    struct addrinfo *address = resolve(options.host);
    options.io = IO_BLOCKING;
    span_start();
    while (ask_once(address))
        ;
    report_round_trips("short");
    freeaddrinfo(address);
    return atomic_load(&worst);
}

/* Prints the SHA-256 of the first bytes of a seed's stream, for a second implementation to check. */
static int run_selftest(uint64_t bytes, uint64_t seed)
{
    struct half *half = must_allocate(sizeof *half);
    half_init(half, bytes, seed, 0);
    while (half->done < bytes) {
        uint64_t room = BLOCK_BYTES - half->source.at;
        uint64_t take = room < bytes - half->done ? room : bytes - half->done;
        sha256_update(&half->hash, half->source.block + half->source.at, take);
        source_advance(&half->source, take);
        half->done += take;
    }
    sha256_finish(&half->hash, half->digest);
    printf("result=ok mode=selftest");
    print_digest("sha256", half->digest);
    printf("\n");
    free(half);
    return STATUS_GOOD;
}

/* ---- command line ---------------------------------------------------------------------------- */

static int usage(const char *problem, const char *word)
{
    fprintf(stderr, "stream: %s %s\nstream: the head of examples-c/stream.c lists the usage\n",
            problem, word);
    exit(STATUS_USAGE);
}

static uint64_t number_of(const char *text)
{
    char *end = NULL;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != 0)
        usage("not a number:", text);
    return value;
}

static enum io io_of(const char *text)
{
    if (strcmp(text, "blocking") == 0)
        return IO_BLOCKING;
    if (strcmp(text, "epoll") == 0)
        return IO_EPOLL;
    if (strcmp(text, "edge") != 0)
        usage("not one of blocking, epoll, edge:", text);
    return IO_EDGE;
}

static void option(const char *name, const char *value)
{
    struct {
        const char *name;
        uint64_t *place;
    } numbers[] = {
        {"--connections", &options.connections}, {"--up", &options.up},
        {"--down", &options.down}, {"--seed", &options.seed}, {"--chunk", &options.chunk},
        {"--request", &options.request}, {"--response", &options.response},
        {"--count", &options.count}, {"--seconds", &options.seconds},
        {"--warmup", &options.warmup}, {"--timeout", &options.timeout},
    };
    if (strcmp(name, "--bind") == 0)
        options.bind = value;
    else if (strcmp(name, "--host") == 0)
        options.host = value;
    else if (strcmp(name, "--port") == 0)
        options.port = value;
    else if (strcmp(name, "--io") == 0)
        options.io = io_of(value);
    else {
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            if (strcmp(name, numbers[i].name) == 0) {
                *numbers[i].place = number_of(value);
                return;
            }
        }
        usage("unknown option:", name);
    }
}

static void too_slow(int signal_number)
{
    (void)signal_number;
    static const char text[] = "stream: not done within --timeout\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(STATUS_SLOW);
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (count < 2)
        usage("mode missing:", "server, bulk, rpc or short");
    const char *mode = words[1];
    if (strcmp(mode, "selftest") == 0)
        return count == 4 ? run_selftest(number_of(words[2]), number_of(words[3]))
                          : usage("selftest takes", "BYTES SEED");
    for (int i = 2; i < count; i++) {
        if (strcmp(words[i], "--busy") == 0) {
            options.busy = true;
        } else {
            if (i + 1 == count)
                usage("value missing after", words[i]);
            option(words[i], words[i + 1]);
            i++;
        }
    }
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 7 + i / 251);
    if (options.timeout > 0) {
        signal(SIGALRM, too_slow);
        alarm((unsigned)options.timeout);
    }
    if (strcmp(mode, "server") == 0)
        return run_server();
    if (!options.host)
        usage("missing:", "--host");
    if (options.connections == 0)
        options.connections = 1;
    if (options.request < 8 || options.response < 8 || options.request > MESSAGE_BYTES_MAX ||
        options.response > MESSAGE_BYTES_MAX)
        usage("out of range 8 to 1048576:", "--request or --response");
    if (strcmp(mode, "bulk") == 0)
        return run_bulk();
    if (strcmp(mode, "rpc") == 0)
        return run_rpc();
    if (strcmp(mode, "short") == 0)
        return run_short();
    return usage("unknown mode:", mode);
}
