//! What the steward does for `luna ss`.
#![forbid(unsafe_code)]

use super::super::Runtime;
use crate::config::Config;
use crate::socket::publish::Publisher;
use crate::socket::table;
use crate::stats::{Board, BoardInfo, Reason, RunState};
use crate::sys::{self, internal};
use crate::time::{Duration, Instant};

/// How old `luna ss` may be.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Keeps the board up to date.
pub(super) struct Bulletin {
    runtime: &'static Runtime,
    publisher: Option<Publisher>,
    /// How far things had come when the board was last brought up to date.
    published: (u64, u64),
    /// When to look whether they have moved on: while a program waits in its event loop
    /// nobody else does, and this costs less than telling.
    look_at: Instant,
}

impl Bulletin {
    pub(super) fn new(config: &Config, runtime: &'static Runtime) -> Self {
        Self {
            runtime,
            publisher: publisher(config),
            published: (u64::MAX, 0),
            look_at: Instant::ZERO,
        }
    }

    pub(super) fn due(&self) -> Instant {
        if self.publisher.is_some() {
            self.look_at
        } else {
            Instant::FAR_FUTURE
        }
    }

    pub(super) fn run_due(&mut self, now: Instant) {
        let Some(publisher) = &mut self.publisher else {
            return;
        };
        if now < self.look_at {
            return;
        }
        let progress = (self.runtime.crew.deliveries(), table::changes());
        if progress != self.published {
            publisher.run();
            self.published = progress;
        }
        self.look_at = publisher.next().max(now + LOOK_EVERY);
    }
}

/// The board that `luna ss` reads. Without it there is only less to see.
fn publisher(config: &Config) -> Option<Publisher> {
    let info = BoardInfo {
        pid: sys::getpid(),
        started_s: board_time(),
        device: config.device.to_string(),
        program: program_name(),
        shards: config.shards,
        dedicated: config.mode == crate::config::Mode::Dedicated,
        state: RunState::Running,
        state_reason: Reason::Accelerated,
        rows_refused: 0,
    };
    match Board::create(&info, internal::first()) {
        Ok(board) => {
            let _ = internal::keep_here(board.fd());
            Some(Publisher::new(board))
        }
        Err(error) => {
            log::warn!("`luna ss` will not see this process: {error}");
            None
        }
    }
}

fn program_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}

fn board_time() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}
