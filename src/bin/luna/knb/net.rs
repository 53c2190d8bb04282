//! The two families of BSD calls that knb's event loop runs on: the kernel's, and luna's.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use luna::capi::safe;
use luna::socket::addr;
use luna::sys::{self, EpollEvent, Errno};

/// The calls of an event loop over non-blocking TCP sockets.
pub(crate) trait Net {
    fn socket(address: SocketAddr) -> Result<RawFd, Errno>;
    fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> Result<(), Errno>;
    fn error_of(fd: RawFd) -> i32;
    fn bind(fd: RawFd, address: SocketAddr) -> Result<(), Errno>;
    fn listen(fd: RawFd, backlog: i32) -> Result<(), Errno>;
    fn accept(fd: RawFd) -> Result<RawFd, Errno>;
    fn connect(fd: RawFd, address: SocketAddr) -> Result<(), Errno>;
    fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno>;
    fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno>;
    fn close(fd: RawFd);
    fn epoll_create() -> Result<RawFd, Errno>;
    fn epoll_ctl(epfd: RawFd, operation: i32, fd: RawFd, interest: u32) -> Result<(), Errno>;
    fn epoll_wait(epfd: RawFd, events: &mut [EpollEvent], timeout_ms: i32) -> Result<usize, Errno>;
}

/// Plain system calls.
pub(crate) struct Kernel;

fn family(address: SocketAddr) -> i32 {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

impl Net for Kernel {
    fn socket(address: SocketAddr) -> Result<RawFd, Errno> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        sys::socket(family(address), kind, 0)
    }

    fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        sys::setsockopt(fd, level, name, &value.to_ne_bytes())
    }

    fn error_of(fd: RawFd) -> i32 {
        let answer = sys::getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ERROR);
        answer.unwrap_or_else(Errno::raw_os_error)
    }

    fn bind(fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
        sys::bind(fd, &addr::encode(address, family(address)))
    }

    fn listen(fd: RawFd, backlog: i32) -> Result<(), Errno> {
        sys::listen(fd, backlog)
    }

    fn accept(fd: RawFd) -> Result<RawFd, Errno> {
        sys::accept4(fd, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).map(|(fd, _)| fd)
    }

    fn connect(fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
        sys::connect(fd, &addr::encode(address, family(address)))
    }

    #[inline]
    fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        sys::read(fd, buffer)
    }

    // No MSG_NOSIGNAL needed: Rust programs ignore SIGPIPE.
    #[inline]
    fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        sys::write(fd, bytes)
    }

    fn close(fd: RawFd) {
        let _closed = sys::close(fd);
    }

    fn epoll_create() -> Result<RawFd, Errno> {
        sys::epoll_create1(libc::EPOLL_CLOEXEC)
    }

    fn epoll_ctl(epfd: RawFd, operation: i32, fd: RawFd, interest: u32) -> Result<(), Errno> {
        sys::epoll_ctl(epfd, operation, fd, Some(event(fd, interest)))
    }

    #[inline]
    fn epoll_wait(epfd: RawFd, events: &mut [EpollEvent], timeout_ms: i32) -> Result<usize, Errno> {
        let timeout_ns = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
        sys::epoll_wait(epfd, events, timeout_ns, None)
    }
}

fn event(fd: RawFd, interest: u32) -> EpollEvent {
    EpollEvent {
        events: interest,
        data: fd as u64,
    }
}

/// luna's exported calls, as a C program makes them.
pub(crate) struct Luna;

impl Net for Luna {
    fn socket(address: SocketAddr) -> Result<RawFd, Errno> {
        safe::tcp_socket(address, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
    }

    fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        safe::set_option(fd, level, name, value)
    }

    fn error_of(fd: RawFd) -> i32 {
        let answer = safe::option(fd, libc::SOL_SOCKET, libc::SO_ERROR);
        answer.unwrap_or_else(Errno::raw_os_error)
    }

    fn bind(fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
        safe::bind(fd, address)
    }

    fn listen(fd: RawFd, backlog: i32) -> Result<(), Errno> {
        safe::listen(fd, backlog)
    }

    fn accept(fd: RawFd) -> Result<RawFd, Errno> {
        safe::accept(fd, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
    }

    fn connect(fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
        safe::connect(fd, address)
    }

    #[inline]
    fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        safe::read(fd, buffer)
    }

    #[inline]
    fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        safe::send(fd, bytes)
    }

    fn close(fd: RawFd) {
        let _closed = safe::close(fd);
    }

    fn epoll_create() -> Result<RawFd, Errno> {
        safe::epoll_create()
    }

    fn epoll_ctl(epfd: RawFd, operation: i32, fd: RawFd, interest: u32) -> Result<(), Errno> {
        safe::epoll_ctl(epfd, operation, fd, event(fd, interest))
    }

    #[inline]
    fn epoll_wait(epfd: RawFd, events: &mut [EpollEvent], timeout_ms: i32) -> Result<usize, Errno> {
        safe::epoll_wait(epfd, events, timeout_ms)
    }
}
