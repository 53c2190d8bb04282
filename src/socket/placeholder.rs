//! Kernel sockets of our own that stand in for what has none: the tombstone, of which accepted
//! connections' descriptors are duplicates, and the judges of option values.
//!
//! The tombstone is a TCP socket that is never connected: a call that escapes us fails there
//! (`EPIPE`, `ENOTCONN`) and does not lose data silently. All its duplicates share one open
//! file description in the kernel, so nothing may be set on it, and it is in no epoll set.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::os::fd::RawFd;

use once_cell::race::OnceBox;

use super::options::OptionSet;
use crate::sys::{self, Errno, ForkMutex, internal};

static TOMBSTONE: AtomicI32 = AtomicI32::new(-1);
static TOMBSTONE_INODE: AtomicU64 = AtomicU64::new(0);
static MAKING: ForkMutex<()> = ForkMutex::new(());
/// Judges for `AF_INET` and `AF_INET6`; 0: not made.
static JUDGES: ForkMutex<[RawFd; 2]> = ForkMutex::new([0; 2]);
static UNTOUCHED: OnceBox<OptionSet> = OnceBox::new();
static UNTOUCHED_V6: OnceBox<OptionSet> = OnceBox::new();

fn kernel_socket(family: i32) -> Result<RawFd, Errno> {
    internal::keep(sys::socket(
        family,
        libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
        0,
    )?)
}

/// A new descriptor for a connection that has no kernel socket.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`: as `accept(2)`.
pub fn tombstone(cloexec: bool) -> Result<RawFd, Errno> {
    let fd = TOMBSTONE.load(Ordering::Acquire);
    if fd >= 0 {
        return sys::dup_from(fd, 0, cloexec);
    }
    let making = MAKING.lock();
    if TOMBSTONE.load(Ordering::Acquire) < 0 {
        let made = kernel_socket(libc::AF_INET)?;
        let (_, inode) = sys::identity(made)?;
        TOMBSTONE_INODE.store(inode, Ordering::Relaxed);
        TOMBSTONE.store(made, Ordering::Release);
    }
    drop(making);
    sys::dup_from(TOMBSTONE.load(Ordering::Acquire), 0, cloexec)
}

/// The kernel's own answer about a socket of ours that it knows nothing of: asks the tombstone,
/// which shows what an untouched, unconnected socket shows.
///
/// # Errors
///
/// What the kernel answers.
pub fn ask(level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
    if TOMBSTONE.load(Ordering::Acquire) < 0 {
        sys::close(tombstone(true)?)?;
    }
    sys::getsockopt(TOMBSTONE.load(Ordering::Acquire), level, name, value)
}

/// The inode of the tombstone; 0 if there is none.
pub fn tombstone_inode() -> u64 {
    TOMBSTONE_INODE.load(Ordering::Relaxed)
}

/// Runs `f` with a kernel socket on which option values may be tried.
///
/// # Errors
///
/// What `f` or `socket(2)` answers.
pub fn with_judge<R>(family: i32, f: impl FnOnce(RawFd) -> Result<R, Errno>) -> Result<R, Errno> {
    let mut judges = JUDGES.lock();
    let [v4, v6] = &mut *judges;
    let judge = if family == libc::AF_INET6 { v6 } else { v4 };
    if *judge <= 0 {
        *judge = kernel_socket(family)?;
    }
    f(*judge)
}

/// The options of an IPv4 socket that nobody has touched.
pub fn untouched() -> &'static OptionSet {
    UNTOUCHED.get_or_init(|| read_untouched(libc::AF_INET))
}

/// The same of an IPv6 socket.
pub fn untouched_v6() -> &'static OptionSet {
    UNTOUCHED_V6.get_or_init(|| read_untouched(libc::AF_INET6))
}

fn read_untouched(family: i32) -> Box<OptionSet> {
    let fd = sys::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
    let set = fd.map(|fd| {
        let set = OptionSet::read(fd);
        let _closed = sys::close(fd);
        set
    });
    Box::new(set.unwrap_or_default())
}

/// In the child of a fork: lets go of the parent's, which the child would share with it.
pub fn after_fork_child() {
    let old = TOMBSTONE.swap(-1, Ordering::AcqRel);
    let judges = core::mem::take(&mut *JUDGES.lock());
    for fd in judges.into_iter().chain([old]) {
        if fd > 0 {
            internal::discard(fd);
        }
    }
}
