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

/// The same while a master waits for us to have accepted what has begun.
const RELIEF_EVERY: Duration = Duration::from_millis(20);

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
        let place = &self.runtime.place;
        let is_waited_for = place.tend(now, super::super::uses_port, super::super::is_awaited);
        let mut look_at = now + LOOK_EVERY;
        if let Some(publisher) = &mut self.publisher
            && now >= publisher.next()
        {
            let progress = (self.runtime.crew.deliveries(), table::changes());
            if progress != self.published {
                publisher.run();
                self.published = progress;
            }
            look_at = look_at.max(publisher.next());
        }
        self.look_at = match is_waited_for {
            true => now + RELIEF_EVERY,
            false => look_at,
        };
    }
}
