/* Numbers: who gets which, what duplicates share, what closing many closes. */
#include "diff.h"

#define FAMILY "descriptors"

static char bytes[64];

CASE(lowest_free_number)
{
    int a = accepted(0), b = accepted(1), c = connected(2);
    HOLDS(b == a + 1 && c == b + 1);
    close(b);
    int d = accepted(3);
    HOLDS(d == b);
    close(a);
    HOLDS(dup(c) == a);
    close(a);
    HOLDS(socket(AF_INET, SOCK_STREAM, 0) == a);
    HOLDS(epoll_create1(0) == c + 1);
}

CASE(accepted_flags)
{
    int fd = made_listener(SPARE_PORT, 8);
    static const int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    set_nonblocking(fd, 0);
    for (int i = 0; i < 4; i++) {
        ask("c%d 5", i);
        int stream = accept4(fd, NULL, NULL, flags[i]);
        say("%#x %d", (unsigned)fcntl(stream, F_GETFL), fcntl(stream, F_GETFD));
    }
}

CASE(accepted_does_not_inherit_nonblocking)
{
    int fd = made_listener(SPARE_PORT, 8);
    set_nonblocking(fd, 1);
    ask("c0 5");
    await(fd, POLLIN);
    int stream = accept(fd, NULL, NULL);
    say("%#x", (unsigned)fcntl(stream, F_GETFL));
}

CASE(accept_without_addresses)
{
    int fd = made_listener(SPARE_PORT, 8);
    ask("c0 5");
    CALL(accept4(fd, NULL, NULL, SOCK_NONBLOCK) >= 0);
    ask("c1 5");
    socklen_t len = 16;
    CALL(accept4(fd, NULL, &len, 0) >= 0);
}

CASE(socket_flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    struct sockaddr_in at = peer_at(PEER_PORT);
    say("%#x %d", (unsigned)fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
    CALL(connect(fd, AT(at)));
    await(fd, POLLOUT);
    say("%#x %d", (unsigned)fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
    CALL(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    CALL(socket(AF_INET, 77, 0));
    CALL(socket(AF_INET, SOCK_STREAM | 0x10, 0));
    CALL(socket(99, SOCK_STREAM, 0));
}

CASE(status_flags_are_shared_descriptor_flags_not)
{
    int fd = accepted(0), copy = fcntl(fd, F_DUPFD_CLOEXEC, 0L);
    set_nonblocking(copy, 1);
    say("%#x %#x", (unsigned)fcntl(fd, F_GETFL), (unsigned)fcntl(copy, F_GETFL));
    say("%d %d", fcntl(fd, F_GETFD), fcntl(copy, F_GETFD));
    CALL(recv(fd, bytes, 1, 0));
    int off = 0;
    CALL(ioctl(fd, FIONBIO, &off));
    say("%#x", (unsigned)fcntl(copy, F_GETFL));
}

CASE(nonblocking_ends_for_duplicates_too)
{
    int fd = accepted(0), copy = dup(fd), on = 1;
    CALL(ioctl(copy, FIONBIO, &on));
    CALL(read(fd, bytes, 1));
    CALL(close(copy));
    CALL(read(fd, bytes, 1));
}

CASE(duplicates_share_the_stream)
{
    int fd = accepted(0), copy = dup(fd);
    ask("s0 6");
    await_bytes(fd, 6);
    long count = recv(fd, bytes, 3, 0);
    say("%s", shown(bytes, count));
    count = recv(copy, bytes, 3, 0);
    say("%s", shown(bytes, count));
    CALL(close(fd));
    CALL(send(copy, "still", 5, 0));
    SEES("r0 5");
    CALL(shutdown(copy, SHUT_WR));
    SEES("e0");
}

CASE(closing_a_duplicate_sends_nothing)
{
    int fd = accepted(0), copy = dup(fd);
    CALL(close(fd));
    CALL(send(copy, "open", 4, 0));
    SEES("r0 4");
    CALL(close(copy));
    SEES("e0");
}

CASE(dup2_over_a_stream_closes_it)
{
    int fd = accepted(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(dup2(pipes[0], fd) == fd);
    SEES("e0");
    CALL(write(pipes[1], "x", 1));
    CALL(read(fd, bytes, 1));
}

CASE(dup2_of_a_stream_over_a_pipe)
{
    int fd = accepted(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(dup2(fd, pipes[0]) == pipes[0]);
    CALL(close(fd));
    CALL(send(pipes[0], "moved", 5, 0));
    SEES("r0 5");
    CALL(write(pipes[1], "x", 1));
}

CASE(dup2_of_a_stream_over_a_stream)
{
    int one = accepted(0), two = accepted(1);
    CALL(dup2(one, two) == two);
    SEES("e1");
    CALL(close(one));
    CALL(send(two, "one", 3, 0));
    SEES("r0 3");
}

CASE(dup3_flags)
{
    int fd = accepted(0);
    CALL(dup3(fd, 150, O_CLOEXEC));
    CALL(fcntl(150, F_GETFD));
    CALL(dup3(fd, 150, 0));
    CALL(fcntl(150, F_GETFD));
    CALL(dup3(fd, 150, O_NONBLOCK));
    CALL(dup3(-1, 150, 0));
    CALL(dup3(150, 150, 0));
    CALL(dup3(fd, -1, 0));
}

CASE(dup2_of_bad_numbers)
{
    int fd = accepted(0);
    CALL(dup2(399, 399));
    CALL(dup2(-1, -1));
    CALL(dup2(399, fd));
    CALL(send(fd, "x", 1, 0));
    CALL(dup(399));
    CALL(dup2(fd, 1 << 30));
}

CASE(duplicating_a_listener)
{
    int fd = made_listener(SPARE_PORT, 8), copy = dup(fd);
    CALL(close(fd));
    ask("c0 5");
    CALL(accept(copy, NULL, NULL) >= 0);
    CALL(close(copy));
    SEES("c1 5");
}

CASE(duplicating_before_listen)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0), copy = dup(fd);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(bind(copy, AT(at)));
    CALL(listen(fd, 8));
    ask("c0 5");
    CALL(accept(copy, NULL, NULL) >= 0);
}

CASE(duplicating_before_connect)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0), copy = dup(fd);
    CALL(connect(fd, AT(at)));
    ask("a0");
    CALL(send(copy, "ab", 2, 0));
    CALL(close(fd));
    CALL(send(copy, "c", 1, 0));
    SEES("r0 3");
}

CASE(range_of_all)
{
    int a = accepted(0), b = connected(1), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(close_range((unsigned)a, 390, 0));
    CALL(send(a, "x", 1, MSG_NOSIGNAL));
    CALL(send(b, "x", 1, MSG_NOSIGNAL));
    CALL(write(pipes[1], "x", 1));
    SEES("e0");
    SEES("e1");
    HOLDS(accepted(2) == a);
}

CASE(range_of_one)
{
    int a = accepted(0), b = accepted(1);
    CALL(close_range((unsigned)a, (unsigned)a, 0));
    CALL(send(a, "x", 1, MSG_NOSIGNAL));
    CALL(send(b, "x", 1, MSG_NOSIGNAL));
}

CASE(range_for_exec)
{
    int a = accepted(0);
    CALL(close_range((unsigned)a, (unsigned)a, CLOSE_RANGE_CLOEXEC));
    CALL(fcntl(a, F_GETFD));
    CALL(send(a, "x", 1, MSG_NOSIGNAL));
    CALL(close_range(5, 4, 0));
    CALL(close_range(0, 0, 0xff0));
}

CASE(everything_up_to_the_limit)
{
    /* What daemons do; our own descriptors are not theirs to close. */
    int a = accepted(0), b;
    close_range((unsigned)a, ~0u, 0);
    CALL((b = accepted(1)) >= 0);
    CALL(send(b, "alive", 5, 0));
    SEES("r1 5");
}

CASE(one_by_one_up_to_the_limit)
{
    int a = accepted(0), closed = 0, b;
    for (int fd = a; fd < 2000; fd++)
        closed += close(fd) == 0;
    say("closed %d", closed);
    CALL((b = accepted(1)) >= 0);
    CALL(send(b, "alive", 5, 0));
    SEES("r1 5");
}

CASE(no_number_left)
{
    struct rlimit old, few;
    int fd = made_listener(SPARE_PORT, 8);
    ask("c0 5");
    await(fd, POLLIN);
    getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = (rlim_t)fd + 1;
    setrlimit(RLIMIT_NOFILE, &few);
    CALL(accept(fd, NULL, NULL));
    CALL(dup(fd));
    CALL(fcntl(fd, F_DUPFD, 0L));
    CALL(epoll_create1(0));
    CALL(socket(AF_INET, SOCK_STREAM, 0));
    setrlimit(RLIMIT_NOFILE, &old);
    CALL(accept(fd, NULL, NULL) >= 0);
}

CASE(high_numbers)
{
    int fd = accepted(0), high = fcntl(fd, F_DUPFD, 390L);
    struct pollfd entry = {high, POLLOUT, 0};
    fd_set out;
    struct timeval none = {0, 0};
    CALL(high);
    CALL(poll(&entry, 1, 0));
    FD_ZERO(&out);
    FD_SET(high, &out);
    CALL(select(high + 1, NULL, &out, NULL, &none));
    CALL(send(high, "high", 4, 0));
    CALL(close(high));
}

CASE(file_identity)
{
    struct stat one, two;
    int a = accepted(0), b = accepted(1), copy = dup(a);
    CALL(fstat(a, &one));
    HOLDS(S_ISSOCK(one.st_mode));
    CALL(fstat(copy, &two));
    HOLDS(one.st_ino == two.st_ino);
    CALL(fstat(b, &two));
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", a);
    long len = readlink(path, link, sizeof link);
    HOLDS(len > 8 && memcmp(link, "socket:[", 8) == 0);
}

/* ---- processes ---- */

static int status_of(pid_t child)
{
    int status = -1;
    if (waitpid(child, &status, 0) != child)
        die("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

CASE(child_that_exits_at_once)
{
    int fd = accepted(0);
    pid_t child = fork();
    if (child == 0)
        _exit(7);
    CALL(status_of(child));
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}

CASE(child_that_closes_all)
{
    int fd = accepted(0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 3; i < 400; i++)
            close(i);
        _exit(7);
    }
    CALL(status_of(child));
    ask("s0 3");
    await_bytes(fd, 3);
    CALL(recv(fd, bytes, 10, 0));
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}

CASE(child_with_pipes)
{
    int fd = accepted(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    pid_t child = fork();
    if (child == 0) {
        close(pipes[0]);
        _exit(write(pipes[1], "child", 5) == 5 ? 3 : 4);
    }
    CALL(close(pipes[1]));
    CALL(read(pipes[0], bytes, 10));
    CALL(read(pipes[0], bytes, 10));
    CALL(status_of(child));
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}

CASE(child_that_runs_a_program)
{
    int fd = accepted(0);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(9);
    }
    CALL(status_of(child));
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}

CASE(child_of_vfork)
{
    int fd = accepted(0);
    pid_t child = vfork();
    if (child == 0) {
        close(fd);
        _exit(5);
    }
    CALL(status_of(child));
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}
