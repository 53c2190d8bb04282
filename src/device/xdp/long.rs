//! Frames longer than the MTU, which the kernel cuts: a packet socket beside the AF_XDP socket.
//!
//! AF_XDP has no segmentation offload. A packet socket has (`PACKET_VNET_HDR`): one call hands
//! over up to 64 KiB as one kernel buffer, which crosses a virtual link whole, and which a network
//! card's driver cuts. Where the AF_XDP socket copies anyway, that saves the kernel's work for all
//! frames but one, and our sums over the payload.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg, socket_with,
    sockopt,
};

use crate::device::TxFrame;
use crate::device::segment::{
    CWR, FLAGS_AT, TCP_CHECKSUM_AT, TSO_BYTES_MAX, continues, joined, tcp_at,
};
use crate::sys::internal;

/// `PACKET_VNET_HDR` (linux/if_packet.h).
const PACKET_VNET_HDR: libc::c_int = 15;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_*` (linux/virtio_net.h).
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;
/// `struct virtio_net_hdr`.
const VNET_BYTES: usize = 10;
/// What may wait in a driver's queue; a virtual link has none.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Most pieces of payload of one call.
const PIECES_MAX: usize = 64;

/// What came of sending a long frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way, or lost as on a link that is down.
    Done,
    /// The link is busy: try again soon.
    Busy,
    /// The kernel does not take such frames.
    Refused,
}

/// A packet socket that sends and never receives.
#[derive(Debug)]
pub(super) struct LongFrames {
    fd: OwnedFd,
}

impl LongFrames {
    /// For the interface with this index; `None` if the kernel or our privileges do not allow it.
    pub(super) fn open(ifindex: u32) -> Option<Self> {
        // Protocol 0: nothing is received.
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).ok()?;
        let fd = internal::out_of_the_way(fd);
        let on: libc::c_int = 1;
        // SAFETY: the option's value is one `int`, which lives through the call.
        let answer = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_VNET_HDR,
                std::ptr::from_ref(&on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: i32::try_from(ifindex).ok()?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: an address of the socket's family and its size, which live through the call.
        let bound = answer == 0
            && unsafe {
                libc::bind(
                    fd.as_raw_fd(),
                    std::ptr::from_ref(&address).cast(),
                    size_of_val(&address) as libc::socklen_t,
                )
            } == 0;
        // Not more than the system allows, if it does not allow it.
        let _ = sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES);
        bound.then_some(Self { fd })
    }

    /// Sends the first frames in one call: what a link costs there is counted in calls, not in
    /// bytes.
    pub(super) fn send(&self, frames: &VecDeque<TxFrame>, run: &Run) -> Sent {
        let (Some(first), Some(last)) = (frames.front(), frames.get(run.frames - 1)) else {
            return Sent::Done;
        };
        let whole;
        let header: &[u8] = match run.frames {
            1 => &first.header,
            _ => {
                whole = joined(first, last, run.bytes);
                &whole
            }
        };
        let Some(vnet) = vnet_header(header, run.segment_bytes) else {
            return Sent::Refused;
        };
        let mut parts: ArrayVec<IoSlice<'_>, { 2 + PIECES_MAX }> = ArrayVec::new();
        parts.push(IoSlice::new(&vnet));
        parts.push(IoSlice::new(header));
        let payload = frames.iter().take(run.frames).flat_map(|f| &f.payload);
        parts.extend(payload.map(|piece| IoSlice::new(piece.as_bytes())));
        let mut nothing = SendAncillaryBuffer::default();
        match sendmsg(&self.fd, &parts, &mut nothing, SendFlags::DONTWAIT) {
            // ENOBUFS: somebody on the way out has dropped it (a filter, a queue), as any link may.
            // Sent again and again it would hold up all that is behind it.
            Ok(_)
            | Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV | Errno::NOBUFS | Errno::NOMEM) => {
                Sent::Done
            }
            Err(Errno::AGAIN | Errno::INTR) => Sent::Busy,
            Err(_) => Sent::Refused,
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Frames from the front of the queue that go as one.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) frames: usize,
    /// Of payload.
    bytes: usize,
    /// Of payload, in each segment that the kernel makes of them; 0: it is one frame that goes as
    /// it is.
    segment_bytes: u16,
}

impl Run {
    /// The first frame, and if `joins` those behind it that continue it.
    pub(super) fn at_front(frames: &VecDeque<TxFrame>, joins: bool) -> Self {
        // What was one segment may be one still: none is longer than the path allows.
        let cut = |frame: &TxFrame| match frame.segment_bytes {
            0 => frame.payload_bytes() as u16,
            bytes => bytes,
        };
        let first = frames.front();
        let mut run = Self {
            frames: 1,
            bytes: first.map_or(0, TxFrame::payload_bytes),
            segment_bytes: first.map_or(0, |frame| frame.segment_bytes),
        };
        if !joins {
            return run;
        }
        let mut pieces = first.map_or(0, |frame| frame.payload.len());
        for (frame, next) in frames.iter().zip(frames.iter().skip(1)) {
            let bytes = run.bytes + next.payload_bytes();
            pieces += next.payload.len();
            if bytes > TSO_BYTES_MAX || pieces > PIECES_MAX || !continues(frame, next) {
                break;
            }
            run = Self {
                frames: run.frames + 1,
                bytes,
                segment_bytes: run.segment_bytes.max(cut(frame)).max(cut(next)),
            };
        }
        run
    }

    /// One frame that needs no cutting.
    pub(super) fn is_plain(&self) -> bool {
        self.segment_bytes == 0
    }
}

/// Tells the kernel how to cut, and where the checksum goes.
fn vnet_header(header: &[u8], segment_bytes: u16) -> Option<[u8; VNET_BYTES]> {
    let tcp_at = tcp_at(header);
    let is_v4 = header.get(14).is_some_and(|byte| byte >> 4 == 4);
    let flags = header.get(tcp_at + FLAGS_AT)?;
    let mut gso = if is_v4 { GSO_TCPV4 } else { GSO_TCPV6 };
    if flags & CWR != 0 {
        gso |= GSO_ECN;
    }
    let mut vnet = [0; VNET_BYTES];
    vnet[0] = NEEDS_CSUM;
    vnet[1] = gso;
    vnet[2..4].copy_from_slice(&(header.len() as u16).to_ne_bytes());
    vnet[4..6].copy_from_slice(&segment_bytes.to_ne_bytes());
    vnet[6..8].copy_from_slice(&(tcp_at as u16).to_ne_bytes());
    vnet[8..10].copy_from_slice(&(TCP_CHECKSUM_AT as u16).to_ne_bytes());
    Some(vnet)
}
