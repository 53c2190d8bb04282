//! Checks of the link: the interface, its addresses, its queues and who steers its packets.

use std::fs;
use std::path::Path;

use luna::config::{Config, DeviceSpec, MemifRole};
use luna::control::{Mirror, Tables};

use super::Finding;

/// The longest packet that fits a 4 KiB buffer with its headroom, without multi-buffer support.
const MTU_MAX_BYTES: u32 = 3498;
/// Which part of memory the lists of free pages of all cores may hold; 0: the kernel decides.
pub(crate) const PAGE_LISTS: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";
/// The first kernel whose lists grow by themselves.
const GROWING_LISTS: (u32, u32) = (6, 7);

pub(super) fn check(config: &Config) -> Vec<Finding> {
    if let DeviceSpec::Memif { socket, role, .. } = &config.device {
        return memif(socket, *role);
    }
    if let Some(findings) = dpdk(config) {
        return findings;
    }
    let DeviceSpec::Xdp { interface } = &config.device else {
        let problem = config.device.check_supported().err();
        let text = problem.map_or_else(String::new, |problem| problem.to_string());
        return vec![Finding::fail(text, "see docs/CONFIG.md, Links")];
    };
    let tables = match tables() {
        Ok(tables) => tables,
        Err(error) => {
            return vec![Finding::fail(
                format!("{interface}: the kernel's tables can't be read: {error}"),
                "netlink sockets must be allowed (seccomp, container profile)",
            )];
        }
    };
    let Some(link) = tables.link_by_name(interface) else {
        return vec![Finding::fail(
            format!("{interface}: no such interface"),
            candidates(),
        )];
    };
    let mut findings = vec![state(link), addresses(&tables, link), packet_size(link)];
    findings.extend(queues(interface, config.shards));
    if link.kind == "veth" {
        let fraction = fs::read_to_string(PAGE_LISTS).ok();
        findings.extend(page_lists(super::host::release().1, fraction.as_deref()));
    }
    findings
}

/// What the clients on this machine's own kernel, at the other end of a veth, depend on: how much
/// freed memory a core keeps. On luna's core their requests are freed, on their own they want
/// memory, and what goes from one list to the other meanwhile leaves every cache.
fn page_lists(version: (u32, u32), fraction: Option<&str>) -> Option<Finding> {
    let fraction = fraction?.trim();
    if version < GROWING_LISTS || fraction != "0" {
        return None;
    }
    Some(Finding::warn(
        "page lists: each core keeps as much freed memory as the kernel likes, hundreds of MB, \
         which slows clients on this machine's kernel with many requests under way",
        "sysctl vm.percpu_pagelist_high_fraction=2000 (docs/CONFIG.md, Clients on the same \
         machine)",
    ))
}

/// Whether DPDK has, or can make, the device. Starts DPDK in this process. `None`: not its
/// business.
#[cfg(feature = "dpdk")]
fn dpdk(config: &Config) -> Option<Vec<Finding>> {
    use luna::device::dpdk::{DpdkConfig, DpdkPort};
    let (devargs, is_pci, network) = match &config.device {
        DeviceSpec::Eal { arguments, network } => (arguments, false, network),
        DeviceSpec::Pci {
            address,
            kernel: None,
            network,
        } => (address, true, network),
        _ => return None,
    };
    let Some(network) = network else {
        return Some(vec![Finding::fail(
            format!("{devargs}: the link has no address of ours"),
            "add ip=ADDR/LEN",
        )]);
    };
    let port = DpdkPort::open(&DpdkConfig {
        devargs: devargs.clone(),
        is_pci,
        mtu: network.mtu,
        queues: config.shards,
    });
    Some(vec![match port {
        Ok(port) => Finding::ok(format!(
            "{devargs}: driver {}, hardware address {:?}",
            port.driver(),
            port.mac()
        )),
        Err(error) => Finding::fail(error.to_string(), "see the error"),
    }])
}

#[cfg(not(feature = "dpdk"))]
fn dpdk(_: &Config) -> Option<Vec<Finding>> {
    None
}

/// Whether the other end of a memif link is there, and whether this one can be.
fn memif(socket: &str, role: MemifRole) -> Vec<Finding> {
    let serves = has_listener(socket);
    let path = Path::new(socket);
    let folder = path.parent().filter(|_| !socket.starts_with('@'));
    let finding = match role {
        MemifRole::Server if serves => Finding::fail(
            format!("{socket}: another process serves this link"),
            "stop it, be its client (role=client), or use another path",
        ),
        MemifRole::Server if folder.is_some_and(|folder| !folder.is_dir()) => Finding::fail(
            format!("{socket}: there is no such directory"),
            "make it, or use another path",
        ),
        MemifRole::Server => Finding::ok(format!("{socket}: free; the client may come any time")),
        MemifRole::Client if serves => Finding::ok(format!("{socket}: a server is there")),
        MemifRole::Client => Finding::warn(
            format!("{socket}: no server is there yet"),
            "start the other end with role=server; this one goes on looking for it",
        ),
    };
    vec![finding]
}

/// Whether somebody listens on a Unix socket, by the kernel's list of them.
fn has_listener(socket: &str) -> bool {
    /// `__SO_ACCEPTCON`, in hexadecimal.
    const LISTENS: &str = "00010000";
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    text.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(LISTENS) && fields.next_back() == Some(socket)
    })
}

/// Reads the kernel's tables once.
fn tables() -> Result<std::sync::Arc<Tables>, luna::control::OpenError> {
    Mirror::open().map(|mirror| mirror.tables())
}

/// Advice for those who have not named a link.
pub(super) fn candidates() -> String {
    let Ok(tables) = tables() else {
        return "use --dev xdp:IFNAME".into();
    };
    let with_address = |index| {
        tables
            .addresses()
            .iter()
            .any(|address| address.ifindex == index)
    };
    let names: Vec<String> = tables
        .links()
        .filter(|link| link.up && !link.loopback && with_address(link.index))
        .map(|link| format!("--dev xdp:{}", link.name))
        .collect();
    if names.is_empty() {
        "no interface but the loopback is up and has an address".into()
    } else {
        format!("use one of: {}", names.join(", "))
    }
}

fn state(link: &luna::control::Link) -> Finding {
    let name = &link.name;
    if link.loopback {
        return Finding::fail(
            format!("{name}: the loopback interface"),
            "connections within the host stay on the kernel; use the link to the network",
        );
    }
    match (link.up, link.carrier) {
        (true, true) => Finding::ok(format!("{name}: up, {}", driver(link))),
        (true, false) => Finding::warn(
            format!("{name}: up, {}, but without a carrier", driver(link)),
            "plug in the cable, or set the other end up",
        ),
        (false, _) => Finding::fail(
            format!("{name}: down"),
            format!("ip link set dev {name} up"),
        ),
    }
}

fn driver(link: &luna::control::Link) -> String {
    let path = format!("/sys/class/net/{}/device/driver", link.name);
    let from_sysfs = fs::read_link(path).ok();
    let name = from_sysfs
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy());
    match name {
        Some(name) => format!("driver {name}"),
        None if link.kind.is_empty() => "driver unknown".into(),
        None => format!("driver {}", link.kind),
    }
}

fn addresses(tables: &Tables, link: &luna::control::Link) -> Finding {
    let own: Vec<String> = tables
        .addresses()
        .iter()
        .filter(|address| address.ifindex == link.index)
        .map(|address| format!("{}/{}", address.ip, address.prefix_len))
        .collect();
    let name = &link.name;
    if own.is_empty() {
        let advice = format!("ip address add ADDR/LEN dev {name}");
        return Finding::fail(format!("{name}: no address"), advice);
    }
    Finding::ok(format!("{name}: address {}", own.join(", ")))
}

fn packet_size(link: &luna::control::Link) -> Finding {
    let (name, mtu) = (&link.name, link.mtu);
    if mtu <= MTU_MAX_BYTES {
        return Finding::ok(format!("{name}: MTU {mtu}"));
    }
    Finding::warn(
        format!("{name}: MTU {mtu} is more than one buffer holds"),
        format!("ip link set dev {name} mtu 1500, unless the driver has XDP multi-buffer support"),
    )
}

#[cfg(feature = "xdp")]
fn queues(name: &str, shards: u16) -> Vec<Finding> {
    use luna::device::xdp::interface::Interface;
    let interface = match Interface::query(name) {
        Ok(interface) => interface,
        Err(error) => return vec![Finding::fail(error.to_string(), "see the error")],
    };
    let queues = interface.receive_queues();
    let queues = if queues >= u32::from(shards) {
        Finding::ok(format!(
            "{name}: {queues} receive queues for {shards} shards"
        ))
    } else {
        Finding::fail(
            format!("{name}: {queues} receive queues are too few for {shards} shards"),
            format!("LUNA_SHARDS={queues}, or ethtool -L {name} combined {shards}"),
        )
    };
    let zero_copy = if interface.zero_copy().supported {
        Finding::ok(format!(
            "{name}: the driver reads and writes our buffers itself (zero copy)"
        ))
    } else {
        Finding::warn(
            format!("{name}: the driver has no AF_XDP zero copy; the kernel copies each packet"),
            "nothing is wrong; a NIC with zero copy is faster",
        )
    };
    let program = match interface.xdp_program {
        None => Finding::ok(format!("{name}: no XDP program is attached")),
        Some(id) => attached(name, id),
    };
    vec![queues, zero_copy, program]
}

#[cfg(not(feature = "xdp"))]
fn queues(name: &str, _: u16) -> Vec<Finding> {
    vec![Finding::fail(
        format!("{name}: this build has no AF_XDP"),
        "build with the feature xdp",
    )]
}

/// Says who attached the program. Whoever holds it has it open as a descriptor.
#[cfg(feature = "xdp")]
fn attached(name: &str, id: u32) -> Finding {
    let line = format!("prog_id:\t{id}");
    let holders: Vec<String> = super::processes::all()
        .into_iter()
        .filter(|pid| holds(*pid, &line))
        .map(|pid| format!("{} ({pid})", super::processes::name(pid)))
        .collect();
    let is_ours = luna::stats::discover::find().is_ok_and(|found| {
        let device = format!("xdp:{name}");
        found
            .processes
            .iter()
            .any(|process| process.board.info().device == device && holds(process.pid, &line))
    });
    match (is_ours, holders.as_slice()) {
        (true, _) => Finding::ok(format!(
            "{name}: luna's XDP program {id} is attached by {}",
            holders.join(", ")
        )),
        (false, []) => Finding::fail(
            format!("{name}: XDP program {id} is attached, and no process that we see holds it"),
            format!("if nobody needs it: ip link set dev {name} xdp off"),
        ),
        (false, holders) => Finding::fail(
            format!(
                "{name}: XDP program {id} is attached by {}",
                holders.join(", ")
            ),
            "an interface takes one program: stop the other, or use another interface",
        ),
    }
}

#[cfg(feature = "xdp")]
fn holds(pid: u32, line: &str) -> bool {
    let Ok(directory) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    directory.flatten().any(|entry| {
        fs::read_to_string(entry.path()).is_ok_and(|text| text.lines().any(|own| own == line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn lists_that_grow_by_themselves_are_pointed_out() {
        let level = |version, fraction| page_lists(version, fraction).map(|found| found.level);
        assert_eq!(level((6, 18), Some("0\n")), Some(Level::Warn));
        assert_eq!(level((6, 18), Some("2000\n")), None, "they have a bound");
        assert_eq!(level((6, 1), Some("0\n")), None, "they do not grow there");
        assert_eq!(level((5, 10), None), None, "there is no such setting");
    }
}
