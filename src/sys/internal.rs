//! Descriptors that we keep for ourselves, out of the application's way.
//!
//! They get high numbers, so that the application's own stay small and contiguous, and they are
//! listed, so that a loop that closes "everything" passes over them.

use core::sync::atomic::{AtomicI32, Ordering};
use std::os::fd::{AsFd, OwnedFd, RawFd};

use super::{Errno, close, descriptor_limit, dup_from};

const SLOTS: usize = 1024;
/// Numbers from here on may be ours.
const FIRST_MAX: u64 = 8192;

static FDS: [AtomicI32; SLOTS] = [const { AtomicI32::new(-1) }; SLOTS];
/// The smallest number that was ever kept: all below it are certainly not ours.
static LEAST: AtomicI32 = AtomicI32::new(i32::MAX);

/// Where the numbers begin that we move our descriptors to.
pub fn first() -> RawFd {
    let first = (descriptor_limit() / 4 * 3).min(FIRST_MAX);
    i32::try_from(first).unwrap_or(0)
}

/// Gives a descriptor a high number, close-on-exec, if there is one; else it stays as it is. Does
/// not list it.
pub fn out_of_the_way(fd: OwnedFd) -> OwnedFd {
    high_copy(&fd).unwrap_or(fd)
}

/// A second descriptor of the same file, with a high number, close-on-exec; none: there is none
/// left. Does not list it.
pub fn high_copy(fd: impl AsFd) -> Option<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, first()).ok()
}

/// Moves a descriptor to a high number, close-on-exec, and lists it. On failure the descriptor
/// is closed.
///
/// # Errors
///
/// `EMFILE` if there are no numbers left, or more than 1024 internal descriptors.
pub fn keep(fd: RawFd) -> Result<RawFd, Errno> {
    let moved = dup_from(fd, first(), true);
    // Whether or not it could be moved, the low number is done with.
    let _closed = close(fd);
    let moved = moved?;
    let slot = FDS.iter().find(|slot| {
        slot.compare_exchange(-1, moved, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    });
    if slot.is_none() {
        let _closed = close(moved);
        return Err(Errno::MFILE);
    }
    LEAST.fetch_min(moved, Ordering::AcqRel);
    Ok(moved)
}

/// Lists a descriptor where it is: for those that a library made and that can't be moved.
pub fn keep_here(fd: RawFd) -> bool {
    LEAST.fetch_min(fd, Ordering::AcqRel);
    FDS.iter().any(|slot| {
        slot.compare_exchange(-1, fd, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    })
}

/// Takes a descriptor from the list, without closing it.
pub fn forget(fd: RawFd) {
    for slot in &FDS {
        let _other = slot.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Closes a descriptor that was kept.
pub fn discard(fd: RawFd) {
    forget(fd);
    let _closed = close(fd);
}

/// Whether a number is that of an internal descriptor.
#[inline]
pub fn is_internal(fd: RawFd) -> bool {
    fd >= LEAST.load(Ordering::Acquire) && is_listed(fd)
}

#[cold]
fn is_listed(fd: RawFd) -> bool {
    fd >= 0 && FDS.iter().any(|slot| slot.load(Ordering::Acquire) == fd)
}

/// All internal descriptors, ascending.
pub fn internal_fds() -> Vec<RawFd> {
    let mut fds: Vec<_> = FDS
        .iter()
        .map(|slot| slot.load(Ordering::Acquire))
        .filter(|&fd| fd >= 0)
        .collect();
    fds.sort_unstable();
    fds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_descriptors_are_high_and_listed() {
        let low = crate::sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        let high = keep(low).unwrap();
        assert!(high > low);
        assert!(is_internal(high) && !is_internal(low));
        assert!(internal_fds().contains(&high));
        assert_eq!(crate::sys::descriptor_flags(high), Ok(libc::FD_CLOEXEC));
        discard(high);
        assert!(!is_internal(high));
    }
}
