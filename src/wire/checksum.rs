//! The Internet checksum (RFC 1071).
#![forbid(unsafe_code)]

use core::net::IpAddr;

/// A running one's-complement sum over pieces of any length.
///
/// Bytes are summed in native order, 8 at a time: the one's-complement sum does not care about
/// byte order as long as the result is swapped back (RFC 1071 §2 (B)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    sum: u64,
    odd: bool,
}

impl Checksum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// A sum of which this is the folded value ([`Checksum::folded`]).
    #[inline]
    pub const fn from_folded(folded: u16) -> Self {
        Self {
            sum: folded.to_be() as u64,
            odd: false,
        }
    }

    /// The sum of a TCP pseudo-header (RFC 9293 §3.1; RFC 8200 §8.1) with this TCP length in
    /// bytes. Mixed address families give a sum that matches nothing.
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, tcp_len: u32) -> Self {
        let mut c = Self::new();
        match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                c.add(&s.octets());
                c.add(&d.octets());
            }
            (s, d) => {
                for a in [s, d] {
                    match a {
                        IpAddr::V4(a) => c.add(&a.to_ipv6_mapped().octets()),
                        IpAddr::V6(a) => c.add(&a.octets()),
                    }
                }
            }
        }
        // The IPv4 form has 16 bits of length; a 32-bit one with a zero upper half sums the same.
        c.add(&tcp_len.to_be_bytes());
        c.add(&[0, protocol]);
        c
    }

    /// Adds bytes that follow those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let mut part = sum_bytes(bytes);
        if self.odd {
            // These bytes sit at odd offsets of the whole: swap their halves (RFC 1071 §2 (B)).
            part = u64::from(fold(part).swap_bytes());
        }
        self.sum = self.sum.wrapping_add(part);
        if self.sum < part {
            self.sum += 1;
        }
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds bytes whose sum is known already.
    pub fn add_sum(&mut self, other: Self) {
        let part = if self.odd {
            u64::from(fold(other.sum).swap_bytes())
        } else {
            other.sum
        };
        self.sum = self.sum.wrapping_add(part);
        if self.sum < part {
            self.sum += 1;
        }
        self.odd ^= other.odd;
    }

    /// The sum folded to 16 bits, in the order of the wire, not complemented.
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.sum))
    }

    /// What goes into a checksum field: the complement of the sum.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// Folds a 64-bit one's-complement sum to 16 bits.
const fn fold(sum: u64) -> u16 {
    let s = (sum >> 32) + (sum & 0xffff_ffff);
    let s = (s >> 16) + (s & 0xffff);
    let s = (s >> 16) + (s & 0xffff);
    let s = (s >> 16) + (s & 0xffff);
    s as u16
}

/// How many 64-bit words are added up side by side.
const LANES: usize = 4;

#[inline]
fn sum_bytes(bytes: &[u8]) -> u64 {
    // Lanes of 128 bits: an addition and a carry for each 8 bytes, and the lanes do not wait for
    // each other. No carry can be lost below 2^64 words.
    let mut lanes = [0u128; LANES];
    let (blocks, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<8>();
    let mut sum = lanes.iter().sum::<u128>();
    for word in words {
        sum += u128::from(u64::from_ne_bytes(*word));
    }
    if !rest.is_empty() {
        // Zeros behind do not change the sum.
        let mut last = [0u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u128::from(u64::from_ne_bytes(last));
    }
    // 2^64 is 1 in one's complement of 16 bits.
    let (high, low) = ((sum >> 64) as u64, sum as u64);
    let (sum, carry) = low.overflowing_add(high);
    sum + u64::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let hi = u32::from(pair[0]);
            let lo = pair.get(1).copied().map_or(0, u32::from);
            sum += (hi << 8) | lo;
        }
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        let mut c = Checksum::new();
        c.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(c.folded(), 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_naive_sum_however_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            cuts in proptest::collection::vec(0usize..3000, 0..5),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut c = Checksum::new();
            let mut from = 0;
            for cut in cuts {
                c.add(&bytes[from..cut]);
                from = cut;
            }
            let mut rest = Checksum::new();
            rest.add(&bytes[from..]);
            c.add_sum(rest);
            // 0 and 0xffff are the same number in one's complement.
            let (a, b) = (c.finish(), naive(&bytes));
            prop_assert!(a == b || (a ^ b) == 0xffff && (a == 0 || b == 0));
        }
    }
}
