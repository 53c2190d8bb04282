//! The TCP header as a plain value (RFC 9293 §3.1) and its options (§3.2, RFC 7323, RFC 2018).
//!
//! Nothing here panics: parsing answers with a [`ParseError`] for anything that
//! is not a well-formed header, and emitting writes only what fits in its buffer.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use bitflags::bitflags;

use super::{ParseError, SeqNum};

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

/// How busy the path is, in an experimental option (RFC 6994): what HPCC needs (LUNA §9).
///
/// ```text
/// kind 254 | length 8 | "LN" | load, 16 bits | echo, 16 bits
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// The load of the busiest hop that this segment has passed, 4096 = all of its capacity and no
    /// queue; 0: no hop has said anything. Hops raise it.
    pub load: u16,
    /// The largest load of the segments that came the other way.
    pub echo: u16,
}

/// Bytes of the telemetry option.
pub const TELEMETRY_BYTES: usize = 8;
/// The experiment's identifier (RFC 6994 §3).
const TELEMETRY_EXID: [u8; 2] = *b"LN";

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
    /// The load of the path.
    pub telemetry: Option<Telemetry>,
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

/// Option kinds (RFC 9293 §3.1, RFC 7323, RFC 2018, RFC 4727).
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
    pub(super) const TIMESTAMPS: u8 = 8;
    pub(super) const EXPERIMENT: u8 = 254;
}

/// The longest TCP header.
pub const TCP_HEADER_BYTES_MAX: usize = 60;
/// The header without options.
pub const TCP_HEADER_BYTES_MIN: usize = 20;

impl TcpOptions {
    /// Parses the option bytes of a header.
    ///
    //= RFC 9293 §3.1
    //# "A TCP implementation MUST be able to receive a TCP Option in any segment (MUST-5)."
    //# "A TCP implementation MUST (MUST-6) ignore without error any TCP Option it does not
    //# implement, assuming that the option has a length field."
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        // What most segments carry (RFC 7323 App. A).
        if let [
            kind::NOP,
            kind::NOP,
            kind::TIMESTAMPS,
            10,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
        ] = *bytes
        {
            return Ok(Self {
                timestamps: Some(Timestamps {
                    value: u32::from_be_bytes([a, b, c, d]),
                    echo: u32::from_be_bytes([e, f, g, h]),
                }),
                ..Self::default()
            });
        }
        Self::parse_any(bytes)
    }

    fn parse_any(mut bytes: &[u8]) -> Result<Self, ParseError> {
        let mut options = Self::default();
        while let [first, rest @ ..] = bytes {
            match *first {
                kind::END => break,
                kind::NOP => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            //= RFC 9293 §3.1
            //# "TCP implementations MUST be prepared to handle an illegal option length
            //# (e.g., zero); a suggested procedure is to reset the connection and log the
            //# error cause (MUST-7)."
            // We drop the segment instead: resetting would let a forger close connections.
            let len = usize::from(*rest.first().ok_or(ParseError::Truncated)?);
            if len < 2 {
                return Err(ParseError::Malformed);
            }
            let body = bytes.get(2..len).ok_or(ParseError::Truncated)?;
            options.take(*first, body);
            bytes = bytes.get(len..).unwrap_or(&[]);
        }
        Ok(options)
    }

    /// One option; a known kind with a wrong length is skipped like an unknown one.
    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (kind::MSS, [a, b]) => self.mss = Some(u16::from_be_bytes([*a, *b])),
            (kind::WINDOW_SCALE, [shift]) => self.window_scale = Some(*shift),
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::TIMESTAMPS, [a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some(Timestamps {
                    value: u32::from_be_bytes([*a, *b, *c, *d]),
                    echo: u32::from_be_bytes([*e, *f, *g, *h]),
                });
            }
            (kind::EXPERIMENT, [x, y, a, b, c, d]) if [*x, *y] == TELEMETRY_EXID => {
                self.telemetry = Some(Telemetry {
                    load: u16::from_be_bytes([*a, *b]),
                    echo: u16::from_be_bytes([*c, *d]),
                });
            }
            (kind::SACK, blocks) if blocks.len() % 8 == 0 => {
                for block in blocks.chunks_exact(8) {
                    if let [a, b, c, d, e, f, g, h] = *block {
                        let left = SeqNum::new(u32::from_be_bytes([a, b, c, d]));
                        let right = SeqNum::new(u32::from_be_bytes([e, f, g, h]));
                        let _full = self.sack.try_push(SackBlock { left, right });
                    }
                }
            }
            _ => {}
        }
    }

    /// The timestamps, if there is nothing else.
    #[inline]
    fn only_timestamps(&self) -> Option<Timestamps> {
        if self.sack.is_empty()
            && !self.sack_permitted
            && self.mss.is_none()
            && self.window_scale.is_none()
            && self.telemetry.is_none()
        {
            self.timestamps
        } else {
            None
        }
    }

    /// How many bytes [`TcpOptions::emit`] writes: a multiple of four, at most 40.
    #[inline]
    pub fn emitted_len(&self) -> usize {
        if self.only_timestamps().is_some() {
            return 12;
        }
        let mut len = 0;
        if self.mss.is_some() {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 4;
        }
        if self.timestamps.is_some() {
            len += 12;
        } else if self.sack_permitted {
            len += 4;
        }
        if self.telemetry.is_some() {
            len += TELEMETRY_BYTES;
        }
        len + match self.emitted_sack_blocks(len) {
            0 => 0,
            n => 4 + 8 * n,
        }
    }

    /// How many SACK blocks fit behind `len` bytes of other options.
    fn emitted_sack_blocks(&self, len: usize) -> usize {
        let room = 40usize.saturating_sub(len).saturating_sub(4) / 8;
        self.sack.len().min(room)
    }

    /// Appends the options, padded to a multiple of four bytes. SACK-permitted shares the
    /// timestamps' padding, as other stacks do.
    fn emit<const N: usize>(&self, out: &mut ArrayVec<u8, N>) {
        let start = out.len();
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            out.extend([kind::MSS, 4, a, b]);
        }
        match (self.timestamps, self.sack_permitted) {
            (Some(_), true) => out.extend([kind::SACK_PERMITTED, 2]),
            (Some(_), false) => out.extend([kind::NOP, kind::NOP]),
            (None, true) => out.extend([kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]),
            (None, false) => {}
        }
        if let Some(ts) = self.timestamps {
            out.extend([kind::TIMESTAMPS, 10]);
            out.extend(ts.value.to_be_bytes());
            out.extend(ts.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            out.extend([kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
        if let Some(telemetry) = self.telemetry {
            let [x, y] = TELEMETRY_EXID;
            out.extend([kind::EXPERIMENT, TELEMETRY_BYTES as u8, x, y]);
            out.extend(telemetry.load.to_be_bytes());
            out.extend(telemetry.echo.to_be_bytes());
        }
        let blocks = self.emitted_sack_blocks(out.len() - start);
        if blocks > 0 {
            out.extend([kind::NOP, kind::NOP, kind::SACK, (2 + 8 * blocks) as u8]);
            for block in self.sack.iter().take(blocks) {
                out.extend(block.left.get().to_be_bytes());
                out.extend(block.right.get().to_be_bytes());
            }
        }
    }
}

impl TcpHeader {
    /// Parses a header; returns it and its length in bytes. Does not look at the checksum.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ParseError> {
        let (head, _) = bytes
            .split_first_chunk::<20>()
            .ok_or(ParseError::Truncated)?;
        let [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            flags,
            w0,
            w1,
            _,
            _,
            u0,
            u1,
        ] = *head;
        let header_len = usize::from(offset >> 4) * 4;
        if header_len < TCP_HEADER_BYTES_MIN {
            return Err(ParseError::Malformed);
        }
        let options = bytes.get(20..header_len).ok_or(ParseError::Truncated)?;
        let header = Self {
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
            seq: SeqNum::new(u32::from_be_bytes([q0, q1, q2, q3])),
            ack: SeqNum::new(u32::from_be_bytes([a0, a1, a2, a3])),
            flags: TcpFlags::from_bits_retain(flags),
            window: u16::from_be_bytes([w0, w1]),
            urgent: u16::from_be_bytes([u0, u1]),
            options: if options.is_empty() {
                TcpOptions::default()
            } else {
                TcpOptions::parse(options)?
            },
        };
        Ok((header, header_len))
    }

    /// How many bytes [`TcpHeader::emit`] writes.
    pub fn emitted_len(&self) -> usize {
        TCP_HEADER_BYTES_MIN + self.options.emitted_len()
    }

    /// Appends the header to `out` with `checksum` in its field.
    #[inline]
    pub fn emit<const N: usize>(&self, checksum: u16, out: &mut ArrayVec<u8, N>) {
        let words = (self.emitted_len() / 4) as u8;
        let mut head = [0u8; 32];
        head[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        head[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        head[4..8].copy_from_slice(&self.seq.get().to_be_bytes());
        head[8..12].copy_from_slice(&self.ack.get().to_be_bytes());
        head[12] = words << 4;
        head[13] = self.flags.bits();
        head[14..16].copy_from_slice(&self.window.to_be_bytes());
        head[16..18].copy_from_slice(&checksum.to_be_bytes());
        head[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        if let Some(ts) = self.options.only_timestamps() {
            head[20..24].copy_from_slice(&[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
            head[24..28].copy_from_slice(&ts.value.to_be_bytes());
            head[28..32].copy_from_slice(&ts.echo.to_be_bytes());
            let _fits = out.try_extend_from_slice(&head);
            return;
        }
        let _fits = out.try_extend_from_slice(&head[..20]);
        self.options.emit(out);
    }
}

#[cfg(test)]
mod tests;
