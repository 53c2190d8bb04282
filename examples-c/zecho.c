/* A TCP echo server that copies nothing, on sockets and epoll: luna_zreadv and luna_zwritev.
 *
 *   cc -O2 -I include -o zecho examples-c/zecho.c -L target/release -lluna
 *   LUNA_DEV=xdp:eth0 LUNA_LISTEN=7007 ./zecho 0.0.0.0 7007
 *
 * Without LUNA_DEV the same program runs on the kernel, and copies. SIGTERM or SIGINT ends it,
 * with a line about what was copied.
 */
#include <luna.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { EVENTS_MAX = 64, PIECES_MAX = 16 };

/* Received and not sent yet: at most what one call receives. */
struct conn {
    int fd;
    int ended;
    int first, count;
    struct luna_ziov iov[PIECES_MAX];
};

static volatile sig_atomic_t stopping;

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static void on_signal(int number)
{
    (void)number;
    stopping = 1;
}

/* Sends what is left of `conn`. 1: all of it; 0: the rest must wait; -1: it is over. */
static int send_rest(struct conn *conn)
{
    while (conn->first < conn->count) {
        ssize_t sent = luna_zwritev(conn->fd, conn->iov + conn->first, conn->count - conn->first,
                                    MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? 0 : -1;
        /* The stack has its own references: ours go with what was sent. */
        while (conn->first < conn->count) {
            struct luna_ziov *iov = &conn->iov[conn->first];
            if ((size_t)sent < iov->len) {
                iov->base = (char *)iov->base + sent;
                iov->len -= (size_t)sent;
                break;
            }
            sent -= (ssize_t)iov->len;
            luna_zbuf_free(iov->base);
            conn->first++;
        }
    }
    return 1;
}

/* Moves bytes until neither direction can go on. Returns 0 when the connection is done. */
static int serve(struct conn *conn)
{
    for (;;) {
        int sent = send_rest(conn);
        if (sent <= 0)
            return sent == 0;
        if (conn->ended)
            return 0;
        conn->first = 0;
        conn->count = luna_zreadv(conn->fd, conn->iov, PIECES_MAX, MSG_DONTWAIT);
        if (conn->count < 0) {
            conn->count = 0;
            return errno == EAGAIN || errno == EINTR;
        }
        for (int i = 0; i < conn->count; i++)
            conn->iov[i].flags = 0;
        conn->ended = conn->count == 0;
    }
}

static void forget(struct conn *conn)
{
    for (; conn->first < conn->count; conn->first++)
        luna_zbuf_free(conn->iov[conn->first].base);
    luna_close(conn->fd);
    free(conn);
}

static void welcome(int epfd, int listener)
{
    int fd;
    while ((fd = luna_accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int on = 1;
        luna_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct conn *conn = calloc(1, sizeof *conn);
        if (conn == NULL)
            die("calloc");
        conn->fd = fd;
        /* Edges: room to send is told once, when there is some again. */
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                    .data.ptr = conn};
        if (luna_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) != 0)
            die("luna_epoll_ctl");
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        die("luna_accept4");
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s ADDRESS PORT\n", argv[0]);
        return 2;
    }
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &addr.sin_addr) != 1) {
        fprintf(stderr, "%s is not an IPv4 address\n", argv[1]);
        return 2;
    }
    int on = 1, listener = luna_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || luna_setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        luna_bind(listener, (struct sockaddr *)&addr, sizeof addr) != 0 ||
        luna_listen(listener, 1024) != 0)
        die("listen");
    int epfd = luna_epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epfd < 0 || luna_epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &event) != 0)
        die("epoll");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    printf("listening\n");
    fflush(stdout);
    while (!stopping) {
        struct epoll_event events[EVENTS_MAX];
        int count = luna_epoll_wait(epfd, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR)
            die("luna_epoll_wait");
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == NULL)
                welcome(epfd, listener);
            else if (!serve(conn))
                forget(conn);
        }
    }
    struct luna_stats stats;
    if (luna_stats(&stats, sizeof stats) == 0)
        printf("in %llu (copied %llu) out %llu (copied %llu)\n",
               (unsigned long long)stats.bytes_in, (unsigned long long)stats.bytes_copied_in,
               (unsigned long long)stats.bytes_out, (unsigned long long)stats.bytes_copied_out);
    luna_close(listener);
    luna_close(epfd);
    return 0;
}
