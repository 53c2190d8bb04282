/* One behaviour suite for the ways to be called: a server on luna (inline loop, or epoll with the
 * zero-copy calls) and a client on kernel sockets that asks it for trouble and checks the answers.
 *
 *   behave server inline|epoll ADDRESS PORT
 *   behave client ADDRESS PORT accelerated|kernel
 *
 * The first byte on a connection says what the server is to do with it; see `command`.
 */
#include <luna.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GROUP = 16, BLOCK = 65536, BLOCKS = 4, STALL_US = 1000000, PIECES = 16, EVENTS = 64 };

static _Noreturn void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "behave: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, " (errno %d: %s)\n", errno, strerror(errno));
    va_end(args);
    exit(1);
}

static struct sockaddr_in address(const char *ip, const char *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, ip, &addr.sin_addr) != 1)
        fail("not an address: %s", ip);
    return addr;
}

/* ---- the server ---- */

struct rest {
    struct luna_ziov iov;
    struct rest *next;
};

struct peer {
    int command;             /* 0: not known yet */
    int fd;                  /* epoll */
    uint64_t id;             /* inline */
    struct rest *first, **last;
    int ended;               /* the client has finished sending */
    int closing;             /* drop it when the callback is over */
    void *kept[256];
    int kept_count;
};

static struct luna_loop *the_loop; /* NULL: epoll */
static struct peer *group[GROUP];
static int group_count;
static void *group_block;
static unsigned tokens, completed_ok, completed_failed, accelerated;
static uint64_t next_token;

static ssize_t put(struct peer *peer, const struct luna_ziov *iov, int count)
{
    return the_loop ? luna_loop_send(the_loop, peer->id, iov, count, 0)
                    : luna_zwritev(peer->fd, iov, count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void set_reading(struct peer *peer, int on)
{
    if (the_loop)
        luna_loop_read(the_loop, peer->id, on);
    /* epoll: `serve` does not read while something is unsent */
}

static void half_close(struct peer *peer)
{
    if (the_loop)
        luna_loop_shutdown(the_loop, peer->id);
    else
        luna_shutdown(peer->fd, SHUT_WR);
}

/* Sends, or keeps what does not fit; 0: the connection is over. */
static int send_or_keep(struct peer *peer, struct luna_ziov iov)
{
    ssize_t sent = 0;
    if (peer->first == NULL)
        sent = put(peer, &iov, 1);
    if (sent < 0 && errno != EAGAIN && errno != ENOBUFS)
        return 0;
    if (sent < 0)
        sent = 0;
    if ((size_t)sent == iov.len) {
        tokens += iov.token != 0;
        return 1;
    }
    struct rest *rest = malloc(sizeof *rest);
    if (rest == NULL || luna_zbuf_ref(iov.base) != 0)
        fail("cannot keep what was not sent");
    rest->iov = iov;
    rest->iov.base = (char *)iov.base + sent;
    rest->iov.len -= (size_t)sent;
    rest->next = NULL;
    *peer->last = rest;
    peer->last = &rest->next;
    set_reading(peer, 0);
    return 1;
}

static void send_text(struct peer *peer, const char *text)
{
    size_t len = strlen(text);
    char *block = luna_zbuf_alloc(len);
    if (block == NULL)
        fail("luna_zbuf_alloc");
    memcpy(block, text, len);
    struct luna_ziov iov = {.base = block, .len = len};
    send_or_keep(peer, iov);
    if (luna_zbuf_free(block) != 0)
        fail("free what was sent");
}

/* Sends what was kept. */
static void flush(struct peer *peer)
{
    while (peer->first != NULL) {
        struct rest *rest = peer->first;
        ssize_t sent = put(peer, &rest->iov, 1);
        if (sent < 0)
            return;
        if ((size_t)sent < rest->iov.len) {
            rest->iov.base = (char *)rest->iov.base + sent;
            rest->iov.len -= (size_t)sent;
            return;
        }
        tokens += rest->iov.token != 0;
        peer->first = rest->next;
        if (luna_zbuf_free(rest->iov.base) != 0)
            fail("free what was kept");
        free(rest);
    }
    peer->last = &peer->first;
    set_reading(peer, 1);
    if (peer->ended)
        half_close(peer);
}

static void on_completions(const struct luna_zcompletion *done, int count)
{
    for (int i = 0; i < count; i++) {
        if (done[i].token == 0)
            fail("a completion without a token");
        if (done[i].status == 0)
            completed_ok++;
        else
            completed_failed++;
    }
}

static void *free_elsewhere(void *block)
{
    return luna_zbuf_free(block) == 0 ? block : NULL;
}

/* What must be detected is, and does no harm. */
static const char *misuse(void)
{
    char here;
    char *a = luna_zbuf_alloc(5000), *b = luna_zbuf_alloc(100);
    if (a == NULL || b == NULL || luna_zbuf_size(a) < 5000 || luna_zbuf_size(b + 99) < 1)
        return "alloc or size\n";
    errno = 0;
    if (luna_zbuf_alloc(LUNA_ZBUF_BYTES_MAX + 1) != NULL || errno != EMSGSIZE)
        return "too large\n";
    memset(a, 1, 5000);
    memset(b, 2, 100);
    if (luna_zbuf_writable(a) != 1 || luna_zbuf_ref(a + 4999) != 0 || luna_zbuf_writable(a) != 0 ||
        luna_zbuf_free(a + 1) != 0 || luna_zbuf_writable(a + 7) != 1)
        return "interior pointers\n";
    pthread_t thread;
    void *freed = NULL;
    if (pthread_create(&thread, NULL, free_elsewhere, a) != 0)
        return "pthread_create\n";
    pthread_join(thread, &freed);
    if (freed == NULL)
        return "free on another thread\n";
    errno = 0;
    if (luna_zbuf_free(a) != -1 || errno != EINVAL)
        return "double free\n";
    if (luna_zbuf_free(&here) != -1 || errno != EFAULT)
        return "foreign pointer\n";
    if (luna_zbuf_free(NULL) != 0)
        return "null\n";
    if (luna_zbuf_ref(a) != -1 || luna_zbuf_writable(a) != -1)
        return "use of a free buffer\n";
    if (b[0] != 2 || b[99] != 2 || luna_zbuf_free(b) != 0)
        return "another buffer was harmed\n";
    return "ok\n";
}

static void multicast(void)
{
    char *block = luna_zbuf_alloc(BLOCK);
    if (block == NULL)
        fail("luna_zbuf_alloc");
    for (int i = 0; i < BLOCK; i++)
        block[i] = (char)(i * 7 + i / 251);
    group_block = block;
    for (int i = 0; i < GROUP; i++) {
        struct luna_ziov iov = {.base = block, .len = BLOCK, .token = ++next_token};
        if (!send_or_keep(group[i], iov))
            fail("multicast");
    }
    if (luna_zbuf_free(block) != 0)
        fail("free a block that is being sent");
    group_count = 0;
}

static void command(struct peer *peer, int what)
{
    char text[400];
    peer->command = what;
    switch (what) {
    case 'E': /* echo */
    case 'K': /* keep what arrives; free it after the connection is closed */
        break;
    case 'S': /* stall, then echo */
        usleep(STALL_US);
        break;
    case 'C': /* say goodbye, and close in the callback */
        send_text(peer, "bye");
        peer->closing = 1;
        break;
    case 'D':
        send_text(peer, misuse());
        break;
    case 'M': /* the same block to all of a group */
        group[group_count++] = peer;
        if (group_count == GROUP)
            multicast();
        break;
    case 'T': /* blocks with tokens */
        for (int i = 0; i < BLOCKS; i++) {
            char *block = luna_zbuf_alloc(BLOCK);
            if (block == NULL)
                fail("luna_zbuf_alloc");
            memset(block, i, BLOCK);
            struct luna_ziov iov = {.base = block, .len = BLOCK, .token = ++next_token};
            send_or_keep(peer, iov);
            luna_zbuf_free(block);
        }
        break;
    case 'Q': { /* tell how things stand */
        struct luna_stats stats;
        struct luna_zcompletion done[64];
        int count;
        while (!the_loop && (count = luna_zcompletions(-1, done, 64)) > 0)
            on_completions(done, count);
        if (luna_stats(&stats, sizeof stats) != 0)
            fail("luna_stats");
        snprintf(text, sizeof text, "%u %u %u %llu %llu %llu %u\n", tokens, completed_ok,
                 completed_failed, (unsigned long long)stats.zbufs_lent,
                 (unsigned long long)stats.bytes_copied_in,
                 (unsigned long long)stats.bytes_copied_out, accelerated);
        send_text(peer, text);
        break;
    }
    default:
        fail("unknown command %d", what);
    }
}

/* Bytes that are ours for the time of the call. */
static void on_bytes(struct peer *peer, const struct luna_ziov *iov, int count)
{
    for (int i = 0; i < count && !peer->closing; i++) {
        struct luna_ziov part = iov[i];
        part.flags = 0;
        if (peer->command == 0) {
            int what = *(unsigned char *)part.base;
            part.base = (char *)part.base + 1;
            part.len--;
            command(peer, what);
        }
        if (part.len == 0)
            continue;
        if (peer->command == 'E' || peer->command == 'S') {
            if (!send_or_keep(peer, part))
                return;
        } else if (peer->command == 'K' && peer->kept_count < 256) {
            if (luna_zbuf_ref(part.base) != 0)
                fail("keep what was received");
            peer->kept[peer->kept_count++] = part.base;
        }
    }
}

static void *free_kept(void *arg)
{
    struct peer *peer = arg;
    for (int i = 0; i < peer->kept_count; i++)
        if (luna_zbuf_free(peer->kept[i]) != 0)
            fail("free after close");
    free(peer);
    return NULL;
}

/* The connection is gone. */
static void forget(struct peer *peer)
{
    for (struct rest *rest = peer->first; rest != NULL;) {
        struct rest *next = rest->next;
        luna_zbuf_free(rest->iov.base);
        free(rest);
        rest = next;
    }
    pthread_t thread;
    if (peer->kept_count == 0)
        free(peer);
    else if (pthread_create(&thread, NULL, free_kept, peer) != 0 || pthread_detach(thread) != 0)
        fail("pthread_create");
}

static struct peer *new_peer(void)
{
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        fail("calloc");
    peer->fd = -1;
    peer->last = &peer->first;
    return peer;
}

/* Inline. A peer lives until `closed`, or until it is closed here. */

static void *accepted(struct luna_loop *loop, uint64_t listener, void *user, uint64_t id)
{
    (void)listener, (void)user;
    struct peer *peer = new_peer();
    peer->id = id;
    accelerated += luna_loop_is_accelerated(loop, id) == 1;
    if (luna_loop_run(loop) != -1 || errno != EBUSY || luna_loop_destroy(loop) != -1)
        fail("a loop inside itself");
    return peer;
}

static void readable(struct luna_loop *loop, uint64_t id, void *user, const struct luna_ziov *iov,
                     int count)
{
    struct peer *peer = user;
    if (count == 0) {
        peer->ended = 1;
        if (peer->first == NULL)
            half_close(peer);
        return;
    }
    on_bytes(peer, iov, count);
    if (peer->closing) {
        if (luna_loop_close(loop, id, 0) != 0)
            fail("close in a callback");
        errno = 0;
        if (luna_loop_close(loop, id, 0) != -1 || errno != EBADF ||
            luna_loop_write(loop, id, "x", 1, 0) != -1 || errno != EBADF)
            fail("a stale handle");
        forget(peer);
    }
}

static void writable(struct luna_loop *loop, uint64_t id, void *user)
{
    (void)loop, (void)id;
    flush(user);
}

static void completed(struct luna_loop *loop, uint64_t id, void *user,
                      const struct luna_zcompletion *done, int count)
{
    (void)loop, (void)id, (void)user;
    on_completions(done, count);
}

static void closed(struct luna_loop *loop, uint64_t id, void *user, int error)
{
    (void)loop, (void)id, (void)error;
    forget(user);
}

static void on_term(int number)
{
    (void)number;
    if (the_loop)
        luna_loop_stop(the_loop);
    else
        _exit(0);
}

static void server_inline(struct sockaddr_in addr)
{
    static const struct luna_loop_callbacks callbacks = {
        .size = sizeof callbacks,
        .accepted = accepted,
        .readable = readable,
        .writable = writable,
        .completed = completed,
        .closed = closed,
    };
    the_loop = luna_loop_create(NULL);
    if (the_loop == NULL || luna_loop_listen(the_loop, (struct sockaddr *)&addr, sizeof addr, 1024,
                                             &callbacks, NULL, NULL) != 0)
        fail("luna_loop_listen");
    puts("listening");
    fflush(stdout);
    if (luna_loop_run(the_loop) != 0 || luna_loop_destroy(the_loop) != 0)
        fail("the loop");
}

/* Epoll. */

static void drop(struct peer *peer)
{
    struct luna_zcompletion done[64];
    int count;
    while ((count = luna_zcompletions(peer->fd, done, 64)) > 0)
        on_completions(done, count);
    luna_close(peer->fd);
    forget(peer);
}

static void serve(struct peer *peer)
{
    struct luna_zcompletion done[64];
    struct luna_ziov iov[PIECES];
    int count;
    while ((count = luna_zcompletions(peer->fd, done, 64)) > 0)
        on_completions(done, count);
    for (;;) {
        flush(peer);
        if (peer->first != NULL || peer->ended)
            break;
        count = luna_zreadv(peer->fd, iov, PIECES, MSG_DONTWAIT);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (count < 0) {
            drop(peer);
            return;
        }
        if (count == 0) {
            peer->ended = 1;
            if (peer->first == NULL)
                half_close(peer);
            break;
        }
        on_bytes(peer, iov, count);
        for (int i = 0; i < count; i++)
            if (luna_zbuf_free(iov[i].base) != 0)
                fail("free what was received");
        if (peer->closing) {
            drop(peer);
            return;
        }
    }
    if (peer->ended && peer->first == NULL)
        drop(peer);
}

static void server_epoll(struct sockaddr_in addr)
{
    int on = 1, fd, listener = luna_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || luna_setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        luna_bind(listener, (struct sockaddr *)&addr, sizeof addr) != 0 ||
        luna_listen(listener, 1024) != 0)
        fail("listen");
    int epfd = luna_epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    if (epfd < 0 || luna_epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &event) != 0)
        fail("epoll");
    puts("listening");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = luna_epoll_wait(epfd, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("luna_epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr != NULL) {
                serve(events[i].data.ptr);
                continue;
            }
            while ((fd = luna_accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                struct peer *peer = new_peer();
                peer->fd = fd;
                accelerated += luna_fd_owned(fd) == 1;
                luna_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
                event.data.ptr = peer;
                if (luna_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) != 0)
                    fail("luna_epoll_ctl");
            }
        }
    }
}

/* ---- the client, on kernel sockets ---- */

static struct sockaddr_in server_addr;

static int dial(int what)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval patience = {.tv_sec = 30};
    if (fd < 0 || connect(fd, (struct sockaddr *)&server_addr, sizeof server_addr) != 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    char byte = (char)what;
    if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
        fail("send");
    return fd;
}

static char pattern(size_t at, unsigned seed)
{
    return (char)(at * 31 + at / 251 + seed);
}

/* Sends and receives at the same time, and checks every byte. */
static void echo(int fd, size_t size, unsigned seed)
{
    char out[65536], in[65536];
    size_t sent = 0, got = 0;
    while (got < size) {
        struct pollfd ready = {.fd = fd, .events = (short)(POLLIN | (sent < size ? POLLOUT : 0))};
        if (poll(&ready, 1, 30000) != 1)
            fail("no answer: %zu of %zu sent, %zu received", sent, size, got);
        if (ready.revents & POLLOUT && sent < size) {
            size_t len = size - sent < sizeof out ? size - sent : sizeof out;
            for (size_t i = 0; i < len; i++)
                out[i] = pattern(sent + i, seed);
            ssize_t n = send(fd, out, len, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN)
                fail("send");
            sent += n > 0 ? (size_t)n : 0;
        }
        if (ready.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(fd, in, sizeof in, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN))
                fail("the connection ended after %zu of %zu bytes", got, size);
            for (ssize_t i = 0; i < n; i++)
                if (in[i] != pattern(got + (size_t)i, seed))
                    fail("byte %zu of %zu is wrong", got + (size_t)i, size);
            got += n > 0 ? (size_t)n : 0;
        }
    }
}

static void receive(int fd, char *bytes, size_t len)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = recv(fd, bytes + got, len - got, 0);
        if (n <= 0)
            fail("%zu of %zu bytes received", got, len);
        got += (size_t)n;
    }
}

static void expect_end(int fd)
{
    char byte;
    if (recv(fd, &byte, 1, 0) != 0)
        fail("no end of the stream");
}

static void line(int what, char *text, size_t room)
{
    int fd = dial(what);
    size_t got = 0;
    while (got + 1 < room && (got == 0 || text[got - 1] != '\n')) {
        ssize_t n = recv(fd, text + got, room - 1 - got, 0);
        if (n <= 0)
            fail("no line");
        got += (size_t)n;
    }
    text[got] = 0;
    close(fd);
}

static void sizes(void)
{
    static const size_t all[] = {1, 2, 100, 1447, 1448, 1449, 4096, 16384, 65536, 1 << 20};
    int fd = dial('E');
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        echo(fd, all[i], (unsigned)i);
    close(fd);
}

static void half_closed(void)
{
    int fd = dial('E');
    char out[100000], in[100000];
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = pattern(i, 9);
    if (send(fd, out, sizeof out, MSG_NOSIGNAL) != sizeof out || shutdown(fd, SHUT_WR) != 0)
        fail("send");
    receive(fd, in, sizeof in);
    if (memcmp(in, out, sizeof in) != 0)
        fail("not what was sent");
    expect_end(fd);
    close(fd);
}

static void many(void)
{
    int fds[200];
    for (int i = 0; i < 200; i++)
        fds[i] = dial('E');
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 200; i++)
            echo(fds[i], 4096, (unsigned)(i + round));
    for (int i = 0; i < 200; i++)
        close(fds[i]);
}

static void slow_reader(void)
{
    static char bytes[65536];
    int slow = dial('E'), other = dial('E');
    size_t sent = 0, got = 0;
    for (int quiet = 0; quiet < 20 && sent < (64u << 20);) {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = pattern(sent + i, 3);
        ssize_t n = send(slow, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            sent += (size_t)n;
            quiet = 0;
        } else {
            echo(other, 1000, 4);
            quiet++;
        }
    }
    for (int i = 0; i < 100; i++)
        echo(other, 4096, (unsigned)i);
    shutdown(slow, SHUT_WR);
    while (got < sent) {
        ssize_t n = recv(slow, bytes, sizeof bytes, 0);
        if (n <= 0)
            fail("slow reader: %zu of %zu", got, sent);
        for (ssize_t i = 0; i < n; i++)
            if (bytes[i] != pattern(got + (size_t)i, 3))
                fail("slow reader: byte %zu is wrong", got + (size_t)i);
        got += (size_t)n;
    }
    expect_end(slow);
    close(slow);
    close(other);
}

static void stall(void)
{
    int others[20], stalling;
    for (int i = 0; i < 20; i++)
        others[i] = dial('E');
    for (int i = 0; i < 20; i++)
        echo(others[i], 100, 1);
    stalling = dial('S');
    for (int i = 0; i < 20; i++)
        echo(others[i], 20000, (unsigned)i);
    echo(stalling, 5000, 7);
    for (int i = 0; i < 20; i++)
        echo(others[i], 4096, (unsigned)i);
    for (int i = 0; i < 20; i++)
        close(others[i]);
    close(stalling);
}

static void close_in_callback(void)
{
    for (int i = 0; i < 20; i++) {
        int fd = dial('C');
        char text[3];
        receive(fd, text, 3);
        if (memcmp(text, "bye", 3) != 0)
            fail("no goodbye");
        expect_end(fd);
        close(fd);
    }
}

static void multicasting(void)
{
    static char got[BLOCK];
    int fds[GROUP];
    for (int i = 0; i < GROUP; i++)
        fds[i] = dial('M');
    for (int i = 0; i < GROUP; i++) {
        receive(fds[i], got, BLOCK);
        for (int at = 0; at < BLOCK; at++)
            if (got[at] != (char)(at * 7 + at / 251))
                fail("multicast: byte %d is wrong", at);
        close(fds[i]);
    }
}

/* Connections that end while blocks with tokens are under way, in every manner. */
static void ends(void)
{
    static char got[BLOCK];
    for (int manner = 0; manner < 4; manner++) {
        int fd = dial('T');
        struct linger reset = {.l_onoff = 1, .l_linger = 0};
        if (manner == 0)
            for (int i = 0; i < BLOCKS; i++)
                receive(fd, got, BLOCK);
        if (manner == 1)
            receive(fd, got, 1000);
        if (manner >= 2)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        if (manner == 3)
            receive(fd, got, 1000);
        close(fd);
    }
}

static void keeping(void)
{
    static char bytes[50000];
    for (int i = 0; i < 4; i++) {
        int fd = dial('K');
        if (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes)
            fail("send");
        shutdown(fd, SHUT_WR);
        expect_end(fd);
        close(fd);
    }
}

/* In the end every token has completed, once, and nothing is held. */
static void accounts(int is_luna)
{
    unsigned sent = 0, ok = 0, failed = 0, on_stack = 0;
    unsigned long long lent = 0, copied_in = 0, copied_out = 0;
    for (int tries = 0; tries < 300; tries++) {
        char text[400];
        line('Q', text, sizeof text);
        if (sscanf(text, "%u %u %u %llu %llu %llu %u", &sent, &ok, &failed, &lent, &copied_in,
                   &copied_out, &on_stack) != 7)
            fail("not an account: %s", text);
        if (sent > 0 && ok + failed == sent && lent <= 1)
            break;
        usleep(100000);
    }
    printf("%u tokens, %u acknowledged, %u lost; %llu buffers lent; copied %llu in, %llu out; "
           "%u connections accelerated\n",
           sent, ok, failed, lent, copied_in, copied_out, on_stack);
    if (sent < GROUP + BLOCKS || ok + failed != sent || ok < GROUP + BLOCKS || lent > 1)
        fail("the accounts are wrong");
    if (is_luna != (on_stack > 0))
        fail("%u connections on the stack", on_stack);
    if (is_luna && (copied_in != 0 || copied_out != 0))
        fail("something was copied");
}

static void client(int is_luna)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {
        {"sizes", sizes},
        {"half close", half_closed},
        {"many connections", many},
        {"slow reader", slow_reader},
        {"stalled handler", stall},
        {"close in a callback", close_in_callback},
        {"multicast", multicasting},
        {"ends", ends},
        {"keeping", keeping},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        all[i].run();
        printf("%s: ok\n", all[i].name);
        fflush(stdout);
    }
    char text[100];
    line('D', text, sizeof text);
    if (strcmp(text, "ok\n") != 0)
        fail("misuse: %s", text);
    accounts(is_luna);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    if (strcmp(argv[1], "server") == 0) {
        struct sigaction action = {.sa_handler = on_term};
        sigaction(SIGTERM, &action, NULL);
        if (strcmp(argv[2], "inline") == 0)
            server_inline(address(argv[3], argv[4]));
        else
            server_epoll(address(argv[3], argv[4]));
        return 0;
    }
    server_addr = address(argv[2], argv[3]);
    client(strcmp(argv[4], "accelerated") == 0);
    return 0;
}
