//! A queue of which the first element needs no storage of its own.
//!
//! A server has far more idle connections than busy ones, and an idle one queues nothing; of those
//! that do, most hold a message or none, which then is where the connection is, and not somewhere
//! else in memory.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// A queue. Storage is allocated with the second element and kept until
/// [`shrink`](Self::shrink), so that a busy connection does not allocate.
#[derive(Clone, Debug)]
pub(crate) struct Fifo<T> {
    first: Option<T>,
    /// What follows: nothing, if there is no first.
    #[allow(
        clippy::box_collection,
        reason = "the handle itself is to be one word, not four"
    )]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Fifo<T> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            rest: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline]
    pub(crate) fn push_back(&mut self, value: T) {
        if self.first.is_none() {
            self.first = Some(value);
        } else {
            self.rest.get_or_insert_with(Box::default).push_back(value);
        }
    }

    pub(crate) fn push_front(&mut self, value: T) {
        if let Some(second) = self.first.replace(value) {
            let rest = self.rest.get_or_insert_with(Box::default);
            rest.push_front(second);
        }
    }

    pub(crate) fn pop_back(&mut self) -> Option<T> {
        let last = self.rest.as_mut().and_then(|q| q.pop_back());
        last.or_else(|| self.first.take())
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let front = self.first.take()?;
        self.first = self.rest.as_mut().and_then(|q| q.pop_front());
        Some(front)
    }

    #[inline]
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    #[inline]
    pub(crate) fn back(&self) -> Option<&T> {
        let last = self.rest.as_ref().and_then(|q| q.back());
        last.or(self.first.as_ref())
    }

    #[inline]
    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        let last = self.rest.as_mut().and_then(|q| q.back_mut());
        last.or(self.first.as_mut())
    }

    /// The elements from number `from` on.
    #[inline]
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = &T> {
        let first = self.first.as_ref().filter(|_| from == 0);
        let skip = from.saturating_sub(1);
        let rest = self.rest.iter().flat_map(move |q| q.iter().skip(skip));
        first.into_iter().chain(rest)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |q| q.len())
    }

    /// How many elements at the front fulfil `is_before`, given that no later one does.
    #[inline]
    pub(crate) fn partition_point(&self, mut is_before: impl FnMut(&T) -> bool) -> usize {
        if !self.first.as_ref().is_some_and(&mut is_before) {
            return 0;
        }
        let rest = self.rest.as_ref();
        1 + rest.map_or(0, |q| q.partition_point(is_before))
    }

    /// Moves everything of `other` behind this queue's elements.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if let Some(first) = other.first.take() {
            self.push_back(first);
        }
        if let Some(other) = other.rest.as_mut().filter(|q| !q.is_empty()) {
            self.rest.get_or_insert_with(Box::default).append(other);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Whether storage is allocated.
    pub(crate) fn is_allocated(&self) -> bool {
        self.rest.is_some()
    }

    /// Gives the storage back if there is nothing in it.
    pub(crate) fn shrink(&mut self) {
        if self.rest.as_ref().is_some_and(|q| q.is_empty()) {
            self.rest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_stays_while_it_is_used_and_goes_when_it_is_not() {
        let mut q = Fifo::new();
        assert!(q.is_empty() && q.pop_front().is_none() && q.back().is_none());
        q.push_back(1);
        assert!(!q.is_allocated() && q.back() == Some(&1));
        let mut other = Fifo::new();
        other.push_back(2);
        q.append(&mut other);
        assert_eq!(q.iter_from(0).collect::<Vec<_>>(), [&1, &2]);
        assert_eq!(q.iter_from(1).collect::<Vec<_>>(), [&2]);
        assert_eq!(q.partition_point(|n| *n < 2), 1);
        assert_eq!((q.pop_front(), q.pop_front()), (Some(1), Some(2)));
        assert!(q.is_allocated() && q.is_empty() && other.is_empty());
        q.shrink();
        assert!(!q.is_allocated());
    }

    proptest::proptest! {
        #[test]
        fn behaves_like_a_deque(steps in proptest::collection::vec(0..7_u8, 0..200)) {
            let (mut queue, mut model) = (Fifo::new(), VecDeque::new());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    0..3 => {
                        queue.push_back(n);
                        model.push_back(n);
                    }
                    3 => proptest::prop_assert_eq!(queue.pop_front(), model.pop_front()),
                    4 => proptest::prop_assert_eq!(queue.front_mut(), model.front_mut()),
                    5 => queue.shrink(),
                    _ => {
                        let (mut more, mut other) = (Fifo::new(), VecDeque::new());
                        for i in 0..n % 3 {
                            more.push_back(n + i);
                            other.push_back(n + i);
                        }
                        queue.append(&mut more);
                        model.append(&mut other);
                    }
                }
                proptest::prop_assert_eq!(queue.len(), model.len());
                proptest::prop_assert_eq!(queue.is_empty(), model.is_empty());
                proptest::prop_assert_eq!(queue.back(), model.back());
                for from in 0..3 {
                    let got: Vec<_> = queue.iter_from(from).collect();
                    proptest::prop_assert_eq!(got, model.iter().skip(from).collect::<Vec<_>>());
                }
                let before = |limit: usize| move |v: &usize| *v < limit;
                let sorted = model.iter().is_sorted();
                if sorted {
                    let point = queue.partition_point(before(n / 2));
                    proptest::prop_assert_eq!(point, model.partition_point(before(n / 2)));
                }
            }
        }
    }
}
