//! Memory that two processes share: mapping it, and reading and writing it with bounds.
//!
//! The peer may write to any of it at any time. Nothing here makes a reference to frame bytes:
//! they are copied in and out, and whatever they decide is decided on the copy. Indices and flags
//! are atomics.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::process::{Pid, getpid};

/// Most bytes of one region: more is a mistake or malice.
const REGION_BYTES_MAX: u64 = 1 << 32;
/// A peer's region is mapped page by page as it is used, unless it is as small as rings are: what
/// it has not touched itself would become memory of ours.
const POPULATE_BYTES_MAX: usize = 16 << 20;
/// `HUGETLBFS_MAGIC` (linux/magic.h).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// A mapped region.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<u8>,
    bytes: usize,
    /// A forked child has nothing there to unmap.
    owner: Pid,
}

// SAFETY: an address range; what is in it is reached by copies and atomics only.
unsafe impl Send for Region {}

impl Region {
    /// New zeroed memory, and its descriptor for the peer.
    pub(super) fn create(bytes: usize) -> Result<(Self, OwnedFd), Errno> {
        let fd = rustix::fs::memfd_create(
            "luna-memif",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        ftruncate(&fd, bytes as u64)?;
        // The peer must be able to rely on it: shrinking would be a SIGBUS for both.
        fcntl_add_seals(&fd, SealFlags::SHRINK)?;
        let region = Self::map(fd.as_fd(), bytes)?;
        Ok((region, fd))
    }

    /// The peer's memory. `EINVAL` if it is smaller than the peer says, or could become so.
    pub(super) fn open(fd: BorrowedFd<'_>, bytes: u64) -> Result<Self, Errno> {
        if bytes == 0 || bytes > REGION_BYTES_MAX {
            return Err(Errno::INVAL);
        }
        let size = u64::try_from(fstat(fd)?.st_size).unwrap_or(0);
        if size < bytes || !fcntl_get_seals(fd)?.contains(SealFlags::SHRINK) {
            return Err(Errno::INVAL);
        }
        // Huge pages that the peer gives back, which no seal forbids, may not be had again.
        if fstatfs(fd)?.f_type == HUGETLBFS_MAGIC {
            return Err(Errno::INVAL);
        }
        Self::map(fd, bytes as usize)
    }

    fn map(fd: BorrowedFd<'_>, bytes: usize) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let mut flags = MapFlags::SHARED;
        flags.set(MapFlags::POPULATE, bytes <= POPULATE_BYTES_MAX);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(core::ptr::null_mut(), bytes, access, flags, fd, 0) }?;
        // A child must not write to what its parent and the peer talk through.
        // SAFETY: the mapping just made; this changes nothing in this process.
        let _ = unsafe { madvise(base, bytes, Advice::LinuxDontFork) };
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            bytes,
            owner: getpid(),
        })
    }

    /// Whether `len` bytes from `offset` on are in it.
    #[inline]
    pub(super) fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.bytes)
    }

    /// Copies bytes in; false (and nothing is done) if they do not fit there.
    #[inline]
    pub(super) fn write(&self, offset: usize, from: &[u8]) -> bool {
        if !self.holds(offset, from.len()) {
            return false;
        }
        // SAFETY: within the mapping, checked; `from` is elsewhere: no reference to the mapping's
        // bytes exists. Who else writes there breaks the protocol, and only garbles the bytes.
        unsafe {
            core::ptr::copy_nonoverlapping(
                from.as_ptr(),
                self.base.as_ptr().add(offset),
                from.len(),
            );
        }
        true
    }

    /// Copies `len` bytes out; false (and nothing is done) if there are not so many.
    ///
    /// # Safety
    /// `to` is valid for writes of `len` bytes and is not in this region.
    #[inline]
    pub(super) unsafe fn read(&self, offset: usize, len: usize, to: *mut u8) -> bool {
        if !self.holds(offset, len) {
            return false;
        }
        // SAFETY: within the mapping, checked; the destination is the caller's word. A peer that
        // writes at the same time breaks the protocol, and only garbles the copy.
        unsafe { core::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), to, len) };
        true
    }

    /// Has the line at `offset` on its way into the cache.
    #[inline]
    pub(super) fn prefetch(&self, offset: usize) {
        if self.holds(offset, 1) {
            // SAFETY: an address within the mapping; a prefetch reads nothing.
            let at = unsafe { self.base.as_ptr().add(offset) };
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 has SSE.
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at.cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = at;
        }
    }

    #[inline]
    pub(super) fn u16_at(&self, offset: usize) -> Option<&AtomicU16> {
        self.atomic(offset)
    }

    #[inline]
    pub(super) fn u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        self.atomic(offset)
    }

    /// The two words of a descriptor.
    #[inline]
    pub(super) fn load_pair(&self, offset: usize) -> Option<[u64; 2]> {
        let words: &[AtomicU64; 2] = self.atomic(offset)?;
        Some([
            words[0].load(Ordering::Relaxed),
            words[1].load(Ordering::Relaxed),
        ])
    }

    #[inline]
    pub(super) fn store_pair(&self, offset: usize, value: [u64; 2]) {
        if let Some(words) = self.atomic::<[AtomicU64; 2]>(offset) {
            words[0].store(value[0], Ordering::Relaxed);
            words[1].store(value[1], Ordering::Relaxed);
        }
    }

    #[inline]
    fn atomic<T: Shared>(&self, offset: usize) -> Option<&T> {
        if !self.holds(offset, size_of::<T>()) || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: within the mapping and aligned (its base is a page's), checked; all bit
        // patterns are valid, and atomics may be written by others. It lives as long as `self`.
        Some(unsafe { &*self.base.as_ptr().add(offset).cast::<T>() })
    }
}

/// Atomics, for which any bytes will do.
trait Shared {}
impl Shared for AtomicU16 {}
impl Shared for AtomicU32 {}
impl Shared for [AtomicU64; 2] {}

impl Drop for Region {
    fn drop(&mut self) {
        if getpid() == self.owner {
            // SAFETY: our own mapping; no reference into it outlives `self`.
            let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_bytes_and_nothing_outside() {
        let (one, fd) = Region::create(8192).unwrap();
        let other = Region::open(fd.as_fd(), 8192).unwrap();
        assert!(one.write(8000, b"hello"));
        let mut got = [0; 5];
        // SAFETY: `got` has five bytes.
        assert!(unsafe { other.read(8000, 5, got.as_mut_ptr()) });
        assert_eq!(&got, b"hello");
        assert!(!one.write(8190, b"hello") && !one.write(usize::MAX, b"h"));
        // SAFETY: as above.
        assert!(!unsafe { other.read(8188, 5, got.as_mut_ptr()) });
        assert!(one.u16_at(3).is_none() && one.u16_at(8191).is_none());
        one.u16_at(64).unwrap().store(7, Ordering::Release);
        assert_eq!(other.u16_at(64).unwrap().load(Ordering::Acquire), 7);
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, 4096).unwrap();
        assert_eq!(Region::open(fd.as_fd(), 4096).unwrap_err(), Errno::INVAL);
        fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        assert!(Region::open(fd.as_fd(), 4096).is_ok());
        assert!(Region::open(fd.as_fd(), 4097).is_err());
        assert!(Region::open(fd.as_fd(), 0).is_err());
    }
}
