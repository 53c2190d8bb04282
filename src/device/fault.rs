//! A bad link: wraps any device and loses, repeats, damages, reorders, delays and throttles.
//!
//! All chance comes from one seed and all time from the given clock, so a run with the same
//! frames at the same instants has the same faults. Knows nothing of what is in a frame.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::RawFd;

use super::pair::frame_bytes;
use super::{Capabilities, Device, DeviceStats, Pieces, RxFrame, TxFrame};
use crate::time::{Clock, Duration, Instant};
use crate::zbuf::{Pool, Slice};

/// What is wrong with one direction. The default is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How many of a million frames are lost.
    pub loss_ppm: u32,
    /// How many in a row are lost then (0 and 1: that one only).
    pub loss_burst_frames: u32,
    /// How many of a million arrive twice.
    pub duplicate_ppm: u32,
    /// How many of a million have one bit inverted, behind the Ethernet addresses and type (a
    /// real link's own checksum protects the whole frame; this is about ours).
    pub corrupt_ppm: u32,
    /// How many of a million are overtaken,
    pub reorder_ppm: u32,
    /// and by how many frames; by fewer if no more come in some turns.
    pub reorder_frames: u32,
    /// How long every frame takes.
    pub delay: Duration,
    /// How much longer at most; anything above zero reorders.
    pub jitter: Duration,
    /// Bytes in a second, 0 for no limit.
    pub rate_bytes_per_s: u64,
    /// How many frames can be waiting; those above are lost.
    pub queue_frames_max: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss_ppm: 0,
            loss_burst_frames: 0,
            duplicate_ppm: 0,
            corrupt_ppm: 0,
            reorder_ppm: 0,
            reorder_frames: 3,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate_bytes_per_s: 0,
            queue_frames_max: 1024,
        }
    }
}

impl Faults {
    fn needs_time(&self) -> bool {
        self.delay > Duration::ZERO || self.jitter > Duration::ZERO || self.rate_bytes_per_s > 0
    }
}

/// A seed and both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultConfig {
    /// Where all chance comes from.
    pub seed: u64,
    /// Frames that we send.
    pub tx: Faults,
    /// Frames that we receive.
    pub rx: Faults,
}

/// What has been done to frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStats {
    /// Frames that went in.
    pub frames: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because too many were waiting.
    pub overflowed: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Held back so that others overtake.
    pub reordered: u64,
}

/// Most frames that have come through our faults and not yet into the device.
const STAGED_FRAMES_MAX: usize = 64;
/// Turns after which a frame that waits to be overtaken goes on without.
const HELD_TURNS: u32 = 8;
/// Bytes that are never damaged: Ethernet addresses and type.
const INTACT_BYTES: usize = 14;

/// A device on a bad link.
#[derive(Debug)]
pub struct Fault<D, C> {
    inner: D,
    clock: C,
    tx: Lane<TxFrame>,
    rx: Lane<RxFrame>,
    staged: VecDeque<TxFrame>,
    arriving: Vec<RxFrame>,
}

impl<D: Device, C: Clock> Fault<D, C> {
    /// Puts `inner` on a link as bad as `config` says.
    pub fn new(inner: D, clock: C, config: FaultConfig) -> Self {
        let mut seeds = SplitMix64(config.seed);
        Self {
            inner,
            clock,
            tx: Lane::new(config.tx, seeds.next()),
            rx: Lane::new(config.rx, seeds.next()),
            staged: VecDeque::with_capacity(STAGED_FRAMES_MAX),
            arriving: Vec::new(),
        }
    }

    /// What has been done to frames: (sent, received).
    pub fn fault_stats(&self) -> (FaultStats, FaultStats) {
        (self.tx.stats, self.rx.stats)
    }

    /// When the next delayed frame is due, sent or received: for a simulation that moves the
    /// clock. `None` if no frame is delayed.
    pub fn next_due(&self) -> Option<Instant> {
        self.tx
            .next_due()
            .into_iter()
            .chain(self.rx.next_due())
            .min()
    }

    /// Changes what is wrong with both directions; frames under way keep their fate.
    pub fn set_faults(&mut self, tx: Faults, rx: Faults) {
        self.tx.faults = tx;
        self.rx.faults = rx;
    }

    /// The device itself.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// The present, read only if anything depends on it.
    fn now(&self) -> Instant {
        if self.tx.needs_time() || self.rx.needs_time() {
            self.clock.now()
        } else {
            Instant::ZERO
        }
    }

    fn send_due(&mut self, pool: &mut Pool, now: Instant) {
        while self.staged.len() < STAGED_FRAMES_MAX
            && let Some(frame) = self.tx.release(now)
        {
            self.staged.push_back(frame);
        }
        if !self.staged.is_empty() {
            self.inner.tx_burst(pool, &mut self.staged);
        }
    }
}

impl<D: Device, C: Clock> Device for Fault<D, C> {
    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        // A checksum computed after the damage would vouch for it.
        let tx_checksum = inner.tx_checksum && self.tx.faults.corrupt_ppm == 0;
        Capabilities {
            tx_checksum,
            ..inner
        }
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let now = self.now();
        self.inner.rx_burst(pool, &mut self.arriving, room);
        for frame in self.arriving.drain(..) {
            self.rx.accept(pool, frame, now);
        }
        self.rx.turn(now);
        let before = frames.len();
        while frames.len() - before < room
            && let Some(frame) = self.rx.release(now)
        {
            frames.push(frame);
        }
        frames.len() - before
    }

    fn tx_burst(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        let now = self.now();
        let mut taken = 0;
        loop {
            self.send_due(pool, now);
            // The device is full: so are we.
            if self.staged.len() >= STAGED_FRAMES_MAX {
                return taken;
            }
            let Some(frame) = frames.pop_front() else {
                return taken;
            };
            self.tx.accept(pool, frame, now);
            taken += 1;
        }
    }

    fn flush(&mut self, pool: &mut Pool) {
        let now = self.now();
        self.tx.turn(now);
        self.send_due(pool, now);
        self.inner.flush(pool);
    }

    fn arm(&mut self) -> bool {
        // No descriptor tells when a delayed frame is due.
        self.tx.is_empty() && self.rx.is_empty() && self.staged.is_empty() && self.inner.arm()
    }

    fn wait_fds(&self) -> &[RawFd] {
        self.inner.wait_fds()
    }

    fn stats(&self) -> DeviceStats {
        self.inner.stats()
    }

    fn close(&mut self, pool: &mut Pool) {
        self.inner.close(pool);
    }
}

/// One direction.
#[derive(Debug)]
struct Lane<F> {
    faults: Faults,
    random: SplitMix64,
    stats: FaultStats,
    /// Frames that wait to be overtaken.
    held: Vec<Held<F>>,
    /// Frames that wait for their time.
    waiting: BinaryHeap<Reverse<Due<F>>>,
    serial: u64,
    /// When the throttled link has sent what it has.
    idle_at: Instant,
    burst_left: u32,
}

#[derive(Debug)]
struct Held<F> {
    frame: F,
    frames_left: u32,
    turns_left: u32,
}

#[derive(Debug)]
struct Due<F> {
    at: Instant,
    /// Breaks ties: first in, first out.
    serial: u64,
    frame: F,
}

impl<F> PartialEq for Due<F> {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl<F> Eq for Due<F> {}

impl<F> PartialOrd for Due<F> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<F> Ord for Due<F> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl<F: Frame> Lane<F> {
    fn new(faults: Faults, seed: u64) -> Self {
        Self {
            faults,
            random: SplitMix64(seed),
            stats: FaultStats::default(),
            held: Vec::new(),
            waiting: BinaryHeap::new(),
            serial: 0,
            idle_at: Instant::ZERO,
            burst_left: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    fn needs_time(&self) -> bool {
        self.faults.needs_time() || self.next_due().is_some_and(|due| due > Instant::ZERO)
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|due| due.0.at)
    }

    /// Decides the fate of a frame.
    fn accept(&mut self, pool: &mut Pool, mut frame: F, now: Instant) {
        self.stats.frames += 1;
        if self.is_lost() {
            self.stats.lost += 1;
            return;
        }
        if self.random.chance(self.faults.corrupt_ppm) {
            if !frame.corrupt(pool, &mut self.random) {
                // No object to hold the damaged copy.
                self.stats.lost += 1;
                return;
            }
            self.stats.corrupted += 1;
        }
        if self.random.chance(self.faults.duplicate_ppm) {
            self.stats.duplicated += 1;
            self.enqueue(frame.clone(), now);
        }
        if self.random.chance(self.faults.reorder_ppm)
            && self.held.len() < self.faults.queue_frames_max
        {
            self.stats.reordered += 1;
            let frames_left = self.faults.reorder_frames.max(1);
            self.held.push(Held {
                frame,
                frames_left,
                turns_left: HELD_TURNS,
            });
            return;
        }
        self.enqueue(frame, now);
        for held in &mut self.held {
            held.frames_left = held.frames_left.saturating_sub(1);
        }
        self.let_go(now);
    }

    /// A turn has passed.
    fn turn(&mut self, now: Instant) {
        for held in &mut self.held {
            held.turns_left = held.turns_left.saturating_sub(1);
        }
        self.let_go(now);
    }

    /// Takes out a frame whose time has come.
    fn release(&mut self, now: Instant) -> Option<F> {
        if self.next_due()? > now {
            return None;
        }
        self.waiting.pop().map(|due| due.0.frame)
    }

    fn is_lost(&mut self) -> bool {
        if let Some(left) = self.burst_left.checked_sub(1) {
            self.burst_left = left;
            return true;
        }
        let lost = self.random.chance(self.faults.loss_ppm);
        if lost {
            self.burst_left = self.faults.loss_burst_frames.saturating_sub(1);
        }
        lost
    }

    fn let_go(&mut self, now: Instant) {
        while let Some(at) = self
            .held
            .iter()
            .position(|held| held.frames_left == 0 || held.turns_left == 0)
        {
            let held = self.held.remove(at);
            self.enqueue(held.frame, now);
        }
    }

    fn enqueue(&mut self, frame: F, now: Instant) {
        if self.waiting.len() >= self.faults.queue_frames_max {
            self.stats.overflowed += 1;
            return;
        }
        let mut at = now;
        let nanos = (frame.bytes() as u64).saturating_mul(1_000_000_000);
        if let Some(takes) = nanos.checked_div(self.faults.rate_bytes_per_s) {
            at = self.idle_at.max(now) + Duration::from_nanos(takes);
            self.idle_at = at;
        }
        at += self.faults.delay;
        if self.faults.jitter > Duration::ZERO {
            let jitter = self
                .random
                .below(self.faults.jitter.as_nanos().saturating_add(1));
            at += Duration::from_nanos(jitter);
        }
        self.serial += 1;
        self.waiting.push(Reverse(Due {
            at,
            serial: self.serial,
            frame,
        }));
    }
}

/// What frames of both directions have in common.
trait Frame: Clone {
    fn bytes(&self) -> usize;
    /// Inverts a bit, in a copy of what others refer to. False if there is no object for that.
    fn corrupt(&mut self, pool: &mut Pool, random: &mut SplitMix64) -> bool;
}

impl Frame for TxFrame {
    fn bytes(&self) -> usize {
        frame_bytes(self)
    }

    fn corrupt(&mut self, pool: &mut Pool, random: &mut SplitMix64) -> bool {
        let Some((at, mask)) = random.bit(self.bytes()) else {
            return true;
        };
        if let Some(byte) = self.header.get_mut(at) {
            *byte ^= mask;
            return true;
        }
        invert(&mut self.payload, pool, at - self.header.len(), mask)
    }
}

impl Frame for RxFrame {
    fn bytes(&self) -> usize {
        self.pieces.iter().map(Slice::len).sum()
    }

    fn corrupt(&mut self, pool: &mut Pool, random: &mut SplitMix64) -> bool {
        let Some((at, mask)) = random.bit(self.bytes()) else {
            return true;
        };
        self.checksum_ok = false;
        invert(&mut self.pieces, pool, at, mask)
    }
}

/// Inverts the bits `mask` of byte `at`, in a copy of the piece that it is in: a retransmission
/// queue may refer to the original.
fn invert(pieces: &mut Pieces, pool: &mut Pool, mut at: usize, mask: u8) -> bool {
    for piece in pieces {
        if at < piece.len() {
            let Some(mut copy) = pool.copy_in(piece.as_bytes()) else {
                return false;
            };
            if let Some(byte) = copy.bytes_mut().and_then(|bytes| bytes.get_mut(at)) {
                *byte ^= mask;
            }
            *piece = copy;
            return true;
        }
        at -= piece.len();
    }
    true
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0. (The bias of one in 2^64/bound is no matter here.)
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// A byte's position behind the Ethernet header of a frame of `bytes`, and a bit in it.
    fn bit(&mut self, bytes: usize) -> Option<(usize, u8)> {
        let bytes = bytes.checked_sub(INTACT_BYTES).filter(|bytes| *bytes > 0)?;
        let at = self.below(bytes as u64) as usize;
        Some((INTACT_BYTES + at, 1 << self.below(8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::pair::{LocalEnd, PairConfig, local};
    use crate::device::testing::{pool, rx_bytes, send};
    use crate::time::ManualClock;

    const FRAMES: u64 = 4000;

    struct Link {
        from: Fault<LocalEnd, ManualClock>,
        to: Fault<LocalEnd, ManualClock>,
        clock: ManualClock,
        pool: Pool,
    }

    impl Link {
        fn new(seed: u64, tx: Faults, rx: Faults) -> Self {
            let clock = ManualClock::default();
            let (from, to) = local(PairConfig::default());
            let none = Faults::default();
            Self {
                from: Fault::new(from, clock.clone(), FaultConfig { seed, tx, rx: none }),
                to: Fault::new(to, clock.clone(), FaultConfig { seed, tx: none, rx }),
                clock,
                pool: pool(),
            }
        }

        fn send(&mut self, number: u64) {
            let payload = [number as u8; 100];
            send(
                &mut self.from,
                &mut self.pool,
                &number.to_be_bytes().repeat(2),
                &[&payload],
            );
        }

        fn receive(&mut self) -> Vec<Vec<u8>> {
            let mut frames = Vec::new();
            self.to.rx_burst(&mut self.pool, &mut frames, 64);
            frames.iter().map(rx_bytes).collect()
        }

        /// Sends numbered frames; returns all that arrives until nothing is under way.
        fn run(&mut self) -> Vec<Vec<u8>> {
            let mut all = Vec::new();
            for number in 0..FRAMES {
                self.send(number);
                all.extend(self.receive());
            }
            while !(self.from.arm() && self.to.arm()) {
                if let Some(due) = self
                    .from
                    .next_due()
                    .into_iter()
                    .chain(self.to.next_due())
                    .min()
                {
                    self.clock.advance_to(due);
                }
                self.from.flush(&mut self.pool);
                all.extend(self.receive());
            }
            assert_eq!(self.pool.objects_in_use(), 0);
            all
        }
    }

    fn number(frame: &[u8]) -> u64 {
        u64::from_be_bytes(frame[..8].try_into().unwrap())
    }

    #[test]
    fn a_good_link_changes_nothing() {
        let none = Faults::default();
        let mut link = Link::new(1, none, none);
        let got: Vec<_> = link.run().iter().map(|frame| number(frame)).collect();
        assert!(got.into_iter().eq(0..FRAMES));
        let stats = FaultStats {
            frames: FRAMES,
            ..Default::default()
        };
        assert_eq!(
            (link.from.fault_stats().0, link.to.fault_stats().1),
            (stats, stats)
        );
    }

    #[test]
    fn the_same_seed_has_the_same_faults() {
        let bad = Faults {
            loss_ppm: 30_000,
            duplicate_ppm: 20_000,
            corrupt_ppm: 20_000,
            reorder_ppm: 50_000,
            delay: Duration::from_micros(50),
            jitter: Duration::from_micros(10),
            rate_bytes_per_s: 1_000_000_000,
            ..Faults::default()
        };
        let run = |seed| Link::new(seed, bad, bad).run();
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }

    #[test]
    fn every_fault_happens_about_as_often_as_asked_for() {
        let rx = Faults {
            loss_ppm: 100_000,
            loss_burst_frames: 3,
            ..Faults::default()
        };
        let mut link = Link::new(2, Faults::default(), rx);
        let got = link.run().len() as u64;
        let stats = link.to.fault_stats().1;
        assert_eq!((got + stats.lost, stats.frames), (FRAMES, FRAMES));
        // One in ten begins a burst of three: 0.3 / 1.2 of all.
        assert!(
            (FRAMES / 5..FRAMES * 3 / 10).contains(&stats.lost),
            "{stats:?}"
        );

        let tx = Faults {
            duplicate_ppm: 100_000,
            ..Faults::default()
        };
        let mut link = Link::new(3, tx, Faults::default());
        let got = link.run().len() as u64;
        let stats = link.from.fault_stats().0;
        assert_eq!(got, FRAMES + stats.duplicated);
        assert!(
            (FRAMES * 8 / 100..FRAMES * 12 / 100).contains(&stats.duplicated),
            "{stats:?}"
        );
    }

    #[test]
    fn damage_is_one_bit_of_a_copy() {
        let bad = Faults {
            corrupt_ppm: 1_000_000,
            ..Faults::default()
        };
        for (tx, rx) in [(bad, Faults::default()), (Faults::default(), bad)] {
            let mut link = Link::new(4, tx, rx);
            let payload = link.pool.copy_in(&[0; 1000]).unwrap();
            for _ in 0..200 {
                let frame = TxFrame {
                    header: [0; 14].into_iter().collect(),
                    payload: [payload.clone()].into_iter().collect(),
                    checksum_offload: false,
                    segment_bytes: 0,
                    alone: false,
                };
                link.from
                    .tx_burst(&mut link.pool, &mut VecDeque::from([frame]));
                link.from.flush(&mut link.pool);
                let got = link.receive().remove(0);
                assert_eq!(got.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
                assert_eq!(got[..14], [0; 14]);
            }
            assert_eq!(payload.as_bytes(), [0; 1000]);
        }
        let offload = PairConfig {
            checksum_offload: true,
            ..PairConfig::default()
        };
        let tx = |tx| FaultConfig {
            tx,
            ..FaultConfig::default()
        };
        let clock = ManualClock::default();
        let bad = Fault::new(local(offload).0, clock.clone(), tx(bad));
        let good = Fault::new(local(offload).0, clock, tx(Faults::default()));
        assert!(!bad.capabilities().tx_checksum && good.capabilities().tx_checksum);
    }

    #[test]
    fn overtaken_frames_are_late_by_as_many_as_asked_for() {
        let tx = Faults {
            reorder_ppm: 20_000,
            reorder_frames: 2,
            ..Faults::default()
        };
        let mut link = Link::new(7, tx, Faults::default());
        let got: Vec<_> = link.run().iter().map(|frame| number(frame)).collect();
        let late = got.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
        let reordered = link.from.fault_stats().0.reordered;
        assert!(late > 0 && late <= reordered, "{late} of {reordered}");
        let mut sorted = got.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..FRAMES));
        let displaced = got
            .iter()
            .enumerate()
            .map(|(at, number)| number.abs_diff(at as u64))
            .max();
        assert!(
            displaced >= Some(2) && displaced <= Some(8),
            "{displaced:?}"
        );
    }

    #[test]
    fn delay_and_rate_are_kept() {
        // 116 bytes at 116 MB/s: a microsecond each.
        let tx = Faults {
            delay: Duration::from_millis(1),
            rate_bytes_per_s: 116_000_000,
            queue_frames_max: 10,
            ..Faults::default()
        };
        let mut link = Link::new(8, tx, Faults::default());
        for number in 0..12 {
            link.send(number);
        }
        assert!(link.receive().is_empty() && !link.from.arm());
        assert_eq!(link.from.fault_stats().0.overflowed, 2);
        for number in 0..10 {
            let due = Instant::from_nanos(1_000_000 + (number + 1) * 1_000);
            assert_eq!(link.from.next_due(), Some(due));
            link.clock.advance_to(due - Duration::from_nanos(1));
            link.from.flush(&mut link.pool);
            assert!(link.receive().is_empty());
            link.clock.advance_to(due);
            link.from.flush(&mut link.pool);
            assert_eq!(link.receive().len(), 1);
        }
        assert!(link.from.arm());
    }
}
