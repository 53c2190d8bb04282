//! One direction of a link in user space: loss, lateness, reordering, duplication, a rate with a
//! queue in front. Deterministic for a seed. Frames are bytes; time is nanoseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What is wrong with a direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) loss_ppm: u32,
    pub(crate) duplicate_ppm: u32,
    pub(crate) reorder_ppm: u32,
    pub(crate) delay_ns: u64,
    /// 0 = no limit.
    pub(crate) bits_per_second: u64,
    /// Bytes that may wait for their turn; 0 = no limit.
    pub(crate) queue_bytes: u64,
    /// Nothing passes.
    pub(crate) cut: bool,
}

/// A direction.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) conditions: Conditions,
    state: u64,
    free_at: u64,
    count: u64,
    under_way: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    pub(crate) lost: u64,
    pub(crate) passed: u64,
}

impl Lane {
    pub(crate) fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678,
            free_at: 0,
            count: 0,
            under_way: BinaryHeap::new(),
            lost: 0,
            passed: 0,
        }
    }

    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.random() % 1_000_000 < u64::from(ppm)
    }

    /// A frame enters at `now`.
    pub(crate) fn put(&mut self, now: u64, frame: Vec<u8>) {
        let c = self.conditions;
        let bits = frame.len() as u64 * 8;
        let mut leaves = now;
        if c.bits_per_second > 0 {
            let start = self.free_at.max(now);
            let waiting = (start - now).saturating_mul(c.bits_per_second) / 8_000_000_000;
            if c.queue_bytes > 0 && waiting > c.queue_bytes {
                self.lost += 1;
                return;
            }
            self.free_at = start + bits * 1_000_000_000 / c.bits_per_second;
            leaves = self.free_at;
        }
        if c.cut || self.chance(c.loss_ppm) {
            self.lost += 1;
            return;
        }
        let copies = 1 + u64::from(self.chance(c.duplicate_ppm));
        for _ in 0..copies {
            let late = match self.chance(c.reorder_ppm) {
                true => self.random() % (c.delay_ns / 2 + 200_000),
                false => 0,
            };
            self.count += 1;
            let at = leaves + c.delay_ns + late;
            self.under_way
                .push(Reverse((at, self.count, frame.clone())));
        }
    }

    /// When the next frame comes out.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.under_way.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next frame that is due.
    pub(crate) fn take(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse((_, _, frame)) = self.under_way.pop()?;
        self.passed += 1;
        Some(frame)
    }

    /// What is under way is lost.
    pub(crate) fn clear(&mut self) {
        self.lost += self.under_way.len() as u64;
        self.under_way.clear();
    }
}
