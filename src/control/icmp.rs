//! "Packet too big" messages about our segments (RFC 1191, RFC 8201).
//!
//! The kernel answers and counts them, but finds no socket that sent the segment, so it learns
//! nothing and tells nobody. It does hand a copy of every ICMP message to raw sockets: that is
//! where ours come from. Whoever guesses addresses and ports can forge one, so the embedded
//! sequence number must be checked against what is in flight (RFC 5927 §7.2); this module can't,
//! and only reports it.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, ipproto, recvfrom, socket_with, sockopt,
};

use crate::sys;
use crate::wire::SeqNum;
use crate::wire::checksum::Checksum;

/// No IPv4 path is believed to be narrower (Linux's `min_pmtu`, against forgers).
pub const PATH_MTU_MIN_V4: u32 = 552;
/// No IPv6 path is narrower (RFC 8200 §5).
pub const PATH_MTU_MIN_V6: u32 = 1280;

/// Long enough for the headers that matter; the rest of a message is cut off.
const MESSAGE_BYTES: usize = 256;
/// Each socket gets all ICMP messages of its family; what does not fit here is not missed, for
/// routers repeat themselves.
const SOCKET_BUFFER_BYTES: usize = 64 * 1024;
/// One poll looks at no more messages than this.
const MESSAGES_PER_POLL: usize = 32;

/// Of linux/icmp.h and linux/icmpv6.h: each set bit of a filter is a type that is kept away.
const SOL_RAW: i32 = 255;
const FILTER: i32 = 1;
/// The types of message that count.
const DESTINATION_UNREACHABLE: u8 = 3;
const PACKET_TOO_BIG: u8 = 2;

/// A router could not forward a segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// The segment's source: our end.
    pub local: SocketAddr,
    /// The segment's destination.
    pub remote: SocketAddr,
    /// The segment's sequence number. Unless it is in flight, the message is forged or old.
    pub sequence: SeqNum,
    /// The largest packet that the path takes, in bytes, IP header included.
    pub mtu: u32,
}

/// Receives the messages.
#[derive(Debug)]
pub struct IcmpListener {
    v4: OwnedFd,
    /// Absent where the kernel has no IPv6.
    v6: Option<OwnedFd>,
}

impl IcmpListener {
    /// Opens the sockets in the calling thread's network namespace. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = |family, protocol, (level, filter): (i32, &[u8])| {
            let socket = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
            let socket = sys::internal::out_of_the_way(socket);
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
            // Not to be woken by every ping. What passes all the same is passed over.
            let _ = sys::setsockopt(socket.as_raw_fd(), level, FILTER, filter);
            Ok::<_, Errno>(socket)
        };
        let v4_filter = (!(1u32 << DESTINATION_UNREACHABLE)).to_ne_bytes();
        let mut v6_filter = [0xff; 32];
        let word = !(1u32 << PACKET_TOO_BIG);
        for (to, from) in v6_filter.iter_mut().zip(word.to_ne_bytes()) {
            *to = from;
        }
        Ok(Self {
            v4: open(AddressFamily::INET, ipproto::ICMP, (SOL_RAW, &v4_filter))?,
            v6: open(
                AddressFamily::INET6,
                ipproto::ICMPV6,
                (libc::IPPROTO_ICMPV6, &v6_filter),
            )
            .ok(),
        })
    }

    /// The descriptors that become readable when there may be something to
    /// [`IcmpListener::poll`].
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        core::iter::once(&self.v4).chain(&self.v6).map(AsFd::as_fd)
    }

    /// Calls `each` for what has arrived, a bounded part of it at a time. Never blocks.
    pub fn poll(&self, mut each: impl FnMut(TooBig)) {
        let mut buffer = [0; MESSAGE_BYTES];
        let sockets = [
            (Some(&self.v4), parse_v4 as fn(&[u8]) -> _),
            (self.v6.as_ref(), parse_v6),
        ];
        for (socket, parse) in sockets {
            let Some(socket) = socket else { continue };
            for _ in 0..MESSAGES_PER_POLL {
                match recvfrom(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((_, length, _)) => {
                        if let Some(message) = parse(buffer.get(..length).unwrap_or_default()) {
                            each(message);
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

/// An IPv4 packet with an ICMP message.
fn parse_v4(packet: &[u8]) -> Option<TooBig> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let icmp = packet.get(header_len..).filter(|_| header_len >= 20)?;
    // Raw sockets are served before the kernel looks at the checksum.
    let mut sum = Checksum::new();
    sum.add(icmp);
    let cut_off = packet.len() == MESSAGE_BYTES;
    //= RFC 792
    //# "Type 3 ... Code 4 = fragmentation needed and DF set"
    let &[3, 4, _, _, _, _, mtu_high, mtu_low] = icmp.first_chunk()? else {
        return None;
    };
    if sum.finish() != 0 && !cut_off {
        return None;
    }
    let inner = icmp.get(8..)?;
    let &[
        version_and_len,
        _,
        total_high,
        total_low,
        _,
        _,
        _,
        _,
        _,
        protocol,
    ] = inner.first_chunk()?;
    if version_and_len >> 4 != 4 || protocol != 6 {
        return None;
    }
    let tcp = inner.get(usize::from(version_and_len & 0x0f) * 4..)?;
    let address = |at: usize| Some(IpAddr::from(*inner.get(at..)?.first_chunk::<4>()?));
    let mtu = match u16::from_be_bytes([mtu_high, mtu_low]) {
        0 => plateau_below(u16::from_be_bytes([total_high, total_low])),
        mtu => u32::from(mtu),
    };
    embedded(address(12)?, address(16)?, tcp, mtu.max(PATH_MTU_MIN_V4))
}

/// An ICMPv6 message; the kernel has verified it and taken the IP header off.
fn parse_v6(icmp: &[u8]) -> Option<TooBig> {
    //= RFC 4443 §3.2
    //# "Packet Too Big Message ... Type 2"
    let &[2, _, _, _, m0, m1, m2, m3] = icmp.first_chunk()? else {
        return None;
    };
    let inner = icmp.get(8..)?;
    // We send no extension headers.
    if inner.first()? >> 4 != 6 || *inner.get(6)? != 6 {
        return None;
    }
    let address = |at: usize| Some(IpAddr::from(*inner.get(at..)?.first_chunk::<16>()?));
    let mtu = u32::from_be_bytes([m0, m1, m2, m3]).max(PATH_MTU_MIN_V6);
    embedded(address(8)?, address(24)?, inner.get(40..)?, mtu)
}

/// The first eight bytes of a segment are all that a router must quote (RFC 792).
fn embedded(local: IpAddr, remote: IpAddr, tcp: &[u8], mtu: u32) -> Option<TooBig> {
    let &[l0, l1, r0, r1, s0, s1, s2, s3] = tcp.first_chunk()?;
    Some(TooBig {
        local: SocketAddr::new(local, u16::from_be_bytes([l0, l1])),
        remote: SocketAddr::new(remote, u16::from_be_bytes([r0, r1])),
        sequence: SeqNum::new(u32::from_be_bytes([s0, s1, s2, s3])),
        mtu,
    })
}

/// RFC 1191 §7: what to try when a router does not say what it takes.
fn plateau_below(total_len: u16) -> u32 {
    //= RFC 1191 §7.1
    //# "Table 7-1: Common MTUs in the Internet"
    const PLATEAUS: [u16; 9] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296];
    PLATEAUS
        .into_iter()
        .find(|p| *p < total_len)
        .map_or(68, u32::from)
}

/// Feeds arbitrary bytes to the parsers. For fuzzing.
pub(super) fn fuzz(data: &[u8]) {
    let _ = (parse_v4(data), parse_v6(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ICMP message about a packet of `total_len` bytes from 10.0.0.1:80 to 10.0.0.2:999.
    fn message(kind: [u8; 2], mtu: u16, total_len: u16) -> Vec<u8> {
        let mut icmp = vec![kind[0], kind[1], 0, 0, 0, 0];
        icmp.extend(mtu.to_be_bytes());
        icmp.extend([0x45, 0]);
        icmp.extend(total_len.to_be_bytes());
        icmp.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        icmp.extend([0, 80, 0x03, 0xe7, 1, 2, 3, 4]);
        let mut sum = Checksum::new();
        sum.add(&icmp);
        icmp[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        let mut packet = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
        packet.extend([10, 0, 0, 9, 10, 0, 0, 1, 1, 1, 1, 1]);
        packet.extend(icmp);
        packet
    }

    #[test]
    fn an_ipv4_message() {
        let expected = TooBig {
            local: SocketAddr::from(([10, 0, 0, 1], 80)),
            remote: SocketAddr::from(([10, 0, 0, 2], 999)),
            sequence: SeqNum::new(0x0102_0304),
            mtu: 1400,
        };
        assert_eq!(parse_v4(&message([3, 4], 1400, 1500)), Some(expected));
        let mtu = |mtu, total| parse_v4(&message([3, 4], mtu, total)).unwrap().mtu;
        assert_eq!(mtu(60, 1500), PATH_MTU_MIN_V4, "too small to be true");
        assert_eq!(mtu(0, 1500), 1492, "an old router");
        assert_eq!(mtu(0, 9000), 8166);
        assert_eq!(mtu(0, 20), PATH_MTU_MIN_V4);
        for kind in [[3, 3], [8, 0], [11, 0]] {
            assert_eq!(parse_v4(&message(kind, 1400, 1500)), None);
        }
        let mut damaged = message([3, 4], 1400, 1500);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(parse_v4(&damaged), None);
        let whole = message([3, 4], 1400, 1500);
        for n in 0..whole.len() {
            assert_eq!(parse_v4(&whole[..n]), None, "cut after {n} bytes");
        }
    }

    #[test]
    fn an_ipv6_message() {
        let mut icmp = vec![2, 0, 0, 0, 0, 0, 0x05, 0x78];
        icmp.extend([0x60, 0, 0, 0, 0, 8, 6, 64]);
        icmp.extend([0xfd; 16]);
        icmp.extend([0xfe; 16]);
        icmp.extend([0, 80, 0x03, 0xe7, 1, 2, 3, 4]);
        let got = parse_v6(&icmp).unwrap();
        assert_eq!((got.mtu, got.sequence.get()), (1400, 0x0102_0304));
        assert_eq!(got.local, SocketAddr::from(([0xfdfd; 8], 80)));
        assert_eq!(got.remote, SocketAddr::from(([0xfefe; 8], 999)));
        for n in 0..icmp.len() {
            assert_eq!(parse_v6(&icmp[..n]), None, "cut after {n} bytes");
        }
        icmp[14] = 17;
        assert_eq!(parse_v6(&icmp), None, "UDP");
    }
}
