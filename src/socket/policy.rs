//! Which sockets the user wants accelerated.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use crate::traffic::{ConnectRules, PortSet};

/// The user's wishes, read once.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// A device is configured and luna is not disabled.
    pub is_wanted: bool,
    /// `LUNA_STRICT`
    pub is_strict: bool,
    /// `LUNA_HAIRPIN`: connections to our own reserved ports stay in the stack.
    pub hairpin: bool,
    /// `LUNA_LISTEN`
    pub listen: PortSet,
    /// `LUNA_CONNECT`
    pub connect: ConnectRules,
}

static POLICY: OnceLock<Policy> = OnceLock::new();

/// The policy of this process.
pub fn get() -> &'static Policy {
    POLICY.get_or_init(from_environment)
}

/// Sets the policy instead of reading it; false if it has been read already. For programs that
/// configure luna by calls, and for tests.
pub fn set(policy: Policy) -> bool {
    POLICY.set(policy).is_ok()
}

fn is_on(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| {
        !matches!(
            value.to_ascii_lowercase().as_str(),
            "" | "0" | "no" | "off" | "false"
        )
    })
}

fn from_environment() -> Policy {
    let text = |name| std::env::var(name).unwrap_or_default();
    Policy {
        is_wanted: !text("LUNA_DEV").is_empty() && !is_on("LUNA_DISABLE"),
        is_strict: is_on("LUNA_STRICT"),
        hairpin: is_on("LUNA_HAIRPIN"),
        listen: PortSet::parse("LUNA_LISTEN", &text("LUNA_LISTEN")).unwrap_or_default(),
        connect: ConnectRules::parse("LUNA_CONNECT", &text("LUNA_CONNECT")).unwrap_or_default(),
    }
}
