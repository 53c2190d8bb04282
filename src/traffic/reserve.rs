//! How the kernel is kept from handing our client ports to somebody else.
//!
//! The kernel picks ports for `connect` and `bind(0)` from `net.ipv4.ip_local_port_range`
//! (32768–60999 by default), except `net.ipv4.ip_local_reserved_ports`. The default client range
//! of luna lies above it, so normally there is nothing to do.
//!
//! Where the ranges do overlap, luna holds each port that it uses by a [`Placeholder`]: a kernel
//! socket bound to it. We do not write `ip_local_reserved_ports`: it is one string shared by
//! everybody in the namespace, that cannot be changed atomically; and an entry would outlive a
//! process that is killed, with nothing to tell it from the administrator's own. A placeholder
//! is released by the kernel on any death, and also reveals a port that somebody has already.
//!
//! [`KernelPorts`] tells which case it is, for the port allocator and for `luna doctor`, which
//! recommends the sysctl to administrators of hosts that overlap.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::port_range::PortSet;

const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What the kernel hands out by itself in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPorts {
    range: RangeInclusive<u16>,
    reserved: PortSet,
}

impl KernelPorts {
    /// Reads the two sysctls. What can't be read is taken for the worst case: every port may be
    /// handed out.
    pub fn read() -> Self {
        let range = read_small_file(LOCAL_RANGE);
        let reserved = read_small_file(RESERVED);
        Self::parse(
            range.as_deref().unwrap_or(""),
            reserved.as_deref().unwrap_or(""),
        )
    }

    fn parse(range: &str, reserved: &str) -> Self {
        let mut bounds = range.split_ascii_whitespace().map(str::parse::<u16>);
        let range = match (bounds.next(), bounds.next()) {
            (Some(Ok(first)), Some(Ok(last))) => first..=last,
            _ => 1..=u16::MAX,
        };
        let reserved = PortSet::parse(RESERVED, reserved).unwrap_or_default();
        Self { range, reserved }
    }

    /// Whether the kernel may give `port` to a socket that asks for any.
    pub fn may_assign(&self, port: u16) -> bool {
        self.range.contains(&port) && !self.reserved.contains(port)
    }

    /// Whether it may give away any port of `ports`: then each needs a [`Placeholder`] in use.
    pub fn overlaps(&self, ports: &RangeInclusive<u16>) -> bool {
        ports.clone().any(|port| self.may_assign(port))
    }
}

fn read_small_file(path: &str) -> Option<String> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // `ip_local_reserved_ports` can be 64 KiB long.
    let mut text = vec![0; 64 << 10];
    let mut length = 0;
    while length < text.len() {
        match rustix::io::read(&file, &mut text[length..]).ok()? {
            0 => break,
            more => length += more,
        }
    }
    text.truncate(length);
    String::from_utf8(text).ok()
}

/// A port held in the kernel by a bound TCP socket that never connects or listens.
#[derive(Debug)]
pub struct Placeholder {
    fd: OwnedFd,
}

impl Placeholder {
    /// Binds `address`; with an unspecified IP address the port on all of them.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: a kernel socket uses the port; skip it.
    pub fn hold(address: SocketAddr) -> std::io::Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let fd = rustix::net::socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )?;
        rustix::net::bind(&fd, &address)?;
        Ok(Self { fd })
    }

    /// The bound socket, for those who want to keep it as their descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls() {
        let ports = KernelPorts::parse("32768\t60999\n", "61000-61999,50000\n");
        assert!(ports.may_assign(32768) && ports.may_assign(60999));
        assert!(!ports.may_assign(50000) && !ports.may_assign(61440));
        assert!(!ports.overlaps(&(61440..=65535)));
        assert!(ports.overlaps(&(60999..=62000)));

        let wide = KernelPorts::parse("1024\t65535\n", "\n");
        assert!(wide.overlaps(&(61440..=65535)));
        let reserved = KernelPorts::parse("1024\t65535\n", "61440-65535\n");
        assert!(!reserved.overlaps(&(61440..=65535)));
        assert!(KernelPorts::parse("", "").may_assign(1));
    }

    #[test]
    fn the_running_kernel_answers() {
        assert_ne!(KernelPorts::read().range, 1..=u16::MAX);
    }

    #[test]
    fn a_held_port_is_nobody_elses() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let error = Placeholder::hold(address).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
        drop(first);
        let held = Placeholder::hold(address).unwrap();
        assert!(std::net::TcpListener::bind(address).is_err());
        drop(held);
        assert!(std::net::TcpListener::bind(address).is_ok());
    }
}
