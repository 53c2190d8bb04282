//! One direction of a link: rate, queue, delay, and everything that can go wrong on the way.

use luna::time::{Duration, Instant};

use crate::hop::Hop;
use crate::rng::Rng;

/// What a link does to packets. The default is perfect and instantaneous.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkConfig {
    /// Lost, in parts per million, like the others.
    pub(crate) loss_ppm: u32,
    /// Delivered twice.
    pub(crate) duplicate_ppm: u32,
    /// Delivered with one bit flipped.
    pub(crate) corrupt_ppm: u32,
    /// Held back for up to `reorder_by`, so that others overtake.
    pub(crate) reorder_ppm: u32,
    pub(crate) reorder_by: Duration,
    /// Time from one end to the other.
    pub(crate) delay: Duration,
    /// Zero: infinite.
    pub(crate) bits_per_second: u64,
    /// Bytes that may wait for the link to be free; more are dropped. Zero: any number.
    pub(crate) queue_bytes: u64,
    /// Nothing gets through for a part of every period. Zero: no outages.
    pub(crate) outage_every: Duration,
    pub(crate) outage_for: Duration,
    /// The link's hop tells its load, over this base round trip. Zero: it does not. Only of hosts
    /// whose packets are bare TCP segments.
    pub(crate) tells_load_over: Duration,
}

/// Somewhere else in every period, or a timer of the same period would always hit it.
fn is_out(c: &LinkConfig, now: Instant) -> bool {
    let (every, length) = (c.outage_every.as_nanos(), c.outage_for.as_nanos());
    if every <= length {
        return false;
    }
    let (period, at) = (now.as_nanos() / every, now.as_nanos() % every);
    let begin = Rng::new(period).below(every - length);
    (begin..begin + length).contains(&at)
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Link {
    config: LinkConfig,
    rng: Rng,
    /// When the last packet will have left.
    free_at: Instant,
    hop: Hop,
    /// How long packets have waited for others, and how many they were.
    waited: (Duration, u64),
}

impl Link {
    pub(crate) fn new(config: LinkConfig, rng: Rng) -> Self {
        Self {
            config,
            rng,
            free_at: Instant::ZERO,
            hop: Hop::new(),
            waited: (Duration::ZERO, 0),
        }
    }

    /// How long a packet has waited for others, on average.
    pub(crate) fn mean_wait(&self) -> Duration {
        self.waited.0.div(self.waited.1)
    }

    /// Takes a packet; calls `deliver` for each copy that will arrive, and when.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        mut packet: Vec<u8>,
        mut deliver: impl FnMut(Instant, Vec<u8>),
    ) {
        let c = self.config;
        let mut left_at = now;
        if c.bits_per_second > 0 {
            let start = self.free_at.max(now);
            let waiting_ns = start.saturating_since(now).as_nanos();
            let waiting_bytes =
                u128::from(waiting_ns) * u128::from(c.bits_per_second) / 8_000_000_000;
            if c.queue_bytes > 0 && waiting_bytes + packet.len() as u128 > u128::from(c.queue_bytes)
            {
                return;
            }
            if c.tells_load_over > Duration::ZERO {
                let (round, rate) = (c.tells_load_over, c.bits_per_second);
                let waiting = waiting_bytes as u64;
                self.hop.forward(now, round, rate, waiting, &mut packet);
            }
            let waited = start.saturating_since(now);
            self.waited = (self.waited.0 + waited, self.waited.1 + 1);
            let ns = packet.len() as u64 * 8 * 1_000_000_000 / c.bits_per_second;
            left_at = start + Duration::from_nanos(ns);
            self.free_at = left_at;
        }
        if self.rng.chance(c.loss_ppm) || is_out(&c, now) {
            return;
        }
        if self.rng.chance(c.corrupt_ppm) && !packet.is_empty() {
            let bit = self.rng.below(packet.len() as u64 * 8);
            packet[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        let copies = if self.rng.chance(c.duplicate_ppm) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut at = left_at + c.delay;
            if self.rng.chance(c.reorder_ppm) {
                at += Duration::from_nanos(self.rng.below(c.reorder_by.as_nanos()));
            }
            deliver(at, packet.clone());
        }
    }
}
