//! What the user is told when sockets stay on the kernel: one line per cause, on stderr.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, Ordering};

use super::policy;
use crate::sys::{self, ForkMutex};

/// Causes that were told already.
static TOLD: ForkMutex<Vec<String>> = ForkMutex::new(Vec::new());
/// Most causes that are told: beyond, something is repeating itself.
const CAUSES_MAX: usize = 64;

/// Receives lines instead of stderr.
pub type Sink = fn(level: i32, line: &str);

static HAS_SINK: AtomicBool = AtomicBool::new(false);
static CALLBACK: ForkMutex<Option<Sink>> = ForkMutex::new(None);

/// Sends lines to `sink` from now on; `None`: to stderr.
pub fn set_sink(sink: Option<Sink>) {
    *CALLBACK.lock() = sink;
    HAS_SINK.store(sink.is_some(), Ordering::Release);
}

/// Tells the cause of a fall-back to the kernel, unless it was told before. With `LUNA_STRICT`
/// that ends the process: for tests, which must not pass on the kernel by accident.
pub fn fallback(cause: &str) {
    if !once(cause) {
        return;
    }
    say(3, cause);
    if policy::get().is_strict {
        say(3, "LUNA_STRICT is set: giving up");
        sys::exit_group(1);
    }
}

/// Tells something of no consequence for where sockets live, once.
pub fn notice(text: &str) {
    if once(text) {
        say(4, text);
    }
}

fn once(text: &str) -> bool {
    let mut told = TOLD.lock();
    if told.len() >= CAUSES_MAX || told.iter().any(|other| other == text) {
        return false;
    }
    told.push(text.to_owned());
    true
}

fn say(level: i32, text: &str) {
    let sink = if HAS_SINK.load(Ordering::Acquire) {
        *CALLBACK.lock()
    } else {
        None
    };
    match sink {
        Some(sink) => sink(level, text),
        None => {
            let line = format!("luna: {text}\n");
            // A closed stderr is no reason to fail.
            let _written = sys::write(2, line.as_bytes());
        }
    }
}
