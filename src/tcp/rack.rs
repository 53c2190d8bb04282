//! Recent acknowledgment: what was sent long enough before something that has arrived is lost;
//! and the probe of the tail that makes something arrive (RFC 8985).
//!
//! The time-based judgment only; what to do about a loss is decided where acknowledgments are
//! processed.
#![forbid(unsafe_code)]

use super::scoreboard::{Fate, Run, Scoreboard};
use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

/// RFC 8985 §6.2 step 4: recoveries for which a widened reordering window persists.
const REO_WND_PERSIST: u8 = 16;

/// The variables of RFC 8985 §5.2 and §5.3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rack {
    /// RACK.xmit_ts and RACK.end_seq: the most recently sent of what has arrived.
    xmit_ts: Instant,
    end_seq: SeqNum,
    /// RACK.rtt
    rtt: Duration,
    /// RACK.fack
    fack: SeqNum,
    /// RACK.dsack_round
    dsack_round: Option<SeqNum>,
    /// TLP.end_seq
    pub(crate) probe_end: Option<SeqNum>,
    reo_wnd_mult: u8,
    reo_wnd_persist: u8,
    /// Something has arrived.
    started: bool,
    reordering_seen: bool,
    /// TLP.is_retrans
    pub(crate) probe_is_retrans: bool,
    /// No round-trip time has been measured since the last probe.
    pub(crate) probe_unmeasured: bool,
}

/// What the judgment about a delivered run depends on besides the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    pub(crate) now: Instant,
    pub(crate) min_rtt: Option<Duration>,
    /// The clock's milliseconds that the acknowledgment echoes.
    pub(crate) echo_ms: Option<u32>,
}

/// The state of recovery, as far as the reordering window depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    pub(crate) now: Instant,
    pub(crate) mss: u32,
    pub(crate) recovering: bool,
    pub(crate) min_rtt: Option<Duration>,
    pub(crate) srtt: Option<Duration>,
}

impl Rack {
    pub(crate) const fn new(iss: SeqNum) -> Self {
        Self {
            xmit_ts: Instant::ZERO,
            end_seq: iss,
            rtt: Duration::ZERO,
            fack: iss,
            dsack_round: None,
            probe_end: None,
            reo_wnd_mult: 1,
            reo_wnd_persist: 0,
            started: false,
            reordering_seen: false,
            probe_is_retrans: false,
            probe_unmeasured: false,
        }
    }

    /// Reordering was seen on this connection.
    pub(crate) fn reordering_seen(&self) -> bool {
        self.reordering_seen
    }

    /// Step 2 and 3 of RFC 8985 §6.2 for one run that is newly acknowledged, in whatever way.
    pub(crate) fn on_delivered(&mut self, run: &Run, evidence: &Evidence) {
        //= RFC 8985 §6.2
        //# "If Segment.end_seq > RACK.fack: RACK.fack = Segment.end_seq
        //#  Else if Segment.end_seq < RACK.fack AND Segment.retransmitted is FALSE:
        //#  RACK.reordering_seen = TRUE"
        if run.end.after(self.fack) {
            self.fack = run.end;
        } else if run.end.before(self.fack) && !run.is(Fate::RESENT) {
            self.reordering_seen = true;
        }
        let rtt = evidence.now.saturating_since(run.sent_at);
        if run.is(Fate::RESENT) {
            //= RFC 8985 §6.2
            //# "If ACK.ts_option.echo_reply < Segment.xmit_ts: Continue
            //#  If rtt < RACK.min_rtt: Continue"
            let sent_ms = run.sent_at.as_millis_wrapping();
            let earlier = |echo: u32| (echo.wrapping_sub(sent_ms) as i32) < 0;
            if evidence.echo_ms.is_some_and(earlier) || evidence.min_rtt.is_some_and(|m| rtt < m) {
                return;
            }
        }
        self.rtt = rtt;
        if !self.started || self.is_later(self.xmit_ts, self.end_seq, run) {
            self.started = true;
            self.xmit_ts = run.sent_at;
            self.end_seq = run.end;
        }
    }

    /// RACK_sent_after(run, (time, seq)).
    fn is_later(&self, time: Instant, seq: SeqNum, run: &Run) -> bool {
        run.sent_at > time || run.sent_at == time && run.end.after(seq)
    }

    /// Everything before `una` has arrived in order.
    #[inline]
    pub(crate) fn on_cumulative(&mut self, una: SeqNum) {
        self.fack = self.fack.latest(una);
    }

    /// An acknowledgment reports a duplicate, or, with `dsack` false, a recovery is over.
    pub(crate) fn adapt(&mut self, una: SeqNum, nxt: SeqNum, dsack: bool) {
        //= RFC 8985 §6.2
        //# "If RACK.dsack_round is not None AND SND.UNA >= RACK.dsack_round:
        //#  RACK.dsack_round = None"
        if self.dsack_round.is_some_and(|round| una.after_eq(round)) {
            self.dsack_round = None;
        }
        if dsack {
            //= RFC 8985 §6.2
            //# "RACK.dsack_round = SND.NXT; RACK.reo_wnd_mult += 1; RACK.reo_wnd_persist = 16"
            if self.dsack_round.is_none() {
                self.dsack_round = Some(nxt);
                self.reo_wnd_mult = self.reo_wnd_mult.saturating_add(1);
                self.reo_wnd_persist = REO_WND_PERSIST;
            }
        } else {
            //= RFC 8985 §6.2
            //# "Else if exiting Fast or RTO recovery: RACK.reo_wnd_persist -= 1
            //#  If RACK.reo_wnd_persist <= 0: RACK.reo_wnd_mult = 1"
            self.reo_wnd_persist = self.reo_wnd_persist.saturating_sub(1);
            if self.reo_wnd_persist == 0 {
                self.reo_wnd_mult = 1;
            }
        }
    }

    /// Retransmissions turned out to have been for nothing: the path reorders, or is late.
    pub(crate) fn on_spurious(&mut self) {
        self.reordering_seen = true;
    }

    fn reo_wnd(&self, board: &Scoreboard, s: &Situation) -> Duration {
        //= RFC 8985 §6.2
        //# "If RACK.reordering_seen is FALSE: If in Fast or RTO recovery: Return 0
        //#  Else if RACK.segs_sacked >= DupThresh: Return 0"
        if !self.reordering_seen && (s.recovering || board.has_dup_thresh(s.mss)) {
            return Duration::ZERO;
        }
        //= RFC 8985 §6.2
        //# "Return min(RACK.reo_wnd_mult * RACK.min_RTT / 4, SRTT)"
        let min_rtt = s.min_rtt.unwrap_or(Duration::ZERO);
        let widened = min_rtt.saturating_mul(u64::from(self.reo_wnd_mult)).div(4);
        widened.min(s.srtt.unwrap_or(Duration::ZERO))
    }

    /// Step 5: marks what is lost. Returns how many bytes newly are, and how long to wait before
    /// more can be.
    pub(crate) fn detect(&self, board: &mut Scoreboard, s: &Situation) -> (u32, Option<Duration>) {
        if !self.started {
            return (0, None);
        }
        let window = self.rtt + self.reo_wnd(board, s);
        let mut wait: Option<Duration> = None;
        let newly = board.mark_lost(|run| {
            //= RFC 8985 §6.2
            //# "remaining = Segment.xmit_ts + RACK.rtt + RACK.reo_wnd - Now()
            //#  If remaining <= 0: Segment.lost = TRUE ... Else: timeout = max(remaining,
            //#  timeout)"
            if self.is_later(self.xmit_ts, self.end_seq, run)
                || run.sent_at == self.xmit_ts && run.end == self.end_seq
            {
                return false;
            }
            let due = run.sent_at + window;
            if due <= s.now {
                return true;
            }
            let remaining = due.saturating_since(s.now);
            wait = Some(wait.map_or(remaining, |w| w.max(remaining)));
            false
        });
        (newly, wait)
    }

    /// A retransmission timeout: marks what is lost.
    pub(crate) fn detect_on_timeout(&self, board: &mut Scoreboard, una: SeqNum, s: &Situation) {
        let window = self.rtt.max(s.srtt.unwrap_or(Duration::ZERO)) + self.reo_wnd(board, s);
        board.mark_lost(|run| {
            //= RFC 8985 §6.3
            //# "If SEG.SEQ == SND.UNA OR Segment.xmit_ts + RACK.rtt + RACK.reo_wnd - Now() <= 0:
            //#  Segment.lost = TRUE"
            run.start == una || run.sent_at + window <= s.now
        });
    }

    /// RFC 8985 §7.1: a recovery or a connection begins.
    pub(crate) fn forget_probe(&mut self) {
        self.probe_end = None;
        self.probe_is_retrans = false;
    }
}

#[cfg(test)]
mod tests;
