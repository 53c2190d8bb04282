//! A sleeping thread's bell.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::socket::description::{Kind, Watcher};
use crate::stack::Ready;
use crate::sys::{self, Errno, OwnFd, fork_epoch};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const RUNG: u32 = 2;

/// One thread sleeps on it (in `ppoll`, beside other descriptors), any thread rings it. Ringing
/// for a thread that is awake costs one atomic exchange and no system call.
///
/// The sleeper's order is: register with whoever may ring, look whether there is something
/// already, [`Wake::prepare`], `ppoll`, [`Wake::finish`]. A ring between any two of these is not
/// lost: it makes `prepare` fail or the descriptor readable.
#[derive(Debug)]
pub(crate) struct Wake {
    state: AtomicU32,
    event: OwnFd,
    epoch: u32,
}

impl Wake {
    pub(crate) fn new() -> Result<Arc<Self>, Errno> {
        Ok(Arc::new(Self {
            state: AtomicU32::new(AWAKE),
            event: OwnFd::eventfd()?,
            epoch: fork_epoch(),
        }))
    }

    /// Its descriptor is shared with the parent of a fork: not to be used any more.
    pub(crate) fn is_stale(&self) -> bool {
        self.epoch != fork_epoch()
    }

    /// Wakes the sleeper, or keeps it from falling asleep.
    pub(crate) fn ring(&self) {
        if self.state.swap(RUNG, Ordering::SeqCst) == ASLEEP {
            sys::eventfd_raise(self.event.fd());
        }
    }

    /// About to sleep. False: it has rung since the last sleep; look again instead.
    pub(crate) fn prepare(&self) -> bool {
        if self
            .state
            .compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            return true;
        }
        self.state.store(AWAKE, Ordering::SeqCst);
        false
    }

    /// Awake again; `readable`: what `ppoll` said of the descriptor. A ringer that is between
    /// its two steps makes the next sleep end early, once.
    pub(crate) fn finish(&self, readable: bool) {
        self.state.store(AWAKE, Ordering::SeqCst);
        if readable {
            sys::eventfd_clear(self.event.fd());
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.event.fd()
    }
}

/// Rings a thread's bell for whatever happens to a description.
#[derive(Debug)]
pub(crate) struct Ringer(pub(crate) Arc<Wake>);

impl Watcher for Ringer {
    fn wake(&self, _edge: Ready) -> bool {
        self.0.ring();
        false
    }

    fn promoted(&self, _kind: Kind) {
        self.0.ring();
    }

    fn closed(&self) {
        self.0.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{PollFd, ppoll};

    fn sleeps(wake: &Wake, timeout_ns: u64) -> bool {
        if !wake.prepare() {
            return false;
        }
        let mut fds = [PollFd {
            fd: wake.fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        let n = ppoll(&mut fds, Some(timeout_ns), None).unwrap();
        wake.finish(n != 0);
        n == 0
    }

    #[test]
    fn a_ring_is_never_lost() {
        let wake = Wake::new().unwrap();
        assert!(sleeps(&wake, 1000), "nobody rang");
        wake.ring();
        wake.ring();
        assert!(!sleeps(&wake, 10_000_000_000), "rang before");
        assert!(sleeps(&wake, 1000), "once is enough");
        std::thread::scope(|scope| {
            scope.spawn(|| wake.ring());
            assert!(!sleeps(&wake, 10_000_000_000), "rang meanwhile");
        });
        assert!(sleeps(&wake, 1000));
    }
}
