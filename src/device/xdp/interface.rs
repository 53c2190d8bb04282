//! What the kernel says about a network interface: index, MTU, queues, XDP abilities.
//!
//! Asked over netlink and ethtool, not sysfs, where that is possible: sysfs shows the network
//! namespace that it was mounted in, sockets the one of the calling thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, netlink,
};

use crate::device::OpenError;

/// `IFLA_XDP_ATTACHED`, its value for a program in the kernel's receive path, `IFLA_XDP_PROG_ID`
/// and `IFLA_INFO_KIND` (linux/if_link.h).
const IFLA_XDP_ATTACHED: u16 = 2;
const XDP_ATTACHED_SKB: u64 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_INFO_KIND: u16 = 1;
/// Attributes and commands of the generic netlink families "nlctrl" and "netdev"
/// (linux/genetlink.h, linux/netdev.h).
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u64 = 8;

const NETLINK_HEADER_BYTES: usize = 16;
const GENERIC_HEADER_BYTES: usize = 4;
/// `struct ifinfomsg`.
const LINK_HEADER_BYTES: usize = 16;
/// More receive queues than any device has (the socket map of the steering program has as many).
const QUEUES_MAX: u32 = 1024;
/// A reply about one link with all its statistics is 2 to 6 KiB.
const REPLY_BYTES_MAX: usize = 32 << 10;

/// A network interface of the calling thread's network namespace, as it was when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The longest IP packet it sends, in bytes.
    pub mtu_bytes: u32,
    /// The kernel's id of the XDP program attached to it, if any.
    pub xdp_program: Option<u32>,
    /// Whether that program runs in the kernel's receive path, not in the driver.
    pub xdp_is_generic: bool,
    /// It is one end of a veth pair.
    pub is_veth: bool,
}

/// What an interface's driver can do with AF_XDP sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroCopy {
    /// The driver reads and writes packet memory itself.
    pub supported: bool,
    /// The most descriptors of one frame that it takes then.
    pub segments_max: u32,
}

impl Interface {
    /// Asks for the interface called `name`.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoInterface`], or [`OpenError::Io`] if netlink is unusable.
    pub fn query(name: &str) -> Result<Self, OpenError> {
        let failed = |action: &'static str| {
            move |source: rustix::io::Errno| OpenError::Io {
                interface: name.to_owned(),
                action,
                source: source.into(),
            }
        };
        let missing = || OpenError::NoInterface {
            interface: name.to_owned(),
        };

        let socket = ioctl_socket().map_err(failed("open a socket to ask about it"))?;
        let index = netdevice::name_to_index(&socket, name).map_err(|_| missing())?;

        let mut body = [0_u8; LINK_HEADER_BYTES];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let reply =
            ask(None, libc::RTM_GETLINK, &body).map_err(failed("ask the kernel about it"))?;
        let Some(reply) = reply.get(NETLINK_HEADER_BYTES + LINK_HEADER_BYTES..) else {
            return Err(missing());
        };
        let mut mtu_bytes = 0;
        let mut xdp_program = None;
        let mut xdp_is_generic = false;
        let mut is_veth = false;
        for (kind, value) in Attributes(reply) {
            match kind {
                libc::IFLA_MTU => mtu_bytes = number(value) as u32,
                libc::IFLA_XDP => {
                    xdp_is_generic = Attributes(value).any(|(kind, value)| {
                        kind == IFLA_XDP_ATTACHED && number(value) == XDP_ATTACHED_SKB
                    });
                    xdp_program = Attributes(value)
                        .find(|(kind, _)| *kind == IFLA_XDP_PROG_ID)
                        .map(|(_, value)| number(value) as u32)
                        .filter(|id| *id != 0);
                }
                libc::IFLA_LINKINFO => {
                    is_veth = Attributes(value).any(|(kind, value)| {
                        kind == IFLA_INFO_KIND && value.strip_suffix(b"\0") == Some(b"veth")
                    });
                }
                _ => {}
            }
        }
        Ok(Self {
            name: name.to_owned(),
            index,
            mtu_bytes,
            xdp_program,
            xdp_is_generic,
            is_veth,
        })
    }

    /// How many receive queues are in use: each needs a socket for a program that redirects to
    /// miss nothing. At least 1.
    pub fn receive_queues(&self) -> u32 {
        let from_driver = ioctl_socket()
            .ok()
            .and_then(|socket| super::ethtool::receive_channels(socket.as_fd(), &self.name));
        from_driver
            .or_else(|| queues_in_sysfs(&self.name))
            .unwrap_or(1)
            .max(1)
    }

    /// What a pool should receive into for this interface
    /// ([`crate::zbuf::PoolConfig::rx_object_bytes`]): the larger objects if packets may come that
    /// were never cut, for those have then fewer pieces.
    pub fn rx_object_bytes(&self) -> usize {
        if self.is_veth && self.receive_queues() == 1 {
            4096
        } else {
            super::rx_object_bytes_for(self.mtu_bytes)
        }
    }

    /// What the driver can do. Kernels before 6.3 do not tell: then it is worth a try.
    pub fn zero_copy(&self) -> ZeroCopy {
        netdev_features(self.index).unwrap_or(ZeroCopy {
            supported: true,
            segments_max: 1,
        })
    }
}

fn ioctl_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Drivers without ethtool channels still show their queues in sysfs.
fn queues_in_sysfs(name: &str) -> Option<u32> {
    let is_queue = |queue: &u32| {
        let path = format!("/sys/class/net/{name}/queues/rx-{queue}");
        rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
    };
    let receive = (0..QUEUES_MAX).take_while(is_queue).count();
    u32::try_from(receive).ok().filter(|count| *count > 0)
}

fn netdev_features(index: u32) -> Option<ZeroCopy> {
    let mut body = vec![libc::CTRL_CMD_GETFAMILY as u8, 1, 0, 0];
    push_attribute(&mut body, libc::CTRL_ATTR_FAMILY_NAME as u16, b"netdev\0");
    let reply = ask(Some(netlink::GENERIC), libc::GENL_ID_CTRL as u16, &body).ok()?;
    let family = Attributes(reply.get(NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES..)?)
        .find(|(kind, _)| *kind == libc::CTRL_ATTR_FAMILY_ID as u16)
        .map(|(_, value)| number(value) as u16)?;

    let mut body = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
    push_attribute(&mut body, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let reply = ask(Some(netlink::GENERIC), family, &body).ok()?;
    let mut zero_copy = ZeroCopy {
        supported: false,
        segments_max: 1,
    };
    for (kind, value) in Attributes(reply.get(NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES..)?) {
        match kind {
            NETDEV_A_DEV_XDP_FEATURES => {
                zero_copy.supported = number(value) & NETDEV_XDP_ACT_XSK_ZEROCOPY != 0;
            }
            NETDEV_A_DEV_XDP_ZC_MAX_SEGS => zero_copy.segments_max = number(value) as u32,
            _ => {}
        }
    }
    Some(zero_copy)
}

/// Sends one request of type `kind` and returns the first message of the answer. No protocol is
/// `NETLINK_ROUTE`, whose number is zero.
fn ask(
    protocol: Option<rustix::net::Protocol>,
    kind: u16,
    body: &[u8],
) -> rustix::io::Result<Vec<u8>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    let mut request = Vec::with_capacity(NETLINK_HEADER_BYTES + body.len());
    let length = (NETLINK_HEADER_BYTES + body.len()) as u32;
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    rustix::net::send(&socket, &request, SendFlags::empty())?;

    // The kernel has queued the whole answer by the time that `send` returns.
    let mut reply = vec![0; REPLY_BYTES_MAX];
    let (length, _) = rustix::io::retry_on_intr(|| {
        rustix::net::recv(&socket, &mut reply[..], RecvFlags::empty())
    })?;
    reply.truncate(length);
    if reply.len() < NETLINK_HEADER_BYTES {
        return Err(rustix::io::Errno::BADMSG);
    }
    if u16::from_ne_bytes([reply[4], reply[5]]) == libc::NLMSG_ERROR as u16 {
        let code = reply
            .get(16..20)
            .map_or(0, |bytes| number(bytes) as u32 as i32);
        return Err(rustix::io::Errno::from_raw_os_error(-code));
    }
    Ok(reply)
}

fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// An unsigned number in host order, 1 to 8 bytes long.
fn number(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// The type-length-value list of a netlink message. Ends at the first malformed one.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes([*self.0.first()?, *self.0.get(1)?]));
        // The two top bits of the type are flags (nested, network byte order).
        let kind = u16::from_ne_bytes([*self.0.get(2)?, *self.0.get(3)?]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// An [`OpenError`] for what the kernel answered to `action` on `interface`.
pub(crate) fn open_error(interface: &str, action: &'static str, source: io::Error) -> OpenError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted {
            interface: interface.to_owned(),
            action,
        },
        Some(libc::ENODEV) => OpenError::NoInterface {
            interface: interface.to_owned(),
        },
        _ => OpenError::Io {
            interface: interface.to_owned(),
            action,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_described() {
        let lo = Interface::query("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.index), ("lo", 1));
        assert!(lo.mtu_bytes >= 1500, "{lo:?}");
        assert!(lo.receive_queues() >= 1);
        assert!(!lo.zero_copy().supported);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Interface::query("nosuchif0").unwrap_err();
        assert!(matches!(&error, OpenError::NoInterface { interface } if interface == "nosuchif0"));
    }

    #[test]
    fn truncated_attributes_end_the_list() {
        let mut message = Vec::new();
        push_attribute(&mut message, 4, &1500_u32.to_ne_bytes());
        push_attribute(&mut message, 7, b"abc");
        for length in 0..message.len() {
            let whole = Attributes(&message[..length]).count();
            assert_eq!(
                whole,
                usize::from(length >= 8) + usize::from(length >= 15),
                "{length}"
            );
        }
        let parsed: Vec<_> = Attributes(&message).collect();
        assert_eq!(parsed, [(4, &1500_u32.to_ne_bytes()[..]), (7, b"abc")]);
    }
}
