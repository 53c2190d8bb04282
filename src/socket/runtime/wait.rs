//! The one way to wait: turn, look, and when there is nothing for a while, sleep.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::crew::Crew;
use super::engine::Engine;
use super::thread::{Me, with_me};
use super::wake::Wake;
use crate::socket::epoll::{IDLE_AFTER, IDLE_GAP};
use crate::sys::{self, Errno, PollFd, SignalSet, set_signal_mask};
use crate::time::{Clock, Duration, Instant, SystemClock};

/// Signals are held back from this long into a wait until its end (they are let through while
/// it sleeps, and looked for every so often if it never does). A handler that ran while we spin
/// would go unnoticed, and its program would sleep on. Before that, the handler might as well
/// have run before the call; and a call that is answered this fast costs no system call.
const HOLD_SIGNALS_AFTER: Duration = Duration::from_micros(10);

/// How often to look for held signals in a wait that does not sleep.
const LOOK_FOR_SIGNALS_EVERY: Duration = Duration::from_micros(200);

/// How a condition is to look at the kernel's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// If it is due.
    Lazily,
    /// In any case: this is the last look before sleeping or giving up.
    Thoroughly,
}

/// What a thread waits for.
pub(crate) trait Condition {
    /// What it gets.
    type Output;
    /// After a turn.
    fn look(&mut self, now: Instant, look: Look) -> Result<Option<Self::Output>, Errno>;
    /// From now on, whatever may make the condition true rings the bell. Called before each
    /// sleep, and followed by a thorough look.
    fn arm(&mut self, bell: &Arc<Wake>);
    /// No more.
    fn disarm(&mut self, bell: &Arc<Wake>);
    /// Kernel descriptors to sleep on as well.
    fn fds(&self, fds: &mut Vec<PollFd>);
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For ever.
    Endless,
    /// This long from the call.
    For(Duration),
    /// Until then.
    Until(Instant),
}

impl Patience {
    fn deadline(self, now: Instant) -> Instant {
        match self {
            Self::Endless => Instant::FAR_FUTURE,
            Self::For(span) => now + span,
            Self::Until(deadline) => deadline,
        }
    }
}

/// Holds signals back while it lives.
struct Held {
    before: SignalSet,
}

impl Held {
    fn new() -> Self {
        Self {
            before: set_signal_mask(SignalSet::ALL_BUT_FAULTS),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        set_signal_mask(self.before);
    }
}

/// Waits for `condition`. `Ok(None)`: patience ran out.
///
/// `mask` holds while the thread sleeps, as in `ppoll(2)`.
///
/// # Errors
///
/// `EINTR`, `EBUSY` in a callback of an event loop, and what the condition says.
pub(crate) fn wait<E: Engine, C: Condition>(
    crew: &Crew<E>,
    condition: &mut C,
    patience: Patience,
    mask: Option<SignalSet>,
) -> Result<Option<C::Output>, Errno> {
    with_me(|me| {
        if me.is_in_callback() {
            return look_only(condition, patience);
        }
        crew.enter(me);
        let mut visit = Visit {
            crew,
            me,
            mask,
            held: None,
            now: Instant::ZERO,
        };
        let result = visit.run(condition, patience);
        let now = visit.now;
        crew.leave(me, now, matches!(result, Ok(Some(_))));
        // Held signals are let through last: their handlers may call us.
        drop(visit);
        result
    })
}

/// In a callback of an event loop, nothing would come while we waited.
#[cold]
fn look_only<C: Condition>(
    condition: &mut C,
    patience: Patience,
) -> Result<Option<C::Output>, Errno> {
    let now = SystemClock.now();
    match condition.look(now, Look::Thoroughly)? {
        None if patience.deadline(now) > now => Err(Errno::BUSY),
        found => Ok(found),
    }
}

/// One call's wait.
struct Visit<'a, E> {
    crew: &'a Crew<E>,
    me: &'a Me,
    mask: Option<SignalSet>,
    held: Option<Held>,
    now: Instant,
}

impl<E: Engine> Visit<'_, E> {
    fn run<C: Condition>(
        &mut self,
        condition: &mut C,
        patience: Patience,
    ) -> Result<Option<C::Output>, Errno> {
        let first = self.crew.turn(self.me);
        self.now = first.now;
        self.me.enters(first.now);
        let deadline = patience.deadline(first.now);
        if deadline <= first.now {
            return condition.look(first.now, Look::Thoroughly);
        }
        if let Some(found) = condition.look(first.now, Look::Lazily)? {
            return Ok(Some(found));
        }
        loop {
            // Where other threads turn the shards, there is nothing to do but sleep.
            if !self.crew.manner.dedicated
                && let Some(end) = self.spin(condition, deadline)?
            {
                return Ok(end);
            }
            if let Some(end) = self.sleep(condition, deadline)? {
                return Ok(end);
            }
        }
    }

    /// Turns for a while. `Some`: the wait is over.
    fn spin<C: Condition>(
        &mut self,
        condition: &mut C,
        deadline: Instant,
    ) -> Result<Option<Option<C::Output>>, Errno> {
        let manner = self.crew.manner;
        let hold_at = self.now + HOLD_SIGNALS_AFTER;
        let mut look_at = self.now + LOOK_FOR_SIGNALS_EVERY;
        let mut end = self.now + manner.spin;
        let (mut worked_at, mut looked_at) = (self.now, self.now);
        while manner.busy || self.now < end {
            core::hint::spin_loop();
            let round = self.crew.turn(self.me);
            self.now = round.now;
            let mut look = Look::Lazily;
            if manner.busy
                && round.now.saturating_since(worked_at) >= IDLE_AFTER
                && round.now.saturating_since(looked_at) >= IDLE_GAP
            {
                // Who turns for ever and has nothing to do can as well ask the kernel.
                (look, looked_at) = (Look::Thoroughly, round.now);
            }
            if let Some(found) = condition.look(round.now, look)? {
                return Ok(Some(Some(found)));
            }
            if round.now >= deadline {
                return condition.look(round.now, Look::Thoroughly).map(Some);
            }
            if round.more {
                worked_at = round.now;
                end = round.now + manner.spin;
            }
            if round.now >= hold_at && self.held.is_none() {
                self.held = Some(Held::new());
            }
            if round.now >= look_at {
                look_at = round.now + LOOK_FOR_SIGNALS_EVERY;
                // Even without waiting it says EINTR if a signal is pending that it lets in.
                if let Err(errno) = sys::ppoll(&mut [], Some(0), Some(self.sleep_mask())) {
                    return self.interrupted(condition, errno).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Sleeps, then turns. `Some`: the wait is over; `None`: spin again.
    fn sleep<C: Condition>(
        &mut self,
        condition: &mut C,
        deadline: Instant,
    ) -> Result<Option<Option<C::Output>>, Errno> {
        let bell = self.me.wake()?;
        if self.held.is_none() {
            self.held = Some(Held::new());
        }
        let mut fds = Vec::new();
        condition.fds(&mut fds);
        let result = loop {
            // Each time: who rang may have taken the bell off its list.
            condition.arm(&bell);
            match condition.look(self.now, Look::Thoroughly) {
                Ok(None) => {}
                Ok(found) => break Ok(found),
                Err(errno) => break Err(errno),
            }
            if self.now >= deadline {
                break Ok(None);
            }
            let mask = self.sleep_mask();
            let slept = self.crew.sleep(self.me, &bell, &mut fds, deadline, mask);
            self.now = self.crew.turn(self.me).now;
            if let Err(errno) = slept {
                break self.interrupted(condition, errno);
            }
        };
        condition.disarm(&bell);
        result.map(Some)
    }

    /// A signal was handled; what has happened meanwhile comes first, as with the kernel.
    fn interrupted<C: Condition>(
        &mut self,
        condition: &mut C,
        errno: Errno,
    ) -> Result<Option<C::Output>, Errno> {
        match condition.look(self.now, Look::Thoroughly)? {
            Some(found) => Ok(Some(found)),
            None => Err(errno),
        }
    }

    /// The mask to sleep with: the caller's, or the thread's own.
    fn sleep_mask(&self) -> SignalSet {
        let own = || match &self.held {
            Some(held) => held.before,
            None => sys::signal_mask(),
        };
        self.mask.unwrap_or_else(own)
    }
}
