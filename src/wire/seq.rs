//! TCP sequence numbers: 32-bit, wrapping, without a total order.
//!
//! There is no `Ord` on purpose: "less than" on a circle only means something relative to a
//! window (RFC 9293 §3.4), so every comparison is a named method.
#![forbid(unsafe_code)]

use core::ops::{Add, AddAssign, Sub};

/// A sequence or acknowledgment number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNum(u32);

impl SeqNum {
    /// From the wire's value.
    pub const fn new(v: u32) -> Self {
        Self(v)
    }
    /// The wire's value.
    pub const fn get(self) -> u32 {
        self.0
    }
    /// Whether `self` comes before `other` (RFC 9293 §3.4: `<` modulo 2^32).
    pub const fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }
    /// Whether `self` comes before `other` or is the same.
    pub const fn before_eq(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) <= 0
    }
    /// Whether `self` comes after `other`.
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }
    /// Whether `self` comes after `other` or is the same.
    pub const fn after_eq(self, other: Self) -> bool {
        other.before_eq(self)
    }
    /// The one that comes first.
    pub const fn earliest(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
    /// The one that comes last.
    pub const fn latest(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
    /// How far `self` lies after `earlier`, modulo 2^32.
    pub const fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
    /// Whether `self` lies in `[start, start + len)`.
    pub const fn within(self, start: Self, len: u32) -> bool {
        self.distance_from(start) < len
    }
}

impl Add<u32> for SeqNum {
    type Output = Self;
    fn add(self, rhs: u32) -> Self {
        Self(self.0.wrapping_add(rhs))
    }
}

impl AddAssign<u32> for SeqNum {
    fn add_assign(&mut self, rhs: u32) {
        *self = *self + rhs;
    }
}

impl Sub<u32> for SeqNum {
    type Output = Self;
    fn sub(self, rhs: u32) -> Self {
        Self(self.0.wrapping_sub(rhs))
    }
}

impl core::fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn before_and_after_are_opposites(a: u32, d in 1u32..0x8000_0000) {
            let (x, y) = (SeqNum::new(a), SeqNum::new(a) + d);
            // Exactly half the circle away is the one distance with no answer.
            prop_assume!(d != 0x8000_0000);
            prop_assert!(x.before(y) && y.after(x) && !y.before(x));
            prop_assert_eq!(y.distance_from(x), d);
            prop_assert_eq!(x.latest(y), y);
            prop_assert_eq!(x.earliest(y), x);
        }
    }
}
