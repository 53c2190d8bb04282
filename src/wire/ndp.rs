//! Neighbour solicitations and advertisements of IPv6 (RFC 4861 §4.3, §4.4).
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::checksum::Checksum;
use super::{Mac, ParseError};

/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// What both messages must arrive with, so that no router can have forwarded them.
pub const NDP_HOP_LIMIT: u8 = 255;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Type, code, checksum, flags, target.
const FIXED_BYTES: usize = 24;
/// Options come in units of this many bytes.
const OPTION_UNIT_BYTES: usize = 8;

const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// A message, with the link-layer address option if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpMessage {
    /// Who has `target`?
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Who asks.
        source_mac: Option<Mac>,
    },
    /// `target` is at `target_mac`.
    Advertisement {
        /// The address told of.
        target: Ipv6Addr,
        /// Where it is.
        target_mac: Option<Mac>,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what was known.
        overrides: bool,
    },
}

impl NdpMessage {
    /// Parses what follows the IPv6 header, and checks the checksum.
    ///
    /// # Errors
    ///
    /// As RFC 4861 §7.1.1 and §7.1.2 ask; `Unsupported`: another ICMPv6 message. The hop limit
    /// is the caller's to check.
    pub fn parse(bytes: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> Result<Self, ParseError> {
        let (fixed, options) = bytes
            .split_first_chunk::<FIXED_BYTES>()
            .ok_or(ParseError::Truncated)?;
        let [kind, code, _, _, flags, _, _, _, target @ ..] = *fixed;
        if !matches!(kind, SOLICITATION | ADVERTISEMENT) {
            return Err(ParseError::Unsupported);
        }
        let mut sum = pseudo_header(src, dst, bytes.len());
        sum.add(bytes);
        if sum.finish() != 0 {
            return Err(ParseError::Checksum);
        }
        let target = Ipv6Addr::from(target);
        if code != 0 || target.is_multicast() {
            return Err(ParseError::Malformed);
        }
        let wanted = if kind == SOLICITATION {
            SOURCE_LINK_ADDRESS
        } else {
            TARGET_LINK_ADDRESS
        };
        let mac = link_address(options, wanted)?;
        if kind == SOLICITATION {
            //= RFC 4861 §7.1.1
            //# "If the IP source address is the unspecified address, there is no source
            //# link-layer address option in the message."
            if src.is_unspecified() && mac.is_some() {
                return Err(ParseError::Malformed);
            }
            return Ok(Self::Solicitation {
                target,
                source_mac: mac,
            });
        }
        let solicited = flags & FLAG_SOLICITED != 0;
        //= RFC 4861 §7.1.2
        //# "If the IP Destination Address is a multicast address the Solicited flag is zero."
        if solicited && dst.is_multicast() {
            return Err(ParseError::Malformed);
        }
        Ok(Self::Advertisement {
            target,
            target_mac: mac,
            solicited,
            overrides: flags & FLAG_OVERRIDE != 0,
        })
    }

    /// The message's length in bytes.
    pub const fn emitted_len(&self) -> usize {
        let has_option = match self {
            Self::Solicitation { source_mac, .. } => source_mac.is_some(),
            Self::Advertisement { target_mac, .. } => target_mac.is_some(),
        };
        FIXED_BYTES + if has_option { OPTION_UNIT_BYTES } else { 0 }
    }

    /// Appends the message from `src` to `dst` to `out`, as much of it as there is room for.
    pub fn emit<const N: usize>(&self, src: Ipv6Addr, dst: Ipv6Addr, out: &mut ArrayVec<u8, N>) {
        let mut bytes = ArrayVec::<u8, { FIXED_BYTES + OPTION_UNIT_BYTES }>::new();
        let (kind, flags, target, option, mac) = match *self {
            Self::Solicitation { target, source_mac } => {
                (SOLICITATION, 0, target, SOURCE_LINK_ADDRESS, source_mac)
            }
            Self::Advertisement {
                target,
                target_mac,
                solicited,
                overrides,
            } => {
                let solicited = if solicited { FLAG_SOLICITED } else { 0 };
                let overrides = if overrides { FLAG_OVERRIDE } else { 0 };
                let flags = solicited | overrides;
                (
                    ADVERTISEMENT,
                    flags,
                    target,
                    TARGET_LINK_ADDRESS,
                    target_mac,
                )
            }
        };
        bytes.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
        bytes.extend(target.octets());
        if let Some(mac) = mac {
            bytes.extend([option, 1]);
            bytes.extend(mac.0);
        }
        let mut sum = pseudo_header(src, dst, bytes.len());
        sum.add(&bytes);
        if let Some(field) = bytes.get_mut(2..4) {
            field.copy_from_slice(&sum.finish().to_be_bytes());
        }
        out.extend(bytes);
    }
}

fn pseudo_header(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Checksum {
    Checksum::pseudo_header(
        IpAddr::V6(src),
        IpAddr::V6(dst),
        PROTOCOL_ICMPV6,
        len as u32,
    )
}

//= RFC 4861 §7.1.1
//# "All included options have a length that is greater than zero."
fn link_address(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, ParseError> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * OPTION_UNIT_BYTES;
        if len == 0 || len > options.len() {
            return Err(ParseError::Malformed);
        }
        let (option, rest) = options.split_at(len);
        if kind == wanted
            && let [_, _, a, b, c, d, e, f] = *option
        {
            found = Some(Mac([a, b, c, d, e, f]));
        }
        options = rest;
    }
    Ok(found)
}

/// The group that an address's owner listens to (RFC 4291 §2.7.1).
pub const fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., x, y, z] = target.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | x as u16,
        (y as u16) << 8 | z as u16,
    )
}

/// The Ethernet address of a group (RFC 2464 §7).
pub const fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const YOU: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x0012, 0x3456);

    fn emitted(message: NdpMessage) -> ArrayVec<u8, 64> {
        let mut bytes = ArrayVec::new();
        message.emit(ME, YOU, &mut bytes);
        assert_eq!(bytes.len(), message.emitted_len());
        bytes
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let mac = Some(Mac([2, 0, 0, 0, 0, 9]));
        for message in [
            NdpMessage::Solicitation {
                target: YOU,
                source_mac: mac,
            },
            NdpMessage::Solicitation {
                target: YOU,
                source_mac: None,
            },
            NdpMessage::Advertisement {
                target: ME,
                target_mac: mac,
                solicited: true,
                overrides: false,
            },
        ] {
            assert_eq!(NdpMessage::parse(&emitted(message), ME, YOU), Ok(message));
        }
    }

    #[test]
    fn what_rfc_4861_forbids_is_refused() {
        let message = NdpMessage::Solicitation {
            target: YOU,
            source_mac: Some(Mac([2; 6])),
        };
        let bytes = emitted(message);
        let other = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
        assert_eq!(
            NdpMessage::parse(&bytes, other, YOU),
            Err(ParseError::Checksum)
        );
        assert_eq!(
            NdpMessage::parse(&bytes[..20], ME, YOU),
            Err(ParseError::Truncated)
        );
        assert_eq!(
            link_address(&[1, 0, 0, 0, 0, 0, 0, 0], 1),
            Err(ParseError::Malformed)
        );
        assert_eq!(
            link_address(&[1, 2, 0, 0, 0, 0, 0, 0], 1),
            Err(ParseError::Malformed)
        );
        let mut from_nobody = ArrayVec::<u8, 64>::new();
        message.emit(Ipv6Addr::UNSPECIFIED, YOU, &mut from_nobody);
        let parsed = NdpMessage::parse(&from_nobody, Ipv6Addr::UNSPECIFIED, YOU);
        assert_eq!(parsed, Err(ParseError::Malformed));
    }

    #[test]
    fn groups_are_derived_from_addresses() {
        let group = solicited_node(YOU);
        assert_eq!(group.to_string(), "ff02::1:ff12:3456");
        assert_eq!(
            multicast_mac(group),
            Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56])
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = NdpMessage::parse(&bytes, ME, YOU);
            let _ = link_address(&bytes, 1);
        }
    }
}
