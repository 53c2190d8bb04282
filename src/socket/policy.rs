//! Which sockets the user wants accelerated.
#![forbid(unsafe_code)]

use log::LevelFilter;
use once_cell::race::OnceBox;

use crate::config::Config;
use crate::traffic::{ConnectRules, PortSet};
use crate::{logging, sys};

/// The user's wishes, read once.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// A device is configured and luna is not disabled.
    pub is_wanted: bool,
    /// `LUNA_STRICT`
    pub is_strict: bool,
    /// `LUNA_LISTEN`
    pub listen: PortSet,
    /// `LUNA_CONNECT`
    pub connect: ConnectRules,
    /// All settings, for the runtime.
    pub config: Option<Config>,
}

/// Not a lock: a fork while one thread reads the configuration must not leave the child waiting.
static POLICY: OnceBox<Policy> = OnceBox::new();

/// The policy of this process.
pub fn get() -> &'static Policy {
    POLICY.get_or_init(|| Box::new(from_environment()))
}

/// Whether this program is one of those that accept in one process and serve in a forked child
/// (`LUNA_FORKING`). A stack is one process's, so such a connection can't be accelerated.
pub fn forks_for_connections() -> bool {
    is_named(|config| &config.forking)
}

/// Whether this program is one of those whose master makes listeners for workers to be forked
/// (`LUNA_PREFORK`).
pub fn forks_workers() -> bool {
    is_named(|config| &config.prefork)
}

fn is_named(names: impl Fn(&Config) -> &Vec<String>) -> bool {
    get().config.as_ref().is_some_and(|config| {
        let own = program_name();
        names(config).contains(&own)
    })
}

/// The name of this process, as `ps` shows it.
pub fn program_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}

/// Sets the policy instead of reading it; false if there is one already. For programs that
/// configure luna by calls, and for tests.
pub fn set(policy: Policy) -> bool {
    POLICY.set(Box::new(policy)).is_ok()
}

impl From<Config> for Policy {
    fn from(config: Config) -> Self {
        Self {
            is_wanted: true,
            is_strict: config.strict,
            listen: config.listen.clone(),
            connect: config.connect.clone(),
            config: Some(config),
        }
    }
}

fn from_environment() -> Policy {
    match Config::from_env() {
        Ok(config) => config.map(Policy::from).unwrap_or_default(),
        Err(error) => {
            logging::start(LevelFilter::Warn);
            log::error!("all sockets stay on the kernel: {error}");
            let strict = std::env::var("LUNA_STRICT").unwrap_or_default();
            if crate::config::parse_bool(&strict) == Some(true) {
                sys::exit_group(1);
            }
            Policy::default()
        }
    }
}
