/* What only the preload library sees: functions of the C library that libluna has no like of. */
#include "diff.h"

#include <spawn.h>

#define FAMILY "hooked"

static char bytes[64];

HOOKED_CASE(close_from)
{
    int a = accepted(0), b = connected(1), c;
    closefrom(a);
    CALL(send(a, "x", 1, MSG_NOSIGNAL));
    CALL(send(b, "x", 1, MSG_NOSIGNAL));
    SEES("e0");
    SEES("e1");
    CALL((c = accepted(2)) >= 0);
    CALL(send(c, "alive", 5, 0));
    SEES("r2 5");
}

HOOKED_CASE(calls_by_number)
{
    int fd = accepted(0);
    CALL(syscall(SYS_write, fd, "number", 6));
    SEES("r0 6");
    ask("s0 4");
    await_bytes(fd, 4);
    CALL(syscall(SYS_read, fd, bytes, 2));
    CALL(syscall(SYS_recvfrom, fd, bytes, 10, MSG_DONTWAIT, NULL, NULL));
    CALL(syscall(SYS_recvfrom, fd, bytes, 10, MSG_DONTWAIT, NULL, NULL));
    CALL(syscall(SYS_sendto, fd, "by number", 9, MSG_NOSIGNAL, NULL, 0));
    CALL(syscall(SYS_shutdown, fd, SHUT_WR));
    SEES("e0");
    CALL(syscall(SYS_close, fd));
    CALL(syscall(SYS_close, fd));
}

HOOKED_CASE(socket_by_number)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    CALL(syscall(SYS_connect, fd, &at, sizeof at));
    SEES("a0");
    CALL(syscall(SYS_fcntl, fd, F_GETFL, 0));
    CALL(syscall(SYS_dup, fd) >= 0);
    CALL(syscall(SYS_dup3, fd, 100, 0));
    CALL(syscall(SYS_write, 100, "x", 1));
    SEES("r0 1");
}

HOOKED_CASE(readiness_by_number)
{
    struct pollfd entry = {accepted(0), POLLOUT | POLLIN, 0};
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 3};
    struct timespec none = {0, 0};
    CALL(syscall(SYS_ppoll, &entry, 1, &none, NULL, 0));
    say("%s", poll_text(entry.revents));
    int set = (int)syscall(SYS_epoll_create1, 0);
    CALL(syscall(SYS_epoll_ctl, set, EPOLL_CTL_ADD, entry.fd, &event));
    CALL(syscall(SYS_epoll_pwait, set, &event, 1, 0, NULL, 8));
    say("%s", epoll_text(event.events));
}

HOOKED_CASE(unknown_number)
{
    CALL(syscall(100000));
    CALL(syscall(SYS_getpid) == getpid());
}

HOOKED_CASE(spawned_program)
{
    int fd = accepted(0), status = -1;
    pid_t child;
    char *words[] = {"true", NULL}, *environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, fd);
    CALL(posix_spawn(&child, "/bin/true", &actions, NULL, words, environment));
    CALL(waitpid(child, &status, 0) == child);
    say("status %d", status);
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}

HOOKED_CASE(shell_command)
{
    int fd = accepted(0);
    FILE *shell = popen("echo hello", "r");
    CALL(fgets(bytes, sizeof bytes, shell) != NULL);
    say("%s", shown(bytes, (long)strlen(bytes)));
    CALL(pclose(shell));
    CALL(system("exit 3") >> 8);
    CALL(send(fd, "alive", 5, 0));
    SEES("r0 5");
}

HOOKED_CASE(splice_between_pipe_and_socket)
{
    int fd = accepted(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(write(pipes[1], "spliced", 7));
    CALL(splice(pipes[0], NULL, fd, NULL, 7, 0));
    SEES("r0 7");
    ask("s0 5");
    await_bytes(fd, 5);
    CALL(splice(fd, NULL, pipes[1], NULL, 100, 0));
    CALL(read(pipes[0], bytes, 10));
    set_nonblocking(fd, 1);
    CALL(splice(fd, NULL, pipes[1], NULL, 100, SPLICE_F_NONBLOCK));
    off_t offset = 0;
    CALL(splice(fd, &offset, pipes[1], NULL, 100, 0));
    CALL(splice(pipes[0], NULL, fd, &offset, 100, 0));
    CALL(splice(fd, NULL, fd, NULL, 5, 0));
}

HOOKED_CASE(splice_at_the_end)
{
    int fd = accepted(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    ask("f0");
    await(fd, POLLRDHUP);
    CALL(splice(fd, NULL, pipes[1], NULL, 100, 0));
    shutdown(fd, SHUT_WR);
    CALL(write(pipes[1], "x", 1));
    CALL(splice(pipes[0], NULL, fd, NULL, 1, 0));
}

HOOKED_CASE(splice_between_pipes)
{
    int one[2], two[2];
    if (pipe(one) != 0 || pipe(two) != 0)
        die("pipe");
    CALL(write(one[1], "abc", 3));
    CALL(splice(one[0], NULL, two[1], NULL, 10, 0));
    CALL(read(two[0], bytes, 10));
}

HOOKED_CASE(stream_of_the_c_library)
{
    int fd = accepted(0);
    FILE *stream = fdopen(fd, "r+");
    CALL(stream != NULL);
    if (stream == NULL)
        return;
    CALL(fprintf(stream, "hello %d\n", 7));
    CALL(fflush(stream));
    SEES("r0 8");
    ask("s0 5");
    CALL(fread(bytes, 1, 5, stream));
    say("%s", shown(bytes, 5));
    HOLDS(fileno(stream) == fd);
    CALL(fclose(stream));
    SEES("e0");
    CALL(send(fd, "x", 1, MSG_NOSIGNAL));
}

HOOKED_CASE(formatted_to_a_descriptor)
{
    int fd = accepted(0);
    CALL(dprintf(fd, "number %d", 42));
    SEES("r0 9");
}

HOOKED_CASE(checked_names)
{
    char small[8];
    volatile size_t len = sizeof small;
    int fd = accepted(0);
    ask("s0 12");
    await_bytes(fd, 12);
    CALL(read(fd, small, len));
    CALL(recv(fd, small, len - 6, 0));
    CALL(recvfrom(fd, small, len, 0, NULL, NULL));
}

HOOKED_CASE(other_names_of_calls)
{
    extern ssize_t __read(int, void *, size_t), __write(int, const void *, size_t);
    extern ssize_t __send(int, const void *, size_t, int);
    extern int __close(int), __dup2(int, int), __connect(int, const struct sockaddr *, socklen_t);
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = accepted(0);
    CALL(__write(fd, "abc", 3));
    CALL(__send(fd, "de", 2, MSG_NOSIGNAL));
    SEES("r0 5");
    ask("s0 3");
    CALL(__read(fd, bytes, 10));
    CALL(__dup2(fd, 100));
    CALL(__close(fd));
    CALL(__write(100, "z", 1));
    SEES("r0 1");
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CALL(__connect(fd, AT(at)));
    SEES("a1");
}
