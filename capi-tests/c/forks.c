/* What a forked child may do with its parent's sockets.
 *
 *   forks child PORT     accepts a connection, forks: the child's copy must be dead and leave the
 *                        parent's connection alone, which then echoes one message
 *   forks workers PORT   a master listens and forks a worker, which accepts and echoes
 *
 * Prints what it sees; the client is any program that sends four bytes and reads four.
 */
#include <luna.h>

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static const char *kind(int fd)
{
    static const char *const names[] = {"foreign", "provisional", "kernel", "listener",
                                        "stream",  "dead",        "epoll"};
    struct luna_fd_info info = {.size = sizeof info};
    if (luna_fd_info(fd, &info) != 0)
        die("luna_fd_info");
    return names[info.kind];
}

static int listen_on(const char *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int on = 1, fd = luna_socket(AF_INET, SOCK_STREAM, 0);
    luna_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (luna_bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || luna_listen(fd, 16) != 0)
        die("listen");
    return fd;
}

static void echo_one(int fd)
{
    char bytes[4];
    if (luna_recv(fd, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
        die("luna_recv");
    if (luna_send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes)
        die("luna_send");
    /* Until the client has closed. */
    printf("echoed on a %s, then %zd\n", kind(fd), luna_recv(fd, bytes, 1, 0));
}

static int reap(pid_t child)
{
    int status = 0;
    if (waitpid(child, &status, 0) != child)
        die("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static void in_child(int fd, int listener)
{
    char byte;
    ssize_t got = luna_recv(fd, &byte, 1, MSG_DONTWAIT);
    printf("child: %s recv %zd %s\n", kind(fd), got, got < 0 ? strerrorname_np(errno) : "");
    ssize_t sent = luna_send(fd, "x", 1, MSG_NOSIGNAL);
    printf("child: send %zd %s\n", sent, sent < 0 ? strerrorname_np(errno) : "");
    int shut = luna_shutdown(fd, SHUT_RDWR);
    printf("child: shutdown %d %s\n", shut, shut < 0 ? strerrorname_np(errno) : "");
    printf("child: close %d, listener is a %s\n", luna_close(fd), kind(listener));
    luna_close(listener);
    fflush(stdout);
    /* Through exit handlers, as a program that does not know better. */
    exit(7);
}

static int child(const char *port)
{
    int listener = listen_on(port);
    puts("listening");
    fflush(stdout);
    int fd = luna_accept(listener, NULL, NULL);
    if (fd < 0)
        die("luna_accept");
    printf("parent: accepted a %s\n", kind(fd));
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        in_child(fd, listener);
    printf("child ended with %d\n", reap(pid));
    if (system("exit 3") != 3 << 8)
        die("system");
    FILE *pipe = popen("cat >/dev/null; true", "w");
    if (pipe == NULL || pclose(pipe) != 0)
        die("popen");
    echo_one(fd);
    luna_close(fd);
    return 0;
}

static int workers(const char *port)
{
    int listener = listen_on(port);
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid != 0) {
        int status = reap(pid);
        printf("worker ended with %d\n", status);
        return status;
    }
    int epfd = luna_epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (luna_epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &event) != 0)
        die("luna_epoll_ctl");
    puts("listening");
    fflush(stdout);
    if (luna_epoll_wait(epfd, &event, 1, 20000) != 1)
        die("luna_epoll_wait");
    int fd = luna_accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("luna_accept4");
    echo_one(fd);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "child") == 0)
        return child(argv[2]);
    if (argc == 3 && strcmp(argv[1], "workers") == 0)
        return workers(argv[2]);
    fprintf(stderr, "usage: forks child|workers PORT\n");
    return 2;
}
