// A program that uses many calls and prints every result: the output must not depend on whether
// the preload library is there.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHOW(expr) do { errno = 77; long r_ = (long)(expr); printf("%s = %ld errno %d\n", #expr, r_, errno); } while (0)
static int p[2];
static void *reader(void *arg) { char c; read(p[0], &c, 1); return arg; }
static void *poller(void *arg) { struct pollfd f = {p[0], POLLIN, 0}; poll(&f, 1, -1); return arg; }
static void *waiter(void *arg) { int e = epoll_create1(0); struct epoll_event o; epoll_wait(e, &o, 1, -1); return arg; }

int main(void) {
  char b[64]; struct iovec iov = {b, 4}; int v[2]; struct sockaddr_in a = {.sin_family = AF_INET};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t len = sizeof a; int one = 1; socklen_t olen = sizeof one;
  SHOW(pipe(p)); SHOW(write(p[1], "0123456789", 10)); SHOW(read(p[0], b, 3)); SHOW(readv(p[0], &iov, 1));
  SHOW(recv(p[0], b, 1, 0)); SHOW(read(-1, b, 1)); SHOW(close(-1)); SHOW(close(999)); SHOW(dup2(-1, 5)); SHOW(dup3(1, 1, 0));
  int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  SHOW(s); SHOW(bind(s, (void *)&a, sizeof a)); SHOW(listen(s, 4)); SHOW(getsockname(s, (void *)&a, &len));
  int c = socket(AF_INET, SOCK_STREAM, 0);
  SHOW(connect(c, (void *)&a, sizeof a)); int t = accept4(s, 0, 0, SOCK_NONBLOCK); SHOW(t);
  SHOW(fcntl(t, F_GETFL) & O_NONBLOCK); SHOW(recv(t, b, 1, 0)); SHOW(send(c, "abc", 3, MSG_NOSIGNAL));
  SHOW(preadv2(p[0], &iov, 1, 3, 0)); SHOW(ioctl(t, FIONREAD, &one)); SHOW(ioctl(1, TIOCGWINSZ, b) == 0 ? 0 : -1);
  SHOW(getsockopt(t, SOL_SOCKET, SO_ERROR, &one, &olen)); SHOW(splice(t, 0, p[1], 0, 2, 0)); SHOW(sendfile(c, s, 0, 1));
  SHOW(fcntl(t, F_DUPFD_CLOEXEC, 100)); SHOW(fcntl(t, 0x7fff, 0)); SHOW(epoll_ctl(c, EPOLL_CTL_ADD, t, 0));
  SHOW(syscall(SYS_read, p[0], b, 1)); SHOW(syscall(SYS_close, 998)); SHOW(syscall(99999, 1, 2, 3));
  SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, v)); SHOW(shutdown(v[0], SHUT_RDWR)); SHOW(close_range(200, 100, 0));
  SHOW(close_range(100, ~0U, 0)); SHOW(fcntl(100, F_GETFD));
  fflush(stdout);
  void *(*threads[])(void *) = {reader, poller, waiter};
  while (read(p[0], b, sizeof b) == (ssize_t)sizeof b) {}
  int kinds = getenv("SKIP_EPOLL_CANCEL") ? 2 : 3;
  for (int i = 0; i < kinds; i++) {
    pthread_t th; void *r;
    pthread_create(&th, 0, threads[i], 0); pthread_cancel(th); pthread_join(th, &r);
    printf("cancelled %d\n", r == PTHREAD_CANCELED);
    // Again with the thread asleep in the kernel.
    pthread_create(&th, 0, threads[i], 0); usleep(20000); pthread_cancel(th); pthread_join(th, &r);
    printf("cancelled %d\n", r == PTHREAD_CANCELED);
  }
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) { SHOW(close(s)); SHOW(close(s)); fflush(stdout); _exit(0); }
  waitpid(child, 0, 0);
  closefrom(3); SHOW(fcntl(s, F_GETFD));
  return 0;
}
