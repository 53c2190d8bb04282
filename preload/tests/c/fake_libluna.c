// A stand-in for libluna.so: it owns the internet stream sockets that it was asked to make, answers
// from the kernel, and writes down every call.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
// System calls by instruction, as libluna makes them: syscall() would come back through the hooks.
static long raw(long n, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  if (result < 0 && result > -4096) { errno = -result; return -1; }
  return result;
}

static char owned[1024], internal[1024];
API char luna_test_log[65536];
API void luna_test_clear(void) { luna_test_log[0] = 0; }
API void luna_test_internal(int fd, int on) { internal[fd] = on; }
API void luna_test_own(int fd, int on) { owned[fd] = on; }
static void note(const char *name, int fd) {
  char text[64];
  snprintf(text, sizeof text, "%s(%d) ", name, fd);
  strncat(luna_test_log, text, sizeof luna_test_log - strlen(luna_test_log) - 1);
}

API int luna_fd_owned(int fd) { return fd >= 0 && fd < 1024 && owned[fd]; }
API int luna_fd_internal(int fd) { return fd >= 0 && fd < 1024 && internal[fd]; }
API int luna_socket(int d, int t, int p) {
  note("socket", d);
  int fd = raw(SYS_socket, d, t, p, 0, 0, 0);
  if (fd >= 0 && (t & 0xf) == SOCK_STREAM) owned[fd] = 1;
  return fd;
}
API int luna_close(int fd) { note("close", fd); owned[fd] = 0; return raw(SYS_close, fd, 0, 0, 0, 0, 0); }
API int luna_accept(int fd, struct sockaddr *a, socklen_t *l) { note("accept", fd); return raw(SYS_accept, fd, (long)a, (long)l, 0, 0, 0); }
API int luna_accept4(int fd, struct sockaddr *a, socklen_t *l, int f) { note("accept4", fd); return raw(SYS_accept4, fd, (long)a, (long)l, f, 0, 0); }
API int luna_dup(int fd) { note("dup", fd); int n = raw(SYS_dup, fd, 0, 0, 0, 0, 0); if (n >= 0) owned[n] = 1; return n; }
API int luna_dup3(int fd, int to, int f) { note("dup3", fd); int n = raw(SYS_dup3, fd, to, f, 0, 0, 0); if (n >= 0) owned[n] = owned[fd]; return n; }
API int luna_dup2(int fd, int to) { note("dup2", fd); int n = raw(SYS_dup2, fd, to, 0, 0, 0, 0); if (n >= 0) owned[n] = owned[fd]; return n; }
API int luna_fcntl(int fd, int c, long a) { note("fcntl", fd); return raw(SYS_fcntl, fd, c, a, 0, 0, 0); }
API int luna_ioctl(int fd, unsigned long c, long a) { note("ioctl", fd); return raw(SYS_ioctl, fd, c, a, 0, 0, 0); }
API int luna_epoll_create1(int f) { note("epoll_create1", f); int fd = raw(SYS_epoll_create1, f, 0, 0, 0, 0, 0); if (fd >= 0) owned[fd] = 1; return fd; }
API int luna_poll(struct pollfd *p, nfds_t n, int t) { note("poll", n); return raw(SYS_poll, (long)p, n, t, 0, 0, 0); }
API int luna_ppoll(struct pollfd *p, nfds_t n, const struct timespec *t, const sigset_t *m) {
  note("ppoll", n); struct timespec copy; if (t) copy = *t;
  return raw(SYS_ppoll, (long)p, n, (long)(t ? &copy : 0), (long)m, 8, 0); }
API int luna_select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t) { note("select", n); return raw(SYS_select, n, (long)r, (long)w, (long)e, (long)t, 0); }
API int luna_pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *t, const sigset_t *m) {
  note("pselect", n); struct timespec copy; if (t) copy = *t; long mask[2] = {(long)m, 8};
  return raw(SYS_pselect6, n, (long)r, (long)w, (long)e, (long)(t ? &copy : 0), (long)mask); }
#define FD(ret, name, nr, proto, ...) API ret luna_##name proto { note(#name, fd); return raw(nr, fd, __VA_ARGS__); }
FD(int, bind, SYS_bind, (int fd, const struct sockaddr *a, socklen_t l), (long)a, l, 0, 0, 0)
FD(int, listen, SYS_listen, (int fd, int b), b, 0, 0, 0, 0)
FD(int, connect, SYS_connect, (int fd, const struct sockaddr *a, socklen_t l), (long)a, l, 0, 0, 0)
FD(int, shutdown, SYS_shutdown, (int fd, int h), h, 0, 0, 0, 0)
FD(int, getsockname, SYS_getsockname, (int fd, struct sockaddr *a, socklen_t *l), (long)a, (long)l, 0, 0, 0)
FD(int, getpeername, SYS_getpeername, (int fd, struct sockaddr *a, socklen_t *l), (long)a, (long)l, 0, 0, 0)
FD(int, getsockopt, SYS_getsockopt, (int fd, int l, int n, void *v, socklen_t *s), l, n, (long)v, (long)s, 0)
FD(int, setsockopt, SYS_setsockopt, (int fd, int l, int n, const void *v, socklen_t s), l, n, (long)v, s, 0)
FD(ssize_t, read, SYS_read, (int fd, void *b, size_t n), (long)b, n, 0, 0, 0)
FD(ssize_t, write, SYS_write, (int fd, const void *b, size_t n), (long)b, n, 0, 0, 0)
FD(ssize_t, readv, SYS_readv, (int fd, const struct iovec *v, int n), (long)v, n, 0, 0, 0)
FD(ssize_t, writev, SYS_writev, (int fd, const struct iovec *v, int n), (long)v, n, 0, 0, 0)
FD(ssize_t, recv, SYS_recvfrom, (int fd, void *b, size_t n, int f), (long)b, n, f, 0, 0)
FD(ssize_t, recvfrom, SYS_recvfrom, (int fd, void *b, size_t n, int f, struct sockaddr *a, socklen_t *l), (long)b, n, f, (long)a, (long)l)
FD(ssize_t, recvmsg, SYS_recvmsg, (int fd, struct msghdr *m, int f), (long)m, f, 0, 0, 0)
FD(ssize_t, send, SYS_sendto, (int fd, const void *b, size_t n, int f), (long)b, n, f, 0, 0)
FD(ssize_t, sendto, SYS_sendto, (int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l), (long)b, n, f, (long)a, l)
FD(ssize_t, sendmsg, SYS_sendmsg, (int fd, const struct msghdr *m, int f), (long)m, f, 0, 0, 0)
FD(int, epoll_ctl, SYS_epoll_ctl, (int fd, int o, int s, struct epoll_event *e), o, s, (long)e, 0, 0)
FD(int, epoll_wait, SYS_epoll_wait, (int fd, struct epoll_event *e, int m, int t), (long)e, m, t, 0, 0)
FD(int, epoll_pwait, SYS_epoll_pwait, (int fd, struct epoll_event *e, int m, int t, const sigset_t *s), (long)e, m, t, (long)s, 8)
