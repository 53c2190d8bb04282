//! The Address Resolution Protocol for IPv4 over Ethernet (RFC 826, RFC 5227).
#![forbid(unsafe_code)]

use core::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::{Mac, ParseError};

/// An ARP packet's length, without the Ethernet header.
pub const ARP_BYTES: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Question or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target's protocol address?
    Request,
    /// The sender has its.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Question or answer.
    pub operation: ArpOperation,
    /// The sender's hardware address.
    pub sender_mac: Mac,
    /// The sender's address; unspecified in a probe (RFC 5227 §2.1.1).
    pub sender: Ipv4Addr,
    /// The target's hardware address; zeroes in a request.
    pub target_mac: Mac,
    /// The target's address.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Parses what follows the Ethernet header; bytes behind the packet are padding.
    ///
    /// # Errors
    ///
    /// Too short; `Unsupported`: other hardware, another protocol or another operation.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let packet = bytes
            .first_chunk::<ARP_BYTES>()
            .ok_or(ParseError::Truncated)?;
        let (fixed, rest) = packet
            .split_first_chunk::<6>()
            .ok_or(ParseError::Truncated)?;
        let [
            0,
            op,
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            s0,
            s1,
            s2,
            s3,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            a0,
            a1,
            a2,
            a3,
        ] = *rest
        else {
            return Err(ParseError::Unsupported);
        };
        let operation = match op {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return Err(ParseError::Unsupported),
        };
        if *fixed != FIXED {
            return Err(ParseError::Unsupported);
        }
        Ok(Self {
            operation,
            sender_mac: Mac([m0, m1, m2, m3, m4, m5]),
            sender: Ipv4Addr::new(s0, s1, s2, s3),
            target_mac: Mac([t0, t1, t2, t3, t4, t5]),
            target: Ipv4Addr::new(a0, a1, a2, a3),
        })
    }

    /// Appends the packet to `out`, as much of it as there is room for.
    pub fn emit<const N: usize>(&self, out: &mut ArrayVec<u8, N>) {
        let operation = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        out.extend(FIXED);
        out.extend([0, operation]);
        out.extend(self.sender_mac.0);
        out.extend(self.sender.octets());
        out.extend(self.target_mac.0);
        out.extend(self.target.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_laid_out_as_rfc_826_says() {
        let request = ArpPacket {
            operation: ArpOperation::Request,
            sender_mac: Mac([1, 2, 3, 4, 5, 6]),
            sender: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: Mac([0; 6]),
            target: Ipv4Addr::new(10, 0, 0, 2),
        };
        let mut bytes = ArrayVec::<u8, 64>::new();
        request.emit(&mut bytes);
        let expected = [
            0, 1, 8, 0, 6, 4, 0, 1, 1, 2, 3, 4, 5, 6, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
        ];
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(ArpPacket::parse(&bytes), Ok(request));
        bytes[7] = 3;
        assert_eq!(ArpPacket::parse(&bytes), Err(ParseError::Unsupported));
        assert_eq!(ArpPacket::parse(&bytes[..27]), Err(ParseError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_to_what_they_came_from(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Ok(packet) = ArpPacket::parse(&bytes) {
                let mut again = ArrayVec::<u8, 64>::new();
                packet.emit(&mut again);
                prop_assert_eq!(again.as_slice(), &bytes[..ARP_BYTES]);
            }
        }
    }
}
