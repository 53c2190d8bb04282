//! What routers have said about our segments, for the shards, which alone know whether it concerns
//! a segment of theirs.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::icmp::TooBig;
use crate::limits::NOTICES_MAX;

/// The latest messages, numbered. Who is too slow misses some, and routers repeat themselves.
#[derive(Debug, Default)]
pub struct Notices {
    /// How many there have been.
    count: AtomicU64,
    latest: Mutex<VecDeque<TooBig>>,
}

impl Notices {
    /// How many there have been. Whoever sees a new value calls [`Notices::since`].
    #[inline]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Adds one.
    pub fn add(&self, notice: TooBig) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() >= NOTICES_MAX {
            latest.pop_front();
        }
        latest.push_back(notice);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Moves those after the first `seen` to the back of `out`, as far as they are kept, and
    /// brings `seen` up to date.
    pub fn since(&self, seen: &mut u64, out: &mut Vec<TooBig>) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock the two agree.
        let count = self.count.load(Ordering::Relaxed);
        let new = usize::try_from(count.saturating_sub(*seen)).unwrap_or(usize::MAX);
        out.extend(
            latest
                .iter()
                .skip(latest.len().saturating_sub(new))
                .copied(),
        );
        *seen = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SeqNum;

    #[test]
    fn each_reader_sees_what_is_new_to_it() {
        let notice = |i: usize| TooBig {
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 2], 999).into(),
            sequence: SeqNum::new(i as u32),
            mtu: 1400,
        };
        let notices = Notices::default();
        let (mut seen, mut out) = (0, Vec::new());
        notices.since(&mut seen, &mut out);
        assert!(out.is_empty());
        notices.add(notice(0));
        notices.since(&mut seen, &mut out);
        notices.since(&mut seen, &mut out);
        assert_eq!(out, [notice(0)]);
        for i in 1..=2 * NOTICES_MAX {
            notices.add(notice(i));
        }
        out.clear();
        notices.since(&mut seen, &mut out);
        assert_eq!(out.len(), NOTICES_MAX, "bounded: the oldest are gone");
        assert_eq!(out.last(), Some(&notice(2 * NOTICES_MAX)));
        assert_eq!(seen, notices.count());
    }
}
