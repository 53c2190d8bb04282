//! Pacing: at what rate segments leave, and when the next may.
//!
//! Segments go in bursts of a millisecond's worth, or two segments if that is more, and the next
//! burst waits until this one's time is over. Knows nothing of windows: the rate is an argument.
#![forbid(unsafe_code)]

use crate::time::{Duration, Instant};

/// No limit, as `SO_MAX_PACING_RATE` says it. So does 0.
pub const RATE_UNLIMITED: u64 = u64::MAX;
/// A burst is what the rate carries in this time (Linux's `sk_pacing_shift`: 2^-10 s).
const BURST: Duration = Duration::from_millis(1);
/// … but at least so many segments, so that a receiver that delays its acknowledgments sends one.
const BURST_SEGMENTS_MIN: u32 = 2;
/// What a turn that came late may catch up, at most: half a burst's time.
const CATCH_UP: Duration = Duration::from_micros(500);

/// The schedule of a connection that is paced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    /// Bytes of data per second.
    rate: u64,
    /// When the time of what has been sent is over.
    next: Instant,
    /// What is left of the present burst.
    burst_left: u32,
}

impl Pacer {
    /// Without a limit until a rate is set.
    pub(crate) const fn new() -> Self {
        Self {
            rate: RATE_UNLIMITED,
            next: Instant::ZERO,
            burst_left: 0,
        }
    }

    /// Bytes of data per second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Follows another rate from the next segment on.
    pub(crate) fn set_rate(&mut self, bytes_per_second: u64) {
        self.rate = bytes_per_second.max(1);
    }

    /// How many bytes may go now; 0: none before [`next`](Self::next).
    pub(crate) fn allowance(&mut self, now: Instant, mss: u32) -> u32 {
        if self.rate == RATE_UNLIMITED {
            return u32::MAX;
        }
        if self.burst_left == 0 && self.next <= now {
            self.next = self.next.max(now - CATCH_UP);
            let worth = u128::from(self.rate) * u128::from(BURST.as_nanos()) / 1_000_000_000;
            let least = mss.saturating_mul(BURST_SEGMENTS_MIN);
            self.burst_left = u32::try_from(worth).unwrap_or(u32::MAX).max(least);
        }
        self.burst_left
    }

    /// `bytes` have been sent.
    pub(crate) fn on_sent(&mut self, now: Instant, bytes: u32) {
        if self.rate == RATE_UNLIMITED {
            return;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.next = self.next.max(now - CATCH_UP) + Duration::from_nanos(nanos);
        self.burst_left = self.burst_left.saturating_sub(bytes);
    }

    /// When the next burst may begin.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    fn at(us: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1) + Duration::from_micros(us)
    }

    fn paced(rate: u64) -> Pacer {
        let mut pacer = Pacer::new();
        pacer.set_rate(rate);
        pacer
    }

    /// Sends all that may go at `now`.
    fn burst(pacer: &mut Pacer, now: Instant) -> u32 {
        let mut sent = 0;
        while pacer.allowance(now, MSS) > 0 {
            pacer.on_sent(now, MSS);
            sent += MSS;
        }
        sent
    }

    #[test]
    fn without_a_rate_everything_goes() {
        let mut pacer = Pacer::new();
        pacer.on_sent(at(0), u32::MAX);
        assert_eq!(pacer.allowance(at(0), MSS), u32::MAX);
    }

    #[test]
    fn a_burst_is_a_millisecond_or_two_segments() {
        // 8 MB/s: 8,000 bytes in a millisecond. A first burst has half of one to catch up.
        let mut fast = paced(8_000_000);
        assert_eq!(burst(&mut fast, at(0)), 8 * MSS);
        assert_eq!(fast.next(), at(500));
        assert_eq!(burst(&mut fast, at(499)), 0);
        assert_eq!(burst(&mut fast, at(500)), 8 * MSS);
        assert_eq!(fast.next(), at(1500));
        let mut slow = paced(1_000_000);
        assert_eq!(burst(&mut slow, at(0)), 2 * MSS);
        assert_eq!(slow.next(), at(1500));
    }

    #[test]
    fn the_rate_holds_when_turns_come_late() {
        let mut pacer = paced(8_000_000);
        let mut sent = 0;
        for turn in 0..1000 {
            // Each a little later than the pacer asked for.
            let now = pacer.next().max(at(0)) + Duration::from_micros(turn % 300);
            sent += u64::from(burst(&mut pacer, now));
        }
        let seconds = pacer.next().saturating_since(at(0)).as_micros();
        let rate = sent * 1_000_000 / seconds;
        assert!((7_950_000..=8_010_000).contains(&rate), "{rate}");
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let mut pacer = paced(8_000_000);
        burst(&mut pacer, at(0));
        assert_eq!(burst(&mut pacer, at(60_000_000)), 8 * MSS);
        assert_eq!(burst(&mut pacer, at(60_000_400)), 0);
    }
}
