//! The limit on acknowledgments that an outsider can provoke (RFC 5961 §7).
//!
//! Per connection, because a limit that connections share is a side channel between them
//! (CVE-2016-5696); of random size, so that it can't be counted out.
#![forbid(unsafe_code)]

use crate::time::{Duration, Instant};

/// RFC 5961 §7 suggests 10 in 5 seconds; this is at most twice that per second because the
/// same budget answers a peer's keepalives and stray duplicates.
const BUDGET_MIN: u32 = 4;
const BUDGET_SPREAD: u32 = 5;
const PERIOD: Duration = Duration::from_secs(1);

/// A random number of acknowledgments per period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChallengeLimit {
    left: u32,
    renew_at: Instant,
    random: u64,
}

impl ChallengeLimit {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            left: 0,
            renew_at: Instant::ZERO,
            random: seed,
        }
    }

    /// Whether one more may be sent now.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        if now >= self.renew_at {
            self.random = split_mix(self.random);
            self.left = BUDGET_MIN + (self.random >> 32) as u32 % BUDGET_SPREAD;
            self.renew_at = now + PERIOD;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// SplitMix64: enough to make a count unpredictable to someone who never sees its outputs.
const fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
