//! `epoll`, `poll` and `select`.

use core::ffi::c_int;

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use super::macros::{Failure, ended, forward};
use crate::sys::{self, Errno};

/// The kernel's `sigset_t`, which is shorter than the C library's.
const SIGSET_BYTES: usize = 8;

/// `epoll_create(2)`.
///
/// # Safety
///
/// None: any argument is fine.
///
/// # Errors
///
/// Those of `epoll_create(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_epoll_create(size: c_int) -> c_int {
    if size <= 0 {
        sys::set_errno(Errno::INVAL);
        return c_int::FAILED;
    }
    // SAFETY: no pointers.
    unsafe { luna_epoll_create1(0) }
}

/// `epoll_create1(2)`.
///
/// # Safety
///
/// None: any argument is fine.
///
/// # Errors
///
/// Those of `epoll_create1(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_epoll_create1(flags: c_int) -> c_int {
    ended(forward!(epoll_create1, flags))
}

/// `epoll_ctl(2)`.
///
/// # Safety
///
/// As for `epoll_ctl(2)`.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_epoll_ctl(
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    ended(forward!(epoll_ctl, epfd, op, fd, event))
}

/// `epoll_wait(2)`.
///
/// # Safety
///
/// As for `epoll_wait(2)`.
///
/// # Errors
///
/// Those of `epoll_wait(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    maxevents: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: the caller's contract; no mask.
    unsafe { luna_epoll_pwait(epfd, events, maxevents, timeout, core::ptr::null()) }
}

/// `epoll_pwait(2)`.
///
/// # Safety
///
/// As for `epoll_pwait(2)`.
///
/// # Errors
///
/// Those of `epoll_pwait(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    maxevents: c_int,
    timeout: c_int,
    sigmask: *const sigset_t,
) -> c_int {
    ended(forward!(
        epoll_pwait,
        epfd,
        events,
        maxevents,
        timeout,
        sigmask,
        SIGSET_BYTES
    ))
}

/// `epoll_pwait2(2)`.
///
/// # Safety
///
/// As for `epoll_pwait2(2)`.
///
/// # Errors
///
/// Those of `epoll_pwait2(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_epoll_pwait2(
    epfd: c_int,
    events: *mut epoll_event,
    maxevents: c_int,
    timeout: *const timespec,
    sigmask: *const sigset_t,
) -> c_int {
    ended(forward!(
        epoll_pwait2,
        epfd,
        events,
        maxevents,
        timeout,
        sigmask,
        SIGSET_BYTES
    ))
}

/// `poll(2)`.
///
/// # Safety
///
/// As for `poll(2)`.
///
/// # Errors
///
/// Those of `poll(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_poll(fds: *mut pollfd, nfds: nfds_t, timeout: c_int) -> c_int {
    let limit = timespec {
        tv_sec: i64::from(timeout / 1000),
        tv_nsec: i64::from(timeout % 1000) * 1_000_000,
    };
    let limit = if timeout < 0 {
        core::ptr::null()
    } else {
        core::ptr::from_ref(&limit)
    };
    // SAFETY: the caller's contract; no mask.
    unsafe { luna_ppoll(fds, nfds, limit, core::ptr::null()) }
}

/// `ppoll(2)`.
///
/// # Safety
///
/// As for `ppoll(2)`.
///
/// # Errors
///
/// Those of `ppoll(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_ppoll(
    fds: *mut pollfd,
    nfds: nfds_t,
    timeout: *const timespec,
    sigmask: *const sigset_t,
) -> c_int {
    // The system call changes its timeout; the function does not.
    // SAFETY: null, or the caller vouches for it.
    let mut limit = unsafe { timeout.as_ref() }.copied();
    let limit = limit
        .as_mut()
        .map_or(core::ptr::null_mut(), core::ptr::from_mut);
    ended(forward!(ppoll, fds, nfds, limit, sigmask, SIGSET_BYTES))
}

/// `select(2)`. Like the system call, leaves the time that was left in `timeout`.
///
/// # Safety
///
/// As for `select(2)`.
///
/// # Errors
///
/// Those of `select(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_select(
    nfds: c_int,
    readfds: *mut fd_set,
    writefds: *mut fd_set,
    exceptfds: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: null, or the caller vouches for it.
    let given = unsafe { timeout.as_mut() };
    let mut limit = given.as_ref().map(|given| timespec {
        tv_sec: given.tv_sec.saturating_add(given.tv_usec / 1_000_000),
        tv_nsec: given.tv_usec % 1_000_000 * 1000,
    });
    let pointer = limit
        .as_mut()
        .map_or(core::ptr::null_mut(), core::ptr::from_mut);
    let none: *const sigset_t = core::ptr::null();
    let result = forward!(pselect6, nfds, readfds, writefds, exceptfds, pointer, none);
    if let (Some(given), Some(left)) = (given, limit) {
        given.tv_sec = left.tv_sec;
        given.tv_usec = left.tv_nsec / 1000;
    }
    ended(result)
}

/// `pselect(2)`.
///
/// # Safety
///
/// As for `pselect(2)`.
///
/// # Errors
///
/// Those of `pselect(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_pselect(
    nfds: c_int,
    readfds: *mut fd_set,
    writefds: *mut fd_set,
    exceptfds: *mut fd_set,
    timeout: *const timespec,
    sigmask: *const sigset_t,
) -> c_int {
    // SAFETY: null, or the caller vouches for it.
    let mut limit = unsafe { timeout.as_ref() }.copied();
    let limit = limit
        .as_mut()
        .map_or(core::ptr::null_mut(), core::ptr::from_mut);
    let mask = [sigmask as usize, SIGSET_BYTES];
    let mask = core::ptr::from_ref(&mask);
    ended(forward!(
        pselect6, nfds, readfds, writefds, exceptfds, limit, mask
    ))
}
