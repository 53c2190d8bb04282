/* The same tests on the C library's names and on libluna's: with -DDIFF_LUNA every call below is
 * the luna_ function of its name. All system headers come first, so that only calls are renamed. */
#ifndef DIFF_NAMES_H
#define DIFF_NAMES_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <net/if.h>

#include <linux/errqueue.h>
#include <linux/sockios.h>

#ifdef DIFF_LUNA
#include <luna.h>

/* One argument of the size of a pointer, whether or not the caller gave one. */
static inline int diff_fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return luna_fcntl(fd, command, argument);
}

#define accept luna_accept
#define accept4 luna_accept4
#define bind luna_bind
#define close luna_close
#define close_range luna_close_range
#define connect luna_connect
#define dup luna_dup
#define dup2 luna_dup2
#define dup3 luna_dup3
#define epoll_create luna_epoll_create
#define epoll_create1 luna_epoll_create1
#define epoll_ctl luna_epoll_ctl
#define epoll_pwait luna_epoll_pwait
#define epoll_pwait2 luna_epoll_pwait2
#define epoll_wait luna_epoll_wait
#define fcntl(fd, ...) diff_fcntl(fd, __VA_ARGS__, 0L)
#define getpeername luna_getpeername
#define getsockname luna_getsockname
#define getsockopt luna_getsockopt
#define ioctl(fd, request, argument) luna_ioctl(fd, request, (long)(argument))
#define listen luna_listen
#define poll luna_poll
#define ppoll luna_ppoll
#define preadv2 luna_preadv2
#define pselect luna_pselect
#define pwritev2 luna_pwritev2
#define read luna_read
#define readv luna_readv
#define recv luna_recv
#define recvfrom luna_recvfrom
#define recvmmsg luna_recvmmsg
#define recvmsg luna_recvmsg
#define select luna_select
#define send luna_send
#define sendfile luna_sendfile
#define sendmmsg luna_sendmmsg
#define sendmsg luna_sendmsg
#define sendto luna_sendto
#define setsockopt luna_setsockopt
#define shutdown luna_shutdown
#define sockatmark luna_sockatmark
#define socket luna_socket
#define write luna_write
#define writev luna_writev
#endif

#endif
