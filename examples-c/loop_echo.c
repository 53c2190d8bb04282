/* A TCP echo server in luna's inline loop: bytes go back in the buffers that they came in.
 *
 *   cc -O2 -I include -o loop_echo examples-c/loop_echo.c -L target/release -lluna
 *   LUNA_DEV=xdp:eth0 LUNA_LISTEN=7007 ./loop_echo 0.0.0.0 7007
 *
 * Without LUNA_DEV the same program runs on the kernel, and copies. SIGTERM or SIGINT ends it,
 * with a line about what was copied.
 */
#include <luna.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* What did not fit into the connection's send buffer: kept until it does. */
struct rest {
    struct luna_ziov iov;
    struct rest *next;
};

struct conn {
    struct rest *first, **last;
};

static struct luna_loop *the_loop;

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static void on_signal(int number)
{
    (void)number;
    luna_loop_stop(the_loop);
}

static void *accepted(struct luna_loop *loop, uint64_t listener, void *user, uint64_t id)
{
    (void)loop, (void)listener, (void)user, (void)id;
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL)
        die("calloc");
    conn->last = &conn->first;
    return conn;
}

/* Keeps what was not sent. The bytes are ours for the time of the callback only, so this takes a
 * reference. Reading stops until they are gone, which closes the peer's window. */
static void keep(struct luna_loop *loop, uint64_t id, struct conn *conn, struct luna_ziov iov)
{
    struct rest *rest = malloc(sizeof *rest);
    if (rest == NULL || luna_zbuf_ref(iov.base) != 0)
        die("keep");
    rest->iov = iov;
    rest->next = NULL;
    *conn->last = rest;
    conn->last = &rest->next;
    luna_loop_read(loop, id, 0);
}

static void readable(struct luna_loop *loop, uint64_t id, void *user,
                     const struct luna_ziov *iov, int count)
{
    struct conn *conn = user;
    if (count == 0) {
        if (conn->first == NULL)
            luna_loop_shutdown(loop, id);
        return;
    }
    for (int i = 0; i < count; i++) {
        struct luna_ziov out = iov[i];
        out.flags = 0;
        ssize_t sent = conn->first == NULL ? luna_loop_send(loop, id, &out, 1, 0) : 0;
        if (sent < 0 && errno != EAGAIN && errno != ENOBUFS)
            return; /* it is over, and `closed` will say so */
        if (sent < 0)
            sent = 0;
        if ((size_t)sent < out.len) {
            out.base = (char *)out.base + sent;
            out.len -= (size_t)sent;
            keep(loop, id, conn, out);
        }
    }
}

static void writable(struct luna_loop *loop, uint64_t id, void *user)
{
    struct conn *conn = user;
    while (conn->first != NULL) {
        struct rest *rest = conn->first;
        ssize_t sent = luna_loop_send(loop, id, &rest->iov, 1, 0);
        if (sent < 0)
            return;
        if ((size_t)sent < rest->iov.len) {
            rest->iov.base = (char *)rest->iov.base + sent;
            rest->iov.len -= (size_t)sent;
            return;
        }
        conn->first = rest->next;
        luna_zbuf_free(rest->iov.base);
        free(rest);
    }
    conn->last = &conn->first;
    luna_loop_read(loop, id, 1);
}

static void closed(struct luna_loop *loop, uint64_t id, void *user, int error)
{
    (void)loop, (void)id, (void)error;
    struct conn *conn = user;
    for (struct rest *rest = conn->first; rest != NULL;) {
        struct rest *next = rest->next;
        luna_zbuf_free(rest->iov.base);
        free(rest);
        rest = next;
    }
    free(conn);
}

int main(int argc, char **argv)
{
    static const struct luna_loop_callbacks callbacks = {
        .size = sizeof callbacks,
        .accepted = accepted,
        .readable = readable,
        .writable = writable,
        .closed = closed,
    };
    if (argc != 3) {
        fprintf(stderr, "usage: %s ADDRESS PORT\n", argv[0]);
        return 2;
    }
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &addr.sin_addr) != 1) {
        fprintf(stderr, "%s is not an IPv4 address\n", argv[1]);
        return 2;
    }
    the_loop = luna_loop_create(NULL);
    if (the_loop == NULL)
        die("luna_loop_create");
    if (luna_loop_listen(the_loop, (struct sockaddr *)&addr, sizeof addr, 1024, &callbacks, NULL,
                         NULL) != 0)
        die("luna_loop_listen");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    printf("listening\n");
    fflush(stdout);
    if (luna_loop_run(the_loop) != 0)
        die("luna_loop_run");
    struct luna_stats stats;
    if (luna_stats(&stats, sizeof stats) == 0)
        printf("in %llu (copied %llu) out %llu (copied %llu)\n",
               (unsigned long long)stats.bytes_in, (unsigned long long)stats.bytes_copied_in,
               (unsigned long long)stats.bytes_out, (unsigned long long)stats.bytes_copied_out);
    if (luna_loop_destroy(the_loop) != 0)
        die("luna_loop_destroy");
    return 0;
}
