//! `struct sockaddr` bytes to addresses and back.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use arrayvec::ArrayVec;

/// `sizeof(struct sockaddr_in)`
pub const INET_BYTES: usize = 16;
/// `sizeof(struct sockaddr_in6)`
pub const INET6_BYTES: usize = 28;
/// RFC 2133's `sockaddr_in6` without the scope, which Linux still takes.
const INET6_BYTES_MIN: usize = 24;

/// An address in the kernel's form.
pub type Encoded = ArrayVec<u8, INET6_BYTES>;

/// The family of an address in the kernel's form.
pub fn family(bytes: &[u8]) -> Option<i32> {
    Some(i32::from(u16::from_ne_bytes(array(bytes, 0)?)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Reads an `AF_INET` or `AF_INET6` address; anything else is `None`.
pub fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    match family(bytes)? {
        libc::AF_INET if bytes.len() >= INET_BYTES => {
            let port = u16::from_be_bytes(array(bytes, 2)?);
            let ip = Ipv4Addr::from(array::<4>(bytes, 4)?);
            Some(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 if bytes.len() >= INET6_BYTES_MIN => {
            let port = u16::from_be_bytes(array(bytes, 2)?);
            let flow = u32::from_be_bytes(array(bytes, 4)?);
            let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
            let scope = u32::from_ne_bytes(array(bytes, INET6_BYTES_MIN).unwrap_or_default());
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// Writes an address as a socket of `family` shows it: an `AF_INET6` socket shows IPv4 as
/// `::ffff:a.b.c.d`.
pub fn encode(address: SocketAddr, family: i32) -> Encoded {
    let mut out = Encoded::new();
    let mut put = |bytes: &[u8]| {
        // The longest form fits exactly.
        let _fits = out.try_extend_from_slice(bytes);
    };
    match address {
        SocketAddr::V4(v4) if family != libc::AF_INET6 => {
            put(&(libc::AF_INET as u16).to_ne_bytes());
            put(&v4.port().to_be_bytes());
            put(&v4.ip().octets());
            put(&[0; 8]);
        }
        _ => {
            let (ip, flow, scope) = match address {
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
                SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
            };
            put(&(libc::AF_INET6 as u16).to_ne_bytes());
            put(&address.port().to_be_bytes());
            put(&flow.to_be_bytes());
            put(&ip.octets());
            put(&scope.to_ne_bytes());
        }
    }
    out
}

/// `::ffff:a.b.c.d` as `a.b.c.d`: what goes on the wire.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The unspecified address of a family.
pub fn unspecified(family: i32) -> IpAddr {
    if family == libc::AF_INET6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, family) in [
            ("10.1.2.3:80", libc::AF_INET),
            ("[2001:db8::1]:443", libc::AF_INET6),
            ("[fe80::1%3]:443", libc::AF_INET6),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address, family)), Some(address));
        }
    }

    #[test]
    fn ipv4_on_an_ipv6_socket_is_mapped() {
        let v4: SocketAddr = "10.1.2.3:80".parse().unwrap();
        let encoded = encode(v4, libc::AF_INET6);
        assert_eq!(encoded.len(), INET6_BYTES);
        let shown = decode(&encoded).unwrap();
        assert_eq!(shown.to_string(), "[::ffff:10.1.2.3]:80");
        assert_eq!(canonical(shown), v4);
    }

    #[test]
    fn short_and_foreign_addresses_are_not_ours() {
        let v4 = encode("10.1.2.3:80".parse().unwrap(), libc::AF_INET);
        assert_eq!(decode(&v4[..15]), None);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[1, 0, b'/', b'x']), None);
        let v6 = encode("[::1]:80".parse().unwrap(), libc::AF_INET6);
        assert!(decode(&v6[..24]).is_some(), "Linux takes RFC 2133's length");
        assert_eq!(decode(&v6[..23]), None);
    }
}
