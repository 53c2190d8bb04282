//! Links through DPDK: whatever its drivers drive, named by devargs.
//!
//! A received frame lies in objects of the pool, where the driver put it: the queue's mbufs have
//! no buffers but those objects. A frame to send is its header in front of the payload, in one
//! piece, if the payload's object has room for it; else a copied header and the payload's objects
//! as external buffers, each of which the driver lets go of when it has read it. Frames in
//! foreign memory (a ring's other end is our own sending side) are copied.
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
    luna_dpdk_setup, luna_dpdk_tx_multi_segment, luna_dpdk_tx_tcp_checksum,
};

use super::{Capabilities, Device, DeviceStats, FramePart, OpenError, Pieces, RxFrame, TxFrame};
use crate::wire::Mac;
use crate::zbuf::{Pool, Slice};
pub(crate) use driver::{THREAD_PREFIXES, is_in_use};
use port::{Port, Queue};

const ETHERNET_BYTES: usize = 14;
/// Objects that a queue may hold: the largest receive ring that is asked for, and as many again
/// that are on their way.
const RX_BUFFERS: u32 = 2048;
/// Pieces that a port may be reading.
const TX_BUFFERS: u32 = 4096;
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
        let features = limits.features & wanted;
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
        let name = self.port.limits().driver.map(|byte| byte as u8);
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned()
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
        let queue = Queue::open(&self.port, number, pool, (RX_BUFFERS, TX_BUFFERS));
        let queue = queue.map_err(failed)?;
        let mut queue = DpdkQueue {
            umem_start: pool.umem().0,
            queue: Some(queue),
            features: self.features,
            frame_bytes_max: usize::from(self.config.mtu) + ETHERNET_BYTES,
            segments: vec![luna_dpdk_segment::default(); SEGMENTS_ROOM].into(),
            pieces: Vec::with_capacity(SEGMENTS_ROOM),
            stats: DeviceStats::default(),
            // In 22.11 it sends a header that is a piece of its own twice.
            sums_one_piece_only: self.driver() == "net_tap",
            starved: false,
        };
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

    /// A received segment as a slice; `None` if its memory is no object of ours, or there is none
    /// to copy it to.
    fn slice_of(&mut self, pool: &mut Pool, segment: &luna_dpdk_segment) -> Option<Slice> {
        let len = segment.len as usize;
        if segment.flags & luna_dpdk_segment_foreign != 0 {
            self.stats.bytes_copied += u64::from(segment.len);
            // SAFETY: a segment of the burst just received, valid until `rx_release`.
            let bytes = unsafe { core::slice::from_raw_parts(segment.address.cast::<u8>(), len) };
            return pool.copy_in(bytes);
        }
        let offset = segment.address.addr().wrapping_sub(self.umem_start.addr());
        // SAFETY: an object that `refill` gave to the queue, which has handed it back, written.
        unsafe { pool.slice_from_received(offset as u64, len) }
    }

    /// Turns `count` segments into frames.
    fn deliver(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, count: usize) -> usize {
        let mut delivered = 0;
        let mut pieces = Pieces::new();
        let mut bytes = 0;
        let mut spoilt = false;
        for index in 0..count {
            let Some(segment) = self.segments.get(index).copied() else {
                break;
            };
            match self.slice_of(pool, &segment) {
                Some(slice) if slice.is_empty() => {}
                Some(slice) => spoilt |= pieces.try_push(slice).is_err(),
                None => spoilt = true,
            }
            bytes += u64::from(segment.len);
            if segment.flags & luna_dpdk_segment_last == 0 {
                continue;
            }
            let whole = core::mem::take(&mut pieces);
            if core::mem::take(&mut spoilt) || whole.is_empty() {
                self.stats.rx_dropped += 1;
            } else {
                self.stats.rx_frames += 1;
                self.stats.rx_bytes += bytes;
                delivered += 1;
                frames.push(RxFrame {
                    pieces: whole,
                    checksum_ok: segment.flags & luna_dpdk_segment_checksum_good != 0,
                    part: FramePart::Whole,
                });
            }
            bytes = 0;
        }
        delivered
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
            tso_bytes_max: 0,
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
