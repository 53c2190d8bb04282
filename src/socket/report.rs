//! What the user is told when sockets stay on the kernel: one line per cause.
#![forbid(unsafe_code)]

use super::policy;
use crate::sys::{self, ForkMutex};

/// Causes that were told already.
static TOLD: ForkMutex<Vec<String>> = ForkMutex::new(Vec::new());
/// Most causes that are told: beyond, something is repeating itself.
const CAUSES_MAX: usize = 64;

/// Tells the cause of a fall-back to the kernel, unless it was told before. With `LUNA_STRICT`
/// that ends the process: for tests, which must not pass on the kernel by accident.
pub fn fallback(cause: &str) {
    if !is_news(cause) {
        return;
    }
    log::error!("{cause}");
    if policy::get().is_strict {
        log::error!("LUNA_STRICT is set: giving up");
        sys::exit_group(1);
    }
}

/// Tells what may be of interest, once.
pub fn notice(text: &str) {
    if is_news(text) {
        log::warn!("{text}");
    }
}

/// Tells of a defect of our own, once.
pub fn defect(text: &str) {
    if is_news(text) {
        log::error!("{text}");
    }
}

fn is_news(text: &str) -> bool {
    let mut told = TOLD.lock();
    if told.len() >= CAUSES_MAX || told.iter().any(|other| other == text) {
        return false;
    }
    told.push(text.to_owned());
    true
}
