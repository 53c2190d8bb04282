//! Where the shards are in the network: addresses, routes, ports.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use core::ops::RangeInclusive;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::ControlHandle;
use crate::socket::reason::Reason;
use crate::sys::internal;
use crate::traffic::Lease;

const IPV4_AND_TCP_BYTES: u32 = 40;
const IPV6_AND_TCP_BYTES: u32 = 60;

/// Tells the link which packets are ours. (A trait for what differs between kinds of links.)
pub(crate) trait Steer: Send + core::fmt::Debug {
    /// Packets to this port are ours, or not any more.
    fn set_port(&mut self, port: u16, ours: bool) -> std::io::Result<()>;
    /// These are the link's addresses now.
    fn set_addresses(&mut self, addresses: &[IpAddr]) -> std::io::Result<()>;
    /// In a child of a fork: closes the link's descriptors that come and go.
    fn close_inherited(&self) {}
}

#[derive(Debug)]
struct Ports {
    steering: Box<dyn Steer>,
    /// How often each listening port is steered.
    counts: HashMap<u16, u32>,
}

#[derive(Debug)]
pub(crate) struct Place {
    control: Arc<ControlHandle>,
    ifindex: u32,
    interface: String,
    ports: Mutex<Ports>,
    clients: Option<RangeInclusive<u16>>,
    /// Held for as long as the process lives.
    _lease: Option<Lease>,
    /// Descriptors that a child must not keep.
    fds: Vec<RawFd>,
}

impl Place {
    pub(super) fn new(
        control: Arc<ControlHandle>,
        ifindex: u32,
        interface: String,
        steering: Box<dyn Steer>,
        lease: Option<Lease>,
        fds: Vec<RawFd>,
    ) -> Self {
        let clients = lease
            .as_ref()
            .and_then(|lease| lease.ranges().into_iter().next());
        Self {
            control,
            ifindex,
            interface,
            ports: Mutex::new(Ports {
                steering,
                counts: HashMap::new(),
            }),
            clients,
            _lease: lease,
            fds,
        }
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the interface has this name.
    pub(super) fn is_interface(&self, name: &[u8]) -> bool {
        self.interface.as_bytes() == name
    }

    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        addresses(&self.control, self.ifindex).contains(&ip)
    }

    pub(super) fn source_for(&self, remote: IpAddr) -> Result<IpAddr, Reason> {
        let tables = self.control.tables();
        if remote.is_loopback() || tables.is_local(remote) {
            return Err(Reason::LocalDestination);
        }
        match tables.route(remote) {
            Ok(route) if route.local => Err(Reason::LocalDestination),
            Ok(route) if route.ifindex == self.ifindex => {
                route.preferred_src.ok_or(Reason::OtherRoute)
            }
            _ => Err(Reason::OtherRoute),
        }
    }

    pub(super) fn client_ports(&self) -> Option<RangeInclusive<u16>> {
        self.clients.clone()
    }

    pub(super) fn mss(&self, remote: Option<IpAddr>) -> u16 {
        let tables = self.control.tables();
        let mtu = tables.link(self.ifindex).map_or(1500, |link| link.mtu);
        let route = remote.and_then(|remote| tables.route(remote).ok());
        let mtu = route
            .and_then(|route| route.mtu)
            .map_or(mtu, |path| path.min(mtu));
        let headers = match remote {
            Some(IpAddr::V6(_)) => IPV6_AND_TCP_BYTES,
            // Of a listener that serves both families, the shard takes off the rest.
            Some(IpAddr::V4(_)) | None => IPV4_AND_TCP_BYTES,
        };
        u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
    }

    pub(super) fn steer(&self, port: u16) -> Result<(), String> {
        let mut ports = self.ports();
        let Ports { steering, counts } = &mut *ports;
        let count = counts.entry(port).or_insert(0);
        if *count == 0 {
            steering.set_port(port, true).map_err(|error| {
                format!("{}: cannot steer port {port}: {error}", self.interface)
            })?;
        }
        *count += 1;
        Ok(())
    }

    pub(super) fn unsteer(&self, port: u16) {
        let mut ports = self.ports();
        let Ports { steering, counts } = &mut *ports;
        let Some(count) = counts.get_mut(&port) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&port);
            // A port that stays ours answers with a reset, as a closed port does.
            if let Err(error) = steering.set_port(port, false) {
                log::warn!("{}: cannot give port {port} back: {error}", self.interface);
            }
        }
    }

    /// The kernel's tables have changed.
    pub(super) fn follow(&self) {
        let addresses = addresses(&self.control, self.ifindex);
        if let Err(error) = self.ports().steering.set_addresses(&addresses) {
            log::warn!("{}: cannot follow its addresses: {error}", self.interface);
        }
        let tables = self.control.tables();
        match tables.link(self.ifindex) {
            None => log::warn!("{}: the interface is gone", self.interface),
            Some(link) if !link.up => log::info!("{}: the interface is down", self.interface),
            Some(_) => {}
        }
    }

    pub(super) fn close_inherited(&self) {
        for fd in &self.fds {
            internal::discard(*fd);
        }
        self.ports().steering.close_inherited();
    }
}

/// The addresses of an interface.
pub(super) fn addresses(control: &ControlHandle, ifindex: u32) -> Vec<IpAddr> {
    let tables = control.tables();
    tables
        .addresses()
        .iter()
        .filter(|a| a.ifindex == ifindex)
        .map(|a| a.ip)
        .collect()
}
