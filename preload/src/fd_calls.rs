//! Calls that close, duplicate and configure descriptors.

use libc::{c_int, c_long, c_uint, c_ulong};

use crate::hook::{self, hooks};
use crate::libluna::Libluna;

hooks! {
    fn close(fd: c_int) -> c_int = |luna| {
        let owned = luna.owns(fd);
        if !owned && !luna.is_internal(fd) || !luna.may_change_descriptors() {
            return None;
        }
        if !owned {
            // A loop over all numbers: the program does not know that this one is open.
            return Some(hook::fail(libc::EBADF));
        }
        // SAFETY: a plain number. (A cancellation point, but a close is not done twice.)
        Some(hook::inside(|| unsafe { (luna.close)(fd) }))
    }

    fn __close(fd: c_int) -> c_int = |luna| {
        // SAFETY: the caller's argument, unchanged.
        unsafe { ours::close(luna, fd) }
    }

    // With CLOSE_RANGE_CLOEXEC nothing is closed and the kernel's flag is the truth. With
    // CLOSE_RANGE_UNSHARE it is closed as without: a number that is reused is not ours any more.
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = |luna| {
        const UNSHARE: c_int = libc::CLOSE_RANGE_UNSHARE as c_int;
        if flags & !UNSHARE != 0 || first > last || !luna.may_change_descriptors() {
            return None;
        }
        // SAFETY: the caller's arguments.
        Some(unsafe { close_all(luna, first, last) })
    }

    fn closefrom(first: c_int) -> () = |luna| {
        if !luna.may_change_descriptors() {
            return None;
        }
        // SAFETY: the caller's argument; closefrom takes a negative number for 0.
        unsafe { close_all(luna, first.max(0) as c_uint, c_uint::MAX) };
        Some(())
    }

    fn dup(fd: c_int) -> c_int = |luna| {
        if !luna.owns(fd) || !luna.may_change_descriptors() {
            return None;
        }
        // SAFETY: a plain number.
        Some(hook::inside(|| unsafe { (luna.dup)(fd) }))
    }

    // Over one of ours it is a close as well, and over one of libluna's own libluna must first
    // move out of the way.
    fn dup2(fd: c_int, target: c_int) -> c_int = |luna| {
        if !concerns(luna, fd, target) {
            return None;
        }
        // SAFETY: plain numbers.
        Some(hook::inside(|| unsafe { (luna.dup2)(fd, target) }))
    }

    fn __dup2(fd: c_int, target: c_int) -> c_int = |luna| {
        // SAFETY: the caller's arguments, unchanged.
        unsafe { ours::dup2(luna, fd, target) }
    }

    fn dup3(fd: c_int, target: c_int, flags: c_int) -> c_int = |luna| {
        if !concerns(luna, fd, target) {
            return None;
        }
        // SAFETY: plain numbers.
        Some(hook::inside(|| unsafe { (luna.dup3)(fd, target, flags) }))
    }

    // The third argument is read whether or not the command has one, and always passed on.
    fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int = |luna| {
        if !luna.owns(fd) || !luna.may_change_descriptors() {
            return None;
        }
        // SAFETY: the caller's arguments, unchanged.
        Some(hook::inside(|| unsafe { (luna.fcntl)(fd, command, argument) }))
    }

    fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int = |luna| {
        // SAFETY: as above.
        unsafe { ours::fcntl(luna, fd, command, argument) }
    }

    fn __fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int = |luna| {
        // SAFETY: as above.
        unsafe { ours::fcntl(luna, fd, command, argument) }
    }

    fn ioctl(fd: c_int, request: c_ulong, argument: c_long) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on(fd, || unsafe { (luna.ioctl)(fd, request, argument) })
    }
}

fn concerns(luna: &Libluna, fd: c_int, target: c_int) -> bool {
    (luna.owns(fd) || luna.owns(target) || luna.is_internal(target))
        && luna.may_change_descriptors()
}

/// Closes `first..=last`: ours through luna, libluna's own not at all, the gaps between them in
/// the kernel.
unsafe fn close_all(luna: &'static Libluna, first: c_uint, last: c_uint) -> c_int {
    let mut gap = first;
    while let Some(fd) = next_special(luna, gap, last) {
        if fd > gap {
            // SAFETY: numbers that the caller wants closed.
            unsafe { close_gap(gap, fd - 1) };
        }
        if luna.owns(fd as c_int) {
            // SAFETY: as above.
            hook::inside(|| unsafe { (luna.close)(fd as c_int) });
        }
        match fd.checked_add(1) {
            Some(next) if next <= last => gap = next,
            _ => return 0,
        }
    }
    // SAFETY: as above.
    unsafe { close_gap(gap, last) }
}

/// The system call itself: the C library's `close_range` may be newer than the program's.
unsafe fn close_gap(first: c_uint, last: c_uint) -> c_int {
    // SAFETY: numbers that the caller wants closed.
    let result = unsafe {
        crate::syscall_gate::real::syscall(
            libc::SYS_close_range,
            c_long::from(first),
            c_long::from(last),
            0,
            0,
            0,
            0,
        )
    };
    result as c_int
}

/// The lowest descriptor in `first..=last` that is not the kernel's alone.
fn next_special(luna: &Libluna, first: c_uint, last: c_uint) -> Option<c_uint> {
    let from = c_int::try_from(first).ok()?;
    if let Some(call) = luna.fd_next {
        // SAFETY: a plain number.
        let next = c_uint::try_from(unsafe { call(from) }).ok()?;
        return (next <= last).then_some(next);
    }
    // No number beyond the limit can be open, unless the limit was lowered since.
    // SAFETY: an all-zero rlimit is valid, and the place is ours.
    let limit = unsafe {
        let mut limit: libc::rlimit = core::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_max.min(1 << 20) as c_int
    };
    let end = c_int::try_from(last).unwrap_or(c_int::MAX).min(limit);
    (from..=end)
        .find(|&fd| luna.owns(fd) || luna.is_internal(fd))
        .map(|fd| fd as c_uint)
}
