//! Where log lines go: stderr, or a function of the program's.
//!
//! Owns the sink behind the `log` crate. It writes by a system call of its own, so that a line
//! from inside a hooked call comes back through no hook, and never fails.
#![forbid(unsafe_code)]

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Takes a line without its end.
pub type Callback = Box<dyn Fn(Level, &str) + Send + Sync>;

struct Sink;

static SINK: Sink = Sink;
static STARTED: AtomicBool = AtomicBool::new(false);
static CALLBACK: RwLock<Option<Callback>> = RwLock::new(None);

/// Sends log lines of at most `level` to stderr from now on. If the program (a Rust one, which
/// shares the `log` crate with us) has a logger of its own, that one keeps its place.
pub fn start(level: LevelFilter) {
    if !STARTED.swap(true, Ordering::AcqRel) && log::set_logger(&SINK).is_err() {
        return;
    }
    log::set_max_level(level);
}

/// Sends log lines to `callback` instead of stderr; `None` goes back.
pub fn set_callback(callback: Option<Callback>) {
    if let Ok(mut place) = CALLBACK.write() {
        *place = callback;
    }
}

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Only our own lines: a dependency's warnings would puzzle the program's user.
        if !record.target().starts_with("luna") {
            return;
        }
        if let Ok(callback) = CALLBACK.try_read()
            && let Some(callback) = callback.as_ref()
        {
            return callback(record.level(), &record.args().to_string());
        }
        write_line(record.level(), &record.args().to_string());
    }

    fn flush(&self) {}
}

/// One system call per line, so that lines of several threads do not mix.
fn write_line(level: Level, text: &str) {
    let line = format!("luna: {}: {text}\n", level.as_str().to_ascii_lowercase());
    // If stderr is closed or full there is nobody to tell.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
