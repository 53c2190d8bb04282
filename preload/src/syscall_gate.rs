//! `syscall()`: the library function by which programs go round all others.
//!
//! Socket calls made through it are routed like the functions of the same name. `io_uring_setup`
//! fails with `ENOSYS` while luna is active, as on a kernel without it, because what is submitted
//! through a ring never passes here (libuv sends its `epoll_ctl` that way); `LUNA_IO_URING=1`
//! allows it to programs that use rings for files only.

use core::ptr;

use libc::{c_int, c_long, c_uint, c_ulong, c_void, size_t};

use crate::hook::{self, hooks};
use crate::libluna::{self, Libluna};
use crate::{event_calls, fd_calls, io_calls, socket_calls};

hooks! {
    // Every number is read with six arguments: those that the caller did not give are whatever
    // was in the registers, and the kernel does not look at them.
    fn syscall(
        number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long,
    ) -> c_long = |luna| {
        let arguments = [a, b, c, d, e, f];
        if number == libc::SYS_io_uring_setup {
            let refuse = !hook::is_inside() && !libluna::is_io_uring_allowed();
            return refuse.then(|| hook::fail(libc::ENOSYS));
        }
        // SAFETY: the caller's arguments for this number.
        unsafe {
            input_output(luna, number, arguments)
                .or_else(|| sockets(luna, number, arguments))
                .or_else(|| events(luna, number, arguments))
                .or_else(|| descriptors(luna, number, arguments))
        }
    }
}

/// An argument as a pointer.
const fn at<T>(argument: c_long) -> *mut T {
    argument as usize as *mut T
}

const fn int(argument: c_long) -> c_int {
    argument as c_int
}

unsafe fn sockets(luna: &'static Libluna, number: c_long, args: [c_long; 6]) -> Option<c_long> {
    use socket_calls::ours;
    let [a, b, c, d, e, _] = args;
    // SAFETY: the system call takes what the function takes.
    let result = unsafe {
        match number {
            libc::SYS_socket => ours::socket(luna, int(a), int(b), int(c)),
            libc::SYS_bind => ours::bind(luna, int(a), at(b), c as c_uint),
            libc::SYS_listen => ours::listen(luna, int(a), int(b)),
            libc::SYS_accept => ours::accept(luna, int(a), at(b), at(c)),
            libc::SYS_accept4 => ours::accept4(luna, int(a), at(b), at(c), int(d)),
            libc::SYS_connect => ours::connect(luna, int(a), at(b), c as c_uint),
            libc::SYS_shutdown => ours::shutdown(luna, int(a), int(b)),
            libc::SYS_getsockname => ours::getsockname(luna, int(a), at(b), at(c)),
            libc::SYS_getpeername => ours::getpeername(luna, int(a), at(b), at(c)),
            libc::SYS_getsockopt => ours::getsockopt(luna, int(a), int(b), int(c), at(d), at(e)),
            libc::SYS_setsockopt => {
                ours::setsockopt(luna, int(a), int(b), int(c), at(d), e as c_uint)
            }
            _ => None,
        }
    };
    result.map(c_long::from)
}

unsafe fn input_output(
    luna: &'static Libluna,
    number: c_long,
    args: [c_long; 6],
) -> Option<c_long> {
    use io_calls::ours;
    let [a, b, c, d, e, f] = args;
    let len = c as size_t;
    // SAFETY: the system call takes what the function takes, but for the offset of the vector
    // calls: on 64-bit systems it is all in the fourth argument and the fifth is not looked at.
    let result = unsafe {
        match number {
            libc::SYS_read => ours::read(luna, int(a), at(b), len),
            libc::SYS_write => ours::write(luna, int(a), at::<c_void>(b), len),
            libc::SYS_readv => ours::readv(luna, int(a), at(b), int(c)),
            libc::SYS_writev => ours::writev(luna, int(a), at(b), int(c)),
            libc::SYS_preadv2 => ours::preadv2(luna, int(a), at(b), int(c), d, int(f)),
            libc::SYS_pwritev2 => ours::pwritev2(luna, int(a), at(b), int(c), d, int(f)),
            libc::SYS_recvfrom => ours::recvfrom(luna, int(a), at(b), len, int(d), at(e), at(f)),
            libc::SYS_sendto => ours::sendto(
                luna,
                int(a),
                at::<c_void>(b),
                len,
                int(d),
                at(e),
                f as c_uint,
            ),
            libc::SYS_recvmsg => ours::recvmsg(luna, int(a), at(b), int(c)),
            libc::SYS_sendmsg => ours::sendmsg(luna, int(a), at(b), int(c)),
            libc::SYS_recvmmsg => {
                return ours::recvmmsg(luna, int(a), at(b), c as c_uint, int(d), at(e))
                    .map(c_long::from);
            }
            libc::SYS_sendmmsg => {
                return ours::sendmmsg(luna, int(a), at(b), c as c_uint, int(d)).map(c_long::from);
            }
            libc::SYS_sendfile => ours::sendfile(luna, int(a), int(b), at(c), d as size_t),
            libc::SYS_splice => {
                ours::splice(luna, int(a), at(b), int(c), at(d), e as size_t, f as c_uint)
            }
            _ => None,
        }
    };
    result.map(|bytes| bytes as c_long)
}

unsafe fn events(luna: &'static Libluna, number: c_long, args: [c_long; 6]) -> Option<c_long> {
    use event_calls::ours;
    let [a, b, c, d, e, f] = args;
    // SAFETY: the system call takes what the function takes, but for the size of the mask, which
    // follows it.
    let result = unsafe {
        match number {
            libc::SYS_epoll_create1 => ours::epoll_create1(luna, int(a)),
            libc::SYS_epoll_ctl => ours::epoll_ctl(luna, int(a), int(b), int(c), at(d)),
            libc::SYS_epoll_pwait => ours::epoll_pwait(luna, int(a), at(b), int(c), int(d), at(e)),
            libc::SYS_epoll_pwait2 => ours::epoll_pwait2(luna, int(a), at(b), int(c), at(d), at(e)),
            libc::SYS_ppoll => ours::ppoll(luna, at(a), b as c_ulong, at(c), at(d)),
            libc::SYS_pselect6 => {
                // The last argument points to the mask's address and its size.
                let mask = at::<c_long>(f)
                    .as_ref()
                    .map_or(ptr::null_mut(), |mask| at(*mask));
                ours::pselect(luna, int(a), at(b), at(c), at(d), at(e), mask)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_create => ours::epoll_create(luna, int(a)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => ours::epoll_wait(luna, int(a), at(b), int(c), int(d)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => ours::poll(luna, at(a), b as c_ulong, int(c)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => ours::select(luna, int(a), at(b), at(c), at(d), at(e)),
            _ => None,
        }
    };
    result.map(c_long::from)
}

unsafe fn descriptors(luna: &'static Libluna, number: c_long, args: [c_long; 6]) -> Option<c_long> {
    use fd_calls::ours;
    let [a, b, c, ..] = args;
    // SAFETY: the system call takes what the function takes.
    let result = unsafe {
        match number {
            libc::SYS_close => ours::close(luna, int(a)),
            libc::SYS_close_range => ours::close_range(luna, a as c_uint, b as c_uint, int(c)),
            libc::SYS_dup => ours::dup(luna, int(a)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => ours::dup2(luna, int(a), int(b)),
            libc::SYS_dup3 => ours::dup3(luna, int(a), int(b), int(c)),
            libc::SYS_fcntl => ours::fcntl(luna, int(a), int(b), c),
            libc::SYS_ioctl => ours::ioctl(luna, int(a), b as c_ulong, c),
            _ => None,
        }
    };
    result.map(c_long::from)
}
