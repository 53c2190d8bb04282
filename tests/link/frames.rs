//! TCP frames for tests of links: valid up to their checksums, which links don't look at.

use std::net::Ipv4Addr;

use super::netns::{IPV4, MACS};

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

/// Frames from side 1 of a link to side 0 by name, and whether the steering program must redirect
/// them when `port` and the addresses of side 0 are ours.
pub(crate) fn judged_frames(port: u16) -> Vec<(&'static str, Vec<u8>, bool)> {
    let ends = Ends {
        macs: (MACS[1], MACS[0]),
        addresses: (IPV4[1], IPV4[0]),
        ports: (9, port),
    };
    let plain = [&ends.header(6)[..], b"abcdef"].concat();
    let change = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = plain.clone();
        f(&mut frame);
        frame
    };
    let tagged =
        |frame: &[u8], tags: &[[u8; 4]]| [&frame[..12], &tags.concat(), &frame[12..]].concat();
    let ipv6 = |next: u8, last: u8| {
        let mut frame = plain[..12].to_vec();
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, next, 64]);
        for host in [2, last] {
            frame.extend_from_slice(&[0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
        frame.extend_from_slice(&plain[34..]);
        frame
    };
    let options = change(&|f| {
        f[14] = 0x46;
        f[17] += 4;
        f.splice(34..34, [1, 1, 1, 0]);
    });
    let q = [0x81, 0, 0, 5];
    let ad = [0x88, 0xa8, 0, 5];
    vec![
        ("plain TCP", plain.clone(), true),
        ("another port", change(&|f| f[37] ^= 1), false),
        ("not our address", change(&|f| f[33] = 77), false),
        ("UDP", change(&|f| f[23] = 17), false),
        ("more fragments", change(&|f| f[20] = 0x20), false),
        ("later fragment", change(&|f| f[21] = 1), false),
        ("do not fragment", change(&|f| f[20] = 0x40), true),
        ("IP options", options, true),
        ("header length too short", change(&|f| f[14] = 0x44), false),
        ("version 5", change(&|f| f[14] = 0x55), false),
        ("one VLAN tag", tagged(&plain, &[q]), false),
        ("two VLAN tags", tagged(&plain, &[ad, q]), false),
        ("three VLAN tags", tagged(&plain, &[ad, q, q]), false),
        ("ARP", change(&|f| f[13] = 6), false),
        ("TCP cut short", plain[..50].to_vec(), false),
        ("IP cut short", plain[..30].to_vec(), false),
        ("IPv6", ipv6(6, 1), true),
        ("IPv6, tagged", tagged(&ipv6(6, 1), &[q]), false),
        ("IPv6, not our address", ipv6(6, 3), false),
        ("IPv6 fragment", ipv6(44, 1), false),
        ("IPv6 hop-by-hop", ipv6(0, 1), false),
    ]
}
