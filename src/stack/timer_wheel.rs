//! A hierarchical timing wheel (Varghese & Lauck 1987, scheme 7) with one entry per connection.
//!
//! Timers are lazy: a connection whose deadline moves later keeps its place and is asked again
//! when that place comes up, so re-arming a timer on every ACK costs nothing here. Ticks are
//! 2^17 ns (131 µs): fine enough for a 1 ms delayed ACK and a 4 ms retransmission timeout.
#![forbid(unsafe_code)]

use crate::time::Instant;

const TICK_SHIFT: u32 = 17;
const SLOT_BITS: u32 = 8;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 4;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    prev: u32,
    next: u32,
    /// Level * SLOTS + slot, or `NONE` when not in the wheel.
    place: u32,
    tick: u64,
}

const UNLINKED: Node = Node {
    prev: NONE,
    next: NONE,
    place: NONE,
    tick: 0,
};

/// The wheel.
#[derive(Debug)]
pub(super) struct TimerWheel {
    nodes: Vec<Node>,
    heads: Vec<u32>,
    /// One bit per slot: whether its list is non-empty.
    occupied: [[u64; SLOTS / 64]; LEVELS],
    /// Every tick before this one has been expired.
    now_tick: u64,
    len: usize,
}

const fn tick_of(at: Instant) -> u64 {
    at.as_nanos() >> TICK_SHIFT
}

/// A deadline rounds up: a timer never fires early.
const fn deadline_tick(at: Instant) -> u64 {
    (at.as_nanos() >> TICK_SHIFT)
        .saturating_add((at.as_nanos() & ((1 << TICK_SHIFT) - 1) != 0) as u64)
}

impl TimerWheel {
    /// An empty wheel that starts at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            nodes: Vec::new(),
            heads: vec![NONE; LEVELS * SLOTS],
            occupied: [[0; SLOTS / 64]; LEVELS],
            now_tick: tick_of(now),
            len: 0,
        }
    }

    /// Makes sure that `index` comes up at `at` or before. Allocates only for an index higher
    /// than any seen before.
    pub(super) fn schedule(&mut self, index: u32, at: Instant) {
        let want = deadline_tick(at).max(self.now_tick);
        if self.nodes.len() <= index as usize {
            self.nodes.resize(index as usize + 1, UNLINKED);
        }
        match self.nodes.get(index as usize) {
            Some(node) if node.place != NONE && node.tick <= want => return,
            Some(node) if node.place != NONE => self.unlink(index),
            _ => {}
        }
        self.link(index, want);
    }

    /// `index` will be scheduled soon.
    #[inline]
    pub(super) fn prefetch(&self, index: u32) {
        if let Some(node) = self.nodes.get(index as usize) {
            crate::sys::prefetch(node);
        }
    }

    /// Takes `index` out.
    pub(super) fn cancel(&mut self, index: u32) {
        if self
            .nodes
            .get(index as usize)
            .is_some_and(|n| n.place != NONE)
        {
            self.unlink(index);
        }
    }

    /// Takes out everything due at `now` and appends it to `due`.
    pub(super) fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        let target = tick_of(now);
        while self.now_tick <= target {
            if self.len == 0 {
                self.now_tick = target + 1;
                return;
            }
            if self.now_tick & (SLOTS as u64 - 1) == 0 {
                self.cascade();
            }
            let slot = (self.now_tick as usize) & (SLOTS - 1);
            self.take_slot(0, slot, due);
            // Skip empty slots of this level at once, up to the next cascade.
            let row_end = (self.now_tick | (SLOTS as u64 - 1)) + 1;
            let next = match self.next_occupied(0, slot + 1) {
                Some(s) => (self.now_tick & !(SLOTS as u64 - 1)) + s as u64,
                None => row_end,
            };
            self.now_tick = next.min(target + 1);
        }
    }

    /// When [`TimerWheel::expire`] should be called next: exact within the first level, and
    /// never later than the earliest deadline beyond it.
    pub(super) fn next_deadline(&self) -> Instant {
        if self.len == 0 {
            return Instant::FAR_FUTURE;
        }
        // An entry of a row's next round can come before one of a higher level: ask them all.
        let tick = (0..LEVELS).filter_map(|level| self.first_tick(level)).min();
        tick.map_or(Instant::FAR_FUTURE, |t| {
            Instant::from_nanos(t << TICK_SHIFT)
        })
    }

    /// The first tick of the next occupied slot of a level.
    fn first_tick(&self, level: usize) -> Option<u64> {
        let shift = SLOT_BITS * level as u32;
        let position = self.now_tick >> shift;
        let slot = (position as usize) & (SLOTS - 1);
        // Above level 0 the present slot has been brought down already, unless this tick is the
        // very start of it; what it holds now belongs to the next round.
        let begun = self.now_tick & ((1 << shift) - 1) != 0;
        let row = position & !(SLOTS as u64 - 1);
        self.next_occupied(level, slot + usize::from(begun))
            .map(|s| row + s as u64)
            .or_else(|| {
                self.next_occupied(level, 0)
                    .map(|s| row + SLOTS as u64 + s as u64)
            })
            .map(|position| position << shift)
    }

    fn next_occupied(&self, level: usize, from: usize) -> Option<usize> {
        let row = self.occupied.get(level)?;
        let mut word = from / 64;
        let mut mask = u64::MAX.checked_shl((from % 64) as u32).unwrap_or(0);
        while let Some(bits) = row.get(word) {
            let bits = bits & mask;
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            mask = u64::MAX;
        }
        None
    }

    fn link(&mut self, index: u32, tick: u64) {
        let span = tick.saturating_sub(self.now_tick);
        let mut level = 0;
        while level + 1 < LEVELS && span >= 1 << (SLOT_BITS * (level as u32 + 1)) {
            level += 1;
        }
        // Beyond the last level's span (157 hours) a timer parks in the farthest slot and is
        // placed anew when that comes up.
        let reach = (1u64 << (SLOT_BITS * LEVELS as u32)) - 1;
        let placed = tick.min(self.now_tick.saturating_add(reach));
        let slot = ((placed >> (SLOT_BITS * level as u32)) as usize) & (SLOTS - 1);
        let place = level * SLOTS + slot;
        let Some(head) = self.heads.get_mut(place) else {
            return;
        };
        let next = core::mem::replace(head, index);
        if let Some(n) = self.nodes.get_mut(next as usize) {
            n.prev = index;
        }
        if let Some(n) = self.nodes.get_mut(index as usize) {
            *n = Node {
                prev: NONE,
                next,
                place: place as u32,
                tick,
            };
        }
        if let Some(word) = self
            .occupied
            .get_mut(level)
            .and_then(|r| r.get_mut(slot / 64))
        {
            *word |= 1 << (slot % 64);
        }
        self.len += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Some(node) = self.nodes.get_mut(index as usize) else {
            return;
        };
        let Node {
            prev, next, place, ..
        } = core::mem::replace(node, UNLINKED);
        match self.nodes.get_mut(prev as usize) {
            Some(p) => p.next = next,
            None => {
                if let Some(head) = self.heads.get_mut(place as usize) {
                    *head = next;
                }
            }
        }
        if let Some(n) = self.nodes.get_mut(next as usize) {
            n.prev = prev;
        }
        let (level, slot) = (place as usize / SLOTS, place as usize % SLOTS);
        if self.heads.get(place as usize) == Some(&NONE)
            && let Some(word) = self
                .occupied
                .get_mut(level)
                .and_then(|r| r.get_mut(slot / 64))
        {
            *word &= !(1 << (slot % 64));
        }
        self.len -= 1;
    }

    fn take_slot(&mut self, level: usize, slot: usize, out: &mut Vec<u32>) {
        while let Some(&index) = self.heads.get(level * SLOTS + slot) {
            if index == NONE {
                return;
            }
            self.unlink(index);
            out.push(index);
        }
    }

    /// At the start of a row of level 0: brings down what the higher levels hold for it.
    fn cascade(&mut self) {
        for level in 1..LEVELS {
            let position = self.now_tick >> (SLOT_BITS * level as u32);
            let slot = (position as usize) & (SLOTS - 1);
            let place = level * SLOTS + slot;
            // Unlinking first and linking anew may put an entry back into this very slot only
            // from the last level, which is a full turn away; so walk the list as it is now.
            let mut index = self.heads.get(place).copied().unwrap_or(NONE);
            while let Some(&node) = self.nodes.get(index as usize) {
                self.unlink(index);
                self.link(index, node.tick);
                index = node.next;
            }
            if slot != 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::time::Duration;

    #[derive(Clone, Debug)]
    enum Op {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let span = prop_oneof![
            0u64..2_000_000,
            0u64..50_000_000_000,
            0u64..10_000_000_000_000
        ];
        prop_oneof![
            (0u32..40, span.clone()).prop_map(|(i, d)| Op::Schedule(i, d)),
            (0u32..40).prop_map(Op::Cancel),
            span.prop_map(Op::Advance),
        ]
    }

    proptest! {
        /// Against a map: nothing fires early or more than a tick late, nothing is lost, and
        /// the next deadline is never later than the earliest entry.
        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec(any_op(), 1..120)) {
            let mut now = Instant::from_nanos(12_345_678_901);
            let mut wheel = TimerWheel::new(now);
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Schedule(i, d) => {
                        let at = now + Duration::from_nanos(d);
                        wheel.schedule(i, at);
                        // Only earlier moves take effect: later ones are lazy.
                        let entry = model.entry(i).or_insert(at);
                        *entry = (*entry).min(at);
                    }
                    Op::Cancel(i) => {
                        wheel.cancel(i);
                        model.remove(&i);
                    }
                    Op::Advance(d) => {
                        now += Duration::from_nanos(d);
                        let mut due = Vec::new();
                        wheel.expire(now, &mut due);
                        for i in due {
                            let at = model.remove(&i).expect("fired but not scheduled");
                            prop_assert!(at <= now, "{i} fired early");
                        }
                        for (i, at) in &model {
                            let late = now.saturating_since(*at);
                            prop_assert!(
                                *at > now || late <= Duration::from_nanos(2 << TICK_SHIFT),
                                "{i} is late by {late:?}",
                            );
                        }
                    }
                }
                prop_assert_eq!(wheel.len, model.len());
                if let Some(earliest) = model.values().min() {
                    let limit = *earliest + Duration::from_nanos(2 << TICK_SHIFT);
                    let soon = now + Duration::from_nanos(2 << TICK_SHIFT);
                    prop_assert!(wheel.next_deadline() <= limit.max(soon));
                } else {
                    prop_assert_eq!(wheel.next_deadline(), Instant::FAR_FUTURE);
                }
            }
        }
    }
}
