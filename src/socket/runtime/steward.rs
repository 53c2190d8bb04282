//! The thread that keeps the stack going while the application is elsewhere.
//!
//! | state | when | costs |
//! |---|---|---|
//! | asleep | a thread of the application leads every shard (it waits or spins) | nothing |
//! | ticking | the application was at a shard within `steward_after` | a wake-up per tick |
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
use crate::time::{Clock, Duration, Instant, SystemClock};

/// A program that comes and goes more often than this many ticks keeps the steward ticking,
/// instead of waking it up each time it goes.
const QUIET_TICKS: u32 = 3;

/// After so many ticks at which nothing was late, the next ones come half as often.
const CALM_TICKS: u32 = 32;
/// How often they are halved. Each tick takes the processor from a thread that may just have a
/// request in hand; and a program that has always been back in time may once be covered for
/// 2^this times later than one that is known not to be.
const HALVINGS_MAX: u32 = 3;

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
                pace: Pace::default(),
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
    pace: Pace,
}

/// How soon the steward looks again.
#[derive(Debug, Default)]
struct Pace {
    /// Ticks in a row at which the application was at every shard, or the steward.
    quiet: u32,
    /// Ticks in a row at which no shard had been left for long.
    calm: u32,
}

impl Pace {
    /// When to look again; `None`: not without being told. `away`: how long ago a shard was left
    /// that nobody is at, if there is one. `urgent`: one was left for too long, or threads that
    /// sleep depend on another.
    fn next(&mut self, after: Duration, away: Option<Duration>, urgent: bool) -> Option<Duration> {
        let late = urgent || away.is_some_and(|away| away >= after.div(4));
        self.calm = match late {
            true => 0,
            false => self.calm.saturating_add(1),
        };
        self.quiet = match away {
            Some(_) => 0,
            None => self.quiet.saturating_add(1),
        };
        // While the application comes and goes, keep the tick: see QUIET_TICKS.
        if self.quiet >= QUIET_TICKS {
            return None;
        }
        match (self.calm / CALM_TICKS).min(HALVINGS_MAX) {
            0 => Some(after.saturating_sub(away.unwrap_or(Duration::ZERO))),
            halvings => Some(after.saturating_mul(1 << halvings)),
        }
    }
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
        // How long ago the shard that has waited longest was turned, if nobody is at it.
        let mut away = None;
        // Others would have to wait as well.
        let mut urgent = self.crew.has_followers();
        for lane in self.crew.lanes() {
            match lane.leader() {
                STEWARD => {
                    urgent = true;
                    self.turn(lane, now);
                }
                NOBODY => {
                    let since = now.saturating_since(lane.turned());
                    if since < after {
                        away = away.max(Some(since));
                    } else if lane.cover() {
                        urgent = true;
                        self.turn(lane, now);
                    }
                }
                _ => {}
            }
        }
        match self.pace.next(after, away, urgent) {
            // Somebody has begun to depend on it since.
            Some(wait) if !self.crew.steward_dozes(wait > after) => now + after,
            Some(wait) => now + wait,
            None => Instant::FAR_FUTURE,
        }
    }

    fn turn(&self, lane: &super::lane::Lane<E>, now: Instant) {
        with_me(|me| self.crew.turn_lane(me, lane, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_millis(1);

    fn us(us: u64) -> Option<Duration> {
        Some(Duration::from_micros(us))
    }

    #[test]
    fn ticks_become_fewer_while_the_program_is_always_back_in_time() {
        let mut pace = Pace::default();
        let calm = CALM_TICKS as usize;
        let waits: Vec<_> = (0..6 * calm)
            .map(|_| pace.next(AFTER, us(10), false))
            .collect();
        let wait_at = |tick: usize| waits[tick - 1];
        assert_eq!((wait_at(1), wait_at(calm - 1)), (us(990), us(990)));
        assert_eq!((wait_at(calm), wait_at(2 * calm)), (us(2000), us(4000)));
        assert_eq!((wait_at(3 * calm), wait_at(6 * calm)), (us(8000), us(8000)));
        assert_eq!(pace.next(AFTER, us(900), false), us(100), "nearly too late");
        assert_eq!(pace.next(AFTER, us(10), false), us(990));
    }

    #[test]
    fn a_program_that_was_covered_is_looked_after_closely() {
        let mut pace = Pace::default();
        for _ in 0..10 * CALM_TICKS {
            pace.next(AFTER, us(10), false);
        }
        assert_eq!(pace.next(AFTER, None, true), us(1000));
        assert_eq!(pace.next(AFTER, us(10), false), us(990));
    }

    #[test]
    fn with_nobody_gone_it_goes_to_sleep() {
        let mut pace = Pace::default();
        for _ in 1..QUIET_TICKS {
            assert!(pace.next(AFTER, None, false).is_some());
        }
        assert_eq!(pace.next(AFTER, None, false), None);
        assert_eq!(pace.next(AFTER, us(0), false), us(1000));
    }
}
