//! Which descriptor numbers are ours: a sparse two-level table, one per process.
//!
//! Knows numbers and description ids only. A number that was never ours costs two loads and
//! touches nothing else; nothing is allocated for it.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::os::fd::RawFd;

use once_cell::race::OnceBox;

use super::description::DescriptionId;
use crate::limits::{FD_LEAF_ENTRIES, FD_TABLE_MAX};

type Leaf = [AtomicU64; FD_LEAF_ENTRIES];

const LEAVES: usize = FD_TABLE_MAX / FD_LEAF_ENTRIES;

/// All zero, so it takes address space, not memory.
static ROOT: [OnceBox<Leaf>; LEAVES] = [const { OnceBox::new() }; LEAVES];

/// Leaves below this may exist: a walk over all numbers ends here.
static LEAVES_USED: AtomicUsize = AtomicUsize::new(0);

#[inline]
fn leaf(fd: usize) -> Option<&'static Leaf> {
    ROOT.get(fd / FD_LEAF_ENTRIES)?.get()
}

#[inline]
fn slot(fd: RawFd) -> Option<&'static AtomicU64> {
    // A negative number becomes one beyond the root.
    let fd = fd as u32 as usize;
    leaf(fd)?.get(fd % FD_LEAF_ENTRIES)
}

/// The description behind a number, if the number is ours.
#[inline]
pub fn lookup(fd: RawFd) -> Option<DescriptionId> {
    DescriptionId::from_bits(slot(fd)?.load(Ordering::Acquire))
}

/// Whether the table can hold this number.
pub fn in_reach(fd: RawFd) -> bool {
    (fd as u32 as usize) < FD_TABLE_MAX
}

static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Makes a number ours. Returns the description that it named before, which the caller must
/// release: the kernel has closed that descriptor without us, or we are replacing it.
pub fn insert(fd: RawFd, id: DescriptionId) -> Option<DescriptionId> {
    let number = fd as u32 as usize;
    let leaf = ROOT.get(number / FD_LEAF_ENTRIES)?.get_or_init(|| {
        let leaf: Vec<AtomicU64> = (0..FD_LEAF_ENTRIES).map(|_| AtomicU64::new(0)).collect();
        // The length is right by construction; the alternative is for the compiler.
        leaf.into_boxed_slice()
            .try_into()
            .unwrap_or_else(|_| Box::new([const { AtomicU64::new(0) }; FD_LEAF_ENTRIES]))
    });
    LEAVES_USED.fetch_max(number / FD_LEAF_ENTRIES + 1, Ordering::AcqRel);
    let slot = leaf.get(number % FD_LEAF_ENTRIES)?;
    CHANGES.fetch_add(1, Ordering::Relaxed);
    DescriptionId::from_bits(slot.swap(id.to_bits(), Ordering::AcqRel))
}

/// Makes a number foreign again. Returns the description that it named.
pub fn remove(fd: RawFd) -> Option<DescriptionId> {
    let slot = slot(fd)?;
    if slot.load(Ordering::Relaxed) == 0 {
        return None;
    }
    CHANGES.fetch_add(1, Ordering::Relaxed);
    DescriptionId::from_bits(slot.swap(0, Ordering::AcqRel))
}

/// Makes a number foreign if it still names `id`. False: someone was faster.
pub fn remove_if(fd: RawFd, id: DescriptionId) -> bool {
    slot(fd).is_some_and(|slot| {
        slot.compare_exchange(id.to_bits(), 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    })
}

/// Something else about one of our sockets has changed that `luna ss` shows.
pub fn touch() {
    CHANGES.fetch_add(1, Ordering::Relaxed);
}

/// How many entries have been made and taken out: a cheap way to see that something changed.
pub fn changes() -> u64 {
    CHANGES.load(Ordering::Relaxed)
}

/// Our numbers in `first..=last`, ascending.
pub fn ours(first: u32, last: u32) -> impl Iterator<Item = (RawFd, DescriptionId)> {
    let first = first as usize;
    let last = last as usize;
    let end = LEAVES_USED
        .load(Ordering::Acquire)
        .min(last / FD_LEAF_ENTRIES + 1);
    let leaves = first / FD_LEAF_ENTRIES..end;
    leaves
        .filter_map(|index| Some((index, ROOT.get(index)?.get()?)))
        .flat_map(|(index, leaf)| {
            leaf.iter()
                .enumerate()
                .map(move |(at, slot)| (index * FD_LEAF_ENTRIES + at, slot))
        })
        .filter(move |(number, _)| (first..=last).contains(number))
        .filter_map(|(number, slot)| {
            let id = DescriptionId::from_bits(slot.load(Ordering::Acquire))?;
            Some((RawFd::try_from(number).ok()?, id))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bits: u64) -> DescriptionId {
        DescriptionId::from_bits(bits).unwrap()
    }

    #[test]
    fn foreign_numbers_are_foreign() {
        for fd in [-1, i32::MIN, 0, 999_999_999, i32::MAX] {
            assert_eq!(lookup(fd), None);
            assert_eq!(remove(fd), None);
        }
        assert!(!in_reach(-1));
    }

    #[test]
    fn holds_sparse_numbers() {
        let (a, b) = (id(1 << 32 | 5), id(2 << 32 | 6));
        let base = 900_000_000;
        assert_eq!(insert(base, a), None);
        assert_eq!(insert(base, b), Some(a));
        assert_eq!(lookup(base), Some(b));
        assert_eq!(insert(base + 5000, a), None);
        let found: Vec<_> = ours(base as u32, base as u32 + 6000).collect();
        assert_eq!(found, [(base, b), (base + 5000, a)]);
        assert!(!remove_if(base, a));
        assert!(remove_if(base, b));
        assert_eq!(remove(base + 5000), Some(a));
        assert_eq!(ours(base as u32, u32::MAX).count(), 0);
    }

    #[test]
    fn threads_agree_on_who_removes() {
        let fd = 950_000_000;
        for round in 1..200_u64 {
            insert(fd, id(round << 32 | 1));
            let removed: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| usize::from(remove(fd).is_some())))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .sum()
            });
            assert_eq!(removed, 1);
        }
    }
}
