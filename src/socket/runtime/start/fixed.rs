//! Links that the kernel does not know: their addresses are in the configuration, they carry
//! nothing but our traffic, and we find neighbours ourselves.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::super::Runtime;
use super::super::crew::{Crew, Manner};
use super::super::lane::Lane;
use super::super::place::{Leases, Place, Steer};
use super::super::steward::Chores;
use super::bulletin::Bulletin;
use super::{go, manner, secret};
use crate::config::{Config, Network};
use crate::control::{ControlHandle, Discovery, Tables};
use crate::device::Device;
#[cfg(feature = "dpdk")]
use crate::device::dpdk::{DpdkConfig, DpdkPort};
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
/// Frames of up to this MTU fit into one small object behind DPDK's headroom of 128 bytes.
#[cfg(feature = "dpdk")]
const DPDK_SMALL_MTU: usize = 2048 - 128 - 14 - 4;
/// How often to look.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// All packets are ours anyway.
#[derive(Debug)]
struct Whole;

impl Steer for Whole {
    fn take_port(&mut self, _: u16) -> std::io::Result<()> {
        Ok(())
    }

    fn close_port(&mut self, _: u16) -> std::io::Result<()> {
        Ok(())
    }

    fn give_port(&mut self, _: u16) -> std::io::Result<()> {
        Ok(())
    }

    fn set_addresses(&mut self, _: &[IpAddr]) -> std::io::Result<()> {
        Ok(())
    }

    fn shares_ports(&self) -> bool {
        false
    }

    fn close_inherited(&self) {
        memif::close_inherited();
    }
}

/// Nothing but the board.
struct Board(Bulletin);

impl Chores for Board {
    fn fds(&self, _fds: &mut Vec<RawFd>) {}

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
    let site = Site::new(&link.socket, network, mac_of(network.address));
    let open = |_: &mut Pool| {
        let mut memif = Memif::open(link).map_err(|error| error.to_string())?;
        let until = SystemClock.now() + LINK_UP_WITHIN;
        while !memif.is_up() && SystemClock.now() < until {
            let _ = sys::ppoll(&mut [], Some(LOOK_EVERY_NS), None);
        }
        Ok(Box::new(memif) as Box<dyn Device>)
    };
    let area = area(1)?;
    bring_up(
        config,
        &site,
        vec![lane(&site, &area, PoolConfig::default(), open)?],
    )
}

/// Starts on a port of DPDK's.
#[cfg(feature = "dpdk")]
pub(super) fn bring_up_dpdk(
    config: &Config,
    devargs: &str,
    is_pci: bool,
    network: Option<&Network>,
) -> Result<(), String> {
    let network = network.ok_or_else(|| {
        format!(
            "{}: the link needs an address of ours: add ip=ADDR/LEN",
            config.device
        )
    })?;
    let port = DpdkPort::open(&DpdkConfig {
        devargs: devargs.to_owned(),
        is_pci,
        mtu: network.mtu,
        queues: config.shards,
    })
    .map_err(|error| error.to_string())?;
    log::info!("{devargs}: driver {}", port.driver());
    let site = Site::new(devargs, network, port.mac());
    let pools = PoolConfig {
        rx_object_bytes: if usize::from(network.mtu) <= DPDK_SMALL_MTU {
            2048
        } else {
            4096
        },
        ..PoolConfig::default()
    };
    let area = area(config.shards.into())?;
    let mut lanes = Vec::new();
    for number in 0..config.shards {
        let open = |pool: &mut Pool| {
            let queue = port
                .queue(number, pool)
                .map_err(|error| error.to_string())?;
            Ok(Box::new(queue) as Box<dyn Device>)
        };
        lanes.push(lane(&site, &area, pools, open)?);
    }
    port.start().map_err(|error| error.to_string())?;
    bring_up(config, &site, lanes)
}

/// A link in its own little network, which is all that its tables know.
struct Site {
    name: String,
    control: Arc<ControlHandle>,
}

impl Site {
    fn new(name: &str, network: &Network, mac: Mac) -> Self {
        let tables = Tables::builder()
            .ethernet(IFINDEX, name, mac, network.mtu.into())
            .address(IFINDEX, network.address, network.prefix_len)
            .build();
        Self {
            name: name.to_owned(),
            control: ControlHandle::from_static(tables),
        }
    }
}

/// On a link where frames leave as they are handed over, a thread that writes much overlaps with
/// the peer: else either end waits while the other copies. (Over AF_XDP on a veth the sender's
/// thread does the receiver's work too, each hand-over is a call, and nothing overlaps.)
const DEFER_BYTES_MAX: usize = 64 << 10;

fn bring_up(config: &Config, site: &Site, lanes: Vec<Lane<Shard>>) -> Result<(), String> {
    let name = &site.name;
    // With several shards a reply may arrive at any of them.
    let lease = if config.connect.is_empty() || config.shards != 1 {
        None
    } else {
        let lease = Lease::acquire(&short(name), &config.client_ports, 1);
        Some(lease.map_err(|error| error.to_string())?)
    };
    let manner = Manner {
        defer_bytes_max: DEFER_BYTES_MAX,
        ..manner(config)
    };
    let crew = Crew::new(lanes, manner).map_err(|errno| format!("{name}: {errno}"))?;
    let place = Place::new(
        Arc::clone(&site.control),
        IFINDEX,
        name.clone(),
        Box::new(Whole),
        Leases {
            ports: lease,
            queues: None,
        },
        Vec::new(),
    );
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime { crew, place }));
    let chores = Box::new(Board(Bulletin::new(config, runtime)));
    go(runtime, chores)
}

fn area(shards: usize) -> Result<Arc<Area>, String> {
    let area = Area::new(shards * PoolConfig::default().zones * ZONE_BYTES)
        .map_err(|error| error.to_string())?;
    if area.backing() == Backing::Plain {
        log::info!("packet memory is on ordinary pages: hugepages are faster");
    }
    Ok(area)
}

fn lane(
    site: &Site,
    area: &Arc<Area>,
    pool: PoolConfig,
    open: impl FnOnce(&mut Pool) -> Result<Box<dyn Device>, String> + Send,
) -> Result<Lane<Shard>, String> {
    let secret = secret()?;
    let control = &site.control;
    let cell = ShardCell::try_new(|| {
        let mut pool = Pool::new(area, pool).map_err(|error| error.to_string())?;
        let device = open(&mut pool)?;
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

/// A link's name as part of the name of a lease, which has room for an interface's: of a long path
/// the end, and a number that tells it from others that end so.
fn short(name: &str) -> String {
    const CHARS_MAX: usize = 48;
    let chars = name.chars().count();
    if chars <= CHARS_MAX {
        return name.to_owned();
    }
    // FNV-1a: it must only be the same in every process.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let end: String = name.chars().skip(chars - CHARS_MAX).collect();
    format!("{hash:016x}/{end}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_become_short_and_stay_different() {
        assert_eq!(short("/tmp/a.sock"), "/tmp/a.sock");
        let long = |first: char| format!("/{first}{}/m.sock", "x".repeat(90));
        let (a, b) = (short(&long('a')), short(&long('b')));
        assert!(a.len() < 80 && a != b, "{a} {b}");
        assert_eq!(a, short(&long('a')));
    }

    #[test]
    fn hardware_addresses_are_local_and_of_one_host() {
        let mac = mac_of([10, 77, 0, 1].into());
        assert_eq!(mac.0, [2, b'L', 10, 77, 0, 1]);
        assert_eq!(mac.0[0] & 3, 2, "locally administered, unicast");
    }
}
