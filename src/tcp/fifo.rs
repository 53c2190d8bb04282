//! A queue that costs one word while there is nothing in it.
//!
//! A server has far more idle connections than busy ones, and an idle one queues nothing.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// A queue. Its storage is allocated with the first element and kept until
/// [`shrink`](Self::shrink), so that a busy connection does not allocate.
#[derive(Clone, Debug)]
#[allow(
    clippy::box_collection,
    reason = "the handle itself is to be one word, not four"
)]
pub(crate) struct Fifo<T>(Option<Box<VecDeque<T>>>);

impl<T> Fifo<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|q| q.is_empty())
    }

    #[inline]
    pub(crate) fn push_back(&mut self, value: T) {
        self.0.get_or_insert_with(Box::default).push_back(value);
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }

    #[inline]
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.front_mut()
    }

    #[inline]
    pub(crate) fn back(&self) -> Option<&T> {
        self.0.as_ref()?.back()
    }

    #[inline]
    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.back_mut()
    }

    /// The elements from number `first` on.
    #[inline]
    pub(crate) fn iter_from(&self, first: usize) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(move |q| q.iter().skip(first))
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |q| q.len())
    }

    /// How many elements at the front fulfil `is_before`, given that no later one does.
    #[inline]
    pub(crate) fn partition_point(&self, is_before: impl FnMut(&T) -> bool) -> usize {
        self.0.as_ref().map_or(0, |q| q.partition_point(is_before))
    }

    /// Moves everything of `other` behind this queue's elements.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if let Some(other) = &mut other.0 {
            self.0.get_or_insert_with(Box::default).append(other);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Whether storage is allocated.
    pub(crate) fn is_allocated(&self) -> bool {
        self.0.is_some()
    }

    /// Gives the storage back if there is nothing in it.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            self.0 = None;
        }
    }
}

const _: () = assert!(size_of::<Fifo<u128>>() == size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_stays_while_it_is_used_and_goes_when_it_is_not() {
        let mut q = Fifo::new();
        assert!(q.is_empty() && q.pop_front().is_none() && q.back().is_none());
        q.push_back(1);
        q.shrink();
        let mut other = Fifo::new();
        other.push_back(2);
        q.append(&mut other);
        assert_eq!(q.iter_from(0).collect::<Vec<_>>(), [&1, &2]);
        assert_eq!(q.iter_from(1).collect::<Vec<_>>(), [&2]);
        assert_eq!(q.partition_point(|n| *n < 2), 1);
        assert_eq!((q.pop_front(), q.pop_front()), (Some(1), Some(2)));
        assert!(q.is_allocated() && other.is_allocated());
        q.shrink();
        assert!(!q.is_allocated());
    }
}
