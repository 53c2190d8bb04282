//! A kernel interface through AF_XDP: queues, steering, and the kernel's control plane.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::super::Runtime;
use super::super::crew::Crew;
use super::super::lane::Lane;
use super::super::place::{Leases, Place, RELIEF_MAX, Steer, addresses};
use super::super::steward::Chores;
use super::bulletin::Bulletin;
use super::{go, manner, secret};
use crate::config::Config;
use crate::control::{Change, ControlHandle, IcmpListener, Link, Mirror};
use crate::device::Device;
use crate::device::xdp::{XdpConfig, XdpDevice, XdpQueue, clear_stock, stock, stocked};
use crate::socket::{listener, report};
use crate::stack::{Shard, ShardParts};
use crate::sys::{self, ForkMutex, internal};
use crate::time::{Clock, Duration, Instant, SystemClock};
use crate::traffic::reserve::KernelPorts;
use crate::traffic::xdp::{PortOwner, Steering};
use crate::traffic::{Lease, QueueLease, kernel_has_connections, kernel_uses};
use crate::zbuf::{Area, Backing, Pool, PoolConfig, ShardCell, ZONE_BYTES};

impl Steer for Steering {
    fn take_port(&mut self, port: u16) -> std::io::Result<()> {
        // Nobody's existing connection may be broken by our start. From here on the kernel
        // gets no new ones, so that it can be asked which it has.
        self.set_port(port, PortOwner::LunaUnlessKernelConnection)?;
        if kernel_has_connections(port).unwrap_or(true) {
            return Ok(());
        }
        self.set_port(port, PortOwner::Luna)
    }

    fn close_port(&mut self, port: u16) -> std::io::Result<()> {
        self.set_port(port, PortOwner::LunaRelieved)
    }

    fn give_port(&mut self, port: u16) -> std::io::Result<()> {
        self.set_port(port, PortOwner::Kernel)
    }

    fn pause_others(&mut self, port: u16) -> std::io::Result<()> {
        Self::pause_others(self, port)
    }

    fn is_paused(&self, port: u16) -> bool {
        self.port_owner(port).is_ok_and(PortOwner::is_paused)
    }

    fn tell_relieved(&mut self, port: u16) -> std::io::Result<()> {
        self.set_port(port, PortOwner::LunaRelieved)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> std::io::Result<()> {
        self.set_local_addresses(addresses)
    }
}

/// The netlink socket, and what routers say.
struct Follow {
    mirror: Mirror,
    icmp: Option<IcmpListener>,
    runtime: &'static Runtime,
    broken: bool,
    bulletin: Bulletin,
}

impl Chores for Follow {
    fn fds(&self, fds: &mut Vec<RawFd>) {
        if !self.broken {
            fds.push(self.mirror.fd().as_raw_fd());
        }
        push_icmp_fds(self.icmp.as_ref(), fds);
    }

    fn run(&mut self) {
        match (!self.broken).then(|| self.mirror.poll()) {
            Some(Ok(Change::Changed)) => self.runtime.place.follow(),
            Some(Ok(Change::Unchanged)) | None => {}
            Some(Err(error)) => {
                self.broken = true;
                log::warn!("netlink: {error}: changes of routes are not seen any more");
            }
        }
        if let Some(icmp) = &self.icmp
            && self.runtime.place.take_notices(icmp)
        {
            for lane in self.runtime.crew.lanes() {
                lane.ring_leader();
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
    let is_bpf = |fd: &RawFd| {
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|target| target.to_string_lossy().contains("bpf"))
    };
    sys::open_descriptors()
        .filter(is_bpf)
        .filter(|fd| !before.contains(fd))
        .collect()
}

/// What all shards need.
struct Parts<'a> {
    name: &'a str,
    ifindex: u32,
    virtual_link: bool,
    area: &'a Arc<Area>,
    control: &'a Arc<ControlHandle>,
}

fn push_icmp_fds(icmp: Option<&IcmpListener>, fds: &mut Vec<RawFd>) {
    if let Some(icmp) = icmp {
        fds.extend(icmp.fds().map(|fd| fd.as_raw_fd()));
    }
}

/// What needs privileges.
struct Prepared {
    steering: Steering,
    /// Nothing without the privilege for raw sockets: then a path that is too narrow is found out
    /// by timeouts.
    icmp: Option<IcmpListener>,
    /// The packet memory, if sockets with it are in stock.
    area: Option<Arc<Area>>,
    /// The descriptors that the BPF library has opened, and those in stock.
    fds: Vec<RawFd>,
}

/// When the master of workers last made one, in nanoseconds. Those that it makes without a pause
/// between them relieve the same ones, and not each other. (After the last of them nginx itself
/// waits for 100 ms.)
static LAST_FORK: AtomicU64 = AtomicU64::new(0);
const GENERATION: Duration = Duration::from_millis(50);
/// How often it looks whether they are ready.
const RELIEF_POLL: Duration = Duration::from_millis(5);

static PREPARED: ForkMutex<Option<Prepared>> = ForkMutex::new(None);

/// In the master of workers, when it has made one more: has new connections go to the listener of
/// the kernel that they share, for a while, and waits until the others have accepted what has begun
/// with them. It may be about to end them, whether those that relieve them are ready or not (nginx
/// allows 100 ms), and what is not accepted by then would be refused. On the kernel it would not
/// be, for there the workers share one queue.
pub(super) fn relieve_workers(name: &str, ports: &[u16]) {
    let mut now = SystemClock.now();
    let last = Instant::from_nanos(LAST_FORK.load(Ordering::Relaxed));
    if now.saturating_since(last) >= GENERATION
        && let Ok(Some(mut steering)) = Steering::find(name)
    {
        for port in ports {
            let _best_effort = steering.pause_others(*port);
        }
        let limit = now + RELIEF_MAX;
        let awaited = |port: &u16| steering.awaits_relief(*port).unwrap_or(false);
        while now < limit && ports.iter().any(awaited) {
            std::thread::sleep(RELIEF_POLL.to_std());
            now = SystemClock.now();
        }
    }
    LAST_FORK.store(now.as_nanos(), Ordering::Relaxed);
}

fn open(name: &str) -> Result<Prepared, String> {
    let before = bpf_fds(&[]);
    let steering = Steering::attach(name).map_err(|error| error.to_string())?;
    let icmp = IcmpListener::open().ok();
    let mut fds = bpf_fds(&before);
    push_icmp_fds(icmp.as_ref(), &mut fds);
    Ok(Prepared {
        steering,
        icmp,
        area: None,
        fds,
    })
}

fn new_area(shards: usize) -> Result<Arc<Area>, String> {
    Area::new(shards * PoolConfig::default().zones * ZONE_BYTES).map_err(|error| error.to_string())
}

/// Attaches the program, and makes a socket for each queue to come: as many as a shard of a
/// worker has, or as the interface has if a process is to have them all. What is in use by
/// others is found out later.
pub(super) fn prepare(config: &Config, name: &str) -> Result<(), String> {
    let mut place = PREPARED.lock();
    if place.is_some() {
        return Ok(());
    }
    let mut prepared = open(name)?;
    let interface = prepared.steering.interface();
    let shards = usize::from(config.shards);
    let present = interface.receive_queues() as usize;
    let count = match config.queues {
        Some(queues) => usize::from(queues).min(present),
        None if listener::is_worker() => shards.min(present),
        None => present,
    };
    let chunk = interface.rx_object_bytes();
    let area = new_area(shards)?;
    let zones = PoolConfig::default().zones;
    for index in 0..count {
        let region = area.region(index % shards * zones, zones);
        match stock(name, region, chunk) {
            Ok(stocked) => prepared.fds.extend(stocked),
            Err(error) => {
                clear_stock();
                return Err(error.to_string());
            }
        }
    }
    prepared.area = Some(area);
    for fd in &prepared.fds {
        let _ = internal::keep_here(*fd);
    }
    *place = Some(prepared);
    Ok(())
}

/// In a child of a fork.
pub(super) fn forget_prepared() {
    if let Some(prepared) = PREPARED.lock().take() {
        for fd in &prepared.fds {
            internal::forget(*fd);
        }
        // A child does not have it, and may have something else in its place.
        core::mem::forget(prepared.area);
    }
    clear_stock();
}

pub(super) fn bring_up(config: &Config, name: &str) -> Result<(), String> {
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
    let in_advance = PREPARED.lock().take();
    let is_in_advance = in_advance.is_some();
    let mut prepared = match in_advance {
        Some(prepared) => prepared,
        None => open(name)?,
    };
    let (lanes, others, queues, lease) =
        match assemble(config, link, &control, &ours, &mut prepared) {
            Ok(parts) => parts,
            Err(cause) => {
                if is_in_advance {
                    *PREPARED.lock() = Some(prepared);
                }
                return Err(cause);
            }
        };
    let Prepared {
        steering,
        icmp,
        mut fds,
        ..
    } = prepared;
    clear_stock();
    fds.extend(queues.fds());
    fds.extend(lease.iter().flat_map(Lease::fds));
    fds.extend(lanes.iter().flat_map(|lane: &Lane<Shard>| lane.fds()));
    fds.extend(others);
    fds.extend(mirror.fds());
    for fd in &fds {
        let _ = internal::keep_here(*fd);
    }
    let crew = Crew::new(lanes, manner(config)).map_err(|errno| format!("{name}: {errno}"))?;
    let mut theirs = Vec::new();
    push_icmp_fds(icmp.as_ref(), &mut theirs);
    let place = Place::new(
        control,
        ifindex,
        name.to_owned(),
        Box::new(steering),
        Leases {
            ports: lease,
            queues: Some(queues),
        },
        fds,
    )
    .with_steward_fds(theirs);
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime { crew, place }));
    let chores = Box::new(Follow {
        mirror,
        icmp,
        runtime,
        broken: false,
        bulletin: Bulletin::new(config, runtime),
    });
    go(runtime, chores)
}

/// Takes queues and ports of the link for this process.
#[allow(clippy::type_complexity, reason = "things that are taken together")]
fn assemble(
    config: &Config,
    link: &Link,
    control: &Arc<ControlHandle>,
    ours: &[IpAddr],
    prepared: &mut Prepared,
) -> Result<(Vec<Lane<Shard>>, Vec<RawFd>, QueueLease, Option<Lease>), String> {
    let name = &link.name;
    let Prepared { steering, area, .. } = prepared;
    steering
        .set_local_addresses(ours)
        .map_err(|error| format!("{name}: cannot steer to its addresses: {error}"))?;
    let queues = queues(config, name, steering.interface().receive_queues())?;
    let area = match area {
        Some(area) => Arc::clone(area),
        None => new_area(usize::from(config.shards))?,
    };
    let (lanes, others) = lanes((config, link, &area), control, steering, &queues.queues())?;
    let lease = lease(config, name, steering, &queues)?;
    Ok((lanes, others, queues, lease))
}

/// The receive queues that this process takes: at least one for each shard.
fn queues(config: &Config, name: &str, present: u32) -> Result<QueueLease, String> {
    let shards = usize::from(config.shards);
    let most = match config.queues {
        Some(queues) => usize::from(queues),
        // A worker has brothers.
        None if super::IS_WORKER.load(Ordering::Relaxed) => shards,
        None => usize::MAX,
    };
    // Without privileges, no more than was prepared.
    let most = match stocked() {
        0 => most,
        stock => most.min(stock),
    };
    let lease = QueueLease::acquire(name, present, most).map_err(|error| error.to_string())?;
    let count = lease.queues().len();
    if count >= shards {
        return Ok(lease);
    }
    let needed = format!("{shards} shards need as many receive queues");
    Err(if count == most || count as u32 == present {
        format!(
            "{name}: {needed}, it has {present} and may take {}",
            most.min(count)
        )
    } else {
        format!(
            "{name}: {count} of {present} receive queues are free, the others are in use by \
             {}: give each process some (LUNA_QUEUES; `ethtool -L` adds queues)",
            owners(name)
        )
    })
}

/// The other processes on an interface, as far as they can be seen.
fn owners(name: &str) -> String {
    let device = format!("xdp:{name}");
    let found = crate::stats::discover::find().unwrap_or_default();
    let owners: Vec<String> = found
        .processes
        .iter()
        .map(|process| (process.pid, process.board.info()))
        .filter(|(pid, info)| info.device == device && *pid != sys::getpid())
        .map(|(pid, info)| format!("luna process {pid} ({})", info.program))
        .collect();
    if owners.is_empty() {
        "another luna process".to_owned()
    } else {
        owners.join(", ")
    }
}

/// The shards, with the process's queues dealt out to them, and descriptors that they have besides
/// those that they wait on.
fn lanes(
    (config, link, area): (&Config, &Link, &Arc<Area>),
    control: &Arc<ControlHandle>,
    steering: &mut Steering,
    queues: &[u32],
) -> Result<(Vec<Lane<Shard>>, Vec<RawFd>), String> {
    let shards = usize::from(config.shards);
    if area.backing() == Backing::Plain {
        log::info!("packet memory is on ordinary pages: hugepages are faster");
    }
    let parts = Parts {
        name: &link.name,
        ifindex: link.index,
        virtual_link: !link.kind.is_empty(),
        area,
        control,
    };
    let mut others = Vec::new();
    let lanes: Result<_, String> = (0..shards)
        .map(|shard| {
            let own = queues.iter().copied().skip(shard).step_by(shards).collect();
            lane(&parts, own, steering, &mut others)
        })
        .collect();
    Ok((lanes?, others))
}

/// One shard on some of the interface's queues.
fn lane(
    parts: &Parts<'_>,
    queues: Vec<u32>,
    steering: &mut Steering,
    others: &mut Vec<RawFd>,
) -> Result<Lane<Shard>, String> {
    let secret = secret()?;
    let cell = ShardCell::try_new(|| {
        let config = PoolConfig {
            rx_object_bytes: steering.interface().rx_object_bytes(),
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
        others.extend(device.queues().iter().flat_map(XdpQueue::other_fds));
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
fn lease(
    config: &Config,
    name: &str,
    steering: &mut Steering,
    queues: &QueueLease,
) -> Result<Option<Lease>, String> {
    // With several shards a reply may arrive at any of them.
    if config.connect.is_empty() || config.shards != 1 {
        return Ok(None);
    }
    let (own, present) = (queues.queues().len(), steering.interface().receive_queues());
    if own as u32 != present {
        report::notice(&format!(
            "{name}: outgoing connections stay on the kernel: this process has {own} of \
                 {present} receive queues, and the link may bring a reply to any"
        ));
        return Ok(None);
    }
    let lease = Lease::acquire(name, &config.client_ports, 1).map_err(|error| error.to_string())?;
    let ranges = lease.ranges();
    // Others may have connections from there, or listeners, or get some: those stay theirs. A SYN
    // is never for us on such a port.
    let kernel = KernelPorts::read();
    let shared =
        ranges.iter().any(|range| kernel.overlaps(range)) || kernel_uses(&ranges).unwrap_or(true);
    let owner = match shared {
        true => PortOwner::LunaNoNewConnection,
        false => PortOwner::Luna,
    };
    for port in ranges.into_iter().flatten() {
        steering
            .set_port(port, owner)
            .map_err(|error| format!("{name}: cannot steer port {port}: {error}"))?;
    }
    Ok(Some(lease))
}
