//! One AF_XDP socket: its memory registration, its four rings, its binding and its doorbells.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options, xdp_statistics,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpOptionsFlags, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::time::Timespec;

use super::XdpConfig;
use super::interface::{Interface, open_error};
use super::long::LongFrames;
use super::ring::{Consumer, Producer};
use crate::device::OpenError;
use crate::sys::{ForkMutex, internal};

/// The most descriptors of one frame where the kernel copies: the packet's linear part and its
/// fragments (`MAX_SKB_FRAGS` + 1, 17 by default).
const COPY_SEGMENTS_MAX: u32 = 17;

/// The kernel takes at most 32 descriptors per call when it copies (`TX_BATCH_SIZE`, before it
/// became adjustable): this many calls empty the largest ring.
const KICKS_MAX: u32 = 256;

/// A queue stays taken for a moment after its socket was closed (the kernel frees it in a work
/// queue), also if that was a process that died: ask for 100 ms before saying that it is taken.
const TAKEN_RETRIES: u32 = 50;
const TAKEN_RETRY_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};

/// A socket made in advance, and the memory that is registered with it.
#[derive(Debug)]
struct Stocked {
    fd: OwnedFd,
    long: Option<LongFrames>,
    start: usize,
    bytes: usize,
    chunk_bytes: usize,
}

/// See [`stock`].
static STOCK: ForkMutex<Vec<Stocked>> = ForkMutex::new(Vec::new());

/// Makes a socket in advance and registers memory with it, for a process that is about to give up
/// the privileges which that takes. A queue that is opened later over the same memory uses it.
/// Returns the numbers of the descriptors.
///
/// # Errors
///
/// As [`super::XdpQueue::open`].
pub fn stock(
    interface: &str,
    umem: (*mut u8, usize),
    chunk_bytes: usize,
) -> Result<Vec<RawFd>, OpenError> {
    let fd = registered_socket(interface, umem, chunk_bytes)?;
    let index = rustix::net::netdevice::name_to_index(&fd, interface);
    let long = index.ok().and_then(LongFrames::open);
    let numbers = std::iter::once(fd.as_raw_fd())
        .chain(long.as_ref().map(LongFrames::raw_fd))
        .collect();
    STOCK.lock().push(Stocked {
        fd,
        long,
        start: umem.0.addr(),
        bytes: umem.1,
        chunk_bytes,
    });
    Ok(numbers)
}

/// How many sockets are in stock.
pub fn stocked() -> usize {
    STOCK.lock().len()
}

/// Closes what is left of the stock.
pub fn clear_stock() {
    STOCK.lock().clear();
}

fn from_stock(umem: (*mut u8, usize), chunk_bytes: usize) -> Option<Stocked> {
    let mut stock = STOCK.lock();
    let wanted = (umem.0.addr(), umem.1, chunk_bytes);
    let at = stock
        .iter()
        .position(|s| (s.start, s.bytes, s.chunk_bytes) == wanted)?;
    Some(stock.swap_remove(at))
}

fn registered_socket(
    interface: &str,
    umem: (*mut u8, usize),
    chunk_bytes: usize,
) -> Result<OwnedFd, OpenError> {
    let flags = SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)
        .map_err(|errno| open_error(interface, "open an AF_XDP socket", errno.into()))?;
    let fd = internal::out_of_the_way(fd);
    let region = XdpUmemReg {
        addr: umem.0.expose_provenance() as u64,
        len: umem.1 as u64,
        chunk_size: chunk_bytes as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    set_xdp_umem_reg(&fd, region).map_err(|errno| match errno {
        // ENOBUFS: beyond RLIMIT_MEMLOCK; ENOMEM: no memory to keep track of the pages.
        Errno::NOBUFS | Errno::NOMEM => OpenError::LockedMemory {
            interface: interface.to_owned(),
            mib: umem.1 >> 20,
            source: errno.into(),
        },
        errno => open_error(interface, "register packet memory", errno.into()),
    })?;
    Ok(fd)
}

/// How the socket was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The driver reads and writes the pool's memory; otherwise the kernel copies.
    pub zero_copy: bool,
    /// The most descriptors that one frame may consist of; 1 if only whole frames work.
    pub segments_max: u32,
}

/// A socket with its rings. Closing it is dropping it: rings are unmapped and the descriptor is
/// closed, after which the kernel no longer touches the memory.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) rx: Consumer<XdpDesc>,
    pub(super) tx: Producer<XdpDesc>,
    /// For frames that the kernel is to cut.
    pub(super) long: Option<LongFrames>,
    fd: OwnedFd,
}

/// What came of ringing the transmit doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicked {
    /// Everything posted is on its way.
    Done,
    /// The link is busy: try again soon.
    Busy,
    /// The interface is down or gone: frames wait for it to come back.
    Down,
}

impl Socket {
    /// Makes a socket with rings over the memory at `umem`, not yet bound.
    pub(super) fn new(
        interface: &Interface,
        umem: (*mut u8, usize),
        chunk_bytes: usize,
        config: &XdpConfig,
    ) -> Result<Self, OpenError> {
        let failed = |action: &'static str| {
            move |errno: Errno| open_error(&interface.name, action, errno.into())
        };
        let (fd, long) = match from_stock(umem, chunk_bytes) {
            Some(stocked) => (stocked.fd, stocked.long),
            None => (
                registered_socket(&interface.name, umem, chunk_bytes)?,
                LongFrames::open(interface.index),
            ),
        };
        Self::with_rings(fd, long, config).map_err(failed("set up the rings of an AF_XDP socket"))
    }

    fn with_rings(
        fd: OwnedFd,
        long: Option<LongFrames>,
        config: &XdpConfig,
    ) -> rustix::io::Result<Self> {
        set_xdp_umem_fill_ring_size(&fd, config.fill_entries)?;
        set_xdp_umem_completion_ring_size(&fd, config.completion_entries())?;
        set_xdp_rx_ring_size(&fd, config.rx_entries)?;
        set_xdp_tx_ring_size(&fd, config.tx_entries)?;
        let at = xdp_mmap_offsets(&fd)?;
        let of = fd.as_fd();
        Ok(Self {
            fill: Producer::of_socket(of, XDP_UMEM_PGOFF_FILL_RING, &at.fr, config.fill_entries)?,
            completion: Consumer::of_socket(
                of,
                XDP_UMEM_PGOFF_COMPLETION_RING,
                &at.cr,
                config.completion_entries(),
            )?,
            rx: Consumer::of_socket(of, XDP_PGOFF_RX_RING, &at.rx, config.rx_entries)?,
            tx: Producer::of_socket(of, XDP_PGOFF_TX_RING, &at.tx, config.tx_entries)?,
            long,
            fd,
        })
    }

    /// Binds to a receive queue, in the best way that the driver supports: zero copy before
    /// copying, frames of several pieces before whole frames.
    pub(super) fn bind(
        &self,
        interface: &Interface,
        queue: u32,
        one_chunk_holds_a_frame: bool,
        config: &XdpConfig,
    ) -> Result<Binding, OpenError> {
        let ability = interface.zero_copy();
        let zero_copy = ability.supported && !config.force_copy;
        let pieces = !config.force_whole_frames;
        let attempts = [
            (
                zero_copy && pieces && ability.segments_max > 1,
                true,
                ability.segments_max,
            ),
            // Better to copy than to lose every longer frame.
            (zero_copy && one_chunk_holds_a_frame, true, 1),
            (pieces, false, COPY_SEGMENTS_MAX),
            (true, false, 1),
        ];
        let mut last = Errno::OPNOTSUPP;
        for (_, zero_copy, segments_max) in attempts.into_iter().filter(|attempt| attempt.0) {
            let mode = if zero_copy {
                SocketAddrXdpFlags::XDP_ZEROCOPY
            } else {
                SocketAddrXdpFlags::XDP_COPY
            };
            let mut flags = mode | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
            flags.set(SocketAddrXdpFlags::XDP_USE_SG, segments_max > 1);
            let address = SocketAddrXdp::new(flags, interface.index, queue);
            match self.bind_patiently(&address) {
                Ok(()) => {
                    return Ok(Binding {
                        zero_copy: self.is_zero_copy(),
                        segments_max,
                    });
                }
                // Not supported by this driver or kernel: the next one may be. (The kernel has
                // two numbers for it.)
                Err(errno)
                    if matches!(errno, Errno::OPNOTSUPP | Errno::INVAL)
                        || errno.raw_os_error() == 524 =>
                {
                    last = errno;
                }
                Err(errno) => {
                    last = errno;
                    break;
                }
            }
        }
        Err(match last {
            Errno::BUSY => OpenError::QueueTaken {
                interface: interface.name.clone(),
                queue,
            },
            Errno::NOBUFS | Errno::NOMEM => OpenError::LockedMemory {
                interface: interface.name.clone(),
                mib: 0,
                source: last.into(),
            },
            errno => open_error(&interface.name, "bind to a receive queue", errno.into()),
        })
    }

    fn bind_patiently(&self, address: &SocketAddrXdp) -> rustix::io::Result<()> {
        for _ in 0..TAKEN_RETRIES {
            match rustix::net::bind(&self.fd, address) {
                Err(Errno::BUSY) => {}
                answer => return answer,
            }
            let _ = rustix::thread::nanosleep(&TAKEN_RETRY_PAUSE);
        }
        rustix::net::bind(&self.fd, address)
    }

    fn is_zero_copy(&self) -> bool {
        xdp_options(&self.fd)
            .is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// Frames that the kernel dropped because we gave it no chunk or no ring slot.
    pub(super) fn dropped(&self) -> u64 {
        xdp_statistics(&self.fd).map_or(0, |statistics| {
            // Both are counted per frame; descriptors missing in the fill ring are part of the
            // first.
            statistics.rx_dropped + statistics.rx_ring_full.unwrap_or(0)
        })
    }

    /// Tells the kernel to look at the fill ring, if it wants to be told. True if it did.
    pub(super) fn kick_fill(&self) -> bool {
        if !self.fill.need_wakeup() {
            return false;
        }
        // Any answer will do: it is asked again while the flag is set.
        let _ = rustix::net::recv(&self.fd, &mut [0_u8; 0][..], RecvFlags::DONTWAIT);
        true
    }

    /// Tells the kernel to send what was submitted, if it wants to be told. Adds the number of
    /// system calls to `calls`.
    pub(super) fn kick_transmit(&mut self, zero_copy: bool, calls: &mut u64) -> Kicked {
        let mut left = self.tx.outstanding();
        for _ in 0..KICKS_MAX {
            if left == 0 || !self.tx.need_wakeup() {
                return Kicked::Done;
            }
            *calls += 1;
            let answer = rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT);
            if matches!(answer, Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV)) {
                return Kicked::Down;
            }
            if zero_copy {
                // The driver is at work: what is left is not ours to push.
                return if answer.is_ok() {
                    Kicked::Done
                } else {
                    Kicked::Busy
                };
            }
            // The kernel has sent a batch (EAGAIN: there is more), or could not (EBUSY: the
            // queue is full; ENOBUFS: no memory). What it did not take is still in the ring.
            let now = self.tx.outstanding();
            if now == left {
                return Kicked::Busy;
            }
            left = now;
        }
        Kicked::Busy
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether `error` says that the kernel knows no AF_XDP at all.
pub fn is_unsupported(error: &OpenError) -> bool {
    matches!(error, OpenError::Io { source, .. }
        if source.raw_os_error() == Some(libc::EAFNOSUPPORT)
            || source.kind() == io::ErrorKind::Unsupported)
}
