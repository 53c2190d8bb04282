/* Every call in every state of a socket: a table of states, a table of calls, and one case for
 * each pair. After the call: what poll says, the pending error, and what the peer has seen. */
#include "diff.h"

#define FAMILY "matrix"

/* Whether a few bytes more fit into a full socket depends on how its buffers are filled. */
enum { NO_PEER = 1, NO_SEND = 2, SENDS = 2, NO_AFTER = 4 };

/* ---- states: each leaves a non-blocking descriptor, and the peer's end in slot 0 ---- */

static int made(void) { return socket(AF_INET, SOCK_STREAM, 0); }

static int state_fresh(void) { return made(); }

static int state_bound(void)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int fd = made();
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, AT(at)) != 0)
        die("bind");
    return fd;
}

static int state_listening(void) { return made_listener(SPARE_PORT, 8); }

static int state_pending(void)
{
    int fd = made_listener(SPARE_PORT, 8);
    ask("c0 5");
    await(fd, POLLIN);
    return fd;
}

static int state_connecting(void)
{
    struct sockaddr_in at = peer_at(SILENT_PORT);
    int fd = made();
    set_nonblocking(fd, 1);
    if (connect(fd, AT(at)) == 0 || errno != EINPROGRESS)
        die("connect");
    return fd;
}

static int state_refused(void)
{
    struct sockaddr_in at = peer_at(REFUSED_PORT);
    int fd = made();
    set_nonblocking(fd, 1);
    if (connect(fd, AT(at)) == 0 || errno != EINPROGRESS)
        die("connect");
    await(fd, POLLHUP);
    return fd;
}

static int state_active(void) { return connected(0); }
static int state_passive(void) { return accepted(0); }

static int state_data(void)
{
    int fd = accepted(0);
    ask("s0 10");
    await_bytes(fd, 10);
    return fd;
}

static int state_active_data(void)
{
    int fd = connected(0);
    ask("s0 10");
    await_bytes(fd, 10);
    return fd;
}

static int state_fin(void)
{
    int fd = accepted(0);
    ask("f0");
    await(fd, POLLRDHUP);
    return fd;
}

static int state_active_fin(void)
{
    int fd = connected(0);
    ask("f0");
    await(fd, POLLRDHUP);
    return fd;
}

static int state_data_fin(void)
{
    int fd = accepted(0);
    ask("s0 10");
    ask("f0");
    await(fd, POLLRDHUP);
    return fd;
}

static int state_shut_write(void)
{
    int fd = accepted(0);
    shutdown(fd, SHUT_WR);
    ask("e0");
    return fd;
}

static int state_active_shut_write(void)
{
    int fd = connected(0);
    shutdown(fd, SHUT_WR);
    ask("e0");
    return fd;
}

static int state_shut_read(void)
{
    int fd = accepted(0);
    shutdown(fd, SHUT_RD);
    return fd;
}

static int state_shut_read_data(void)
{
    int fd = state_data();
    shutdown(fd, SHUT_RD);
    return fd;
}

static int state_shut_both(void)
{
    int fd = connected(0);
    shutdown(fd, SHUT_RDWR);
    ask("e0");
    return fd;
}

static int state_reset(void)
{
    int fd = accepted(0);
    ask("x0");
    await(fd, POLLHUP);
    return fd;
}

static int state_active_reset(void)
{
    int fd = connected(0);
    ask("x0");
    await(fd, POLLHUP);
    return fd;
}

static int state_data_reset(void)
{
    int fd = accepted(0);
    ask("s0 10");
    await_bytes(fd, 10);
    ask("x0");
    await(fd, POLLHUP);
    return fd;
}

static int state_reset_told(void)
{
    int fd = state_reset();
    if (get_int(fd, SOL_SOCKET, SO_ERROR) != ECONNRESET)
        die("SO_ERROR");
    return fd;
}

/* We first: TIME-WAIT. */
static int state_closed_first(void)
{
    int fd = accepted(0);
    shutdown(fd, SHUT_WR);
    ask("e0");
    ask("q0");
    await(fd, POLLHUP);
    return fd;
}

/* The peer first. */
static int state_closed_last(void)
{
    int fd = accepted(0);
    ask("f0");
    await(fd, POLLRDHUP);
    shutdown(fd, SHUT_WR);
    ask("e0");
    await(fd, POLLHUP);
    long end = now_ms() + 3000;
    struct tcp_info info = {0};
    do {
        socklen_t len = sizeof info;
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
    } while (info.tcpi_state != TCP_CLOSE && now_ms() < end);
    return fd;
}

static int state_closed_first_data(void)
{
    int fd = accepted(0);
    shutdown(fd, SHUT_WR);
    ask("e0");
    ask("s0 10");
    ask("q0");
    await(fd, POLLHUP);
    return fd;
}

static int state_full(void)
{
    int fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    fill(fd);
    return fd;
}

static int state_duplicate(void)
{
    int fd = accepted(0), copy = fcntl(fd, F_DUPFD_CLOEXEC, 100L);
    close(fd);
    return copy;
}

static int state_closed(void)
{
    int fd = accepted(0);
    close(fd);
    return fd;
}

static int state_over_loopback(void)
{
    struct sockaddr_in at = loopback_at(port);
    int other = made();
    if (connect(other, AT(at)) != 0)
        die("connect");
    int fd = accept4(listener, NULL, NULL, 0);
    if (fd < 0)
        die("accept4");
    if (send(other, "abcde", 5, 0) != 5)
        die("send");
    await_bytes(fd, 5);
    return fd;
}

static int state_v6(void)
{
    struct sockaddr_in6 at = peer_at6(PEER_PORT);
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (connect(fd, AT(at)) != 0)
        die("connect");
    ask("a0");
    return fd;
}

static int state_udp(void)
{
    struct sockaddr_in at = peer_at(SILENT_PORT);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(fd, AT(at)) != 0)
        die("connect");
    return fd;
}

static int state_unix(void)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || write(pair[1], "abcde", 5) != 5)
        die("socketpair");
    return pair[0];
}

static int state_pipe(void)
{
    int pair[2];
    if (pipe(pair) != 0 || write(pair[1], "abcde", 5) != 5)
        die("pipe");
    return pair[0];
}

static int state_epoll(void) { return epoll_create1(0); }
static int state_eventfd(void) { return eventfd(3, 0); }

static int state_file(void)
{
    int fd = memfd_create("file", 0);
    if (write(fd, "0123456789", 10) != 10 || lseek(fd, 0, SEEK_SET) != 0)
        die("memfd");
    return fd;
}

#define STATE(title, how) {#title, state_##title, how}
static const struct state {
    const char *name;
    int (*make)(void);
    int how;
} states[] = {
    STATE(fresh, NO_PEER),
    STATE(bound, NO_PEER),
    STATE(listening, NO_PEER),
    STATE(pending, NO_PEER),
    STATE(connecting, NO_PEER),
    STATE(refused, NO_PEER),
    STATE(active, 0),
    STATE(passive, 0),
    STATE(data, 0),
    STATE(active_data, 0),
    STATE(fin, 0),
    STATE(active_fin, 0),
    STATE(data_fin, 0),
    STATE(shut_write, NO_PEER),
    STATE(active_shut_write, NO_PEER),
    STATE(shut_read, 0),
    STATE(shut_read_data, 0),
    STATE(shut_both, NO_PEER),
    STATE(reset, NO_PEER),
    STATE(active_reset, NO_PEER),
    STATE(data_reset, NO_PEER),
    STATE(reset_told, NO_PEER),
    STATE(closed_first, NO_PEER),
    STATE(closed_last, NO_PEER),
    STATE(closed_first_data, NO_PEER),
    STATE(full, NO_PEER | NO_SEND),
    STATE(duplicate, 0),
    STATE(closed, NO_PEER | NO_AFTER),
    STATE(over_loopback, NO_PEER),
    STATE(v6, 0),
    STATE(udp, NO_PEER | NO_AFTER),
    STATE(unix, NO_PEER),
    STATE(pipe, NO_PEER),
    STATE(epoll, NO_PEER | NO_AFTER),
    STATE(eventfd, NO_PEER),
    STATE(file, NO_PEER | NO_AFTER),
};
#define STATES (sizeof states / sizeof *states)

/* ---- calls ---- */

static char bytes[64];

static void show(long got) { say("bytes %s", shown(bytes, got > 0 ? got : 0)); }

static void call_receive(int fd)
{
    long got;
    CALL(got = recv(fd, bytes, 4, 0));
    show(got);
    CALL(got = read(fd, bytes, sizeof bytes));
    show(got);
    CALL(read(fd, bytes, sizeof bytes));
}

static void call_peek(int fd)
{
    long got;
    CALL(got = recv(fd, bytes, sizeof bytes, MSG_PEEK));
    show(got);
    CALL(got = recv(fd, bytes, sizeof bytes, MSG_PEEK | MSG_WAITALL));
    show(got);
    CALL(got = recv(fd, bytes, sizeof bytes, 0));
    show(got);
}

static void call_receive_odd(int fd)
{
    CALL(recv(fd, bytes, 0, 0));
    CALL(read(fd, bytes, 0));
    CALL(recv(fd, NULL, 0, 0));
    CALL(recv(fd, bytes, 1, MSG_OOB));
    CALL(recv(fd, bytes, 1, MSG_ERRQUEUE));
    CALL(recv(fd, bytes, 0, MSG_ERRQUEUE));
    CALL(recv(fd, bytes, 3, MSG_WAITALL));
    CALL(recv(fd, bytes, 2, MSG_TRUNC));
    CALL(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
    CALL(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
}

static void call_receive_vector(int fd)
{
    struct iovec parts[3] = {{bytes, 2}, {NULL, 0}, {bytes + 2, 3}};
    long got;
    CALL(got = readv(fd, parts, 3));
    show(got);
    CALL(readv(fd, parts, 0));
    CALL(readv(fd, parts, -1));
    CALL(readv(fd, parts, 1025));
    CALL(readv(fd, parts + 1, 1));
    CALL(got = preadv2(fd, parts, 1, -1, 0));
    show(got);
    CALL(got = preadv2(fd, parts, 1, -1, RWF_NOWAIT));
    show(got);
    CALL(preadv2(fd, parts, 1, 5, 0) < 0 && errno == ESPIPE);
}

static void call_receive_message(int fd)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    char aside[64];
    struct iovec part = {bytes, 3};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part,
                             .msg_iovlen = 1, .msg_control = aside,
                             .msg_controllen = sizeof aside, .msg_flags = 77};
    long got;
    CALL(got = recvfrom(fd, bytes, 2, 0, (struct sockaddr *)&from, &len));
    show(got);
    say("address of %u bytes", len);
    CALL(got = recvmsg(fd, &message, 0));
    show(got);
    if (got >= 0)
        say("name %u, control %zu, flags %#x", message.msg_namelen, message.msg_controllen,
            (unsigned)message.msg_flags);
    message.msg_iovlen = 1025;
    CALL(recvmsg(fd, &message, 0));
    struct mmsghdr many[3];
    memset(many, 0, sizeof many);
    struct iovec pieces[3] = {{bytes, 1}, {bytes + 1, 2}, {bytes + 3, 30}};
    for (int i = 0; i < 3; i++) {
        many[i].msg_hdr.msg_iov = &pieces[i];
        many[i].msg_hdr.msg_iovlen = 1;
    }
    CALL(got = recvmmsg(fd, many, 3, 0, NULL));
    for (int i = 0; i < got; i++)
        say("message %d of %u", i, many[i].msg_len);
    CALL(recvmmsg(fd, many, 0, 0, NULL));
}

static void call_send(int fd)
{
    CALL(send(fd, "hello", 5, 0));
    CALL(write(fd, " you", 4));
    CALL(send(fd, "!", 1, MSG_NOSIGNAL));
}

static void call_send_odd(int fd)
{
    struct sockaddr_in at = any_at(1);
    CALL(send(fd, "", 0, 0));
    CALL(write(fd, NULL, 0));
    CALL(send(fd, "a", 1, MSG_MORE | MSG_NOSIGNAL));
    CALL(send(fd, "b", 1, MSG_DONTROUTE | MSG_NOSIGNAL));
    CALL(send(fd, "c", 1, MSG_EOR | MSG_NOSIGNAL));
    CALL(sendto(fd, "d", 1, MSG_NOSIGNAL, NULL, 0));
    CALL(sendto(fd, "e", 1, MSG_NOSIGNAL, (struct sockaddr *)&at, 3));
    CALL(send(fd, "f", 1, MSG_CONFIRM | MSG_NOSIGNAL));
}

static void call_send_to(int fd)
{
    struct sockaddr_in at = any_at(1);
    CALL(sendto(fd, "hi", 2, MSG_NOSIGNAL, AT(at)));
}

static void call_send_vector(int fd)
{
    struct iovec parts[3] = {{"ab", 2}, {NULL, 0}, {"cde", 3}};
    CALL(writev(fd, parts, 3));
    CALL(writev(fd, parts, 0));
    CALL(writev(fd, parts, -1));
    CALL(writev(fd, parts, 1025));
    CALL(pwritev2(fd, parts, 1, -1, 0));
    CALL(pwritev2(fd, parts, 1, 5, 0) < 0 && errno == ESPIPE);
}

static void call_send_message(int fd)
{
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    struct mmsghdr many[2];
    memset(many, 0, sizeof many);
    CALL(sendmsg(fd, &message, MSG_NOSIGNAL));
    message.msg_iovlen = 0;
    CALL(sendmsg(fd, &message, MSG_NOSIGNAL));
    message.msg_iovlen = 1025;
    CALL(sendmsg(fd, &message, MSG_NOSIGNAL));
    for (int i = 0; i < 2; i++) {
        many[i].msg_hdr.msg_iov = &parts[i];
        many[i].msg_hdr.msg_iovlen = 1;
    }
    CALL(sendmmsg(fd, many, 2, MSG_NOSIGNAL));
    say("%u and %u", many[0].msg_len, many[1].msg_len);
    CALL(sendmmsg(fd, many, 0, MSG_NOSIGNAL));
}

static void call_send_file(int fd)
{
    int file = memfd_create("input", 0);
    off_t offset = 2;
    if (write(file, "0123456789", 10) != 10)
        die("memfd");
    CALL(sendfile(fd, file, &offset, 4));
    say("offset %ld", (long)offset);
    CALL(lseek(file, 0, SEEK_SET));
    CALL(sendfile(fd, file, NULL, 3));
    say("position %ld", (long)lseek(file, 0, SEEK_CUR));
    CALL(sendfile(fd, file, &offset, 0));
    offset = 100;
    CALL(sendfile(fd, file, &offset, 5));
    CALL(sendfile(fd, -1, NULL, 5));
    offset = -1;
    CALL(sendfile(fd, file, &offset, 5));
}

static void call_accept(int fd)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    int got;
    CALL(accept4(fd, NULL, NULL, 7));
    CALL((got = accept(fd, (struct sockaddr *)&from, &len)) < 0 ? -1 : 0);
    if (got >= 0)
        say("address of %u bytes, family %d, flags %#x", len, from.ss_family,
            (unsigned)fcntl(got, F_GETFL));
    CALL(accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0 ? -1 : 0);
}

static void call_accept_odd(int fd)
{
    struct sockaddr_storage from;
    socklen_t len = 3;
    memset(&from, 0xee, sizeof from);
    CALL(accept(fd, (struct sockaddr *)&from, NULL) < 0 ? -1 : 0);
    CALL(accept(fd, (struct sockaddr *)&from, &len) < 0 ? -1 : 0);
    say("length %u, byte after %#x", len, ((unsigned char *)&from)[3]);
}

static void call_bind(int fd)
{
    struct sockaddr_in at = any_at(0), odd = any_at(0), elsewhere = any_at(0);
    odd.sin_family = 77;
    elsewhere.sin_addr.s_addr = htonl(0x08080808);
    CALL(bind(fd, (struct sockaddr *)&at, 3));
    CALL(bind(fd, AT(odd)));
    CALL(bind(fd, AT(elsewhere)));
    CALL(bind(fd, AT(at)));
}

static void call_listen(int fd)
{
    CALL(listen(fd, 3));
    CALL(listen(fd, 0));
    CALL(get_int(fd, SOL_SOCKET, SO_ACCEPTCONN));
}

static void call_connect(int fd)
{
    struct sockaddr_in at = peer_at(PEER_PORT), odd = peer_at(PEER_PORT);
    odd.sin_family = 77;
    CALL(connect(fd, (struct sockaddr *)&at, 1));
    CALL(connect(fd, (struct sockaddr *)&at, 3));
    CALL(connect(fd, AT(odd)));
    CALL(connect(fd, AT(at)));
    CALL(connect(fd, AT(at)) == 0 || errno == EISCONN || errno == EALREADY ? 0 : -1);
}

static void call_disconnect(int fd)
{
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    CALL(connect(fd, &nowhere, sizeof nowhere));
    CALL(connect(fd, &nowhere, sizeof nowhere));
}

static void call_shut_read(int fd)
{
    CALL(shutdown(fd, SHUT_RD));
    CALL(recv(fd, bytes, sizeof bytes, 0));
    CALL(shutdown(fd, SHUT_RD));
}

/* Once both have closed, the second shutdown comes before or after the last acknowledgment. */
static void call_shut_write(int fd)
{
    int half = ready(fd, POLLRDHUP, 0) == POLLRDHUP;
    CALL(shutdown(fd, SHUT_WR));
    CALL(send(fd, "x", 1, 0));
    if (!half)
        CALL(shutdown(fd, SHUT_WR));
}

static void call_shut_both(int fd)
{
    int half = ready(fd, POLLRDHUP, 0) == POLLRDHUP;
    CALL(shutdown(fd, 9));
    CALL(shutdown(fd, SHUT_RDWR));
    if (!half)
        CALL(shutdown(fd, SHUT_RDWR));
}

static void call_names(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    memset(&at, 0, sizeof at);
    CALL(getsockname(fd, (struct sockaddr *)&at, &len));
    say("length %u, family %d", len, at.ss_family);
    len = sizeof at;
    CALL(getpeername(fd, (struct sockaddr *)&at, &len));
    say("length %u, family %d", len, at.ss_family);
    len = 3;
    memset(&at, 0xee, sizeof at);
    CALL(getsockname(fd, (struct sockaddr *)&at, &len));
    say("length %u, byte after %#x", len, ((unsigned char *)&at)[3]);
    len = 0;
    CALL(getpeername(fd, (struct sockaddr *)&at, &len));
    say("length %u", len);
}

static void call_names_odd(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = (socklen_t)-1;
    CALL(getsockname(fd, (struct sockaddr *)&at, &len));
    CALL(getpeername(fd, (struct sockaddr *)&at, &len));
    CALL(getsockname(fd, (struct sockaddr *)&at, NULL));
    CALL(getpeername(fd, (struct sockaddr *)&at, NULL));
    len = sizeof at;
    CALL(getsockname(fd, NULL, &len));
    len = sizeof at;
    CALL(getpeername(fd, NULL, &len));
}

static void call_facts(int fd)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    memset(&info, 0, sizeof info);
    CALL(get_int(fd, SOL_SOCKET, SO_TYPE));
    CALL(get_int(fd, SOL_SOCKET, SO_DOMAIN));
    CALL(get_int(fd, SOL_SOCKET, SO_PROTOCOL));
    CALL(get_int(fd, SOL_SOCKET, SO_ACCEPTCONN));
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    say("state %d", info.tcpi_state);
    CALL(get_int(fd, IPPROTO_TCP, TCP_MAXSEG) > 0 ? 0 : -1);
    CALL(get_int(fd, IPPROTO_TCP, TCP_QUICKACK) >= 0 ? 0 : -1);
}

static void call_error(int fd)
{
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(send(fd, "z", 1, MSG_NOSIGNAL));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
}

static void call_options(int fd)
{
    CALL(set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    CALL(get_int(fd, IPPROTO_TCP, TCP_NODELAY));
    CALL(set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_KEEPALIVE));
    CALL(set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 100));
    CALL(get_int(fd, IPPROTO_TCP, TCP_KEEPIDLE));
    CALL(set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 4000));
    CALL(get_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
    CALL(set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_OOBINLINE));
    CALL(set_int(fd, IPPROTO_IP, IP_TOS, 8));
    CALL(get_int(fd, IPPROTO_IP, IP_TOS));
    CALL(set_int(fd, SOL_SOCKET, SO_PRIORITY, 3));
    CALL(get_int(fd, SOL_SOCKET, SO_PRIORITY));
    CALL(set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_REUSEADDR));
    CALL(set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_RCVLOWAT));
    CALL(set_int(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3));
    CALL(get_int(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT));
    CALL(set_int(fd, IPPROTO_TCP, TCP_SYNCNT, 3));
    CALL(get_int(fd, IPPROTO_TCP, TCP_SYNCNT));
    CALL(set_int(fd, IPPROTO_TCP, TCP_LINGER2, 7));
    CALL(get_int(fd, IPPROTO_TCP, TCP_LINGER2));
    CALL(set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 10000));
    CALL(get_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT));
}

static void call_options_odd(int fd)
{
    char value[64] = {0};
    socklen_t len = 64;
    CALL(set_int(fd, IPPROTO_TCP, 999, 1));
    CALL(get_int(fd, IPPROTO_TCP, 999));
    CALL(set_int(fd, 999, 1, 1));
    CALL(get_int(fd, 999, 1));
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, value, 3));
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, NULL, 4));
    CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, value, 7));
    CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    say("length %u", len);
    len = 1;
    CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    say("length %u", len);
    len = 0;
    CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, NULL));
    len = (socklen_t)-1;
    CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    len = 4;
    CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, NULL, &len));
    CALL(set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 128));
    CALL(set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 0));
    CALL(set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, -1));
    CALL(set_int(fd, SOL_SOCKET, SO_ERROR, 1));
    CALL(set_int(fd, SOL_SOCKET, SO_TYPE, 1));
    CALL(set_int(fd, SOL_SOCKET, SO_ACCEPTCONN, 1));
    CALL(set_int(fd, IPPROTO_IP, IP_TTL, 0));
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "no-such", 7));
    CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "no-such", 7));
}

static void call_ioctl(int fd)
{
    int value = -1, on = 1;
    CALL(ioctl(fd, FIONREAD, &value));
    say("value %d", value);
    value = -1;
    CALL(ioctl(fd, SIOCATMARK, &value));
    say("value %d", value);
    CALL(ioctl(fd, TCGETS, bytes));
    CALL(ioctl(fd, FIONBIO, &on));
    CALL(ioctl(fd, 0x12345678, &value));
    CALL(isatty(fd));
}

static void call_out_queue(int fd)
{
    int value = -1;
    CALL(ioctl(fd, SIOCOUTQ, &value));
    HOLDS(value >= 0);
    CALL(ioctl(fd, SIOCOUTQNSD, &value) < 0 ? -1 : 0);
}

static void call_flags(int fd)
{
    CALL(fcntl(fd, F_GETFL));
    CALL(fcntl(fd, F_SETFL, (long)(O_NONBLOCK | O_APPEND)));
    CALL(fcntl(fd, F_GETFL));
    CALL(fcntl(fd, F_SETFL, (long)O_NONBLOCK));
    CALL(fcntl(fd, F_GETFL));
    CALL(fcntl(fd, F_GETFD));
    CALL(fcntl(fd, F_SETFD, (long)FD_CLOEXEC));
    CALL(fcntl(fd, F_GETFD));
    CALL(fcntl(fd, F_DUPFD, -1L));
    CALL(fcntl(fd, F_GETOWN));
    CALL(fcntl(fd, F_SETOWN, (long)INT_MIN));
    CALL(fcntl(fd, F_SETSIG, (long)SIGUSR2));
    CALL(fcntl(fd, F_GETSIG) == SIGUSR2);
    CALL(fcntl(fd, F_SETOWN, (long)getpid()));
    CALL(fcntl(fd, F_GETOWN) > 0);
    CALL(fcntl(fd, 7777));
    CALL(fcntl(fd, F_GETPIPE_SZ) > 0 ? 0 : -1);
}

static void call_duplicate(int fd)
{
    int copy = dup(fd), high;
    CALL(copy < 0 ? -1 : 0);
    CALL((high = fcntl(fd, F_DUPFD_CLOEXEC, 200L)));
    CALL(fcntl(high, F_GETFD));
    CALL(fcntl(copy, F_GETFD));
    CALL(dup2(fd, fd) == fd ? 0 : -1);
    CALL(dup3(fd, fd, 0));
    CALL(dup3(fd, 201, 7));
    CALL(dup3(fd, 201, O_CLOEXEC));
    CALL(dup2(fd, -1));
    CALL(close(copy));
    CALL(close(copy));
    CALL(send(high, "dup", 3, MSG_NOSIGNAL));
    CALL(recv(201, bytes, 3, MSG_DONTWAIT));
    CALL(close(high));
    CALL(close(201));
}

static void call_file(int fd)
{
    struct stat about;
    memset(&about, 0, sizeof about);
    CALL(fstat(fd, &about));
    say("type %#o", (unsigned)(about.st_mode & S_IFMT));
    CALL(lseek(fd, 0, SEEK_CUR));
    CALL(pread(fd, bytes, 1, 0) < 0 ? -1 : 0);
    CALL(ftruncate(fd, 5));
    CALL(fsync(fd));
    /* Linux lets TCP sockets be mapped, for receiving without a copy. */
    void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CALL(map == MAP_FAILED ? -1 : 0);
    if (map != MAP_FAILED)
        munmap(map, 4096);
    CALL(fchdir(fd));
    CALL(fallocate(fd, 0, 0, 1));
}

static const int everything = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;

static void call_poll(int fd)
{
    struct timespec moment = {0, 0};
    struct pollfd pair[2] = {{fd, POLLIN, 0}, {fd, POLLOUT | POLLRDHUP, 0}};
    say("poll: %s", poll_text(ready(fd, everything, 0)));
    say("poll for nothing: %s", poll_text(ready(fd, 0, 0)));
    CALL(poll(pair, 2, 0));
    say("%s and %s", poll_text(pair[0].revents), poll_text(pair[1].revents));
    pair[0].fd = -5;
    CALL(ppoll(pair, 2, &moment, NULL));
    say("%s and %s", poll_text(pair[0].revents), poll_text(pair[1].revents));
    moment.tv_nsec = 1000000000;
    CALL(ppoll(pair, 2, &moment, NULL));
}

static void call_select(int fd)
{
    fd_set in, out, odd;
    struct timeval moment = {0, 0};
    struct timespec short_moment = {0, 0};
    FD_ZERO(&in);
    FD_SET(fd, &in);
    out = odd = in;
    CALL(select(fd + 1, &in, &out, &odd, &moment));
    say("%d %d %d", FD_ISSET(fd, &in), FD_ISSET(fd, &out), FD_ISSET(fd, &odd));
    FD_ZERO(&in);
    FD_SET(fd, &in);
    CALL(pselect(fd + 1, &in, NULL, NULL, &short_moment, NULL));
    say("%d", FD_ISSET(fd, &in));
    FD_SET(fd, &in);
    CALL(select(fd, &in, NULL, NULL, &moment));
    CALL(select(-1, &in, NULL, NULL, &moment));
    moment.tv_usec = -1;
    CALL(select(fd + 1, &in, NULL, NULL, &moment));
}

static void epoll_with(int fd, unsigned flags)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | flags,
                                .data.u64 = 0x123456789abcdef0}, out[3];
    int set = epoll_create1(0), count;
    CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    for (int i = 0; i < 2; i++) {
        CALL(count = epoll_wait(set, out, 3, 0));
        if (count == 1)
            say("%s, data %s", epoll_text(out[0].events),
                out[0].data.u64 == event.data.u64 ? "right" : "wrong");
    }
    event.events = EPOLLIN | flags;
    CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CALL(count = epoll_wait(set, out, 3, 0));
    if (count == 1)
        say("%s", epoll_text(out[0].events));
    CALL(epoll_ctl(set, 77, fd, &event));
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    CALL(epoll_wait(set, out, 3, 0));
    CALL(close(set));
}

static void call_epoll(int fd) { epoll_with(fd, 0); }
static void call_epoll_edge(int fd) { epoll_with(fd, EPOLLET); }
static void call_epoll_once(int fd) { epoll_with(fd, EPOLLONESHOT); }

static void call_as_set(int fd)
{
    struct epoll_event event = {.events = EPOLLIN}, out;
    CALL(epoll_ctl(fd, EPOLL_CTL_ADD, listener, &event));
    CALL(epoll_wait(fd, &out, 1, 0));
    CALL(epoll_wait(fd, &out, 0, 0));
}

static void call_abort(int fd)
{
    struct linger now = {1, 0};
    CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    CALL(send(fd, "bye", 3, MSG_NOSIGNAL));
    CALL(close(fd));
    CALL(close(fd));
}

static void call_close(int fd)
{
    CALL(close(fd));
    CALL(close(fd));
    CALL(read(fd, bytes, 1));
    CALL(send(fd, bytes, 1, 0));
    CALL(ready(fd, POLLIN, 0));
    CALL(fcntl(fd, F_GETFL));
}

static void call_time_limits(int fd)
{
    struct timeval limit = {1, 1000000}, shown_limit = {9, 9};
    socklen_t len = sizeof shown_limit;
    CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    limit.tv_usec = 500000;
    CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, 8));
    CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CALL(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &shown_limit, &len));
    say("length %u, %ld s", len, shown_limit.tv_sec);
    limit.tv_sec = -1;
    CALL(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    CALL(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &shown_limit, &len));
    say("length %u, %ld s", len, shown_limit.tv_sec);
}

#define OP(title, how) {#title, call_##title, how}
static const struct op {
    const char *name;
    void (*run)(int fd);
    int how;
} ops[] = {
    OP(receive, 0),
    OP(peek, 0),
    OP(receive_odd, 0),
    OP(receive_vector, 0),
    OP(receive_message, 0),
    OP(send, SENDS),
    OP(send_odd, SENDS),
    OP(send_to, SENDS),
    OP(send_vector, SENDS),
    OP(send_message, SENDS),
    OP(send_file, SENDS),
    OP(accept, 0),
    OP(accept_odd, 0),
    OP(bind, 0),
    OP(listen, 0),
    OP(connect, NO_AFTER),
    OP(disconnect, 0),
    OP(shut_read, 0),
    OP(shut_write, 0),
    OP(shut_both, 0),
    OP(names, 0),
    OP(names_odd, 0),
    OP(facts, 0),
    OP(error, SENDS),
    OP(options, 0),
    OP(options_odd, 0),
    OP(ioctl, 0),
    OP(out_queue, 0),
    OP(flags, 0),
    OP(duplicate, SENDS),
    OP(file, 0),
    OP(poll, 0),
    OP(select, 0),
    OP(epoll, 0),
    OP(epoll_edge, 0),
    OP(epoll_once, 0),
    OP(as_set, 0),
    OP(abort, NO_AFTER | SENDS),
    OP(close, NO_AFTER),
    OP(time_limits, 0),
};
#define OPS (sizeof ops / sizeof *ops)

static void run_pair(int state, int op)
{
    int how = states[state].how | ops[op].how;
    int fd = states[state].make();
    if (fcntl(fd, F_GETFL) >= 0)
        set_nonblocking(fd, 1);
    pipe_signals = 0;
    memset(bytes, '.', sizeof bytes);
    ops[op].run(fd);
    if (!(how & NO_AFTER)) {
        say("then: %s", poll_text(ready(fd, everything, 0)));
        say("error: %ld", get_int(fd, SOL_SOCKET, SO_ERROR));
    }
    close(fd);
    if (!(how & NO_PEER))
        SEES("e0");
}

__attribute__((constructor)) static void register_pairs(void)
{
    static struct test_case cases[STATES * OPS];
    static char names[STATES * OPS][48];
    for (size_t i = 0; i < STATES * OPS; i++) {
        size_t state = i / OPS, op = i % OPS;
        if (states[state].how & ops[op].how & NO_SEND)
            continue;
        snprintf(names[i], sizeof names[i], "%s:%s", states[state].name, ops[op].name);
        cases[i] = (struct test_case){.family = FAMILY,
                                      .name = names[i],
                                      .run_with = run_pair,
                                      .state = (int)state,
                                      .op = (int)op};
        register_case(&cases[i]);
    }
}
