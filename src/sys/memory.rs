//! Hints about memory: they change how fast it is, never what is in it.

use core::mem::MaybeUninit;
use core::ops::Range;

const CACHE_LINE_BYTES: usize = 64;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Asks the processor to fetch `value` into its caches, and does not wait for it.
#[inline]
pub fn prefetch<T>(value: &T) {
    prefetch_bytes(value, 0..size_of::<T>());
}

/// As [`prefetch`], but no more than these bytes of it, and those on their cache lines if it
/// begins with one.
#[inline]
pub fn prefetch_bytes<T>(value: &T, bytes: Range<usize>) {
    let first = bytes.start / CACHE_LINE_BYTES;
    let end = bytes.end.min(size_of::<T>()).div_ceil(CACHE_LINE_BYTES);
    #[cfg(target_arch = "x86_64")]
    for line in first..end {
        let at = core::ptr::from_ref(value).cast::<i8>();
        let at = at.wrapping_add(line * CACHE_LINE_BYTES);
        // SAFETY: a prefetch reads nothing that a program could see, and faults nowhere.
        unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, first..end);
}

/// Asks the kernel to back the whole huge pages in `memory`, which nothing has been written to
/// yet, with huge pages. Where it can't, nothing changes.
pub fn advise_huge<T>(memory: &mut [MaybeUninit<T>]) {
    let range = memory.as_mut_ptr_range();
    let start = (range.start as usize).next_multiple_of(HUGE_PAGE_BYTES);
    let end = range.end as usize / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if start < end {
        let at = range.start.cast::<core::ffi::c_void>();
        let at = at.wrapping_byte_add(start - range.start as usize);
        // SAFETY: the advice does not change what the pages hold, and they lie within `memory`.
        let _ = unsafe { rustix::mm::madvise(at, end - start, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_change_nothing() {
        let mut bytes = Vec::<u64>::with_capacity(1 << 20);
        advise_huge(bytes.spare_capacity_mut());
        bytes.resize(1 << 20, 7);
        advise_huge(bytes.spare_capacity_mut());
        prefetch(&bytes);
        prefetch_bytes(&bytes, 1..usize::MAX);
        bytes.iter().step_by(4096).for_each(prefetch);
        assert!(bytes.iter().all(|word| *word == 7));
    }
}
