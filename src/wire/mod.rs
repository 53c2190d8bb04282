//! Bytes to headers and back: Ethernet, VLAN, ARP, IPv4, IPv6, neighbour discovery, TCP
//! and its options, checksums.
//!
//! Two levels, for each protocol: a plain value (`…Header`) and the functions that parse it from
//! bytes and emit it. Nothing in here panics on any input: parsing answers with [`ParseError`].
//! This module knows nothing of connections, buffers or devices.
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod ip;
pub mod ndp;
mod seq;
pub mod tcp;

pub use ethernet::{EtherType, EthernetHeader, Mac};
pub use ip::IpHeader;
pub use seq::SeqNum;
pub use tcp::{SackBlock, TELEMETRY_BYTES, TcpFlags, TcpHeader, TcpOptions, Telemetry, Timestamps};

/// Explicit congestion notification bits of the IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable transport.
    #[default]
    NotEct = 0,
    /// ECN-capable, codepoint 01.
    Ect1 = 1,
    /// ECN-capable, codepoint 10.
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer bytes than the header says it has.
    Truncated,
    /// A field has a value that the protocol forbids.
    Malformed,
    /// A checksum does not match.
    Checksum,
    /// Well-formed, but not something this stack processes (fragments, extension headers…).
    Unsupported,
}
