//! A hop that tells its load: it raises the telemetry option of what it forwards (LUNA §9).
//!
//! The load is HPCC's, measured as PINT (SIGCOMM '20) does it in a switch: a moving average over a
//! base round trip of the bytes sent, and of the queue.

use luna::time::{Duration, Instant};

/// 4096: all of the capacity, and no queue.
const ONE: f64 = 4096.0;
/// What a packet's headers below TCP and around it take on the wire.
const EXTRA_BYTES: f64 = 20.0 + 14.0 + 24.0;

/// The meter of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    load: f64,
    at: Instant,
}

impl Hop {
    pub(crate) const fn new() -> Self {
        Self {
            load: 0.0,
            at: Instant::ZERO,
        }
    }

    /// `segment` joins a queue of `waiting` bytes.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        base: Duration,
        bits_per_second: u64,
        waiting: u64,
        segment: &mut [u8],
    ) {
        let round = base.as_nanos().max(1) as f64;
        let holds = bits_per_second as f64 / 8e9 * round;
        let since = (now.saturating_since(self.at).as_nanos() as f64).min(round);
        self.at = now;
        let part = since / round;
        self.load = self.load * (1.0 - part)
            + part * waiting as f64 / holds
            + (segment.len() as f64 + EXTRA_BYTES) / holds;
        raise(segment, (self.load * ONE).clamp(1.0, 65_535.0) as u16);
    }
}

/// Raises the load in the option, if there is one, and mends the checksum (RFC 1624).
fn raise(segment: &mut [u8], load: u16) {
    let header = usize::from(segment[12] >> 4) * 4;
    let mut at = 20;
    while at + 1 < header && segment[at] != 0 {
        match segment[at] {
            1 => at += 1,
            254 if at + 8 <= header && segment[at + 1..at + 4] == [8, b'L', b'N'] => {
                let old = u16::from_be_bytes([segment[at + 4], segment[at + 5]]);
                if load > old {
                    replace(segment, at + 4, old, load);
                }
                return;
            }
            _ => at += usize::from(segment[at + 1]).max(2),
        }
    }
}

fn replace(segment: &mut [u8], at: usize, old: u16, new: u16) {
    assert!(at.is_multiple_of(2), "the sum is over words");
    segment[at..at + 2].copy_from_slice(&new.to_be_bytes());
    let sum = u16::from_be_bytes([segment[16], segment[17]]);
    //= RFC 1624 §3
    //# "HC' = ~(~HC + ~m + m')"
    let mut wide = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while wide > 0xffff {
        wide = (wide & 0xffff) + (wide >> 16);
    }
    let sum = !(wide as u16);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}
