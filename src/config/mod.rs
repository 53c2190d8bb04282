//! What the user asked for: one validated value out of `LUNA_*` and a TOML file.
//!
//! Owns the names of the settings, their defaults and the errors about them. It opens nothing but
//! the file, and does not know whether an interface exists or a port is free.
#![forbid(unsafe_code)]

mod device;
mod file;
mod settings;
mod values;

#[cfg(test)]
mod tests;

use core::net::{IpAddr, SocketAddr};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use log::LevelFilter;
use thiserror::Error;

use crate::tcp::CongestionControl;
use crate::time::Duration;
use crate::traffic::{ConnectRules, PortSet};

pub use device::{DeviceSpec, MemifRole, Network, StartError};
pub use settings::{SETTINGS, Setting};
pub use values::{parse_bool, parse_duration};

/// Who turns the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The threads that make the calls (LUNA §5.1, batched for BSD sockets).
    #[default]
    Batch,
    /// One stack thread per shard (LUNA §5.2).
    Dedicated,
}

impl Mode {
    /// The word that selects it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Dedicated => "dedicated",
        }
    }
}

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The link that the stack uses.
    pub device: DeviceSpec,
    /// Local ports whose listeners are accelerated.
    pub listen: PortSet,
    /// Destinations whose outgoing connections are accelerated.
    pub connect: ConnectRules,
    /// Local ports for outgoing connections.
    pub client_ports: RangeInclusive<u16>,
    /// Who turns the shards.
    pub mode: Mode,
    /// Number of shards, one device queue each.
    pub shards: u16,
    /// Most receive queues to take; `None`: all that are free, one in a forked worker.
    pub queues: Option<u16>,
    /// Never sleep while waiting.
    pub busy: bool,
    /// What is logged to stderr.
    pub log: LevelFilter,
    /// A failure to accelerate is an error of the call instead of a socket on the kernel.
    pub strict: bool,
    /// Connections to our own reserved ports go through the stack.
    pub hairpin: bool,
    /// How long a turn without work spins before it sleeps.
    pub spin: Duration,
    /// How long a shard may stand still before the steward turns it.
    pub steward_after: Duration,
    /// Names of programs that serve each connection from a forked child.
    pub forking: Vec<String>,
    /// Names of programs whose master makes listeners for its workers.
    pub prefork: Vec<String>,
    /// Whether the preload library leaves `io_uring` to the program.
    pub io_uring: bool,
    /// How the congestion window moves.
    pub congestion: CongestionControl,
    /// Spread each window of segments over its round trip.
    pub pacing: bool,
    /// Networks of the same data centre, where timeouts are short (LUNA §9).
    pub data_centre: ConnectRules,
}

/// First local port for outgoing connections, unless set.
pub const CLIENT_PORTS_DEFAULT: RangeInclusive<u16> = 61440..=65535;
/// Time that a turn without work spins, unless set.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(50);
/// Time that a shard may stand still, unless set.
pub const STEWARD_AFTER_DEFAULT: Duration = Duration::from_millis(1);
/// Programs that serve each connection from a forked child, unless set: names of processes, as `ps`
/// shows them.
pub const FORKING_DEFAULT: [&str; 6] = ["postgres", "sshd", "inetd", "xinetd", "vsftpd", "proftpd"];
/// Programs whose master makes listeners for its workers, unless set.
pub const PREFORK_DEFAULT: [&str; 3] = ["nginx", "apache2", "php-fpm8.2"];
/// Most receive queues that can be asked for.
pub const QUEUES_MAX: u16 = 1024;
/// Most shards that can be asked for.
pub const SHARDS_MAX: u16 = 256;

impl Config {
    /// The defaults on `device`: nothing is accelerated until ports or rules are given.
    pub fn new(device: DeviceSpec) -> Self {
        Self {
            device,
            listen: PortSet::empty(),
            connect: ConnectRules::default(),
            client_ports: CLIENT_PORTS_DEFAULT,
            mode: Mode::default(),
            shards: 1,
            queues: None,
            busy: false,
            log: LevelFilter::Warn,
            strict: false,
            hairpin: false,
            spin: SPIN_DEFAULT,
            steward_after: STEWARD_AFTER_DEFAULT,
            forking: FORKING_DEFAULT.map(str::to_owned).to_vec(),
            prefork: PREFORK_DEFAULT.map(str::to_owned).to_vec(),
            io_uring: false,
            congestion: CongestionControl::default(),
            pacing: false,
            data_centre: ConnectRules::default(),
        }
    }

    /// Whether a peer is in one of [`data_centre`](Self::data_centre)'s networks.
    pub fn is_in_data_centre(&self, peer: IpAddr) -> bool {
        // Networks without ports stand for all that exist, and no connection has port 0.
        self.data_centre.matches(SocketAddr::new(peer, 1))
    }

    /// What this process's environment asks for; `None` if it does not ask for luna. Starts
    /// logging at the level asked for, and warns about names it does not know.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`]: one line that names the key, its value and what is allowed.
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        let loaded = Self::load(std::env::vars_os())?;
        if let Some(config) = &loaded.config {
            crate::logging::start(config.log);
            for warning in &loaded.warnings {
                log::warn!("{warning}");
            }
        }
        Ok(loaded.config)
    }

    /// As [`from_env`](Self::from_env) for any list of variables, without a side effect.
    ///
    /// # Errors
    ///
    /// As `from_env`.
    pub fn load(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, ConfigError> {
        settings::load(variables)
    }
}

/// A configuration and what was odd about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// `None`: luna is not asked for, or disabled.
    pub config: Option<Config>,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A value that is not what it should be.
    #[error("{key}: `{value}` is not valid: {allowed}")]
    Value {
        /// The name of the variable, or of the key and its file.
        key: String,
        /// The part of the value that is wrong.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The file can't be read.
    #[error("LUNA_CONFIG: {path}: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("LUNA_CONFIG: {path}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why, as the parser says it.
        message: String,
    },
    /// A file without a device, and none in the environment.
    #[error("LUNA_CONFIG: {path}: the key `dev` is missing", path = path.display())]
    NoDevice {
        /// The file.
        path: PathBuf,
    },
}
