//! A kernel interface through AF_XDP: queues, steering, and the kernel's control plane.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::super::Runtime;
use super::super::crew::Crew;
use super::super::lane::Lane;
use super::super::place::{Place, Steer, addresses};
use super::super::steward::Chores;
use super::bulletin::Bulletin;
use super::{go, manner, secret};
use crate::config::Config;
use crate::control::{Change, ControlHandle, Link, Mirror};
use crate::device::Device;
use crate::device::xdp::{XdpConfig, XdpDevice, rx_object_bytes_for};
use crate::stack::{Shard, ShardParts};
use crate::sys::internal;
use crate::time::{Clock, Instant, SystemClock};
use crate::traffic::xdp::{PortOwner, Steering};
use crate::traffic::{Lease, kernel_has_connections};
use crate::zbuf::{Area, Backing, Pool, PoolConfig, ShardCell, ZONE_BYTES};

impl Steer for Steering {
    fn set_port(&mut self, port: u16, ours: bool) -> std::io::Result<()> {
        let owner = match ours {
            false => PortOwner::Kernel,
            // Nobody's existing connection may be broken by our start.
            true if kernel_has_connections(port).unwrap_or(true) => {
                PortOwner::LunaUnlessKernelConnection
            }
            true => PortOwner::Luna,
        };
        Self::set_port(self, port, owner)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> std::io::Result<()> {
        self.set_local_addresses(addresses)
    }
}

/// The netlink socket.
struct Follow {
    mirror: Mirror,
    runtime: &'static Runtime,
    broken: bool,
    bulletin: Bulletin,
}

impl Chores for Follow {
    fn fd(&self) -> Option<RawFd> {
        use std::os::fd::AsRawFd as _;
        (!self.broken).then(|| self.mirror.fd().as_raw_fd())
    }

    fn run(&mut self) {
        match self.mirror.poll() {
            Ok(Change::Changed) => self.runtime.place.follow(),
            Ok(Change::Unchanged) => {}
            Err(error) => {
                self.broken = true;
                log::warn!("netlink: {error}: changes of routes are not seen any more");
            }
        }
    }

    fn due(&self) -> Instant {
        self.bulletin.due()
    }

    fn run_due(&mut self, now: Instant) {
        self.bulletin.run_due(now);
    }
}

/// The kernel-made anonymous files of this process whose descriptors a library opened for us,
/// as far as they are not in `before`.
fn bpf_fds(before: &[RawFd]) -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().contains("bpf"))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| !before.contains(fd))
        .collect()
}

/// What all shards need.
struct Parts<'a> {
    name: &'a str,
    ifindex: u32,
    mtu: u32,
    virtual_link: bool,
    area: &'a Arc<Area>,
    control: &'a Arc<ControlHandle>,
}

pub(super) fn bring_up(config: &Config, name: &str) -> Result<(), String> {
    let before = bpf_fds(&[]);
    let mirror = Mirror::open().map_err(|error| error.to_string())?;
    let control = mirror.handle();
    let tables = control.tables();
    let link = tables.link_by_name(name);
    let link = link.ok_or_else(|| format!("{name}: no such interface (see `ip link`)"))?;
    let ifindex = link.index;
    let ours = addresses(&control, ifindex);
    if ours.is_empty() {
        return Err(format!(
            "{name}: the interface has no address (see `ip address`)"
        ));
    }
    let mut steering = Steering::attach(name).map_err(|error| error.to_string())?;
    steering
        .set_local_addresses(&ours)
        .map_err(|error| format!("{name}: cannot steer to its addresses: {error}"))?;
    let lanes = lanes(config, link, &control, &mut steering)?;
    let lease = lease(config, name, &mut steering)?;
    let mut fds = bpf_fds(&before);
    fds.extend(lanes.iter().flat_map(|lane: &Lane<Shard>| lane.fds()));
    fds.push(mirror.fd().as_raw_fd());
    for fd in &fds {
        let _ = internal::keep_here(*fd);
    }
    let crew = Crew::new(lanes, manner(config)).map_err(|errno| format!("{name}: {errno}"))?;
    let place = Place::new(
        control,
        ifindex,
        name.to_owned(),
        Box::new(steering),
        lease,
        fds,
    );
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime { crew, place }));
    let chores = Box::new(Follow {
        mirror,
        runtime,
        broken: false,
        bulletin: Bulletin::new(config, runtime),
    });
    go(runtime, chores)
}

/// The shards, with the interface's queues dealt out to them.
fn lanes(
    config: &Config,
    link: &Link,
    control: &Arc<ControlHandle>,
    steering: &mut Steering,
) -> Result<Vec<Lane<Shard>>, String> {
    let shards = usize::from(config.shards);
    let area = Area::new(shards * PoolConfig::default().zones * ZONE_BYTES)
        .map_err(|error| error.to_string())?;
    if area.backing() == Backing::Plain {
        log::info!("packet memory is on ordinary pages: hugepages are faster");
    }
    let queues: Vec<u32> = (0..steering.interface().receive_queues()).collect();
    if queues.len() < shards {
        return Err(format!(
            "{}: {shards} shards need as many receive queues, it has {}",
            link.name,
            queues.len()
        ));
    }
    let parts = Parts {
        name: &link.name,
        ifindex: link.index,
        mtu: link.mtu,
        virtual_link: !link.kind.is_empty(),
        area: &area,
        control,
    };
    (0..shards)
        .map(|shard| {
            let own = queues.iter().copied().skip(shard).step_by(shards).collect();
            lane(&parts, own, steering)
        })
        .collect()
}

/// One shard on some of the interface's queues.
fn lane(
    parts: &Parts<'_>,
    queues: Vec<u32>,
    steering: &mut Steering,
) -> Result<Lane<Shard>, String> {
    let secret = secret()?;
    let cell = ShardCell::try_new(|| {
        let config = PoolConfig {
            rx_object_bytes: rx_object_bytes_for(parts.mtu),
            ..PoolConfig::default()
        };
        let mut pool = Pool::new(parts.area, config).map_err(|error| error.to_string())?;
        let mut device = XdpDevice::open(parts.name, &queues, &mut pool, &XdpConfig::default())
            .map_err(|error| error.to_string())?;
        for (queue, socket) in device.sockets() {
            steering.register(queue, socket).map_err(|error| {
                format!("{}: cannot steer to queue {queue}: {error}", parts.name)
            })?;
        }
        device.flush(&mut pool);
        Ok::<_, String>(Shard::new(ShardParts {
            device: Box::new(device),
            pool,
            control: Arc::clone(parts.control),
            ifindex: parts.ifindex,
            secret,
            discovery: None,
            partial_checksums: parts.virtual_link,
            now: SystemClock.now(),
        }))
    })?;
    Ok(Lane::new(cell))
}

/// Client ports, if any destination is to be accelerated.
fn lease(config: &Config, name: &str, steering: &mut Steering) -> Result<Option<Lease>, String> {
    // With several shards a reply may arrive at any of them.
    if config.connect.is_empty() || config.shards != 1 {
        return Ok(None);
    }
    let lease = Lease::acquire(name, &config.client_ports, 1).map_err(|error| error.to_string())?;
    for port in lease.ranges().into_iter().flatten() {
        steering
            .set_port(port, PortOwner::Luna)
            .map_err(|error| format!("{name}: cannot steer port {port}: {error}"))?;
    }
    Ok(Some(lease))
}
