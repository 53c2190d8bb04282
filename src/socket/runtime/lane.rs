//! A shard with what threads need to agree on who turns it.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::engine::{Engine, Memory};
use super::thread::{NOBODY, STEWARD};
use super::wake::Wake;
use crate::stack::{Dispatch, Shard, TurnReport, Wakeup};
use crate::sys::ForkMutex;
use crate::time::{Clock, Duration, Instant, SystemClock};
use crate::zbuf::ShardCell;

/// A thread that got something to do is at work for no longer than this if it is to be counted on.
const SERVER_BACK_WITHIN: Duration = Duration::from_micros(200);

/// "Nobody sleeps on the shard's descriptors."
const AWAKE: u64 = 0;

#[derive(Debug)]
pub(crate) struct Lane<E> {
    cell: ShardCell<E>,
    /// The device's, which do not change.
    fds: Vec<RawFd>,
    memory: Option<Memory>,
    /// The thread that watches the device while it waits; [`STEWARD`], or [`NOBODY`].
    leader: AtomicU32,
    /// The thread whose event loop owns the shard: nobody else turns it or leads it.
    owner: AtomicU32,
    /// The engine's next deadline as of the last time that anyone was inside.
    deadline: AtomicU64,
    /// Until when the leader sleeps, at the latest; [`AWAKE`].
    asleep_until: AtomicU64,
    /// The sleeping leader's bell.
    bell: ForkMutex<Option<Arc<Wake>>>,
    /// When it was last turned.
    turned: AtomicU64,
    /// The thread that last went away with something to do and is expected back, and when.
    server: AtomicU32,
    served: AtomicU64,
}

impl<E: Engine> Lane<E> {
    pub(crate) fn new(cell: ShardCell<E>) -> Self {
        let (fds, memory) = cell
            .with(|engine| (engine.wait_fds().to_vec(), engine.memory()))
            .unwrap_or_default();
        Self {
            cell,
            fds,
            memory,
            leader: AtomicU32::new(NOBODY),
            owner: AtomicU32::new(NOBODY),
            deadline: AtomicU64::new(Instant::FAR_FUTURE.as_nanos()),
            asleep_until: AtomicU64::new(AWAKE),
            bell: ForkMutex::new(None),
            turned: AtomicU64::new(0),
            server: AtomicU32::new(NOBODY),
            served: AtomicU64::new(0),
        }
    }

    /// Runs `f` inside, after waiting for whoever is there. `None`: the shard is poisoned, or
    /// this very thread is inside already.
    pub(crate) fn with<R: Send>(&self, f: impl FnOnce(&mut E) -> R + Send) -> Option<R> {
        let inside = |e: &mut E| (f(e), self.note_deadline(e.next_deadline()));
        let (result, moved) = self.cell.with(inside).ok()?;
        self.tell_leader(moved);
        Some(result)
    }

    /// One turn, unless someone else is inside and `wait` is false. Wakeups go to `out`.
    pub(crate) fn turn(
        &self,
        now: Instant,
        wait: bool,
        out: &mut Vec<Wakeup>,
    ) -> Option<TurnReport> {
        let turn = |engine: &mut E| {
            let report = engine.turn(now);
            engine.take_wakeups(out);
            (report, self.note_deadline(engine.next_deadline()))
        };
        let turned = if wait {
            self.cell.with(turn)
        } else {
            self.cell.try_with(turn)?
        };
        let (report, moved) = turned.ok()?;
        self.turned.store(now.as_nanos(), Ordering::Relaxed);
        self.tell_leader(moved);
        Some(report)
    }

    /// Sends what is queued.
    pub(crate) fn flush(&self, now: Instant, out: &mut Vec<Wakeup>) {
        let flush = |engine: &mut E| {
            engine.flush(now);
            engine.take_wakeups(out);
            self.note_deadline(engine.next_deadline())
        };
        if let Ok(moved) = self.cell.with(flush) {
            self.tell_leader(moved);
        }
    }

    /// Notes when the shard must be turned again, and says so if that has changed. To be called
    /// with the shard in hand: of two that did it later, the one that was inside first could have
    /// the last word.
    fn note_deadline(&self, deadline: Instant) -> Option<u64> {
        let deadline = deadline.as_nanos();
        if self.deadline.load(Ordering::Relaxed) == deadline {
            return None;
        }
        self.deadline.store(deadline, Ordering::SeqCst);
        Some(deadline)
    }

    /// Wakes a leader that would oversleep.
    fn tell_leader(&self, moved: Option<u64>) {
        // Pairs with `sleeps_until`: either we see until when it sleeps, or it sees the deadline.
        if let Some(deadline) = moved {
            let until = self.asleep_until.load(Ordering::SeqCst);
            if until != AWAKE && deadline < until {
                self.ring_leader();
            }
        }
    }

    /// Makes a sleeping leader look again.
    pub(crate) fn ring_leader(&self) {
        let bell = self.bell.lock().clone();
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// Prepares the device for sleep. The deadline to sleep until at most, or `None` if there
    /// is work.
    pub(crate) fn arm(&self) -> Option<Instant> {
        let inside = |e: &mut E| {
            let (armed, deadline) = (e.arm(), e.next_deadline());
            (armed, deadline, self.note_deadline(deadline))
        };
        // A poisoned shard has nothing to say any more.
        let (armed, deadline, moved) =
            self.cell
                .with(inside)
                .unwrap_or((true, Instant::FAR_FUTURE, None));
        self.tell_leader(moved);
        armed.then_some(deadline)
    }

    /// Announces the leader's sleep; false if a deadline has moved forward meanwhile.
    pub(crate) fn sleeps_until(&self, until: Instant, bell: &Arc<Wake>) -> bool {
        *self.bell.lock() = Some(Arc::clone(bell));
        self.asleep_until
            .store(until.as_nanos().max(1), Ordering::SeqCst);
        self.deadline.load(Ordering::SeqCst) >= until.as_nanos()
    }

    /// The leader is awake.
    pub(crate) fn awake(&self) {
        self.asleep_until.store(AWAKE, Ordering::Relaxed);
        *self.bell.lock() = None;
    }

    #[cfg(test)]
    pub(crate) fn is_slept_on(&self) -> bool {
        self.asleep_until.load(Ordering::SeqCst) != AWAKE
    }

    pub(crate) fn leader(&self) -> u32 {
        self.leader.load(Ordering::SeqCst)
    }

    /// Becomes leader if nobody or the steward is. True: `number` leads now (or did already).
    pub(crate) fn lead(&self, number: u32) -> bool {
        let owner = self.owner();
        if owner != NOBODY && owner != number {
            return false;
        }
        let mut seen = self.leader.load(Ordering::Relaxed);
        loop {
            if seen == number {
                return true;
            }
            if seen != NOBODY && seen != STEWARD {
                return false;
            }
            match self.leader.compare_exchange_weak(
                seen,
                number,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// The thread whose loop owns the shard, or [`NOBODY`].
    #[inline]
    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// A thread's loop takes the shard for itself, until [`Lane::disown`].
    pub(crate) fn own(&self, number: u32) -> bool {
        let free = self
            .owner
            .compare_exchange(NOBODY, number, Ordering::SeqCst, Ordering::Relaxed);
        if free.is_err() {
            return false;
        }
        if self.leader.swap(number, Ordering::SeqCst) != number {
            // Whoever sleeps on the device is to find out that it need not.
            self.ring_leader();
        }
        true
    }

    /// The loop does not run any more.
    pub(crate) fn disown(&self) {
        self.owner.store(NOBODY, Ordering::SeqCst);
        self.leader.store(NOBODY, Ordering::SeqCst);
    }

    /// The steward becomes leader if nobody is.
    pub(crate) fn cover(&self) -> bool {
        self.owner() == NOBODY
            && self
                .leader
                .compare_exchange(NOBODY, STEWARD, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            || self.leader() == STEWARD
    }

    /// Gives leadership up; true if it was `number`'s.
    pub(crate) fn resign(&self, number: u32) -> bool {
        if self.owner() == number {
            return false;
        }
        self.leader
            .compare_exchange(number, NOBODY, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether a thread waits for the lock.
    pub(crate) fn is_wanted(&self) -> bool {
        self.cell.is_wanted()
    }

    /// The lock, for an event loop.
    pub(crate) fn cell(&self) -> &ShardCell<E> {
        &self.cell
    }

    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    pub(crate) fn fds(&self) -> &[RawFd] {
        &self.fds
    }

    /// `number` goes away with something to do and will soon be back.
    pub(crate) fn note_server(&self, number: u32, now: Instant) {
        self.server.store(number, Ordering::Relaxed);
        self.served.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// `number` is not expected back soon.
    pub(crate) fn forget_server(&self, number: u32) {
        // A race costs a wake-up too many, or one of the steward's.
        if self.server.load(Ordering::Relaxed) == number {
            self.server.store(NOBODY, Ordering::Relaxed);
        }
    }

    /// Whether another thread than `number` is at work here: it turns the shard as often as it is
    /// done with what it got, and whoever slept on the device would be woken by each of its frames.
    pub(crate) fn is_served_by_another(&self, number: u32, now: Instant) -> bool {
        let server = self.server.load(Ordering::Relaxed);
        let served = Instant::from_nanos(self.served.load(Ordering::Relaxed));
        server != NOBODY && server != number && now.saturating_since(served) < SERVER_BACK_WITHIN
    }

    pub(crate) fn turned(&self) -> Instant {
        Instant::from_nanos(self.turned.load(Ordering::Relaxed))
    }
}

impl Lane<Shard> {
    /// Turns with an application that is called from within, for as long as there is something
    /// to do, nobody waits to come in, nothing is to be delivered and `go_on` agrees. Returns
    /// whether anything was done.
    pub(crate) fn turn_inline<D: Dispatch + Send>(
        &self,
        dispatch: &mut D,
        out: &mut Vec<Wakeup>,
        go_on: impl Fn() -> bool + Sync,
    ) -> bool {
        let turned = self.cell.with(|shard| {
            let mut worked = false;
            for _ in 0..INLINE_TURNS_MAX {
                let now = SystemClock.now();
                let report = shard.turn_with(now, dispatch);
                self.turned.store(now.as_nanos(), Ordering::Relaxed);
                shard.take_wakeups(out);
                worked |= !report.is_idle();
                if report.is_idle() || !out.is_empty() || self.cell.is_wanted() || !go_on() {
                    break;
                }
            }
            let moved = self.note_deadline(shard.next_deadline());
            (worked || shard.has_inline_work(), moved)
        });
        let Ok((worked, moved)) = turned else {
            return false;
        };
        self.tell_leader(moved);
        worked
    }
}

/// Most turns that a loop takes without giving the shard out of its hands.
const INLINE_TURNS_MAX: u32 = 64;
