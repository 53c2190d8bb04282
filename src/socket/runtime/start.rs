//! Bringing the stack up, once, at the first promotion.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::RawFd;

use crate::config::DeviceSpec;
use crate::socket::policy;
use crate::sys::{self, ForkMutex};

const NOT_YET: u32 = 0;
const RUNNING: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;

/// Not a lock, so that a fork cannot leave it held: the child resets it.
static STATE: AtomicU32 = AtomicU32::new(NOT_YET);
static CAUSE: ForkMutex<String> = ForkMutex::new(String::new());

/// How often and how long a child waits for its parent's device: together a third of a second,
/// for closing an AF_XDP socket takes the kernel a grace period.
const PARENT_TRIES: u32 = 16;
const PARENT_TRY_EVERY_NS: u64 = 20_000_000;

/// How often a thread looks whether another has finished starting.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// Starts the shards if they are not up.
///
/// # Errors
///
/// The cause, as one line. It is final for this process.
pub fn start() -> Result<(), String> {
    loop {
        match STATE.load(Ordering::Acquire) {
            DONE => return Ok(()),
            FAILED => return Err(CAUSE.lock().clone()),
            NOT_YET => {
                let ours =
                    STATE.compare_exchange(NOT_YET, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
                if ours.is_ok() {
                    return finish(bring_up());
                }
            }
            _ => {
                let _ = sys::ppoll(&mut [], Some(LOOK_EVERY_NS), None);
            }
        }
    }
}

/// As [`start`] in a child of a fork, whose parent may be about to let go of the device: tries
/// for a while.
///
/// # Errors
///
/// As `start`.
pub fn start_after_parent() -> Result<(), String> {
    let mut tries = PARENT_TRIES;
    loop {
        let result = start();
        if result.is_ok() || tries == 0 {
            return result;
        }
        tries -= 1;
        let _ = sys::ppoll(&mut [], Some(PARENT_TRY_EVERY_NS), None);
        let _ours = STATE.compare_exchange(FAILED, NOT_YET, Ordering::AcqRel, Ordering::Relaxed);
    }
}

fn finish(result: Result<(), String>) -> Result<(), String> {
    if let Err(cause) = &result {
        *CAUSE.lock() = cause.clone();
    }
    STATE.store(
        if result.is_ok() { DONE } else { FAILED },
        Ordering::Release,
    );
    result
}

/// In the child of a fork: as if nothing had been started.
pub(super) fn reset() {
    STATE.store(NOT_YET, Ordering::Release);
}

fn bring_up() -> Result<(), String> {
    // As it was read at the first socket: nginx empties the environment of its workers.
    let config = policy::get().config.as_ref().ok_or("LUNA_DEV is not set")?;
    match &config.device {
        #[cfg(feature = "xdp")]
        DeviceSpec::Xdp { interface } => xdp::bring_up(config, interface),
        other => Err(format!("device `{other}`: this build has no driver for it")),
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

#[cfg(feature = "xdp")]
mod xdp {
    use core::net::IpAddr;
    use std::os::fd::{AsRawFd, RawFd};
    use std::sync::Arc;

    use super::super::crew::{Crew, Manner};
    use super::super::lane::Lane;
    use super::super::place::{Place, Steer, addresses};
    use super::super::steward::{self, Chores};
    use super::super::{RUNTIME, Runtime};
    use crate::config::Config;
    use crate::control::{Change, ControlHandle, Link, Mirror};
    use crate::device::Device;
    use crate::device::xdp::{XdpConfig, XdpDevice, rx_object_bytes_for};
    use crate::socket::publish::Publisher;
    use crate::socket::table;
    use crate::stack::{Shard, ShardParts};
    use crate::stats::{Board, BoardInfo, Reason, RunState};
    use crate::sys::{self, internal};
    use crate::time::{Clock, Duration, Instant, SystemClock};
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
        publisher: Option<Publisher>,
        /// How far things had come when the board was last brought up to date.
        published: (u64, u64),
        /// When to look whether they have moved on: while a program waits in its event loop
        /// nobody else does, and this costs less than telling.
        look_at: Instant,
    }

    /// How old `luna ss` may be.
    const LOOK_EVERY: Duration = Duration::from_millis(500);

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
            if self.publisher.is_some() {
                self.look_at
            } else {
                Instant::FAR_FUTURE
            }
        }

        fn run_due(&mut self, now: Instant) {
            let Some(publisher) = &mut self.publisher else {
                return;
            };
            if now < self.look_at {
                return;
            }
            let progress = (self.runtime.crew.deliveries(), table::changes());
            if progress != self.published {
                publisher.run();
                self.published = progress;
            }
            self.look_at = publisher.next().max(now + LOOK_EVERY);
        }
    }

    /// The board that `luna ss` reads. Without it there is only less to see.
    fn publisher(config: &Config) -> Option<Publisher> {
        let info = BoardInfo {
            pid: sys::getpid(),
            started_s: board_time(),
            device: config.device.to_string(),
            program: program_name(),
            shards: config.shards,
            dedicated: config.mode == crate::config::Mode::Dedicated,
            state: RunState::Running,
            state_reason: Reason::Accelerated,
            rows_refused: 0,
        };
        match Board::create(&info, internal::first()) {
            Ok(board) => {
                let _ = internal::keep_here(board.fd());
                Some(Publisher::new(board))
            }
            Err(error) => {
                log::warn!("`luna ss` will not see this process: {error}");
                None
            }
        }
    }

    fn program_name() -> String {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
        name.trim_end().to_owned()
    }

    fn board_time() -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        u64::try_from(now.tv_sec).unwrap_or(0)
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
        let before = super::bpf_fds(&[]);
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
        let mut fds = super::bpf_fds(&before);
        fds.extend(lanes.iter().flat_map(|lane: &Lane<Shard>| lane.fds()));
        fds.push(mirror.fd().as_raw_fd());
        for fd in &fds {
            let _ = internal::keep_here(*fd);
        }
        let manner = Manner {
            spin: config.spin,
            busy: config.busy,
            steward_after: config.steward_after,
        };
        let crew = Crew::new(lanes, manner).map_err(|errno| format!("{name}: {errno}"))?;
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
            publisher: publisher(config),
            published: (u64::MAX, 0),
            look_at: Instant::ZERO,
        });
        steward::start(&runtime.crew, chores)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        RUNTIME.set(runtime);
        Ok(())
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
        let mut secret = [0; 32];
        let flags = rustix::rand::GetRandomFlags::empty();
        // So few bytes come all at once.
        rustix::rand::getrandom(&mut secret, flags)
            .map_err(|errno| format!("no random numbers: {errno}"))?;
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
    ) -> Result<Option<Lease>, String> {
        // With several shards a reply may arrive at any of them.
        if config.connect.is_empty() || config.shards != 1 {
            return Ok(None);
        }
        let lease =
            Lease::acquire(name, &config.client_ports, 1).map_err(|error| error.to_string())?;
        for port in lease.ranges().into_iter().flatten() {
            steering
                .set_port(port, PortOwner::Luna)
                .map_err(|error| format!("{name}: cannot steer port {port}: {error}"))?;
        }
        Ok(Some(lease))
    }
}
