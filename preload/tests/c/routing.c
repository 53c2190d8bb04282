// Every hooked call on a socket of luna's reaches libluna, and none on another descriptor does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char *calls;
static void (*clear)(void), (*internal)(int, int), (*own)(int, int);
#define CHECK(c) do { if (!(c)) { printf("%s:%d: %s (errno %d, log %s)\n", __FILE__, __LINE__, #c, errno, calls); exit(1); } } while (0)
// The call on fd `s` was noted once under `name`, and the same call on the pipe was not noted.
#define LOGGED(text) do { if (strcmp(calls, text)) { printf("line %d: expected '%s', got '%s'\n", __LINE__, text, calls); exit(1); } clear(); } while (0)

extern ssize_t __read(int, void *, size_t), __write(int, const void *, size_t), __send(int, const void *, size_t, int);
extern int __close(int), __connect(int, const struct sockaddr *, socklen_t), __dup2(int, int);
extern ssize_t __read_chk(int, void *, size_t, size_t), __recv_chk(int, void *, size_t, size_t, int);
extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);

static void on_signal(int n) { (void)n; CHECK(write(2, "", 0) == 0); }

int main(int argc, char **argv) {
  void *lib = dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD);
  (void)argc;
  if (!lib) { puts(dlerror()); return 1; }
  calls = dlsym(lib, "luna_test_log");
  clear = (void (*)(void))dlsym(lib, "luna_test_clear");
  internal = (void (*)(int, int))dlsym(lib, "luna_test_internal");
  own = (void (*)(int, int))dlsym(lib, "luna_test_own");
  char want[256], b[64];
  int p[2], v[2];
  CHECK(pipe(p) == 0 && write(p[1], "hello world", 11) == 11);
  LOGGED("");

  // A connected pair that luna owns: a socketpair, marked by hand.
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, v) == 0);
  own(v[0], 1);
  int s = v[0];
  struct iovec iov = {b, 4};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
  struct mmsghdr mm[2] = {{.msg_hdr = m}, {.msg_hdr = m}};
  CHECK(write(v[1], "0123456789012345678901234567890123456789", 40) == 40);
#define ONE(name, expr) do { errno = 77; CHECK(expr); snprintf(want, sizeof want, name "(%d) ", s); LOGGED(want); } while (0)
  ONE("read", read(s, b, 1) == 1);
  ONE("read", __read(s, b, 1) == 1);
  ONE("read", __read_chk(s, b, 1, sizeof b) == 1);
  ONE("readv", readv(s, &iov, 1) == 4);
  ONE("recvmsg", preadv2(s, &iov, 1, -1, 0) == 4);
  ONE("recv", recv(s, b, 1, 0) == 1);
  ONE("recv", __recv_chk(s, b, 1, sizeof b, 0) == 1);
  ONE("recvfrom", recvfrom(s, b, 1, 0, 0, 0) == 1);
  ONE("recvmsg", recvmsg(s, &m, 0) == 4);
  snprintf(want, sizeof want, "recvmsg(%d) recvmsg(%d) ", s, s);
  CHECK(recvmmsg(s, mm, 2, 0, 0) == 2 && mm[1].msg_len == 4);
  LOGGED(want);
  ONE("write", write(s, b, 1) == 1);
  ONE("write", __write(s, b, 1) == 1);
  ONE("writev", writev(s, &iov, 1) == 4);
  ONE("sendmsg", pwritev2(s, &iov, 1, -1, 0) == 4);
  ONE("send", send(s, b, 1, 0) == 1);
  ONE("send", __send(s, b, 1, 0) == 1);
  ONE("sendto", sendto(s, b, 1, 0, 0, 0) == 1);
  ONE("sendmsg", sendmsg(s, &m, 0) == 4);
  snprintf(want, sizeof want, "sendmsg(%d) sendmsg(%d) ", s, s);
  CHECK(sendmmsg(s, mm, 2, 0) == 2);
  LOGGED(want);
  ONE("send", splice(p[0], 0, s, 0, 4, 0) == 4);
  CHECK(sendfile(s, p[0], 0, 4) == -1 && errno == EINVAL);
  int one = 1; socklen_t len = sizeof one; struct sockaddr_storage ss; socklen_t sl = sizeof ss;
  ONE("getsockopt", getsockopt(s, SOL_SOCKET, SO_TYPE, &one, &len) == 0);
  ONE("setsockopt", setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &one, len) == 0);
  ONE("getsockname", getsockname(s, (void *)&ss, &sl) == 0);
  ONE("getpeername", getpeername(s, (void *)&ss, &sl) == 0);
  ONE("fcntl", fcntl(s, F_GETFL) >= 0);
  ONE("fcntl", fcntl(s, F_SETFL, O_NONBLOCK) == 0);
  ONE("fcntl", fcntl64(s, F_GETFD) >= 0);
  ONE("ioctl", ioctl(s, FIONREAD, &one) == 0);
  ONE("read", syscall(SYS_read, s, b, 1) == 1);
  ONE("recvfrom", syscall(SYS_recvfrom, s, b, 1, 0, NULL, NULL) == 1);
  ONE("write", syscall(SYS_write, s, b, 1) == 1);
  ONE("fcntl", syscall(SYS_fcntl, s, F_GETFL, 0) >= 0);
  ONE("shutdown", shutdown(s, SHUT_WR) == 0);

  // Readiness: luna is asked as soon as one descriptor is ours.
  struct pollfd pf[2] = {{p[0], POLLIN, 0}, {s, POLLIN, 0}};
  struct timespec zero = {0, 0}; struct timeval tv = {0, 0};
  CHECK(poll(pf, 1, 0) == 1 && ppoll(pf, 1, &zero, 0) == 1 && syscall(SYS_poll, pf, 1, 0) == 1);
  LOGGED("");
  CHECK(poll(pf, 2, 0) == 2); LOGGED("poll(2) ");
  CHECK(__poll_chk(pf, 2, 0, sizeof pf) == 2); LOGGED("poll(2) ");
  CHECK(ppoll(pf, 2, &zero, 0) == 2); LOGGED("ppoll(2) ");
  CHECK(syscall(SYS_poll, pf, 2, 0) == 2); LOGGED("poll(2) ");
  fd_set r; FD_ZERO(&r); FD_SET(p[0], &r);
  CHECK(select(p[0] + 1, &r, 0, 0, &tv) == 1); LOGGED("");
  FD_SET(s, &r); snprintf(want, sizeof want, "select(%d) ", s + 1);
  CHECK(select(s + 1, &r, 0, 0, &tv) == 2); LOGGED(want);
  FD_ZERO(&r); FD_SET(p[0], &r); FD_SET(s, &r); snprintf(want, sizeof want, "pselect(%d) ", s + 1);
  CHECK(pselect(s + 1, 0, &r, 0, &zero, 0) >= 0); LOGGED(want);
  int e = epoll_create1(0); LOGGED("epoll_create1(0) ");
  struct epoll_event ev = {.events = EPOLLIN}, out[2];
  snprintf(want, sizeof want, "epoll_ctl(%d) ", e);
  CHECK(epoll_ctl(e, EPOLL_CTL_ADD, s, &ev) == 0); LOGGED(want);
  CHECK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev) == 0); LOGGED(want);
  snprintf(want, sizeof want, "epoll_wait(%d) ", e);
  CHECK(epoll_wait(e, out, 2, 0) == 2); LOGGED(want);
  snprintf(want, sizeof want, "epoll_pwait(%d) ", e);
  CHECK(epoll_pwait(e, out, 2, 0, 0) == 2); LOGGED(want);
  CHECK(epoll_pwait2(e, out, 2, &zero, 0) == 2); LOGGED(want);
  CHECK(syscall(SYS_epoll_pwait, e, out, 2, 0, NULL, 8) == 2); LOGGED(want);
  int e2 = epoll_create(1); LOGGED("epoll_create1(0) ");
  CHECK(epoll_create(0) == -1 && errno == EINVAL); LOGGED("");

  // Making and duplicating.
  int unix_socket = socket(AF_UNIX, SOCK_STREAM, 0); LOGGED("");
  int t = socket(AF_INET, SOCK_STREAM, 0); LOGGED("socket(2) ");
  int t2 = syscall(SYS_socket, AF_INET6, SOCK_STREAM, 0); LOGGED("socket(10) ");
  struct sockaddr_in any = {.sin_family = AF_INET};
#undef ONE
#define ONE(name, fd, expr) do { CHECK(expr); snprintf(want, sizeof want, name "(%d) ", fd); LOGGED(want); } while (0)
  ONE("bind", t, bind(t, (void *)&any, sizeof any) == 0);
  ONE("listen", t, listen(t, 1) == 0);
  ONE("fcntl", t, fcntl(t, F_SETFL, O_NONBLOCK) == 0);
  ONE("accept", t, accept(t, 0, 0) == -1 && errno == EAGAIN);
  ONE("accept4", t, accept4(t, 0, 0, 0) == -1 && errno == EAGAIN);
  any.sin_family = AF_UNSPEC;
  ONE("connect", t2, __connect(t2, (void *)&any, 1) == -1);
  int d = dup(p[0]); LOGGED("");
  ONE("dup2", p[0], dup2(p[0], t2) == t2);                   // over ours
  CHECK(dup2(p[0], d) == d); LOGGED("");
  ONE("dup", t, (t2 = dup(t)) > 0);
  ONE("dup2", t, __dup2(t, t2) == t2);
  ONE("dup3", t, dup3(t, t2, O_CLOEXEC) == t2);

  // Closing: ours through luna, libluna's own not at all.
  internal(d, 1);
  CHECK(close(d) == -1 && errno == EBADF && fcntl(d, F_GETFD) >= 0); LOGGED("");
  ONE("close", t2, close(t2) == 0);
  ONE("close", e2, __close(e2) == 0);
  CHECK(close(unix_socket) == 0); LOGGED("");

  // A vfork child shares this memory: what it does to its descriptors is not luna's business.
  pid_t child = vfork();
  if (child == 0) { close(t); dup2(p[0], s); close_range(3, ~0U, 0); _exit(0); }
  waitpid(child, 0, 0);
  LOGGED("");
  // A forked child is a process of its own.
  child = fork();
  if (child == 0) { close(t); snprintf(want, sizeof want, "close(%d) ", t); _exit(strcmp(calls, want) != 0); }
  int status; waitpid(child, &status, 0); CHECK(status == 0);

  // io_uring is not there, futexes and other calls are.
  CHECK(syscall(SYS_io_uring_setup, 1, b) == -1 && errno == ENOSYS);
  CHECK(syscall(SYS_getpid) == getpid());
  signal(SIGUSR1, on_signal);
  CHECK(raise(SIGUSR1) == 0);
  clear();

  // Everything at once: s, v[1], t, e, p and d are open; d is libluna's.
  int low = s < t ? s : t, mid = s < t ? t : s;
  own(e, 0);
  CHECK(close_range(3, ~0U, 0) == 0);
  snprintf(want, sizeof want, "close(%d) close(%d) ", low, mid); LOGGED(want);
  CHECK(fcntl(d, F_GETFD) >= 0 && fcntl(s, F_GETFD) == -1 && fcntl(p[0], F_GETFD) == -1);
  t = socket(AF_INET, SOCK_STREAM, 0);
  clear();
  closefrom(3);
  snprintf(want, sizeof want, "close(%d) ", t); LOGGED(want);
  CHECK(fcntl(d, F_GETFD) >= 0);
  puts("ok");
  return 0;
}
