//! Where the shards are in the network: addresses, routes, ports.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use core::ops::RangeInclusive;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::{ControlHandle, IcmpListener};
use crate::socket::policy;
use crate::socket::reason::Reason;
use crate::sys::internal;
use crate::time::{Duration, Instant};
use crate::traffic::{Lease, QueueLease};

const IPV4_AND_TCP_BYTES: u32 = 40;
const IPV6_AND_TCP_BYTES: u32 = 60;

/// Tells the link which packets are ours. (A trait for what differs between kinds of links.)
pub(crate) trait Steer: Send + core::fmt::Debug {
    /// Packets to this port are ours.
    fn take_port(&mut self, port: u16) -> std::io::Result<()>;
    /// New connections to this port are not ours any more; those that exist are.
    fn close_port(&mut self, port: u16) -> std::io::Result<()>;
    /// Nothing that goes to this port is ours any more.
    fn give_port(&mut self, port: u16) -> std::io::Result<()>;
    /// New connections to this port that would reach other processes of ours go to the kernel's
    /// listener until these processes take the port again.
    fn pause_others(&mut self, _port: u16) -> std::io::Result<()> {
        Ok(())
    }
    /// Whether another process has done that to us.
    fn is_paused(&self, _port: u16) -> bool {
        false
    }
    /// While paused: no connection to this port that has begun waits to be accepted.
    fn tell_relieved(&mut self, _port: u16) -> std::io::Result<()> {
        Ok(())
    }
    /// These are the link's addresses now.
    fn set_addresses(&mut self, addresses: &[IpAddr]) -> std::io::Result<()>;
    /// Whether the kernel uses the link's addresses too, so that a port must be taken from it.
    fn shares_ports(&self) -> bool {
        true
    }
    /// In a child of a fork: closes the link's descriptors that come and go.
    fn close_inherited(&self) {}
}

#[derive(Debug)]
struct Ports {
    steering: Box<dyn Steer>,
    /// How often each listening port is steered.
    counts: HashMap<u16, u32>,
    /// Ports that nobody listens on any more, with connections that live on.
    closing: Vec<u16>,
    /// Ports that another process has paused.
    paused: HashMap<u16, Paused>,
}

/// A port that another process has paused.
#[derive(Clone, Copy, Debug)]
struct Paused {
    /// Since when that is known.
    since: Instant,
    /// Whether it has been told that it may end us.
    is_relieved: bool,
}

/// What is held for as long as the process lives.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub(super) ports: Option<Lease>,
    #[allow(dead_code, reason = "held, not read")]
    pub(super) queues: Option<QueueLease>,
}

/// How long a port that another process has paused stays so. Long enough for a master to end the
/// workers that are to be relieved: [`RELIEF_MAX`], and what it takes itself (nginx, 100 ms).
const PAUSE: Duration = Duration::from_secs(4);

/// How long a master waits for workers to have accepted what has begun. A SYN|ACK that was lost is
/// sent again after a second, and once more after two.
pub(super) const RELIEF_MAX: Duration = Duration::from_millis(2500);

#[derive(Debug)]
pub(crate) struct Place {
    control: Arc<ControlHandle>,
    ifindex: u32,
    interface: String,
    ports: Mutex<Ports>,
    clients: Option<RangeInclusive<u16>>,
    shares_ports: bool,
    _leases: Leases,
    /// Descriptors that a child must not keep.
    fds: Vec<RawFd>,
    /// And those that are the steward's to close, in this process.
    steward_fds: Vec<RawFd>,
}

impl Place {
    pub(super) fn new(
        control: Arc<ControlHandle>,
        ifindex: u32,
        interface: String,
        steering: Box<dyn Steer>,
        leases: Leases,
        fds: Vec<RawFd>,
    ) -> Self {
        let clients = leases
            .ports
            .as_ref()
            .and_then(|lease| lease.ranges().into_iter().next());
        Self {
            control,
            ifindex,
            interface,
            shares_ports: steering.shares_ports(),
            ports: Mutex::new(Ports {
                steering,
                counts: HashMap::new(),
                closing: Vec::new(),
                paused: HashMap::new(),
            }),
            clients,
            _leases: leases,
            fds,
            steward_fds: Vec::new(),
        }
    }

    /// These, which are among the descriptors, are the steward's.
    pub(super) fn with_steward_fds(mut self, theirs: Vec<RawFd>) -> Self {
        self.fds.retain(|fd| !theirs.contains(fd));
        self.steward_fds = theirs;
        self
    }

    /// Whether the kernel uses the link's addresses too.
    pub(super) fn shares_ports(&self) -> bool {
        self.shares_ports
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
        let failed = |error| format!("{}: cannot steer port {port}: {error}", self.interface);
        if !ports.counts.contains_key(&port) {
            ports.steering.take_port(port).map_err(failed)?;
            if !policy::forks_workers() {
                // For workers, their master has.
                ports.steering.pause_others(port).map_err(failed)?;
            }
            ports.closing.retain(|other| *other != port);
        }
        *ports.counts.entry(port).or_insert(0) += 1;
        Ok(())
    }

    pub(super) fn unsteer(&self, port: u16) {
        let mut ports = self.ports();
        let Some(count) = ports.counts.get_mut(&port) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            ports.counts.remove(&port);
            ports.paused.remove(&port);
            ports.closing.push(port);
            // What was accepted goes on; a port that stays ours answers with a reset, as a closed
            // port does.
            if let Err(error) = ports.steering.close_port(port) {
                log::warn!("{}: cannot close port {port}: {error}", self.interface);
            }
        }
    }

    /// What is done from time to time: ports are given back once their last connection has ended,
    /// and taken back when the process that has paused them has had its time. Whether that process
    /// waits to be told that connections to a port are not awaited any more.
    pub(super) fn tend(
        &self,
        now: Instant,
        is_used: impl Fn(u16) -> bool,
        is_awaited: impl Fn(u16) -> bool,
    ) -> bool {
        let mut ports = self.ports();
        let Ports {
            steering,
            counts,
            closing,
            paused,
        } = &mut *ports;
        closing.retain(|&port| {
            let stays = is_used(port);
            if !stays && let Err(error) = steering.give_port(port) {
                log::warn!("{}: cannot give port {port} back: {error}", self.interface);
            }
            stays
        });
        for &port in counts.keys() {
            if !steering.is_paused(port) {
                paused.remove(&port);
                continue;
            }
            let state = paused.entry(port).or_insert(Paused {
                since: now,
                is_relieved: false,
            });
            if now.saturating_since(state.since) >= PAUSE {
                if let Err(error) = steering.take_port(port) {
                    log::warn!("{}: cannot take port {port} again: {error}", self.interface);
                }
            } else if state.since < now && !state.is_relieved && !is_awaited(port) {
                // A look after the one that found it paused: what the link had brought by then is
                // known by now.
                state.is_relieved = steering.tell_relieved(port).is_ok();
            }
        }
        paused.values().any(|state| !state.is_relieved)
    }

    /// Keeps what routers have said for the shards. Whether there was something.
    pub(super) fn take_notices(&self, icmp: &IcmpListener) -> bool {
        let notices = self.control.notices();
        let before = notices.count();
        icmp.poll(|notice| notices.add(notice));
        notices.count() != before
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

    /// In a child of a fork: closes its copies of all descriptors.
    pub(super) fn close_inherited(&self) {
        let theirs = self.steward_fds.iter();
        theirs.for_each(|fd| internal::discard(*fd));
        self.close_own();
    }

    /// When this process gives the link up: closes the descriptors, but for the steward's.
    pub(super) fn close(&self) {
        let theirs = self.steward_fds.iter();
        theirs.for_each(|fd| internal::forget(*fd));
        self.close_own();
    }

    fn close_own(&self) {
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
