//! What a network card does to TCP segments, in software, for links that cannot: finishing a
//! checksum, and cutting a long segment into short ones. (An offload is about protocols; this is
//! the only part of the devices that knows any.)
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Pieces, TxFrame};
use crate::wire::checksum::Checksum;
use crate::wire::ip::PROTOCOL_TCP;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Where a TCP header has its checksum.
pub(super) const TCP_CHECKSUM_AT: usize = 16;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Where TCP begins in a header of ours: no tag, no IP options.
pub(super) fn tcp_at(header: &[u8]) -> usize {
    let is_v4 = header
        .get(ETHERNET_BYTES)
        .is_some_and(|byte| byte >> 4 == 4);
    ETHERNET_BYTES + if is_v4 { IPV4_BYTES } else { IPV6_BYTES }
}

/// Completes the TCP checksum of a frame that holds the pseudo-header's sum.
pub(super) fn complete_checksum(frame: &mut TxFrame) {
    let at = tcp_at(&frame.header);
    let mut sum = Checksum::new();
    sum.add(frame.header.get(at..).unwrap_or_default());
    for piece in &frame.payload {
        sum.add(piece.as_bytes());
    }
    put(frame, at + TCP_CHECKSUM_AT, &sum.finish().to_be_bytes());
    frame.checksum_offload = false;
}

/// The frame for the payload from `from` on, at most `segment_bytes` of it, and where the next
/// begins; `None` at the end.
pub(super) fn cut(frame: &TxFrame, from: usize) -> Option<(TxFrame, usize)> {
    let total: usize = frame.payload.iter().map(|piece| piece.len()).sum();
    let to = total.min(from + usize::from(frame.segment_bytes.max(1)));
    if from >= total {
        return None;
    }
    let mut part = TxFrame {
        header: frame.header.clone(),
        payload: range(&frame.payload, from, to),
        checksum_offload: true,
        segment_bytes: 0,
    };
    let at = tcp_at(&part.header);
    let tcp_len = part.header.len().saturating_sub(at) + (to - from);
    let sum = set_lengths(&mut part, at, tcp_len);
    if let Some(sequence) = part
        .header
        .get(at + 4..at + 8)
        .and_then(|b| b.first_chunk::<4>())
    {
        let sequence = u32::from_be_bytes(*sequence).wrapping_add(from as u32);
        put(&mut part, at + 4, &sequence.to_be_bytes());
    }
    if let Some(flags) = part.header.get_mut(at + 13) {
        //= RFC 3168 §6.1.2
        //# "the TCP sender sets the CWR flag in the TCP header of the first new data packet"
        *flags &= if from > 0 { !CWR } else { !0 };
        *flags &= if to < total { !(FIN | PSH) } else { !0 };
    }
    put(&mut part, at + TCP_CHECKSUM_AT, &sum.folded().to_be_bytes());
    complete_checksum(&mut part);
    Some((part, to))
}

/// Writes the packet's length into its IP header; the sum of its pseudo-header.
fn set_lengths(part: &mut TxFrame, tcp_at: usize, tcp_len: usize) -> Checksum {
    let ip_at = ETHERNET_BYTES;
    let header = part.header.clone();
    let bytes = |from: usize| header.get(from..).unwrap_or_default();
    if tcp_at - ip_at == IPV4_BYTES {
        put(
            part,
            ip_at + 2,
            &((IPV4_BYTES + tcp_len) as u16).to_be_bytes(),
        );
        put(part, ip_at + 10, &[0, 0]);
        let mut sum = Checksum::new();
        sum.add(part.header.get(ip_at..tcp_at).unwrap_or_default());
        put(part, ip_at + 10, &sum.finish().to_be_bytes());
        let address = |at| bytes(at).first_chunk::<4>().map(|a| Ipv4Addr::from(*a));
        let [src, dst] = [12, 16].map(|at| address(ip_at + at).map(IpAddr::V4));
        return pseudo(src, dst, tcp_len);
    }
    put(part, ip_at + 4, &(tcp_len as u16).to_be_bytes());
    let address = |at| bytes(at).first_chunk::<16>().map(|a| Ipv6Addr::from(*a));
    let [src, dst] = [8, 24].map(|at| address(ip_at + at).map(IpAddr::V6));
    pseudo(src, dst, tcp_len)
}

fn pseudo(src: Option<IpAddr>, dst: Option<IpAddr>, len: usize) -> Checksum {
    match (src, dst) {
        (Some(src), Some(dst)) => Checksum::pseudo_header(src, dst, PROTOCOL_TCP, len as u32),
        // A header too short to be one of ours.
        _ => Checksum::new(),
    }
}

fn put(frame: &mut TxFrame, at: usize, bytes: &[u8]) {
    if let Some(field) = frame.header.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

/// References to bytes `from..to` of a payload.
fn range(payload: &Pieces, from: usize, to: usize) -> Pieces {
    let mut part = Pieces::new();
    let mut start = 0;
    for piece in payload {
        let end = start + piece.len();
        let (low, high) = (from.max(start), to.min(end));
        if low < high {
            // No more pieces than the whole has.
            let _fits = part.try_push(piece.sub(low - start, high - start));
        }
        start = end;
    }
    part
}
