//! What a network card does to TCP segments, in software, for links that cannot: finishing a
//! checksum, and cutting a long segment into short ones. (An offload is about protocols; this is
//! the only part of the devices that knows any.)
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::{HEADER_BYTES_MAX, Pieces, TxFrame};
use crate::wire::checksum::Checksum;
use crate::wire::ip::PROTOCOL_TCP;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Where a TCP header has its checksum.
pub(super) const TCP_CHECKSUM_AT: usize = 16;
/// Where it has its sequence number, and its flags.
const SEQUENCE_AT: usize = 4;
pub(super) const FLAGS_AT: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
pub(super) const CWR: u8 = 0x80;
/// The longest payload of a TCP segment that a link is given to cut: with its headers it is the
/// longest IP packet.
pub(super) const TSO_BYTES_MAX: usize = 65_000;

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
    put(
        &mut frame.header,
        at + TCP_CHECKSUM_AT,
        &sum.finish().to_be_bytes(),
    );
    frame.checksum_offload = false;
}

/// The frame for the payload from `from` on, at most `segment_bytes` of it, and where the next
/// begins; `None` at the end.
pub(super) fn cut(frame: &TxFrame, from: usize) -> Option<(TxFrame, usize)> {
    let total = frame.payload_bytes();
    let to = total.min(from + usize::from(frame.segment_bytes.max(1)));
    if from >= total {
        return None;
    }
    let mut part = TxFrame {
        header: frame.header.clone(),
        payload: range(&frame.payload, from, to),
        checksum_offload: true,
        segment_bytes: 0,
        alone: false,
    };
    let at = tcp_at(&part.header);
    let tcp_len = part.header.len().saturating_sub(at) + (to - from);
    let sum = set_lengths(&mut part.header, at, tcp_len);
    if let Some(sequence) = sequence(&part.header, at) {
        let sequence = sequence.wrapping_add(from as u32);
        put(&mut part.header, at + SEQUENCE_AT, &sequence.to_be_bytes());
    }
    if let Some(flags) = part.header.get_mut(at + FLAGS_AT) {
        //= RFC 3168 §6.1.2
        //# "the TCP sender sets the CWR flag in the TCP header of the first new data packet"
        *flags &= if from > 0 { !CWR } else { !0 };
        *flags &= if to < total { !(FIN | PSH) } else { !0 };
    }
    put(
        &mut part.header,
        at + TCP_CHECKSUM_AT,
        &sum.folded().to_be_bytes(),
    );
    complete_checksum(&mut part);
    Some((part, to))
}

/// Whether `next` goes on where `frame` ends and says nothing else, so that the two may go to the
/// link as one segment that it cuts: of one connection, at one time.
pub(super) fn continues(frame: &TxFrame, next: &TxFrame) -> bool {
    let (a, b) = (&frame.header, &next.header);
    let at = tcp_at(a);
    let len = frame.payload_bytes();
    let goes_on = sequence(a, at).map(|a| a.wrapping_add(len as u32)) == sequence(b, at);
    let flags = |header: &[u8]| header.get(at + FLAGS_AT).copied();
    let (Some(flags), Some(next_flags)) = (flags(a), flags(b)) else {
        return false;
    };
    let sizes = [frame.segment_bytes, next.segment_bytes];
    goes_on
        && !frame.alone
        && !next.alone
        && (sizes.contains(&0) || frame.segment_bytes == next.segment_bytes)
        && len > 0
        && next.payload.iter().any(|piece| !piece.is_empty())
        // The first may not be the one that ends the stream.
        && flags & FIN == 0
        && flags & !PSH == next_flags & !(PSH | FIN)
        && a.len() == b.len()
        && fixed_parts(a, at).eq(fixed_parts(b, at))
}

/// The parts of a header that the segments of one long one have in common, flags left out.
fn fixed_parts(header: &[u8], tcp_at: usize) -> impl Iterator<Item = Option<&[u8]>> {
    let ip_at = ETHERNET_BYTES;
    let is_v4 = tcp_at - ip_at == IPV4_BYTES;
    let ranges = match is_v4 {
        // All but the length and the sum.
        true => [
            0..ip_at + 2,
            ip_at + 4..ip_at + 10,
            ip_at + 12..tcp_at + SEQUENCE_AT,
        ],
        false => [
            0..ip_at + 4,
            ip_at + 6..ip_at + 8,
            ip_at + 8..tcp_at + SEQUENCE_AT,
        ],
    };
    let tcp = [
        tcp_at + SEQUENCE_AT + 4..tcp_at + FLAGS_AT,
        tcp_at + FLAGS_AT + 1..tcp_at + TCP_CHECKSUM_AT,
        tcp_at + TCP_CHECKSUM_AT + 2..header.len(),
    ];
    ranges.into_iter().chain(tcp).map(|range| header.get(range))
}

/// The header of `first` and those that continue it, up to `last`, `payload_len` bytes in all.
pub(super) fn joined(
    first: &TxFrame,
    last: &TxFrame,
    payload_len: usize,
) -> ArrayVec<u8, HEADER_BYTES_MAX> {
    let mut header = first.header.clone();
    let at = tcp_at(&header);
    let ending = last
        .header
        .get(at + FLAGS_AT)
        .map_or(0, |flags| flags & (FIN | PSH));
    if let Some(flags) = header.get_mut(at + FLAGS_AT) {
        *flags |= ending;
    }
    let tcp_len = header.len().saturating_sub(at) + payload_len;
    let sum = set_lengths(&mut header, at, tcp_len);
    put(
        &mut header,
        at + TCP_CHECKSUM_AT,
        &sum.folded().to_be_bytes(),
    );
    header
}

fn sequence(header: &[u8], tcp_at: usize) -> Option<u32> {
    let bytes = header.get(tcp_at + SEQUENCE_AT..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

/// Writes the packet's length into its IP header; the sum of its pseudo-header.
fn set_lengths(
    header: &mut ArrayVec<u8, HEADER_BYTES_MAX>,
    tcp_at: usize,
    tcp_len: usize,
) -> Checksum {
    let ip_at = ETHERNET_BYTES;
    if tcp_at - ip_at == IPV4_BYTES {
        let total = (IPV4_BYTES + tcp_len) as u16;
        put(header, ip_at + 2, &total.to_be_bytes());
        put(header, ip_at + 10, &[0, 0]);
        let mut sum = Checksum::new();
        sum.add(header.get(ip_at..tcp_at).unwrap_or_default());
        put(header, ip_at + 10, &sum.finish().to_be_bytes());
        let address = |at: usize| header.get(at..)?.first_chunk::<4>();
        let [src, dst] =
            [12, 16].map(|at| address(ip_at + at).map(|a| IpAddr::V4(Ipv4Addr::from(*a))));
        return pseudo(src, dst, tcp_len);
    }
    put(header, ip_at + 4, &(tcp_len as u16).to_be_bytes());
    let address = |at: usize| header.get(at..)?.first_chunk::<16>();
    let [src, dst] = [8, 24].map(|at| address(ip_at + at).map(|a| IpAddr::V6(Ipv6Addr::from(*a))));
    pseudo(src, dst, tcp_len)
}

fn pseudo(src: Option<IpAddr>, dst: Option<IpAddr>, len: usize) -> Checksum {
    match (src, dst) {
        (Some(src), Some(dst)) => Checksum::pseudo_header(src, dst, PROTOCOL_TCP, len as u32),
        // A header too short to be one of ours.
        _ => Checksum::new(),
    }
}

fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = header.get_mut(at..at + bytes.len()) {
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

#[cfg(test)]
mod tests {
    use super::super::testing::{pool, tx_frame};
    use super::*;
    use crate::wire::checksum::Checksum;

    const LENGTH: usize = 14 + 20 + 32;

    /// A frame of a stream: its sequence number, its flags, its payload, what it is to be cut into.
    fn segment(sequence: u32, flags: u8, payload: &[u8], segment_bytes: u16) -> TxFrame {
        let mut pool = pool();
        let mut header = [0; LENGTH];
        header[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        header[22..24].copy_from_slice(&[64, 6]);
        header[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        header[38..42].copy_from_slice(&sequence.to_be_bytes());
        (header[46], header[47]) = (8 << 4, flags);
        let mut frame = tx_frame(&mut pool, &header, &[payload]);
        let sum = set_lengths(&mut frame.header, 34, 32 + payload.len());
        put(&mut frame.header, 50, &sum.folded().to_be_bytes());
        (frame.checksum_offload, frame.segment_bytes) = (true, segment_bytes);
        frame
    }

    #[test]
    fn segments_that_follow_each_other_are_joined() {
        const ACK: u8 = 0x10;
        let first = segment(1000, ACK | PSH, &[1; 300], 100);
        let last = segment(1300, ACK | PSH | FIN, &[2; 50], 0);
        assert!(continues(&first, &last));
        let header = joined(&first, &last, 350);
        // What the whole would have been.
        let whole = segment(1000, ACK | PSH | FIN, &[3; 350], 100);
        assert_eq!(header, whole.header);
        let mut sum = Checksum::new();
        sum.add(&header[14..34]);
        assert_eq!(sum.finish(), 0, "the IP header's own");
    }

    #[test]
    fn what_is_not_the_next_of_the_same_stream_is_not() {
        const ACK: u8 = 0x10;
        let first = segment(1000, ACK, &[1; 300], 100);
        let next = segment(1300, ACK, &[2; 50], 0);
        assert!(continues(&first, &next));
        let mut others = [(); 6].map(|()| next.clone());
        let [gap, port, window, stamp, ttl, flags] = &mut others;
        put(&mut gap.header, 38, &1301_u32.to_be_bytes());
        put(&mut port.header, 36, &[9]);
        put(&mut window.header, 48, &[9]);
        put(&mut stamp.header, 60, &[9]);
        put(&mut ttl.header, 22, &[9]);
        put(&mut flags.header, 47, &[ACK | CWR]);
        for other in &others {
            assert!(!continues(&first, other), "{:?}", other.header);
        }
        assert!(!continues(&first, &segment(1300, ACK, &[2; 300], 200)));
        assert!(!continues(&segment(1000, ACK | FIN, &[1; 300], 100), &next));
        assert!(
            !continues(&next, &segment(1350, ACK, &[], 0)),
            "it is no data"
        );
        let mut probe = next.clone();
        probe.alone = true;
        assert!(!continues(&first, &probe), "others would be cut as it is");
    }
}
