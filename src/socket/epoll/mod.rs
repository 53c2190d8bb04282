//! Epoll sets over luna's sockets and the kernel's descriptors together.
//!
//! An epoll descriptor of the application is a real kernel epoll descriptor. Kernel descriptors
//! are registered in it directly, with the application's data. Luna's sockets are items of a
//! [`Set`] of ours, which follows `fs/eventpoll.c`: an item is queued when a wakeup matches its
//! mask, and its level is evaluated when it is reported. One more descriptor is registered in
//! the kernel's set: the *inner* epoll descriptor ([`kernel`]), through which the kernel's half
//! of our listeners reports, and which makes the application's descriptor readable for those
//! who can only ask the kernel (a set that contains this one, a thread that sleeps in it).
//!
//! # Locks
//!
//! `Set::changes` → a description's watchers → `Set::state` → a description's own lock → shard.
//! `changes` orders additions, removals and promotions of one set; `state` is what wakeups and
//! waits need. Callbacks from descriptions arrive with none of these held.
#![forbid(unsafe_code)]

mod change;
mod kernel;
mod list;
mod rhythm;
mod set;
#[cfg(test)]
mod tests;
mod wait;

pub use change::change;
pub(super) use rhythm::{IDLE_AFTER, IDLE_GAP, Rhythm};
pub use set::{Set, create};
pub(crate) use set::{bits, level_of};
pub use wait::wait;

use std::os::fd::RawFd;
use std::sync::Arc;

use super::description::{self, Kind, Pin};
use super::{fork, policy};
use crate::sys::{self, Errno};

/// `epoll_create1(2)`: a kernel epoll descriptor, known to us as a set if sockets of ours may
/// come into it.
///
/// # Errors
///
/// Those of `epoll_create1(2)`.
pub fn open(flags: i32) -> Result<RawFd, Errno> {
    if !policy::get().is_wanted || fork::is_foreign_process() || is_of_dpdk() {
        let fd = sys::epoll_create1(flags)?;
        super::forget_number(fd);
        return Ok(fd);
    }
    fork::arm();
    fork::check();
    let (fd, set) = create(flags)?;
    super::forget_number(fd);
    if let Ok(pin) = description::create(Kind::Epoll) {
        pin.put_set(set);
        // A number beyond the table stays an ordinary epoll descriptor.
        let _ = pin.attach(fd);
    }
    Ok(fd)
}

/// Whether the calling thread is one of DPDK's own. What it waits for is nothing of ours, and in a
/// program with the preload library its calls come here.
fn is_of_dpdk() -> bool {
    #[cfg(feature = "dpdk")]
    if crate::device::dpdk::is_in_use()
        && let Ok(name) = rustix::thread::name()
    {
        let prefixes = crate::device::dpdk::THREAD_PREFIXES;
        return prefixes
            .iter()
            .any(|prefix| name.to_bytes().starts_with(prefix.as_bytes()));
    }
    false
}

/// The set behind a descriptor, if it is one of ours.
#[inline]
pub fn set_of(fd: RawFd) -> Option<Arc<Set>> {
    fork::check();
    let pin = description::pin_active(fd)?;
    if pin.kind() == Kind::Epoll {
        pin.set()
    } else {
        None
    }
}

/// The last descriptor of a set is closed.
pub fn on_last_close(pin: &Pin) {
    if let Some(set) = pin.set() {
        set.close();
    }
}
