//! Links that the kernel does not know: their addresses are in the configuration, they carry
//! nothing but our traffic, and we find neighbours ourselves.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::super::Runtime;
use super::super::crew::Crew;
use super::super::lane::Lane;
use super::super::place::{Place, Steer};
use super::super::steward::Chores;
use super::bulletin::Bulletin;
use super::{go, manner, secret};
use crate::config::Config;
use crate::control::{ControlHandle, Discovery, Tables};
use crate::device::Device;
use crate::device::memif::{self, Memif, MemifConfig};
use crate::stack::{Shard, ShardParts};
use crate::sys;
use crate::time::{Clock, Duration, Instant, SystemClock};
use crate::traffic::Lease;
use crate::wire::Mac;
use crate::zbuf::{Area, Backing, Pool, PoolConfig, ShardCell, ZONE_BYTES};

/// Such a link's index in its own tables: it is the only one there.
const IFINDEX: u32 = 1;
/// How long the start waits for the other end, if that is about to be there: what is sent before
/// waits for the answer to a second question.
const LINK_UP_WITHIN: Duration = Duration::from_millis(100);
/// How often to look.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// Where a link is in the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
    pub(super) mtu: u16,
}

/// All packets are ours anyway.
#[derive(Debug)]
struct Whole;

impl Steer for Whole {
    fn set_port(&mut self, _: u16, _: bool) -> std::io::Result<()> {
        Ok(())
    }

    fn set_addresses(&mut self, _: &[IpAddr]) -> std::io::Result<()> {
        Ok(())
    }

    fn close_inherited(&self) {
        memif::close_inherited();
    }
}

/// Nothing but the board.
struct Board(Bulletin);

impl Chores for Board {
    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn run(&mut self) {}

    fn due(&self) -> Instant {
        self.0.due()
    }

    fn run_due(&mut self, now: Instant) {
        self.0.run_due(now);
    }
}

/// Starts on a memif link.
pub(super) fn bring_up_memif(
    config: &Config,
    link: &MemifConfig,
    network: &Network,
) -> Result<(), String> {
    if config.shards != 1 {
        return Err(format!(
            "{}: a memif link has one queue, so there can be only one shard, not {}",
            config.device, config.shards
        ));
    }
    let mac = mac_of(network.address);
    let open = || {
        let mut memif = Memif::open(link).map_err(|error| error.to_string())?;
        let until = SystemClock.now() + LINK_UP_WITHIN;
        while !memif.is_up() && SystemClock.now() < until {
            let _ = sys::ppoll(&mut [], Some(LOOK_EVERY_NS), None);
        }
        Ok(Box::new(memif) as Box<dyn Device>)
    };
    bring_up(config, &link.socket, network, mac, open)
}

fn bring_up(
    config: &Config,
    name: &str,
    network: &Network,
    mac: Mac,
    open: impl FnOnce() -> Result<Box<dyn Device>, String> + Send,
) -> Result<(), String> {
    let tables = Tables::builder()
        .ethernet(IFINDEX, name, mac, network.mtu.into())
        .address(IFINDEX, network.address, network.prefix_len)
        .build();
    let control = ControlHandle::from_static(tables);
    let lease = if config.connect.is_empty() {
        None
    } else {
        let lease = Lease::acquire(name, &config.client_ports, 1);
        Some(lease.map_err(|error| error.to_string())?)
    };
    let lane = lane(&control, open)?;
    let crew = Crew::new(vec![lane], manner(config)).map_err(|errno| format!("{name}: {errno}"))?;
    let place = Place::new(
        control,
        IFINDEX,
        name.to_owned(),
        Box::new(Whole),
        lease,
        Vec::new(),
    );
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime { crew, place }));
    let chores = Box::new(Board(Bulletin::new(config, runtime)));
    go(runtime, chores)
}

fn lane(
    control: &Arc<ControlHandle>,
    open: impl FnOnce() -> Result<Box<dyn Device>, String> + Send,
) -> Result<Lane<Shard>, String> {
    let pool_config = PoolConfig::default();
    let area = Area::new(pool_config.zones * ZONE_BYTES).map_err(|error| error.to_string())?;
    if area.backing() == Backing::Plain {
        log::info!("packet memory is on ordinary pages: hugepages are faster");
    }
    let secret = secret()?;
    let cell = ShardCell::try_new(|| {
        let pool = Pool::new(&area, pool_config).map_err(|error| error.to_string())?;
        let device = open()?;
        Ok::<_, String>(Shard::new(ShardParts {
            device,
            pool,
            control: Arc::clone(control),
            ifindex: IFINDEX,
            secret,
            discovery: Some(Box::new(Discovery::new(Arc::clone(control), IFINDEX))),
            partial_checksums: false,
            now: SystemClock.now(),
        }))
    })?;
    Ok(Lane::new(cell))
}

/// A locally administered hardware address that stays the same over restarts.
fn mac_of(ip: IpAddr) -> Mac {
    let [a, b, c, d] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
    };
    Mac([0x02, b'L', a, b, c, d])
}
