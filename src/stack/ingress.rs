//! From a frame to the connection, listener or TIME-WAIT record that it belongs to.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use super::counters::Drop;
use super::flow_table::{Flow, FlowKey, Sought};
use super::shard::{Shard, Slot};
use crate::device::{FramePart, Pieces, RxFrame};
use crate::limits::RX_BURST_FRAMES;
use crate::tcp::{self, Disposition, SegmentIn, SegmentOut};
use crate::time::Instant;
use crate::wire::checksum::Checksum;
use crate::wire::ip::PROTOCOL_TCP;
use crate::wire::{Ecn, EtherType, EthernetHeader, IpHeader, ParseError, TcpHeader};

/// How far after a connection in TIME-WAIT its successor begins: a window further on (RFC 6191).
const REUSE_GAP: u32 = 65_537;

/// A TCP segment with the addresses of the packet that it came in.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) header: TcpHeader,
    pub(super) payload: Pieces,
    pub(super) payload_len: u32,
    pub(super) ecn: Ecn,
}

impl From<ParseError> for Drop {
    fn from(e: ParseError) -> Self {
        match e {
            ParseError::Truncated => Self::Truncated,
            ParseError::Malformed => Self::Malformed,
            ParseError::Checksum => Self::Checksum,
            ParseError::Unsupported => Self::Unsupported,
        }
    }
}

/// Cuts a frame down to its TCP payload and checks everything in front of it but the addresses.
#[inline]
fn parse(frame: RxFrame, partial_checksums: bool) -> Result<Arrived, Drop> {
    let frame_len: usize = frame.pieces.iter().map(|p| p.len()).sum();
    let first = frame.pieces.first().ok_or(Drop::Truncated)?.as_bytes();
    let (ethernet, ethernet_len) = EthernetHeader::parse(first)?;
    if ethernet.vlan.is_some() {
        return Err(Drop::Unsupported);
    }
    let ip_bytes = first.get(ethernet_len..).unwrap_or(&[]);
    let ip_total = match frame.part {
        FramePart::Whole => frame_len.saturating_sub(ethernet_len),
        // The packet is longer than what is here of it. It has not come over a wire, so its
        // checksum will be found unfinished.
        _ => usize::MAX,
    };
    let (ip, ip_len) = match ethernet.ether_type {
        EtherType::Ipv4 => IpHeader::parse_v4(ip_bytes, ip_total)?,
        EtherType::Ipv6 => IpHeader::parse_v6(ip_bytes, ip_total)?,
        EtherType::Arp | EtherType::Other(_) => return Err(Drop::Unsupported),
    };
    if ip.protocol != PROTOCOL_TCP {
        return Err(Drop::Unsupported);
    }
    let (header, tcp_len) = TcpHeader::parse(ip_bytes.get(ip_len..).unwrap_or(&[]))?;
    let payload_len = ip.payload_len.checked_sub(tcp_len).ok_or(Drop::Truncated)?;
    let segment_at = ethernet_len + ip_len;
    let mut payload = frame.pieces;
    if frame_len > segment_at + ip.payload_len {
        // Ethernet padding.
        truncate(&mut payload, segment_at + ip.payload_len);
    }
    if !frame.checksum_ok {
        verify_checksum(&payload, segment_at, &ip, partial_checksums)?;
    }
    skip(&mut payload, segment_at + tcp_len);
    if let Some(first) = payload.first_mut() {
        first.claim_front();
    }
    Ok(Arrived {
        local: SocketAddr::new(ip.dst, header.dst_port),
        remote: SocketAddr::new(ip.src, header.src_port),
        header,
        payload,
        payload_len: payload_len as u32,
        ecn: ip.ecn,
    })
}

/// Drops the first `n` bytes, and the pieces that are empty then.
#[inline]
fn skip(pieces: &mut Pieces, mut n: usize) {
    let mut empty = false;
    for piece in pieces.iter_mut() {
        let cut = n.min(piece.len());
        piece.advance(cut);
        n -= cut;
        empty |= piece.is_empty();
        if n == 0 {
            break;
        }
    }
    if !empty {
        return;
    }
    match pieces.as_slice() {
        // Headers in one piece, data in another: the usual frame of a link that splits them.
        [headers, data] if headers.is_empty() && !data.is_empty() => {
            let _headers = pieces.swap_remove(0);
        }
        _ => pieces.retain(|p| !p.is_empty()),
    }
}

/// Keeps the first `n` bytes.
#[cold]
pub(super) fn truncate(pieces: &mut Pieces, mut n: usize) {
    for piece in pieces.iter_mut() {
        piece.truncate(n);
        n -= piece.len();
    }
    pieces.retain(|p| !p.is_empty());
}

//= RFC 9293 §3.1
//# "The receiver MUST check (MUST-3) [the checksum]."
fn verify_checksum(
    packet: &Pieces,
    segment_at: usize,
    ip: &IpHeader,
    partial: bool,
) -> Result<(), Drop> {
    let mut pieces = packet.iter().map(|p| p.as_bytes());
    let first = pieces.next().unwrap_or(&[]);
    let first = first.get(segment_at..).unwrap_or(&[]);
    let pseudo = Checksum::pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, ip.payload_len as u32);
    // A sender on the same host that counts on checksum offload leaves the folded sum of the
    // pseudo-header in the field, and a virtual link does not complete it. Such a segment never
    // was on a wire: accept exactly that value, where the link is known to be virtual.
    if partial
        && let Some(&[a, b]) = first.get(16..18)
        && u16::from_be_bytes([a, b]) == pseudo.folded()
    {
        return Ok(());
    }
    let mut sum = pseudo;
    sum.add(first);
    for piece in pieces {
        sum.add(piece);
    }
    if sum.finish() == 0 {
        Ok(())
    } else {
        Err(Drop::Checksum)
    }
}

/// The name of the connection that a frame is for, if it is for any: read without checking.
#[inline]
fn peek(frame: &[u8]) -> Option<FlowKey> {
    let (local, remote, tcp) = match (*frame.first_chunk::<15>()?).last_chunk::<3>()? {
        [0x08, 0x00, version] => {
            let ip = frame.get(14..)?;
            let [a, b, c, d] = *ip.get(16..20)?.first_chunk()?;
            let [e, f, g, h] = *ip.get(12..16)?.first_chunk()?;
            let length = usize::from(version & 0xf) * 4;
            let ends = (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]));
            (ends.0, ends.1, ip.get(length..)?)
        }
        [0x86, 0xdd, _] => {
            let ip = frame.get(14..)?;
            let local: [u8; 16] = *ip.get(24..40)?.first_chunk()?;
            let remote: [u8; 16] = *ip.get(8..24)?.first_chunk()?;
            (IpAddr::from(local), IpAddr::from(remote), ip.get(40..)?)
        }
        _ => return None,
    };
    let [a, b, c, d] = *tcp.first_chunk()?;
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let local = SocketAddr::new(local, to);
    Some(FlowKey::new(local, SocketAddr::new(remote, from)))
}

/// With fewer connections than this the caches have them all.
const LOOK_AHEAD_ABOVE: usize = 1024;

impl Shard {
    /// Whether it pays to fetch connections before they are looked at.
    #[inline]
    pub(super) fn looks_ahead(&self) -> bool {
        self.slots.len() >= LOOK_AHEAD_ABOVE
    }

    /// Begins to fetch the connections that a burst is for, so that the memory's answers come
    /// together and not one after the other. Where there are few it does nothing.
    #[inline]
    pub(super) fn look_ahead(&self, frames: &[RxFrame]) {
        if frames.len() < 2 || !self.looks_ahead() {
            return;
        }
        let mut sought = ArrayVec::<Sought, RX_BURST_FRAMES>::new();
        for frame in frames {
            let key = frame.pieces.first().and_then(|first| peek(first));
            if let Some(key) = key {
                let _full = sought.try_push(self.flows.seek(&key));
            }
        }
        for one in sought {
            if let Some(Flow::Connection(index)) = self.flows.candidate(one) {
                self.slots.prefetch(index, Slot::RECEIVING);
                self.timers.prefetch(index);
            }
        }
    }

    /// Runs one received frame through the stack.
    pub(super) fn ingress(&mut self, now: Instant, frame: RxFrame) {
        let part = frame.part;
        if part != FramePart::Whole && part != FramePart::First {
            return self.further_part(now, frame);
        }
        if let Some(first) = frame.pieces.first()
            && self.link.is_discovery(first)
        {
            self.link.discover(now, first);
            // What waited for it goes with this turn.
            self.refresh(now);
            return;
        }
        match parse(frame, self.partial_checksums) {
            Ok(mut arrived) if part == FramePart::Whole => self.segment_arrives(now, &mut arrived),
            Ok(arrived) => self.first_part(now, arrived),
            Err(reason) => {
                self.continued = None;
                self.stats.count_drop(reason);
            }
        }
    }

    pub(super) fn segment_arrives(&mut self, now: Instant, arrived: &mut Arrived) {
        if !self.link.accepts(arrived.remote.ip(), arrived.local.ip()) {
            self.stats.count_drop(Drop::Address);
            return;
        }
        self.stats.segments_in += 1;
        match self.flow(arrived.local, arrived.remote) {
            Some(Flow::Connection(index)) => self.segment_for_connection(now, index, arrived),
            Some(Flow::TimeWait(index)) => self.segment_for_time_wait(now, index, arrived),
            None => self.segment_for_listener(now, arrived, None),
        }
    }

    pub(super) fn segment_for_connection(
        &mut self,
        now: Instant,
        index: u32,
        arrived: &mut Arrived,
    ) {
        if arrived.payload_len > 0 && self.pool.low_water() {
            self.relieve(index, arrived);
        }
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        let disposition = slot.conn.on_segment(
            now,
            SegmentIn {
                header: &arrived.header,
                payload: &mut arrived.payload,
                payload_len: arrived.payload_len,
                ecn: arrived.ecn,
            },
        );
        match disposition {
            Disposition::Continue => {}
            Disposition::Reset(reply) => self.reply(now, arrived.local, arrived.remote, &reply),
            Disposition::Orphan => {
                // It is over, although the application still holds it: the same ends are free
                // for a new connection.
                self.segment_for_listener(now, arrived, None);
                return;
            }
            Disposition::Reopen => {
                self.succeed(now, index, arrived);
                return;
            }
        }
        self.after_input(now, index);
    }

    /// A SYN has arrived that may open the successor of a connection in TIME-WAIT which the
    /// application has not let go of: it may have data to read still.
    fn succeed(&mut self, now: Instant, index: u32, arrived: &mut Arrived) {
        let is_wanted = self.find_listener(arrived.local).is_some();
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        let next = slot.conn.time_wait_seed().snd_nxt;
        match is_wanted {
            true => slot.conn.give_way(now),
            false => slot.conn.stay(now),
        }
        self.after_input(now, index);
        if is_wanted {
            self.segment_for_listener(now, arrived, Some(next + REUSE_GAP));
        }
    }

    //= RFC 9293 §3.5.2
    //# "If the connection does not exist (CLOSED), then a reset is sent in response to any
    //# incoming segment except another reset."
    pub(super) fn reset(&mut self, now: Instant, arrived: &Arrived) {
        self.stats.segments_unknown += 1;
        if let Some(header) = tcp::reset_for(&arrived.header, arrived.payload_len) {
            self.stats.resets_out += 1;
            self.reply(now, arrived.local, arrived.remote, &header);
        }
    }

    /// Sends a segment without data that belongs to no connection block.
    pub(super) fn reply(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        header: &TcpHeader,
    ) {
        let mut cache = super::link::HopCache::default();
        let hop = self
            .link
            .hop(now, local.ip(), remote.ip(), true, &mut cache)
            .clone();
        let bare = SegmentOut::without_data(header.clone());
        self.send_frame(now, (local.ip(), remote.ip()), &hop, bare);
    }
}

/// Both addresses of a packet are of one family by construction.
pub(super) const fn default_mss(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => tcp::MSS_DEFAULT_V4,
        IpAddr::V6(_) => tcp::MSS_DEFAULT_V6,
    }
}
