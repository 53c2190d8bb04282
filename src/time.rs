//! Instants and durations in nanoseconds, and the one place that may read a clock.
//!
//! The protocol core never reads a clock: it is told `now`. A shard reads it once per turn
//! through [`Clock`], so that a test can drive everything with [`ManualClock`].

mod system;

pub use system::{SystemClock, unix_seconds};

use core::ops::{Add, AddAssign, Sub};

/// A span of time in nanoseconds. Saturating, never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(u64);

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// Longer than any timer.
    pub const MAX: Self = Self(u64::MAX);

    /// From nanoseconds.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }
    /// From microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }
    /// From milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
    /// From seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }
    /// In nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
    /// In whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }
    /// In whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
    /// In whole seconds.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
    /// Times `n`, saturating.
    pub const fn saturating_mul(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
    /// Minus `other`, not below zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
    /// Divided by `n`; by zero gives [`Duration::MAX`].
    pub const fn div(self, n: u64) -> Self {
        match self.0.checked_div(n) {
            Some(v) => Self(v),
            None => Self::MAX,
        }
    }
    /// As the standard library's type.
    pub const fn to_std(self) -> core::time::Duration {
        core::time::Duration::from_nanos(self.0)
    }
}

impl Add for Duration {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl core::fmt::Debug for Duration {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.to_std().fmt(f)
    }
}

/// A point on a monotonic clock, in nanoseconds since that clock's own origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);
    /// After every other instant: "no deadline".
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// From nanoseconds since the clock's origin.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }
    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
    /// Milliseconds since the clock's origin, wrapped to 32 bits (timestamp option ticks).
    pub const fn as_millis_wrapping(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }
    /// The time since `earlier`, zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs.0))
    }
}

impl core::fmt::Debug for Instant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "t+{:?}", Duration(self.0))
    }
}

/// Where a shard gets its `now` from, once per turn.
pub trait Clock {
    /// The present.
    fn now(&self) -> Instant;
}

/// A clock that stands still until it is moved: for tests and the simulator.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(std::rc::Rc<core::cell::Cell<Instant>>);

impl ManualClock {
    /// Moves the clock forward to `to`; a clock never goes back.
    pub fn advance_to(&self, to: Instant) {
        if to > self.0.get() {
            self.0.set(to);
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(
            Instant::FAR_FUTURE + Duration::from_secs(1),
            Instant::FAR_FUTURE
        );
        assert_eq!(
            Instant::ZERO.saturating_since(Instant::from_nanos(5)),
            Duration::ZERO
        );
        assert_eq!(Duration::from_millis(3).div(0), Duration::MAX);
    }
}
