//! Acknowledgments in: the fifth step of RFC 9293 §3.10.7.4, and round-trip times. What they say
//! about losses is `loss.rs`'s business.
#![forbid(unsafe_code)]

use super::super::congestion::Ack;
use super::super::payload::Payload;
use super::super::rack::Evidence;
use super::super::recovery::{Alarm, Phase};
use super::super::scoreboard::{self, Fate};
use super::super::timers::Timer;
use super::{Connection, Flags};
use crate::time::{Duration, Instant};
use crate::wire::{TcpFlags, TcpHeader};

/// A TSecr further back than this is no echo of ours.
const ECHO_AGE_MAX_MS: u32 = 1 << 30;
/// A tail is not probed sooner than this: a thread that was away for a moment is no loss.
const PROBE_AFTER_MIN: Duration = Duration::from_millis(1);

/// What one acknowledgment has told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// Bytes that were not known to have arrived before.
    pub(super) delivered: u32,
    /// Of these, those that were SACKed.
    pub(super) sacked: u32,
    /// Bytes that the cumulative acknowledgment advanced by.
    pub(super) acked: u32,
    /// When the oldest and the newest of what arrived and was sent only once were sent.
    pub(super) oldest: Option<Instant>,
    pub(super) newest: Option<Instant>,
    /// Some of what was acknowledged had been sent more than once.
    pub(super) resent: bool,
    /// The segment at SND.UNA had been sent more than once, and is acknowledged.
    pub(super) front_resent: bool,
    /// Something that was sent only once, before the recovery began, has arrived.
    pub(super) original: bool,
    /// The end of what the peer reports to have got twice.
    pub(super) dsack_end: Option<crate::wire::SeqNum>,
    /// RFC 5681 §2's duplicate acknowledgment.
    pub(super) duplicate: bool,
}

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
        let mut news = News::default();
        let evidence = self.evidence(now, h);
        let wnd = u32::from(h.window) << self.tx.shift;
        // In this order, so that what is told in order of sequence numbers is seen in that order.
        if h.ack.after(una) {
            self.take_cumulative(now, h, &evidence, &mut news);
        }
        self.take_sack(h, &evidence, &mut news);
        //= RFC 5681 §2
        //# "An acknowledgment is considered a "duplicate" ... when (a) the receiver of the ACK
        //#  has outstanding data, (b) the incoming acknowledgment carries no data, (c) the SYN
        //#  and FIN bits are both off, (d) the acknowledgment number is equal to the greatest
        //#  acknowledgment ... and (e) the advertised window ... equals"
        news.duplicate = h.ack == una && len == 0 && wnd == self.tx.wnd && self.tx.flight() > 0;
        if h.ack.after_eq(una) && self.tx.update_window(h.seq, h.ack, wnd) {
            self.on_window_change();
        }
        self.judge(now, h, &news);
        true
    }

    fn evidence(&self, now: Instant, h: &TcpHeader) -> Evidence {
        Evidence {
            now,
            min_rtt: self.rtt.min_rtt(),
            echo_ms: self.echo_ms(h),
        }
    }

    /// Our clock's milliseconds when what is acknowledged was sent, if the peer echoes them.
    pub(super) fn echo_ms(&self, h: &TcpHeader) -> Option<u32> {
        let stamped = self.flags.contains(Flags::TIMESTAMPS);
        let echo = h.options.timestamps.filter(|_| stamped)?;
        Some(echo.echo.wrapping_sub(self.stamps.offset))
    }

    fn take_sack(&mut self, h: &TcpHeader, evidence: &Evidence, news: &mut News) {
        if h.options.sack.is_empty() || !self.flags.contains(Flags::SACK) {
            return;
        }
        let una = self.tx.una;
        let mut blocks = h.options.sack.clone();
        if let Some(report) = scoreboard::duplicate_report(&blocks, h.ack) {
            blocks.remove(0);
            self.on_duplicate_report(report, news);
        }
        blocks.sort_unstable_by_key(|block| block.left.distance_from(una));
        let recover = self.recovery.recover;
        let rack = &mut self.rack;
        for block in blocks {
            self.scoreboard.sack(block, una, self.tx.nxt, |run| {
                rack.on_delivered(run, evidence);
                news.delivered += run.len();
                news.sacked += run.len();
                if !run.is(Fate::RESENT) {
                    news.original |= run.end.before_eq(recover);
                    news.newest = news.newest.max(Some(run.sent_at));
                }
            });
        }
    }

    /// SEG.ACK is in (SND.UNA, SND.NXT]: new data is acknowledged.
    fn take_cumulative(
        &mut self,
        now: Instant,
        h: &TcpHeader,
        evidence: &Evidence,
        news: &mut News,
    ) {
        news.acked = h.ack.distance_from(self.tx.una);
        let (una, recover) = (self.tx.una, self.recovery.recover);
        let rack = &mut self.rack;
        self.scoreboard.acknowledge(h.ack, |run| {
            if run.is(Fate::RESENT) {
                news.resent = true;
                news.front_resent |= run.start == una;
            }
            if run.is(Fate::SACKED) {
                return;
            }
            rack.on_delivered(run, evidence);
            news.delivered += run.len();
            if !run.is(Fate::RESENT) {
                news.original |= run.end.before_eq(recover);
                news.oldest.get_or_insert(run.sent_at);
                news.newest = news.newest.max(Some(run.sent_at));
            }
        });
        self.advance(now, h, news);
    }

    /// The cumulative acknowledgment of a segment in steady state.
    #[inline]
    pub(super) fn on_ack_predicted(&mut self, now: Instant, h: &TcpHeader) {
        let mut news = News {
            acked: h.ack.distance_from(self.tx.una),
            ..News::default()
        };
        self.scoreboard.acknowledge(h.ack, |run| {
            news.resent |= run.is(Fate::RESENT);
            news.oldest.get_or_insert(run.sent_at);
            news.newest = Some(run.sent_at);
        });
        news.delivered = news.acked;
        self.rack.on_cumulative(h.ack);
        self.advance(now, h, &news);
        let ack = self.ack_for_congestion(now, h, &news, false);
        self.congestion.observe(&ack);
        self.congestion.on_ack(&ack);
        self.update_pacing_rate();
        self.rearm_after_ack(now, true);
    }

    /// What every acknowledgment of new data brings.
    #[inline]
    fn advance(&mut self, now: Instant, h: &TcpHeader, news: &News) {
        let payload_before = self.tx.queue.len();
        self.tx.advance(h.ack);
        self.volume.bytes_acked += (payload_before - self.tx.queue.len()) as u64;
        self.sample_rtt(now, h, news);
        self.recovery.on_progress(h.ack);
        if self.path.has_arrived(h.ack) {
            self.raise_path_mss();
        }
        self.progress_at = now;
        self.wake_writer();
    }

    #[inline]
    pub(super) fn ack_for_congestion(
        &self,
        now: Instant,
        h: &TcpHeader,
        news: &News,
        after_timeout: bool,
    ) -> Ack {
        let telemetry = h.options.telemetry.filter(|_| self.telemetry.agreed);
        Ack {
            bytes: news.acked,
            after_timeout,
            ece: self.ecn.agreed && h.flags.contains(TcpFlags::ECE),
            una: self.tx.una,
            nxt: self.tx.nxt,
            rtt: news.newest.map(|sent_at| now.saturating_since(sent_at)),
            srtt: self.rtt.srtt(),
            min_rtt: self.rtt.min_rtt(),
            utilisation: telemetry.map(|t| t.echo).filter(|load| *load > 0),
            now,
        }
    }

    /// Takes a round-trip time from an acknowledgment of new data, if one can be had.
    #[inline]
    fn sample_rtt(&mut self, now: Instant, h: &TcpHeader, news: &News) {
        if let Some(sent_at) = news.newest.filter(|_| !news.resent) {
            self.rtt.observe(now.saturating_since(sent_at), now);
        }
        // One measurement per round trip: more would only make the estimate forget sooner
        // (RFC 7323 App. G).
        if h.ack.before(self.recovery.rtt_mark) {
            return;
        }
        let sampled = match news.oldest.filter(|_| !news.resent) {
            Some(sent_at) => {
                self.rtt.on_sample(now.saturating_since(sent_at));
                true
            }
            // Something has been retransmitted, so Karn's algorithm forbids timing; the echo
            // says which transmission was acknowledged, if only in milliseconds.
            None => self.sample_by_timestamp(now, h),
        };
        if sampled {
            self.recovery.rtt_mark = self.tx.nxt;
            self.rack.probe_unmeasured = false;
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

    //= RFC 6298 §5.2, §5.3
    //# "When all outstanding data has been acknowledged, turn off the retransmission timer."
    //# "When an ACK is received that acknowledges new data, restart the retransmission
    //#  timer so that it will expire after RTO seconds (for the current value of RTO)."
    #[inline]
    pub(super) fn rearm_after_ack(&mut self, now: Instant, restart: bool) {
        if self.tx.nxt == self.tx.una {
            self.timers.disarm(Timer::Retransmit);
        } else if restart {
            self.arm_retransmit(now);
        }
    }

    /// Arms the retransmission timer, for a probe of the tail if one is due first; but not
    /// beyond the user timeout.
    #[inline]
    pub(super) fn arm_retransmit(&mut self, now: Instant) {
        let rto = self.rtt.rto();
        let (wait, alarm) = match self.probe_interval() {
            //= RFC 8985 §7.2
            //# "If Now() + PTO > TCP_RTO_expiration(): PTO = TCP_RTO_expiration() - Now()"
            Some(pto) => (pto.min(rto), Alarm::Probe),
            None => (rto, Alarm::Timeout),
        };
        self.arm_alarm(now, wait, alarm);
    }

    pub(super) fn arm_alarm(&mut self, now: Instant, wait: Duration, alarm: Alarm) {
        let mut at = now + wait;
        if let Some(limit) = self.config.user_timeout {
            at = at.min((self.progress_at + limit).max(now));
        }
        self.recovery.alarm = alarm;
        self.timers.arm(Timer::Retransmit, at);
    }

    /// How long to wait for an acknowledgment before the tail is probed, if it is to be. The
    /// peer's delay of acknowledgments comes on top, which is seen to when the time has come:
    /// whether a single segment is outstanding is not known when the first one leaves.
    #[inline]
    pub(super) fn probe_interval(&self) -> Option<Duration> {
        //= RFC 8985 §7.2
        //# "unless it is already in fast recovery, RTO recovery, or segments have been SACKed"
        let eligible = self.flags.contains(Flags::SACK)
            && self.recovery.phase == Phase::Open
            && self.scoreboard.is_plain()
            && self.rack.probe_end.is_none()
            && !self.rack.probe_unmeasured
            && !self.is_opening();
        let srtt = self.rtt.srtt().filter(|_| eligible)?;
        //= RFC 8985 §7.2
        //# "PTO = 2 * SRTT"
        Some(srtt.saturating_mul(2).max(PROBE_AFTER_MIN))
    }
}
