//! Links through DPDK: whatever its drivers drive, named by devargs.
//!
//! A received frame lies in objects of the pool, where the driver put it: the queue's mbufs have
//! no buffers but those objects. A frame to send is its header in front of the payload, in one
//! piece, if the payload's object has room for it; else a copied header and the payload's objects
//! as external buffers, each of which the driver lets go of when it has read it. Frames in
//! foreign memory (a ring's other end is our own sending side) are copied.
//!
//! A device that sees nothing but DPDK's own memory (`net_virtio_user`, which shares that with its
//! peer) has everything copied into it and out of it.
//!
//! Where a port cuts long segments, it gets them; `net_tap`, which would do so in software, does
//! not. Where a peer's come uncut, as through `net_vhost`, they are handed over in parts.
//!
//! Such links are polled: there is nothing to sleep on ([`Device::must_be_polled`]).
//!
//! `net_memif` is refused: that of DPDK 22.11 unmaps its rings under the polling thread when its
//! peer disappears, and the process crashes. [`super::memif`] is the same link without that.

mod driver;
mod port;
mod transmit;

use core::ffi::c_void;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;

use dpdk_sys::{
    luna_dpdk_piece, luna_dpdk_rx_scatter, luna_dpdk_rx_tcp_checksum, luna_dpdk_segment,
    luna_dpdk_segment_checksum_good, luna_dpdk_segment_foreign, luna_dpdk_segment_last,
    luna_dpdk_setup, luna_dpdk_tx_multi_segment, luna_dpdk_tx_tcp_checksum, luna_dpdk_tx_tso,
};

use super::partial::Partial;
use super::segment::TSO_BYTES_MAX;
use super::{Capabilities, Device, DeviceStats, FRAME_PIECES_MAX, OpenError, RxFrame, TxFrame};
use crate::wire::Mac;
use crate::zbuf::{Pool, Slice};
pub(crate) use driver::{THREAD_PREFIXES, is_in_use};
use port::{Buffers, Port, Queue};

const ETHERNET_BYTES: usize = 14;
const TAP: &str = "net_tap";
const VIRTIO_USER: &str = "net_virtio_user";
/// What a queue may hold: to receive into, the largest ring that is asked for, and as many again
/// that are on their way.
const BUFFERS: Buffers = Buffers {
    rx: 2048,
    tx: 4096,
    tx_descriptors: 512,
    private_memory: false,
};
/// The same where each of the sending side has 16 KiB of DPDK's memory.
const PRIVATE_BUFFERS: Buffers = Buffers {
    tx: 1024,
    tx_descriptors: 128,
    private_memory: true,
    ..BUFFERS
};
// Drivers look for what has been read when they are short of descriptors, and a descriptor may
// stand for all pieces of a frame: those may never be the shorter ones.
const _: () = assert!(BUFFERS.suffice() && PRIVATE_BUFFERS.suffice());

impl Buffers {
    const fn suffice(&self) -> bool {
        let frames = self.tx_descriptors as usize + dpdk_sys::luna_dpdk_burst_max as usize;
        self.tx as usize >= frames * (1 + FRAME_PIECES_MAX)
    }
}

/// Foreign frames are copied into objects of at most this size.
const COPY_BYTES_MAX: usize = 16_384;
/// Objects are given to a queue by this many at a time.
const REFILL: usize = 32;
const SEGMENTS_ROOM: usize =
    (dpdk_sys::luna_dpdk_burst_max * dpdk_sys::luna_dpdk_segments_max) as usize;

/// What a port is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// The device in DPDK's words: `net_tap0,iface=tap7`, `net_ring0`, `0000:3b:00.1`.
    pub devargs: String,
    /// It is a PCI device, by its address.
    pub is_pci: bool,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// How many queues each way.
    pub queues: u16,
}

/// A port that is set up, of which queues can be opened.
#[derive(Debug)]
pub struct DpdkPort {
    port: Arc<Port>,
    config: DpdkConfig,
    features: u64,
}

/// The value of an option in devargs.
fn option<'a>(devargs: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = devargs.split(',').filter_map(|item| item.split_once('='));
    pairs.find(|pair| pair.0 == name).map(|pair| pair.1)
}

/// A `net_vhost` server that was killed leaves its socket, and DPDK would not start over it. One
/// that nobody listens on is removed.
fn remove_stale_socket(devargs: &str) {
    let Some(path) = option(devargs, "iface").filter(|_| option(devargs, "client") != Some("1"))
    else {
        return;
    };
    let is_socket = std::fs::symlink_metadata(path)
        .is_ok_and(|data| std::os::unix::fs::FileTypeExt::is_socket(&data.file_type()));
    let refused = || {
        let answer = std::os::unix::net::UnixStream::connect(path);
        answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    if is_socket
        && refused()
        && let Err(error) = std::fs::remove_file(path)
    {
        log::warn!("{path}: cannot remove the socket that nobody listens on: {error}");
    }
}

impl DpdkPort {
    /// Starts DPDK if this is the process's first such port, and sets the port up.
    ///
    /// # Errors
    ///
    /// [`OpenError::Dpdk`], which says what DPDK did not like.
    pub fn open(config: &DpdkConfig) -> Result<Self, OpenError> {
        let failed = |cause: String| OpenError::Dpdk {
            device: config.devargs.clone(),
            cause,
        };
        if config.devargs.starts_with("net_memif") {
            return Err(failed(
                "DPDK's net_memif crashes when its peer disappears: use \
                 memif:SOCKET,role=server|client,ip=ADDR/LEN, which is the same link"
                    .into(),
            ));
        }
        if config.devargs.starts_with("net_vhost") {
            if option(&config.devargs, "ext-buffer") == Some("1") {
                return Err(failed(
                    "ext-buffer=1 is not supported: frames are received into luna's own memory"
                        .into(),
                ));
            }
            remove_stale_socket(&config.devargs);
        }
        let pci = config.is_pci.then_some(config.devargs.as_str());
        let port = Port::probe(&config.devargs, pci).map_err(failed)?;
        let limits = port.limits();
        let queues_max = limits.rx_queues_max.min(limits.tx_queues_max);
        if config.queues > queues_max {
            return Err(failed(format!(
                "{} queues are wanted, it has {queues_max} (LUNA_SHARDS)",
                config.queues
            )));
        }
        let mtu = u32::from(config.mtu);
        if mtu > limits.mtu_max || mtu < limits.mtu_min {
            return Err(failed(format!(
                "its MTU can be {} to {}, not {mtu}",
                limits.mtu_min, limits.mtu_max
            )));
        }
        // What it has of these is used.
        let wanted = luna_dpdk_tx_tcp_checksum
            | luna_dpdk_tx_multi_segment
            | luna_dpdk_rx_tcp_checksum
            | luna_dpdk_rx_scatter;
        let mut features = limits.features & wanted;
        // A long segment is several pieces.
        if features & luna_dpdk_tx_multi_segment != 0 && port.driver() != TAP {
            features |= limits.features & luna_dpdk_tx_tso;
        }
        port.set_up(&luna_dpdk_setup {
            features,
            mtu,
            queues: config.queues,
            padding: 0,
        })
        .map_err(failed)?;
        Ok(Self {
            port: Arc::new(port),
            config: config.clone(),
            features,
        })
    }

    /// Its hardware address.
    pub fn mac(&self) -> Mac {
        Mac(self.port.limits().mac)
    }

    /// The driver's name.
    pub fn driver(&self) -> String {
        self.port.driver()
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.port.is_up()
    }

    /// Opens one of its queues over the memory of `pool`. All must be open before
    /// [`DpdkPort::start`].
    ///
    /// # Errors
    ///
    /// [`OpenError::Dpdk`].
    pub fn queue(&self, number: u16, pool: &mut Pool) -> Result<DpdkQueue, OpenError> {
        let failed = |cause| OpenError::Dpdk {
            device: self.config.devargs.clone(),
            cause,
        };
        let buffers = if self.driver() == VIRTIO_USER {
            PRIVATE_BUFFERS
        } else {
            BUFFERS
        };
        let queue = Queue::open(&self.port, number, pool, &buffers);
        let queue = queue.map_err(failed)?;
        let mut queue = DpdkQueue {
            umem_start: pool.umem().0,
            queue: Some(queue),
            features: self.features,
            frame_bytes_max: usize::from(self.config.mtu) + ETHERNET_BYTES,
            segments: vec![luna_dpdk_segment::default(); SEGMENTS_ROOM].into(),
            pieces: Vec::with_capacity(SEGMENTS_ROOM),
            stats: DeviceStats::default(),
            partial: Partial::default(),
            private_memory: buffers.private_memory,
            // In 22.11 it sends a header that is a piece of its own twice.
            sums_one_piece_only: self.driver() == TAP,
            starved: false,
        };
        let ring = queue.queue.as_ref().map_or(0, Queue::rx_wanted);
        pool.reserve_rx(ring);
        queue.refill(pool);
        if let Some(inner) = &mut queue.queue
            && let Err(cause) = inner.set_up()
        {
            queue.close(pool);
            return Err(failed(cause));
        }
        Ok(queue)
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`OpenError::Dpdk`].
    pub fn start(&self) -> Result<(), OpenError> {
        self.port.start().map_err(|cause| OpenError::Dpdk {
            device: self.config.devargs.clone(),
            cause,
        })
    }
}

/// One queue each way of a port.
#[derive(Debug)]
pub struct DpdkQueue {
    /// `None` once closed.
    queue: Option<Queue>,
    umem_start: *mut u8,
    features: u64,
    frame_bytes_max: usize,
    segments: Box<[luna_dpdk_segment]>,
    pieces: Vec<luna_dpdk_piece>,
    stats: DeviceStats,
    partial: Partial,
    /// The device sees DPDK's own memory only.
    private_memory: bool,
    /// The driver gets the checksum of a frame of several pieces wrong.
    sums_one_piece_only: bool,
    /// The pool had no objects for it.
    starved: bool,
}

impl DpdkQueue {
    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn assert_own(&self, pool: &Pool) {
        debug_assert_eq!(pool.umem().0, self.umem_start, "another pool's memory");
    }

    /// Gives the queue objects for those that it has handed out.
    fn refill(&mut self, pool: &mut Pool) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        let mut wanted = queue.rx_wanted();
        while wanted >= REFILL {
            let mut buffers = [core::ptr::null_mut::<c_void>(); REFILL];
            let mut count = 0;
            for buffer in &mut buffers {
                let Some(offset) = pool.alloc_rx() else {
                    break;
                };
                *buffer = self.umem_start.wrapping_add(offset as usize).cast();
                count += 1;
            }
            // SAFETY: fresh receive objects of the pool, whose references are the queue's now.
            let taken = unsafe { queue.rx_refill(buffers.get(..count).unwrap_or_default()) };
            debug_assert_eq!(taken, count, "it wanted as many");
            self.starved = count < REFILL;
            if self.starved {
                break;
            }
            wanted -= count;
        }
    }

    /// A received segment as a slice; `None` if its memory is no object of ours.
    fn slice_of(&self, pool: &mut Pool, segment: &luna_dpdk_segment) -> Option<Slice> {
        let offset = segment.address.addr().wrapping_sub(self.umem_start.addr());
        // SAFETY: an object that `refill` gave to the queue, which has handed it back, written.
        unsafe { pool.slice_from_received(offset as u64, segment.len as usize) }
    }

    /// Copies the segments of a foreign frame into few objects.
    fn copy_frame(&mut self, pool: &mut Pool, segments: &[luna_dpdk_segment]) {
        let mut left: usize = segments.iter().map(|segment| segment.len as usize).sum();
        let mut object: Option<Slice> = None;
        for segment in segments {
            // SAFETY: a segment of the burst just received, valid until `rx_release`.
            let mut bytes = unsafe {
                core::slice::from_raw_parts(segment.address.cast::<u8>(), segment.len as usize)
            };
            self.stats.bytes_copied += bytes.len() as u64;
            while !bytes.is_empty() {
                let room = object.as_ref().map_or(0, |o| COPY_BYTES_MAX - o.len());
                if room == 0 {
                    if let Some(full) = object.take() {
                        self.partial.add(Some(full), COPY_BYTES_MAX);
                    }
                    object = pool.alloc(left.min(COPY_BYTES_MAX));
                    if object.is_none() {
                        return self.partial.add(None, left);
                    }
                    continue;
                }
                let (now, later) = bytes.split_at(bytes.len().min(room));
                if let Some(object) = &mut object {
                    object.append(now);
                }
                left -= now.len();
                bytes = later;
            }
        }
        if let Some(last) = object {
            let len = last.len();
            self.partial.add(Some(last), len);
        }
    }

    /// Turns `count` segments into frames.
    fn deliver(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, count: usize) -> usize {
        let segments = core::mem::take(&mut self.segments);
        let before = frames.len();
        let is_last = |s: &luna_dpdk_segment| s.flags & luna_dpdk_segment_last != 0;
        for frame in segments
            .get(..count)
            .unwrap_or_default()
            .split_inclusive(is_last)
        {
            let Some(flags) = frame.first().map(|segment| segment.flags) else {
                continue;
            };
            let good = flags & luna_dpdk_segment_checksum_good != 0;
            if flags & luna_dpdk_segment_foreign != 0 {
                self.copy_frame(pool, frame);
                frames.extend(self.partial.take(true, good, &mut self.stats));
                continue;
            }
            for (index, segment) in frame.iter().enumerate() {
                let slice = self.slice_of(pool, segment);
                if segment.len > 0 {
                    self.partial.add(slice, segment.len as usize);
                }
                let ended = index + 1 == frame.len();
                frames.extend(self.partial.take(ended, good, &mut self.stats));
            }
        }
        self.segments = segments;
        frames.len() - before
    }

    /// Takes back what the port has finished reading.
    fn reap(&mut self, pool: &mut Pool) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        loop {
            let mut cookies = [0; 64];
            let count = queue.completions(&mut cookies);
            for cookie in cookies.iter().take(count) {
                // SAFETY: the reference of a piece that was posted with this cookie, by
                // `into_tx`; it comes back once.
                let known = unsafe { pool.tx_complete(*cookie) };
                debug_assert!(known, "a completion of nothing");
            }
            if count < cookies.len() {
                return;
            }
        }
    }
}

impl Device for DpdkQueue {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_bytes_max: self.frame_bytes_max,
            tx_checksum: self.has(luna_dpdk_tx_tcp_checksum),
            tso_bytes_max: if self.has(luna_dpdk_tx_tso) {
                TSO_BYTES_MAX
            } else {
                0
            },
            leaves_at_flush: false,
        }
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        self.assert_own(pool);
        let Some(queue) = self
            .queue
            .as_mut()
            .filter(|queue| !queue.port().is_closed())
        else {
            return 0;
        };
        let count = queue.rx_burst(&mut self.segments, room);
        if count == 0 {
            if self.starved {
                self.refill(pool);
            }
            return 0;
        }
        let delivered = self.deliver(pool, frames, count);
        if let Some(queue) = &mut self.queue {
            queue.rx_release();
        }
        self.refill(pool);
        delivered
    }

    fn tx_burst(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        self.assert_own(pool);
        let mut taken = 0;
        loop {
            let (posted, sent) = self.send(pool, frames);
            taken += sent;
            if posted == 0 || sent < posted {
                return taken;
            }
        }
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.assert_own(pool);
        self.reap(pool);
    }

    fn arm(&mut self) -> bool {
        true
    }

    fn wait_fds(&self) -> &[RawFd] {
        &[]
    }

    fn must_be_polled(&self) -> bool {
        self.queue.is_some()
    }

    fn stats(&self) -> DeviceStats {
        let mut stats = self.stats;
        if let Some(queue) = &self.queue {
            let port = queue.port().stats();
            stats.rx_dropped += port.rx_missed + port.rx_no_buffer;
        }
        stats
    }

    fn close(&mut self, pool: &mut Pool) {
        self.assert_own(pool);
        self.stats = self.stats();
        if let Some(queue) = &self.queue {
            queue.port().close();
        }
        self.reap(pool);
        let Some(mut queue) = self.queue.take() else {
            return;
        };
        loop {
            let mut buffers = [core::ptr::null_mut::<c_void>(); REFILL];
            let count = queue.rx_reclaim(&mut buffers);
            for buffer in buffers.iter().take(count) {
                let offset = buffer.addr().wrapping_sub(self.umem_start.addr());
                // SAFETY: the reference that `alloc_rx` gave, which the queue has given back.
                let _ = unsafe { pool.drop_umem(offset as u64) };
            }
            if count < buffers.len() {
                return;
            }
        }
    }
}
