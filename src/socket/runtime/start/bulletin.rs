//! What the steward does from time to time: `luna ss`, and ports that come and go.
#![forbid(unsafe_code)]

use super::super::Runtime;
use crate::config::Config;
use crate::socket::publish::{self, Publisher};
use crate::socket::table;
use crate::stats::{Reason, RunState};
use crate::time::{Duration, Instant};

/// How old `luna ss` may be, and how late a port is given back.
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
        publish::withdraw();
        Self {
            runtime,
            publisher: Publisher::open(config, RunState::Running, Reason::Accelerated),
            published: (u64::MAX, 0),
            look_at: Instant::ZERO,
        }
    }

    pub(super) const fn due(&self) -> Instant {
        self.look_at
    }

    pub(super) fn run_due(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        self.runtime.place.tend(now, super::super::uses_port);
        let Some(publisher) = &mut self.publisher else {
            return;
        };
        let progress = (self.runtime.crew.deliveries(), table::changes());
        if progress != self.published {
            publisher.run();
            self.published = progress;
        }
        self.look_at = publisher.next().max(now + LOOK_EVERY);
    }
}
