//! The messages of a memif control channel, version 2.0: 128 bytes each, in host byte order.
//!
//! Pure bytes: it sends nothing, and knows no descriptor.
#![forbid(unsafe_code)]

/// Every message is this long.
pub(super) const MESSAGE_BYTES: usize = 128;
/// Major version 2, minor version 0.
pub(super) const VERSION: u16 = 2 << 8;
/// Room for a name, zero-padded.
const NAME_BYTES: usize = 32;
/// Room for the reason of a disconnect.
const REASON_BYTES: usize = 96;
/// A ring that the client produces.
pub(super) const RING_TO_SERVER: u16 = 1;
/// Frames begin with an Ethernet header.
const MODE_ETHERNET: u8 = 0;

/// What a server says of itself first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) name: [u8; NAME_BYTES],
    pub(super) version_min: u16,
    pub(super) version_max: u16,
    /// Highest numbers that it accepts.
    pub(super) region_max: u16,
    pub(super) ring_to_client_max: u16,
    pub(super) ring_to_server_max: u16,
    pub(super) ring_log2_max: u8,
}

/// A ring that the client has laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddRing {
    pub(super) flags: u16,
    pub(super) index: u16,
    pub(super) region: u16,
    pub(super) offset: u32,
    pub(super) log2: u8,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Ack,
    Hello(Hello),
    Init {
        version: u16,
        id: u32,
        mode: u8,
        name: [u8; NAME_BYTES],
    },
    /// The memory's descriptor comes with it.
    AddRegion {
        index: u16,
        bytes: u64,
    },
    /// The interrupt's descriptor comes with it.
    AddRing(AddRing),
    Connect,
    Connected,
    Disconnect {
        reason: [u8; REASON_BYTES],
    },
}

/// A name as it is sent.
pub(super) const fn name(text: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    let bytes = text.as_bytes();
    let mut i = 0;
    // The last byte stays zero.
    while i < bytes.len() && i < NAME_BYTES - 1 {
        name[i] = bytes[i];
        i += 1;
    }
    name
}

impl Message {
    pub(super) fn init(id: u32, own: [u8; NAME_BYTES]) -> Self {
        Self::Init {
            version: VERSION,
            id,
            mode: MODE_ETHERNET,
            name: own,
        }
    }

    pub(super) fn disconnect(text: &str) -> Self {
        let mut reason = [0; REASON_BYTES];
        for (to, from) in reason.iter_mut().zip(text.bytes().take(REASON_BYTES - 1)) {
            *to = from;
        }
        Self::Disconnect { reason }
    }

    pub(super) fn is_ethernet(mode: u8) -> bool {
        mode == MODE_ETHERNET
    }

    pub(super) fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = Writer {
            bytes: [0; MESSAGE_BYTES],
            at: 0,
        };
        match self {
            Self::Ack => out.put(&1_u16.to_ne_bytes()),
            Self::Hello(hello) => {
                out.put(&2_u16.to_ne_bytes());
                out.put(&hello.name);
                for number in [
                    hello.version_min,
                    hello.version_max,
                    hello.region_max,
                    hello.ring_to_client_max,
                    hello.ring_to_server_max,
                ] {
                    out.put(&number.to_ne_bytes());
                }
                out.put(&[hello.ring_log2_max]);
            }
            Self::Init {
                version,
                id,
                mode,
                name,
            } => {
                out.put(&3_u16.to_ne_bytes());
                out.put(&version.to_ne_bytes());
                out.put(&id.to_ne_bytes());
                out.put(&[*mode]);
                // No secret.
                out.put(&[0; 24]);
                out.put(name);
            }
            Self::AddRegion { index, bytes } => {
                out.put(&4_u16.to_ne_bytes());
                out.put(&index.to_ne_bytes());
                out.put(&bytes.to_ne_bytes());
            }
            Self::AddRing(ring) => {
                out.put(&5_u16.to_ne_bytes());
                for number in [ring.flags, ring.index, ring.region] {
                    out.put(&number.to_ne_bytes());
                }
                out.put(&ring.offset.to_ne_bytes());
                out.put(&[ring.log2, 0, 0]);
            }
            Self::Connect => out.put(&6_u16.to_ne_bytes()),
            Self::Connected => out.put(&7_u16.to_ne_bytes()),
            Self::Disconnect { reason } => {
                out.put(&8_u16.to_ne_bytes());
                out.put(&0_u32.to_ne_bytes());
                out.put(reason);
            }
        }
        out.bytes
    }

    /// `None`: no message of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader { bytes };
        Some(match u16::from_ne_bytes(from.take()?) {
            1 => Self::Ack,
            2 => Self::Hello(Hello {
                name: from.take()?,
                version_min: from.u16()?,
                version_max: from.u16()?,
                region_max: from.u16()?,
                ring_to_client_max: from.u16()?,
                ring_to_server_max: from.u16()?,
                ring_log2_max: from.u8()?,
            }),
            3 => {
                let (version, id, mode) = (from.u16()?, from.u32()?, from.u8()?);
                let _secret: [u8; 24] = from.take()?;
                Self::Init {
                    version,
                    id,
                    mode,
                    name: from.take()?,
                }
            }
            4 => Self::AddRegion {
                index: from.u16()?,
                bytes: u64::from_ne_bytes(from.take()?),
            },
            5 => Self::AddRing(AddRing {
                flags: from.u16()?,
                index: from.u16()?,
                region: from.u16()?,
                offset: from.u32()?,
                log2: from.u8()?,
            }),
            6 => Self::Connect,
            7 => Self::Connected,
            8 => {
                let _code = from.u32()?;
                Self::Disconnect {
                    reason: from.take()?,
                }
            }
            _ => return None,
        })
    }
}

/// Zero-padded bytes as text for the log, without anything that could upset a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default();
    text.iter()
        .map(|b| {
            if b.is_ascii_graphic() || *b == b' ' {
                char::from(*b)
            } else {
                '?'
            }
        })
        .collect()
}

struct Writer {
    bytes: [u8; MESSAGE_BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, part: &[u8]) {
        let end = self.at + part.len();
        if let Some(to) = self.bytes.get_mut(self.at..end) {
            to.copy_from_slice(part);
        }
        self.at = end;
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*part)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_back_as_they_were() {
        let messages = [
            Message::Ack,
            Message::Hello(Hello {
                name: name("a server"),
                version_min: VERSION,
                version_max: VERSION,
                region_max: 255,
                ring_to_client_max: 3,
                ring_to_server_max: 4,
                ring_log2_max: 14,
            }),
            Message::init(7, name("a client")),
            Message::AddRegion {
                index: 1,
                bytes: 1 << 33,
            },
            Message::AddRing(AddRing {
                flags: RING_TO_SERVER,
                index: 2,
                region: 1,
                offset: 1 << 20,
                log2: 10,
            }),
            Message::Connect,
            Message::Connected,
            Message::disconnect("enough"),
        ];
        for message in messages {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(&[0; MESSAGE_BYTES]), None);
    }

    /// The offsets that other implementations use.
    #[test]
    fn fields_are_where_others_expect_them() {
        let ring = Message::AddRing(AddRing {
            flags: 1,
            index: 2,
            region: 3,
            offset: 4,
            log2: 5,
        });
        let bytes = ring.encode();
        assert_eq!(bytes[..13], [5, 0, 1, 0, 2, 0, 3, 0, 4, 0, 0, 0, 5]);
        let bytes = Message::init(9, name("x")).encode();
        assert_eq!(bytes[..9], [3, 0, 0, 2, 9, 0, 0, 0, 0]);
        assert_eq!(bytes[33], b'x');
    }

    #[test]
    fn what_a_peer_calls_itself_is_made_printable() {
        assert_eq!(printable(b"ok\x1b[1m\0rest"), "ok?[1m");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_a_message_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }
}
