//! What happens when a timer expires.
#![forbid(unsafe_code)]

use super::super::payload::Payload;
use super::super::recovery::{Alarm, Frto, Phase};
use super::super::state::{Input, State};
use super::super::timers::Timer;
use super::{Connection, Event, Flags};
use crate::time::{Duration, Instant};

impl<P: Payload> Connection<P> {
    /// Time has passed. Call when [`poll_at`](Self::poll_at) is not after `now`, and only when
    /// everything received has been given to [`on_segment`](Self::on_segment).
    pub fn on_timer(&mut self, now: Instant) {
        if self.timers.take_expired(Timer::Retransmit, now) {
            self.on_alarm(now);
        }
        if self.timers.take_expired(Timer::Persist, now) {
            self.on_persist_timeout(now);
        }
        if self.timers.take_expired(Timer::DelayedAck, now) {
            self.flags |= Flags::ACK_NOW;
        }
        if self.timers.take_expired(Timer::Keepalive, now) {
            self.on_keepalive_timeout(now);
        }
        // Whoever calls this polls for what may go now.
        let _may_send = self.timers.take_expired(Timer::Pacing, now);
        if self.timers.take_expired(Timer::Linger, now) {
            let input = if self.state == State::TimeWait {
                Input::TimeWaitExpires
            } else {
                Input::Delete
            };
            self.transition(input, now);
        }
    }

    #[cold]
    fn on_alarm(&mut self, now: Instant) {
        if self.is_opening() {
            self.on_syn_timeout(now);
            return;
        }
        if self.tx.nxt == self.tx.una {
            return;
        }
        let limit = self.config.user_timeout;
        let late = limit.is_some_and(|limit| now.saturating_since(self.progress_at) >= limit);
        match core::mem::replace(&mut self.recovery.alarm, Alarm::Timeout) {
            Alarm::Reorder if !late => self.on_reorder_timeout(now),
            Alarm::Probe if !late => self.on_probe_timeout(now),
            _ => self.on_retransmit_timeout(now),
        }
    }

    fn on_retransmit_timeout(&mut self, now: Instant) {
        // A peer whose window is closed and who answers is alive, however long it takes
        // (RFC 9293 §3.8.6.1): then this is a window probe that repeats data.
        let probing = self.tx.wnd == 0 && self.last_in_at > self.last_out_at;
        let hopeless = if probing {
            self.persist_backoff = self.persist_backoff.saturating_add(1);
            self.has_window_patience_limit() && self.is_out_of_patience(now, self.persist_backoff)
        } else {
            self.is_out_of_patience(now, self.recovery.timeouts)
        };
        if hopeless {
            self.fail(Event::TimedOut, now);
            return;
        }
        self.counters.timeouts += 1;
        if !probing {
            self.congestion
                .on_timeout(self.tx.flight(), self.recovery.timeouts == 0);
            self.ecn.on_loss(self.tx.nxt);
            self.recovery.timeouts = self.recovery.timeouts.saturating_add(1);
            self.suspect_black_hole(now);
        }
        //= RFC 2018 §5
        //# "After a retransmit timeout the data sender SHOULD turn off all of the SACKed bits,
        //#  since the timeout might indicate that the data receiver has reneged."
        // Only where it has, and that shows: the segment at SND.UNA is one that it had SACKed.
        // What it holds need not be sent again (RFC 6675 §5.1), and no queued byte is let go
        // before it is acknowledged, so a peer that reneges later is found out at a later timeout.
        //= RFC 2018 §5
        //# "The data sender MUST retransmit the segment at the left edge of the window after a
        //#  retransmit timeout, whether or not the SACKed bit is on for that segment."
        if self.has_reneged() {
            self.scoreboard.unmark_sacked();
        }
        // RFC 5682 §2.1 step 1: only the first timeout can be told to have been spurious.
        let first = self.recovery.phase == Phase::Open && self.recovery.timeouts == 1;
        let situation = self.situation(now);
        if self.flags.contains(Flags::SACK) {
            self.rack
                .detect_on_timeout(&mut self.scoreboard, self.tx.una, &situation);
        } else {
            self.scoreboard.mark_lost(|_| true);
        }
        //= RFC 6298 §5.4
        //# "Retransmit the earliest segment that has not been acknowledged by the TCP receiver."
        self.recovery
            .begin(Phase::Timeout, self.tx.una, self.tx.nxt);
        if first && !probing {
            self.recovery.frto = Frto::First;
        }
        self.rack.forget_probe();
        self.rtt.back_off();
        //= RFC 6298 §5.6
        //# "Start the retransmission timer, such that it expires after RTO seconds (for the
        //#  value of RTO after the doubling operation outlined in 5.5)."
        self.arm_retransmit(now);
    }

    #[cold]
    fn on_syn_timeout(&mut self, now: Instant) {
        let limit = match self.state {
            State::SynSent => self.config.syn_retries,
            _ => self.config.syn_ack_retries,
        };
        let late = (self.config.user_timeout)
            .is_some_and(|limit| now.saturating_since(self.syn_sent_at) >= limit);
        if self.syn_timeouts >= limit || late {
            self.fail(Event::TimedOut, now);
            return;
        }
        self.counters.timeouts += 1;
        self.counters.retransmits += 1;
        self.syn_timeouts = self.syn_timeouts.saturating_add(1);
        self.rtt.back_off();
        self.flags |= Flags::SYN_PENDING;
        self.arm_retransmit(now);
    }

    /// Whether the peer has been silent for too long after `attempts` unanswered attempts
    /// (RFC 9293 §3.8.3).
    fn is_out_of_patience(&self, now: Instant, attempts: u8) -> bool {
        //= RFC 9293 §3.8.3
        //# "(c) When the number of transmissions of the same segment reaches a threshold R2
        //#  greater than R1, close the connection."
        if let Some(limit) = self.config.user_timeout {
            return now.saturating_since(self.progress_at) >= limit;
        }
        let retries = if self.flags.contains(Flags::ORPHAN) {
            self.config.orphan_retries.min(self.config.retries)
        } else {
            self.config.retries
        };
        attempts >= retries
    }

    /// A peer that answers but keeps its window closed must not pin memory for ever when
    /// somebody has set a limit, or nobody is left to care (CVE-2008-4609).
    fn has_window_patience_limit(&self) -> bool {
        self.config.user_timeout.is_some() || self.flags.contains(Flags::ORPHAN)
    }

    #[cold]
    fn on_persist_timeout(&mut self, now: Instant) {
        if self.tx.unsent() == 0 && !self.tx.fin_unsent() {
            return;
        }
        if self.tx.window_left() > 0 {
            // Cork, or a window too small for a good segment: waited long enough
            // (RFC 9293 §3.8.6.2.1, the override timeout).
            self.flags |= Flags::FLUSH;
            return;
        }
        let patience_over = if self.has_window_patience_limit() {
            self.is_out_of_patience(now, self.persist_backoff)
        } else {
            //= RFC 9293 §3.8.6.1
            //# "As long as the receiving TCP peer continues to send acknowledgments in response
            //#  to the probe segments, the sending TCP peer MUST allow the connection to stay
            //#  open"
            self.is_out_of_patience(now, self.probes_unanswered)
        };
        if patience_over {
            self.fail(Event::TimedOut, now);
            return;
        }
        self.flags |= Flags::PROBE_PENDING;
        self.probes_unanswered = self.probes_unanswered.saturating_add(1);
        self.persist_backoff = self.persist_backoff.saturating_add(1);
        //= RFC 9293 §3.8.6.1
        //# "and SHOULD increase exponentially the interval between successive probes"
        let factor = 1u64 << self.persist_backoff.min(31);
        let wait = self
            .rtt
            .rto()
            .saturating_mul(factor)
            .min(self.config.rto_max);
        let mut at = now + wait;
        if let Some(limit) = self.config.user_timeout {
            at = at.min((self.progress_at + limit).max(now));
        }
        self.timers.arm(Timer::Persist, at);
    }

    /// Arms the keepalive timer from the last sign of life on.
    pub(super) fn arm_keepalive(&mut self, now: Instant) {
        match self.config.keepalive {
            Some(k) => self
                .timers
                .arm(Timer::Keepalive, (self.last_in_at + k.idle).max(now)),
            None => self.timers.disarm(Timer::Keepalive),
        }
    }

    #[cold]
    fn on_keepalive_timeout(&mut self, now: Instant) {
        let Some(k) = self.config.keepalive else {
            return;
        };
        //= RFC 9293 §3.8.4
        //# "Keep-alive packets MUST only be sent when no sent data is outstanding, and no data
        //#  or acknowledgment packets have been received for the connection within an interval"
        let idle = now.saturating_since(self.last_in_at);
        if !self.tx.is_quiet() || self.tx.unsent() > 0 {
            self.timers.arm(Timer::Keepalive, now + k.idle);
            return;
        }
        if idle < k.idle {
            self.arm_keepalive(now);
            return;
        }
        let hopeless = match self.config.user_timeout {
            Some(limit) => idle >= limit && self.probes_unanswered > 0,
            None => self.probes_unanswered >= k.count,
        };
        if hopeless {
            //= RFC 9293 §3.8.4
            //# "if a keep-alive mechanism is implemented it MUST NOT interpret failure to
            //#  respond to any specific probe as a dead connection"
            self.flags |= Flags::RST_PENDING;
            self.fail(Event::TimedOut, now);
            return;
        }
        self.probes_unanswered = self.probes_unanswered.saturating_add(1);
        self.flags |= Flags::PROBE_PENDING;
        self.timers.arm(
            Timer::Keepalive,
            now + k.interval.max(Duration::from_millis(1)),
        );
    }
}
