//! The device specification, `LUNA_DEV`.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use std::fmt;

use thiserror::Error;

pub use crate::device::memif::MemifRole;

/// A link, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// `xdp:IFNAME`: a kernel interface, shared with the kernel through AF_XDP.
    Xdp {
        /// The interface's name.
        interface: String,
    },
    /// `memif:SOCKET,role=server|client,ip=ADDR/LEN[,mtu=N]`: shared memory with another process.
    Memif {
        /// The control socket's path.
        socket: String,
        /// Which end this is.
        role: MemifRole,
        /// Our address on the link, which the kernel does not know.
        address: IpAddr,
        /// The length of the link's prefix.
        prefix_len: u8,
        /// Largest IP packet in bytes.
        mtu: u16,
    },
    /// `pci:BDF[,kernel=IFNAME]`: a NIC that a user-space driver owns.
    Pci {
        /// The PCI address with its domain: `0000:3b:00.1`.
        address: String,
        /// The kernel interface whose addresses and routes it uses.
        kernel: Option<String>,
        /// Our address on the link, the length of its prefix, and the MTU.
        network: Option<Network>,
    },
    /// `eal:DEVARGS[,ip=ADDR/LEN][,mtu=N]`: a device in the words of DPDK.
    Eal {
        /// Passed on as they are.
        arguments: String,
        /// As for `Pci`.
        network: Option<Network>,
    },
}

/// Where a link that the kernel does not know is in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Our address on the link.
    pub address: IpAddr,
    /// The length of the link's prefix.
    pub prefix_len: u8,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// Why the stack can't start on a device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// A kind of device that this build has no driver for.
    #[error(
        "device `{spec}`: this build has no driver for {kind}: devices: it supports {supported}"
    )]
    Unsupported {
        /// As it was given.
        spec: String,
        /// `xdp`, `pci` or `eal`.
        kind: &'static str,
        /// The kinds that it has.
        supported: &'static str,
    },
}

const SUPPORTED: &str = match (cfg!(feature = "xdp"), cfg!(feature = "dpdk")) {
    (true, true) => "xdp:IFNAME, memif:SOCKET,…, pci:BDF,ip=… and eal:DEVARGS,ip=…",
    (true, false) => "xdp:IFNAME and memif:SOCKET,…",
    (false, true) => "memif:SOCKET,…, pci:BDF,ip=… and eal:DEVARGS,ip=…",
    (false, false) => "memif:SOCKET,…",
};
const KINDS: &str = "xdp:IFNAME, memif:SOCKET,role=server|client,ip=ADDR/LEN[,mtu=N], \
                     pci:BDF,ip=ADDR/LEN[,mtu=N] or eal:DEVARGS,ip=ADDR/LEN[,mtu=N]";
const INTERFACE: &str = "the name of an interface has 1 to 15 bytes, no blank and no `/`";
const MEMIF: &str = "memif:SOCKET,role=server|client,ip=ADDR/LEN[,mtu=N]";
const PCI: &str = "pci:[DOMAIN:]BUS:DEVICE.FUNCTION with kernel=IFNAME or ip=ADDR/LEN[,mtu=N], \
                   like pci:3b:00.1,ip=10.0.0.1/24";

/// Ethernet's usual largest packet, for links that have no interface to ask.
const MTU_DEFAULT_BYTES: u16 = 1500;
/// RFC 8200 §5 asks for 1280; IPv4 alone would do with 576.
const MTU_MIN_BYTES: u16 = 576;
/// A segment and room for its headers fit into the largest packet buffer of 64 KiB.
const MTU_MAX_BYTES: u16 = 65_000;

impl DeviceSpec {
    /// Reads a specification.
    ///
    /// # Errors
    ///
    /// What is allowed, to be shown with the key and the value.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (kind, rest) = text.trim().split_once(':').ok_or(KINDS)?;
        match kind {
            "xdp" => Ok(Self::Xdp {
                interface: interface(rest)?,
            }),
            "memif" => memif(rest),
            "pci" => pci(rest),
            "eal" => eal(rest.trim()),
            _ => Err(KINDS),
        }
    }

    /// The word before the colon.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Xdp { .. } => "xdp",
            Self::Memif { .. } => "memif",
            Self::Pci { .. } => "pci",
            Self::Eal { .. } => "eal",
        }
    }

    /// Our address on it, if the specification says so and not the kernel.
    pub const fn own_address(&self) -> Option<IpAddr> {
        match self {
            Self::Memif { address, .. } => Some(*address),
            Self::Pci { network, .. } | Self::Eal { network, .. } => match network {
                Some(network) => Some(network.address),
                None => None,
            },
            Self::Xdp { .. } => None,
        }
    }

    /// Whether this build can drive it.
    ///
    /// # Errors
    ///
    /// [`StartError::Unsupported`] if it has no driver for the kind.
    pub fn check_supported(&self) -> Result<(), StartError> {
        match self {
            Self::Xdp { .. } if cfg!(feature = "xdp") => Ok(()),
            Self::Memif { .. } => Ok(()),
            Self::Pci { kernel: None, .. } | Self::Eal { .. } if cfg!(feature = "dpdk") => Ok(()),
            _ => Err(StartError::Unsupported {
                spec: self.to_string(),
                kind: self.kind(),
                supported: SUPPORTED,
            }),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp { interface } => write!(f, "xdp:{interface}"),
            Self::Memif {
                socket,
                role,
                address,
                prefix_len,
                mtu,
            } => {
                let role = if *role == MemifRole::Server {
                    "server"
                } else {
                    "client"
                };
                write!(
                    f,
                    "memif:{socket},role={role},ip={address}/{prefix_len},mtu={mtu}"
                )
            }
            Self::Pci {
                address,
                kernel,
                network,
            } => {
                write!(f, "pci:{address}")?;
                if let Some(kernel) = kernel {
                    write!(f, ",kernel={kernel}")?;
                }
                write_network(f, network.as_ref())
            }
            Self::Eal { arguments, network } => {
                write!(f, "eal:{arguments}")?;
                write_network(f, network.as_ref())
            }
        }
    }
}

fn write_network(f: &mut fmt::Formatter<'_>, network: Option<&Network>) -> fmt::Result {
    match network {
        Some(Network {
            address,
            prefix_len,
            mtu,
        }) => write!(f, ",ip={address}/{prefix_len},mtu={mtu}"),
        None => Ok(()),
    }
}

fn interface(name: &str) -> Result<String, &'static str> {
    let name = name.trim();
    let is_odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    let fits = (1..=15).contains(&name.len());
    if fits && !name.contains(is_odd) && name != "." && name != ".." {
        Ok(name.to_owned())
    } else {
        Err(INTERFACE)
    }
}

fn memif(text: &str) -> Result<DeviceSpec, &'static str> {
    let mut items = text.split(',').map(str::trim);
    let socket = items.next().filter(|path| !path.is_empty()).ok_or(MEMIF)?;
    let (mut role, mut ip, mut mtu) = (None, None, MTU_DEFAULT_BYTES);
    for item in items {
        match item.split_once('=').ok_or(MEMIF)? {
            ("role", "server") => role = Some(MemifRole::Server),
            ("role", "client") => role = Some(MemifRole::Client),
            ("role", _) => return Err("role is server or client"),
            ("ip", value) => ip = Some(network(value).ok_or("ip is ADDR/LEN, like 10.0.0.1/24")?),
            ("mtu", value) => mtu = packet_size(value)?,
            _ => return Err(MEMIF),
        }
    }
    let (address, prefix_len) = ip.ok_or("memif needs ip=ADDR/LEN")?;
    let role = role.ok_or("memif needs role=server or role=client")?;
    Ok(DeviceSpec::Memif {
        socket: socket.to_owned(),
        role,
        address,
        prefix_len,
        mtu,
    })
}

fn packet_size(text: &str) -> Result<u16, &'static str> {
    let mtu = text.parse().ok();
    mtu.filter(|mtu| (MTU_MIN_BYTES..=MTU_MAX_BYTES).contains(mtu))
        .ok_or("mtu is a number of bytes from 576 to 65000")
}

/// Takes `ip=` and `mtu=` out of a list of options; what is left, and the network if there is one.
fn take_network(options: &str) -> Result<(Vec<&str>, Option<Network>), &'static str> {
    let (mut rest, mut ip, mut mtu) = (Vec::new(), None, None);
    for item in options.split(',').map(str::trim) {
        match item.split_once('=') {
            Some(("ip", value)) => {
                ip = Some(network(value).ok_or("ip is ADDR/LEN, like 10.0.0.1/24")?);
            }
            Some(("mtu", value)) => mtu = Some(packet_size(value)?),
            _ => rest.push(item),
        }
    }
    let found = ip.map(|(address, prefix_len)| Network {
        address,
        prefix_len,
        mtu: mtu.unwrap_or(MTU_DEFAULT_BYTES),
    });
    Ok((rest, found))
}

fn eal(text: &str) -> Result<DeviceSpec, &'static str> {
    let (arguments, network) = take_network(text)?;
    if arguments.first().is_none_or(|name| name.is_empty()) {
        return Err("eal: must be followed by DPDK device arguments");
    }
    Ok(DeviceSpec::Eal {
        arguments: arguments.join(","),
        network,
    })
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse().ok().filter(|length| *length <= bits)?;
    Some((address, length))
}

fn pci(text: &str) -> Result<DeviceSpec, &'static str> {
    let (items, network) = take_network(text)?;
    let (address, options) = items.split_first().ok_or(PCI)?;
    let kernel = match options {
        [] => None,
        [option] => Some(interface(option.strip_prefix("kernel=").ok_or(PCI)?)?),
        _ => return Err(PCI),
    };
    Ok(DeviceSpec::Pci {
        address: pci_address(address).ok_or(PCI)?,
        kernel,
        network,
    })
}

/// Checks `[DOMAIN:]BUS:DEVICE.FUNCTION` and completes it with the domain.
fn pci_address(text: &str) -> Option<String> {
    let hex = |text: &str, digits: usize, max: u16| {
        let is_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u16::from_str_radix(text, 16).ok())
            .flatten()
            .filter(|&n| n <= max)
    };
    let (front, function) = text.split_once('.')?;
    let mut parts = front.rsplit(':');
    let device = hex(parts.next()?, 2, 0x1f)?;
    let bus = hex(parts.next()?, 2, 0xff)?;
    let domain = parts
        .next()
        .map_or(Some(0), |domain| hex(domain, 4, u16::MAX))?;
    let function = hex(function, 1, 7)?;
    parts
        .next()
        .is_none()
        .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}
