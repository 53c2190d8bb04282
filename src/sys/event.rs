//! Waiting: epoll, poll, eventfd and signal masks on descriptor numbers.

use core::ffi::c_int;
use std::os::fd::RawFd;

use syscalls::Sysno;

use super::{Errno, descriptor_limit, dup_from, internal, raw};
use crate::time::Duration;

/// `struct epoll_event`, as the kernel and applications lay it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
pub struct EpollEvent {
    /// `EPOLLIN` and friends.
    pub events: u32,
    /// The application's.
    pub data: u64,
}

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PollFd {
    /// The descriptor; negative ones are skipped.
    pub fd: RawFd,
    /// What is asked for.
    pub events: i16,
    /// What there is.
    pub revents: i16,
}

/// A signal set as the kernel has it (64 signals).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// Every signal; the kernel leaves KILL and STOP out by itself.
    pub const ALL: Self = Self(u64::MAX);
    /// All but those that a fault in our own code raises, which must not be held back.
    pub const ALL_BUT_FAULTS: Self = Self(
        !(1 << (libc::SIGSEGV - 1)
            | 1 << (libc::SIGBUS - 1)
            | 1 << (libc::SIGILL - 1)
            | 1 << (libc::SIGFPE - 1)
            | 1 << (libc::SIGTRAP - 1)
            | 1 << (libc::SIGABRT - 1)),
    );
}

/// The size that the kernel wants to hear for a signal set.
const SIGNAL_SET_BYTES: usize = 8;

fn word(value: c_int) -> usize {
    value as isize as usize
}

/// `struct timespec`.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

impl Timespec {
    fn from_nanos(ns: u64) -> Self {
        Self {
            seconds: (ns / 1_000_000_000) as i64,
            nanos: (ns % 1_000_000_000) as i64,
        }
    }
}

/// `ppoll(2)`. `timeout_ns`: none waits for ever. The mask, if any, holds while it waits.
///
/// # Errors
///
/// `EINTR`, `ENOMEM`, `EINVAL` (more descriptors than `RLIMIT_NOFILE`).
pub fn ppoll(
    fds: &mut [PollFd],
    timeout_ns: Option<u64>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    let mut timeout = timeout_ns.map(Timespec::from_nanos);
    let timeout = timeout
        .as_mut()
        .map_or(0, |t| core::ptr::from_mut(t) as usize);
    let mask = mask.as_ref().map_or(0, |m| core::ptr::from_ref(m) as usize);
    // SAFETY: `fds` is a live array of `struct pollfd` of this length; the timeout and the mask
    // are null or live until the call returns, and of the size that is declared.
    unsafe {
        raw(
            Sysno::ppoll,
            [
                fds.as_mut_ptr() as usize,
                fds.len(),
                timeout,
                mask,
                SIGNAL_SET_BYTES,
                0,
            ],
        )
    }
}

/// `pselect6(2)`. The sets have as many words as `nfds` needs; what is left of the timeout is
/// stored in it.
///
/// # Errors
///
/// `EBADF`, `EINTR`, `EINVAL` (also for sets that are too short), `ENOMEM`.
pub fn pselect(
    nfds: usize,
    sets: [Option<&mut [usize]>; 3],
    timeout: &mut Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    let nfds_int = c_int::try_from(nfds).map_err(|_| Errno::INVAL)?;
    let words = nfds.div_ceil(usize::BITS as usize);
    if sets.iter().flatten().any(|set| set.len() < words) {
        return Err(Errno::INVAL);
    }
    let [read, write, except] =
        sets.map(|set| set.map_or(0, |set| core::ptr::from_mut(set).cast::<usize>() as usize));
    let mut left = timeout.map(|t| Timespec::from_nanos(t.as_nanos()));
    let left_at = left.as_mut().map_or(0, |t| core::ptr::from_mut(t) as usize);
    // The sixth argument points to the mask's address and size.
    let mask_at = mask.as_ref().map_or(0, |m| core::ptr::from_ref(m) as usize);
    let sixth = [mask_at, SIGNAL_SET_BYTES];
    // SAFETY: each set is null or a live slice of at least the words that the kernel reads and
    // writes for `nfds`; the timeout, the pair and the mask are live, or null.
    let result = unsafe {
        raw(
            Sysno::pselect6,
            [
                word(nfds_int),
                read,
                write,
                except,
                left_at,
                sixth.as_ptr() as usize,
            ],
        )
    };
    if let (Some(timeout), Some(left)) = (timeout, left) {
        *timeout = Duration::from_nanos(
            (left.seconds as u64)
                .saturating_mul(1_000_000_000)
                .saturating_add(left.nanos as u64),
        );
    }
    result
}

/// `epoll_create1(2)`.
///
/// # Errors
///
/// `EINVAL`, `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn epoll_create1(flags: c_int) -> Result<RawFd, Errno> {
    // SAFETY: no pointers.
    unsafe { raw(Sysno::epoll_create1, [word(flags), 0, 0, 0, 0, 0]) }.map(|fd| fd as RawFd)
}

/// `epoll_ctl(2)`.
///
/// # Errors
///
/// The kernel's.
pub fn epoll_ctl(
    epfd: RawFd,
    operation: c_int,
    fd: RawFd,
    event: Option<EpollEvent>,
) -> Result<(), Errno> {
    let event = event
        .as_ref()
        .map_or(0, |e| core::ptr::from_ref(e) as usize);
    // SAFETY: the event is null or a live `struct epoll_event`.
    unsafe {
        raw(
            Sysno::epoll_ctl,
            [word(epfd), word(operation), word(fd), event, 0, 0],
        )
    }
    .map(drop)
}

/// `epoll_pwait2(2)` (or `epoll_wait` without waiting, which every kernel has).
///
/// # Errors
///
/// `EBADF`, `EINTR`, `EINVAL`.
pub fn epoll_wait(
    epfd: RawFd,
    events: &mut [EpollEvent],
    timeout_ns: Option<u64>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    let room = events.len().min(c_int::MAX as usize);
    if timeout_ns == Some(0) && mask.is_none() {
        // SAFETY: the kernel writes at most `room` events to a live slice at least as long.
        return unsafe {
            raw(
                Sysno::epoll_pwait,
                [
                    word(epfd),
                    events.as_mut_ptr() as usize,
                    room,
                    0,
                    0,
                    SIGNAL_SET_BYTES,
                ],
            )
        };
    }
    let mut timeout = timeout_ns.map(Timespec::from_nanos);
    let timeout = timeout
        .as_mut()
        .map_or(0, |t| core::ptr::from_mut(t) as usize);
    let mask = mask.as_ref().map_or(0, |m| core::ptr::from_ref(m) as usize);
    // SAFETY: as above; the timeout and the mask are null or live until the call returns.
    unsafe {
        raw(
            Sysno::epoll_pwait2,
            [
                word(epfd),
                events.as_mut_ptr() as usize,
                room,
                timeout,
                mask,
                SIGNAL_SET_BYTES,
            ],
        )
    }
}

/// Replaces the calling thread's signal mask; returns the old one.
pub fn set_signal_mask(mask: SignalSet) -> SignalSet {
    let mut old = SignalSet(0);
    // SAFETY: the kernel reads one set and writes another, both live and of the declared size.
    let _cannot_fail = unsafe {
        raw(
            Sysno::rt_sigprocmask,
            [
                word(libc::SIG_SETMASK),
                core::ptr::from_ref(&mask) as usize,
                core::ptr::from_mut(&mut old) as usize,
                SIGNAL_SET_BYTES,
                0,
                0,
            ],
        )
    };
    old
}

/// The calling thread's signal mask.
pub fn signal_mask() -> SignalSet {
    let mut mask = SignalSet(0);
    // SAFETY: the kernel writes one set, live and of the declared size.
    let _cannot_fail = unsafe {
        raw(
            Sysno::rt_sigprocmask,
            [
                word(libc::SIG_BLOCK),
                0,
                core::ptr::from_mut(&mut mask) as usize,
                SIGNAL_SET_BYTES,
                0,
                0,
            ],
        )
    };
    mask
}

/// A descriptor of our own, out of the application's way and close-on-exec; closed when dropped.
#[derive(Debug)]
pub struct OwnFd(RawFd);

impl OwnFd {
    /// Takes over a descriptor that the kernel has just made.
    ///
    /// # Errors
    ///
    /// `EMFILE`; the descriptor is closed.
    pub fn adopt(fd: RawFd) -> Result<Self, Errno> {
        let own = Self::duplicate(fd);
        let _ = super::close(fd);
        own
    }

    /// A duplicate of a descriptor that the application owns.
    ///
    /// # Errors
    ///
    /// `EBADF`, `EMFILE`.
    pub fn duplicate(fd: RawFd) -> Result<Self, Errno> {
        let least = (descriptor_limit() / 4 * 3).min(OWN_FD_LEAST_MAX) as c_int;
        let own = dup_from(fd, least, true).or_else(|_| dup_from(fd, 0, true))?;
        // With too many on the list, a loop that closes everything closes this too.
        let _ = internal::keep_here(own);
        Ok(Self(own))
    }

    /// An epoll descriptor.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn epoll() -> Result<Self, Errno> {
        Self::adopt(epoll_create1(libc::EPOLL_CLOEXEC)?)
    }

    /// A non-blocking eventfd.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn eventfd() -> Result<Self, Errno> {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { raw(Sysno::eventfd2, [0, word(flags), 0, 0, 0, 0]) }?;
        Self::adopt(fd as RawFd)
    }

    /// Its number.
    pub const fn fd(&self) -> RawFd {
        self.0
    }
}

impl Drop for OwnFd {
    fn drop(&mut self) {
        internal::discard(self.0);
    }
}

/// Our numbers begin here at the latest: the kernel's table of descriptors grows (8 bytes each)
/// to the highest in use.
const OWN_FD_LEAST_MAX: u64 = 16_384;

/// Makes an eventfd readable.
pub fn eventfd_raise(fd: RawFd) {
    // It fails only when the counter is at its maximum: readable all the same.
    let _ = super::write(fd, &1_u64.to_ne_bytes());
}

/// Makes an eventfd unreadable.
pub fn eventfd_clear(fd: RawFd) {
    // EAGAIN: it was unreadable.
    let _ = super::read(fd, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_descriptors_are_high_and_work() {
        let event = OwnFd::eventfd().unwrap();
        assert!(internal::is_internal(event.fd()));
        let mut fds = [PollFd {
            fd: event.fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        assert_eq!(ppoll(&mut fds, Some(0), None), Ok(0));
        eventfd_raise(event.fd());
        assert_eq!(ppoll(&mut fds, None, Some(SignalSet::ALL)), Ok(1));
        eventfd_clear(event.fd());
        assert_eq!(ppoll(&mut fds, Some(1000), None), Ok(0));
    }

    #[test]
    fn epoll_calls_reach_the_kernel() {
        let epoll = OwnFd::epoll().unwrap();
        let event = OwnFd::eventfd().unwrap();
        let wanted = EpollEvent {
            events: libc::EPOLLIN as u32,
            data: 7 << 40,
        };
        epoll_ctl(epoll.fd(), libc::EPOLL_CTL_ADD, event.fd(), Some(wanted)).unwrap();
        let mut events = [EpollEvent::default(); 4];
        assert_eq!(epoll_wait(epoll.fd(), &mut events, Some(0), None), Ok(0));
        assert_eq!(epoll_wait(epoll.fd(), &mut events, Some(1), None), Ok(0));
        eventfd_raise(event.fd());
        assert_eq!(epoll_wait(epoll.fd(), &mut events, None, None), Ok(1));
        assert_eq!(events[0], wanted);
    }

    #[test]
    fn masks_are_exchanged() {
        let old = set_signal_mask(SignalSet::ALL_BUT_FAULTS);
        let inside = set_signal_mask(old);
        assert_ne!(inside.0 & 1 << (libc::SIGUSR1 - 1), 0);
        assert_eq!(inside.0 & 1 << (libc::SIGSEGV - 1), 0);
        assert_eq!(set_signal_mask(old), old);
    }
}
