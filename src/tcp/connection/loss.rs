//! What acknowledgments and their absence say about losses, and what is done about it: RFC 5681,
//! RFC 6582 without SACK; RFC 6675, RFC 8985 and RFC 6937 with it; and what takes it back: RFC
//! 5682, RFC 4015, RFC 2883.
#![forbid(unsafe_code)]

use super::super::payload::Payload;
use super::super::rack::Situation;
use super::super::recovery::{Alarm, Frto, Phase};
use super::super::scoreboard::{DUP_THRESH, Fate};
use super::ack::News;
use super::{Connection, Flags};
use crate::time::{Duration, Instant};
use crate::wire::{SackBlock, TcpFlags, TcpHeader};

impl<P: Payload> Connection<P> {
    /// The peer reports that it got `report` twice (RFC 2883).
    pub(super) fn on_duplicate_report(&mut self, report: SackBlock, news: &mut News) {
        self.counters.dsacks_in += 1;
        news.dsack_end = Some(report.right);
        let undo = &mut self.recovery.undo;
        if undo.until.is_some_and(|until| self.tx.una.after(until)) {
            undo.possible = false;
        }
        let len = report.right.distance_from(report.left);
        // Only what lies in the episode, and can be what was sent again.
        let ours = report.left.after_eq(undo.from) && report.right.before_eq(self.tx.nxt);
        if undo.possible && ours && len <= undo.unproven {
            undo.unproven -= len;
        }
        self.rack.adapt(self.tx.una, self.tx.nxt, true);
    }

    /// Draws the conclusions from one acknowledgment.
    pub(super) fn judge(&mut self, now: Instant, h: &TcpHeader, news: &News) {
        let sack = self.flags.contains(Flags::SACK);
        self.rack.on_cumulative(self.tx.una);
        self.settle_probe(news);
        if news.acked > 0 {
            let after_timeout = self.recovery.phase == Phase::Timeout;
            let ack = self.ack_for_congestion(now, h, news, after_timeout);
            self.congestion.observe(&ack);
            if self.ecn.agreed {
                self.ecn.on_progress(self.tx.una);
            }
        }
        if self.ecn.agreed && h.flags.contains(TcpFlags::ECE) {
            let repairing = self.recovery.phase != Phase::Open;
            if self.ecn.on_echo(self.tx.una, self.tx.nxt, repairing) {
                self.counters.ecn_reductions += 1;
                // The window that was marked includes what this acknowledges.
                self.congestion.on_ecn(self.tx.flight() + news.acked);
            }
        }
        if self.is_spurious(h, news) {
            self.undo_recovery();
        }
        let mut restart = news.acked > 0;
        match self.recovery.phase {
            Phase::Open => self.grow(now, h, news, false),
            Phase::Timeout => {
                self.follow_frto(news);
                self.grow(now, h, news, true);
            }
            Phase::Fast if !sack => restart &= self.repair_without_sack(news),
            Phase::Fast => {}
        }
        if self.recovery.phase != Phase::Open && self.tx.una.after_eq(self.recovery.recover) {
            self.end_recovery();
        }
        let wait = match sack {
            true => self.detect_losses(now, news),
            false => {
                if news.duplicate {
                    self.on_duplicate_ack(now);
                }
                None
            }
        };
        if self.recovery.phase == Phase::Fast && sack {
            let in_flight = self.in_flight();
            self.congestion
                .on_recovery_ack(news.delivered, in_flight, news.acked > 0);
        }
        self.update_pacing_rate();
        self.rearm_after_loss(now, restart, wait);
    }

    fn grow(&mut self, now: Instant, h: &TcpHeader, news: &News, after_timeout: bool) {
        let mut ack = self.ack_for_congestion(now, h, news, after_timeout);
        if after_timeout {
            ack.bytes = news.delivered;
        }
        //= RFC 3168 §6.1.2
        //# "The sending TCP SHOULD NOT increase the congestion window in response to the receipt
        //#  of an ECN-Echo ACK packet."
        if ack.bytes > 0 && (after_timeout || news.acked > 0) && !ack.ece {
            self.congestion.on_ack(&ack);
        }
    }

    fn rearm_after_loss(&mut self, now: Instant, restart: bool, wait: Option<Duration>) {
        let outstanding = self.tx.nxt != self.tx.una;
        let stale = match self.recovery.alarm {
            Alarm::Timeout => false,
            Alarm::Reorder => true,
            Alarm::Probe => self.probe_interval().is_none(),
        };
        match wait {
            Some(wait) if outstanding && wait < self.rtt.rto() => {
                self.arm_alarm(now, wait, Alarm::Reorder);
            }
            _ => self.rearm_after_ack(now, restart || stale),
        }
    }

    fn end_recovery(&mut self) {
        if self.recovery.phase == Phase::Fast {
            if self.flags.contains(Flags::SACK) {
                self.congestion.exit_sack_recovery();
            } else {
                self.congestion.exit_reno_recovery(self.tx.flight());
            }
        }
        self.recovery.end(self.tx.nxt);
        self.rack.adapt(self.tx.una, self.tx.nxt, false);
    }

    /// What losses depend on besides what is outstanding.
    pub(super) fn situation(&self, now: Instant) -> Situation {
        Situation {
            now,
            mss: self.mss,
            recovering: self.recovery.phase != Phase::Open,
            min_rtt: self.rtt.min_rtt(),
            srtt: self.rtt.srtt(),
        }
    }

    /// RFC 8985 §6.2 step 5. Says how long to wait before more can be said.
    pub(super) fn detect_losses(&mut self, now: Instant, news: &News) -> Option<Duration> {
        if news.sacked > 0 {
            self.counters.dup_acks_in += 1;
            if self.recovery.phase == Phase::Open {
                self.recovery.dup_acks = self.recovery.dup_acks.saturating_add(1);
            }
        }
        let quiet = self.scoreboard.is_plain() && self.recovery.phase == Phase::Open;
        if quiet {
            return None;
        }
        let mut situation = self.situation(now);
        // Three duplicates count as much as three segments, however small these are.
        situation.recovering |= self.recovery.dup_acks >= DUP_THRESH;
        let (newly, wait) = self.rack.detect(&mut self.scoreboard, &situation);
        if newly > 0 && self.recovery.phase == Phase::Open {
            self.enter_fast_recovery(now);
        }
        wait
    }

    /// A duplicate ACK without SACK (RFC 5681 §2).
    #[cold]
    fn on_duplicate_ack(&mut self, now: Instant) {
        self.counters.dup_acks_in += 1;
        match self.recovery.phase {
            Phase::Timeout => return,
            Phase::Fast => {
                self.inflate();
                return;
            }
            Phase::Open => {}
        }
        self.recovery.dup_acks = self.recovery.dup_acks.saturating_add(1);
        //= RFC 6582 §3.2 step 2
        //# "the TCP sender first checks the value of recover to see if the Cumulative
        //#  Acknowledgment field covers more than recover."
        if self.recovery.dup_acks >= DUP_THRESH && self.tx.una.after(self.recovery.recover) {
            self.enter_fast_recovery(now);
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

    /// New data is acknowledged in fast recovery without SACK. Says whether the retransmission
    /// timer is to be restarted.
    fn repair_without_sack(&mut self, news: &News) -> bool {
        if news.acked == 0 || self.tx.una.after_eq(self.recovery.recover) {
            return true;
        }
        //= RFC 6582 §3.2 step 3
        //# "If this ACK does not acknowledge all of the data up to and including
        //#  recover, then this is a partial ACK. In this case, retransmit the first
        //#  unacknowledged segment."
        self.congestion.deflate(news.acked);
        self.recovery.force_first = true;
        //= RFC 6582 §3.2 step 3
        //# "For the first partial ACK that arrives during fast recovery, also reset the
        //#  retransmit timer."
        !core::mem::replace(&mut self.recovery.partial_seen, true)
    }

    pub(super) fn enter_fast_recovery(&mut self, now: Instant) {
        self.counters.fast_recoveries += 1;
        //= RFC 5681 §3.2 step 2
        //# "the additional data sent in limited transmit MUST NOT be included in this
        //#  calculation."
        let flight = self.tx.flight().saturating_sub(self.recovery.limited_bytes);
        self.recovery.begin(Phase::Fast, self.tx.una, self.tx.nxt);
        self.ecn.on_loss(self.tx.nxt);
        self.rack.forget_probe();
        if self.flags.contains(Flags::SACK) {
            // What is sent again first is what is lost, wherever it is.
            self.recovery.force_first = false;
            self.recovery.force_lost = true;
            self.congestion.enter_sack_recovery(flight);
        } else {
            self.congestion.enter_reno_recovery(flight);
        }
        self.arm_retransmit(now);
    }

    /// Whether the last episode of retransmissions was for nothing.
    fn is_spurious(&self, h: &TcpHeader, news: &News) -> bool {
        let (undo, phase) = (&self.recovery.undo, self.recovery.phase);
        let Some(first_resent) = undo.first_resent.filter(|_| undo.possible) else {
            return false;
        };
        // RFC 2883 §5 and Appendix: the peer had everything that was sent again.
        if news.dsack_end.is_some() && undo.unproven == 0 {
            return true;
        }
        if phase == Phase::Open || news.acked == 0 && news.sacked == 0 {
            return false;
        }
        //= RFC 3522 §3.2
        //# "If the value of the Timestamp Echo Reply field of the acceptable ACK's Timestamps
        //#  option is smaller than the value of RetransmitTS, then proceed to step (5)"
        let resent_ms = first_resent.as_millis_wrapping();
        let echo = self.echo_ms(h);
        let earlier = echo.is_some_and(|echo| (echo.wrapping_sub(resent_ms) as i32) < 0);
        if news.front_resent && earlier {
            return true;
        }
        // RFC 5682 §3: after a timeout that sent only the first segment again, something arrives
        // that was sent before, once, and was not known to have arrived.
        phase == Phase::Timeout
            && self.recovery.frto != Frto::Off
            && self.flags.contains(Flags::SACK)
            && news.original
    }

    /// Takes back what the last recovery did (RFC 4015).
    fn undo_recovery(&mut self) {
        self.counters.spurious_recoveries += 1;
        self.congestion.undo();
        self.scoreboard.unmark_lost();
        self.rack.on_spurious();
        self.recovery.forget_undo();
        if self.recovery.phase != Phase::Open {
            self.recovery.end(self.tx.nxt);
        }
    }

    /// Steps 2 and 3 of RFC 5682 §2.1 (and of its variant with SACK, §3.1).
    fn follow_frto(&mut self, news: &News) {
        let sack = self.flags.contains(Flags::SACK);
        let news_of_loss = news.duplicate || news.sacked > 0 && news.acked == 0;
        match self.recovery.frto {
            Frto::Off => {}
            Frto::First | Frto::Second if news_of_loss => {
                if self.recovery.frto == Frto::Second {
                    self.congestion.on_frto_failed();
                }
                self.recovery.frto = Frto::Off;
            }
            Frto::First if news.acked > 0 => {
                //= RFC 5682 §2.1
                //# "b) Else, if the acknowledgment advances SND.UNA, transmit up to two new
                //#  (previously unsent) segments and enter step 3"
                let more = self.tx.unsent() > 0 && self.tx.window_left() > 0;
                let partial = self.tx.una.before(self.recovery.recover);
                self.recovery.frto = if more && partial {
                    Frto::Second
                } else {
                    Frto::Off
                };
            }
            //= RFC 5682 §2.1
            //# "b) If the acknowledgment advances the window ... declare the timeout spurious"
            // With SACK, only what is known not to have been sent again proves it: `is_spurious`.
            Frto::Second if news.acked > 0 && !sack => self.undo_recovery(),
            Frto::First | Frto::Second => {}
        }
    }

    /// RFC 8985 §7.4.2: what became of the probe of the tail.
    fn settle_probe(&mut self, news: &News) {
        let Some(end) = self.rack.probe_end.filter(|end| self.tx.una.after_eq(*end)) else {
            return;
        };
        let both_arrived = news.dsack_end == Some(end) || news.duplicate && news.sacked == 0;
        if !self.rack.probe_is_retrans || both_arrived {
            self.rack.forget_probe();
        } else if self.tx.una.after(end) {
            //= RFC 8985 §7.4.2
            //# "The sender then SHOULD invoke a congestion control response equivalent to a fast
            //#  recovery."
            self.rack.forget_probe();
            self.ecn.on_loss(self.tx.nxt);
            // Of which this acknowledges all that was lost.
            self.congestion
                .on_repaired_loss(self.tx.flight() + news.acked);
        }
    }

    /// RACK's timer: the reordering window of something has passed.
    #[cold]
    pub(super) fn on_reorder_timeout(&mut self, now: Instant) {
        let wait = self.detect_losses(now, &News::default());
        if self.recovery.phase == Phase::Fast {
            let in_flight = self.in_flight();
            self.congestion.on_recovery_ack(0, in_flight, false);
        }
        match wait.filter(|wait| *wait < self.rtt.rto()) {
            Some(wait) => self.arm_alarm(now, wait, Alarm::Reorder),
            None => self.arm_retransmit(now),
        }
    }

    /// Nothing has come back for two round trips: asks for a sign by sending something
    /// (RFC 8985 §7.3).
    #[cold]
    pub(super) fn on_probe_timeout(&mut self, now: Instant) {
        let rto = self.rtt.rto();
        let single = self.tx.flight() <= self.mss;
        // The timer is not moved by what is sent, only by what is acknowledged.
        let due = self.probe_interval().map(|mut pto| {
            //= RFC 8985 §7.2
            //# "If FlightSize is one segment: PTO += TLP.max_ack_delay"
            if single {
                pto = pto + self.config.max_ack_delay;
            }
            self.last_out_at + pto.min(rto)
        });
        if let Some(due) = due.filter(|due| *due > now) {
            self.arm_alarm(now, due.saturating_since(now), Alarm::Probe);
            return;
        }
        if due.is_some() {
            self.recovery.probe_tail = true;
            self.rack.probe_unmeasured = true;
            self.counters.tail_probes += 1;
        }
        //= RFC 8985 §7.3
        //# "After attempting to send a loss probe, regardless of whether a loss probe was sent,
        //#  the sender MUST re-arm the RTO timer, not the PTO timer, if the FlightSize is not
        //#  zero."
        self.arm_alarm(now, rto, Alarm::Timeout);
    }

    /// Whether the peer has thrown away what it had SACKed (RFC 2018 §8): it acknowledges
    /// everything before such a run, but not the run.
    pub(super) fn has_reneged(&self) -> bool {
        self.scoreboard.front().is_some_and(|r| r.is(Fate::SACKED))
    }
}
