//! What is being retransmitted and why: the variables of RFC 6582, RFC 6675, RFC 5682 and
//! RFC 4015.
//!
//! Pure bookkeeping; the decisions are made where acknowledgments and timeouts are processed.
#![forbid(unsafe_code)]

use crate::time::Instant;
use crate::wire::SeqNum;

/// How the connection stands with losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// Fast recovery: duplicate ACKs or SACK say that something is lost.
    Fast,
    /// A retransmission timeout, or a path that takes only smaller segments.
    Timeout,
}

/// How far F-RTO has got in finding out whether a timeout was spurious (RFC 5682).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frto {
    /// It was not, or nobody asks.
    Off,
    /// The first segment has been sent again; the first acknowledgment is awaited (step 2).
    First,
    /// New data has been sent; the second acknowledgment is awaited (step 3).
    Second,
}

/// What the retransmission timer is armed for (RFC 8985 §8: one timer with a state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// RFC 6298.
    Timeout,
    /// RFC 8985 §6.2: the reordering window of something passes.
    Reorder,
    /// RFC 8985 §7.2: the tail may be lost.
    Probe,
}

/// Loss recovery state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    pub(crate) frto: Frto,
    pub(crate) alarm: Alarm,
    /// Send the segment at SND.UNA next, whatever the window says.
    pub(crate) force_first: bool,
    /// Send the first of what is lost next, whatever the window says.
    pub(crate) force_lost: bool,
    /// Send a probe of the tail next, whatever the window says.
    pub(crate) probe_tail: bool,
    /// A partial acknowledgment has arrived in this recovery.
    pub(crate) partial_seen: bool,
    /// Retransmission timeouts in a row without progress.
    pub(crate) timeouts: u8,
    /// Duplicate ACKs since SND.UNA last moved.
    pub(crate) dup_acks: u32,
    /// RFC 6582's recover, RFC 6675's RecoveryPoint: SND.NXT when recovery began.
    pub(crate) recover: SeqNum,
    /// Bytes sent by limited transmit since SND.UNA last moved.
    pub(crate) limited_bytes: u32,
    /// The acknowledgment of this gives the next round-trip time: one measurement per round.
    pub(crate) rtt_mark: SeqNum,
    /// When something was last sent again.
    pub(crate) resent_at: Instant,
    /// What can be found to have been for nothing.
    pub(crate) undo: Undo,
}

/// An episode of retransmissions, while it may still turn out to have been for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    pub(crate) possible: bool,
    /// SND.UNA when it began.
    pub(crate) from: SeqNum,
    /// Once it is over: SND.NXT then, beyond which nothing about it will be heard.
    pub(crate) until: Option<SeqNum>,
    /// Bytes sent again of which the peer has not said that they were duplicates.
    pub(crate) unproven: u32,
    /// When the first of them was sent.
    pub(crate) first_resent: Option<Instant>,
}

impl Undo {
    /// The episode has not ended.
    pub(crate) fn is_under_way(&self) -> bool {
        self.possible && self.until.is_none()
    }
}

impl Recovery {
    pub(crate) const fn new(iss: SeqNum) -> Self {
        Self {
            phase: Phase::Open,
            frto: Frto::Off,
            alarm: Alarm::Timeout,
            force_first: false,
            force_lost: false,
            probe_tail: false,
            partial_seen: false,
            timeouts: 0,
            dup_acks: 0,
            recover: iss,
            limited_bytes: 0,
            rtt_mark: iss,
            resent_at: Instant::ZERO,
            undo: Undo {
                possible: false,
                from: iss,
                until: None,
                unproven: 0,
                first_resent: None,
            },
        }
    }

    /// A recovery of what is in `[una, nxt)` begins; the segment at `una` is sent again first.
    pub(crate) fn begin(&mut self, phase: Phase, una: SeqNum, nxt: SeqNum) {
        self.phase = phase;
        self.recover = nxt;
        self.dup_acks = 0;
        self.limited_bytes = 0;
        self.partial_seen = false;
        self.force_first = true;
        self.force_lost = false;
        self.probe_tail = false;
        self.frto = Frto::Off;
        // A timeout in the middle of an episode belongs to it.
        if !self.undo.is_under_way() {
            self.undo = Undo {
                possible: true,
                from: una,
                until: None,
                unproven: 0,
                first_resent: None,
            };
        }
    }

    /// Nothing is sent next that the window does not let out.
    #[inline]
    pub(crate) fn force_nothing(&mut self) {
        (self.force_first, self.force_lost, self.probe_tail) = (false, false, false);
    }

    /// `bytes` have been sent again.
    pub(crate) fn on_resent(&mut self, now: Instant, bytes: u32) {
        self.resent_at = now;
        if self.undo.is_under_way() {
            self.undo.unproven = self.undo.unproven.saturating_add(bytes);
            self.undo.first_resent.get_or_insert(now);
        }
    }

    /// Recovery is over; `nxt` is SND.NXT.
    pub(crate) fn end(&mut self, nxt: SeqNum) {
        self.phase = Phase::Open;
        self.frto = Frto::Off;
        self.force_first = false;
        self.force_lost = false;
        self.undo.until = Some(nxt);
    }

    /// Nothing more will be heard of the last episode.
    pub(crate) fn forget_undo(&mut self) {
        self.undo.possible = false;
    }

    /// SND.UNA has moved to `una`.
    #[inline]
    pub(crate) fn on_progress(&mut self, una: SeqNum) {
        self.dup_acks = 0;
        self.timeouts = 0;
        self.limited_bytes = 0;
        // Follow at a distance, or they would one day seem to lie ahead.
        self.recover = self.recover.latest(una - 1);
    }
}
