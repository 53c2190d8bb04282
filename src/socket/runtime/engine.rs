//! What the runtime asks of a shard; a trait so that its scheduling can be tested without one.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use crate::socket::description;
use crate::stack::{Shard, TurnReport, Wakeup};
use crate::time::Instant;
use crate::zbuf::Area;

/// Where a shard's packet memory is.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) area: Arc<Area>,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

impl Memory {
    /// Whether an address is in it.
    #[inline]
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.start) < self.bytes
    }
}

/// Something that is turned.
pub(crate) trait Engine {
    /// One run-to-completion turn.
    fn turn(&mut self, now: Instant) -> TurnReport;
    /// Sends what is queued, without receiving.
    fn flush(&mut self, now: Instant) -> TurnReport;
    /// When `turn` has something to do even if no frame arrives.
    fn next_deadline(&self) -> Instant;
    /// Prepares for sleep; false: there is work already.
    fn arm(&mut self) -> bool;
    /// What becomes readable when frames arrive.
    fn wait_fds(&self) -> &[RawFd];
    /// Moves the wakeups since the last call to the back of `out`.
    fn take_wakeups(&mut self, out: &mut Vec<Wakeup>);
    /// The packet memory, if it has any.
    fn memory(&self) -> Option<Memory> {
        None
    }
    /// Tells whoever watches. Called with no lock held.
    fn deliver(wakeup: Wakeup);
}

impl Engine for Shard {
    fn turn(&mut self, now: Instant) -> TurnReport {
        Self::turn(self, now)
    }

    fn flush(&mut self, now: Instant) -> TurnReport {
        Self::flush(self, now)
    }

    fn next_deadline(&self) -> Instant {
        Self::next_deadline(self)
    }

    fn arm(&mut self) -> bool {
        Self::arm(self)
    }

    fn wait_fds(&self) -> &[RawFd] {
        Self::wait_fds(self)
    }

    fn take_wakeups(&mut self, out: &mut Vec<Wakeup>) {
        Self::take_wakeups(self, out);
    }

    fn memory(&self) -> Option<Memory> {
        let (start, bytes) = self.pool().umem();
        Some(Memory {
            area: Arc::clone(self.pool().area()),
            start: start.addr(),
            bytes,
        })
    }

    fn deliver(wakeup: Wakeup) {
        description::wake(wakeup.token, wakeup.edge);
    }
}
