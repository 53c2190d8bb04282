/* Calls that wait: for how long, what wakes them, and what they say then. */
#include "diff.h"

#define FAMILY "blocking"

static char bytes[4096];

static void got(const char *call, long result)
{
    say("%s: %ld %s %s", call, result, result < 0 ? strerrorname_np(errno) : "",
        result > 0 ? shown(bytes, result < 60 ? result : 60) : "");
}
#define GOT(...)                                                                                   \
    do {                                                                                           \
        errno = 0;                                                                                 \
        got(#__VA_ARGS__, (long)(__VA_ARGS__));                                                    \
    } while (0)

/* ---- time limits ---- */

CASE(receive_time_limit)
{
    int fd = accepted(0);
    set_timeout(fd, SO_RCVTIMEO, 30);
    long start = now_ms();
    GOT(recv(fd, bytes, 10, 0));
    long took = now_ms() - start;
    HOLDS(took >= 28 && took < 1000);
    GOT(read(fd, bytes, 10));
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    ask("s0 4");
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    GOT(recv(fd, bytes, 10, MSG_WAITALL | MSG_DONTWAIT));
}

CASE(send_time_limit)
{
    static char bulk[1 << 20];
    int fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    set_timeout(fd, SO_SNDTIMEO, 60);
    long first = send(fd, bulk, sizeof bulk, 0);
    HOLDS(first > 0 && first < (long)sizeof bulk);
    fill(fd);
    GOT(send(fd, bulk, sizeof bulk, 0));
}

CASE(accept_time_limit)
{
    int fd = made_listener(SPARE_PORT, 4);
    set_timeout(fd, SO_RCVTIMEO, 30);
    CALL(accept(fd, NULL, NULL));
    ask("l 5 c0 5");
    set_timeout(fd, SO_RCVTIMEO, 3000);
    CALL(accept(fd, NULL, NULL) >= 0);
}

CASE(connect_time_limit)
{
    struct sockaddr_in at = peer_at(SILENT_PORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    set_timeout(fd, SO_SNDTIMEO, 40);
    CALL(connect(fd, AT(at)));
    CALL(connect(fd, AT(at)));
    say("%s", poll_text(ready(fd, POLLOUT, 0)));
}

CASE(time_limit_is_inherited)
{
    int fd = made_listener(SPARE_PORT, 4);
    set_timeout(fd, SO_RCVTIMEO, 40);
    ask("c0 5");
    int stream = accept(fd, NULL, NULL);
    GOT(recv(stream, bytes, 5, 0));
}

/* ---- waiting for data ---- */

CASE(receive_waits)
{
    int fd = accepted(0);
    ask("l 15 s0 7");
    GOT(recv(fd, bytes, sizeof bytes, 0));
}

CASE(read_waits)
{
    int fd = connected(0);
    ask("l 15 s0 7");
    GOT(read(fd, bytes, sizeof bytes));
}

CASE(receive_vector_waits)
{
    struct iovec parts[2] = {{bytes, 3}, {bytes + 3, 10}};
    int fd = connected(0);
    ask("l 15 s0 7");
    GOT(readv(fd, parts, 2));
}

CASE(peek_waits_and_leaves)
{
    int fd = accepted(0);
    ask("l 15 s0 7");
    GOT(recv(fd, bytes, sizeof bytes, MSG_PEEK));
    GOT(recv(fd, bytes, 3, 0));
    GOT(recv(fd, bytes, 9, MSG_PEEK));
    GOT(recv(fd, bytes, 9, 0));
}

CASE(wait_for_all)
{
    int fd = accepted(0);
    ask("s0 4");
    await_bytes(fd, 4);
    ask("l 15 s0 6");
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
}

CASE(wait_for_all_of_vectors)
{
    struct iovec parts[3] = {{bytes, 1}, {bytes + 1, 4}, {bytes + 5, 5}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    int fd = accepted(0);
    ask("s0 4");
    await_bytes(fd, 4);
    ask("l 15 s0 9");
    GOT(recvmsg(fd, &message, MSG_WAITALL));
    GOT(recv(fd, bytes, 10, 0));
}

CASE(wait_for_all_ends_with_fin)
{
    int fd = accepted(0);
    ask("s0 4");
    ask("l 15 f0");
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
}

CASE(wait_for_all_ends_with_reset)
{
    int fd = accepted(0);
    ask("s0 4");
    await_bytes(fd, 4);
    ask("l 15 x0");
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
}

CASE(wait_for_all_peeking)
{
    int fd = accepted(0);
    ask("s0 4");
    await_bytes(fd, 4);
    ask("l 15 s0 6");
    GOT(recv(fd, bytes, 10, MSG_WAITALL | MSG_PEEK));
    GOT(recv(fd, bytes, 10, 0));
}

CASE(low_water_mark)
{
    int fd = accepted(0);
    CALL(set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 6));
    ask("s0 4");
    await_bytes(fd, 4);
    say("%s", poll_text(ready(fd, POLLIN, 10)));
    /* Fewer than six more would not wake Linux, which forgets that it has taken four. */
    ask("l 15 s0 6");
    GOT(recv(fd, bytes, 20, 0));
}

CASE(low_water_mark_without_waiting)
{
    int fd = accepted(0);
    CALL(set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 6));
    ask("s0 4");
    await_bytes(fd, 4);
    GOT(recv(fd, bytes, 20, MSG_DONTWAIT));
}

CASE(low_water_mark_and_fin)
{
    int fd = accepted(0);
    CALL(set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 6));
    ask("s0 4");
    ask("f0");
    await(fd, POLLRDHUP);
    say("%s", poll_text(ready(fd, POLLIN, 0)));
    GOT(recv(fd, bytes, 20, 0));
}

CASE(discarded)
{
    int fd = accepted(0);
    ask("s0 9");
    await_bytes(fd, 9);
    CALL(recv(fd, NULL, 4, MSG_TRUNC));
    GOT(recv(fd, bytes, 20, MSG_DONTWAIT));
    ask("l 15 s0 2");
    CALL(recv(fd, bytes, 20, MSG_TRUNC));
}

CASE(discarded_by_peek)
{
    int fd = accepted(0);
    ask("s0 9");
    await_bytes(fd, 9);
    CALL(recv(fd, NULL, 4, MSG_TRUNC | MSG_PEEK));
    GOT(recv(fd, bytes, 20, MSG_DONTWAIT));
}

CASE(many_messages_wait_for_one)
{
    struct mmsghdr many[4];
    struct iovec parts[4];
    int fd = accepted(0);
    memset(many, 0, sizeof many);
    for (int i = 0; i < 4; i++) {
        parts[i] = (struct iovec){bytes + 10 * i, 3};
        many[i].msg_hdr.msg_iov = &parts[i];
        many[i].msg_hdr.msg_iovlen = 1;
    }
    ask("l 15 s0 5");
    long count;
    CALL(count = recvmmsg(fd, many, 4, MSG_WAITFORONE, NULL));
    for (long i = 0; i < count; i++)
        say("%u", many[i].msg_len);
}

CASE(many_messages_and_a_time_limit)
{
    struct mmsghdr many[2];
    struct iovec parts[2] = {{bytes, 3}, {bytes + 3, 3}};
    struct timespec limit = {0, 1000000}, odd = {0, -1};
    int fd = accepted(0);
    memset(many, 0, sizeof many);
    for (int i = 0; i < 2; i++) {
        many[i].msg_hdr.msg_iov = &parts[i];
        many[i].msg_hdr.msg_iovlen = 1;
    }
    CALL(recvmmsg(fd, many, 2, 0, &odd));
    ask("l 15 s0 2");
    CALL(recvmmsg(fd, many, 2, 0, &limit));
    say("%u", many[0].msg_len);
}

/* ---- what ends a wait ---- */

static void shut_it(void *fd) { shutdown(*(int *)fd, SHUT_RDWR); }
static void shut_read_of_it(void *fd) { shutdown(*(int *)fd, SHUT_RD); }

static void replace_it(void *fd)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        die("socketpair");
    dup2(pair[0], *(int *)fd);
}

CASE(shutdown_wakes_receive)
{
    struct later later;
    int fd = accepted(0);
    start_later(&later, 15, shut_it, &fd);
    GOT(recv(fd, bytes, 10, 0));
    join(&later);
    SEES("e0");
}

CASE(shutdown_of_reading_wakes_receive)
{
    struct later later;
    int fd = connected(0);
    start_later(&later, 15, shut_read_of_it, &fd);
    GOT(recv(fd, bytes, 10, 0));
    join(&later);
    CALL(send(fd, "ab", 2, 0));
    close(fd);
    SEES("e0");
}

CASE(shutdown_wakes_accept)
{
    struct later later;
    int fd = made_listener(SPARE_PORT, 4);
    start_later(&later, 15, shut_it, &fd);
    CALL(accept(fd, NULL, NULL));
    join(&later);
    CALL(accept(fd, NULL, NULL));
    CALL(listen(fd, 4));
    ask("c0 5");
    CALL(accept(fd, NULL, NULL) >= 0);
}

CASE(shutdown_wakes_send)
{
    static char bulk[1 << 20];
    struct later later;
    int fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    fill(fd);
    start_later(&later, 15, shut_it, &fd);
    /* Whether some of it went out before is a matter of time. */
    HOLDS(send(fd, bulk, sizeof bulk, 0) < (long)sizeof bulk);
    join(&later);
    CALL(send(fd, bulk, 1, 0));
}

CASE(shutdown_wakes_poll)
{
    struct later later;
    int fd = accepted(0);
    start_later(&later, 15, shut_it, &fd);
    HOLDS((ready(fd, POLLIN, 3000) & POLLIN) != 0);
    join(&later);
}

CASE(reset_wakes_receive)
{
    int fd = accepted(0);
    ask("l 15 x0");
    GOT(recv(fd, bytes, 10, 0));
    GOT(recv(fd, bytes, 10, 0));
}

CASE(fin_wakes_receive)
{
    int fd = connected(0);
    ask("l 15 f0");
    GOT(recv(fd, bytes, 10, 0));
    GOT(recv(fd, bytes, 10, 0));
}

CASE(reset_wakes_send)
{
    static char bulk[1 << 20];
    int fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    fill(fd);
    ask("l 15 x0");
    HOLDS(send(fd, bulk, sizeof bulk, 0) < (long)sizeof bulk);
    await(fd, POLLHUP);
    send(fd, bulk, 1, 0);
    CALL(send(fd, bulk, sizeof bulk, 0));
}

CASE(reset_in_the_middle_of_a_send)
{
    static char bulk[1 << 22];
    int fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    ask("l 80 x0");
    long sent = send(fd, bulk, sizeof bulk, 0);
    HOLDS(sent > 0 && sent < (long)sizeof bulk);
    CALL(send(fd, bulk, sizeof bulk, 0));
    CALL(send(fd, bulk, sizeof bulk, 0));
}

CASE(replaced_while_receiving)
{
    struct later later;
    int fd = accepted(0), copy = fd;
    start_later(&later, 15, replace_it, &copy);
    ask("l 40 f0");
    /* Linux lets the call go on with the old socket; ours may end with an error, as Java's way
     * of closing wants. Either way it ends. */
    long result = recv(fd, bytes, 10, 0);
    HOLDS(result <= 0);
    join(&later);
    CALL(send(fd, "x", 1, MSG_DONTWAIT));
}

/* ---- signals ---- */

static volatile sig_atomic_t handled;
static int written_by_handler = -1;

static void on_user(int number)
{
    (void)number;
    handled++;
    if (written_by_handler >= 0 && write(written_by_handler, "h", 1) != 1)
        handled += 100;
}

static void handle(int flags)
{
    struct sigaction action = {.sa_handler = on_user, .sa_flags = flags};
    sigaction(SIGUSR1, &action, NULL);
    handled = 0;
    written_by_handler = -1;
}

static void kill_it(void *thread) { pthread_kill(*(pthread_t *)thread, SIGUSR1); }

CASE(signal_ends_receive)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = accepted(0);
    handle(0);
    start_later(&later, 15, kill_it, &self);
    GOT(recv(fd, bytes, 10, 0));
    say("handled %d", handled);
    join(&later);
}

CASE(signal_restarts_receive)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = accepted(0);
    handle(SA_RESTART);
    start_later(&later, 15, kill_it, &self);
    ask("l 50 s0 3");
    GOT(recv(fd, bytes, 10, 0));
    say("handled %d", handled);
    join(&later);
}

CASE(signal_never_restarts_a_limited_receive)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = accepted(0);
    set_timeout(fd, SO_RCVTIMEO, 3000);
    handle(SA_RESTART);
    start_later(&later, 15, kill_it, &self);
    GOT(recv(fd, bytes, 10, 0));
    join(&later);
}

CASE(signal_after_some_bytes)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = accepted(0);
    handle(0);
    ask("s0 4");
    await_bytes(fd, 4);
    start_later(&later, 15, kill_it, &self);
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    join(&later);
}

CASE(signal_ends_accept)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = made_listener(SPARE_PORT, 4);
    handle(0);
    start_later(&later, 15, kill_it, &self);
    CALL(accept(fd, NULL, NULL));
    join(&later);
}

CASE(signal_restarts_accept)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = made_listener(SPARE_PORT, 4);
    handle(SA_RESTART);
    start_later(&later, 15, kill_it, &self);
    ask("l 50 c0 5");
    CALL(accept(fd, NULL, NULL) >= 0);
    join(&later);
}

CASE(signal_ends_connect)
{
    struct later later;
    struct sockaddr_in at = peer_at(SILENT_PORT);
    pthread_t self = pthread_self();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    handle(0);
    start_later(&later, 15, kill_it, &self);
    CALL(connect(fd, AT(at)));
    join(&later);
    set_nonblocking(fd, 1);
    CALL(connect(fd, AT(at)));
}

CASE(signal_ends_send)
{
    static char bulk[1 << 20];
    struct later later;
    pthread_t self = pthread_self();
    int fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    fill(fd);
    handle(0);
    start_later(&later, 15, kill_it, &self);
    HOLDS(send(fd, bulk, sizeof bulk, 0) < (long)sizeof bulk);
    join(&later);
}

CASE(signal_ends_poll_always)
{
    struct later later;
    struct pollfd entry;
    pthread_t self = pthread_self();
    int fd = accepted(0);
    handle(SA_RESTART);
    start_later(&later, 15, kill_it, &self);
    entry = (struct pollfd){fd, POLLIN, 0};
    CALL(poll(&entry, 1, 3000));
    join(&later);
    fd_set in;
    FD_ZERO(&in);
    FD_SET(fd, &in);
    struct timeval limit = {3, 0};
    start_later(&later, 15, kill_it, &self);
    CALL(select(fd + 1, &in, NULL, NULL, &limit));
    join(&later);
    HOLDS(FD_ISSET(fd, &in));
    HOLDS(limit.tv_sec == 2);
}

CASE(signal_mask_of_ppoll)
{
    sigset_t block, old;
    struct timespec soon = {0, 5000000};
    int fd = accepted(0);
    struct pollfd entry = {fd, POLLIN, 0};
    handle(0);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    pthread_kill(pthread_self(), SIGUSR1);
    CALL(ppoll(&entry, 1, &soon, NULL));
    say("handled %d", handled);
    CALL(ppoll(&entry, 1, &soon, &old));
    say("handled %d", handled);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    HOLDS(soon.tv_nsec == 5000000);
}

CASE(signal_mask_of_pselect)
{
    sigset_t block, old;
    struct timespec soon = {0, 5000000};
    int fd = accepted(0);
    fd_set in;
    handle(0);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    pthread_kill(pthread_self(), SIGUSR1);
    FD_ZERO(&in);
    FD_SET(fd, &in);
    CALL(pselect(fd + 1, &in, NULL, NULL, &soon, NULL));
    say("handled %d", handled);
    FD_SET(fd, &in);
    CALL(pselect(fd + 1, &in, NULL, NULL, &soon, &old));
    say("handled %d", handled);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

CASE(pipe_signal)
{
    int fd = accepted(0);
    shutdown(fd, SHUT_WR);
    CALL(send(fd, "x", 1, 0));
    CALL(send(fd, "x", 1, MSG_NOSIGNAL));
    CALL(write(fd, "x", 1));
    struct iovec part = {"x", 1};
    CALL(writev(fd, &part, 1));
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    CALL(sendmsg(fd, &message, 0));
    CALL(sendmsg(fd, &message, MSG_NOSIGNAL));
    CALL(send(fd, "", 0, 0));
}

CASE(pipe_signal_of_sendfile)
{
    int fd = accepted(0), file = memfd_create("f", 0);
    if (write(file, "0123456789", 10) != 10)
        die("memfd");
    off_t offset = 0;
    shutdown(fd, SHUT_WR);
    CALL(sendfile(fd, file, &offset, 5));
}

/* ---- poll and select that wait ---- */

CASE(poll_waits_for_data)
{
    int fd = accepted(0);
    ask("l 15 s0 1");
    say("%s", poll_text(ready(fd, POLLIN, 3000)));
}

CASE(poll_without_limit)
{
    int fd = accepted(0);
    ask("l 15 f0");
    say("%s", poll_text(ready(fd, POLLIN | POLLRDHUP, -1)));
}

CASE(poll_limit_is_kept)
{
    int fd = accepted(0);
    long start = now_ms();
    CALL(ready(fd, POLLIN, 30));
    long took = now_ms() - start;
    HOLDS(took >= 30 && took < 1000);
}

CASE(poll_many_kinds)
{
    int fd = accepted(0), pipes[2], event = eventfd(0, 0);
    if (pipe(pipes) != 0)
        die("pipe");
    struct pollfd entries[5] = {{fd, POLLIN, 0},
                                {pipes[0], POLLIN, 0},
                                {event, POLLIN, 0},
                                {-1, POLLIN, 7},
                                {9999, POLLIN, 0}};
    CALL(poll(entries, 4, 0));
    ask("l 15 s0 1");
    CALL(poll(entries, 4, 3000));
    CALL(write(pipes[1], "x", 1));
    CALL(poll(entries, 5, 0));
    for (int i = 0; i < 5; i++)
        say("%s", poll_text(entries[i].revents));
}

CASE(poll_wakes_for_a_pipe)
{
    int fd = accepted(0), pipes[2];
    struct later later;
    if (pipe(pipes) != 0)
        die("pipe");
    struct pollfd entries[2] = {{fd, POLLIN, 0}, {pipes[0], POLLIN, 0}};
    start_later(&later, 15, replace_it, &(int){dup(0)});
    join(&later);
    CALL(write(pipes[1], "x", 1));
    CALL(poll(entries, 2, -1));
    say("%s %s", poll_text(entries[0].revents), poll_text(entries[1].revents));
}

CASE(select_waits_for_data)
{
    int fd = accepted(0);
    struct timeval limit = {3, 0};
    fd_set in;
    FD_ZERO(&in);
    FD_SET(fd, &in);
    ask("l 15 s0 1");
    CALL(select(fd + 1, &in, NULL, NULL, &limit));
    HOLDS(limit.tv_sec == 2);
    HOLDS(FD_ISSET(fd, &in));
}

CASE(select_closed_number)
{
    int fd = accepted(0);
    struct timeval limit = {0, 0};
    fd_set in;
    FD_ZERO(&in);
    FD_SET(fd, &in);
    int gone = dup(fd);
    FD_SET(gone, &in);
    close(gone);
    CALL(select(gone + 1, &in, NULL, NULL, &limit));
    HOLDS(FD_ISSET(gone, &in));
}

/* A program that says getdtablesize() has sets of the usual size all the same. */
CASE(select_of_more_numbers_than_the_set_holds)
{
    int fd = accepted(0);
    struct timeval limit = {3, 0};
    struct {
        fd_set in;
        unsigned char beyond[4096];
    } sets;
    memset(&sets, 0xff, sizeof sets);
    FD_ZERO(&sets.in);
    FD_SET(fd, &sets.in);
    ask("l 15 s0 1");
    CALL(select(20000, &sets.in, NULL, NULL, &limit));
    HOLDS(FD_ISSET(fd, &sets.in));
    int pipes[2];
    if (pipe(pipes) != 0 || write(pipes[1], "x", 1) != 1)
        die("pipe");
    FD_ZERO(&sets.in);
    FD_SET(pipes[0], &sets.in);
    CALL(select(20000, &sets.in, NULL, NULL, &limit));
    HOLDS(FD_ISSET(pipes[0], &sets.in));
    HOLDS(sets.beyond[0] == 0xff && sets.beyond[4095] == 0xff);
}

CASE(select_as_a_pause)
{
    struct timeval limit = {0, 20000};
    long start = now_ms();
    CALL(select(0, NULL, NULL, NULL, &limit));
    HOLDS(now_ms() - start >= 20);
    CALL(poll(NULL, 0, 1));
}

CASE(listener_waits_for_either)
{
    int fd = made_listener(SPARE_PORT, 4);
    struct sockaddr_in at = loopback_at(SPARE_PORT);
    say("%s", poll_text(ready(fd, POLLIN | POLLOUT, 0)));
    int local = socket(AF_INET, SOCK_STREAM, 0);
    CALL(connect(local, AT(at)));
    say("%s", poll_text(ready(fd, POLLIN, 3000)));
    CALL(accept(fd, NULL, NULL) >= 0);
    ask("l 10 c0 5");
    say("%s", poll_text(ready(fd, POLLIN, 3000)));
    CALL(accept(fd, NULL, NULL) >= 0);
    set_nonblocking(fd, 1);
    CALL(accept(fd, NULL, NULL));
}

/* ---- close ---- */

CASE(close_with_unread_data_resets)
{
    int fd = accepted(0);
    ask("s0 5");
    await_bytes(fd, 5);
    CALL(close(fd));
    SEES("e0");
}

CASE(close_after_reading_ends)
{
    int fd = accepted(0);
    ask("s0 5");
    GOT(recv(fd, bytes, 5, MSG_WAITALL));
    CALL(send(fd, "bye", 3, 0));
    CALL(close(fd));
    SEES("e0");
}

CASE(close_sends_what_is_queued)
{
    static char bulk[50000];
    int fd = accepted(0);
    set_nonblocking(fd, 1);
    long sent = send(fd, bulk, sizeof bulk, 0);
    CALL(close(fd));
    ask("e0");
    char expected[128];
    snprintf(expected, sizeof expected, "%ld bytes, end", sent);
    HOLDS(strcmp(answer, expected) == 0);
}

CASE(linger_waits_for_the_peer)
{
    struct linger linger = {1, 3};
    int fd = accepted(0);
    CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    CALL(send(fd, "bye", 3, 0));
    long start = now_ms();
    CALL(close(fd));
    HOLDS(now_ms() - start < 2000);
    SEES("e0");
}

CASE(linger_zero_resets)
{
    struct linger linger = {1, 0};
    int fd = connected(0);
    CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    CALL(close(fd));
    SEES("e0");
}

CASE(linger_runs_out)
{
    static char bulk[60000];
    struct linger linger = {1, 1};
    int fd = accepted_small(0);
    set_nonblocking(fd, 1);
    CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    CALL(send(fd, bulk, sizeof bulk, 0) > 0);
    set_nonblocking(fd, 0);
    long start = now_ms();
    CALL(close(fd));
    long took = now_ms() - start;
    HOLDS(took >= 900 && took < 2500);
}

CASE(half_close_and_go_on)
{
    int fd = accepted(0);
    CALL(send(fd, "question", 8, 0));
    CALL(shutdown(fd, SHUT_WR));
    SEES("e0");
    ask("s0 6");
    ask("q0");
    GOT(recv(fd, bytes, 10, MSG_WAITALL));
    GOT(recv(fd, bytes, 10, 0));
}

CASE(descriptor_shared_by_threads)
{
    struct later later;
    int fd = accepted(0), copy = dup(fd);
    start_later(&later, 15, shut_it, &copy);
    GOT(recv(fd, bytes, 10, 0));
    join(&later);
    CALL(close(copy));
    CALL(send(fd, "x", 1, MSG_NOSIGNAL));
}

CASE(written_by_a_handler)
{
    struct later later;
    pthread_t self = pthread_self();
    int fd = accepted(0);
    handle(SA_RESTART);
    written_by_handler = eventfd(0, 0);
    int pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    written_by_handler = pipes[1];
    start_later(&later, 15, kill_it, &self);
    ask("l 50 s0 3");
    GOT(recv(fd, bytes, 10, 0));
    say("handled %d", handled);
    join(&later);
    handle(0);
}
