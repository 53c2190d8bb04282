//! Which references the kernel owes us: the chunks it may receive into and the transmit
//! descriptors it has not completed.
//!
//! The kernel names memory by offsets in the pool's range. An offset is only believed if it is on
//! these books, so that a reference is never taken back twice or without having been given.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// The chunks that the kernel may write to: those in the fill ring, in the receive ring, and in
/// the kernel's own hands between the two. One bit each.
#[derive(Debug)]
pub(super) struct ReceiveBook {
    bits: Vec<u64>,
    chunk_shift: u32,
    held: usize,
}

impl ReceiveBook {
    /// For `bytes` of memory in chunks of `chunk_bytes`, a power of two.
    pub(super) fn new(bytes: usize, chunk_bytes: usize) -> Self {
        let chunk_shift = chunk_bytes.trailing_zeros();
        let chunks = bytes >> chunk_shift;
        Self {
            bits: vec![0; chunks.div_ceil(64)],
            chunk_shift,
            held: 0,
        }
    }

    /// Notes that the chunk at `offset` is the kernel's. False if it is already, or there is no
    /// such chunk.
    #[must_use]
    pub(super) fn give(&mut self, offset: u64) -> bool {
        let Some((word, bit)) = self.find(offset) else {
            return false;
        };
        let fresh = *word & bit == 0;
        *word |= bit;
        self.held += usize::from(fresh);
        fresh
    }

    /// Notes that the chunk in which `offset` lies is ours again. False if it was not given.
    #[must_use]
    pub(super) fn take(&mut self, offset: u64) -> bool {
        let Some((word, bit)) = self.find(offset) else {
            return false;
        };
        let given = *word & bit != 0;
        *word &= !bit;
        self.held -= usize::from(given);
        given
    }

    /// How many chunks the kernel has.
    pub(super) fn len(&self) -> usize {
        self.held
    }

    /// Takes all chunks back; yields their offsets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.held = 0;
        let shift = self.chunk_shift;
        self.bits
            .iter_mut()
            .enumerate()
            .flat_map(move |(index, word)| {
                let bits = std::mem::take(word);
                (0..64)
                    .filter(move |bit| bits & (1 << bit) != 0)
                    .map(move |bit| (index as u64 * 64 + bit) << shift)
            })
    }

    fn find(&mut self, offset: u64) -> Option<(&mut u64, u64)> {
        let chunk = offset >> self.chunk_shift;
        let word = self.bits.get_mut(usize::try_from(chunk / 64).ok()?)?;
        Some((word, 1 << (chunk % 64)))
    }
}

/// The transmit descriptors that are not complete, in the order of posting.
///
/// The kernel completes nearly always in that order, but need not (a copied frame is complete when
/// its packet is freed).
#[derive(Debug)]
pub(super) struct TransmitBook {
    /// `None`: completed before an earlier one.
    posted: VecDeque<Option<u64>>,
}

impl TransmitBook {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            posted: VecDeque::with_capacity(capacity),
        }
    }

    /// Notes a descriptor at `offset`. The same offset may be in flight more than once.
    pub(super) fn post(&mut self, offset: u64) {
        self.posted.push_back(Some(offset));
    }

    /// Notes the completion of the oldest descriptor at `offset`. False if there is none.
    #[must_use]
    pub(super) fn complete(&mut self, offset: u64) -> bool {
        if self.posted.front() == Some(&Some(offset)) {
            self.posted.pop_front();
        } else {
            let Some(found) = self
                .posted
                .iter_mut()
                .find(|posted| **posted == Some(offset))
            else {
                return false;
            };
            *found = None;
        }
        while self.posted.front() == Some(&None) {
            self.posted.pop_front();
        }
        true
    }

    /// How many places are taken: the descriptors in flight and the holes between them.
    pub(super) fn len(&self) -> usize {
        self.posted.len()
    }

    /// Takes all descriptors off the book; yields their offsets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.posted.drain(..).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chunks_are_given_and_taken_once() {
        let mut book = ReceiveBook::new(1 << 20, 2048);
        assert!(book.give(4096) && book.give(0) && book.give((1 << 20) - 2048));
        assert!(!book.give(4096), "given twice");
        assert!(
            !book.give(1 << 20) && !book.take(u64::MAX),
            "beyond the end"
        );
        assert!(book.take(4096 + 256 + 100), "any address in the chunk");
        assert!(!book.take(4096), "taken twice");
        assert!(!book.take(2048), "never given");
        assert_eq!(book.len(), 2);
        assert_eq!(book.drain().collect::<Vec<_>>(), [0, (1 << 20) - 2048]);
        assert_eq!(book.len(), 0);
        assert_eq!(book.drain().count(), 0);
    }

    #[test]
    fn completions_out_of_order_leave_holes_until_the_front_completes() {
        let mut book = TransmitBook::new(8);
        for offset in [10, 20, 30, 20] {
            book.post(offset);
        }
        assert!(book.complete(30) && book.complete(20));
        assert_eq!(book.len(), 4);
        assert!(!book.complete(30));
        assert!(book.complete(10));
        assert_eq!(book.len(), 1);
        assert!(book.complete(20) && !book.complete(20));
        assert_eq!(book.len(), 0);
    }

    proptest! {
        #[test]
        fn the_transmit_book_is_a_multiset(
            operations in proptest::collection::vec((any::<bool>(), 0_u64..6), 0..200),
        ) {
            let mut book = TransmitBook::new(8);
            let mut model = [0_u32; 6];
            for (post, offset) in operations {
                let count = &mut model[offset as usize];
                if post {
                    book.post(offset);
                    *count += 1;
                } else {
                    prop_assert_eq!(book.complete(offset), *count > 0);
                    *count = count.saturating_sub(1);
                }
            }
            prop_assert_eq!(book.drain().count(), model.iter().sum::<u32>() as usize);
        }
    }
}
