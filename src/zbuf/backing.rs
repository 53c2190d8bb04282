//! Where the area's memory comes from: hugepages, transparent hugepages or ordinary pages.
//!
//! Owns the mapping and nothing else. What it is used for is not known here.

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};
use rustix::process::{Pid, getpid};

use super::layout::ZONE_BYTES;

/// What kind of pages an area has got. For the operator: anything but `HugeTlb` deserves a line
/// in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backing {
    /// Ordinary pages.
    Plain,
    /// Ordinary memory that the kernel was asked to back with hugepages (`MADV_HUGEPAGE`) and
    /// whose policy permits it. It may still have had none to give.
    Transparent,
    /// Reserved hugepages of 2 MiB, all present.
    HugeTlb,
}

impl core::fmt::Display for Backing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Plain => "ordinary pages",
            Self::Transparent => "transparent hugepages",
            Self::HugeTlb => "reserved hugepages",
        })
    }
}

/// Private anonymous memory, aligned to 2 MiB, that a forked child does not share.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    backing: Backing,
    owner: Pid,
}

// SAFETY: `Mapping` is an address range; it reads and writes nothing in it.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out numbers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` (a multiple of [`ZONE_BYTES`]) on the best pages not better than `best`.
    pub(super) fn new(bytes: usize, best: Backing) -> Result<Self, Errno> {
        if best == Backing::HugeTlb
            && let Some(base) = map_hugetlb(bytes)
        {
            return Ok(Self {
                base,
                bytes,
                backing: Backing::HugeTlb,
                owner: getpid(),
            });
        }
        let base = map_aligned(bytes)?;
        let mut mapping = Self {
            base,
            bytes,
            backing: Backing::Plain,
            owner: getpid(),
        };
        mapping.keep_from_children()?;
        if best >= Backing::Transparent
            && transparent_hugepages_permitted()
            && mapping.advise(Advice::LinuxHugepage).is_ok()
        {
            mapping.backing = Backing::Transparent;
        }
        Ok(mapping)
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn backing(&self) -> Backing {
        self.backing
    }

    /// Makes `bytes` from `offset` on present, so that no later access waits for the kernel to
    /// find and clear a page. Merely a wish: an old kernel or a full machine may not grant it.
    pub(super) fn populate(&self, offset: usize, bytes: usize) {
        if offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.bytes)
        {
            // SAFETY: within the mapping; populating changes no contents.
            let start = unsafe { self.base.add(offset) };
            // SAFETY: as above.
            let _ = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxPopulateWrite) };
        }
    }

    /// In a forked child: puts zeroes where the area was, if nothing is there. See the module's
    /// documentation on fork. A single system call.
    pub(super) fn restore_after_fork(&self) -> Result<(), Errno> {
        if getpid() == self.owner || self.backing != Backing::HugeTlb {
            return Ok(());
        }
        // SAFETY: FIXED_NOREPLACE maps only where nothing is mapped.
        let got = unsafe {
            mmap_anonymous(
                self.base.as_ptr().cast(),
                self.bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE,
            )
        };
        match got {
            // EEXIST: called twice.
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn keep_from_children(&self) -> Result<(), Errno> {
        // WIPEONFORK (Linux 4.14) is for memory that is private and not hugetlb.
        self.advise(Advice::LinuxWipeOnFork)
            .or_else(|_| self.advise(Advice::LinuxDontFork))
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the whole of our own mapping, which nobody uses yet; no advice passed here
        // changes the contents that this process sees.
        unsafe { madvise(self.base.as_ptr().cast(), self.bytes, advice) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a child, something else may lie where DONTFORK left a hole.
        if getpid() == self.owner {
            // SAFETY: our mapping; the area that owns it guarantees that no reference is left.
            let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        }
    }
}

/// Hugepages, every one of them present: a page that cannot be had must show here and not as a
/// SIGBUS on first touch.
fn map_hugetlb(bytes: usize) -> Option<NonNull<u8>> {
    // Without MAP_NORESERVE the kernel reserves the pages now or answers ENOMEM.
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB | MapFlags::POPULATE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )
    };
    let base = NonNull::new(base.ok()?.cast::<u8>())?;
    // A reservation can still fail to become a page (cgroup limits, memory policy, poisoned
    // memory) and MAP_POPULATE keeps that to itself: MADV_POPULATE_WRITE (Linux 5.14) tells.
    // SAFETY: our new mapping.
    let present = unsafe { madvise(base.as_ptr().cast(), bytes, Advice::LinuxPopulateWrite) };
    // SAFETY: our new mapping.
    let kept = unsafe { madvise(base.as_ptr().cast(), bytes, Advice::LinuxDontFork) };
    if present.is_ok() && kept.is_ok() && base.addr().get() % ZONE_BYTES == 0 {
        return Some(base);
    }
    // SAFETY: our new mapping, which nobody has seen.
    let _ = unsafe { munmap(base.as_ptr().cast(), bytes) };
    None
}

/// Ordinary memory at a multiple of [`ZONE_BYTES`]: reserves more than needed and trims.
fn map_aligned(bytes: usize) -> Result<NonNull<u8>, Errno> {
    let reserved = bytes.checked_add(ZONE_BYTES).ok_or(Errno::NOMEM)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            reserved,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?
    .cast::<u8>();
    let lead = start.addr().next_multiple_of(ZONE_BYTES) - start.addr();
    // SAFETY: `lead` < ZONE_BYTES, within the reservation.
    let base = unsafe { start.add(lead) };
    // SAFETY: `bytes` + `lead` <= `reserved`.
    let end = unsafe { base.add(bytes) };
    unmap_part(start, lead);
    unmap_part(end, ZONE_BYTES - lead);
    let access = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the part of the reservation that we kept.
    if let Err(errno) = unsafe { mprotect(base.cast::<c_void>(), bytes, access) } {
        unmap_part(base, bytes);
        return Err(errno);
    }
    NonNull::new(base).ok_or(Errno::NOMEM)
}

/// Gives back part of a reservation that [`map_aligned`] made.
fn unmap_part(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: called by `map_aligned` only, on memory that it has just reserved.
        let _ = unsafe { munmap(start.cast(), bytes) };
    }
}

/// Whether the system's policy lets `MADV_HUGEPAGE` have any effect.
fn transparent_hugepages_permitted() -> bool {
    // Not std::fs: its calls go through symbols that the preload library replaces.
    let Ok(file) = rustix::fs::open(
        "/sys/kernel/mm/transparent_hugepage/enabled",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) else {
        return false;
    };
    let mut text = [0u8; 64];
    let Ok(len) = rustix::io::read(&file, &mut text) else {
        return false;
    };
    let text = text.get(..len).unwrap_or_default();
    !text.is_empty() && !text.windows(7).any(|word| word == b"[never]")
}
