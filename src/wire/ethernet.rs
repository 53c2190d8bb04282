//! Ethernet II with an optional VLAN tag (IEEE 802.3, 802.1Q).
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::ParseError;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl core::fmt::Debug for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    /// 0x0800
    Ipv4,
    /// 0x86dd
    Ipv6,
    /// 0x0806
    Arp,
    /// Anything else.
    Other(u16),
}

impl EtherType {
    const fn from_wire(v: u16) -> Self {
        match v {
            0x0800 => Self::Ipv4,
            0x86dd => Self::Ipv6,
            0x0806 => Self::Arp,
            v => Self::Other(v),
        }
    }

    const fn to_wire(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Arp => 0x0806,
            Self::Other(v) => v,
        }
    }
}

/// The 802.1Q tag's protocol identifier.
const TPID_8021Q: u16 = 0x8100;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// The tag control information of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// What follows.
    pub ether_type: EtherType,
}

impl EthernetHeader {
    /// Parses the header; returns it and its length in bytes.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ParseError> {
        let (head, rest) = bytes
            .split_first_chunk::<14>()
            .ok_or(ParseError::Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *head;
        let mut header = Self {
            dst: Mac([d0, d1, d2, d3, d4, d5]),
            src: Mac([s0, s1, s2, s3, s4, s5]),
            vlan: None,
            ether_type: EtherType::from_wire(u16::from_be_bytes([t0, t1])),
        };
        if header.ether_type != EtherType::Other(TPID_8021Q) {
            return Ok((header, 14));
        }
        let (tag, _) = rest.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
        let [c0, c1, t0, t1] = *tag;
        header.vlan = Some(u16::from_be_bytes([c0, c1]));
        header.ether_type = EtherType::from_wire(u16::from_be_bytes([t0, t1]));
        Ok((header, 18))
    }

    /// Appends the header to `out`, as much of it as there is room for.
    pub fn emit<const N: usize>(&self, out: &mut ArrayVec<u8, N>) {
        out.extend(self.dst.0);
        out.extend(self.src.0);
        if let Some(tci) = self.vlan {
            out.extend(TPID_8021Q.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        out.extend(self.ether_type.to_wire().to_be_bytes());
    }
}
