//! Links through memif: rings and buffers in memory that two processes share.
//!
//! Speaks version 2.0 of the protocol, so the other end may be VPP, libmemif or DPDK's `net_memif`
//! as well as another luna. Needs no privilege, no hugepages and no library. One ring each way.
//!
//! A frame crosses by two copies: the sender's into the ring's buffer, gathering header and
//! payload, and the receiver's into one object of its pool. Nothing that the peer can still
//! change is looked at: lengths and offsets are checked on a copy of the descriptor, and frames
//! are parsed in the pool. A peer that vanishes, by whatever signal, is noticed by the end of the
//! control channel, between two bursts; only then is its memory unmapped. Memory that a peer
//! could shrink is refused.
//!
//! Between two lunas, TCP checksums stay unfinished and segments longer than the MTU whole, as on
//! a veth: the memory does not err. For any other peer both is done here.

mod channel;
mod fd;
mod message;
mod region;
mod ring;

use std::collections::VecDeque;
use std::os::fd::RawFd;

use arrayvec::ArrayVec;

use super::segment::{TSO_BYTES_MAX, complete_checksum, cut};
use super::{Capabilities, Device, DeviceStats, FramePart, OpenError, Pieces, RxFrame, TxFrame};
use crate::zbuf::{OBJECT_BYTES_MAX, Pool, Slice};
use channel::{Channel, Link, Outcome};
pub use fd::close_inherited;
use ring::{Broken, Descriptor};

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemifRole {
    /// Makes the socket and waits.
    Server,
    /// Connects to it, again and again until it is there; brings the memory.
    Client,
}

/// What a link is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemifConfig {
    /// The control socket's path; a name in the abstract namespace if it begins with `@`.
    pub socket: String,
    /// Which end this is.
    pub role: MemifRole,
    /// The interface's number, by which a server with several tells its clients apart.
    pub id: u32,
    /// The longest frame, Ethernet header included.
    pub frame_bytes_max: usize,
    /// log2 of the descriptors of each ring; a client's choice.
    pub ring_log2: u8,
    /// The size of each buffer; a client's choice. Longer frames take several.
    pub buffer_bytes: u32,
}

/// 1,024 descriptors: with 2 KiB buffers 2 MiB each way.
const RING_LOG2_DEFAULT: u8 = 10;
/// Fewer buffers, but not less memory, for long frames.
const RING_LOG2_LONG: u8 = 9;
const BUFFER_BYTES_MIN: usize = 2048;
const BUFFER_BYTES_MAX: usize = 16384;
const ETHERNET_BYTES: usize = 14;

impl MemifConfig {
    /// The defaults for a link of this MTU in bytes: one buffer per frame up to 16 KiB.
    pub fn new(socket: &str, role: MemifRole, mtu: u16) -> Self {
        let frame_bytes_max = usize::from(mtu) + ETHERNET_BYTES;
        let buffer = frame_bytes_max
            .next_multiple_of(1024)
            .clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        Self {
            socket: socket.to_owned(),
            role,
            id: 0,
            frame_bytes_max,
            ring_log2: if buffer == BUFFER_BYTES_MIN {
                RING_LOG2_DEFAULT
            } else {
                RING_LOG2_LONG
            },
            buffer_bytes: buffer as u32,
        }
    }
}

/// The longest frame between two lunas: the longest IP packet.
const LONG_FRAME_BYTES_MAX: usize = 65_535 + ETHERNET_BYTES;

/// Received frames up to this length go into objects of 4 KiB, longer ones into larger ones.
const LONG_BYTES: usize = 3 * 4096;

/// Most descriptors of one received frame: 64 KiB in the smallest buffers, and then some.
const PARTS_MAX: usize = 48;

/// How many polls that find nothing pass between two looks at the control channel: a millisecond
/// or less for who spins. (Who sleeps is woken by it.)
const SERVICE_EVERY: u32 = 1024;
/// The same while there is no link.
const SERVICE_EVERY_DOWN: u32 = 16;

/// One end of a memif link.
#[derive(Debug)]
pub struct Memif {
    config: MemifConfig,
    /// `None` once closed.
    channel: Option<Channel>,
    link: Option<Box<Link>>,
    wait_fds: [RawFd; 1],
    idle_polls: u32,
    /// The sender was asked for interrupts.
    armed: bool,
    /// How much of the first waiting frame's payload has gone, cut into short segments.
    cut_at: usize,
    stats: DeviceStats,
}

/// What became of a frame to send.
enum Posted {
    Done,
    Full,
}

impl Memif {
    /// Opens an end. The other need not be there, then or ever.
    ///
    /// # Errors
    ///
    /// [`OpenError::Io`]: a server's socket cannot be had (somebody serves there already, or the
    /// directory is missing or not writable), or there are no descriptors left.
    pub fn open(config: &MemifConfig) -> Result<Self, OpenError> {
        let channel = Channel::open(config).map_err(|(action, errno)| OpenError::Io {
            interface: format!("memif:{}", config.socket),
            action,
            source: errno.into(),
        })?;
        Ok(Self {
            config: config.clone(),
            wait_fds: [channel.wait_fd()],
            channel: Some(channel),
            link: None,
            idle_polls: 0,
            armed: false,
            cut_at: 0,
            stats: DeviceStats::default(),
        })
    }

    /// Whether the other end is there. Looks, so it may change what it tells.
    pub fn is_up(&mut self) -> bool {
        self.service();
        self.link.is_some()
    }

    #[cold]
    fn service(&mut self) {
        self.idle_polls = 0;
        let Some(channel) = &mut self.channel else {
            return;
        };
        match channel.service() {
            Outcome::Nothing => {}
            // The old link's memory is unmapped here, where nobody is using it.
            Outcome::Up(link) => self.link = Some(link),
            Outcome::Down => self.drop_link(),
        }
    }

    fn drop_link(&mut self) {
        let link = self.link.take();
        if let (Some(link), Some(channel)) = (&link, &self.channel) {
            channel.unwatch(&link.rx);
        }
    }

    #[cold]
    fn broken(&mut self) {
        self.drop_link();
        if let Some(channel) = &mut self.channel {
            channel.hang_up("the peer has broken the memif protocol");
        }
    }

    /// Before looking for frames: control messages, from time to time, and the end of a sleep.
    #[inline]
    fn begin(&mut self) {
        self.idle_polls += 1;
        let every = if self.link.is_some() {
            SERVICE_EVERY
        } else {
            SERVICE_EVERY_DOWN
        };
        if self.armed || self.idle_polls >= every {
            self.service();
            if core::mem::take(&mut self.armed)
                && let Some(link) = &self.link
            {
                link.rx.mask(&link.regions);
            }
        }
    }
}

/// One frame out of the ring. `None`: there is none, or no memory for it.
#[inline]
fn receive(
    link: &mut Link,
    pool: &mut Pool,
    frame_bytes_max: usize,
    dropped: &mut u64,
) -> Result<Option<(RxFrame, usize)>, Broken> {
    loop {
        let available = link.rx.available(&link.regions, 1)?;
        if available == 0 {
            return Ok(None);
        }
        let first = link.rx.next();
        let mut parts: ArrayVec<Descriptor, PARTS_MAX> = ArrayVec::new();
        let mut bytes = 0;
        let mut whole = false;
        while parts.len() < usize::from(available) {
            let index = first.wrapping_add(parts.len() as u16);
            let part = link.rx.descriptor(&link.regions, index).ok_or(Broken)?;
            parts.try_push(part).map_err(|_| Broken)?;
            bytes += part.len as usize;
            if !part.has_more() {
                whole = true;
                break;
            }
        }
        if !whole {
            // A sender shows a frame all at once; what is missing was not in the last look.
            let again = link.rx.available(&link.regions, u16::MAX)?;
            if again > available {
                continue;
            }
            link.incomplete = available;
            return Ok(None);
        }
        let next = first.wrapping_add(parts.len() as u16);
        if bytes == 0 || bytes > frame_bytes_max {
            *dropped += 1;
            recycle(link, first, &parts);
            link.rx.advance_to(next);
            continue;
        }
        let frame = match copy_out(link, pool, &parts, bytes)? {
            Copied::Frame(frame) => frame,
            Copied::NoMemory => return Ok(None),
            Copied::TooLong => {
                *dropped += 1;
                recycle(link, first, &parts);
                link.rx.advance_to(next);
                continue;
            }
        };
        recycle(link, first, &parts);
        link.rx.advance_to(next);
        link.rx.prefetch(&link.regions, next);
        return Ok(Some((frame, bytes)));
    }
}

/// Makes a client's buffers whole again, as the server finds them next time.
#[inline]
fn recycle(link: &Link, first: u16, parts: &[Descriptor]) {
    let Some(buffer_bytes) = link.buffer_bytes else {
        return;
    };
    for (index, part) in parts.iter().enumerate() {
        let index = first.wrapping_add(index as u16);
        let empty = Descriptor {
            len: buffer_bytes,
            ..*part
        };
        link.rx.describe(&link.regions, index, empty, false);
    }
}

/// What became of a frame's bytes.
enum Copied {
    Frame(RxFrame),
    NoMemory,
    /// A part of it is longer than any object.
    TooLong,
}

/// A frame's bytes in as few objects as waste little.
#[inline]
fn copy_out(
    link: &Link,
    pool: &mut Pool,
    parts: &[Descriptor],
    bytes: usize,
) -> Result<Copied, Broken> {
    let mut pieces = Pieces::new();
    let (mut rest, mut left) = (parts, bytes);
    while left > 0 {
        let (taken, len) = one_piece(rest, left, bytes, pieces.remaining_capacity());
        let Some((now, later)) = rest.split_at_checked(taken) else {
            break;
        };
        if len > OBJECT_BYTES_MAX {
            return Ok(Copied::TooLong);
        }
        let Some(piece) = copy_piece(link, pool, now, len)? else {
            return Ok(Copied::NoMemory);
        };
        pieces.push(piece);
        rest = later;
        left -= len;
    }
    Ok(Copied::Frame(RxFrame {
        pieces,
        checksum_ok: link.is_luna,
        part: FramePart::Whole,
    }))
}

/// How many of `parts`, which have `left` bytes, go into the next object, and their bytes.
#[inline]
fn one_piece(parts: &[Descriptor], left: usize, all: usize, pieces_left: usize) -> (usize, usize) {
    let object = if all <= LONG_BYTES { 4096 } else { 16384 };
    if left <= object || pieces_left <= 1 {
        return (parts.len(), left);
    }
    let (mut taken, mut len) = (0, 0);
    for part in parts {
        let longer = len + part.len as usize;
        if len > 0 && longer > object {
            break;
        }
        (taken, len) = (taken + 1, longer);
    }
    (taken, len)
}

/// The bytes of `parts`, `bytes` of them, in one object.
#[inline]
fn copy_piece(
    link: &Link,
    pool: &mut Pool,
    parts: &[Descriptor],
    bytes: usize,
) -> Result<Option<Slice>, Broken> {
    let Some(object) = pool.alloc(bytes) else {
        return Ok(None);
    };
    let offset = object.into_umem();
    // SAFETY: the offset of an object of at least `bytes` bytes in the pool's memory.
    let start = unsafe { pool.umem().0.add(offset as usize) };
    let mut at = 0;
    let mut fits = true;
    for part in parts {
        let len = part.len as usize;
        fits &= link
            .regions
            .get(usize::from(part.region))
            .is_some_and(|region| {
                // SAFETY: the lengths sum up to `bytes`, so it is in the object, whose only
                // reference is ours and which no slice covers; the pool's memory is in no region.
                unsafe { region.read(part.offset as usize, len, start.add(at)) }
            });
        at += len;
    }
    if !fits {
        // SAFETY: the reference that `into_umem` gave.
        let _ = unsafe { pool.drop_umem(offset) };
        return Err(Broken);
    }
    // SAFETY: the reference that `into_umem` gave; nobody writes to the object any more.
    Ok(unsafe { pool.slice_from_received(offset, bytes) })
}

/// Writes a frame into the ring, without showing it.
#[inline]
fn post(link: &mut Link, frame: &TxFrame) -> Result<Posted, Broken> {
    let mut index = link.tx.next();
    let mut left = link.tx.available(&link.regions, PARTS_MAX as u16)?;
    let mut buffer = Buffer::default();
    let parts = core::iter::once(frame.header.as_slice())
        .chain(frame.payload.iter().map(|piece| piece.as_bytes()));
    for mut part in parts {
        while !part.is_empty() {
            if buffer.used == buffer.descriptor.len as usize {
                if left == 0 {
                    return Ok(Posted::Full);
                }
                if buffer.used > 0 {
                    link.tx
                        .describe(&link.regions, index, buffer.descriptor, true);
                    index = index.wrapping_add(1);
                }
                left -= 1;
                buffer = Buffer::open(link, index)?;
            }
            let room = buffer.descriptor.len as usize - buffer.used;
            let (now, later) = part.split_at(part.len().min(room));
            let at = buffer.descriptor.offset as usize + buffer.used;
            let region = link.regions.get(usize::from(buffer.descriptor.region));
            if !region.is_some_and(|region| region.write(at, now)) {
                return Err(Broken);
            }
            buffer.used += now.len();
            part = later;
        }
    }
    if buffer.used > 0 {
        buffer.descriptor.len = buffer.used as u32;
        link.tx
            .describe(&link.regions, index, buffer.descriptor, false);
        link.tx.advance_to(index.wrapping_add(1));
    }
    Ok(Posted::Done)
}

/// The same, with what the peer would not do: finishing the checksum and cutting long segments, of
/// which `cut_at` bytes of payload have gone already.
fn post_for_stranger(
    link: &mut Link,
    frame: &mut TxFrame,
    cut_at: &mut usize,
) -> Result<Posted, Broken> {
    if frame.segment_bytes == 0 {
        if frame.checksum_offload {
            complete_checksum(frame);
        }
        return post(link, frame);
    }
    while let Some((part, next)) = cut(frame, *cut_at) {
        match post(link, &part)? {
            Posted::Done => *cut_at = next,
            Posted::Full => return Ok(Posted::Full),
        }
    }
    *cut_at = 0;
    Ok(Posted::Done)
}

/// A buffer of the ring that is being filled.
#[derive(Debug)]
struct Buffer {
    /// Its place and size.
    descriptor: Descriptor,
    used: usize,
}

impl Default for Buffer {
    /// None: full as it is.
    fn default() -> Self {
        Self {
            descriptor: Descriptor {
                flags: 0,
                region: 0,
                len: 0,
                offset: 0,
            },
            used: 0,
        }
    }
}

impl Buffer {
    fn open(link: &Link, index: u16) -> Result<Self, Broken> {
        let mut descriptor = link.tx.descriptor(&link.regions, index).ok_or(Broken)?;
        if let Some(buffer_bytes) = link.buffer_bytes {
            // Our own ring, whose descriptors hold the lengths of frames sent before.
            descriptor.len = buffer_bytes;
        }
        if descriptor.len == 0 {
            return Err(Broken);
        }
        Ok(Self {
            descriptor,
            used: 0,
        })
    }
}

impl Device for Memif {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_bytes_max: self.config.frame_bytes_max,
            tx_checksum: true,
            tso_bytes_max: TSO_BYTES_MAX,
            leaves_at_flush: false,
        }
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        self.begin();
        let Some(link) = &mut self.link else {
            return 0;
        };
        let mut delivered = 0;
        let mut broken = false;
        link.incomplete = 0;
        while delivered < room {
            let dropped = &mut self.stats.rx_dropped;
            let longest = if link.is_luna {
                LONG_FRAME_BYTES_MAX
            } else {
                self.config.frame_bytes_max
            };
            match receive(link, pool, longest, dropped) {
                Ok(Some((frame, bytes))) => {
                    frames.push(frame);
                    delivered += 1;
                    self.stats.rx_bytes += bytes as u64;
                }
                Ok(None) => break,
                Err(Broken) => {
                    broken = true;
                    break;
                }
            }
        }
        link.rx.publish(&link.regions);
        if delivered > 0 {
            self.idle_polls = 0;
            self.stats.rx_frames += delivered as u64;
        }
        if broken {
            self.broken();
        }
        delivered
    }

    fn tx_burst(&mut self, _: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        let Some(link) = &mut self.link else {
            // A cable without anybody at its other end.
            let count = frames.len();
            frames.clear();
            self.cut_at = 0;
            return count;
        };
        let mut taken = 0;
        let mut broken = false;
        while let Some(frame) = frames.front_mut() {
            let posted = if link.is_luna {
                post(link, frame)
            } else {
                post_for_stranger(link, frame, &mut self.cut_at)
            };
            match posted {
                Ok(Posted::Done) => {
                    let payload = frame.payload_bytes();
                    self.stats.tx_bytes += (frame.header.len() + payload) as u64;
                    frames.pop_front();
                    taken += 1;
                }
                Ok(Posted::Full) => break,
                Err(Broken) => {
                    broken = true;
                    break;
                }
            }
        }
        if link.tx.publish(&link.regions) {
            link.tx.bell_is_due();
        }
        self.stats.tx_frames += taken as u64;
        if broken {
            self.broken();
        }
        taken
    }

    fn flush(&mut self, _: &mut Pool) {
        if let Some(link) = &mut self.link {
            self.stats.doorbells += u64::from(link.tx.ring_if_asleep(&link.regions));
        }
    }

    fn arm(&mut self) -> bool {
        self.service();
        self.armed = true;
        let Some(link) = &mut self.link else {
            return true;
        };
        link.rx.unmask(&link.regions);
        // The beginning of a frame is no work until more of it comes, with a bell.
        let begun = link.incomplete;
        matches!(link.rx.available(&link.regions, u16::MAX), Ok(shown) if shown <= begun)
    }

    fn wait_fds(&self) -> &[RawFd] {
        if self.channel.is_some() {
            &self.wait_fds
        } else {
            &[]
        }
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }

    fn close(&mut self, _: &mut Pool) {
        self.link = None;
        self.channel = None;
    }
}

#[cfg(test)]
mod tests;
