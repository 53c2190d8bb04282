//! `epoll_wait` and its kin.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::kernel::sift;
use super::set::Set;
use crate::socket::runtime;
use crate::socket::runtime::crew::Crew;
use crate::socket::runtime::engine::Engine;
use crate::socket::runtime::thread::with_me;
use crate::socket::runtime::wait::{Condition, Look, Patience, wait as wait_for};
use crate::socket::runtime::wake::Wake;
use crate::sys::{self, EpollEvent, Errno, PollFd, SignalSet};
use crate::time::{Clock, Duration, Instant, SystemClock};

/// `epoll_pwait2(2)`: how many events were put at the front of `events`. `timeout`: none waits
/// for ever. `mask` holds while the thread sleeps.
///
/// # Errors
///
/// `EINVAL` if `events` is empty, `EINTR`.
pub fn wait(
    set: &Arc<Set>,
    events: &mut [EpollEvent],
    timeout: Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    if events.is_empty() {
        return Err(Errno::INVAL);
    }
    let mut patience = timeout.map_or(Patience::Endless, Patience::For);
    if runtime::crew().is_none() || !set.has_luna_items() {
        runtime::flush_deferred();
        let started = SystemClock.now();
        if let Some(count) = wait_in_kernel(set, events, timeout, mask)? {
            return Ok(count);
        }
        // It has got a socket of ours meanwhile.
        patience = timeout.map_or(Patience::Endless, |t| Patience::Until(started + t));
    }
    // The runtime is up: it never goes away but in the child of a fork.
    let Some(crew) = runtime::crew() else {
        return Ok(0);
    };
    wait_with(crew, set, events, patience, mask)
}

/// Waits on the shards of `crew` and in the kernel.
pub(super) fn wait_with<E: Engine>(
    crew: &Crew<E>,
    set: &Arc<Set>,
    events: &mut [EpollEvent],
    patience: Patience,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    set.waiters.fetch_add(1, Ordering::Relaxed);
    let mut waiting = Waiting { set, events };
    let result = wait_for(crew, &mut waiting, patience, mask);
    set.waiters.fetch_sub(1, Ordering::Relaxed);
    let count = result?.unwrap_or(0);
    with_me(|me| me.set_in_loop(count != 0));
    Ok(count)
}

/// Waits in the kernel's half alone. `None`: the set has got sockets of ours.
fn wait_in_kernel(
    set: &Arc<Set>,
    events: &mut [EpollEvent],
    timeout: Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<Option<usize>, Errno> {
    let started = timeout
        .filter(|t| *t != Duration::ZERO)
        .map(|t| (SystemClock.now(), t));
    let mut left = timeout;
    loop {
        if !set.enter_kernel() {
            return Ok(None);
        }
        // Without shards, a listener's kernel half still reports through the queue.
        let ours = if set.has_queued() {
            let share = set.kernel.share(events.len());
            set.collect(events.get_mut(..share).unwrap_or_default())
        } else {
            0
        };
        let rest = events.get_mut(ours..).unwrap_or_default();
        let left_ns = if ours == 0 {
            left.map(Duration::as_nanos)
        } else {
            Some(0)
        };
        set.refresh_nested();
        let result = sys::epoll_wait(set.kernel_fd(), rest, left_ns, mask);
        set.leave_kernel();
        let count = match result {
            Ok(count) => count,
            Err(_) if ours != 0 => return Ok(Some(ours)),
            Err(errno) => return Err(errno),
        };
        let found = sift(rest, count);
        if found.inner {
            set.take_reports();
        }
        let total = ours + found.events;
        if total != 0 || count == 0 {
            return Ok(Some(total));
        }
        if set.has_queued() {
            // What the kernel's half has just reported: no need to wait for it.
            let count = set.collect(events);
            if count != 0 {
                return Ok(Some(count));
            }
        }
        if timeout == Some(Duration::ZERO) {
            return Ok(Some(0));
        }
        if let Some((started, timeout)) = started {
            left = Some((started + timeout).saturating_since(SystemClock.now()));
        }
    }
}

impl Set {
    /// A thread is about to sleep in the kernel's half alone; false: that would not do.
    fn enter_kernel(&self) -> bool {
        let mut state = self.state.lock();
        if (state.luna_items != 0 || !state.nested.is_empty()) && runtime::crew().is_some() {
            return false;
        }
        state.kernel_sleepers += 1;
        self.settle(&mut state);
        true
    }

    fn leave_kernel(&self) {
        let mut state = self.state.lock();
        state.kernel_sleepers = state.kernel_sleepers.saturating_sub(1);
        self.settle(&mut state);
    }
}

struct Waiting<'a> {
    set: &'a Arc<Set>,
    events: &'a mut [EpollEvent],
}

impl Waiting<'_> {
    fn ask_kernel(&mut self, now: Instant, from: usize) -> Result<usize, Errno> {
        let rest = self.events.get_mut(from..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(from);
        }
        self.set.refresh_nested();
        let found = self.set.kernel.ask(now, rest)?;
        if found.inner {
            self.set.take_reports();
        }
        Ok(from + found.events)
    }
}

impl Condition for Waiting<'_> {
    type Output = usize;

    fn look(&mut self, now: Instant, look: Look) -> Result<Option<usize>, Errno> {
        let kernel = self.set.kernel.is_due(now)
            || self.set.kernel.has_nested()
            || look == Look::Thoroughly && self.set.kernel.is_used();
        let mut count = 0;
        if self.set.has_queued() {
            let room = self.events.len();
            let share = if kernel {
                self.set.kernel.share(room)
            } else {
                room
            };
            count = self
                .set
                .collect(self.events.get_mut(..share).unwrap_or_default());
        }
        if kernel {
            let ours = count;
            count = self.ask_kernel(now, count)?;
            // Ours had to leave room, or were only reported by the kernel.
            if count == 0 && ours == 0 && self.set.has_queued() {
                count = self.set.collect(self.events);
            }
        }
        Ok((count != 0).then_some(count))
    }

    fn arm(&mut self, bell: &Arc<Wake>) {
        self.set.add_sleeper(bell, true);
    }

    fn disarm(&mut self, bell: &Arc<Wake>) {
        self.set.remove_sleeper(bell);
    }

    fn fds(&self, fds: &mut Vec<PollFd>) {
        let fd: RawFd = self.set.kernel_fd();
        fds.push(PollFd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
    }
}
