/* The edges of the socket calls, as a transcript.
 *
 *   calls peer PATH SERVER_IP PORT    the other end, always on the kernel: obeys commands that
 *                                     come over the Unix socket PATH
 *   calls test PATH PEER_IP PORT      prints one line per call: what it returned, and errno
 *
 * The test end runs once on the kernel and once on luna; the lines must be the same. Only what
 * Linux promises is printed: no buffer sizes, no times, no port numbers.
 */
#include <luna.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/un.h>
#include <unistd.h>

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in ip_addr(const char *ip, int port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, ip, &addr.sin_addr) != 1)
        die(ip);
    return addr;
}

static struct sockaddr_un path_addr(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    return addr;
}

/* ---- the peer: plain kernel calls ---- */

static int reply(int control, char result)
{
    return write(control, &result, 1) == 1;
}

static void transfer(int fd, size_t len, int receive)
{
    char bytes[4096];
    memset(bytes, 'p', sizeof bytes);
    while (len > 0) {
        size_t part = len < sizeof bytes ? len : sizeof bytes;
        ssize_t moved = receive ? recv(fd, bytes, part, 0) : send(fd, bytes, part, MSG_NOSIGNAL);
        if (moved <= 0)
            return;
        len -= (size_t)moved;
    }
}

/* Commands: one letter and a number, in 16 bytes. */
static int obey(int control, struct sockaddr_in server, int listener, int *fd)
{
    char command[16];
    if (recv(control, command, sizeof command, MSG_WAITALL) != sizeof command)
        return 0;
    long number = atol(command + 1);
    struct linger now = {1, 0};
    switch (command[0]) {
    case 'c': /* connect to the test's listener */
        *fd = socket(AF_INET, SOCK_STREAM, 0);
        return reply(control, connect(*fd, (struct sockaddr *)&server, sizeof server) ? 'e' : 'o');
    case 'a': /* accept the test's connection */
        *fd = accept(listener, NULL, NULL);
        return reply(control, *fd < 0 ? 'e' : 'o');
    case 's':
        transfer(*fd, (size_t)number, 0);
        return reply(control, 'o');
    case 'r':
        transfer(*fd, (size_t)number, 1);
        return reply(control, 'o');
    case 'f': /* FIN */
        shutdown(*fd, SHUT_WR);
        return reply(control, 'o');
    case 'x': /* RST */
        setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(*fd);
        return reply(control, 'o');
    case 'q':
        close(*fd);
        return reply(control, 'o');
    case 'w': /* after a while, send, without making the test wait for it */
        if (!reply(control, 'o'))
            return 0;
        usleep((useconds_t)number * 1000);
        transfer(*fd, 1, 0);
        return 1;
    default:
        return 0;
    }
}

static int peer(const char *path, const char *ip, int port)
{
    struct sockaddr_in server = ip_addr(ip, port), own = {.sin_family = AF_INET};
    own.sin_port = htons((uint16_t)(port + 1));
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1, fd = -1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&own, sizeof own) != 0 || listen(listener, 16) != 0)
        die("peer");
    struct sockaddr_un at = path_addr(path);
    int door = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(path);
    if (bind(door, (struct sockaddr *)&at, sizeof at) != 0 || listen(door, 1) != 0)
        die(path);
    int control = accept(door, NULL, NULL);
    while (obey(control, server, listener, &fd))
        ;
    return 0;
}

/* ---- the test ---- */

static int control;

static void ask(const char *format, ...)
{
    char command[16] = {0}, answer = 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (write(control, command, sizeof command) != sizeof command
        || read(control, &answer, 1) != 1)
        die("control");
    if (answer != 'o')
        printf("  peer: %s failed\n", command);
}

static void say(const char *text, long result)
{
    int number = errno;
    if (result < 0)
        printf("  %-58s %ld %s\n", text, result, strerrorname_np(number));
    else
        printf("  %-58s %ld\n", text, result);
}

#define CALL(...)                                                                                  \
    do {                                                                                           \
        errno = 0;                                                                                 \
        say(#__VA_ARGS__, (long)(__VA_ARGS__));                                                    \
    } while (0)

static int ready(int fd, short events, int timeout)
{
    struct pollfd entry = {fd, events, 0};
    int count = luna_poll(&entry, 1, timeout);
    return count <= 0 ? count : entry.revents;
}

static void set_nonblocking(int fd, int on)
{
    luna_ioctl(fd, FIONBIO, (long)&on);
}

static long get_int(int fd, int level, int name)
{
    int value = -77;
    socklen_t len = sizeof value;
    return luna_getsockopt(fd, level, name, &value, &len) != 0 ? -1 : value;
}

static long set_int(int fd, int level, int name, int value)
{
    return luna_setsockopt(fd, level, name, &value, sizeof value);
}

static void options(int fd)
{
    char value[64];
    socklen_t len;
    printf("options\n");
    CALL(get_int(fd, SOL_SOCKET, SO_TYPE));
    CALL(get_int(fd, SOL_SOCKET, SO_DOMAIN));
    CALL(get_int(fd, SOL_SOCKET, SO_PROTOCOL));
    CALL(get_int(fd, SOL_SOCKET, SO_ACCEPTCONN));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(get_int(fd, IPPROTO_TCP, TCP_NODELAY));
    CALL(set_int(fd, IPPROTO_TCP, TCP_NODELAY, 5));
    CALL(get_int(fd, IPPROTO_TCP, TCP_NODELAY));
    CALL(set_int(fd, IPPROTO_TCP, TCP_CORK, 1));
    CALL(get_int(fd, IPPROTO_TCP, TCP_CORK));
    CALL(set_int(fd, IPPROTO_TCP, TCP_CORK, 0));
    CALL(set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_KEEPALIVE));
    CALL(set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 0));
    CALL(set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 33));
    CALL(get_int(fd, IPPROTO_TCP, TCP_KEEPIDLE));
    CALL(set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 128));
    CALL(set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, -1));
    CALL(set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000));
    CALL(get_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
    CALL(set_int(fd, SOL_SOCKET, SO_RCVBUF, 20000));
    CALL(get_int(fd, SOL_SOCKET, SO_RCVBUF));
    CALL(set_int(fd, SOL_SOCKET, SO_SNDBUF, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_SNDBUF));
    CALL(set_int(fd, SOL_SOCKET, SO_SNDBUF, 100000));
    CALL(set_int(fd, IPPROTO_IP, IP_TOS, 0x10));
    CALL(get_int(fd, IPPROTO_IP, IP_TOS));
    CALL(set_int(fd, IPPROTO_TCP, 999, 1));
    CALL(get_int(fd, IPPROTO_TCP, 999));
    CALL(set_int(fd, 12345, 1, 1));
    CALL(get_int(fd, 12345, 1));
    CALL(luna_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, value, 3));
    CALL(luna_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, NULL, 4));
    len = 1;
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    CALL(len);
    len = 0;
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    len = 64;
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    CALL(len);
    len = (socklen_t)-1;
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, &len));
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value, NULL));
    len = 4;
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, NULL, &len));
    struct linger linger = {1, 3};
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, 7));
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    len = sizeof linger;
    CALL(luna_getsockopt(fd, SOL_SOCKET, SO_LINGER, value, &len));
    CALL(memcmp(value, &linger, sizeof linger));
    linger.l_onoff = 0;
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    struct timeval limit = {1, 1000000};
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, 8));
    struct tcp_info info;
    len = sizeof info;
    CALL(luna_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    CALL(info.tcpi_state);
    CALL(len == sizeof info);
    len = 1;
    CALL(luna_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    CALL(len);
}

static void names(int fd)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    printf("names\n");
    CALL(luna_getsockname(fd, (struct sockaddr *)&addr, &len));
    CALL(len);
    CALL(addr.ss_family);
    len = sizeof addr;
    CALL(luna_getpeername(fd, (struct sockaddr *)&addr, &len));
    CALL(len);
    len = 3;
    memset(&addr, 0xee, sizeof addr);
    CALL(luna_getpeername(fd, (struct sockaddr *)&addr, &len));
    CALL(len);
    CALL(((unsigned char *)&addr)[3]);
    len = (socklen_t)-1;
    CALL(luna_getpeername(fd, (struct sockaddr *)&addr, &len));
    CALL(luna_getpeername(fd, (struct sockaddr *)&addr, NULL));
    len = sizeof addr;
    CALL(luna_getpeername(fd, NULL, &len));
    CALL(luna_bind(fd, (struct sockaddr *)&addr, sizeof(struct sockaddr_in)));
    CALL(luna_listen(fd, 1));
    CALL(luna_accept(fd, NULL, NULL));
    CALL(luna_connect(fd, (struct sockaddr *)&addr, 3));
}

static void receiving(int fd)
{
    char bytes[64];
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    printf("receiving\n");
    set_nonblocking(fd, 1);
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    CALL(luna_recv(fd, bytes, 0, 0));
    CALL(luna_read(fd, bytes, 0));
    CALL(luna_recv(fd, bytes, 4, MSG_OOB));
    CALL(luna_recv(fd, bytes, 4, MSG_ERRQUEUE));
    CALL(ready(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    ask("s10");
    CALL(ready(fd, POLLIN, 2000));
    int count = -1;
    CALL(luna_ioctl(fd, FIONREAD, (long)&count));
    CALL(count);
    CALL(luna_ioctl(fd, SIOCATMARK, (long)&count));
    CALL(count);
    CALL(luna_recv(fd, bytes, 4, MSG_PEEK));
    CALL(luna_recv(fd, bytes, sizeof bytes, MSG_PEEK));
    CALL(luna_recv(fd, NULL, 2, MSG_TRUNC));
    CALL(luna_recv(fd, bytes, 0, 0));
    CALL(luna_recvfrom(fd, bytes, 1, 0, (struct sockaddr *)&addr, &len));
    CALL(len);
    struct iovec parts[2] = {{bytes, 2}, {bytes + 2, 1}};
    CALL(luna_readv(fd, parts, 2));
    CALL(luna_readv(fd, parts, -1));
    CALL(luna_readv(fd, parts, 1025));
    CALL(luna_readv(fd, parts, 0));
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 1, .msg_name = &addr,
                             .msg_namelen = sizeof addr, .msg_control = bytes,
                             .msg_controllen = 32};
    CALL(luna_recvmsg(fd, &message, 0));
    CALL(message.msg_namelen);
    CALL((long)message.msg_controllen);
    CALL(message.msg_flags);
    message.msg_iovlen = 1025;
    CALL(luna_recvmsg(fd, &message, 0));
    CALL(luna_recv(fd, bytes, sizeof bytes, MSG_WAITALL));
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    set_nonblocking(fd, 0);
    CALL(luna_recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
    struct timeval limit = {0, 50000};
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    ask("s3");
    CALL(luna_recv(fd, bytes, 8, MSG_WAITALL));
    limit.tv_usec = 0;
    CALL(luna_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    ask("w50");
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    ask("s30");
    CALL(luna_recv(fd, bytes, 30, MSG_WAITALL));
    CALL(luna_preadv2(fd, parts, 2, 5, 0));
    CALL(luna_preadv2(fd, parts, 2, -1, RWF_NOWAIT));
}

static void sending(int fd)
{
    char bytes[64] = {0};
    static char bulk[300000];
    printf("sending\n");
    CALL(luna_send(fd, bytes, 10, 0));
    CALL(luna_write(fd, bytes, 0));
    CALL(luna_send(fd, bytes, 0, 0));
    CALL(luna_send(fd, bytes, 5, MSG_MORE));
    struct iovec parts[3] = {{bytes, 2}, {NULL, 0}, {bytes + 2, 1}};
    CALL(luna_writev(fd, parts, 3));
    CALL(luna_writev(fd, parts, -1));
    CALL(luna_writev(fd, parts, 0));
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    CALL(luna_sendmsg(fd, &message, MSG_NOSIGNAL));
    struct sockaddr_in addr = {.sin_family = AF_INET};
    CALL(luna_sendto(fd, bytes, 4, 0, (struct sockaddr *)&addr, sizeof addr));
    ask("r25");
    CALL(luna_pwritev2(fd, parts, 3, -1, 0));
    CALL(luna_pwritev2(fd, parts, 3, 7, 0));
    FILE *file = tmpfile();
    if (file == NULL || fwrite(bulk, 1, 5000, file) != 5000 || fflush(file) != 0)
        die("tmpfile");
    off_t offset = 1000;
    CALL(luna_sendfile(fd, fileno(file), &offset, 100));
    CALL(offset);
    CALL(luna_sendfile(fd, fileno(file), &offset, 100000));
    CALL(offset);
    CALL(luna_sendfile(fd, fileno(file), &offset, 100000));
    CALL(lseek(fileno(file), 10, SEEK_SET));
    CALL(luna_sendfile(fd, fileno(file), NULL, 90));
    CALL(lseek(fileno(file), 0, SEEK_CUR));
    CALL(luna_sendfile(fd, -1, NULL, 90));
    fclose(file);
    ask("r4093");
    CALL(luna_send(fd, bulk, 1, 0));
    ask("r1");
    set_nonblocking(fd, 1);
    long total = 0, sent;
    /* Full twice: what is under way when it is full for the first time makes room again. */
    for (int round = 0; round < 2; round++) {
        while ((sent = luna_send(fd, bulk, sizeof bulk, 0)) > 0)
            total += sent;
        int all = 1, unsent = 0;
        for (int look = 0; all != unsent && look < 500; look++) {
            luna_ioctl(fd, SIOCOUTQ, (long)&all);
            luna_ioctl(fd, SIOCOUTQNSD, (long)&unsent);
            poll(NULL, 0, 5);
        }
    }
    CALL(luna_send(fd, bulk, 1, 0));
    CALL(ready(fd, POLLOUT, 0));
    int queued = 0;
    CALL(luna_ioctl(fd, SIOCOUTQ, (long)&queued));
    CALL(queued > 0);
    set_nonblocking(fd, 0);
    ask("r%ld", total);
    CALL(ready(fd, POLLOUT, 2000));
    CALL(luna_send(fd, bulk, 1, 0));
    ask("r1");
}

static void flags(int fd)
{
    printf("flags\n");
    CALL(luna_fcntl(fd, F_GETFL, 0));
    CALL(luna_fcntl(fd, F_SETFL, O_NONBLOCK));
    CALL(luna_fcntl(fd, F_GETFL, 0));
    int copy = luna_dup(fd);
    CALL(luna_fcntl(copy, F_GETFL, 0));
    CALL(luna_fcntl(copy, F_SETFL, 0));
    CALL(luna_fcntl(fd, F_GETFL, 0));
    CALL(luna_fcntl(fd, F_GETFD, 0));
    CALL(luna_fcntl(copy, F_SETFD, FD_CLOEXEC));
    CALL(luna_fcntl(copy, F_GETFD, 0));
    CALL(luna_fcntl(fd, F_GETFD, 0));
    CALL(luna_fcntl(fd, F_DUPFD, -1));
    CALL(luna_fcntl(fd, F_DUPFD, 100000000));
    CALL(luna_fcntl(fd, 12345, 0));
    int high = luna_fcntl(fd, F_DUPFD_CLOEXEC, 300);
    CALL(high);
    CALL(luna_fcntl(high, F_GETFD, 0));
    CALL(luna_dup2(fd, fd) == fd);
    CALL(luna_dup3(fd, fd, 0));
    CALL(luna_dup3(fd, high, 7));
    CALL(luna_dup2(fd, -1));
    CALL(luna_dup2(fd, high) == high);
    CALL(luna_close(high));
    CALL(luna_close(high));
    CALL(luna_send(copy, "x", 1, 0));
    ask("r1");
    CALL(luna_close(copy));
    CALL(luna_send(fd, "x", 1, 0));
    ask("r1");
    CALL(lseek(fd, 0, SEEK_CUR));
    int tty = 0;
    CALL(luna_ioctl(fd, 0x5413, (long)&tty));
}

static void finishing(int fd)
{
    char bytes[16];
    printf("finishing\n");
    CALL(luna_shutdown(fd, 7));
    ask("s2");
    ask("f");
    CALL(ready(fd, POLLIN | POLLRDHUP, 2000) & POLLIN);
    CALL(luna_recv(fd, bytes, sizeof bytes, MSG_WAITALL));
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    CALL(luna_recv(fd, bytes, sizeof bytes, MSG_PEEK));
    CALL(ready(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    CALL(luna_send(fd, "y", 1, 0));
    CALL(luna_shutdown(fd, SHUT_WR));
    CALL(luna_send(fd, "y", 1, MSG_NOSIGNAL));
    CALL(ready(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    ask("r2");
    CALL(luna_close(fd));
    CALL(luna_close(fd));
    ask("q");
}

static void reset(int fd)
{
    char bytes[16];
    printf("reset\n");
    ask("x");
    CALL(ready(fd, POLLIN | POLLOUT | POLLRDHUP, 2000));
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    CALL(luna_send(fd, "y", 1, MSG_NOSIGNAL));
    CALL(ready(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    CALL(luna_getpeername(fd, (struct sockaddr *)&addr, &len));
    CALL(luna_shutdown(fd, SHUT_RDWR));
    CALL(luna_close(fd));
}

static void half_closed(int fd)
{
    char bytes[16];
    printf("half closed\n");
    CALL(luna_shutdown(fd, SHUT_RD));
    CALL(luna_recv(fd, bytes, sizeof bytes, 0));
    CALL(ready(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    CALL(luna_send(fd, "z", 1, 0));
    ask("r1");
    CALL(luna_shutdown(fd, SHUT_WR));
    ask("q");
    CALL(luna_close(fd));
}

static void all(int (*make)(void))
{
    void (*const ends[])(int) = {finishing, reset, half_closed};
    int fd = make();
    options(fd);
    names(fd);
    luna_close(fd);
    ask("q");
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        fd = make();
        if (i == 0) {
            receiving(fd);
            sending(fd);
            flags(fd);
        }
        ends[i](fd);
    }
}

static int listener;
static struct sockaddr_in peer_addr;

static int make_accepted(void)
{
    ask("c");
    int fd = luna_accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("luna_accept4");
    int on = luna_fcntl(fd, F_GETFD, 0);
    luna_fcntl(fd, F_SETFD, 0);
    printf("accepted, cloexec %d\n", on);
    return fd;
}

static int make_connected(void)
{
    int fd = luna_socket(AF_INET, SOCK_STREAM, 0);
    if (luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr) != 0)
        die("luna_connect");
    ask("a");
    printf("connected\n");
    return fd;
}

static void *shut_it(void *arg)
{
    usleep(50000);
    luna_shutdown(*(int *)arg, SHUT_RDWR);
    return NULL;
}

static void listening(int port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    char bytes[4];
    printf("listening\n");
    listener = luna_socket(AF_INET, SOCK_STREAM, 0);
    CALL(set_int(listener, SOL_SOCKET, SO_REUSEADDR, 1));
    CALL(luna_accept(listener, NULL, NULL));
    CALL(luna_bind(listener, (struct sockaddr *)&addr, sizeof addr));
    CALL(luna_listen(listener, 8));
    CALL(luna_listen(listener, 16));
    int other = luna_socket(AF_INET, SOCK_STREAM, 0);
    CALL(luna_bind(other, (struct sockaddr *)&addr, sizeof addr));
    luna_close(other);
    CALL(luna_recv(listener, bytes, 4, 0));
    CALL(luna_send(listener, bytes, 4, MSG_NOSIGNAL));
    CALL(luna_connect(listener, (struct sockaddr *)&addr, sizeof addr));
    CALL(luna_getpeername(listener, (struct sockaddr *)&from, &len));
    CALL(get_int(listener, SOL_SOCKET, SO_ACCEPTCONN));
    CALL(luna_shutdown(listener, SHUT_WR));
    CALL(luna_fcntl(listener, F_GETFL, 0));
    set_nonblocking(listener, 1);
    CALL(luna_fcntl(listener, F_GETFL, 0));
    CALL(luna_accept(listener, NULL, NULL));
    CALL(luna_accept4(listener, NULL, NULL, 7));
    CALL(ready(listener, POLLIN | POLLOUT, 0));
    ask("c");
    CALL(ready(listener, POLLIN | POLLOUT, 2000));
    len = 5;
    memset(&from, 0xee, sizeof from);
    int fd = luna_accept4(listener, (struct sockaddr *)&from, &len, SOCK_NONBLOCK);
    CALL(len);
    CALL(((unsigned char *)&from)[5]);
    CALL(luna_fcntl(fd, F_GETFL, 0));
    CALL(luna_fcntl(fd, F_GETFD, 0));
    luna_close(fd);
    ask("q");
    set_nonblocking(listener, 0);
    struct timeval limit = {0, 50000};
    luna_setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    CALL(luna_accept(listener, NULL, NULL));
    limit.tv_usec = 0;
    luna_setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

static void closing_listener(void)
{
    pthread_t thread;
    printf("closing the listener\n");
    pthread_create(&thread, NULL, shut_it, &listener);
    CALL(luna_accept(listener, NULL, NULL));
    pthread_join(thread, NULL);
    CALL(luna_accept(listener, NULL, NULL));
    CALL(luna_listen(listener, 3));
    all(make_accepted);
    CALL(luna_close(listener));
}

static void connecting(const char *ip, int port)
{
    struct sockaddr_in refused = ip_addr(ip, port + 2), addr;
    socklen_t len = sizeof addr;
    char bytes[4];
    printf("connecting\n");
    int fd = luna_socket(AF_INET, SOCK_STREAM, 0);
    CALL(luna_connect(fd, (struct sockaddr *)&refused, sizeof refused));
    CALL(luna_connect(fd, (struct sockaddr *)&refused, sizeof refused));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(luna_send(fd, bytes, 1, MSG_NOSIGNAL));
    CALL(luna_recv(fd, bytes, 1, 0));
    CALL(ready(fd, POLLIN | POLLOUT, 0));
    CALL(luna_shutdown(fd, SHUT_RDWR));
    CALL(luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr));
    ask("a");
    CALL(luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr));
    CALL(luna_close(fd));
    ask("q");
    fd = luna_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(luna_getpeername(fd, (struct sockaddr *)&addr, &len));
    CALL(luna_connect(fd, (struct sockaddr *)&refused, sizeof refused));
    CALL(ready(fd, POLLOUT, 2000));
    CALL(luna_connect(fd, (struct sockaddr *)&refused, sizeof refused));
    CALL(luna_connect(fd, (struct sockaddr *)&refused, sizeof refused));
    CALL(ready(fd, POLLOUT, 2000));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr));
    CALL(luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr));
    CALL(ready(fd, POLLOUT, 2000));
    CALL(luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr));
    CALL(luna_connect(fd, (struct sockaddr *)&peer_addr, sizeof peer_addr));
    ask("a");
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(luna_fcntl(fd, F_GETFL, 0));
    CALL(luna_close(fd));
    ask("q");
}

static int test(const char *path, const char *ip, int port)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct sockaddr_un at = path_addr(path);
    control = socket(AF_UNIX, SOCK_STREAM, 0);
    for (int tries = 0; connect(control, (struct sockaddr *)&at, sizeof at) != 0; tries++) {
        if (tries == 500)
            die(path);
        usleep(10000);
    }
    peer_addr = ip_addr(ip, port + 1);
    listening(port);
    all(make_accepted);
    connecting(ip, port);
    all(make_connected);
    closing_listener();
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "peer") == 0)
        return peer(argv[2], argv[3], atoi(argv[4]));
    if (argc == 5 && strcmp(argv[1], "test") == 0)
        return test(argv[2], argv[3], atoi(argv[4]));
    fprintf(stderr, "usage: calls peer PATH IP PORT | calls test PATH IP PORT\n");
    return 2;
}
