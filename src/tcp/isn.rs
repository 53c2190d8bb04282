//! Initial sequence numbers and timestamp offsets that outsiders cannot guess.
//!
//! Both are keyed hashes of the connection's four-tuple, so that a later connection between the
//! same ports continues where an earlier one stopped, while other tuples tell nothing about it.
//! The secret is drawn once per process by the caller; this module draws nothing.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use crate::time::Instant;
use crate::wire::SeqNum;

/// What a hash is for: hashes for different purposes must be unrelated.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Purpose {
    Sequence = 1,
    Timestamp = 2,
    Cookie = 3,
}

/// Makes initial sequence numbers (RFC 6528) and timestamp offsets (RFC 7323 §7.1).
#[derive(Clone)]
pub struct IsnGenerator {
    hasher: SipHasher24,
}

impl IsnGenerator {
    /// With a secret of 128 random bits.
    pub fn new(secret: [u8; 16]) -> Self {
        Self {
            hasher: SipHasher24::new_with_key(&secret),
        }
    }

    /// The initial sequence number for a connection from `local` to `remote` that is opened now.
    pub fn initial_sequence(&self, now: Instant, local: SocketAddr, remote: SocketAddr) -> SeqNum {
        //= RFC 6528 §3
        //# "ISN = M + F(localip, localport, remoteip, remoteport, secretkey)"
        // M ticks every 64 ns, as Linux's does, not every 4 us: a connection that moved less
        // than 15 MB/s can then be followed at once by another of the same tuple, and the
        // cycle of 4.6 minutes is still longer than two MSL.
        let clock = (now.as_nanos() >> 6) as u32;
        SeqNum::new(clock.wrapping_add(self.hash(Purpose::Sequence, local, remote, &[]) as u32))
    }

    /// What to add to the clock to get the timestamps of a connection: the same for the same
    /// tuple, so that the timestamps of successive connections grow (RFC 6191).
    pub fn timestamp_offset(&self, local: SocketAddr, remote: SocketAddr) -> u32 {
        //= RFC 7323 §7.1
        //# "it is RECOMMENDED to generate a random, per-connection offset to be used with the
        //#  clock source when generating the Timestamps option value"
        self.hash(Purpose::Timestamp, local, remote, &[]) as u32
    }

    pub(super) fn hash(
        &self,
        purpose: Purpose,
        local: SocketAddr,
        remote: SocketAddr,
        extra: &[u8],
    ) -> u64 {
        // Everything has a fixed place, so that different inputs can't look the same: purpose,
        // length of the extra bytes, ports, addresses (IPv4 mapped), then the extra bytes.
        let mut bytes = [0; 2 + 4 + 32 + 16];
        let extra = extra.get(..extra.len().min(16)).unwrap_or_default();
        bytes[0] = purpose as u8;
        bytes[1] = extra.len() as u8;
        bytes[2..4].copy_from_slice(&local.port().to_be_bytes());
        bytes[4..6].copy_from_slice(&remote.port().to_be_bytes());
        bytes[6..22].copy_from_slice(&octets(local.ip()));
        bytes[22..38].copy_from_slice(&octets(remote.ip()));
        for (slot, byte) in bytes.iter_mut().skip(38).zip(extra) {
            *slot = *byte;
        }
        self.hasher.hash(&bytes)
    }
}

impl core::fmt::Debug for IsnGenerator {
    /// Does not show the secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("IsnGenerator").finish_non_exhaustive()
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::time::Duration;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn a_tuple_grows_with_the_clock_and_survives_its_wrap() {
        let isn = IsnGenerator::new([7; 16]);
        let mut last = isn.initial_sequence(Instant::ZERO, at(1), at(2));
        for minute in 1..600 {
            // Less than half the cycle apart, or "later" would mean nothing.
            let now = Instant::ZERO + Duration::from_secs(60).saturating_mul(minute);
            let next = isn.initial_sequence(now, at(1), at(2));
            assert!(next.after(last), "minute {minute}");
            last = next;
        }
    }

    #[test]
    fn tuples_and_secrets_are_unrelated() {
        let isn = IsnGenerator::new([7; 16]);
        let now = Instant::from_nanos(1 << 40);
        let values: Vec<u32> = (1..20_000)
            .map(|port| isn.initial_sequence(now, at(port), at(80)).get())
            .collect();
        let distinct: HashSet<u32> = values.iter().copied().collect();
        assert!(distinct.len() > values.len() - 5);
        // No constant step from port to port, and no bias of any bit.
        let steps: HashSet<u32> = values.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        assert!(steps.len() > values.len() - 10);
        for bit in 0..32 {
            let ones = values.iter().filter(|v| *v >> bit & 1 == 1).count();
            assert!(
                (9_500..10_500).contains(&ones),
                "bit {bit} is set in {ones} of 20000"
            );
        }
        let restarted = IsnGenerator::new([8; 16]);
        assert_ne!(
            restarted.initial_sequence(now, at(1), at(2)),
            isn.initial_sequence(now, at(1), at(2))
        );
        assert_ne!(
            isn.timestamp_offset(at(1), at(2)),
            isn.initial_sequence(Instant::ZERO, at(1), at(2)).get()
        );
        assert_ne!(
            isn.timestamp_offset(at(1), at(2)),
            isn.timestamp_offset(at(2), at(1))
        );
        assert_eq!(
            isn.timestamp_offset(at(1), at(2)),
            isn.timestamp_offset(at(1), at(2))
        );
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert_eq!(
            format!("{:?}", IsnGenerator::new([0xab; 16])),
            "IsnGenerator { .. }"
        );
    }
}
