/* luna: BSD sockets over a user-space TCP stack.
 *
 * Each function is named after the call it stands for and has its signature, results and errno.
 * Each works on any descriptor: what is not luna's goes to the kernel. */

#ifndef LUNA_H
#define LUNA_H

/* Generated from src/capi by tests/header.rs: run it with LUNA_BLESS=1. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* struct mmsghdr */
#endif
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

struct mmsghdr;


// Room for any socket address: `sizeof(struct sockaddr_storage)`.
#define LUNA_ADDRESS_BYTES 128

// Not a descriptor that luna tracks.
#define LUNA_FD_FOREIGN 0

// A TCP socket on the kernel that may yet become luna's.
#define LUNA_FD_PROVISIONAL 1

// A TCP socket on the kernel, for a reason.
#define LUNA_FD_KERNEL 2

// A listener on the stack and the kernel.
#define LUNA_FD_LISTENER 3

// A connection on the stack.
#define LUNA_FD_STREAM 4

// A connection of the parent process, of no use after `fork`.
#define LUNA_FD_DEAD 5

// An epoll set.
#define LUNA_FD_EPOLL 6

// What `luna_fd_info` tells of a descriptor.
//
// `size` says which fields there are: set it to `sizeof(struct luna_fd_info)` before the call;
// after it, it is the size of what the library knows, and only the fields in both are filled.
struct luna_fd_info {
  // Size of this struct in bytes.
  uint32_t size;
  // One of `LUNA_FD_…`.
  uint32_t kind;
  // Why a socket is on the kernel: a number that stands for `reason_text`.
  uint32_t reason;
  // The shard of a stream, −1 otherwise.
  int32_t shard;
  // How many descriptors share the open file description.
  uint32_t descriptors;
  // Valid bytes of `local`.
  uint32_t local_len;
  // Valid bytes of `peer`.
  uint32_t peer_len;
  // Zero.
  uint32_t reserved;
  // The reason in words, a string that lives as long as the library.
  const char *reason_text;
  // Our end (a `struct sockaddr_in` or `sockaddr_in6`), of a listener or stream.
  uint8_t local[LUNA_ADDRESS_BYTES];
  // The peer's end, of a stream.
  uint8_t peer[LUNA_ADDRESS_BYTES];
};

// A function that gets the lines that would go to stderr: `userdata`, a `syslog` level, and the
// line without a newline, valid for the call only.
typedef void (*luna_log_callback)(void *userdata, int level, const char *line);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// `epoll_create(2)`.
//
// # Safety
//
// None: any argument is fine.
//
// # Errors
//
// Those of `epoll_create(2)`.
int luna_epoll_create(int size);

// `epoll_create1(2)`.
//
// # Safety
//
// None: any argument is fine.
//
// # Errors
//
// Those of `epoll_create1(2)`.
int luna_epoll_create1(int flags);

// `epoll_ctl(2)`.
//
// # Safety
//
// As for `epoll_ctl(2)`.
//
// # Errors
//
// Those of `epoll_ctl(2)`.
int luna_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);

// `epoll_wait(2)`.
//
// # Safety
//
// As for `epoll_wait(2)`.
//
// # Errors
//
// Those of `epoll_wait(2)`.
int luna_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout);

// `epoll_pwait(2)`.
//
// # Safety
//
// As for `epoll_pwait(2)`.
//
// # Errors
//
// Those of `epoll_pwait(2)`.
int luna_epoll_pwait(int epfd,
                     struct epoll_event *events,
                     int maxevents,
                     int timeout,
                     const sigset_t *sigmask);

// `epoll_pwait2(2)`.
//
// # Safety
//
// As for `epoll_pwait2(2)`.
//
// # Errors
//
// Those of `epoll_pwait2(2)`.
int luna_epoll_pwait2(int epfd,
                      struct epoll_event *events,
                      int maxevents,
                      const struct timespec *timeout,
                      const sigset_t *sigmask);

// `poll(2)`.
//
// # Safety
//
// As for `poll(2)`.
//
// # Errors
//
// Those of `poll(2)`.
int luna_poll(struct pollfd *fds, nfds_t nfds, int timeout);

// `ppoll(2)`.
//
// # Safety
//
// As for `ppoll(2)`.
//
// # Errors
//
// Those of `ppoll(2)`.
int luna_ppoll(struct pollfd *fds,
               nfds_t nfds,
               const struct timespec *timeout,
               const sigset_t *sigmask);

// `select(2)`. Like the system call, leaves the time that was left in `timeout`.
//
// # Safety
//
// As for `select(2)`.
//
// # Errors
//
// Those of `select(2)`.
int luna_select(int nfds,
                fd_set *readfds,
                fd_set *writefds,
                fd_set *exceptfds,
                struct timeval *timeout);

// `pselect(2)`.
//
// # Safety
//
// As for `pselect(2)`.
//
// # Errors
//
// Those of `pselect(2)`.
int luna_pselect(int nfds,
                 fd_set *readfds,
                 fd_set *writefds,
                 fd_set *exceptfds,
                 const struct timespec *timeout,
                 const sigset_t *sigmask);

// `close(2)`.
//
// # Safety
//
// None: any number is fine.
//
// # Errors
//
// Those of `close(2)`. `EBADF` for a descriptor that luna keeps for itself.
int luna_close(int fd);

// `close_range(2)`. Passes over the descriptors that luna keeps for itself.
//
// # Safety
//
// None: any numbers are fine.
//
// # Errors
//
// Those of `close_range(2)`.
int luna_close_range(unsigned int first, unsigned int last, int flags);

// `dup(2)`.
//
// # Safety
//
// None: any number is fine.
//
// # Errors
//
// Those of `dup(2)`.
int luna_dup(int fd);

// `dup2(2)`. Calls that wait on a luna socket that it replaces end.
//
// # Safety
//
// None: any numbers are fine.
//
// # Errors
//
// Those of `dup2(2)`. `EBUSY` where luna keeps a descriptor for itself.
int luna_dup2(int oldfd, int newfd);

// `dup3(2)`. Calls that wait on a luna socket that it replaces end.
//
// # Safety
//
// None: any numbers are fine.
//
// # Errors
//
// Those of `dup3(2)`. `EBUSY` where luna keeps a descriptor for itself.
int luna_dup3(int oldfd, int newfd, int flags);

// `fcntl(2)`, with one argument of the size of a pointer.
//
// # Safety
//
// As for `fcntl(2)` with this command.
//
// # Errors
//
// Those of `fcntl(2)`.
int luna_fcntl(int fd, int cmd, long arg);

// `ioctl(2)`, with one argument of the size of a pointer.
//
// # Safety
//
// As for `ioctl(2)` with this request.
//
// # Errors
//
// Those of `ioctl(2)`.
int luna_ioctl(int fd, unsigned long request, long arg);

// Whether a descriptor is one of those that luna keeps for itself.
//
// # Safety
//
// None: any number is fine. Leaves `errno` alone.
//
// # Errors
//
// None.
int luna_fd_internal(int fd);

// The lowest number, from `fd` on, that luna knows: one of the application's that it keeps
// track of, or one that it keeps for itself. −1 if there is none. For loops that close
// everything.
//
// # Safety
//
// None: any number is fine. Leaves `errno` alone.
//
// # Errors
//
// None: −1 means "none".
int luna_fd_next(int fd);

// The version of the library, such as `0.1.0`.
//
// # Safety
//
// None. The string lives as long as the library.
//
// # Errors
//
// None.
const char *luna_version(void);

// 1 if a device is configured and luna is not disabled in this process; 2 if the stack runs.
//
// # Safety
//
// None.
//
// # Errors
//
// None.
int luna_active(void);

// Whether luna must see calls on a descriptor: 0, it is not ours; 1, calls are served by the
// stack; 2, a kernel socket that luna keeps track of.
//
// # Safety
//
// None: any number is fine. Leaves `errno` alone.
//
// # Errors
//
// None.
int luna_fd_owned(int fd);

// Describes a descriptor.
//
// # Safety
//
// `info` must point to a struct of which `size` tells the size.
//
// # Errors
//
// `EBADF` if `fd` is not open, `EFAULT` if `info` is null, `EINVAL` if `size` is too small to
// hold the first four fields.
int luna_fd_info(int fd, struct luna_fd_info *info);

// Sends luna's messages to `callback` instead of stderr; a null callback: to stderr again.
//
// # Safety
//
// `callback` must be callable from any thread, with `userdata`, until it is replaced.
//
// # Errors
//
// None: always 0.
int luna_set_log_callback(luna_log_callback callback, void *userdata);

// `read(2)` on any descriptor.
//
// # Safety
//
// As for `read(2)`.
//
// # Errors
//
// Those of `read(2)`, and on a luna connection those of `recv(2)`.
ssize_t luna_read(int fd, void *buf, size_t count);

// `readv(2)` on any descriptor.
//
// # Safety
//
// As for `readv(2)`.
//
// # Errors
//
// Those of `readv(2)`, and on a luna connection those of `recv(2)`.
ssize_t luna_readv(int fd, const struct iovec *iov, int iovcnt);

// `recv(2)` on any descriptor.
//
// # Safety
//
// As for `recv(2)`.
//
// # Errors
//
// Those of `recv(2)`.
ssize_t luna_recv(int fd, void *buf, size_t count, int flags);

// `recvfrom(2)` on any descriptor. As on any TCP socket, no address is stored: its length
// becomes zero.
//
// # Safety
//
// As for `recvfrom(2)`.
//
// # Errors
//
// Those of `recvfrom(2)`.
ssize_t luna_recvfrom(int fd,
                      void *buf,
                      size_t count,
                      int flags,
                      struct sockaddr *addr,
                      socklen_t *addrlen);

// `recvmsg(2)` on any descriptor. A luna connection stores neither an address nor control
// messages, as the kernel's TCP.
//
// # Safety
//
// As for `recvmsg(2)`.
//
// # Errors
//
// Those of `recvmsg(2)`.
ssize_t luna_recvmsg(int fd, struct msghdr *msg, int flags);

// `recvmmsg(2)` on any descriptor.
//
// # Safety
//
// As for `recvmmsg(2)`.
//
// # Errors
//
// Those of `recvmmsg(2)`.
int luna_recvmmsg(int fd,
                  struct mmsghdr *msgvec,
                  unsigned int vlen,
                  int flags,
                  struct timespec *timeout);

// `preadv2(2)` on any descriptor. On a luna connection the offset must be −1.
//
// # Safety
//
// As for `preadv2(2)`.
//
// # Errors
//
// Those of `preadv2(2)`: `ESPIPE` for an offset on a connection.
ssize_t luna_preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);

// `write(2)` on any descriptor.
//
// # Safety
//
// As for `write(2)`.
//
// # Errors
//
// Those of `write(2)`, and on a luna connection those of `send(2)`.
ssize_t luna_write(int fd, const void *buf, size_t count);

// `writev(2)` on any descriptor.
//
// # Safety
//
// As for `writev(2)`.
//
// # Errors
//
// Those of `writev(2)`, and on a luna connection those of `send(2)`.
ssize_t luna_writev(int fd, const struct iovec *iov, int iovcnt);

// `pwritev2(2)` on any descriptor. On a luna connection the offset must be −1.
//
// # Safety
//
// As for `pwritev2(2)`.
//
// # Errors
//
// Those of `pwritev2(2)`: `ESPIPE` for an offset on a connection.
ssize_t luna_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);

// `send(2)` on any descriptor.
//
// # Safety
//
// As for `send(2)`.
//
// # Errors
//
// Those of `send(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
ssize_t luna_send(int fd, const void *buf, size_t count, int flags);

// `sendto(2)` on any descriptor. A connection ignores the address.
//
// # Safety
//
// As for `sendto(2)`.
//
// # Errors
//
// Those of `sendto(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
ssize_t luna_sendto(int fd,
                    const void *buf,
                    size_t count,
                    int flags,
                    const struct sockaddr *addr,
                    socklen_t addrlen);

// `sendmsg(2)` on any descriptor. A connection ignores address and control messages.
//
// # Safety
//
// As for `sendmsg(2)`.
//
// # Errors
//
// Those of `sendmsg(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
ssize_t luna_sendmsg(int fd, const struct msghdr *msg, int flags);

// `sendmmsg(2)` on any descriptor.
//
// # Safety
//
// As for `sendmmsg(2)`.
//
// # Errors
//
// Those of `sendmmsg(2)`.
int luna_sendmmsg(int fd, struct mmsghdr *msgvec, unsigned int vlen, int flags);

// `sendfile(2)` to any descriptor. To a luna connection it copies once.
//
// # Safety
//
// As for `sendfile(2)`.
//
// # Errors
//
// Those of `sendfile(2)`.
ssize_t luna_sendfile(int out_fd, int in_fd, off_t *offset, size_t count);

// `epoll_create(2)`.
//
// # Safety
//
// None: any argument is fine.
//
// # Errors
//
// Those of `epoll_create(2)`.
int luna_epoll_create(int size);

// `epoll_create1(2)`.
//
// # Safety
//
// None: any argument is fine.
//
// # Errors
//
// Those of `epoll_create1(2)`.
int luna_epoll_create1(int flags);

// `epoll_ctl(2)`.
//
// # Safety
//
// As for `epoll_ctl(2)`.
//
// # Errors
//
// Those of `epoll_ctl(2)`.
int luna_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);

// `epoll_wait(2)`.
//
// # Safety
//
// As for `epoll_wait(2)`.
//
// # Errors
//
// Those of `epoll_wait(2)`.
int luna_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout);

// `epoll_pwait(2)`.
//
// # Safety
//
// As for `epoll_pwait(2)`.
//
// # Errors
//
// Those of `epoll_pwait(2)`.
int luna_epoll_pwait(int epfd,
                     struct epoll_event *events,
                     int maxevents,
                     int timeout,
                     const sigset_t *sigmask);

// `epoll_pwait2(2)`.
//
// # Safety
//
// As for `epoll_pwait2(2)`.
//
// # Errors
//
// Those of `epoll_pwait2(2)`.
int luna_epoll_pwait2(int epfd,
                      struct epoll_event *events,
                      int maxevents,
                      const struct timespec *timeout,
                      const sigset_t *sigmask);

// `poll(2)`.
//
// # Safety
//
// As for `poll(2)`.
//
// # Errors
//
// Those of `poll(2)`.
int luna_poll(struct pollfd *fds, nfds_t nfds, int timeout);

// `ppoll(2)`.
//
// # Safety
//
// As for `ppoll(2)`.
//
// # Errors
//
// Those of `ppoll(2)`.
int luna_ppoll(struct pollfd *fds,
               nfds_t nfds,
               const struct timespec *timeout,
               const sigset_t *sigmask);

// `select(2)`. Like the system call, leaves the time that was left in `timeout`.
//
// # Safety
//
// As for `select(2)`.
//
// # Errors
//
// Those of `select(2)`.
int luna_select(int nfds,
                fd_set *readfds,
                fd_set *writefds,
                fd_set *exceptfds,
                struct timeval *timeout);

// `pselect(2)`.
//
// # Safety
//
// As for `pselect(2)`.
//
// # Errors
//
// Those of `pselect(2)`.
int luna_pselect(int nfds,
                 fd_set *readfds,
                 fd_set *writefds,
                 fd_set *exceptfds,
                 const struct timespec *timeout,
                 const sigset_t *sigmask);

// `close(2)`.
//
// # Safety
//
// None: any number is fine.
//
// # Errors
//
// Those of `close(2)`. `EBADF` for a descriptor that luna keeps for itself.
int luna_close(int fd);

// `close_range(2)`. Passes over the descriptors that luna keeps for itself.
//
// # Safety
//
// None: any numbers are fine.
//
// # Errors
//
// Those of `close_range(2)`.
int luna_close_range(unsigned int first, unsigned int last, int flags);

// `dup(2)`.
//
// # Safety
//
// None: any number is fine.
//
// # Errors
//
// Those of `dup(2)`.
int luna_dup(int fd);

// `dup2(2)`. Calls that wait on a luna socket that it replaces end.
//
// # Safety
//
// None: any numbers are fine.
//
// # Errors
//
// Those of `dup2(2)`. `EBUSY` where luna keeps a descriptor for itself.
int luna_dup2(int oldfd, int newfd);

// `dup3(2)`. Calls that wait on a luna socket that it replaces end.
//
// # Safety
//
// None: any numbers are fine.
//
// # Errors
//
// Those of `dup3(2)`. `EBUSY` where luna keeps a descriptor for itself.
int luna_dup3(int oldfd, int newfd, int flags);

// `fcntl(2)`, with one argument of the size of a pointer.
//
// # Safety
//
// As for `fcntl(2)` with this command.
//
// # Errors
//
// Those of `fcntl(2)`.
int luna_fcntl(int fd, int cmd, long arg);

// `ioctl(2)`, with one argument of the size of a pointer.
//
// # Safety
//
// As for `ioctl(2)` with this request.
//
// # Errors
//
// Those of `ioctl(2)`.
int luna_ioctl(int fd, unsigned long request, long arg);

// Whether a descriptor is one of those that luna keeps for itself.
//
// # Safety
//
// None: any number is fine. Leaves `errno` alone.
//
// # Errors
//
// None.
int luna_fd_internal(int fd);

// The lowest number, from `fd` on, that luna knows: one of the application's that it keeps
// track of, or one that it keeps for itself. −1 if there is none. For loops that close
// everything.
//
// # Safety
//
// None: any number is fine. Leaves `errno` alone.
//
// # Errors
//
// None: −1 means "none".
int luna_fd_next(int fd);

// The version of the library, such as `0.1.0`.
//
// # Safety
//
// None. The string lives as long as the library.
//
// # Errors
//
// None.
const char *luna_version(void);

// 1 if a device is configured and luna is not disabled in this process; 2 if the stack runs.
//
// # Safety
//
// None.
//
// # Errors
//
// None.
int luna_active(void);

// Whether luna must see calls on a descriptor: 0, it is not ours; 1, calls are served by the
// stack; 2, a kernel socket that luna keeps track of.
//
// # Safety
//
// None: any number is fine. Leaves `errno` alone.
//
// # Errors
//
// None.
int luna_fd_owned(int fd);

// Describes a descriptor.
//
// # Safety
//
// `info` must point to a struct of which `size` tells the size.
//
// # Errors
//
// `EBADF` if `fd` is not open, `EFAULT` if `info` is null, `EINVAL` if `size` is too small to
// hold the first four fields.
int luna_fd_info(int fd, struct luna_fd_info *info);

// Sends luna's messages to `callback` instead of stderr; a null callback: to stderr again.
//
// # Safety
//
// `callback` must be callable from any thread, with `userdata`, until it is replaced.
//
// # Errors
//
// None: always 0.
int luna_set_log_callback(luna_log_callback callback, void *userdata);

// `read(2)` on any descriptor.
//
// # Safety
//
// As for `read(2)`.
//
// # Errors
//
// Those of `read(2)`, and on a luna connection those of `recv(2)`.
ssize_t luna_read(int fd, void *buf, size_t count);

// `readv(2)` on any descriptor.
//
// # Safety
//
// As for `readv(2)`.
//
// # Errors
//
// Those of `readv(2)`, and on a luna connection those of `recv(2)`.
ssize_t luna_readv(int fd, const struct iovec *iov, int iovcnt);

// `recv(2)` on any descriptor.
//
// # Safety
//
// As for `recv(2)`.
//
// # Errors
//
// Those of `recv(2)`.
ssize_t luna_recv(int fd, void *buf, size_t count, int flags);

// `recvfrom(2)` on any descriptor. As on any TCP socket, no address is stored: its length
// becomes zero.
//
// # Safety
//
// As for `recvfrom(2)`.
//
// # Errors
//
// Those of `recvfrom(2)`.
ssize_t luna_recvfrom(int fd,
                      void *buf,
                      size_t count,
                      int flags,
                      struct sockaddr *addr,
                      socklen_t *addrlen);

// `recvmsg(2)` on any descriptor. A luna connection stores neither an address nor control
// messages, as the kernel's TCP.
//
// # Safety
//
// As for `recvmsg(2)`.
//
// # Errors
//
// Those of `recvmsg(2)`.
ssize_t luna_recvmsg(int fd, struct msghdr *msg, int flags);

// `recvmmsg(2)` on any descriptor.
//
// # Safety
//
// As for `recvmmsg(2)`.
//
// # Errors
//
// Those of `recvmmsg(2)`.
int luna_recvmmsg(int fd,
                  struct mmsghdr *msgvec,
                  unsigned int vlen,
                  int flags,
                  struct timespec *timeout);

// `preadv2(2)` on any descriptor. On a luna connection the offset must be −1.
//
// # Safety
//
// As for `preadv2(2)`.
//
// # Errors
//
// Those of `preadv2(2)`: `ESPIPE` for an offset on a connection.
ssize_t luna_preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);

// `write(2)` on any descriptor.
//
// # Safety
//
// As for `write(2)`.
//
// # Errors
//
// Those of `write(2)`, and on a luna connection those of `send(2)`.
ssize_t luna_write(int fd, const void *buf, size_t count);

// `writev(2)` on any descriptor.
//
// # Safety
//
// As for `writev(2)`.
//
// # Errors
//
// Those of `writev(2)`, and on a luna connection those of `send(2)`.
ssize_t luna_writev(int fd, const struct iovec *iov, int iovcnt);

// `pwritev2(2)` on any descriptor. On a luna connection the offset must be −1.
//
// # Safety
//
// As for `pwritev2(2)`.
//
// # Errors
//
// Those of `pwritev2(2)`: `ESPIPE` for an offset on a connection.
ssize_t luna_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags);

// `send(2)` on any descriptor.
//
// # Safety
//
// As for `send(2)`.
//
// # Errors
//
// Those of `send(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
ssize_t luna_send(int fd, const void *buf, size_t count, int flags);

// `sendto(2)` on any descriptor. A connection ignores the address.
//
// # Safety
//
// As for `sendto(2)`.
//
// # Errors
//
// Those of `sendto(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
ssize_t luna_sendto(int fd,
                    const void *buf,
                    size_t count,
                    int flags,
                    const struct sockaddr *addr,
                    socklen_t addrlen);

// `sendmsg(2)` on any descriptor. A connection ignores address and control messages.
//
// # Safety
//
// As for `sendmsg(2)`.
//
// # Errors
//
// Those of `sendmsg(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
ssize_t luna_sendmsg(int fd, const struct msghdr *msg, int flags);

// `sendmmsg(2)` on any descriptor.
//
// # Safety
//
// As for `sendmmsg(2)`.
//
// # Errors
//
// Those of `sendmmsg(2)`.
int luna_sendmmsg(int fd, struct mmsghdr *msgvec, unsigned int vlen, int flags);

// `sendfile(2)` to any descriptor. To a luna connection it copies once.
//
// # Safety
//
// As for `sendfile(2)`.
//
// # Errors
//
// Those of `sendfile(2)`.
ssize_t luna_sendfile(int out_fd, int in_fd, off_t *offset, size_t count);

// `socket(2)`. TCP sockets of either family may become luna's at `luna_listen` or
// `luna_connect`; until then, and all others for good, they are the kernel's.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `socket(2)`.
int luna_socket(int domain, int kind, int protocol);

// `bind(2)`.
//
// # Safety
//
// As for `bind(2)`.
//
// # Errors
//
// Those of `bind(2)`.
int luna_bind(int fd, const struct sockaddr *addr, socklen_t addrlen);

// `listen(2)`. A socket on one of luna's ports and addresses listens on the stack as well as
// on the kernel; whatever keeps it from doing so is reported on stderr, and is no error.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `listen(2)`.
int luna_listen(int fd, int backlog);

// `accept(2)`: connections of the stack and of the kernel, in turn.
//
// # Safety
//
// As for `accept(2)`.
//
// # Errors
//
// Those of `accept(2)`.
int luna_accept(int fd, struct sockaddr *addr, socklen_t *addrlen);

// `accept4(2)`: connections of the stack and of the kernel, in turn.
//
// # Safety
//
// As for `accept4(2)`.
//
// # Errors
//
// Those of `accept4(2)`.
int luna_accept4(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags);

// `connect(2)`. A destination that `LUNA_CONNECT` names is reached over the stack.
//
// # Safety
//
// As for `connect(2)`.
//
// # Errors
//
// Those of `connect(2)`.
int luna_connect(int fd, const struct sockaddr *addr, socklen_t addrlen);

// `shutdown(2)`.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `shutdown(2)`.
int luna_shutdown(int fd, int how);

// `getsockname(2)`.
//
// # Safety
//
// As for `getsockname(2)`.
//
// # Errors
//
// Those of `getsockname(2)`.
int luna_getsockname(int fd, struct sockaddr *addr, socklen_t *addrlen);

// `getpeername(2)`.
//
// # Safety
//
// As for `getpeername(2)`.
//
// # Errors
//
// Those of `getpeername(2)`.
int luna_getpeername(int fd, struct sockaddr *addr, socklen_t *addrlen);

// `getsockopt(2)`.
//
// # Safety
//
// As for `getsockopt(2)`.
//
// # Errors
//
// Those of `getsockopt(2)`.
int luna_getsockopt(int fd, int level, int name, void *value, socklen_t *len);

// `setsockopt(2)`.
//
// # Safety
//
// As for `setsockopt(2)`.
//
// # Errors
//
// Those of `setsockopt(2)`; `ENOPROTOOPT` for what the stack can't honour (`TCP_ULP`,
// `TCP_MD5SIG`, `TCP_REPAIR`, `SO_ZEROCOPY`, socket filters).
int luna_setsockopt(int fd, int level, int name, const void *value, socklen_t len);

// `sockatmark(3)`: there is no urgent data on a luna connection.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `sockatmark(3)`.
int luna_sockatmark(int fd);

// `socket(2)`. TCP sockets of either family may become luna's at `luna_listen` or
// `luna_connect`; until then, and all others for good, they are the kernel's.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `socket(2)`.
int luna_socket(int domain, int kind, int protocol);

// `bind(2)`.
//
// # Safety
//
// As for `bind(2)`.
//
// # Errors
//
// Those of `bind(2)`.
int luna_bind(int fd, const struct sockaddr *addr, socklen_t addrlen);

// `listen(2)`. A socket on one of luna's ports and addresses listens on the stack as well as
// on the kernel; whatever keeps it from doing so is reported on stderr, and is no error.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `listen(2)`.
int luna_listen(int fd, int backlog);

// `accept(2)`: connections of the stack and of the kernel, in turn.
//
// # Safety
//
// As for `accept(2)`.
//
// # Errors
//
// Those of `accept(2)`.
int luna_accept(int fd, struct sockaddr *addr, socklen_t *addrlen);

// `accept4(2)`: connections of the stack and of the kernel, in turn.
//
// # Safety
//
// As for `accept4(2)`.
//
// # Errors
//
// Those of `accept4(2)`.
int luna_accept4(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags);

// `connect(2)`. A destination that `LUNA_CONNECT` names is reached over the stack.
//
// # Safety
//
// As for `connect(2)`.
//
// # Errors
//
// Those of `connect(2)`.
int luna_connect(int fd, const struct sockaddr *addr, socklen_t addrlen);

// `shutdown(2)`.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `shutdown(2)`.
int luna_shutdown(int fd, int how);

// `getsockname(2)`.
//
// # Safety
//
// As for `getsockname(2)`.
//
// # Errors
//
// Those of `getsockname(2)`.
int luna_getsockname(int fd, struct sockaddr *addr, socklen_t *addrlen);

// `getpeername(2)`.
//
// # Safety
//
// As for `getpeername(2)`.
//
// # Errors
//
// Those of `getpeername(2)`.
int luna_getpeername(int fd, struct sockaddr *addr, socklen_t *addrlen);

// `getsockopt(2)`.
//
// # Safety
//
// As for `getsockopt(2)`.
//
// # Errors
//
// Those of `getsockopt(2)`.
int luna_getsockopt(int fd, int level, int name, void *value, socklen_t *len);

// `setsockopt(2)`.
//
// # Safety
//
// As for `setsockopt(2)`.
//
// # Errors
//
// Those of `setsockopt(2)`; `ENOPROTOOPT` for what the stack can't honour (`TCP_ULP`,
// `TCP_MD5SIG`, `TCP_REPAIR`, `SO_ZEROCOPY`, socket filters).
int luna_setsockopt(int fd, int level, int name, const void *value, socklen_t len);

// `sockatmark(3)`: there is no urgent data on a luna connection.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// Those of `sockatmark(3)`.
int luna_sockatmark(int fd);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LUNA_H */
