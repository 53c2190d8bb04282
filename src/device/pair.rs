//! Two ends of a wire in memory: for tests, simulation and two stacks in one process.
//!
//! [`linked`] makes ends that may live in different shards on different threads: frames are
//! copied, sleeping works. [`local`] makes ends for one thread: payload passes by reference
//! if both ends use one pool. Neither reads a clock, loses or reorders anything: what
//! one end flushes, the other receives in that order ([`super::fault`] does the rest).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
#[allow(
    clippy::disallowed_types,
    reason = "this wire joins two threads, by copying"
)]
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Capabilities, Device, DeviceStats, FramePart, Pieces, RxFrame, TxFrame};
use crate::zbuf::{Pool, Slice};

/// What a wire is to be, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairConfig {
    /// The longest frame, Ethernet header included. Longer ones vanish.
    pub frame_bytes_max: usize,
    /// How many frames may be under way in one direction.
    pub ring_frames: usize,
    /// The wire completes TCP checksums, that is, it vouches for them (as a virtual link does).
    pub checksum_offload: bool,
    /// Between two ends in one thread payload passes by reference even from another pool: what
    /// a NIC copies costs the processor nothing. A receiver must not hand such payload to
    /// another link.
    pub by_reference: bool,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            frame_bytes_max: 1514,
            ring_frames: 1024,
            checksum_offload: false,
            by_reference: false,
        }
    }
}

impl PairConfig {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_bytes_max: self.frame_bytes_max,
            tx_checksum: self.checksum_offload,
            tso_bytes_max: 0,
            leaves_at_flush: false,
        }
    }
}

/// Two ends for two threads.
///
/// # Errors
/// There are no descriptors left to wake a sleeping end with.
pub fn linked(config: PairConfig) -> std::io::Result<(LinkedEnd, LinkedEnd)> {
    let (one, other) = (
        Arc::new(Direction::new(&config)?),
        Arc::new(Direction::new(&config)?),
    );
    let end = |incoming: &Arc<Direction>, outgoing: &Arc<Direction>| LinkedEnd {
        config,
        wait: [incoming.wake.as_raw_fd()],
        incoming: Arc::clone(incoming),
        outgoing: Arc::clone(outgoing),
        armed: false,
        unflushed: false,
        stats: DeviceStats::default(),
    };
    Ok((end(&one, &other), end(&other, &one)))
}

/// Two ends for one thread.
pub fn local(config: PairConfig) -> (LocalEnd, LocalEnd) {
    let queue = || Rc::new(RefCell::new(Queue::new(config.ring_frames)));
    let (one, other) = (queue(), queue());
    let end = |incoming: &Rc<_>, outgoing: &Rc<_>| LocalEnd {
        config,
        incoming: Rc::clone(incoming),
        outgoing: Rc::clone(outgoing),
        stats: DeviceStats::default(),
    };
    (end(&one, &other), end(&other, &one))
}

/// One direction of a wire: frames sent, of which the first `flushed` may be received.
#[derive(Debug)]
struct Queue<F> {
    frames: VecDeque<F>,
    flushed: usize,
    capacity: usize,
}

impl<F> Queue<F> {
    fn new(capacity: usize) -> Self {
        Self {
            frames: VecDeque::with_capacity(capacity),
            flushed: 0,
            capacity,
        }
    }

    fn is_full(&self) -> bool {
        self.frames.len() >= self.capacity
    }

    fn take(&mut self) -> Option<F> {
        self.flushed = self.flushed.checked_sub(1)?;
        self.frames.pop_front()
    }

    /// Whether there was anything to flush.
    fn flush(&mut self) -> bool {
        let waiting = self.flushed < self.frames.len();
        self.flushed = self.frames.len();
        waiting
    }
}

/// One end of a wire between two threads. Copies.
#[derive(Debug)]
pub struct LinkedEnd {
    config: PairConfig,
    incoming: Arc<Direction>,
    outgoing: Arc<Direction>,
    wait: [RawFd; 1],
    armed: bool,
    unflushed: bool,
    stats: DeviceStats,
}

#[derive(Debug)]
struct Direction {
    state: Mutex<State>,
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    queue: Queue<Bytes>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
    /// The receiver sleeps, or is about to.
    armed: bool,
}

#[derive(Debug)]
struct Bytes {
    bytes: Vec<u8>,
    checksum_ok: bool,
}

impl Direction {
    fn new(config: &PairConfig) -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let state = State {
            queue: Queue::new(config.ring_frames),
            spare: Vec::with_capacity(config.ring_frames),
            armed: false,
        };
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            state: Mutex::new(state),
            wake,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change to the state is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for LinkedEnd {
    fn capabilities(&self) -> Capabilities {
        self.config.capabilities()
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let mut state = self.incoming.lock();
        if core::mem::take(&mut self.armed) {
            state.armed = false;
            // Nothing to read if the wait ended for another reason.
            let _ = rustix::io::read(&self.incoming.wake, &mut [0; 8]);
        }
        let mut received = 0;
        while received < room
            && let Some(Bytes { bytes, checksum_ok }) = state.queue.take()
        {
            match copy_in(pool, [bytes.as_slice()]) {
                Some(pieces) => {
                    count_rx(&mut self.stats, bytes.len());
                    frames.push(RxFrame {
                        pieces,
                        checksum_ok,
                        part: FramePart::Whole,
                    });
                    received += 1;
                }
                None => self.stats.rx_dropped += 1,
            }
            state.spare.push(bytes);
        }
        received
    }

    fn tx_burst(&mut self, _pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        let mut state = self.outgoing.lock();
        let mut sent = 0;
        while !state.queue.is_full()
            && let Some(frame) = frames.pop_front()
        {
            sent += 1;
            let bytes = frame_bytes(&frame);
            if bytes > self.config.frame_bytes_max {
                continue;
            }
            let mut copy = state.spare.pop().unwrap_or_default();
            copy.clear();
            copy.extend_from_slice(&frame.header);
            for piece in &frame.payload {
                copy.extend_from_slice(piece.as_bytes());
            }
            let checksum_ok = frame.checksum_offload && self.config.checksum_offload;
            state.queue.frames.push_back(Bytes {
                bytes: copy,
                checksum_ok,
            });
            count_tx(&mut self.stats, bytes);
            self.stats.bytes_copied += (bytes - frame.header.len()) as u64;
            self.unflushed = true;
        }
        sent
    }

    fn flush(&mut self, _pool: &mut Pool) {
        if !core::mem::take(&mut self.unflushed) {
            return;
        }
        let mut state = self.outgoing.lock();
        state.queue.flush();
        if core::mem::take(&mut state.armed) {
            self.stats.doorbells += 1;
            // Fails only if the other end has not read the last 2^64 - 2 of these.
            let _ = rustix::io::write(&self.outgoing.wake, &1u64.to_ne_bytes());
        }
    }

    fn arm(&mut self) -> bool {
        let mut state = self.incoming.lock();
        if state.queue.flushed > 0 {
            return false;
        }
        state.armed = true;
        self.armed = true;
        true
    }

    fn wait_fds(&self) -> &[RawFd] {
        &self.wait
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }

    /// There is nothing to give back: a wire of bytes holds no objects of a pool's for long, and
    /// those under way belong to whoever receives them.
    fn close(&mut self, _pool: &mut Pool) {}
}

/// One end of a wire within a thread. Copies headers; payload, too, if the ends use different
/// pools.
#[derive(Debug)]
pub struct LocalEnd {
    config: PairConfig,
    incoming: Rc<RefCell<Queue<TxFrame>>>,
    outgoing: Rc<RefCell<Queue<TxFrame>>>,
    stats: DeviceStats,
}

impl LocalEnd {
    /// How many frames await this end.
    pub fn incoming_frames(&self) -> usize {
        self.incoming.borrow().flushed
    }

    /// The frame as the receiver gets it; `None` if its pool is exhausted.
    fn deliver(&mut self, pool: &mut Pool, frame: TxFrame) -> Option<RxFrame> {
        let checksum_ok = frame.checksum_offload && self.config.checksum_offload;
        let by_reference = frame.payload.len() < frame.payload.capacity()
            && (self.config.by_reference
                || frame
                    .payload
                    .iter()
                    .all(|piece| pool.owns(piece.as_bytes().as_ptr())));
        let pieces = if by_reference {
            let mut pieces = Pieces::new();
            pieces.push(pool.copy_in(&frame.header)?);
            for piece in frame.payload {
                if !piece.is_empty() {
                    pieces.push(piece);
                }
            }
            pieces
        } else {
            let payload = frame.payload.iter().map(Slice::as_bytes);
            let copied: usize = frame.payload.iter().map(Slice::len).sum();
            self.stats.bytes_copied += copied as u64;
            copy_in(
                pool,
                core::iter::once(frame.header.as_slice()).chain(payload),
            )?
        };
        Some(RxFrame {
            pieces,
            checksum_ok,
            part: FramePart::Whole,
        })
    }
}

impl Device for LocalEnd {
    fn capabilities(&self) -> Capabilities {
        self.config.capabilities()
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let mut received = 0;
        while received < room {
            let Some(frame) = self.incoming.borrow_mut().take() else {
                break;
            };
            let bytes = frame_bytes(&frame);
            match self.deliver(pool, frame) {
                Some(frame) => {
                    count_rx(&mut self.stats, bytes);
                    frames.push(frame);
                    received += 1;
                }
                None => self.stats.rx_dropped += 1,
            }
        }
        received
    }

    fn tx_burst(&mut self, _pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        let mut queue = self.outgoing.borrow_mut();
        let mut sent = 0;
        while !queue.is_full()
            && let Some(frame) = frames.pop_front()
        {
            sent += 1;
            let bytes = frame_bytes(&frame);
            if bytes <= self.config.frame_bytes_max {
                count_tx(&mut self.stats, bytes);
                queue.frames.push_back(frame);
            }
        }
        sent
    }

    fn flush(&mut self, _pool: &mut Pool) {
        if self.outgoing.borrow_mut().flush() {
            self.stats.doorbells += 1;
        }
    }

    fn arm(&mut self) -> bool {
        self.incoming_frames() == 0
    }

    fn wait_fds(&self) -> &[RawFd] {
        &[]
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }

    /// There is nothing to give back: a wire of bytes holds no objects of a pool's for long, and
    /// those under way belong to whoever receives them.
    fn close(&mut self, _pool: &mut Pool) {}
}

/// All bytes of a frame.
pub(super) fn frame_bytes(frame: &TxFrame) -> usize {
    frame.header.len() + frame.payload_bytes()
}

fn count_rx(stats: &mut DeviceStats, bytes: usize) {
    stats.rx_frames += 1;
    stats.rx_bytes += bytes as u64;
}

fn count_tx(stats: &mut DeviceStats, bytes: usize) {
    stats.tx_frames += 1;
    stats.tx_bytes += bytes as u64;
}

/// Copies a frame into objects such as a link would receive it into; `None` if there are not
/// enough, or the frame is empty or too long for a list of pieces.
pub(super) fn copy_in<'a>(
    pool: &mut Pool,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Option<Pieces> {
    let object_bytes = pool.rx_object_bytes();
    let mut pieces = Pieces::new();
    for mut part in parts {
        while !part.is_empty() {
            let appended = pieces
                .last_mut()
                .map_or(0, |last: &mut Slice| last.append(part));
            part = part.get(appended..).unwrap_or_default();
            if !part.is_empty() {
                pieces.try_push(pool.alloc(object_bytes)?).ok()?;
            }
        }
    }
    (!pieces.is_empty()).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;

    use super::*;
    use crate::device::testing::{pool, rx_bytes, send, tx_frame};

    #[test]
    fn frames_arrive_in_order_once_flushed() {
        let (mut left, mut right) = linked(PairConfig::default()).unwrap();
        let (mut ours, mut theirs) = (pool(), pool());
        let mut frames = VecDeque::new();
        for i in 0..10 {
            frames.push_back(tx_frame(&mut ours, &[i; 54], &[&[i; 700], &[i + 1; 760]]));
        }
        let mut got = Vec::new();
        assert_eq!(left.tx_burst(&mut ours, &mut frames), 10);
        assert_eq!(right.rx_burst(&mut theirs, &mut got, 64), 0);
        // Copied: our objects are free.
        assert_eq!(ours.objects_in_use(), 0);
        left.flush(&mut ours);
        assert_eq!(right.rx_burst(&mut theirs, &mut got, 6), 6);
        assert_eq!(right.rx_burst(&mut theirs, &mut got, 6), 4);
        for (i, frame) in got.iter().enumerate() {
            let i = i as u8;
            assert_eq!(rx_bytes(frame), [vec![i; 754], vec![i + 1; 760]].concat());
            assert!(!frame.checksum_ok && frame.pieces.len() == 1);
        }
        let (sent, received) = (left.stats(), right.stats());
        assert_eq!(
            (sent.tx_frames, sent.tx_bytes, sent.bytes_copied),
            (10, 15140, 14600)
        );
        assert_eq!((received.rx_frames, received.rx_bytes), (10, 15140));
    }

    #[test]
    fn a_sleeping_end_is_woken_from_another_thread() {
        let (mut left, mut right) = linked(PairConfig::default()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut pool = pool();
                let mut got = Vec::new();
                while got.len() < 3 {
                    if right.arm() {
                        let fd = rustix::fd::AsFd::as_fd(&right.incoming.wake);
                        let mut fds = [rustix::event::PollFd::new(
                            &fd,
                            rustix::event::PollFlags::IN,
                        )];
                        let limit = rustix::event::Timespec {
                            tv_sec: 10,
                            tv_nsec: 0,
                        };
                        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1));
                    }
                    right.rx_burst(&mut pool, &mut got, 64);
                }
                assert_eq!(rx_bytes(&got[2]), vec![2; 60]);
            });
            let mut pool = pool();
            for i in 0..3 {
                assert_eq!(send(&mut left, &mut pool, &[i; 60], &[]), 1);
            }
        });
        assert!(left.wait_fds().len() == 1 && left.arm());
    }

    #[test]
    fn payload_passes_by_reference_within_a_pool() {
        let (mut left, mut right) = local(PairConfig {
            frame_bytes_max: 9014,
            ..Default::default()
        });
        let mut pool = pool();
        let mut payload = pool.alloc(2048).unwrap();
        payload.append(&[7; 1000]);
        let at = payload.umem_offset();
        let frame = TxFrame {
            header: [1; 54].into_iter().collect(),
            payload: [payload.clone()].into_iter().collect(),
            checksum_offload: false,
            segment_bytes: 0,
            alone: false,
        };
        let mut got = Vec::new();
        left.tx_burst(&mut pool, &mut VecDeque::from([frame]));
        left.flush(&mut pool);
        right.rx_burst(&mut pool, &mut got, 1);
        assert_eq!(got[0].pieces[1].umem_offset(), at);
        assert!(!payload.is_unique());
        assert_eq!(rx_bytes(&got[0]), [vec![1; 54], vec![7; 1000]].concat());
        // Four pieces leave no room for the header's: copied.
        got.clear();
        let parts: [&[u8]; 4] = [&[3; 2000]; 4];
        send(&mut left, &mut pool, &[2; 54], &parts);
        right.rx_burst(&mut pool, &mut got, 1);
        assert_eq!(rx_bytes(&got[0]), [vec![2; 54], vec![3; 8000]].concat());
        assert_eq!((got[0].pieces.len(), right.stats().bytes_copied), (4, 8000));
        got.clear();
        // Another pool: copied.
        let mut theirs = crate::device::testing::pool();
        send(&mut left, &mut pool, &[2; 54], &[b"abc"]);
        right.rx_burst(&mut theirs, &mut got, 1);
        assert_eq!((rx_bytes(&got[0]).len(), got[0].pieces.len()), (57, 1));
        drop(payload);
        assert_eq!((pool.objects_in_use(), theirs.objects_in_use()), (0, 1));
    }

    #[test]
    fn a_full_wire_takes_no_more_and_an_overlong_frame_vanishes() {
        let config = PairConfig {
            ring_frames: 2,
            ..PairConfig::default()
        };
        let (mut left, mut right) = local(config);
        let (mut one, mut two) = linked(config).unwrap();
        let (mut ours, mut theirs) = (pool(), pool());
        let ends: [(&mut dyn Device, &mut dyn Device); 2] =
            [(&mut left, &mut right), (&mut one, &mut two)];
        for (from, to) in ends {
            let mut frames: VecDeque<_> = [1515, 60, 1514, 61]
                .map(|bytes| TxFrame {
                    header: ArrayVec::new(),
                    payload: [ours.copy_in(&vec![0; bytes]).unwrap()]
                        .into_iter()
                        .collect(),
                    checksum_offload: false,
                    segment_bytes: 0,
                    alone: false,
                })
                .into();
            assert_eq!(from.tx_burst(&mut ours, &mut frames), 3);
            from.flush(&mut ours);
            assert_eq!((frames.len(), frame_bytes(&frames[0])), (1, 61));
            let mut got = Vec::new();
            assert!(!to.arm());
            assert_eq!(to.rx_burst(&mut theirs, &mut got, 64), 2);
            assert_eq!(from.tx_burst(&mut ours, &mut frames), 1);
            assert!(to.arm());
        }
    }

    #[test]
    fn a_receiver_without_buffers_drops() {
        let (mut left, mut right) = linked(PairConfig::default()).unwrap();
        let mut pool = pool();
        send(&mut left, &mut pool, &[1; 60], &[]);
        let mut held = Vec::new();
        while let Some(slice) = pool.alloc(2048) {
            held.push(slice);
        }
        assert_eq!(right.rx_burst(&mut pool, &mut Vec::new(), 64), 0);
        assert_eq!(right.stats().rx_dropped, 1);
    }
}
