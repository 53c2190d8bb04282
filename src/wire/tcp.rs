//! The TCP header as a plain value (RFC 9293 §3.1) and its options (§3.2, RFC 7323, RFC 2018).
//!
//! Nothing here panics: parsing answers with a [`ParseError`](super::ParseError) for anything that is
//! not a well-formed header, and emitting writes only what fits in its buffer.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use bitflags::bitflags;

use super::SeqNum;

bitflags! {
    /// The control bits (RFC 9293 §3.1; ECE and CWR: RFC 3168).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct TcpFlags: u8 {
        /// No more data from sender.
        const FIN = 0x01;
        /// Synchronize sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// Push function.
        const PSH = 0x08;
        /// Acknowledgment field is significant.
        const ACK = 0x10;
        /// Urgent pointer field is significant.
        const URG = 0x20;
        /// ECN echo.
        const ECE = 0x40;
        /// Congestion window reduced.
        const CWR = 0x80;
    }
}

/// One selective acknowledgment block: `[left, right)` (RFC 2018 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackBlock {
    /// First sequence number of the block.
    pub left: SeqNum,
    /// The sequence number just after the block.
    pub right: SeqNum,
}

/// The timestamps option (RFC 7323 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the echo of the other side's clock.
    pub echo: u32,
}

/// The options that this stack understands; others are skipped.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Maximum segment size (RFC 9293 §3.7.1), as on the wire.
    pub mss: Option<u16>,
    /// Window scale shift (RFC 7323 §2.2), as on the wire (may exceed 14).
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018 §2).
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks, in the order of the wire.
    pub sack: ArrayVec<SackBlock, 4>,
}

/// A TCP header as a plain value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// SEG.SEQ
    pub seq: SeqNum,
    /// SEG.ACK; meaningless without [`TcpFlags::ACK`].
    pub ack: SeqNum,
    /// Control bits.
    pub flags: TcpFlags,
    /// SEG.WND as on the wire, unscaled.
    pub window: u16,
    /// SEG.UP; meaningless without [`TcpFlags::URG`].
    pub urgent: u16,
    /// Options.
    pub options: TcpOptions,
}
