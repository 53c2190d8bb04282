//! How often the kernel is asked for events while the shards are busy.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use crate::time::{Duration, Instant};

/// After an answer with nothing in it, the kernel is left alone for this long…
const GAP_MIN: Duration = Duration::from_micros(2);
/// …and for twice as long each time, up to this: 2,000 calls a second are one in a hundred requests
/// of a shard that is busy with 200,000.
const GAP_MAX: Duration = Duration::from_micros(500);

/// Without other work for so long, a thread that turns for ever asks this often at least.
pub(crate) const IDLE_AFTER: Duration = Duration::from_micros(20);
pub(crate) const IDLE_GAP: Duration = Duration::from_micros(10);

/// When to ask the kernel next. LUNA §7.2 asks it every round, which costs a small request a
/// tenth of its time. Here what has been silent is asked less and less often, so that an event
/// waits no longer than the silence before it lasted, and 500 µs at most; after an event the next
/// round asks again. (A round may last longer than that.)
#[derive(Debug, Default)]
pub(crate) struct Rhythm {
    /// In nanoseconds.
    asked: AtomicU64,
    gap: AtomicU64,
}

impl Rhythm {
    /// Whether to ask in this round.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let since = now.as_nanos() - self.asked.load(Ordering::Relaxed).min(now.as_nanos());
        since >= self.gap.load(Ordering::Relaxed)
    }

    /// The same in a round that had nothing else to do, since `idle_since`: soon there is nothing
    /// to be saved by not asking.
    #[inline]
    pub(crate) fn is_due_when_idle(&self, now: Instant, idle_since: Instant) -> bool {
        let asked = Instant::from_nanos(self.asked.load(Ordering::Relaxed));
        self.is_due(now)
            || now.saturating_since(idle_since) >= IDLE_AFTER
                && now.saturating_since(asked) >= IDLE_GAP
    }

    /// The kernel was asked, and had something or not.
    pub(crate) fn asked(&self, now: Instant, found: bool) {
        self.asked.store(now.as_nanos(), Ordering::Relaxed);
        let gap = match found {
            true => 0,
            false => {
                (self.gap.load(Ordering::Relaxed) * 2).clamp(GAP_MIN.as_nanos(), GAP_MAX.as_nanos())
            }
        };
        self.gap.store(gap, Ordering::Relaxed);
    }

    /// Asks at the next round.
    pub(crate) fn hurry(&self) {
        self.gap.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_silent_is_asked_less_and_less() {
        let rhythm = Rhythm::default();
        let mut now = Instant::from_nanos(1_000_000);
        let mut gaps = Vec::new();
        let mut asked = now;
        while gaps.len() < 10 {
            if rhythm.is_due(now) {
                gaps.push(now.saturating_since(asked).as_micros());
                asked = now;
                rhythm.asked(now, false);
            }
            now += Duration::from_micros(1);
        }
        assert_eq!(gaps, [0, 2, 4, 8, 16, 32, 64, 128, 256, 500]);
        rhythm.asked(now, true);
        assert!(rhythm.is_due(now), "an event brings the next");
        rhythm.asked(now, false);
        assert!(!rhythm.is_due(now));
        rhythm.hurry();
        assert!(rhythm.is_due(now));
        (0..20).for_each(|_| rhythm.asked(now, false));
        let later = now + Duration::from_micros(30);
        assert!(!rhythm.is_due(later));
        assert!(
            rhythm.is_due_when_idle(later, now),
            "it has nothing else to do"
        );
        assert!(!rhythm.is_due_when_idle(later, later));
    }
}
