//! The deadlines of a connection, and the earliest of them.
//!
//! Timers are lazy: arming one is a store, and the owner's timer wheel is told only the
//! earliest deadline. Knows nothing of what happens when one expires.
#![forbid(unsafe_code)]

use crate::time::Instant;

/// The timers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The oldest unacknowledged segment may be lost (RFC 6298).
    Retransmit,
    /// There is data but the window, or politeness, forbids sending it (RFC 9293 §3.8.6.1).
    Persist,
    /// An acknowledgment has waited long enough.
    DelayedAck,
    /// The peer has been silent.
    Keepalive,
    /// FIN-WAIT-2 without an application, or TIME-WAIT.
    Linger,
    /// There is data that the pacing rate holds back.
    Pacing,
}

/// A deadline per [`Timer`]; `FAR_FUTURE` means not armed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    earliest: Instant,
    retransmit: Instant,
    persist: Instant,
    delayed_ack: Instant,
    keepalive: Instant,
    linger: Instant,
    pacing: Instant,
}

impl Timers {
    pub(crate) const fn new() -> Self {
        const OFF: Instant = Instant::FAR_FUTURE;
        Self {
            earliest: OFF,
            retransmit: OFF,
            persist: OFF,
            delayed_ack: OFF,
            keepalive: OFF,
            linger: OFF,
            pacing: OFF,
        }
    }

    fn slot(&mut self, timer: Timer) -> &mut Instant {
        match timer {
            Timer::Retransmit => &mut self.retransmit,
            Timer::Persist => &mut self.persist,
            Timer::DelayedAck => &mut self.delayed_ack,
            Timer::Keepalive => &mut self.keepalive,
            Timer::Linger => &mut self.linger,
            Timer::Pacing => &mut self.pacing,
        }
    }

    /// The deadline of `timer`.
    pub(crate) const fn at(&self, timer: Timer) -> Instant {
        match timer {
            Timer::Retransmit => self.retransmit,
            Timer::Persist => self.persist,
            Timer::DelayedAck => self.delayed_ack,
            Timer::Keepalive => self.keepalive,
            Timer::Linger => self.linger,
            Timer::Pacing => self.pacing,
        }
    }

    /// Whether `timer` is armed.
    pub(crate) fn is_armed(&self, timer: Timer) -> bool {
        self.at(timer) != Instant::FAR_FUTURE
    }

    /// Arms `timer`, whether or not it was.
    #[inline]
    pub(crate) fn arm(&mut self, timer: Timer, at: Instant) {
        *self.slot(timer) = at;
        self.earliest = (self.retransmit.min(self.persist))
            .min(self.delayed_ack.min(self.keepalive))
            .min(self.linger.min(self.pacing));
    }

    /// Disarms `timer`.
    #[inline]
    pub(crate) fn disarm(&mut self, timer: Timer) {
        if self.is_armed(timer) {
            self.arm(timer, Instant::FAR_FUTURE);
        }
    }

    /// Disarms all.
    pub(crate) fn disarm_all(&mut self) {
        *self = Self::new();
    }

    /// Disarms `timer` if its deadline has come, and says whether it had.
    pub(crate) fn take_expired(&mut self, timer: Timer, now: Instant) -> bool {
        let expired = self.at(timer) <= now;
        if expired {
            self.disarm(timer);
        }
        expired
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) const fn earliest(&self) -> Instant {
        self.earliest
    }
}
