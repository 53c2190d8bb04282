//! The links of a suite: pairs of network namespaces joined by veth, and a folder for memif
//! sockets. All are made when they are first used and removed at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::show::note;

/// A pair of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pair {
    /// The kernel as Linux sets veth up: segmentation and checksums are left to the other end.
    Kernel,
    /// The kernel without offloads: it cuts segments and sums them, as every stack on memif does.
    Bare,
    /// For luna over AF_XDP.
    Xdp,
    /// As `Kernel` and `Xdp` with an MTU of 9000.
    KernelJumbo,
    XdpJumbo,
    /// Nothing is sent between these: for programs on memif.
    Memif,
}

impl Pair {
    fn letter(self) -> char {
        match self {
            Self::Kernel => 'k',
            Self::Bare => 'b',
            Self::Xdp => 'x',
            Self::KernelJumbo => 'K',
            Self::XdpJumbo => 'X',
            Self::Memif => 'm',
        }
    }

    fn mtu(self) -> u32 {
        match self {
            Self::KernelJumbo | Self::XdpJumbo => 9000,
            _ => 1500,
        }
    }

    fn subnet(self) -> u8 {
        self as u8 + 1
    }
}

/// A side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

impl Role {
    fn letter(self) -> char {
        match self {
            Self::Server => 's',
            Self::Client => 'c',
        }
    }

    fn host(self) -> u8 {
        match self {
            Self::Server => 1,
            Self::Client => 2,
        }
    }
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Links {
    names: String,
    made: BTreeMap<Pair, ()>,
    folder: PathBuf,
}

impl Links {
    pub(crate) fn new(names: &str) -> Result<Self, String> {
        if names.is_empty() || names.len() > 8 || !names.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err("--names: 1 to 8 letters and digits".to_owned());
        }
        let folder = std::env::temp_dir().join(names);
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(Self {
            names: names.to_owned(),
            made: BTreeMap::new(),
            folder,
        })
    }

    pub(crate) fn namespace(&self, pair: Pair, role: Role) -> String {
        format!("{}-{}{}", self.names, pair.letter(), role.letter())
    }

    pub(crate) fn interface(&self, pair: Pair, role: Role) -> String {
        format!("{}{}{}", self.names, pair.letter(), role.letter())
    }

    pub(crate) fn address(&self, pair: Pair, role: Role) -> String {
        format!("10.77.{}.{}", pair.subnet(), role.host())
    }

    /// luna's link at one end of memif, as LUNA_DEV.
    pub(crate) fn memif(&self, role: Role, mtu: u32) -> String {
        let socket = self.folder.join("memif.sock");
        let side = match role {
            Role::Server => "server",
            Role::Client => "client",
        };
        let ip = self.memif_address(role);
        format!(
            "memif:{},role={side},ip={ip}/24,mtu={mtu}",
            socket.display()
        )
    }

    pub(crate) fn memif_address(&self, role: Role) -> String {
        format!("10.78.0.{}", role.host())
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Makes a pair, if it is not there.
    pub(crate) fn need(&mut self, pair: Pair) -> Result<(), String> {
        if self.made.contains_key(&pair) {
            return Ok(());
        }
        // Before it is whole: what there is of it is removed too.
        self.made.insert(pair, ());
        let roles = [Role::Server, Role::Client];
        let [server, client] = roles.map(|role| self.interface(pair, role));
        for role in roles {
            ip(&["netns", "add", &self.namespace(pair, role)])?;
        }
        ip(&[
            "link", "add", &server, "type", "veth", "peer", "name", &client,
        ])?;
        for role in roles {
            let (name, interface) = (self.namespace(pair, role), self.interface(pair, role));
            let address = format!("{}/24", self.address(pair, role));
            ip(&[
                "link",
                "set",
                &interface,
                "netns",
                &name,
                "mtu",
                &pair.mtu().to_string(),
            ])?;
            ip(&["-n", &name, "address", "add", &address, "dev", &interface])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &name, "link", "set", &interface, "up"])?;
            let network = format!("10.77.{}.0/24", pair.subnet());
            use_cubic(&name, &interface, &network, &self.address(pair, role));
            if pair == Pair::Bare {
                let mut words = vec!["netns", "exec", &name, "ethtool", "-K", &interface];
                for feature in ["tso", "gso", "gro", "tx", "rx", "sg"] {
                    words.extend([feature, "off"]);
                }
                ip(&words)?;
            }
        }
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for &pair in self.made.keys() {
            for role in [Role::Server, Role::Client] {
                if let Err(error) = ip(&["netns", "del", &self.namespace(pair, role)]) {
                    note(&error);
                }
            }
        }
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Has the kernel's TCP use Linux's default congestion control, whatever this host's is. BBR sets a
/// timer between two bursts, which costs a virtual machine an exit each: by its estimate of the
/// path, now and then, that took the half of a kernel client's rate.
fn use_cubic(namespace: &str, interface: &str, network: &str, address: &str) {
    // A namespace may choose by `sysctl` only what the whole host allows.
    let route = [
        "-n", namespace, "route", "replace", network, "dev", interface, "src", address, "congctl",
        "cubic",
    ];
    if let Err(error) = ip(&route) {
        note(&error);
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", words.join(" "), said.trim()))
}
