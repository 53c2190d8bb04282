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

// Never sleep, whatever `LUNA_BUSY` says.
#define LUNA_LOOP_BUSY 1

// The largest buffer that there is, in bytes.
#define LUNA_ZBUF_BYTES_MAX 65536

// The bytes were copied.
#define LUNA_Z_COPIED 1

// An event loop that owns a shard while it runs.
struct luna_loop;

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
  // Bytes of packet memory (whole buffers) that the application holds of what has arrived on
  // a stream: its receive window is smaller by so much.
  uint64_t lent_bytes;
};

// A function that gets the lines that would go to stderr: `userdata`, a `syslog` level, and the
// line without a newline, valid for the call only.
typedef void (*luna_log_callback)(void *userdata, int level, const char *line);

// How a loop is to be. Zero is the default of everything but `size`.
struct luna_loop_options {
  // `sizeof(struct luna_loop_options)`.
  uint32_t size;
  // `LUNA_LOOP_…`, or-ed.
  uint32_t flags;
  // Which shard to own, counted from 1; 0: the next that no loop owns.
  uint32_t shard;
  // 0.
  uint32_t reserved;
};

// A function to run on the loop's thread.
typedef void (*luna_loop_function)(struct luna_loop *loop_, void *user);

// Some bytes of one packet buffer.
struct luna_ziov {
  // The first byte, anywhere in a buffer.
  void *base;
  // How many bytes, all of them in that buffer.
  size_t len;
  // Sending: comes back in exactly one `luna_zcompletion`; 0: none is wanted. Received: 0.
  uint64_t token;
  // Received: `LUNA_Z_COPIED` if the bytes were copied on their way. Sending: 0.
  uint32_t flags;
  // 0.
  uint32_t reserved;
};

// What became of a sent buffer.
struct luna_zcompletion {
  // That of the `luna_ziov`.
  uint64_t token;
  // 0: the peer has acknowledged the bytes (a kernel socket: the kernel has taken them).
  // Otherwise an errno: the connection ended before that.
  int32_t status;
  // `LUNA_Z_COPIED` if the bytes were copied, so the buffer has been free since the call.
  uint32_t flags;
};

// What a loop calls. Each may be null. The table must outlive what it was given for.
//
// Callbacks run on the thread that is in `luna_loop_run` or `luna_loop_turn`, one at a time,
// inside the stack: right after the packet that they are about, before the next is looked at.
// They may call every function of this library that does not wait; one that would wait gives
// `EBUSY`, as do `luna_loop_run`, `luna_loop_turn` and `luna_loop_destroy`. They must not
// `longjmp` out, nor let C++ exceptions out. While one runs, nothing else of the shard does: a
// long one delays its other connections, and breaks none.
//
// `conn` is the connection's handle: never 0, never reused, so that a stale one is told apart.
// `user` is the pointer that belongs to it.
struct luna_loop_callbacks {
  // `sizeof(struct luna_loop_callbacks)`.
  uint32_t size;
  // 0.
  uint32_t reserved;
  // A listener has a new connection, which shares the listener's callbacks. Returns the
  // pointer that belongs to it. May close it.
  void *(*accepted)(struct luna_loop *loop_, uint64_t listener, void *user, uint64_t conn);
  // How `luna_loop_connect` ended: 0, or an errno; then the handle is stale, and there is no
  // `closed`.
  void (*connected)(struct luna_loop *loop_, uint64_t conn, void *user, int error);
  // Bytes have arrived, in order. They are lent for the time of the call: they may be read,
  // sent (`luna_loop_send`, on any connection), and kept by `luna_zbuf_ref`, which makes
  // `luna_zbuf_free` the callee's duty. No elements: the peer has finished sending.
  void (*readable)(struct luna_loop *loop_,
                   uint64_t conn,
                   void *user,
                   const struct luna_ziov *iov,
                   int iovcnt);
  // There is room again after a send that did not take everything.
  void (*writable)(struct luna_loop *loop_, uint64_t conn, void *user);
  // What was sent with tokens has been acknowledged, or never will be. Comes once for each
  // token, also after `luna_loop_close` and after `closed`; then `conn` is stale, and `user`
  // is what it was.
  void (*completed)(struct luna_loop *loop_,
                    uint64_t conn,
                    void *user,
                    const struct luna_zcompletion *completions,
                    int count);
  // The connection is over, not by `luna_loop_close`: 0 in good order, otherwise an errno.
  // The handle is stale when it returns.
  void (*closed)(struct luna_loop *loop_, uint64_t conn, void *user, int error);
};

// A function for when a descriptor is ready: `events` are those of `epoll(7)`.
typedef void (*luna_loop_watcher)(struct luna_loop *loop_, int fd, uint32_t events, void *user);

// What `luna_stats` tells. All but `size` and the gauges only ever grow while the stack runs.
struct luna_stats {
  // How many bytes of this struct the library knows.
  uint32_t size;
  // How many shards run; 0: there is no stack.
  uint32_t shards;
  // Turns of all shards.
  uint64_t turns;
  // Of those, turns that had nothing to do.
  uint64_t turns_idle;
  // TCP segments received.
  uint64_t segments_in;
  // TCP segments sent.
  uint64_t segments_out;
  // Of those, retransmissions.
  uint64_t retransmits;
  // Payload bytes that applications have received from the stack, and acknowledged.
  uint64_t bytes_in;
  // Payload bytes that applications have given to the stack.
  uint64_t bytes_out;
  // Of `bytes_in`, those that were copied on their way (0 with `luna_zreadv` and loops).
  uint64_t bytes_copied_in;
  // Of `bytes_out`, those that were copied (0 with `luna_zwritev` and loops).
  uint64_t bytes_copied_out;
  // Bytes that a link's driver had to copy because the link could not take them where they
  // were, or because that is slower (AF_XDP without zero copy, several pieces in a frame).
  uint64_t bytes_copied_by_link;
  // Frames received.
  uint64_t rx_frames;
  // Frames that the link dropped because it had no buffer or no room.
  uint64_t rx_dropped;
  // Frames sent.
  uint64_t tx_frames;
  // Doorbells: system calls or device writes to send, or to be woken.
  uint64_t doorbells;
  // Connections (a gauge).
  uint64_t connections;
  // Connections in TIME-WAIT (a gauge).
  uint64_t time_wait;
  // Packet buffers in use (a gauge).
  uint64_t zbufs_in_use;
  // Of those, buffers of the shards that the application holds (a gauge).
  uint64_t zbufs_lent;
  // `luna_zbuf_*` calls with an address that is not in a buffer.
  uint64_t zbuf_foreign;
  // `luna_zbuf_*` calls on a buffer that the application does not hold: freed twice.
  uint64_t zbuf_double_free;
};

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

// Opens now what needs privileges (the link's sockets and its program), for a process that is
// about to give them up; the stack itself starts when it is needed. 0, also if there is nothing
// to prepare.
//
// # Safety
//
// None.
//
// # Errors
//
// `EPERM`: the link can't be opened; the log says why when the stack is needed.
int luna_prepare(void);

// Makes a loop. Starts the stack if `LUNA_DEV` is set; where there is none, the loop works all
// the same, on kernel sockets, and copies. Where its shard has a loop already, or threads of its
// own (`LUNA_MODE=dedicated`), it serves that shard's connections over descriptors.
//
// `options` may be null.
//
// # Safety
//
// `options` is null or points to a struct of which `size` tells the size.
//
// # Errors
//
// Null, and `EINVAL` for options and shards that there are not, `EMFILE`, `ENOMEM`.
struct luna_loop *luna_loop_create(const struct luna_loop_options *options);

// Ends a loop: resets its connections, closes its listeners, and frees it. Completions come
// during the call.
//
// # Safety
//
// `loop_` came from `luna_loop_create`, and is not used again.
//
// # Errors
//
// `EBUSY` while it runs; it goes on then.
int luna_loop_destroy(struct luna_loop *loop_);

// Runs until `luna_loop_stop`. The calling thread owns the loop, and its shard, meanwhile.
//
// # Safety
//
// `loop_` came from `luna_loop_create`.
//
// # Errors
//
// `EBUSY` if it runs already; `EINTR` never: signal handlers run, and it goes on.
int luna_loop_run(struct luna_loop *loop_);

// Runs one round, waiting for at most `timeout` milliseconds (−1: as long as it takes) for
// something to do. Returns 1 if there was something, 0 if not.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBUSY` if it runs already.
int luna_loop_turn(struct luna_loop *loop_, int timeout);

// Makes `luna_loop_run` return, now or, if it has not begun, as soon as it does. Any thread;
// also from a signal handler.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// None.
int luna_loop_stop(struct luna_loop *loop_);

// Runs a function on the loop's thread, soon; in the order of the calls. Any thread. What is
// left when the loop is destroyed runs then.
//
// # Safety
//
// `function` must be callable with `user` from the loop's thread.
//
// # Errors
//
// `EINVAL` if `function` is null.
int luna_loop_post(struct luna_loop *loop_, luna_loop_function function, void *user);

// Listens on an address, on the stack if its port is one of `LUNA_LISTEN`'s, and in any case on
// the kernel. Connections have `TCP_NODELAY` set. `listener` gets the handle.
//
// # Safety
//
// As for `bind(2)`; `callbacks` is as its type says; `listener` may be null.
//
// # Errors
//
// Those of `socket(2)`, `bind(2)` and `listen(2)`; `EBUSY` if another thread runs the loop.
int luna_loop_listen(struct luna_loop *loop_,
                     const struct sockaddr *addr,
                     socklen_t addrlen,
                     int backlog,
                     const struct luna_loop_callbacks *callbacks,
                     void *user,
                     uint64_t *listener);

// Connects to an address, over the stack if it is one of `LUNA_CONNECT`'s. `conn` gets the
// handle; `connected` tells how it ended, never before this call returns.
//
// # Safety
//
// As for `connect(2)`; `callbacks` is as its type says; `conn` may be null.
//
// # Errors
//
// Those of `socket(2)` and `connect(2)` that are known at once; `EBUSY` as for
// `luna_loop_listen`.
int luna_loop_connect(struct luna_loop *loop_,
                      const struct sockaddr *addr,
                      socklen_t addrlen,
                      const struct luna_loop_callbacks *callbacks,
                      void *user,
                      uint64_t *conn);

// Sends without copying, as `luna_zwritev` does; never waits. What was not taken: try again
// when `writable` comes. The reply to a packet leaves before the next packet is looked at, or,
// outside of callbacks, at the next round.
//
// # Safety
//
// As for `luna_zwritev`.
//
// # Errors
//
// Those of `luna_zwritev`; `EBADF` for a stale handle; `EAGAIN` if there is no room.
ssize_t luna_loop_send(struct luna_loop *loop_,
                       uint64_t conn,
                       const struct luna_ziov *iov,
                       int iovcnt,
                       int flags);

// Sends from ordinary memory, by copying; otherwise as `luna_loop_send`.
//
// # Safety
//
// `buf` must have `len` readable bytes.
//
// # Errors
//
// As `luna_loop_send`.
ssize_t luna_loop_write(struct luna_loop *loop_,
                        uint64_t conn,
                        const void *buf,
                        size_t len,
                        int flags);

// Sends FIN after what was sent; reading goes on.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBADF` for a stale handle, `ENOTCONN` if the connection is over.
int luna_loop_shutdown(struct luna_loop *loop_, uint64_t conn);

// Closes a connection or a listener: what was sent is still delivered, unless `abort` is not
// 0, which resets. The handle is stale at once; nothing but `completed` is called for it.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBADF` for a stale handle.
int luna_loop_close(struct luna_loop *loop_, uint64_t handle, int abort);

// Stops (`on` 0) or resumes calling `readable`, so that the peer's window closes.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBADF` for a stale handle.
int luna_loop_read(struct luna_loop *loop_, uint64_t conn, int on);

// Replaces the pointer that belongs to a connection.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBADF` for a stale handle.
int luna_loop_set_user(struct luna_loop *loop_, uint64_t conn, void *user);

// The ends of a connection (or the address of a listener), as `getsockname(2)` and, if `peer`
// is not 0, `getpeername(2)`.
//
// # Safety
//
// As for `getsockname(2)`.
//
// # Errors
//
// `EBADF` for a stale handle.
int luna_loop_name(struct luna_loop *loop_,
                   uint64_t handle,
                   int peer,
                   struct sockaddr *addr,
                   socklen_t *addrlen);

// 1 if a connection is on the stack, 0 if it is on the kernel (and copied).
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBADF` for a stale handle.
int luna_loop_is_accelerated(struct luna_loop *loop_, uint64_t conn);

// Calls `function` in `after` nanoseconds, and then every `every` nanoseconds (0: once). `timer`
// gets the handle.
//
// # Safety
//
// `function` must be callable with `user`; `timer` may be null.
//
// # Errors
//
// `EINVAL` if `function` is null; `EBUSY` as for `luna_loop_listen`.
int luna_loop_add_timer(struct luna_loop *loop_,
                        uint64_t after,
                        uint64_t every,
                        luna_loop_function function,
                        void *user,
                        uint64_t *timer);

// Cancels a timer; also from its own function.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `EBADF` if there is none: it has fired, or was cancelled.
int luna_loop_cancel_timer(struct luna_loop *loop_, uint64_t timer);

// Calls `function` when a descriptor (of the kernel or of luna) is ready for `events`, as
// `epoll_ctl(2)` does with `EPOLL_CTL_ADD`; changes that for one that is watched already.
//
// # Safety
//
// `function` must be callable with `user`.
//
// # Errors
//
// Those of `epoll_ctl(2)`; `EINVAL` if `function` is null; `EBUSY` as for `luna_loop_listen`.
int luna_loop_watch(struct luna_loop *loop_,
                    int fd,
                    uint32_t events,
                    luna_loop_watcher function,
                    void *user);

// Watches a descriptor no more. To be called before the descriptor is closed.
//
// # Safety
//
// As for `luna_loop_run`.
//
// # Errors
//
// `ENOENT` if it is not watched.
int luna_loop_unwatch(struct luna_loop *loop_, int fd);

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
// `TCP_MD5SIG`, `TCP_REPAIR`, socket filters).
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

// Fills in the counters of this process's stack; of those that the caller knows, which are the
// first `size` bytes of the struct.
//
// # Safety
//
// `stats` must have room for `size` bytes.
//
// # Errors
//
// `EFAULT` if `stats` is null, `EINVAL` if `size` is less than 8.
int luna_stats(struct luna_stats *stats, size_t size);

// A buffer of at least `size` bytes (at most `LUNA_ZBUF_BYTES_MAX`), with one reference, the
// caller's. Its contents are what its last owner in this process left.
//
// It comes from the memory of the shard that the calling thread turns, and can be sent without
// a copy on that shard's connections. The first call starts the stack, if `LUNA_DEV` is set.
// Where there is no stack, or its memory is nearly used up, the buffer is of ordinary memory:
// it works everywhere, and is copied when it is sent.
//
// Any thread; also from a loop's callback.
//
// # Safety
//
// None: any size is fine.
//
// # Errors
//
// Null, and `EMSGSIZE` for more than `LUNA_ZBUF_BYTES_MAX`, or `ENOMEM`.
void *luna_zbuf_alloc(size_t size);

// As `luna_zbuf_alloc`, in the memory that what is sent on `fd` need not be copied from. With
// one shard there is no difference.
//
// # Safety
//
// None: any arguments are fine.
//
// # Errors
//
// As `luna_zbuf_alloc`. A descriptor that is not luna's is no error.
void *luna_zbuf_alloc_for(int fd, size_t size);

// Gives back one reference to the buffer that `ptr` points into (anywhere into it). With the
// last reference, the stack's included, the buffer is free. Null is fine.
//
// Any thread, at any time: also after the connection that it came from is closed.
//
// # Safety
//
// None: any address is fine; nothing is read through one that is not into a buffer.
//
// # Errors
//
// `EFAULT` if `ptr` is not into a buffer; `EINVAL` if the application holds no reference to the
// buffer (freed twice). Both are counted (`luna_stats`) and change nothing. A second free goes
// unnoticed only when the buffer has been given to the application again meanwhile.
int luna_zbuf_free(const void *ptr);

// Takes one more reference to a buffer that the caller holds, or that was lent to a loop's
// callback and is to be kept after it. `ptr` may point anywhere into it.
//
// # Safety
//
// None: any address is fine.
//
// # Errors
//
// As `luna_zbuf_free`.
int luna_zbuf_ref(const void *ptr);

// How many bytes there are from `ptr` to the end of the buffer that it points into.
//
// # Safety
//
// None: any address is fine.
//
// # Errors
//
// `EFAULT` if `ptr` is not into a buffer.
ssize_t luna_zbuf_size(const void *ptr);

// 1 if the caller's reference is the only one, so that it may write to the buffer; 0 if there
// are others: a connection has yet to send it or to see it acknowledged, the link has yet to
// finish reading it, or the application has taken a second reference.
//
// # Safety
//
// None: any address is fine.
//
// # Errors
//
// As `luna_zbuf_free`.
int luna_zbuf_writable(const void *ptr);

// Receives without copying: fills up to `iovcnt` elements with what has arrived, in order, and
// returns how many. 0 is the end of the stream.
//
// Each element is one reference of the caller's to its buffer, to be given back with
// `luna_zbuf_free`, from any thread, whenever; it outlives the connection. The bytes may be
// changed, and reused for the reply, while `luna_zbuf_writable` says so. What the application
// holds counts against the connection's receive window.
//
// Works on every descriptor that can be read: what is not on the stack is read into buffers,
// and marked `LUNA_Z_COPIED`; so is what arrived when packet memory was short.
//
// `flags`: `MSG_DONTWAIT` or 0. Blocks like `recv` otherwise, until there is something.
//
// # Safety
//
// `iov` must have room for `iovcnt` elements.
//
// # Errors
//
// Those of `recv(2)`; `EINVAL` for another flag or an `iovcnt` outside 1–1024; `ENOMEM`.
int luna_zreadv(int fd, struct luna_ziov *iov, int iovcnt, int flags);

// Sends without copying: takes a reference to each buffer until the peer has acknowledged it
// and the link has finished reading it. The caller keeps its own, and frees it when it likes;
// the bytes must not change until the completion. The same buffer may be sent on any number of
// connections.
//
// Returns how many *bytes* were taken, of as many elements from the first on; the last of these
// perhaps in part. An element's token is taken with its last byte: send the rest as an element
// with the same token. An element that was not taken is as if it had never been given.
//
// Works on every descriptor that can be written: elsewhere the bytes are copied, and the
// completion, which says so, is there at once. On the stack, bytes that are not in a buffer, or
// in one of another shard, are copied too; the completion says so when they are acknowledged.
//
// `flags`: `MSG_DONTWAIT`, `MSG_MORE`, `MSG_NOSIGNAL`.
//
// # Safety
//
// `iov` must have `iovcnt` elements, each of readable memory.
//
// # Errors
//
// Those of `send(2)`; `EINVAL` for another flag, an `iovcnt` outside 1–1024, or a buffer that
// the caller does not hold; `ENOBUFS` if too many completions have not been fetched.
ssize_t luna_zwritev(int fd, const struct luna_ziov *iov, int iovcnt, int flags);

// Fetches completions of what was sent with a token on `fd`, up to `max`; returns how many.
// Never blocks. `fd` −1: those of connections whose descriptor has been closed since.
//
// # Safety
//
// `completions` must have room for `max` elements.
//
// # Errors
//
// `EBADF`, `EFAULT`, `EINVAL`.
int luna_zcompletions(int fd, struct luna_zcompletion *completions, int max);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LUNA_H */
