//! What the headers of all packets from one of our addresses to one peer have in common.
//!
//! Made once per path; a frame copies it and patches lengths, ECN bits and checksums.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use arrayvec::ArrayVec;

use crate::device::{Pieces, TxFrame};
use crate::wire::checksum::Checksum;
use crate::wire::ip::PROTOCOL_TCP;
use crate::wire::{Ecn, EtherType, EthernetHeader, IpHeader, Mac, TcpHeader};

/// What our packets start with; Linux's `ip_default_ttl`.
const HOP_LIMIT: u8 = 64;
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
/// Ethernet and the longer of the two IP headers.
const HEAD_BYTES_MAX: usize = ETHERNET_BYTES + 40;
/// Where a TCP header has its checksum.
const TCP_CHECKSUM_AT: usize = 16;

/// The Ethernet and IP headers of every packet to one peer, ready to be put in front of TCP's.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// With no payload length and no ECN bits.
    head: [u8; HEAD_BYTES_MAX],
    is_ipv4: bool,
    /// The sums of 16-bit words of the IPv4 header and of the pseudo-header, without lengths.
    ip_sum: u32,
    pseudo_sum: u32,
}

/// Adds up the 16-bit words of a header of less than 2^16 of them.
fn words(bytes: &[u8]) -> u32 {
    let mut sum = Checksum::new();
    sum.add(bytes);
    u32::from(sum.folded())
}

const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

impl Template {
    /// For packets from `src` to `dst`, which are of one family.
    pub(super) fn new(macs: (Mac, Mac), src: IpAddr, dst: IpAddr) -> Self {
        let is_ipv4 = src.is_ipv4();
        let mut bytes: ArrayVec<u8, { HEAD_BYTES_MAX + 4 }> = ArrayVec::new();
        EthernetHeader {
            src: macs.0,
            dst: macs.1,
            vlan: None,
            ether_type: if is_ipv4 {
                EtherType::Ipv4
            } else {
                EtherType::Ipv6
            },
        }
        .emit(&mut bytes);
        let ip = IpHeader {
            src,
            dst,
            dscp: 0,
            ecn: Ecn::NotEct,
            hop_limit: HOP_LIMIT,
            protocol: PROTOCOL_TCP,
            payload_len: 0,
        };
        ip.emit(&mut bytes);
        let mut head = [0; HEAD_BYTES_MAX];
        for (to, from) in head.iter_mut().zip(bytes) {
            *to = from;
        }
        if is_ipv4 {
            // The length of a header alone, and its checksum: both are to be patched.
            head[16..18].fill(0);
            head[24..26].fill(0);
        }
        let pseudo = Checksum::pseudo_header(src, dst, PROTOCOL_TCP, 0);
        Self {
            ip_sum: words(&head[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES]),
            pseudo_sum: u32::from(pseudo.folded()),
            head,
            is_ipv4,
        }
    }

    /// The frame of one segment. With `offload` the device is to complete the TCP checksum; with
    /// `segment_bytes` that of each segment of so many bytes that it cuts this one into.
    #[inline]
    pub(super) fn frame(
        &self,
        header: &TcpHeader,
        payload: Pieces,
        ecn: Ecn,
        offload: bool,
        segment_bytes: u16,
    ) -> TxFrame {
        let offload = offload || segment_bytes > 0;
        let payload_len: usize = payload.iter().map(|p| p.len()).sum();
        let tcp_len = (header.emitted_len() + payload_len) as u32;
        let mut frame = TxFrame {
            header: ArrayVec::new(),
            payload,
            checksum_offload: offload,
            segment_bytes,
            alone: false,
        };
        let mut head = self.head;
        let ecn = ecn as u8;
        // Room for both headers is a constant of the type.
        let tcp_at = if self.is_ipv4 {
            let total = tcp_len + IPV4_BYTES as u32;
            head[15] = ecn;
            head[16..18].copy_from_slice(&(total as u16).to_be_bytes());
            let sum = !fold(self.ip_sum + (total & 0xffff) + u32::from(ecn));
            head[24..26].copy_from_slice(&sum.to_be_bytes());
            let head = &head[..ETHERNET_BYTES + IPV4_BYTES];
            let _fits = frame.header.try_extend_from_slice(head);
            head.len()
        } else {
            head[15] = ecn << 4;
            head[18..20].copy_from_slice(&(tcp_len as u16).to_be_bytes());
            let _fits = frame.header.try_extend_from_slice(&head);
            head.len()
        };
        header.emit(0, &mut frame.header);
        // The length's upper half counts in the pseudo-header of IPv6 (RFC 8200 §8.1).
        let pseudo = fold(self.pseudo_sum + (tcp_len >> 16) + (tcp_len & 0xffff));
        let value = if offload {
            pseudo
        } else {
            let mut sum = Checksum::from_folded(pseudo);
            sum.add(frame.header.get(tcp_at..).unwrap_or(&[]));
            for piece in &frame.payload {
                sum.add(piece.as_bytes());
            }
            sum.finish()
        };
        let at = tcp_at + TCP_CHECKSUM_AT;
        if let Some(field) = frame.header.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{SeqNum, TcpFlags, Timestamps};

    /// A frame from a template is what the headers' own emitters make, checksums included.
    #[test]
    fn a_patched_template_equals_headers_made_from_scratch() {
        let mut pool = crate::stack::testutil::pool();
        let ends: [(IpAddr, IpAddr); 2] = [
            ("10.9.0.1".parse().unwrap(), "10.9.0.2".parse().unwrap()),
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
        ];
        let macs = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        for (src, dst) in ends {
            let template = Template::new(macs, src, dst);
            for (len, ecn, stamped) in [
                (0, Ecn::NotEct, false),
                (1, Ecn::Ect0, true),
                (1447, Ecn::Ce, true),
            ] {
                let mut header = TcpHeader {
                    src_port: 80,
                    dst_port: 61440,
                    seq: SeqNum::new(0xdead_beef),
                    ack: SeqNum::new(17),
                    flags: TcpFlags::ACK | TcpFlags::PSH,
                    window: 512,
                    ..TcpHeader::default()
                };
                header.options.timestamps = stamped.then_some(Timestamps { value: 1, echo: 2 });
                let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                let payload: Pieces = [pool.copy_in(&bytes).unwrap()].into_iter().collect();
                let frame = template.frame(&header, payload, ecn, false, 0);
                let (ip, ip_len) = if src.is_ipv4() {
                    IpHeader::parse_v4(&frame.header[14..], frame.header.len() - 14 + len)
                } else {
                    IpHeader::parse_v6(&frame.header[14..], frame.header.len() - 14 + len)
                }
                .unwrap();
                assert_eq!((ip.src, ip.dst, ip.ecn), (src, dst, ecn));
                let (parsed, tcp_len) = TcpHeader::parse(&frame.header[14 + ip_len..]).unwrap();
                assert_eq!(parsed, header);
                assert_eq!(ip.payload_len, tcp_len + len);
                let mut sum =
                    Checksum::pseudo_header(src, dst, PROTOCOL_TCP, ip.payload_len as u32);
                let pseudo = sum.folded();
                sum.add(&frame.header[14 + ip_len..]);
                sum.add(&bytes);
                assert_eq!(sum.finish(), 0);
                let offloaded = template.frame(&header, Pieces::new(), ecn, true, 0);
                let field = &offloaded.header[14 + ip_len + 16..][..2];
                if len == 0 {
                    assert_eq!(field, pseudo.to_be_bytes());
                }
            }
        }
    }
}
