//! TCP frames for tests of links: valid up to their checksums, which links don't look at.

use std::net::Ipv4Addr;

/// Ethernet, IPv4 and TCP without options.
pub(crate) const HEADER_BYTES: usize = 14 + 20 + 20;

/// A frame's header: to and from a MAC address and an IPv4 address and port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) addresses: (Ipv4Addr, Ipv4Addr),
    pub(crate) ports: (u16, u16),
}

impl Ends {
    /// The headers of a frame (source first in each pair of `self`) with a payload of
    /// `payload_bytes`.
    pub(crate) fn header(&self, payload_bytes: usize) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0..6].copy_from_slice(&self.macs.1);
        header[6..12].copy_from_slice(&self.macs.0);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut header[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((40 + payload_bytes) as u16).to_be_bytes());
        ip[8] = 64;
        ip[9] = 6;
        ip[12..16].copy_from_slice(&self.addresses.0.octets());
        ip[16..20].copy_from_slice(&self.addresses.1.octets());
        let tcp = &mut header[34..];
        tcp[0..2].copy_from_slice(&self.ports.0.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = 0x10;
        header
    }

    /// The way back.
    pub(crate) fn reversed(self) -> Self {
        let swap = |(a, b)| (b, a);
        Self {
            macs: (self.macs.1, self.macs.0),
            addresses: (self.addresses.1, self.addresses.0),
            ports: swap(self.ports),
        }
    }
}

/// Bytes that differ from place to place and from `seed` to `seed`.
pub(crate) fn pattern(seed: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|i| {
            (i.wrapping_mul(31)
                .wrapping_add(seed.wrapping_mul(2_654_435_761))
                >> 3) as u8
        })
        .collect()
}
