//! Rounds of a loop: the shard, what other threads have posted, timers, the kernel, sleep.
#![forbid(unsafe_code)]

use core::cmp::Reverse;
use core::sync::atomic::Ordering;

use super::table::What;
use super::told::Told;
use super::{Callbacks, Inner, Loop};
use crate::socket::epoll;
use crate::socket::runtime::{self, thread::with_me};
use crate::stack::Inline;
use crate::sys::{self, EpollEvent, Errno, PollFd};
use crate::time::{Clock, Duration, Instant, SystemClock};

/// Events of the kernel that one round takes.
const KERNEL_EVENTS: usize = 64;
impl<C: Callbacks> Loop<C> {
    /// Runs until [`Loop::stop`].
    ///
    /// # Errors
    ///
    /// `EBUSY` if it runs already.
    pub fn run(&self) -> Result<(), Errno> {
        self.owning(|inner| {
            let mut worked_at = SystemClock.now();
            while !self.stop.swap(false, Ordering::Acquire) {
                let now = SystemClock.now();
                if self.round(inner, now) {
                    worked_at = now;
                } else if !inner.busy && now.saturating_since(worked_at) >= inner.spin {
                    self.sleep(inner, Instant::FAR_FUTURE);
                    worked_at = SystemClock.now();
                }
            }
        })
    }

    /// Runs one round; waits for work until then. Whether there was any.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it runs already.
    pub fn turn(&self, patience: Option<Duration>) -> Result<bool, Errno> {
        self.owning(|inner| {
            let began = SystemClock.now();
            let deadline = patience.map_or(Instant::FAR_FUTURE, |span| began + span);
            loop {
                let now = SystemClock.now();
                if self.round(inner, now) {
                    return true;
                }
                if self.stop.load(Ordering::Acquire) || now >= deadline {
                    return false;
                }
                if !inner.busy && now.saturating_since(began) >= inner.spin {
                    self.sleep(inner, deadline);
                }
            }
        })
    }

    /// Runs `f` as the one that owns the shard.
    fn owning<R>(&self, f: impl FnOnce(&Inner<C>) -> R) -> Result<R, Errno> {
        let inner = self.enter()?;
        if inner.running.get() || with_me(|me| me.is_in_callback()) {
            return Err(Errno::BUSY);
        }
        let crew = runtime::crew();
        let lane = inner
            .shard
            .and_then(|shard| crew.and_then(|crew| crew.lanes().get(shard)));
        if let Some(lane) = lane
            && !with_me(|me| lane.own(me.number))
        {
            return Err(Errno::BUSY);
        }
        with_me(|me| me.set_own(inner.shard.filter(|_| lane.is_some())));
        inner.running.set(true);
        let result = f(&inner);
        inner.running.set(false);
        with_me(|me| me.set_own(None));
        if let (Some(crew), Some(lane)) = (crew, lane) {
            crew.disown(lane);
        }
        Ok(result)
    }

    /// Runs callbacks: from within, waiting is an error.
    fn calling<R>(f: impl FnOnce() -> R) -> R {
        let before = with_me(|me| me.set_in_callback(true));
        let result = f();
        with_me(|me| me.set_in_callback(before));
        result
    }

    fn round(&self, inner: &Inner<C>, now: Instant) -> bool {
        let mut worked = self.turn_shard(inner);
        if self.has_posts.load(Ordering::Acquire) {
            worked |= self.run_posts();
        }
        worked |= Self::calling(|| self.run_timers(inner, now));
        worked |= Self::calling(|| self.tell_done(inner));
        if worked {
            inner.worked_at.set(now);
        }
        // Sockets of ours that are not the shard's business are in the set, too.
        let is_due = || {
            inner.set.has_queued()
                || inner.kernel.is_due(now)
                || !worked && inner.kernel.is_due_when_idle(now, inner.worked_at.get())
        };
        if inner.in_set.get() > 0 && is_due() {
            let found = self.ask_kernel(inner);
            inner.kernel.asked(now, found);
            worked |= found;
        }
        worked
    }

    fn turn_shard(&self, inner: &Inner<C>) -> bool {
        let Some(crew) = runtime::crew() else {
            return false;
        };
        let Some(lane) = inner.shard.and_then(|shard| crew.lanes().get(shard)) else {
            return false;
        };
        let mut wakeups = inner.wakeups.take();
        let mut told = Inline(Told {
            to: self,
            cell: lane.cell(),
        });
        let quiet =
            || !self.stop.load(Ordering::Relaxed) && !self.has_posts.load(Ordering::Relaxed);
        let worked = Self::calling(|| lane.turn_inline(&mut told, &mut wakeups, quiet));
        if !wakeups.is_empty() {
            crew.deliver(&mut wakeups);
        }
        inner.wakeups.replace(wakeups);
        worked
    }

    /// Runs what is posted, but not what that posts.
    pub(super) fn run_posts(&self) -> bool {
        self.has_posts.store(false, Ordering::Release);
        let count = self.posts.lock().len();
        for _ in 0..count {
            let Some(task) = self.posts.lock().pop_front() else {
                break;
            };
            Self::calling(|| C::run(task, self));
        }
        count > 0
    }

    fn run_timers(&self, inner: &Inner<C>, now: Instant) -> bool {
        let mut worked = false;
        loop {
            let due = {
                let mut timers = inner.timers.borrow_mut();
                match timers.peek() {
                    Some(Reverse((at, _))) if *at <= now => timers.pop(),
                    _ => None,
                }
            };
            let Some(Reverse((at, handle))) = due else {
                return worked;
            };
            let Ok(What::Timer { every, task }) = inner.live(handle).map(|entry| entry.what) else {
                continue;
            };
            worked = true;
            match every {
                None => drop(inner.table.borrow_mut().remove(handle)),
                Some(every) => {
                    // One that was missed is made up for once, not as often as it was missed.
                    let next = (at + every).max(now + Duration::from_nanos(1));
                    inner.timers.borrow_mut().push(Reverse((next, handle)));
                }
            }
            C::run(task, self);
        }
    }

    /// Completions of connections over descriptors, and connections to be looked at.
    pub(super) fn tell_done(&self, inner: &Inner<C>) -> bool {
        let mut worked = false;
        let looks = inner.look.borrow().len();
        for _ in 0..looks {
            let Some(handle) = inner.look.borrow_mut().pop_front() else {
                break;
            };
            if let Ok(What::Fd(conn)) = inner.live(handle).map(|entry| entry.what) {
                self.tell_completions(inner, handle, conn.fd);
            }
        }
        loop {
            // The queue is not borrowed while the application is called.
            let next = inner.done.borrow_mut().pop_front();
            let Some((handle, done)) = next else {
                return worked;
            };
            worked = true;
            let entry = inner.table.borrow_mut().any(handle).copied();
            let Some(entry) = entry else { continue };
            if let Some(callbacks) = entry.callbacks {
                callbacks.completed(self, handle, entry.user, &[done]);
            }
            inner.told_marks(handle, 1);
        }
    }

    fn ask_kernel(&self, inner: &Inner<C>) -> bool {
        let mut events = [EpollEvent::default(); KERNEL_EVENTS];
        let count = epoll::wait(&inner.set, &mut events, Some(Duration::ZERO), None).unwrap_or(0);
        // Written by this loop's callbacks: it leaves with the next turn of its own.
        with_me(|me| me.set_in_loop(false));
        for event in events.iter().take(count) {
            let (handle, ready) = (event.data, event.events);
            Self::calling(|| self.on_event(inner, handle, ready));
        }
        count > 0
    }

    /// Sleeps until `deadline`, a frame, an event, a timer or a bell.
    fn sleep(&self, inner: &Inner<C>, deadline: Instant) {
        let timer = inner.timers.borrow().peek().map(|Reverse((at, _))| *at);
        let mut until = timer.map_or(deadline, |at| at.min(deadline));
        if !inner.look.borrow().is_empty() {
            // Completions of other shards' connections do not ring.
            until = until.min(SystemClock.now() + LOOK_AGAIN);
        }
        let mut fds = vec![PollFd {
            fd: inner.set_fd,
            events: libc::POLLIN,
            revents: 0,
        }];
        let mask = sys::signal_mask();
        inner.kernel.hurry();
        // Everything of ours in the set rings this bell.
        inner.set.add_sleeper(&self.bell, true);
        let nothing = !inner.set.has_queued() && !self.has_posts.load(Ordering::Acquire);
        if nothing && !self.stop.load(Ordering::Acquire) {
            self.sleep_on(&mut fds, until, mask);
        }
        inner.set.remove_sleeper(&self.bell);
    }

    fn sleep_on(&self, fds: &mut Vec<PollFd>, until: Instant, mask: sys::SignalSet) {
        if let Some(crew) = runtime::crew() {
            with_me(|me| {
                crew.enter(me);
                // An error is a signal's, whose handler has run.
                let _interrupted = crew.sleep(me, &self.bell, fds, until, mask);
                // What it has watched for others besides.
                let now = crew.turn(me).now;
                crew.leave(me, now, false);
            });
            return;
        }
        fds.push(PollFd {
            fd: self.bell.fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        if self.bell.prepare() {
            let timeout = (until != Instant::FAR_FUTURE)
                .then(|| until.saturating_since(SystemClock.now()).as_nanos());
            let slept = sys::ppoll(fds, timeout, Some(mask));
            let rung = slept.is_ok() && fds.last().is_some_and(|fd| fd.revents != 0);
            self.bell.finish(rung);
        }
    }
}

/// How often completions that do not ring are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl<C: Callbacks> Loop<C> {
    /// The end: resets connections, closes listeners, and tells the completions of that.
    ///
    /// # Errors
    ///
    /// `EBUSY` while it runs.
    pub fn shut(&self) -> Result<(), Errno> {
        self.owning(|inner| {
            self.run_posts();
            let handles = inner.table.borrow().handles();
            for handle in handles {
                let what = inner.live(handle).map(|entry| entry.what);
                match what {
                    Ok(What::Watch { fd, .. }) => {
                        inner.unwatch(fd);
                        inner.table.borrow_mut().remove(handle);
                    }
                    Ok(What::Timer { .. }) => drop(inner.table.borrow_mut().remove(handle)),
                    _ => drop(inner.close(handle, true)),
                }
            }
            // Resets leave, and what they complete is told.
            self.turn_shard(inner);
            Self::calling(|| self.tell_done(inner));
        })
    }
}
