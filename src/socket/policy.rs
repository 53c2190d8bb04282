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
