//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, as far as TCP over them needs.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::checksum::Checksum;
use super::{Ecn, ParseError};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;

/// An IP header of either version, without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Differentiated services code point (6 bits).
    pub dscp: u8,
    /// Congestion notification.
    pub ecn: Ecn,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Protocol or next header.
    pub protocol: u8,
    /// Bytes that follow this header.
    pub payload_len: usize,
}

const fn ecn_from_wire(v: u8) -> Ecn {
    match v & 3 {
        0 => Ecn::NotEct,
        1 => Ecn::Ect1,
        2 => Ecn::Ect0,
        _ => Ecn::Ce,
    }
}

/// Whether a header without options has the right checksum: all ones, in any byte order.
#[inline]
fn is_sum_complete(head: &[u8; 20]) -> bool {
    let (words, _) = head.as_chunks::<4>();
    let sum: u64 = words
        .iter()
        .map(|w| u64::from(u32::from_ne_bytes(*w)))
        .sum();
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff) == 0xffff
}

impl IpHeader {
    /// Parses an IPv4 header; returns it and its length in bytes. `total_len` is how many bytes
    /// of the packet were received, `bytes` at least their beginning.
    #[inline]
    pub fn parse_v4(bytes: &[u8], total_len: usize) -> Result<(Self, usize), ParseError> {
        let head = bytes.first_chunk::<20>().ok_or(ParseError::Truncated)?;
        let [
            vihl,
            tos,
            l0,
            l1,
            _,
            _,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            addrs @ ..,
        ] = *head;
        let header_len = usize::from(vihl & 0x0f) * 4;
        if vihl >> 4 != 4 || header_len < 20 {
            return Err(ParseError::Malformed);
        }
        let with_options = bytes.get(..header_len).ok_or(ParseError::Truncated)?;
        let packet_len = usize::from(u16::from_be_bytes([l0, l1]));
        if packet_len < header_len {
            return Err(ParseError::Malformed);
        }
        if packet_len > total_len {
            return Err(ParseError::Truncated);
        }
        // More-fragments set or a fragment offset: the kernel owns reassembly.
        if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
            return Err(ParseError::Unsupported);
        }
        let good = if header_len == 20 {
            is_sum_complete(head)
        } else {
            let mut sum = Checksum::new();
            sum.add(with_options);
            sum.finish() == 0
        };
        if !good {
            return Err(ParseError::Checksum);
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addrs;
        let header = Self {
            src: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
            dst: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
            dscp: tos >> 2,
            ecn: ecn_from_wire(tos),
            hop_limit: ttl,
            protocol,
            payload_len: packet_len - header_len,
        };
        Ok((header, header_len))
    }

    /// Parses an IPv6 header; returns it and its length in bytes. Extension headers are not
    /// followed: `protocol` is then not TCP.
    #[inline]
    pub fn parse_v6(bytes: &[u8], total_len: usize) -> Result<(Self, usize), ParseError> {
        let head = bytes.first_chunk::<40>().ok_or(ParseError::Truncated)?;
        let [b0, b1, _, _, l0, l1, next, hop_limit, addrs @ ..] = *head;
        if b0 >> 4 != 6 {
            return Err(ParseError::Malformed);
        }
        let payload_len = usize::from(u16::from_be_bytes([l0, l1]));
        if payload_len.saturating_add(40) > total_len {
            return Err(ParseError::Truncated);
        }
        let traffic_class = (b0 << 4) | (b1 >> 4);
        let (mut src, mut dst) = ([0u8; 16], [0u8; 16]);
        src.copy_from_slice(&addrs[..16]);
        dst.copy_from_slice(&addrs[16..]);
        let header = Self {
            src: IpAddr::V6(Ipv6Addr::from(src)),
            dst: IpAddr::V6(Ipv6Addr::from(dst)),
            dscp: traffic_class >> 2,
            ecn: ecn_from_wire(traffic_class),
            hop_limit,
            protocol: next,
            payload_len,
        };
        Ok((header, 40))
    }

    /// Appends the header to `out`, as much of it as there is room for. Don't-fragment is set
    /// and the IPv4 identification is zero (RFC 6864 §4: it has no meaning then, and gives
    /// nothing away, CVE-2020-36516).
    pub fn emit<const N: usize>(&self, out: &mut ArrayVec<u8, N>) {
        let traffic_class = (self.dscp << 2) | self.ecn as u8;
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = (self.payload_len + 20) as u16;
                let mut head = [0u8; 20];
                head[0] = 0x45;
                head[1] = traffic_class;
                head[2..4].copy_from_slice(&total.to_be_bytes());
                head[6] = 0x40;
                head[8] = self.hop_limit;
                head[9] = self.protocol;
                head[12..16].copy_from_slice(&src.octets());
                head[16..20].copy_from_slice(&dst.octets());
                let mut sum = Checksum::new();
                sum.add(&head);
                head[10..12].copy_from_slice(&sum.finish().to_be_bytes());
                let _fits = out.try_extend_from_slice(&head);
            }
            (src, dst) => {
                let octets = |a: IpAddr| match a {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                let mut head = [0u8; 40];
                head[0] = 0x60 | (traffic_class >> 4);
                head[1] = traffic_class << 4;
                head[4..6].copy_from_slice(&(self.payload_len as u16).to_be_bytes());
                head[6] = self.protocol;
                head[7] = self.hop_limit;
                head[8..24].copy_from_slice(&octets(src));
                head[24..40].copy_from_slice(&octets(dst));
                let _fits = out.try_extend_from_slice(&head);
            }
        }
    }
}
