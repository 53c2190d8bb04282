//! What the runtime remembers of each application thread.
#![forbid(unsafe_code)]

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use super::wake::Wake;
use crate::stack::Wakeup;
use crate::sys::Errno;
use crate::time::{Duration, Instant};

/// Lanes beyond this many are flushed at once instead of being noted as dirty.
const DIRTY_LANES_MAX: usize = u64::BITS as usize;

/// After this many deferred writes the frames go out even if the thread is still at its
/// events, so that a handler that writes a lot overlaps with the link.
const DEFERRED_WRITES_MAX: u32 = 32;

/// A thread that stays away longer than this between two waits, on average, hands its shards
/// to a sleeper when it leaves. For shorter absences the wake-up would cost more than it saves.
const HAND_OVER_AFTER: Duration = Duration::from_micros(100);

/// No thread has this number; "nobody" as a leader.
pub(crate) const NOBODY: u32 = 0;
/// The steward's.
pub(crate) const STEWARD: u32 = u32::MAX;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// One thread. Nothing in it is shared; all of it is small.
#[derive(Debug)]
pub(crate) struct Me {
    /// Its number, for leadership and to spread threads over shards.
    pub(crate) number: u32,
    /// It got events from us and will be back: what it writes can wait until then.
    in_loop: Cell<bool>,
    /// Lanes on which it has queued something since its last turn.
    dirty: Cell<u64>,
    deferred: Cell<u32>,
    deferred_bytes: Cell<usize>,
    /// When its last wait ended; zero: it never waited.
    left: Cell<Instant>,
    /// How long it is away between waits (moving average).
    away: Cell<Duration>,
    /// How often a non-blocking call found nothing since its last turn.
    misses: Cell<u32>,
    /// The shard that an event loop of this thread owns; beyond all shards: none.
    own: Cell<usize>,
    /// It is in a callback of an event loop of ours.
    in_callback: Cell<bool>,
    wake: RefCell<Option<Arc<Wake>>>,
    /// Kept for its capacity.
    pub(crate) wakeups: RefCell<Vec<Wakeup>>,
}

impl Me {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            // After four thousand million threads numbers repeat: two threads could then
            // both believe to lead, which costs a wasted wake-up.
            number: if number == NOBODY || number == STEWARD {
                1
            } else {
                number
            },
            in_loop: Cell::new(false),
            dirty: Cell::new(0),
            deferred: Cell::new(0),
            deferred_bytes: Cell::new(0),
            left: Cell::new(Instant::ZERO),
            away: Cell::new(Duration::ZERO),
            misses: Cell::new(0),
            own: Cell::new(usize::MAX),
            in_callback: Cell::new(false),
            wake: RefCell::new(None),
            wakeups: RefCell::new(Vec::new()),
        }
    }

    /// Its bell, made at first use.
    pub(crate) fn wake(&self) -> Result<Arc<Wake>, Errno> {
        let mut wake = self.wake.borrow_mut();
        match &*wake {
            Some(bell) if !bell.is_stale() => Ok(Arc::clone(bell)),
            _ => {
                let bell = Wake::new()?;
                *wake = Some(Arc::clone(&bell));
                Ok(bell)
            }
        }
    }

    /// Which of `lanes` it turns by preference.
    pub(crate) fn home(&self, lanes: usize) -> usize {
        if self.own.get() < lanes {
            return self.own.get();
        }
        self.number as usize % lanes.max(1)
    }

    /// Something, of so many bytes, was queued on a lane, where `bytes_max` may wait. True: send it
    /// now.
    pub(crate) fn queued(&self, lane: usize, bytes: usize, bytes_max: usize) -> bool {
        if !self.in_loop.get() || lane >= DIRTY_LANES_MAX {
            return true;
        }
        self.dirty.set(self.dirty.get() | 1 << lane);
        let deferred = self.deferred.get() + 1;
        let deferred_bytes = self.deferred_bytes.get() + bytes;
        if deferred >= DEFERRED_WRITES_MAX || deferred_bytes >= bytes_max {
            self.deferred.set(0);
            self.deferred_bytes.set(0);
            return true;
        }
        self.deferred.set(deferred);
        self.deferred_bytes.set(deferred_bytes);
        false
    }

    /// Whether it has queued something that is not sent.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.get() != 0
    }

    /// Whether it has queued something on a lane; not so any more.
    pub(crate) fn take_dirty(&self, lane: usize) -> bool {
        if lane >= DIRTY_LANES_MAX {
            return false;
        }
        let dirty = self.dirty.get();
        self.dirty.set(dirty & !(1 << lane));
        dirty & 1 << lane != 0
    }

    /// It turns the shards.
    pub(crate) fn turns(&self) {
        self.deferred.set(0);
        self.deferred_bytes.set(0);
        self.misses.set(0);
    }

    /// A wait begins.
    pub(crate) fn enters(&self, now: Instant) {
        let left = self.left.get();
        if left != Instant::ZERO {
            let away = now.saturating_since(left).as_nanos().min(1_000_000_000);
            let mean = self.away.get().as_nanos();
            // An eighth of the news: the weight of RFC 6298's round trip times.
            self.away
                .set(Duration::from_nanos(mean - mean / 8 + away / 8));
        }
    }

    /// A wait ends.
    pub(crate) fn leaves(&self, now: Instant) {
        self.left.set(now);
    }

    /// What follows is (not) the handling of events.
    pub(crate) fn set_in_loop(&self, in_loop: bool) {
        self.in_loop.set(in_loop);
    }

    /// An event loop of this thread owns a shard, or does not any more.
    pub(crate) fn set_own(&self, shard: Option<usize>) {
        self.own.set(shard.unwrap_or(usize::MAX));
    }

    /// Callbacks of an event loop begin or end; returns how it was.
    pub(crate) fn set_in_callback(&self, on: bool) -> bool {
        self.in_callback.replace(on)
    }

    /// Whether waiting would be waiting for itself.
    pub(crate) fn is_in_callback(&self) -> bool {
        self.in_callback.get()
    }

    /// Whether a sleeper should take over for while it is away. An unknown thread is trusted to
    /// be back soon; the steward catches those that are not.
    pub(crate) fn stays_away(&self) -> bool {
        self.away.get() > HAND_OVER_AFTER
    }

    /// A non-blocking call found nothing. True: turn the shard and look again. In an event loop
    /// the next wait does that, so only many misses in a row count (a loop without waits).
    pub(crate) fn missed(&self) -> bool {
        const MISSES_IN_LOOP: u32 = 64;
        let misses = self.misses.get() + 1;
        self.misses.set(misses);
        !self.in_loop.get() || misses > MISSES_IN_LOOP
    }
}

impl Drop for Me {
    fn drop(&mut self) {
        if let Some(crew) = super::crew() {
            crew.thread_ended(self.number);
        }
    }
}

thread_local! {
    static ME: Me = Me::new();
}

/// Runs `f` with the calling thread's record; with a fresh one while the thread is being torn
/// down.
pub(crate) fn with_me<R>(mut f: impl FnMut(&Me) -> R) -> R {
    ME.try_with(&mut f).unwrap_or_else(|_| f(&Me::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_wait_only_inside_an_event_loop() {
        let me = Me::new();
        const MOST: usize = 10_000;
        assert!(me.queued(0, 1, MOST), "a blocking program sends at once");
        me.set_in_loop(true);
        for _ in 1..DEFERRED_WRITES_MAX {
            assert!(!me.queued(3, 100, MOST));
        }
        assert!(me.queued(3, 100, MOST), "a long batch is cut");
        for _ in 0..2 {
            assert!(!me.queued(3, MOST - 1, MOST));
            assert!(me.queued(3, 1, MOST), "and one of many bytes");
        }
        assert!(me.take_dirty(3));
        assert!(!me.take_dirty(3));
        assert!(me.queued(64, 1, MOST), "too many lanes to note");
    }

    #[test]
    fn long_absences_are_noticed_and_forgotten() {
        let me = Me::new();
        let mut now = Instant::from_nanos(1);
        let mut absence = |me: &Me, span| {
            me.leaves(now);
            now += span;
            me.enters(now);
        };
        absence(&me, Duration::from_micros(10));
        assert!(!me.stays_away());
        absence(&me, Duration::from_millis(5));
        assert!(me.stays_away());
        for _ in 0..40 {
            absence(&me, Duration::from_micros(10));
        }
        assert!(!me.stays_away());
    }

    #[test]
    fn misses_turn_the_shard_unless_a_wait_will() {
        let me = Me::new();
        assert!(me.missed());
        me.set_in_loop(true);
        me.turns();
        assert!(!me.missed());
        assert!((0..100).any(|_| me.missed()), "a loop that never waits");
    }
}
