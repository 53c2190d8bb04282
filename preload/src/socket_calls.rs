//! Calls that make, name and tune sockets.

use libc::{c_int, c_void, sockaddr, socklen_t};

use crate::hook::{self, hooks};

hooks! {
    // Other families can never be accelerated and do not need to be asked about.
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = |luna| {
        let is_internet = domain == libc::AF_INET || domain == libc::AF_INET6;
        if !is_internet || !luna.may_change_descriptors() {
            return None;
        }
        // SAFETY: plain numbers.
        Some(hook::inside(|| unsafe { (luna.socket)(domain, kind, protocol) }))
    }

    fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int = |luna| {
        // SAFETY: the caller's arguments, unchanged; so in every hook below.
        luna.on(fd, || unsafe { (luna.bind)(fd, address, len) })
    }

    fn listen(fd: c_int, backlog: c_int) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.listen)(fd, backlog) })
    }

    fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.accept)(fd, address, len) })
    }

    fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int
        = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.accept4)(fd, address, len, flags) })
    }

    fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.connect)(fd, address, len) })
    }

    fn __connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int = |luna| {
        // SAFETY: as above.
        unsafe { ours::connect(luna, fd, address, len) }
    }

    fn shutdown(fd: c_int, how: c_int) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.shutdown)(fd, how) })
    }

    fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.getsockname)(fd, address, len) })
    }

    fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.getpeername)(fd, address, len) })
    }

    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t)
        -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.getsockopt)(fd, level, name, value, len) })
    }

    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t)
        -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.setsockopt)(fd, level, name, value, len) })
    }
}
