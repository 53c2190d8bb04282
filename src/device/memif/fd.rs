//! The link's descriptors: out of the application's way, and known to a forked child.

use core::sync::atomic::{AtomicI32, Ordering};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{FileType, OFlags};

use crate::sys::{self, Errno, OwnFd, PollFd, internal};

/// Two ends in one process (as tests have) need some ten each.
const SLOTS: usize = 64;
static OPEN: [AtomicI32; SLOTS] = [const { AtomicI32::new(-1) }; SLOTS];

/// A descriptor of ours that a child of `fork` must close: while a copy is open, the peer does
/// not notice that we are gone.
#[derive(Debug)]
pub(super) struct Handle(OwnFd);

impl Handle {
    /// Takes over a descriptor that the kernel has just made.
    pub(super) fn adopt(fd: OwnedFd) -> Result<Self, Errno> {
        Self::own(OwnFd::adopt(fd.into_raw_fd())?)
    }

    /// The same for an eventfd that the peer has sent. `EINVAL` if it is a file, a pipe or a
    /// socket: we write to it, and must neither wait nor be sent a signal for that.
    pub(super) fn adopt_event(fd: OwnedFd) -> Result<Self, Errno> {
        let mode = rustix::fs::fstat(&fd)?.st_mode;
        // What has no place in a file system has no type.
        if FileType::from_raw_mode(mode) != FileType::Unknown {
            return Err(Errno::INVAL);
        }
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Self::adopt(fd)
    }

    /// The same for a number.
    pub(super) fn adopt_raw(fd: RawFd) -> Result<Self, Errno> {
        // SAFETY: a descriptor that a system call has just returned to the caller.
        Self::adopt(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Registers a descriptor.
    pub(super) fn own(fd: OwnFd) -> Result<Self, Errno> {
        let slot = OPEN.iter().find(|slot| {
            slot.compare_exchange(-1, fd.fd(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        slot.map(|_| Self(fd)).ok_or(Errno::MFILE)
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.fd()
    }

    /// Makes an eventfd readable that the peer has as well. Never waits: it may have made it
    /// blocking, and filled it.
    pub(super) fn raise(&self) {
        let mut ready = [PollFd {
            fd: self.0.fd(),
            events: libc::POLLOUT,
            revents: 0,
        }];
        if sys::ppoll(&mut ready, Some(0), None) == Ok(1) {
            sys::eventfd_raise(self.0.fd());
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.fd()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for slot in &OPEN {
            let _other =
                slot.compare_exchange(self.0.fd(), -1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// In a child of `fork`: closes the copies of the parent's descriptors, whatever has become of the
/// values that own them.
pub fn close_inherited() {
    for slot in &OPEN {
        let fd = slot.swap(-1, Ordering::AcqRel);
        if fd >= 0 {
            internal::discard(fd);
        }
    }
}
