//! A codec of its own for Ethernet, IP and TCP, so that what the stack emits and accepts is
//! checked against something that the stack did not write.

use std::net::IpAddr;

use super::{OUR_MAC, PEER_MAC};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// A TCP segment with the addresses of its packet; numbers as on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// The ECN field of the IP header.
    pub(crate) ecn: u8,
    /// Option bytes as they are; padded with END to a multiple of four when emitted.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// Without options, data or anything special.
    pub(crate) fn new(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Self {
        Self {
            src,
            dst,
            seq: 0,
            ack: 0,
            flags,
            window: 65535,
            urgent: 0,
            ecn: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sequence space that it takes.
    pub(crate) fn sequence_len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// The value of the first option of this kind.
    pub(crate) fn option(&self, kind: u8) -> Option<&[u8]> {
        options(&self.options)
            .into_iter()
            .find(|(k, _)| *k == kind)
            .map(|(_, body)| body)
    }

    /// TSval and TSecr.
    pub(crate) fn timestamps(&self) -> Option<(u32, u32)> {
        let body = self.option(8)?;
        Some((word(body, 0), word(body, 4)))
    }

    /// SACK blocks.
    pub(crate) fn sack(&self) -> Vec<(u32, u32)> {
        let body = self.option(5).unwrap_or_default();
        body.chunks_exact(8)
            .map(|b| (word(b, 0), word(b, 4)))
            .collect()
    }

    /// As an Ethernet frame to the host, complete with checksums.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().div_ceil(4) * 4, 0);
        let mut tcp = Vec::new();
        tcp.extend(self.src.1.to_be_bytes());
        tcp.extend(self.dst.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(((20 + options.len()) as u8 / 4) << 4);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(options);
        tcp.extend(&self.payload);
        let sum = tcp_checksum(self.src.0, self.dst.0, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet(self.src.0, self.dst.0, self.ecn, &tcp)
    }

    /// Takes a frame of the host's apart, and checks everything that must hold for any.
    pub(crate) fn parse(frame: &[u8]) -> Result<Self, String> {
        if frame.len() < 54 || frame[..6] != PEER_MAC || frame[6..12] != OUR_MAC {
            return Err(format!("not a frame from us to the peer: {frame:02x?}"));
        }
        let ip = &frame[14..];
        let v6 = frame[12..14] == [0x86, 0xdd];
        let (src, dst, ecn, tcp) = if v6 { ipv6(ip)? } else { ipv4(ip)? };
        if tcp_checksum(src, dst, tcp) != 0 {
            return Err("a wrong TCP checksum".into());
        }
        let header = usize::from(tcp[12] >> 4) * 4;
        if header < 20 || header > tcp.len() || tcp[12] & 0x0f != 0 {
            return Err(format!("a data offset of {header} or reserved bits set"));
        }
        Ok(Self {
            src: (src, half(tcp, 0)),
            dst: (dst, half(tcp, 2)),
            seq: word(tcp, 4),
            ack: word(tcp, 8),
            flags: tcp[13],
            window: half(tcp, 14),
            urgent: half(tcp, 18),
            ecn,
            options: tcp[20..header].to_vec(),
            payload: tcp[header..].to_vec(),
        })
    }
}

type Packet<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn ipv4(ip: &[u8]) -> Result<Packet<'_>, String> {
    let total = usize::from(half(ip, 2));
    if ip[0] != 0x45 || total > ip.len() || total < 40 || ip[9] != 6 || ip[8] == 0 {
        return Err(format!("a bad IPv4 header: {:02x?}", &ip[..20]));
    }
    if checksum(&[&ip[..20]]) != 0 {
        return Err("a wrong IPv4 checksum".into());
    }
    // "Don't fragment", and with it an identification that tells nothing (CVE-2020-36516).
    if half(ip, 6) != 0x4000 || half(ip, 4) != 0 {
        return Err("an IPv4 packet that may be fragmented, or with an identification".into());
    }
    let src = IpAddr::from(<[u8; 4]>::try_from(&ip[12..16]).unwrap());
    let dst = IpAddr::from(<[u8; 4]>::try_from(&ip[16..20]).unwrap());
    Ok((src, dst, ip[1] & 3, &ip[20..total]))
}

fn ipv6(ip: &[u8]) -> Result<Packet<'_>, String> {
    let len = usize::from(half(ip, 4));
    if ip[0] >> 4 != 6 || ip[6] != 6 || 40 + len > ip.len() || len < 20 || ip[7] == 0 {
        return Err(format!(
            "a bad IPv6 header: {:02x?}",
            &ip[..40.min(ip.len())]
        ));
    }
    let src = IpAddr::from(<[u8; 16]>::try_from(&ip[8..24]).unwrap());
    let dst = IpAddr::from(<[u8; 16]>::try_from(&ip[24..40]).unwrap());
    Ok((src, dst, ip[1] >> 4 & 3, &ip[40..40 + len]))
}

/// An Ethernet frame to the host around a TCP segment's bytes.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, ecn: u8, tcp: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(OUR_MAC);
    frame.extend(PEER_MAC);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([0x08, 0x00]);
            let mut ip = vec![0x45, ecn];
            ip.extend((20 + tcp.len() as u16).to_be_bytes());
            ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, ecn << 4, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        _ => panic!("two families in one packet"),
    }
    frame.extend(tcp);
    frame
}

/// Options as (kind, value), NOP and END left out.
pub(crate) fn options(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [kind, rest @ ..] = bytes {
        match kind {
            0 => break,
            1 => bytes = rest,
            _ => {
                let len = usize::from(rest.first().copied().unwrap_or(0)).max(2);
                found.push((*kind, bytes.get(2..len).unwrap_or_default()));
                bytes = bytes.get(len..).unwrap_or_default();
            }
        }
    }
    found
}

pub(crate) fn tcp_checksum(src: IpAddr, dst: IpAddr, tcp: &[u8]) -> u16 {
    let bytes = |ip| match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let len = (tcp.len() as u32).to_be_bytes();
    checksum(&[&bytes(src), &bytes(dst), &len, &[0, 0, 0, 6], tcp])
}

/// RFC 1071 over parts of even length (the last may be odd).
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(crate) fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) << 16 | u32::from(half(bytes, at + 2))
}
