//! What is being retransmitted and why: the variables of RFC 6582 and RFC 6675.
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
    /// A retransmission timeout: everything that was outstanding is taken for lost.
    Timeout,
}

/// A segment whose acknowledgment gives a round-trip time (Karn's algorithm: never one that
/// has been retransmitted).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) end: SeqNum,
    pub(crate) sent_at: Instant,
}

/// Loss recovery state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// Send the segment at SND.UNA next, whatever the window says.
    pub(crate) force_first: bool,
    /// A partial acknowledgment has arrived in this recovery.
    pub(crate) partial_seen: bool,
    /// Duplicate ACKs since SND.UNA last moved.
    pub(crate) dup_acks: u32,
    /// Retransmission timeouts in a row without progress.
    pub(crate) timeouts: u8,
    /// RFC 6582's recover, RFC 6675's RecoveryPoint: SND.NXT when recovery began.
    pub(crate) recover: SeqNum,
    /// RFC 6675's HighRxt: everything unSACKed before it has been retransmitted.
    pub(crate) high_rxt: SeqNum,
    /// RFC 6675's RescueRxt.
    pub(crate) rescue: Option<SeqNum>,
    /// Everything unSACKed before it is lost because a timeout said so.
    pub(crate) lost_below: SeqNum,
    /// Bytes sent by limited transmit since SND.UNA last moved.
    pub(crate) limited_bytes: u32,
    /// The segment being timed.
    pub(crate) timed: Option<Timed>,
    /// When something was last sent again.
    pub(crate) resent_at: Instant,
}

impl Recovery {
    pub(crate) const fn new(iss: SeqNum) -> Self {
        Self {
            phase: Phase::Open,
            force_first: false,
            partial_seen: false,
            dup_acks: 0,
            timeouts: 0,
            recover: iss,
            high_rxt: iss,
            rescue: None,
            lost_below: iss,
            limited_bytes: 0,
            timed: None,
            resent_at: Instant::ZERO,
        }
    }

    /// Everything in `[una, nxt)` is taken for lost.
    pub(crate) fn restart(&mut self, phase: Phase, una: SeqNum, nxt: SeqNum) {
        self.phase = phase;
        self.recover = nxt;
        self.high_rxt = una;
        self.lost_below = nxt;
        self.rescue = None;
        self.dup_acks = 0;
        self.limited_bytes = 0;
        self.partial_seen = false;
        self.force_first = true;
        self.timed = None;
    }

    /// SND.UNA has moved to `una`.
    #[inline]
    pub(crate) fn on_progress(&mut self, una: SeqNum) {
        self.dup_acks = 0;
        self.timeouts = 0;
        self.limited_bytes = 0;
        self.high_rxt = self.high_rxt.latest(una);
        self.lost_below = self.lost_below.latest(una);
        // Follows at a distance, or it would one day seem to lie ahead.
        self.recover = self.recover.latest(una - 1);
    }
}
