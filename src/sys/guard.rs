//! Tells a forked child from its parent without a system call.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// What this process is, compared with the one that armed the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkState {
    /// The guard is not armed: nothing of ours has been started.
    Unarmed,
    /// The process that armed it (or a `vfork` child, which runs in its memory).
    Same,
    /// A copy of it: the child of a fork that has not re-armed the guard.
    Child,
}

const PAGE_BYTES: usize = 4096;

/// The first word of a page that the kernel gives to a child zero-filled.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// One load from a page that is always in reach.
#[inline]
pub fn fork_state() -> ForkState {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return ForkState::Unarmed;
    }
    // SAFETY: a published page is never unmapped, and begins with an aligned u32 (zero or one).
    let word = unsafe { &*page };
    if word.load(Ordering::Relaxed) == 0 {
        ForkState::Child
    } else {
        ForkState::Same
    }
}

/// Declares this process the owner. Returns false if the kernel refuses the page; the fork
/// handlers then do alone.
pub fn fork_guard_rearm() -> bool {
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        // SAFETY: a new private mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let Ok(mapped) = mapped else { return false };
        // SAFETY: the range is the mapping made above, in which nothing is stored yet.
        if unsafe { madvise(mapped, PAGE_BYTES, Advice::LinuxWipeOnFork) }.is_err() {
            return false;
        }
        page = mapped.cast();
        // SAFETY: as in `fork_state`.
        unsafe { &*page }.store(1, Ordering::Relaxed);
        // Losing this race leaks one page, once.
        if PAGE
            .compare_exchange(
                core::ptr::null_mut(),
                page,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
        {
            return true;
        }
        page = PAGE.load(Ordering::Acquire);
    }
    // SAFETY: as in `fork_state`.
    unsafe { &*page }.store(1, Ordering::Relaxed);
    true
}
