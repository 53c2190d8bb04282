//! The exported calls for Rust programs: slices for pointers, `Result` for −1 and `errno`.
//!
//! Each is the C function of the same name and does nothing more; it works on any descriptor.

pub mod inline;

use core::ffi::{c_int, c_void};
use core::net::SocketAddr;
use std::os::fd::RawFd;

use libc::{epoll_event, socklen_t};

use crate::socket::addr;
use crate::sys::{EpollEvent, Errno};

// What the kernel fills and what `epoll_wait` below hands it are one layout.
const _: () = assert!(size_of::<EpollEvent>() == size_of::<epoll_event>());
const _: () = assert!(align_of::<EpollEvent>() == align_of::<epoll_event>());

fn failed() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn done(result: c_int) -> Result<c_int, Errno> {
    if result < 0 {
        Err(failed())
    } else {
        Ok(result)
    }
}

fn moved(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| failed())
}

fn family(address: SocketAddr) -> c_int {
    match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    }
}

/// `socket(2)` for TCP in the family of `address`, with `SOCK_NONBLOCK` or other `flags`.
///
/// # Errors
///
/// Those of `socket(2)`.
pub fn tcp_socket(address: SocketAddr, flags: c_int) -> Result<RawFd, Errno> {
    // SAFETY: no pointers.
    done(unsafe { super::luna_socket(family(address), libc::SOCK_STREAM | flags, 0) })
}

/// `bind(2)`.
///
/// # Errors
///
/// Those of `bind(2)`.
pub fn bind(fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
    let encoded = addr::encode(address, family(address));
    // SAFETY: the address is live and its length is its own.
    done(unsafe { super::luna_bind(fd, encoded.as_ptr().cast(), encoded.len() as socklen_t) })
        .map(drop)
}

/// `listen(2)`.
///
/// # Errors
///
/// Those of `listen(2)`.
pub fn listen(fd: RawFd, backlog: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers.
    done(unsafe { super::luna_listen(fd, backlog) }).map(drop)
}

/// `accept4(2)`, without the peer's address.
///
/// # Errors
///
/// Those of `accept4(2)`.
pub fn accept(fd: RawFd, flags: c_int) -> Result<RawFd, Errno> {
    let nobody = core::ptr::null_mut();
    // SAFETY: no address is asked for.
    done(unsafe { super::luna_accept4(fd, nobody, core::ptr::null_mut(), flags) })
}

/// `connect(2)`.
///
/// # Errors
///
/// Those of `connect(2)`.
pub fn connect(fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
    let encoded = addr::encode(address, family(address));
    // SAFETY: the address is live and its length is its own.
    done(unsafe { super::luna_connect(fd, encoded.as_ptr().cast(), encoded.len() as socklen_t) })
        .map(drop)
}

/// `read(2)`.
///
/// # Errors
///
/// Those of `read(2)`.
#[inline]
pub fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is live and writable for its length.
    moved(unsafe { super::luna_read(fd, buffer.as_mut_ptr().cast::<c_void>(), buffer.len()) })
}

/// `send(2)` with `MSG_NOSIGNAL`.
///
/// # Errors
///
/// Those of `send(2)`.
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is live for its length.
    moved(unsafe {
        super::luna_send(
            fd,
            bytes.as_ptr().cast::<c_void>(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    })
}

/// `close(2)`.
///
/// # Errors
///
/// Those of `close(2)`.
pub fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers.
    done(unsafe { super::luna_close(fd) }).map(drop)
}

/// `setsockopt(2)` with an `int`.
///
/// # Errors
///
/// Those of `setsockopt(2)`.
pub fn set_option(fd: RawFd, level: c_int, name: c_int, value: c_int) -> Result<(), Errno> {
    let pointer = core::ptr::from_ref(&value).cast::<c_void>();
    // SAFETY: the value is live and as long as is said.
    done(unsafe {
        super::luna_setsockopt(fd, level, name, pointer, size_of::<c_int>() as socklen_t)
    })
    .map(drop)
}

/// `getsockopt(2)` of an `int`.
///
/// # Errors
///
/// Those of `getsockopt(2)`.
pub fn option(fd: RawFd, level: c_int, name: c_int) -> Result<c_int, Errno> {
    let (mut value, mut len) = (0 as c_int, size_of::<c_int>() as socklen_t);
    let pointer = core::ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: the value and its length are live and writable.
    done(unsafe { super::luna_getsockopt(fd, level, name, pointer, &raw mut len) })?;
    Ok(value)
}

/// `epoll_create1(2)`.
///
/// # Errors
///
/// Those of `epoll_create1(2)`.
pub fn epoll_create() -> Result<RawFd, Errno> {
    // SAFETY: no pointers.
    done(unsafe { super::luna_epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// `epoll_ctl(2)`.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`.
pub fn epoll_ctl(epfd: RawFd, operation: c_int, fd: RawFd, event: EpollEvent) -> Result<(), Errno> {
    let mut event = event;
    let pointer = core::ptr::from_mut(&mut event).cast::<epoll_event>();
    // SAFETY: the event is live, and of the layout that is asserted above.
    done(unsafe { super::luna_epoll_ctl(epfd, operation, fd, pointer) }).map(drop)
}

/// `epoll_wait(2)`; a negative timeout (in milliseconds) waits for ever.
///
/// # Errors
///
/// Those of `epoll_wait(2)`.
#[inline]
pub fn epoll_wait(
    epfd: RawFd,
    events: &mut [EpollEvent],
    timeout_ms: c_int,
) -> Result<usize, Errno> {
    let room = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
    let pointer = events.as_mut_ptr().cast::<epoll_event>();
    // SAFETY: at most `room` events are written to a live slice at least as long, whose
    // elements have the layout that is asserted above.
    done(unsafe { super::luna_epoll_wait(epfd, pointer, room, timeout_ms) })
        .map(|count| count as usize)
}
