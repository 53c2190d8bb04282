//! The thread that keeps the stack going while the application is elsewhere.
//!
//! | state | when | costs |
//! |---|---|---|
//! | asleep | a thread of the application leads every shard (it waits or spins) | nothing |
//! | ticking | the application has been at a shard within `steward_after` | a wake-up per tick |
//! | covering | nobody has turned a shard for `steward_after` | what its frames and timers cost |
//!
//! Chores (the netlink socket) are watched in every state.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::crew::Crew;
use super::engine::Engine;
use super::thread::{NOBODY, STEWARD, with_me};
use crate::sys::{PollFd, SignalSet, set_signal_mask};
use crate::time::{Clock, Instant, SystemClock};

/// A program that comes and goes more often than this many ticks keeps the steward ticking,
/// instead of waking it up each time it goes.
const QUIET_TICKS: u32 = 3;

/// What the steward does besides: kernel notifications.
pub(crate) trait Chores: Send {
    /// Moves the descriptors that become readable when there is something to do to the back of
    /// `fds`.
    fn fds(&self, fds: &mut Vec<RawFd>);
    /// Does it.
    fn run(&mut self);
    /// When to do what is done from time to time.
    fn due(&self) -> Instant {
        Instant::FAR_FUTURE
    }
    /// Does that.
    fn run_due(&mut self, now: Instant) {
        let _ = now;
    }
}

/// Starts the thread. All signals are blocked in it: they are the application's.
pub(crate) fn start<E, K>(crew: K, chores: Box<dyn Chores>) -> std::io::Result<JoinHandle<()>>
where
    E: Engine,
    K: core::ops::Deref<Target = Crew<E>> + Send + 'static,
{
    let before = set_signal_mask(SignalSet::ALL);
    crew.set_steward(true);
    let thread = std::thread::Builder::new()
        .name("luna-steward".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let mut steward = Steward {
                crew: &*crew,
                chores,
                quiet: 0,
            };
            steward.run();
            drop(steward);
            crew.set_steward(false);
        });
    set_signal_mask(before);
    thread
}

struct Steward<'a, E> {
    crew: &'a Crew<E>,
    chores: Box<dyn Chores>,
    quiet: u32,
}

impl<E: Engine> Steward<'_, E> {
    fn run(&mut self) {
        let bell = Arc::clone(self.crew.steward_bell());
        let (mut fds, mut watched) = (Vec::new(), Vec::new());
        while !self.crew.is_stopping() {
            let deadline = self.round();
            fds.clear();
            watched.clear();
            self.chores.fds(&mut watched);
            fds.extend(watched.iter().map(|fd| PollFd {
                fd: *fd,
                events: libc::POLLIN,
                revents: 0,
            }));
            // Without a tick to come, whoever leaves a shard must tell.
            let asleep = deadline == Instant::FAR_FUTURE;
            self.chores.run_due(SystemClock.now());
            let deadline = deadline.min(self.chores.due());
            if asleep && !self.crew.steward_sleeps() {
                continue;
            }
            let led = |lane: &&super::lane::Lane<E>| lane.leader() == STEWARD;
            // An error is a signal's, and all are blocked.
            let _ = self
                .crew
                .sleep_on(&led, &bell, &mut fds, deadline, SignalSet::ALL);
            if asleep {
                self.crew.steward_wakes();
            }
            if fds.iter().take(watched.len()).any(|fd| fd.revents != 0) {
                self.chores.run();
            }
        }
    }

    /// Looks after every shard that nobody does; when to look again at the latest.
    fn round(&mut self) -> Instant {
        let now = SystemClock.now();
        let after = self.crew.manner.steward_after;
        let mut tick = false;
        for lane in self.crew.lanes() {
            match lane.leader() {
                STEWARD => self.turn(lane, now),
                NOBODY => {
                    if now.saturating_since(lane.turned()) < after {
                        tick = true;
                    } else if lane.cover() {
                        self.turn(lane, now);
                    }
                }
                _ => {}
            }
        }
        self.quiet = if tick {
            0
        } else {
            self.quiet.saturating_add(1)
        };
        // While the application comes and goes, keep the tick: see QUIET_TICKS.
        if tick || self.quiet < QUIET_TICKS {
            now + after
        } else {
            Instant::FAR_FUTURE
        }
    }

    fn turn(&self, lane: &super::lane::Lane<E>, now: Instant) {
        with_me(|me| self.crew.turn_lane(me, lane, now));
    }
}
