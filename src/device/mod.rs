//! Where frames come from and go to: the [`Device`] trait and what implements it.
//!
//! A device moves whole Ethernet frames between a link and zbuf objects. It knows nothing of
//! what is in a frame. Received bytes are never copied by a device: a frame arrives as slices
//! of the very objects that the link wrote to.

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod fault;
pub mod memif;
pub mod pair;
#[cfg(any(feature = "xdp", feature = "dpdk", test))]
mod partial;
pub mod pcap;
mod segment;
#[cfg(test)]
mod testing;
#[cfg(feature = "xdp")]
pub mod xdp;

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::zbuf::{Pool, Slice};

/// The most pieces a received or sent frame may consist of besides its header
/// (a 9,014-byte frame in 4 KiB chunks, the first with room in front, is three). Few, because
/// every frame carries the list with it.
pub const FRAME_PIECES_MAX: usize = crate::limits::SEGMENT_PIECES_MAX;

/// Room for Ethernet + VLAN + IPv6 + the longest TCP header.
pub const HEADER_BYTES_MAX: usize = 14 + 4 + 40 + 60;

/// A list of slices that together are one frame or one payload.
pub type Pieces = ArrayVec<Slice, FRAME_PIECES_MAX>;

/// A received frame: its bytes in order, Ethernet header first. Never empty.
#[derive(Clone, Debug)]
pub struct RxFrame {
    /// The frame's bytes. The first piece holds at least the headers up to and including TCP's
    /// if the sender did not send something outlandish; the receiver checks.
    pub pieces: Pieces,
    /// The device has verified the TCP checksum.
    pub checksum_ok: bool,
    /// Whether this is all of it.
    pub part: FramePart,
}

/// How a received frame of more pieces than [`FRAME_PIECES_MAX`] is handed over: one after the
/// other, with no other frame between them. Only segmentation offload of a sender on this very
/// machine makes such frames (a veth's kernel peer: up to 64 KiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePart {
    /// A frame by itself, as nearly all are.
    Whole,
    /// The headers and the first bytes.
    First,
    /// The bytes that follow, payload only.
    Middle,
    /// The last bytes.
    Last,
}

/// A frame to send: headers by value, payload by reference.
#[derive(Clone, Debug)]
pub struct TxFrame {
    /// Ethernet, IP and TCP headers, complete with checksums unless `checksum_offload`.
    pub header: ArrayVec<u8, HEADER_BYTES_MAX>,
    /// The payload, possibly nothing. The device holds these references until the link has
    /// finished reading them.
    pub payload: Pieces,
    /// The TCP checksum field holds only the folded pseudo-header sum: the device completes it.
    pub checksum_offload: bool,
    /// Payload bytes of each segment that the device is to cut this one into (TSO); 0 = it goes
    /// as it is. Never set for a device whose `tso_bytes_max` is 0.
    pub segment_bytes: u16,
    /// It may not be joined to others (it tries whether the path takes segments of its length).
    pub alone: bool,
}

impl TxFrame {
    /// Bytes of payload.
    pub fn payload_bytes(&self) -> usize {
        self.payload.iter().map(Slice::len).sum()
    }
}

/// What a device can do; asked once, when a shard starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The longest frame it sends or receives, Ethernet header included.
    pub frame_bytes_max: usize,
    /// It completes TCP checksums on transmit.
    pub tx_checksum: bool,
    /// It takes TCP segments longer than the MTU and cuts them itself (0 = no).
    pub tso_bytes_max: usize,
    /// What it takes leaves at a flush only, or costs a call each: better all of a turn together.
    pub leaves_at_flush: bool,
}

/// Counters that every device keeps, monotone since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Frames handed to the stack.
    pub rx_frames: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
    /// Frames the link dropped because we gave it no buffer or no ring slot.
    pub rx_dropped: u64,
    /// Frames accepted for sending.
    pub tx_frames: u64,
    /// Bytes of those frames.
    pub tx_bytes: u64,
    /// Calls into the kernel or doorbells rung to send or to be woken.
    pub doorbells: u64,
    /// Payload bytes that the device had to copy because it could not take them by reference.
    pub bytes_copied: u64,
}

impl DeviceStats {
    /// Adds another device's.
    pub fn add(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.rx_dropped += other.rx_dropped;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.doorbells += other.doorbells;
        self.bytes_copied += other.bytes_copied;
    }
}

/// A link's queue pair.
///
/// All methods are called with the shard's lock held, by one thread at a time.
pub trait Device {
    /// Capabilities of this queue pair.
    fn capabilities(&self) -> Capabilities;

    /// Moves up to `room` received frames to the back of `frames`; returns how many. Never
    /// blocks. Takes new receive buffers from `pool` to replace those that it hands out.
    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize;

    /// Takes frames from the front of `frames` for as long as the link has room; returns how
    /// many. Frames that do not fit stay in `frames`. The link may not start to send them
    /// before [`Device::flush`].
    fn tx_burst(
        &mut self,
        pool: &mut Pool,
        frames: &mut std::collections::VecDeque<TxFrame>,
    ) -> usize;

    /// Rings the doorbell if frames await it, and collects completions. Called once per turn,
    /// also when nothing was sent.
    fn flush(&mut self, pool: &mut Pool);

    /// Prepares to sleep: after this, the descriptors of [`Device::wait_fds`] become readable
    /// when a frame arrives. Returns false if frames are waiting already: then do not sleep.
    fn arm(&mut self) -> bool;

    /// Nothing wakes a sleeper when a frame arrives: sleep only for short spans.
    fn must_be_polled(&self) -> bool {
        false
    }

    /// Descriptors to wait on; empty when the device can only be polled.
    fn wait_fds(&self) -> &[std::os::fd::RawFd];

    /// Counters.
    fn stats(&self) -> DeviceStats;

    /// Leaves the link and returns every object to `pool`. Afterwards nothing arrives and
    /// nothing is taken. A device that is dropped without this leaves the link as well, but the
    /// objects that the link had stay lost to the pool. Links that hold none need do nothing.
    fn close(&mut self, pool: &mut Pool) {
        let _ = pool;
    }
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        (**self).rx_burst(pool, frames, room)
    }

    fn tx_burst(
        &mut self,
        pool: &mut Pool,
        frames: &mut std::collections::VecDeque<TxFrame>,
    ) -> usize {
        (**self).tx_burst(pool, frames)
    }

    fn flush(&mut self, pool: &mut Pool) {
        (**self).flush(pool);
    }

    fn arm(&mut self) -> bool {
        (**self).arm()
    }

    fn must_be_polled(&self) -> bool {
        (**self).must_be_polled()
    }

    fn wait_fds(&self) -> &[std::os::fd::RawFd] {
        (**self).wait_fds()
    }

    fn stats(&self) -> DeviceStats {
        (**self).stats()
    }

    fn close(&mut self, pool: &mut Pool) {
        (**self).close(pool);
    }
}

/// What is left where a device was given up: frames for it vanish.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Device for Gone {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_bytes_max: 0,
            tx_checksum: false,
            tso_bytes_max: 0,
            leaves_at_flush: false,
        }
    }

    fn rx_burst(&mut self, _: &mut Pool, _: &mut Vec<RxFrame>, _: usize) -> usize {
        0
    }

    fn tx_burst(
        &mut self,
        _: &mut Pool,
        frames: &mut std::collections::VecDeque<TxFrame>,
    ) -> usize {
        let count = frames.len();
        frames.clear();
        count
    }

    fn flush(&mut self, _: &mut Pool) {}

    fn arm(&mut self) -> bool {
        true
    }

    fn wait_fds(&self) -> &[std::os::fd::RawFd] {
        &[]
    }

    fn stats(&self) -> DeviceStats {
        DeviceStats::default()
    }
}

/// Why a device could not be opened. Each says what failed, on what, and what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no such interface in this network namespace.
    #[error("{interface}: no such interface (see `ip link`)")]
    NoInterface {
        /// The name asked for.
        interface: String,
    },
    /// Lacking privilege.
    #[error(
        "{interface}: not permitted to {action} (run as root or grant CAP_NET_ADMIN, CAP_NET_RAW \
         and CAP_BPF)"
    )]
    NotPermitted {
        /// The interface.
        interface: String,
        /// What was refused.
        action: &'static str,
    },
    /// Someone else's XDP program is attached.
    #[error(
        "{interface}: another XDP program is attached (id {program_id}, {program_name}); remove it \
         with `ip link set dev {interface} xdp off` if it is stale"
    )]
    ForeignProgram {
        /// The interface.
        interface: String,
        /// The program's kernel id.
        program_id: u32,
        /// The program's name.
        program_name: String,
    },
    /// The queue already belongs to another AF_XDP socket.
    #[error(
        "{interface}: receive queue {queue} is in use by another AF_XDP socket (see `ss -f xdp`); \
         stop that program or use another interface"
    )]
    QueueTaken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Not enough memory may be locked.
    #[error(
        "{interface}: cannot register {mib} MiB of packet memory: {source} (raise `ulimit -l` or \
         RLIMIT_MEMLOCK)"
    )]
    LockedMemory {
        /// The interface.
        interface: String,
        /// How much was asked for.
        mib: usize,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// DPDK would not.
    #[error("{device}: {cause}")]
    Dpdk {
        /// Its devargs.
        device: String,
        /// What failed, and what to do.
        cause: String,
    },
    /// Anything else the kernel refused.
    #[error("{interface}: {action}: {source}")]
    Io {
        /// The interface.
        interface: String,
        /// What was refused.
        action: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
