/* A TCP echo server and client over luna_* calls.
 *
 *   cc -O2 -I include -o echo examples-c/echo.c -L target/release -lluna
 *   LUNA_DEV=xdp:eth0 LUNA_LISTEN=7007 ./echo server 0.0.0.0 7007
 *   LUNA_DEV=xdp:eth0 LUNA_CONNECT=10.9.0.1:7007 ./echo client 10.9.0.1 7007 1000 64
 *
 * Without LUNA_DEV the same program runs on the kernel. The server handles any number of clients
 * with one epoll loop; the client sends COUNT messages of SIZE bytes, checks what comes back and
 * prints the mean round trip.
 */
#include <luna.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS_MAX = 64, BUFFER_BYTES = 64 * 1024 };

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in parse(const char *ip, const char *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, ip, &addr.sin_addr) != 1) {
        fprintf(stderr, "%s is not an IPv4 address\n", ip);
        exit(2);
    }
    return addr;
}

static const char *where(int fd)
{
    struct luna_fd_info info = {.size = sizeof info};
    if (luna_fd_info(fd, &info) != 0)
        die("luna_fd_info");
    return info.kind == LUNA_FD_STREAM || info.kind == LUNA_FD_LISTENER ? "luna" : "kernel";
}

/* Sends all of `len` bytes, or fails. */
static void send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = luna_send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            die("luna_send");
        if (sent > 0) {
            bytes += sent;
            len -= (size_t)sent;
        }
    }
}

/* Receives exactly `len` bytes, or fails. */
static void recv_all(int fd, char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t got = luna_recv(fd, bytes, len, 0);
        if (got == 0) {
            fprintf(stderr, "the server closed the connection\n");
            exit(1);
        }
        if (got < 0 && errno != EINTR)
            die("luna_recv");
        if (got > 0) {
            bytes += got;
            len -= (size_t)got;
        }
    }
}

/* What a client sent and did not get back yet. */
struct client {
    int fd;
    size_t start, end;
    char bytes[BUFFER_BYTES];
};

/* Moves bytes until neither direction can go on. Returns 0 when the client is done. */
static int serve(struct client *client)
{
    for (;;) {
        if (client->start == client->end) {
            client->start = client->end = 0;
            ssize_t got = luna_recv(client->fd, client->bytes, BUFFER_BYTES, 0);
            if (got < 0)
                return errno == EAGAIN || errno == EINTR;
            if (got == 0)
                return 0;
            client->end = (size_t)got;
        }
        ssize_t sent = luna_send(client->fd, client->bytes + client->start,
                                 client->end - client->start, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        client->start += (size_t)sent;
    }
}

static void welcome(int epfd, int listener)
{
    for (;;) {
        int fd = luna_accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                return;
            die("luna_accept4");
        }
        int on = 1;
        luna_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct client *client = calloc(1, sizeof *client);
        if (client == NULL)
            die("calloc");
        client->fd = fd;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET,
                                    .data = {.ptr = client}};
        if (luna_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) != 0)
            die("luna_epoll_ctl");
    }
}

static _Noreturn void server(struct sockaddr_in addr)
{
    int listener = luna_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    luna_setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (luna_bind(listener, (struct sockaddr *)&addr, sizeof addr) != 0)
        die("luna_bind");
    if (luna_listen(listener, 1024) != 0)
        die("luna_listen");
    int epfd = luna_epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = NULL}};
    if (epfd < 0 || luna_epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &event) != 0)
        die("luna_epoll_ctl");
    printf("listening on port %d (%s)\n", ntohs(addr.sin_port), where(listener));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = luna_epoll_wait(epfd, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR)
            die("luna_epoll_wait");
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (client == NULL) {
                welcome(epfd, listener);
            } else if (!serve(client)) {
                luna_close(client->fd);
                free(client);
            }
        }
    }
}

static int client(struct sockaddr_in addr, int count, size_t size)
{
    int fd = luna_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    luna_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (luna_connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0)
        die("luna_connect");
    char *sent = malloc(size), *got = malloc(size);
    if (sent == NULL || got == NULL)
        die("malloc");
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < count; i++) {
        memset(sent, 'a' + i % 26, size);
        send_all(fd, sent, size);
        recv_all(fd, got, size);
        if (memcmp(sent, got, size) != 0) {
            fprintf(stderr, "message %d came back changed\n", i);
            return 1;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
    printf("%d messages of %zu bytes (%s): %.1f us each\n", count, size, where(fd),
           count > 0 ? ns / 1e3 / count : 0.0);
    free(sent);
    free(got);
    return luna_close(fd) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "server") == 0)
        server(parse(argv[2], argv[3]));
    if (argc == 6 && strcmp(argv[1], "client") == 0)
        return client(parse(argv[2], argv[3]), atoi(argv[4]), (size_t)atol(argv[5]));
    fprintf(stderr, "usage: echo server IP PORT | echo client IP PORT COUNT SIZE\n");
    return 2;
}
