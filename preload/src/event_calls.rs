//! Calls that wait for readiness.

use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

use crate::hook::{self, hooks};
use crate::libluna::Libluna;

hooks! {
    fn epoll_create(size: c_int) -> c_int = |luna| {
        if !luna.may_change_descriptors() {
            return None;
        }
        Some(hook::inside(|| match luna.epoll_create {
            // SAFETY: a plain number.
            Some(call) => unsafe { call(size) },
            None if size <= 0 => hook::fail(libc::EINVAL),
            // SAFETY: a plain number.
            None => unsafe { (luna.epoll_create1)(0) },
        }))
    }

    fn epoll_create1(flags: c_int) -> c_int = |luna| {
        if !luna.may_change_descriptors() {
            return None;
        }
        // SAFETY: a plain number.
        Some(hook::inside(|| unsafe { (luna.epoll_create1)(flags) }))
    }

    // Also for a set that was made behind our back, if the socket is ours: libluna knows whether
    // it can adopt the set.
    fn epoll_ctl(set: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int = |luna| {
        // SAFETY: the caller's arguments, unchanged; so in every hook below.
        let call = || unsafe { (luna.epoll_ctl)(set, op, fd, event) };
        if hook::is_inside() {
            return None;
        }
        (luna.owns(set) || luna.owns(fd)).then(|| hook::inside(call))
    }

    fn epoll_wait(set: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int
        = |luna| {
        // SAFETY: as above.
        luna.on_blocking(set, || unsafe { (luna.epoll_wait)(set, events, max, timeout) })
    }

    fn epoll_pwait(
        set: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t,
    ) -> c_int = |luna| {
        // SAFETY: as above.
        luna.on_blocking(set, || unsafe { (luna.epoll_pwait)(set, events, max, timeout, mask) })
    }

    fn epoll_pwait2(
        set: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int = |luna| {
        luna.on_blocking(set, || match luna.epoll_pwait2 {
            // SAFETY: as above.
            Some(call) => unsafe { call(set, events, max, timeout, mask) },
            // SAFETY: as above; a timeout that is not null points to a timespec.
            None => match unsafe { timeout.as_ref() }.map_or(Some(-1), milliseconds) {
                // SAFETY: as above.
                Some(ms) => unsafe { (luna.epoll_pwait)(set, events, max, ms, mask) },
                None => hook::fail(libc::EINVAL),
            },
        })
    }

    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = |luna| {
        // SAFETY: as above.
        if !unsafe { any_in_list(luna, fds, count) } {
            return None;
        }
        // SAFETY: as above.
        Some(hook::inside_blocking(|| unsafe { (luna.poll)(fds, count, timeout) }))
    }

    fn __poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = |luna| {
        // SAFETY: as above.
        unsafe { ours::poll(luna, fds, count, timeout) }
    }

    // An overflow is left to the real function, which ends the process with its own message.
    fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int = |luna| {
        if room / size_of::<pollfd>() < count as usize {
            return None;
        }
        // SAFETY: as above.
        unsafe { ours::poll(luna, fds, count, timeout) }
    }

    fn ppoll(
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t,
    ) -> c_int = |luna| {
        // SAFETY: as above.
        if !unsafe { any_in_list(luna, fds, count) } {
            return None;
        }
        // SAFETY: as above.
        Some(hook::inside_blocking(|| unsafe { (luna.ppoll)(fds, count, timeout, mask) }))
    }

    fn __ppoll_chk(
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t,
        room: size_t,
    ) -> c_int = |luna| {
        if room / size_of::<pollfd>() < count as usize {
            return None;
        }
        // SAFETY: as above.
        unsafe { ours::ppoll(luna, fds, count, timeout, mask) }
    }

    fn select(
        count: c_int, readable: *mut fd_set, writable: *mut fd_set, exceptional: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int = |luna| {
        // SAFETY: as above.
        if !unsafe { concerns_us(luna, count, [readable, writable, exceptional]) } {
            return None;
        }
        Some(hook::inside_blocking(|| {
            // SAFETY: as above.
            unsafe { (luna.select)(count, readable, writable, exceptional, timeout) }
        }))
    }

    fn __select(
        count: c_int, readable: *mut fd_set, writable: *mut fd_set, exceptional: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int = |luna| {
        // SAFETY: as above.
        unsafe { ours::select(luna, count, readable, writable, exceptional, timeout) }
    }

    fn pselect(
        count: c_int, readable: *mut fd_set, writable: *mut fd_set, exceptional: *mut fd_set,
        timeout: *const timespec, mask: *const sigset_t,
    ) -> c_int = |luna| {
        // SAFETY: as above.
        if !unsafe { concerns_us(luna, count, [readable, writable, exceptional]) } {
            return None;
        }
        Some(hook::inside_blocking(|| {
            // SAFETY: as above.
            unsafe { (luna.pselect)(count, readable, writable, exceptional, timeout, mask) }
        }))
    }
}

/// A timeout in milliseconds, rounded up so that the call is never early; `None` if it is invalid.
fn milliseconds(timeout: &timespec) -> Option<c_int> {
    if timeout.tv_sec < 0 || !(0..1_000_000_000).contains(&timeout.tv_nsec) {
        return None;
    }
    let ms = timeout
        .tv_sec
        .saturating_mul(1_000)
        .saturating_add((timeout.tv_nsec + 999_999) / 1_000_000);
    Some(c_int::try_from(ms).unwrap_or(c_int::MAX))
}

/// Whether the list has a descriptor of ours. A list that the kernel would refuse has none.
///
/// # Safety
/// `fds` points to `count` entries, or is invalid in a way that the kernel reports.
unsafe fn any_in_list(luna: &Libluna, fds: *const pollfd, count: nfds_t) -> bool {
    if fds.is_null() || hook::is_inside() {
        return false;
    }
    // SAFETY: the caller's promise.
    (0..count as usize).any(|index| luna.owns(unsafe { (*fds.add(index)).fd }))
}

/// Whether a `select` is luna's: one of the sets has a descriptor of ours, or `count` may be the
/// most that there could be (`getdtablesize`) and not what the sets hold. libluna finds that out;
/// the kernel would be misled by the high numbers of luna's own descriptors.
///
/// # Safety
/// Each set is null or has `count` bits, if there are so many descriptors.
unsafe fn concerns_us(luna: &Libluna, count: c_int, sets: [*mut fd_set; 3]) -> bool {
    if hook::is_inside() {
        return false;
    }
    // SAFETY: the caller's promise; no program has smaller sets than the type.
    count > libc::FD_SETSIZE as c_int || unsafe { any_in_sets(luna, count, sets) }
}

/// Whether one of the sets has a descriptor of ours. The sets may be longer than `fd_set` says:
/// programs with many descriptors allocate their own.
///
/// # Safety
/// Each set is null or has `count` bits.
unsafe fn any_in_sets(luna: &Libluna, count: c_int, sets: [*mut fd_set; 3]) -> bool {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let count = count.max(0) as usize;
    for set in sets {
        if set.is_null() {
            continue;
        }
        for word in 0..count.div_ceil(BITS) {
            // SAFETY: the caller's promise: the word holds a bit below `count`.
            let mut bits = unsafe { *set.cast::<libc::c_ulong>().add(word) };
            while bits != 0 {
                let fd = word * BITS + bits.trailing_zeros() as usize;
                if fd < count && luna.owns(fd as c_int) {
                    return true;
                }
                bits &= bits - 1;
            }
        }
    }
    false
}
