//! Links through AF_XDP: the kernel's driver receives into the pool's objects and sends from them.
//!
//! [`XdpQueue`] is one socket bound to one receive queue of an interface; [`XdpDevice`] is all
//! the queues of an interface that one shard owns. Which packets arrive is not decided here but by
//! the XDP program (`traffic::xdp`), to which the owner of both introduces the sockets
//! ([`XdpDevice::sockets`]).
//!
//! The pool's whole memory is registered with each socket, in chunks of the size that the pool
//! receives into: 2 KiB for an MTU of up to 1,778 bytes, 4 KiB above ([`rx_object_bytes_for`]), and
//! where packets may come uncut;
//! longer frames come and go in several pieces.
//!
//! Dropping closes descriptors and unmaps rings; [`Device::close`] also returns the references
//! that the kernel still had to the pool. A process that dies leaves nothing behind. A child made
//! by `fork` inherits the sockets, and with them the queue: it must drop its copy.

mod ethtool;
pub mod interface;
mod long;
mod ring;
mod socket;
mod transmit;
mod umem;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::net::xdp::XdpDescOptions;

use super::{
    Capabilities, Device, DeviceStats, FRAME_PIECES_MAX, Gone, OpenError, RxFrame, TxFrame,
};
use crate::zbuf::Pool;
use interface::Interface;
pub use socket::{Binding, clear_stock, is_unsupported, stock, stocked};
use socket::{Kicked, Socket};
use transmit::DESCRIPTORS_MAX;
use umem::{ReceiveBook, TransmitBook};

use super::partial::Partial;
use super::segment::{TSO_BYTES_MAX, cut};
use long::{LongFrames, Run, Sent};

/// The kernel leaves this much in front of each received frame (`XDP_PACKET_HEADROOM`).
const HEADROOM_BYTES: usize = 256;
const ETHERNET_HEADER_BYTES: usize = 14;
/// A fill ring with fewer objects than this is as good as empty.
const FILL_LOW: usize = 64;
const VLAN_TAG_BYTES: usize = 4;

/// What a pool must receive into ([`crate::zbuf::PoolConfig::rx_object_bytes`]) for an interface
/// of this MTU: objects that hold a whole frame if 2 KiB does, otherwise 4 KiB, so that frames
/// have few pieces.
pub const fn rx_object_bytes_for(mtu_bytes: u32) -> usize {
    if frame_bytes(mtu_bytes) + HEADROOM_BYTES <= 2048 {
        2048
    } else {
        4096
    }
}

const fn frame_bytes(mtu_bytes: u32) -> usize {
    mtu_bytes as usize + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES
}

/// Sizes of a queue's rings, each a power of two, and ways to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// Received frames' pieces that can wait for us.
    pub rx_entries: u32,
    /// Chunks that wait for frames: so many objects of the pool belong to the kernel.
    pub fill_entries: u32,
    /// Descriptors that can wait to be sent.
    pub tx_entries: u32,
    /// Do not try zero copy (drivers' zero copy takes a queue away from the kernel's own
    /// traffic on some NICs).
    pub force_copy: bool,
    /// Do not use frames of several pieces, as on kernels before 6.6.
    pub force_whole_frames: bool,
    /// Send payload from where it is also when the kernel copies. Otherwise, a frame that fits
    /// into one object is copied together first unless its header fits in front of the payload:
    /// to a kernel that copies anyway, each further piece costs a page of its own, and veth a
    /// second copy, which is more than our copy (measured: round trips of 1,514-byte frames take
    /// 12 to 30 % less).
    pub force_gather: bool,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            rx_entries: 1024,
            fill_entries: 1024,
            tx_entries: 1024,
            force_copy: false,
            force_whole_frames: false,
            force_gather: false,
        }
    }
}

impl XdpConfig {
    /// A full transmit ring and as much again that the link has not completed.
    fn completion_entries(&self) -> u32 {
        self.tx_entries.saturating_mul(2)
    }
}

/// One AF_XDP socket, bound to one receive queue of an interface.
#[derive(Debug)]
pub struct XdpQueue {
    /// `None` once closed.
    socket: Option<Socket>,
    queue: u32,
    /// Where the memory starts that was registered: only its pool may be used with this queue.
    umem_start: usize,
    binding: Binding,
    /// Send from several pieces even if all would fit into one.
    prefer_gather: bool,
    chunk_bytes: usize,
    frame_bytes_max: usize,
    received: ReceiveBook,
    posted: TransmitBook,
    /// The most that `posted` may hold: then there is always room for completions.
    posted_max: usize,
    partial: Partial,
    /// It has a way for frames that the kernel is to cut.
    takes_long: bool,
    /// The kernel could not take a long frame now.
    long_waits: bool,
    /// How much of the first waiting long frame's payload has gone, cut here.
    cut_at: usize,
    /// The pool had no objects for the fill ring.
    starved: bool,
    /// Descriptors are in the ring that the kernel has not been shown.
    unsubmitted: bool,
    link: Kicked,
    stats: DeviceStats,
    wait_fds: [RawFd; 1],
}

impl XdpQueue {
    /// Opens receive queue `queue` of `interface` over the memory of `pool`.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotPermitted`], [`OpenError::QueueTaken`], [`OpenError::LockedMemory`],
    /// [`OpenError::NoInterface`] if it has gone meanwhile, or else [`OpenError::Io`].
    pub fn open(
        interface: &Interface,
        queue: u32,
        pool: &mut Pool,
        config: &XdpConfig,
    ) -> Result<Self, OpenError> {
        let chunk_bytes = pool.rx_object_bytes();
        let umem = pool.umem();
        let socket = Socket::new(interface, umem, chunk_bytes, config)?;
        let mut queue = Self {
            wait_fds: [socket.raw_fd()],
            socket: Some(socket),
            queue,
            umem_start: umem.0.addr(),
            binding: Binding {
                zero_copy: false,
                segments_max: 1,
            },
            prefer_gather: false,
            chunk_bytes,
            frame_bytes_max: 0,
            received: ReceiveBook::new(umem.1, chunk_bytes),
            posted: TransmitBook::new(config.completion_entries() as usize),
            posted_max: config.completion_entries() as usize,
            partial: Partial::default(),
            takes_long: false,
            long_waits: false,
            cut_at: 0,
            starved: false,
            unsubmitted: false,
            link: Kicked::Done,
            stats: DeviceStats::default(),
        };
        pool.reserve_rx(config.fill_entries as usize);
        // Drivers want to find chunks when they are told of the socket.
        queue.refill(pool);
        match queue.bind(interface, config) {
            Ok(()) => Ok(queue),
            Err(error) => {
                queue.close(pool);
                Err(error)
            }
        }
    }

    fn bind(&mut self, interface: &Interface, config: &XdpConfig) -> Result<(), OpenError> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let frame = frame_bytes(interface.mtu_bytes);
        let one_chunk = self.chunk_bytes - HEADROOM_BYTES;
        self.binding = socket.bind(interface, self.queue, frame <= one_chunk, config)?;
        self.prefer_gather = self.binding.zero_copy || config.force_gather;
        if let Some(socket) = &mut self.socket {
            // Of several queues, the packet socket would choose another than ours; and a driver
            // that reads our memory needs no copy.
            let worth_it = !self.binding.zero_copy && interface.receive_queues() == 1;
            socket.long = socket.long.take().filter(|_| worth_it);
            self.takes_long = socket.long.is_some();
        }
        let frame_without_tag = frame - VLAN_TAG_BYTES;
        self.frame_bytes_max = if self.binding.segments_max > 1 {
            let pieces = FRAME_PIECES_MAX.min(self.binding.segments_max as usize);
            frame_without_tag.min(one_chunk * pieces)
        } else {
            frame_without_tag.min(one_chunk)
        };
        Ok(())
    }

    /// The number of its receive queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// How it was bound.
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// Its socket, for the steering program; `None` once closed.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Its descriptors besides the one to wait on.
    pub fn other_fds(&self) -> impl Iterator<Item = RawFd> {
        let socket = self.socket.as_ref();
        socket
            .and_then(|s| s.long.as_ref().map(LongFrames::raw_fd))
            .into_iter()
    }

    /// How many of the pool's objects the kernel has, to receive into and to send from.
    pub fn objects_held(&self) -> usize {
        self.received.len() + self.posted.len()
    }

    /// Panics if `pool` is not the one that this queue was opened with: offsets would lead
    /// elsewhere.
    fn assert_own(&self, pool: &Pool) {
        assert_eq!(
            pool.umem().0.addr(),
            self.umem_start,
            "a queue is used with another pool"
        );
    }

    /// Fills the fill ring from the pool, as far as that has objects.
    fn refill(&mut self, pool: &mut Pool) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        let mut room = socket.fill.room(u32::MAX);
        if room > 0 {
            while room > 0 {
                let Some(offset) = pool.alloc_rx() else { break };
                let given = self.received.give(offset) && socket.fill.push(offset);
                debug_assert!(given, "a fresh object is on nobody's book");
                room -= 1;
            }
            self.starved = room > 0;
            socket.fill.submit();
        }
        self.stats.doorbells += u64::from(socket.kick_fill());
    }

    /// Takes one received piece back from the kernel.
    fn receive_piece(&mut self, pool: &mut Pool, offset: u64, len: usize) {
        // An offset that we did not give: nothing to take back, the frame is lost.
        let slice = if self.received.take(offset) {
            // SAFETY: the reference that `alloc_rx` gave for this chunk was on the book until
            // now, so it is ours; the kernel has handed the chunk over through the ring.
            unsafe { pool.slice_from_received(offset, len) }
        } else {
            None
        };
        self.partial.add(slice, len);
    }

    /// Drops the references of descriptors that the link has finished with.
    fn reap(&mut self, pool: &mut Pool) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        let mut any = false;
        while let Some(offset) = socket.completion.pop() {
            any = true;
            if self.posted.complete(offset) {
                // SAFETY: `into_tx` gave this descriptor's reference when it was posted, and it
                // was on the book until now, so it is ours.
                let known = unsafe { pool.tx_complete(offset) };
                debug_assert!(known, "a posted descriptor lies in an object in use");
            }
        }
        if any {
            socket.completion.release();
        }
    }

    /// Rings the doorbell if there is anything to send.
    fn kick(&mut self) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        if std::mem::take(&mut self.unsubmitted) {
            socket.tx.submit();
        } else if self.link == Kicked::Done {
            return;
        }
        self.link = socket.kick_transmit(self.binding.zero_copy, &mut self.stats.doorbells);
    }

    /// Sends the first frames, which are to be cut, behind all that was posted. How many; 0: try
    /// again later.
    fn send_long(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>, run: &Run) -> usize {
        if self.unsubmitted || self.link == Kicked::Busy {
            self.kick();
        }
        if self.link == Kicked::Busy {
            return 0;
        }
        let Some(socket) = &mut self.socket else {
            return 1;
        };
        if let Some(long) = &socket.long {
            self.stats.doorbells += 1;
            match long.send(frames, run) {
                Sent::Done => {
                    for frame in frames.iter().take(run.frames) {
                        self.stats.tx_frames += 1;
                        self.stats.tx_bytes += (frame.header.len() + frame.payload_bytes()) as u64;
                    }
                    return run.frames;
                }
                Sent::Busy => {
                    self.long_waits = true;
                    return 0;
                }
                // From now on all are cut here.
                Sent::Refused => socket.long = None,
            }
        }
        let Some(frame) = frames.front_mut() else {
            return 0;
        };
        if frame.segment_bytes == 0 {
            return usize::from(self.post(pool, frame));
        }
        while let Some((mut part, next)) = cut(frame, self.cut_at) {
            if !self.has_room() || !self.post(pool, &mut part) {
                return 0;
            }
            self.cut_at = next;
        }
        self.cut_at = 0;
        1
    }

    /// Whether one more frame can be posted, whatever it consists of.
    fn has_room(&mut self) -> bool {
        let Some(socket) = &mut self.socket else {
            return false;
        };
        self.posted.len() + DESCRIPTORS_MAX <= self.posted_max
            && socket.tx.room(DESCRIPTORS_MAX as u32) >= DESCRIPTORS_MAX as u32
    }
}

impl Device for XdpQueue {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_bytes_max: self.frame_bytes_max,
            tx_checksum: false,
            tso_bytes_max: if self.takes_long { TSO_BYTES_MAX } else { 0 },
            leaves_at_flush: true,
        }
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        self.assert_own(pool);
        let mut delivered = 0;
        let mut any = false;
        // Parts of one frame are not torn apart: another queue's might come between them.
        while delivered < room || self.partial.has_begun() {
            let Some(socket) = &mut self.socket else {
                break;
            };
            let Some(descriptor) = socket.rx.pop() else {
                // The kernel shows a frame's descriptors all at once; should one ever lack, the
                // rest of its frame must not be taken for that of another.
                self.partial.break_off();
                break;
            };
            any = true;
            self.receive_piece(pool, descriptor.addr, descriptor.len as usize);
            let ended = !descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD);
            if let Some(frame) = self.partial.take(ended, false, &mut self.stats) {
                frames.push(frame);
                delivered += 1;
            }
        }
        if any && let Some(socket) = &mut self.socket {
            socket.rx.release();
        }
        // What the pool could not give then it may have now, and without it nothing comes.
        if any || self.starved {
            self.refill(pool);
        }
        delivered
    }

    fn tx_burst(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        self.assert_own(pool);
        let mut taken = 0;
        self.long_waits = false;
        while !frames.is_empty() {
            if !self.has_room() {
                self.kick();
                self.reap(pool);
                if !self.has_room() {
                    break;
                }
            }
            let joins = self.socket.as_ref().is_some_and(|s| s.long.is_some());
            let run = Run::at_front(frames, joins);
            let count = match frames.front_mut() {
                None => break,
                Some(frame) if run.is_plain() => usize::from(self.post(pool, frame)),
                Some(_) => self.send_long(pool, frames, &run),
            };
            if count == 0 {
                break;
            }
            drop(frames.drain(..count));
            taken += count;
        }
        taken
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.assert_own(pool);
        self.kick();
        self.reap(pool);
    }

    fn arm(&mut self) -> bool {
        // Ask again before sleeping on frames that the link was too busy to take.
        self.kick();
        if self.link == Kicked::Busy || self.long_waits {
            return false;
        }
        // With nothing to receive into, nothing would wake the sleeper.
        if self.starved && self.received.len() < FILL_LOW {
            return false;
        }
        let Some(socket) = &mut self.socket else {
            return true;
        };
        self.stats.doorbells += u64::from(socket.kick_fill());
        // The descriptor is readable for as long as the ring is not empty: what arrives from now
        // on wakes the sleeper.
        socket.rx.available() == 0
    }

    fn wait_fds(&self) -> &[RawFd] {
        if self.socket.is_some() {
            &self.wait_fds
        } else {
            &[]
        }
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats;
        stats.rx_dropped += self.socket.as_ref().map_or(0, Socket::dropped);
        stats
    }

    fn close(&mut self, pool: &mut Pool) {
        self.assert_own(pool);
        let Some(socket) = self.socket.take() else {
            return;
        };
        // Keep what is known only while it is open.
        self.stats.rx_dropped += socket.dropped();
        // Now the rings are unmapped and the descriptor is closed. A kernel that copies touches
        // the memory no more.
        drop(socket);
        self.partial = Partial::default();
        if self.binding.zero_copy {
            // The driver lets go later, when the kernel gets round to telling it: until then it
            // may write to chunks that it has, and nothing tells us when that is over. What it
            // had stays out of use for as long as the process lives.
            return;
        }
        for offset in self.received.drain() {
            // SAFETY: `alloc_rx` gave the reference; it was on the book, so it is ours.
            unsafe { pool.drop_umem(offset) };
        }
        for offset in self.posted.drain() {
            // SAFETY: `into_tx` gave the reference; it was on the book, so it is ours.
            unsafe { pool.tx_complete(offset) };
        }
    }
}

/// The queues of an interface that one shard owns, as one device.
#[derive(Debug)]
pub struct XdpDevice {
    queues: Vec<XdpQueue>,
    wait_fds: Vec<RawFd>,
    /// Where the next burst begins, so that no queue starves another.
    next: usize,
}

impl XdpDevice {
    /// Opens `queues` of the interface called `name` over the memory of `pool`; all or none.
    ///
    /// # Errors
    ///
    /// As [`XdpQueue::open`].
    pub fn open(
        name: &str,
        queues: &[u32],
        pool: &mut Pool,
        config: &XdpConfig,
    ) -> Result<Self, OpenError> {
        let interface = Interface::query(name)?;
        let mut device = Self {
            queues: Vec::with_capacity(queues.len()),
            wait_fds: Vec::new(),
            next: 0,
        };
        for queue in queues {
            match XdpQueue::open(&interface, *queue, pool, config) {
                Ok(queue) => {
                    device.wait_fds.extend_from_slice(queue.wait_fds());
                    device.queues.push(queue);
                }
                Err(error) => {
                    device.close(pool);
                    return Err(error);
                }
            }
        }
        Ok(device)
    }

    /// Queue numbers and sockets, for the steering program.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.queues
            .iter()
            .filter_map(|queue| Some((queue.queue(), queue.socket()?)))
    }

    /// Its queues. What is sent leaves by the first.
    pub fn queues(&self) -> &[XdpQueue] {
        &self.queues
    }
}

impl Device for XdpDevice {
    fn capabilities(&self) -> Capabilities {
        let first = self.queues.first();
        first.map_or(Gone.capabilities(), XdpQueue::capabilities)
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let count = self.queues.len();
        let mut delivered = 0;
        for i in 0..count {
            let index = (self.next + i) % count;
            if let Some(queue) = self.queues.get_mut(index) {
                delivered += queue.rx_burst(pool, frames, room.saturating_sub(delivered));
            }
        }
        self.next = (self.next + 1) % count.max(1);
        delivered
    }

    fn tx_burst(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        self.queues
            .first_mut()
            .map_or(0, |queue| queue.tx_burst(pool, frames))
    }

    fn flush(&mut self, pool: &mut Pool) {
        if let Some(queue) = self.queues.first_mut() {
            queue.flush(pool);
        }
    }

    fn arm(&mut self) -> bool {
        let mut idle = true;
        for queue in &mut self.queues {
            // All of them, not only up to the first that is not idle: each may have to be told.
            idle &= queue.arm();
        }
        idle
    }

    fn wait_fds(&self) -> &[RawFd] {
        &self.wait_fds
    }

    fn stats(&self) -> DeviceStats {
        self.queues
            .iter()
            .fold(DeviceStats::default(), |sum, queue| {
                let stats = queue.stats();
                DeviceStats {
                    rx_frames: sum.rx_frames + stats.rx_frames,
                    rx_bytes: sum.rx_bytes + stats.rx_bytes,
                    rx_dropped: sum.rx_dropped + stats.rx_dropped,
                    tx_frames: sum.tx_frames + stats.tx_frames,
                    tx_bytes: sum.tx_bytes + stats.tx_bytes,
                    doorbells: sum.doorbells + stats.doorbells,
                    bytes_copied: sum.bytes_copied + stats.bytes_copied,
                }
            })
    }

    fn close(&mut self, pool: &mut Pool) {
        self.wait_fds.clear();
        for queue in &mut self.queues {
            queue.close(pool);
        }
    }
}
