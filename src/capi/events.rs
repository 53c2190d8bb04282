//! `epoll`, `poll` and `select`.

use core::ffi::c_int;
use core::slice;

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use super::macros::{Failure, ended, entry, forward};
use super::memory;
use crate::socket::poll::{FdSets, fd_set_words};
use crate::socket::{self, description, epoll, fork};
use crate::sys::{self, EpollEvent, Errno, PollFd, SignalSet};
use crate::time::Duration;

/// The kernel's `sigset_t`, which is shorter than the C library's.
const SIGSET_BYTES: usize = 8;

// What C gives us is what the socket layer takes.
const _: () = assert!(size_of::<epoll_event>() == size_of::<EpollEvent>());
const _: () = assert!(align_of::<epoll_event>() == align_of::<EpollEvent>());
const _: () = assert!(size_of::<pollfd>() == size_of::<PollFd>());
const _: () = assert!(align_of::<pollfd>() == align_of::<PollFd>());

/// A time span in the words of C; negative milliseconds are for ever.
fn millis(timeout: c_int) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// # Safety
///
/// `timeout` is null or points to a `timespec`.
unsafe fn optional_span(timeout: *const timespec) -> Result<Option<Duration>, Errno> {
    // SAFETY: the caller's contract.
    unsafe { timeout.as_ref() }
        .copied()
        .map(memory::span)
        .transpose()
}

/// # Safety
///
/// `mask` is null or points to a `sigset_t`.
unsafe fn optional_mask(mask: *const sigset_t) -> Option<SignalSet> {
    // SAFETY: the C library's set begins with the kernel's.
    unsafe { mask.cast::<SignalSet>().as_ref() }.copied()
}

fn count(result: Result<usize, Errno>) -> Result<c_int, Errno> {
    result.map(|count| c_int::try_from(count).unwrap_or(c_int::MAX))
}

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
    entry!({ epoll::open(flags) })
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
    let Some(set) = epoll::set_of(epfd) else {
        return ended(forward!(epoll_ctl, epfd, op, fd, event));
    };
    entry!({
        // SAFETY: null, or the caller vouches for it; `epoll_event` and `EpollEvent` are the
        // same in memory.
        let event = unsafe { event.cast::<EpollEvent>().as_ref() }.copied();
        if op != libc::EPOLL_CTL_ADD {
            // What is in a set got there by a call that asked the kernel whose number this is:
            // a loop that changes its mind with each request is spared a system call.
            match epoll::change(&set, op, fd, socket::pin(fd).as_ref(), event) {
                Err(Errno::NOENT) => {}
                result => return result.map(|()| 0),
            }
        }
        let target = socket::pin_checked(fd);
        epoll::change(&set, op, fd, target.as_ref(), event)?;
        Ok(0)
    })
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
    let Some(set) = epoll::set_of(epfd) else {
        return ended(forward!(
            epoll_pwait,
            epfd,
            events,
            maxevents,
            timeout,
            sigmask,
            SIGSET_BYTES
        ));
    };
    // SAFETY: the caller's contract.
    entry!({ unsafe { wait(&set, events, maxevents, millis(timeout), sigmask) } })
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
    let Some(set) = epoll::set_of(epfd) else {
        return ended(forward!(
            epoll_pwait2,
            epfd,
            events,
            maxevents,
            timeout,
            sigmask,
            SIGSET_BYTES
        ));
    };
    entry!({
        // SAFETY: the caller's contract.
        let timeout = unsafe { optional_span(timeout) }?;
        // SAFETY: the caller's contract.
        unsafe { wait(&set, events, maxevents, timeout, sigmask) }
    })
}

/// # Safety
///
/// As for `epoll_pwait2(2)`.
unsafe fn wait(
    set: &std::sync::Arc<epoll::Set>,
    events: *mut epoll_event,
    maxevents: c_int,
    timeout: Option<Duration>,
    sigmask: *const sigset_t,
) -> Result<c_int, Errno> {
    let room = usize::try_from(maxevents).map_err(|_| Errno::INVAL)?;
    if room == 0 || room > c_int::MAX as usize / size_of::<epoll_event>() {
        return Err(Errno::INVAL);
    }
    if events.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller vouches for `maxevents` events, which are plain integers.
    let events = unsafe { slice::from_raw_parts_mut(events.cast::<EpollEvent>(), room) };
    // SAFETY: the caller's contract.
    let mask = unsafe { optional_mask(sigmask) };
    count(epoll::wait(set, events, timeout, mask))
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
    if names_none_of_ours(fds, nfds) {
        return ended(forward!(poll, fds, nfds, timeout));
    }
    // SAFETY: the caller's contract.
    entry!({ unsafe { poll_ours(fds, nfds, millis(timeout), None) } })
}

/// Whether a list of descriptors has none of ours, so that the kernel alone may answer.
fn names_none_of_ours(fds: *const pollfd, nfds: nfds_t) -> bool {
    fork::check();
    if fds.is_null() || nfds == 0 || nfds > sys::descriptor_limit() {
        return true;
    }
    // SAFETY: the callers' callers vouch for `nfds` entries.
    let fds = unsafe { slice::from_raw_parts(fds, nfds as usize) };
    !fds.iter()
        .any(|entry| description::pin_active(entry.fd).is_some())
}

/// # Safety
///
/// `fds` points to `nfds` entries.
unsafe fn poll_ours(
    fds: *mut pollfd,
    nfds: nfds_t,
    timeout: Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<c_int, Errno> {
    // SAFETY: the caller's contract; `pollfd` and `PollFd` are the same in memory.
    let fds = unsafe { slice::from_raw_parts_mut(fds.cast::<PollFd>(), nfds as usize) };
    count(socket::poll::poll(fds, timeout, mask))
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
    if !names_none_of_ours(fds, nfds) {
        return entry!({
            // SAFETY: the caller's contract.
            let (limit, mask) = unsafe { (optional_span(timeout)?, optional_mask(sigmask)) };
            // SAFETY: the caller's contract.
            unsafe { poll_ours(fds, nfds, limit, mask) }
        });
    }
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
    entry!({
        // SAFETY: null, or the caller vouches for it.
        let given = unsafe { timeout.as_mut() };
        let limit = given.as_ref().map(|given| timespec {
            tv_sec: given.tv_sec.saturating_add(given.tv_usec / 1_000_000),
            tv_nsec: given.tv_usec % 1_000_000 * 1000,
        });
        let mut limit = limit.map(memory::span).transpose()?;
        let nfds = socket::poll::within_table(nfds);
        // SAFETY: the caller's contract.
        let sets = unsafe { fd_sets(nfds, [readfds, writefds, exceptfds]) }?;
        let result = socket::poll::select(nfds, sets, &mut limit, None);
        if let (Some(given), Some(left)) = (given, limit) {
            given.tv_sec = left.as_secs().cast_signed();
            given.tv_usec = (left.as_micros() % 1_000_000).cast_signed();
        }
        count(result)
    })
}

/// # Safety
///
/// Each set is null or has as many words as `nfds` needs.
unsafe fn fd_sets<'a>(nfds: c_int, sets: [*mut fd_set; 3]) -> Result<FdSets<'a>, Errno> {
    let words = fd_set_words(usize::try_from(nfds).map_err(|_| Errno::INVAL)?);
    let [read, write, except] = sets.map(|set| {
        let words_at = set.cast::<usize>();
        // SAFETY: not null, and the caller vouches for the length.
        (!set.is_null()).then(|| unsafe { slice::from_raw_parts_mut(words_at, words) })
    });
    Ok(FdSets {
        read,
        write,
        except,
    })
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
    entry!({
        // SAFETY: the caller's contract.
        let (mut limit, mask) = unsafe { (optional_span(timeout)?, optional_mask(sigmask)) };
        let nfds = socket::poll::within_table(nfds);
        // SAFETY: the caller's contract.
        let sets = unsafe { fd_sets(nfds, [readfds, writefds, exceptfds]) }?;
        count(socket::poll::select(nfds, sets, &mut limit, mask))
    })
}
