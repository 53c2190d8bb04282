//! A segment on its way in or out: a header by value and payload by reference.
//!
//! Knows nothing of IP addresses or frames: the owner of the connection does.
#![forbid(unsafe_code)]

use super::payload::{Payload, Pieces};
use crate::wire::{Ecn, SeqNum, TcpFlags, TcpHeader};

/// A received segment, checksum verified, that belongs to the connection it is given to.
#[derive(Debug)]
pub struct SegmentIn<'a, P> {
    /// The parsed header.
    pub header: &'a TcpHeader,
    /// The data. The connection takes what it keeps; what is left is the caller's to drop.
    pub payload: &'a mut Pieces<P>,
    /// Bytes of data; must equal the sum of the pieces.
    pub payload_len: u32,
    /// The IP header's congestion bits.
    pub ecn: Ecn,
}

impl<P> SegmentIn<'_, P> {
    /// SEG.LEN of RFC 9293 §3.4: data, SYN and FIN all occupy sequence space.
    pub fn sequence_len(&self) -> u32 {
        let flags = self.header.flags;
        self.payload_len
            .saturating_add(u32::from(flags.contains(TcpFlags::SYN)))
            .saturating_add(u32::from(flags.contains(TcpFlags::FIN)))
    }

    /// The sequence number just after the segment.
    pub fn end(&self) -> SeqNum {
        self.header.seq + self.sequence_len()
    }
}

/// A segment to send.
#[derive(Clone, Debug)]
pub struct SegmentOut<P> {
    /// The header with its ports filled in; the checksum is the sender's business.
    pub header: TcpHeader,
    /// The data.
    pub payload: Pieces<P>,
    /// Bytes of data.
    pub payload_len: u32,
    /// The link is to cut it into segments of so many bytes of data each
    /// ([`Config::tso_bytes_max`](super::Config::tso_bytes_max)); 0 = it is one segment.
    pub segment_bytes: u16,
    /// It is longer than what the path is known to take, to find out: no other may go the same way.
    pub alone: bool,
    /// What to write into the IP header's congestion bits.
    pub ecn: Ecn,
    /// Whether any of its sequence space has been sent before.
    pub retransmission: bool,
}

impl<P> SegmentOut<P> {
    /// One that carries nothing and is sent for the first time.
    pub fn without_data(header: TcpHeader) -> Self {
        Self {
            header,
            payload: Pieces::new(),
            payload_len: 0,
            segment_bytes: 0,
            alone: false,
            ecn: Ecn::NotEct,
            retransmission: false,
        }
    }

    /// How many segments it is on the wire.
    pub fn segments(&self) -> u32 {
        match u32::from(self.segment_bytes) {
            0 => 1,
            each => self.payload_len.div_ceil(each),
        }
    }
}

impl<P: Payload> SegmentOut<P> {
    /// The sequence number just after the segment.
    pub fn end(&self) -> SeqNum {
        let flags = self.header.flags;
        self.header.seq
            + self.payload_len
            + u32::from(flags.contains(TcpFlags::SYN))
            + u32::from(flags.contains(TcpFlags::FIN))
    }
}

/// What the owner of a connection must do about a segment beyond polling the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Disposition {
    /// Nothing.
    Continue,
    /// Send this reset; the connection goes on.
    Reset(TcpHeader),
    /// The connection no longer exists: answer as for a closed port (RFC 9293 §3.10.7.1).
    Orphan,
    /// The segment is a SYN that may open the successor of this connection, which is in TIME-WAIT
    /// (RFC 6191). If there is a listener on that port, give it the segment after a call of
    /// [`give_way`](super::Connection::give_way), else call
    /// [`stay`](super::Connection::stay).
    Reopen,
}
