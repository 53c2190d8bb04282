//! Reading the system's clocks.

use super::{Clock, Instant};

/// `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Instant {
        let t = read(libc::CLOCK_MONOTONIC);
        Instant::from_nanos(
            (t.tv_sec as u64)
                .wrapping_mul(1_000_000_000)
                .wrapping_add(t.tv_nsec as u64),
        )
    }
}

/// Seconds since 1970, for people.
pub fn unix_seconds() -> u64 {
    u64::try_from(read(libc::CLOCK_REALTIME).tv_sec).unwrap_or(0)
}

/// By way of libc and not of rustix, which looks for the vDSO where valgrind has none.
#[inline]
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to a live timespec, and nothing else. It cannot fail: every Linux
    // has the two clocks that are asked for here.
    let _zero = unsafe { libc::clock_gettime(clock, &raw mut t) };
    t
}
