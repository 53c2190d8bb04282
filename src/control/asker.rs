//! Asks the kernel about neighbours: by netlink, or, where that is refused, by traffic.
//!
//! A neighbour can be changed by netlink only with `CAP_NET_ADMIN`, which a daemon has given up
//! once it has become another user (memcached, nginx's workers). It is left what the traffic of
//! any program does: a datagram for a neighbour makes the kernel look for it and, if it is an old
//! acquaintance, find out within seconds whether it is still there; and `MSG_CONFIRM` says that it
//! is. The sockets are opened while the process has its privileges and may open any.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, sendto, socket_with,
    sockopt,
};

use super::message::{self, Update};
use crate::sys::{self, internal};

/// RFC 863: whoever is there throws it away.
const PORT_DISCARD: u16 = 9;

/// `MSG_PROBE` of linux/socket.h: goes all the way but onto the link. With `MSG_CONFIRM` and no
/// data, a confirmation is all that happens.
const PROBE: SendFlags = SendFlags::from_bits_retain(0x10);

/// Room for an error with the request that it answers.
const ANSWER_BYTES: usize = 1024;

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Where is it?
    Resolve,
    /// It is there: keep it.
    Confirm,
    /// Is it still there?
    Probe,
}

/// The sockets that are asked by.
#[derive(Debug)]
pub(super) struct Asker {
    /// For questions that are answered at once: the answer is there when `send` returns.
    netlink: OwnedFd,
    sequence: u32,
    /// Never connected, and bound (to a port of the kernel's choice) only once they are needed.
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Asker {
    /// `netlink`: a socket that nobody else reads. Opens the others in the calling thread's network
    /// namespace.
    pub(super) fn new(netlink: OwnedFd) -> Self {
        let open = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(family, SocketType::DGRAM, flags, None).ok()?;
            Some(internal::out_of_the_way(socket))
        };
        let (v4, v6) = (open(AddressFamily::INET), open(AddressFamily::INET6));
        // A neighbour is one hop away, and whatever a wrong table makes of the datagram goes no
        // further.
        if let Some(socket) = &v4 {
            let _ = sockopt::set_ip_ttl(socket, 1);
        }
        if let Some(socket) = &v6 {
            let _ = sockopt::set_ipv6_unicast_hops(socket, Some(1));
        }
        Self {
            netlink,
            sequence: 0,
            v4,
            v6,
        }
    }

    /// Its descriptors.
    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> {
        core::iter::once(&self.netlink)
            .chain(&self.v4)
            .chain(&self.v6)
            .map(|fd| fd.as_raw_fd())
    }

    /// Asks about the neighbour at `ip` behind the link `ifindex`; whether that could be done. The
    /// answer, if any, is a change of the kernel's table.
    pub(super) fn ask(&mut self, question: Question, ifindex: u32, ip: IpAddr) -> bool {
        self.sequence = self.sequence.wrapping_add(1);
        let request = match question {
            Question::Resolve => message::resolve_request(ifindex, ip, self.sequence),
            Question::Confirm => message::confirm_request(ifindex, ip, self.sequence),
            Question::Probe => message::probe_request(ifindex, ip, self.sequence),
        };
        match self.request(&request) {
            Err(Errno::PERM) => self.by_traffic(question, ifindex, ip).is_ok(),
            result => result.is_ok(),
        }
    }

    /// The MTU in bytes of the path to `dst`, if the kernel knows one.
    pub(super) fn path_mtu(&mut self, dst: IpAddr) -> Option<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut found = None;
        self.exchange(&message::route_request(dst, sequence), |datagram| {
            found = found.or_else(|| message::route_reply_mtu(datagram, sequence));
        })
        .ok()?;
        found
    }

    /// Sends a request to which silence is consent.
    fn request(&mut self, request: &[u8]) -> Result<(), Errno> {
        let sequence = self.sequence;
        let mut result = Ok(());
        self.exchange(request, |datagram| {
            message::decode(datagram, |answer| {
                if answer.sequence == sequence
                    && let Update::Done(errno) = answer.update
                    && errno != 0
                {
                    result = Err(Errno::from_raw_os_error(errno));
                }
            });
        })?;
        result
    }

    /// Sends a request and reads what there is then.
    fn exchange(&mut self, request: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        send(&self.netlink, request, flags)?;
        let mut buffer = [0; ANSWER_BYTES];
        while let Ok((length, _)) = recv(&self.netlink, &mut buffer[..], RecvFlags::DONTWAIT) {
            each(buffer.get(..length).unwrap_or_default());
        }
        Ok(())
    }

    fn by_traffic(&self, question: Question, ifindex: u32, ip: IpAddr) -> Result<(), Errno> {
        let (socket, level, name, to): (_, _, _, SocketAddr) = match ip {
            IpAddr::V4(ip) => (
                &self.v4,
                libc::IPPROTO_IP,
                libc::IP_UNICAST_IF,
                SocketAddrV4::new(ip, PORT_DISCARD).into(),
            ),
            IpAddr::V6(ip) => (
                &self.v6,
                libc::IPPROTO_IPV6,
                libc::IPV6_UNICAST_IF,
                SocketAddrV6::new(ip, PORT_DISCARD, 0, ifindex).into(),
            ),
        };
        let socket = socket.as_ref().ok_or(Errno::AFNOSUPPORT)?;
        // Both options take it in the network's byte order.
        let by = sys::setsockopt(socket.as_raw_fd(), level, name, &ifindex.to_be_bytes());
        by.map_err(|_| Errno::NODEV)?;
        let quietly = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // Not by way of a router: the neighbour itself is meant.
        let flags = match question {
            Question::Resolve | Question::Probe => SendFlags::DONTROUTE,
            Question::Confirm => SendFlags::DONTROUTE | SendFlags::CONFIRM | PROBE,
        };
        sendto(socket, &[], quietly | flags, &to).map(drop)
    }
}
