//! Reading the system's clock.

use super::{Clock, Instant};

/// `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Instant {
        let mut t = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // By way of libc and not of rustix, which looks for the vDSO where valgrind has none.
        // SAFETY: the call writes to a live timespec, and nothing else. It cannot fail: every
        // Linux has this clock.
        let _zero = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
        Instant::from_nanos(
            (t.tv_sec as u64)
                .wrapping_mul(1_000_000_000)
                .wrapping_add(t.tv_nsec as u64),
        )
    }
}
