//! Waiting for one description: what blocking calls do.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::crew::Crew;
use super::engine::Engine;
use super::thread::with_me;
use super::wait::{Condition, Look, Patience, wait};
use super::wake::{Ringer, Wake};
use crate::socket::description::{Kind, Pin};
use crate::stack::Ready;
use crate::sys::{self, Errno, PollFd};
use crate::time::{Clock, Instant, SystemClock};

/// Keys of bells in descriptions' lists of watchers: apart from those of epoll's entries.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1 << 63);

/// A description's list of watchers has a bell of ours under this key.
#[derive(Debug)]
pub(crate) struct Watch {
    key: u64,
    armed: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            key: 0,
            armed: false,
        }
    }

    pub(crate) fn arm(&mut self, pin: &Pin, bell: &Arc<Wake>) {
        if !self.armed {
            self.key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
            self.armed = true;
            pin.watch(self.key, Arc::new(Ringer(Arc::clone(bell))));
        }
    }

    pub(crate) fn disarm(&mut self, pin: &Pin) {
        if self.armed {
            self.armed = false;
            pin.unwatch(self.key);
        }
    }
}

struct Blocked<'a, L, D> {
    pin: &'a Pin,
    interest: Ready,
    level: L,
    deliveries: D,
    /// Deliveries as of the last look.
    seen: Option<u64>,
    watch: Watch,
}

impl<L: Fn(&Pin) -> Ready, D: Fn() -> u64> Condition for Blocked<'_, L, D> {
    type Output = Ready;

    fn look(&mut self, _now: Instant, look: Look) -> Result<Option<Ready>, Errno> {
        let deliveries = (self.deliveries)();
        if look == Look::Lazily && self.seen == Some(deliveries) {
            return Ok(None);
        }
        self.seen = Some(deliveries);
        if self.pin.is_closed() {
            return Err(Errno::BADF);
        }
        let mut ready = (self.level)(self.pin);
        if look == Look::Thoroughly && self.pin.kind() == Kind::Listener {
            let half = sys::poll_now(self.pin.fd(), libc::POLLIN).unwrap_or(0);
            if half & libc::POLLIN != 0 {
                ready |= Ready::IN;
            }
            // It was shut down, and `accept` will say so.
            if half & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
                ready |= Ready::HUP;
            }
        }
        let found = ready & (self.interest | Ready::ERR | Ready::HUP);
        Ok((!found.is_empty()).then_some(found))
    }

    fn arm(&mut self, bell: &Arc<Wake>) {
        self.watch.arm(self.pin, bell);
    }

    fn disarm(&mut self, _bell: &Arc<Wake>) {
        self.watch.disarm(self.pin);
    }

    fn fds(&self, fds: &mut Vec<PollFd>) {
        if self.pin.kind() == Kind::Listener {
            fds.push(PollFd {
                fd: self.pin.fd(),
                events: libc::POLLIN,
                revents: 0,
            });
        }
    }
}

/// Waits for a description on the shards of `crew`. A handled signal always ends the wait: the
/// caller knows which calls are restarted.
pub(super) fn wait_on<E: Engine>(
    crew: &Crew<E>,
    pin: &Pin,
    interest: Ready,
    deadline: Option<Instant>,
    level: impl Fn(&Pin) -> Ready,
) -> Result<Ready, Errno> {
    with_me(|me| me.set_in_loop(false));
    let patience = deadline.map_or(Patience::Endless, Patience::Until);
    let mut blocked = Blocked {
        pin,
        interest,
        level,
        deliveries: || crew.deliveries(),
        seen: None,
        watch: Watch::new(),
    };
    wait(crew, &mut blocked, patience, None)?.ok_or(Errno::AGAIN)
}

/// Waits for the kernel's half of a listener when there are no shards.
pub(super) fn wait_in_kernel(pin: &Pin, deadline: Option<Instant>) -> Result<Ready, Errno> {
    let mut fds = [PollFd {
        fd: pin.fd(),
        events: libc::POLLIN,
        revents: 0,
    }];
    let left = deadline.map(|d| d.saturating_since(SystemClock.now()).as_nanos());
    match sys::ppoll(&mut fds, left, None)? {
        0 => Err(Errno::AGAIN),
        _ => Ok(Ready::IN),
    }
}
