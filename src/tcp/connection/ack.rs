//! Acknowledgments in: the fifth step of RFC 9293 §3.10.7.4, round-trip times, and detection
//! and repair of losses (RFC 5681, 6582, 6675).
#![forbid(unsafe_code)]

use super::super::congestion::Ack;
use super::super::payload::Payload;
use super::super::recovery::Phase;
use super::super::scoreboard::{self, DUP_THRESH};
use super::super::timers::Timer;
use super::{Connection, Flags};
use crate::time::{Duration, Instant};
use crate::wire::TcpHeader;

/// A TSecr further back than this is no echo of ours.
const ECHO_AGE_MAX_MS: u32 = 1 << 30;

impl<P: Payload> Connection<P> {
    /// Processes the acknowledgment of an acceptable segment whose own length is `len`. Says
    /// whether the rest of the segment may be processed.
    pub(super) fn on_ack(&mut self, now: Instant, h: &TcpHeader, len: u32) -> bool {
        let una = self.tx.una;
        //= RFC 5961 §5.2
        //# "The ACK value is considered acceptable only if it is in the range of
        //#  ((SND.UNA - MAX.SND.WND) <= SEG.ACK <= SND.NXT). All incoming segments whose ACK
        //#  value doesn't satisfy the above condition MUST be discarded and an ACK sent back."
        if h.ack.after(self.tx.nxt) || h.ack.before(una - self.tx.max_wnd) {
            self.challenge(now);
            return false;
        }
        let newly_sacked = self.take_sack(h);
        let wnd = u32::from(h.window) << self.tx.shift;
        if h.ack.after(una) {
            self.on_new_ack(now, h);
        }
        let same_window = wnd == self.tx.wnd;
        if h.ack.after_eq(una) && self.tx.update_window(h.seq, h.ack, wnd) {
            self.on_window_change();
        }
        if self.flags.contains(Flags::SACK) {
            if newly_sacked > 0 {
                self.on_duplicate_ack(now);
            }
        //= RFC 5681 §2
        //# "An acknowledgment is considered a "duplicate" ... when (a) the receiver of the ACK
        //#  has outstanding data, (b) the incoming acknowledgment carries no data, (c) the SYN
        //#  and FIN bits are both off, (d) the acknowledgment number is equal to the greatest
        //#  acknowledgment ... and (e) the advertised window ... equals"
        } else if h.ack == una && len == 0 && same_window && self.tx.flight() > 0 {
            self.on_duplicate_ack(now);
        }
        true
    }

    fn take_sack(&mut self, h: &TcpHeader) -> u32 {
        let blocks = h.options.sack.as_slice();
        if blocks.is_empty() || !self.flags.contains(Flags::SACK) {
            return 0;
        }
        if scoreboard::reports_duplicate(blocks, h.ack) {
            self.counters.dsacks_in += 1;
        }
        let una = self.tx.una.latest(h.ack);
        self.scoreboard.update(blocks, una, self.tx.nxt, self.mss)
    }

    /// SEG.ACK is in (SND.UNA, SND.NXT]: new data is acknowledged.
    pub(super) fn on_new_ack(&mut self, now: Instant, h: &TcpHeader) {
        let acked = h.ack.distance_from(self.tx.una);
        let payload_before = self.tx.queue.len();
        self.tx.advance(h.ack);
        self.counters.bytes_acked += (payload_before - self.tx.queue.len()) as u64;
        self.sample_rtt(now, h);
        self.scoreboard.on_cumulative_ack(h.ack);
        self.recovery.on_progress(h.ack);
        self.progress_at = now;
        let restart_timer = self.repair(now, acked);
        //= RFC 6298 §5.2, §5.3
        //# "When all outstanding data has been acknowledged, turn off the retransmission timer."
        //# "When an ACK is received that acknowledges new data, restart the retransmission
        //#  timer so that it will expire after RTO seconds (for the current value of RTO)."
        if self.tx.nxt == self.tx.una {
            self.timers.disarm(Timer::Retransmit);
        } else if restart_timer {
            self.arm_retransmit(now);
        }
        self.wake_writer();
    }

    /// What `acked` new bytes mean for the congestion window and for a recovery in progress.
    /// Says whether the retransmission timer is to be restarted.
    #[inline]
    fn repair(&mut self, now: Instant, acked: u32) -> bool {
        let ack = |after_timeout| Ack {
            bytes: acked,
            after_timeout,
            srtt: None,
            now,
        };
        let done = self.tx.una.after_eq(self.recovery.recover);
        match self.recovery.phase {
            Phase::Open => self.congestion.on_ack(&Ack {
                srtt: self.rtt.srtt(),
                ..ack(false)
            }),
            Phase::Timeout => {
                self.congestion.on_ack(&Ack {
                    srtt: self.rtt.srtt(),
                    ..ack(true)
                });
                if done {
                    self.end_recovery();
                }
            }
            Phase::Fast if done => {
                if !self.flags.contains(Flags::SACK) {
                    self.congestion.exit_reno_recovery(self.tx.flight());
                }
                self.end_recovery();
            }
            Phase::Fast if !self.flags.contains(Flags::SACK) => {
                //= RFC 6582 §3.2 step 3
                //# "If this ACK does not acknowledge all of the data up to and including
                //#  recover, then this is a partial ACK. In this case, retransmit the first
                //#  unacknowledged segment."
                self.congestion.deflate(acked);
                self.recovery.force_first = true;
                //= RFC 6582 §3.2 step 3
                //# "For the first partial ACK that arrives during fast recovery, also reset the
                //#  retransmit timer."
                return !core::mem::replace(&mut self.recovery.partial_seen, true);
            }
            Phase::Fast => {}
        }
        true
    }

    fn end_recovery(&mut self) {
        self.recovery.phase = Phase::Open;
        self.recovery.force_first = false;
        self.recovery.high_rxt = self.tx.una;
        self.recovery.lost_below = self.tx.una;
    }

    /// A duplicate ACK (RFC 5681 §2; with SACK, RFC 6675 §2: one with new SACK information).
    #[cold]
    fn on_duplicate_ack(&mut self, now: Instant) {
        self.counters.dup_acks_in += 1;
        let sack = self.flags.contains(Flags::SACK);
        match self.recovery.phase {
            Phase::Timeout => return,
            Phase::Fast => {
                if !sack {
                    self.inflate();
                }
                return;
            }
            Phase::Open => {}
        }
        self.recovery.dup_acks = self.recovery.dup_acks.saturating_add(1);
        //= RFC 6675 §5
        //# "(2) If DupAcks < DupThresh but IsLost (HighACK + 1) returns true ... go to step (4)"
        let lost = self
            .scoreboard
            .lost_edge()
            .is_some_and(|edge| self.tx.una.before(edge));
        if self.recovery.dup_acks < DUP_THRESH && !lost {
            return;
        }
        //= RFC 6582 §3.2 step 2
        //# "the TCP sender first checks the value of recover to see if the Cumulative
        //#  Acknowledgment field covers more than recover."
        let allowed = if sack {
            self.tx.una.after_eq(self.recovery.recover)
        } else {
            self.tx.una.after(self.recovery.recover)
        };
        if allowed {
            self.enter_fast_recovery(now, sack);
        }
    }

    /// A duplicate ACK in fast recovery without SACK: one more segment has left the network.
    fn inflate(&mut self) {
        //= RFC 5681 §3.2
        //# "A TCP MAY therefore limit the number of times cwnd is artificially inflated during
        //#  loss recovery to the number of outstanding segments"
        // Then a peer gains nothing by inventing duplicates.
        let outstanding = self.recovery.recover.distance_from(self.tx.una);
        self.recovery.dup_acks = self.recovery.dup_acks.saturating_add(1);
        if self.recovery.dup_acks.saturating_mul(self.mss) <= outstanding {
            self.congestion.inflate();
        }
    }

    fn enter_fast_recovery(&mut self, now: Instant, sack: bool) {
        self.counters.fast_recoveries += 1;
        //= RFC 5681 §3.2 step 2
        //# "the additional data sent in limited transmit MUST NOT be included in this
        //#  calculation."
        let flight = self.tx.flight().saturating_sub(self.recovery.limited_bytes);
        let una = self.tx.una;
        self.recovery.restart(Phase::Fast, una, self.tx.nxt);
        // Unlike after a timeout, only what SACK (or its absence) says is lost.
        self.recovery.lost_below = una;
        if sack {
            self.congestion.enter_sack_recovery(flight);
        } else {
            self.congestion.enter_reno_recovery(flight);
        }
        self.arm_retransmit(now);
    }

    /// Takes a round-trip time from an acknowledgment of new data, if one can be had.
    #[inline]
    fn sample_rtt(&mut self, now: Instant, h: &TcpHeader) {
        match self.recovery.timed {
            Some(timed) => {
                if h.ack.after_eq(timed.end) {
                    self.recovery.timed = None;
                    self.rtt.on_sample(now.saturating_since(timed.sent_at));
                }
            }
            // Something has been retransmitted, so Karn's algorithm forbids timing; the echo
            // says which transmission was acknowledged, if only in milliseconds.
            None => {
                self.sample_by_timestamp(now, h);
            }
        }
    }

    /// RFC 7323 §4.1: takes a round-trip time from the echoed timestamp.
    pub(super) fn sample_by_timestamp(&mut self, now: Instant, h: &TcpHeader) -> bool {
        let Some(ts) = h
            .options
            .timestamps
            .filter(|_| self.flags.contains(Flags::TIMESTAMPS))
        else {
            return false;
        };
        let clock = now.as_millis_wrapping().wrapping_add(self.stamps.offset);
        let age_ms = clock.wrapping_sub(ts.echo);
        if age_ms > ECHO_AGE_MAX_MS {
            return false;
        }
        // A duplicate does not refresh the echo. When it was the ACK that got lost, what our
        // retransmission provoked still echoes the first transmission, and the age is the
        // timeout's, not the path's: each would feed the next. An answer that comes sooner than
        // any has is one to the first transmission, and a valid measurement.
        let resent = now.saturating_since(self.recovery.resent_at);
        let echoes_earlier = u64::from(age_ms) > resent.as_millis() + 1;
        if echoes_earlier && self.rtt.min_rtt().is_some_and(|min| resent >= min) {
            return false;
        }
        self.rtt
            .on_coarse_sample(Duration::from_millis(u64::from(age_ms)));
        true
    }

    /// The peer's window changed.
    pub(super) fn on_window_change(&mut self) {
        if self.tx.window_left() > 0 && self.timers.is_armed(Timer::Persist) {
            self.timers.disarm(Timer::Persist);
            self.persist_backoff = 0;
        }
    }

    /// Arms the retransmission timer, but not beyond the user timeout.
    #[inline]
    pub(super) fn arm_retransmit(&mut self, now: Instant) {
        let mut at = now + self.rtt.rto();
        if let Some(limit) = self.config.user_timeout {
            at = at.min((self.progress_at + limit).max(now));
        }
        self.timers.arm(Timer::Retransmit, at);
    }
}
