//! Segments in: the SEGMENT ARRIVES part of RFC 9293 §3.10.7 for synchronized states.
#![forbid(unsafe_code)]

use super::super::payload::Payload;
use super::super::receiver::Arrival;
use super::super::recovery::Phase;
use super::super::segment::{Disposition, SegmentIn};
use super::super::state::{Input, State};
use super::super::time_wait::may_succeed;
use super::super::timers::Timer;
use super::{Connection, Event, Flags};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, SeqNum, TcpFlags, TcpHeader};

/// Duplicate ACKs owed at most: a receive burst's worth.
const DUP_ACKS_OWED_MAX: u8 = crate::limits::RX_BURST_FRAMES as u8;
/// RFC 7323 §5.5: after this long without a segment TS.Recent says nothing.
const TS_RECENT_VALID: Duration = Duration::from_secs(24 * 24 * 3600);

impl<P: Payload> Connection<P> {
    /// A segment has arrived. What it asks for is sent by
    /// [`poll_transmit`](Self::poll_transmit), except for what the [`Disposition`] says.
    pub fn on_segment(&mut self, now: Instant, mut seg: SegmentIn<'_, P>) -> Disposition {
        self.volume.segs_in += 1;
        if self.is_predicted(&seg) {
            self.on_predicted(now, &mut seg);
            return Disposition::Continue;
        }
        self.on_unpredicted(now, &mut seg)
    }

    /// Whether the segment is what a connection in steady state expects: in order, nothing
    /// special about it, and nothing unusual going on (Van Jacobson's header prediction).
    #[inline]
    fn is_predicted(&self, seg: &SegmentIn<'_, P>) -> bool {
        let h = seg.header;
        let stamped = match h.options.timestamps {
            Some(ts) => {
                self.flags.contains(Flags::TIMESTAMPS)
                    && ts.value.wrapping_sub(self.stamps.recent) as i32 >= 0
            }
            None => !self.flags.contains(Flags::TIMESTAMPS),
        };
        self.state == State::Established
            && (h.flags | TcpFlags::PSH) == TcpFlags::ACK | TcpFlags::PSH
            && h.seq == self.rx.nxt
            && stamped
            && h.options.sack.is_empty()
            && h.options.telemetry.is_none()
            && self.all_goes_well()
            && self.rx.is_simple(seg.payload_len)
            && (h.ack == self.tx.una && seg.payload_len > 0
                || h.ack.after(self.tx.una) && h.ack.before_eq(self.tx.nxt))
            && seg.ecn != Ecn::Ce
            && !self.ecn.echo
            && !self.flags.contains(Flags::ORPHAN)
    }

    /// Nothing that we have sent is known to be lost or doubtful. With nothing outstanding that
    /// is so, and what would say otherwise need not be fetched from memory.
    #[inline]
    fn all_goes_well(&self) -> bool {
        let settled = || {
            self.recovery.phase == Phase::Open
                && self.recovery.dup_acks == 0
                && self.scoreboard.is_plain()
        };
        if self.tx.is_quiet() {
            debug_assert!(settled());
            return true;
        }
        settled() && self.rack.probe_end.is_none()
    }

    #[inline]
    fn on_predicted(&mut self, now: Instant, seg: &mut SegmentIn<'_, P>) {
        let h = seg.header;
        self.on_peer_heard(now);
        self.take_timestamp(now, h);
        let wnd = u32::from(h.window) << self.tx.shift;
        if h.ack != self.tx.una {
            self.on_ack_predicted(now, h);
        }
        if self.tx.update_window(h.seq, h.ack, wnd) {
            self.on_window_change();
        }
        if seg.payload_len > 0 {
            self.volume.bytes_in += u64::from(seg.payload_len);
            self.rx.take_in_order(seg.payload, seg.payload_len);
            self.raise(Event::Readable);
            self.watch_reads(now);
            self.on_in_order(now);
        }
    }

    fn on_unpredicted(&mut self, now: Instant, seg: &mut SegmentIn<'_, P>) -> Disposition {
        let h = seg.header;
        self.counters.ce_in += u64::from(seg.ecn == Ecn::Ce);
        match self.state {
            State::Closed => return Disposition::Orphan,
            State::SynSent => return self.on_segment_syn_sent(now, seg),
            State::SynReceived
                if h.flags & (TcpFlags::SYN | TcpFlags::RST) == TcpFlags::SYN
                    && h.seq == self.irs =>
            {
                self.on_repeated_syn(now, h);
                return Disposition::Continue;
            }
            State::TimeWait if h.flags.contains(TcpFlags::RST) => {
                // RFC 1337 fix 1: a reset must not cut TIME-WAIT short.
                return Disposition::Continue;
            }
            State::TimeWait if self.is_successor(h) => return Disposition::Reopen,
            _ => {}
        }
        if !self.passes_paws(now, h) {
            return Disposition::Continue;
        }
        if !self.rx.is_acceptable(h.seq, seg.sequence_len()) {
            self.on_unacceptable(now, seg);
            return Disposition::Continue;
        }
        if h.flags.contains(TcpFlags::RST) {
            self.on_reset(now, h.seq);
            return Disposition::Continue;
        }
        if h.flags.contains(TcpFlags::SYN) {
            //= RFC 5961 §4.2
            //# "If the SYN bit is set, irrespective of the sequence number, TCP MUST send an
            //#  ACK (also referred to as challenge ACK) to the remote peer"
            self.challenge(now);
            return Disposition::Continue;
        }
        //= RFC 9293 §3.10.7.4
        //# "if the ACK bit is off, drop the segment and return"
        if !h.flags.contains(TcpFlags::ACK) {
            return Disposition::Continue;
        }
        if self.state == State::SynReceived
            && let Some(disposition) = self.on_ack_syn_received(now, h)
        {
            return disposition;
        }
        self.on_acceptable(now, seg);
        Disposition::Continue
    }

    /// A segment that passed the first four checks and has an ACK.
    fn on_acceptable(&mut self, now: Instant, seg: &mut SegmentIn<'_, P>) {
        let h = seg.header;
        if !self.on_ack(now, h, seg.sequence_len()) {
            return;
        }
        self.on_peer_heard(now);
        self.take_timestamp(now, h);
        self.telemetry.on_segment(h.options.telemetry);
        if self.tx.fin_acked() {
            self.transition(Input::FinAcked, now);
        }
        // Sixth: the urgent pointer is not used for anything; urgent bytes are delivered in
        // band, as RFC 6093 §6 recommends.
        if seg.payload_len > 0 && self.ecn.agreed {
            self.take_marks(seg);
        }
        if seg.payload_len > 0 || h.flags.contains(TcpFlags::FIN) {
            self.on_text(now, h.seq, seg);
        }
    }

    /// The congestion bits of a segment with data.
    fn take_marks(&mut self, seg: &SegmentIn<'_, P>) {
        let cwr = seg.header.flags.contains(TcpFlags::CWR);
        let each = self.uses_dctcp();
        if self.ecn.on_data(seg.ecn == Ecn::Ce, cwr, each) {
            self.flags |= Flags::ACK_NOW;
        }
    }

    /// The seventh and eighth steps: data and FIN.
    pub(super) fn on_text(&mut self, now: Instant, seq: SeqNum, seg: &mut SegmentIn<'_, P>) {
        let fin = seg.header.flags.contains(TcpFlags::FIN);
        if !self.state.may_receive_data() {
            // The peer's FIN has been taken already: this is a retransmission.
            if self.state == State::TimeWait {
                //= RFC 9293 §3.10.7.4
                //# "Remain in the TIME-WAIT state.  Restart the 2 MSL time-wait timeout."
                self.timers.arm(Timer::Linger, now + self.config.time_wait);
            }
            if self.state != State::Closed {
                self.flags |= Flags::ACK_NOW;
            }
            return;
        }
        let before = self.rx.nxt;
        if self.flags.contains(Flags::ORPHAN) && (seq + seg.payload_len).after(before) {
            //= RFC 9293 §3.6.1
            //# "if new data is received after CLOSE is called, its TCP implementation SHOULD
            //#  send a RST to show that data was lost"
            self.reset_peer(now);
            return;
        }
        let readable = self.rx.readable();
        let arrival = self.rx.on_data(seq, seg.payload_len, fin, seg.payload);
        let new = self.rx.readable().saturating_sub(readable);
        if new > 0 {
            self.volume.bytes_in += new as u64;
            self.raise(Event::Readable);
            self.watch_reads(now);
        }
        match arrival {
            Arrival::InOrder => self.on_in_order(now),
            Arrival::OutOfOrder => {
                self.counters.out_of_order_in += 1;
                //= RFC 5681 §3.2
                //# "A TCP receiver SHOULD send an immediate duplicate ACK when an out-of-order
                //# segment arrives."
                self.ack.dups = self.ack.dups.saturating_add(1).min(DUP_ACKS_OWED_MAX);
            }
            //= RFC 5681 §3.2
            //# "a TCP receiver SHOULD send an immediate ACK when the incoming segment fills in
            //# all or part of a gap in the sequence space."
            Arrival::FilledGap | Arrival::Useless => self.flags |= Flags::ACK_NOW,
        }
        if self.rx.nxt != before {
            // The gap that these would have reported has moved.
            if arrival == Arrival::FilledGap {
                self.ack.dups = 0;
            }
            if self.rx.fin_received() {
                self.on_fin(now);
            }
        }
    }

    fn on_fin(&mut self, now: Instant) {
        self.raise(Event::Readable);
        self.raise(Event::PeerClosed);
        self.flags |= Flags::ACK_NOW;
        self.transition(Input::FinArrives, now);
    }

    /// Data arrived in order: decides when to acknowledge it.
    #[inline]
    fn on_in_order(&mut self, now: Instant) {
        let unacked = self.rx.nxt.distance_from(self.rx.last_ack_sent);
        //= RFC 9293 §3.8.6.3
        //# "an ACK SHOULD be generated for at least every second full-sized segment or
        //#  2*RMSS bytes of new data"
        if unacked >= self.rx.mss.saturating_mul(2)
            || self.ack.quick > 0
            || self.config.delayed_ack == Duration::ZERO
        {
            self.flags |= Flags::ACK_NOW;
        } else if !self.timers.is_armed(Timer::DelayedAck) {
            self.timers
                .arm(Timer::DelayedAck, now + self.config.delayed_ack);
        }
    }

    #[inline]
    fn on_peer_heard(&mut self, now: Instant) {
        self.last_in_at = now;
        self.probes_unanswered = 0;
    }

    /// RFC 7323 §5.3 R1. Says whether the segment may be processed.
    pub(super) fn passes_paws(&mut self, now: Instant, h: &TcpHeader) -> bool {
        //= RFC 7323 §5.2
        //# "When an <RST> segment is received, it MUST NOT be subjected to the PAWS check by
        //#  verifying an acceptable value in SEG.TSval"
        if !self.flags.contains(Flags::TIMESTAMPS) || h.flags.contains(TcpFlags::RST) {
            return true;
        }
        let Some(ts) = h.options.timestamps else {
            //= RFC 7323 §3.2
            //# "If a non-<RST> segment is received without a TSopt, a TCP SHOULD silently drop
            //#  the segment."
            self.counters.paws_drops += 1;
            return false;
        };
        let old = (ts.value.wrapping_sub(self.stamps.recent) as i32) < 0;
        let valid = now.saturating_since(self.stamps.recent_at) < TS_RECENT_VALID;
        if old && valid {
            //= RFC 7323 §5.3
            //# "treat the arriving segment as not acceptable: Send an acknowledgement in reply ...
            //#  and drop the segment."
            self.counters.paws_drops += 1;
            self.challenge(now);
            return false;
        }
        true
    }

    /// RFC 7323 §4.3: takes the timestamp of an acceptable segment.
    #[inline]
    fn take_timestamp(&mut self, now: Instant, h: &TcpHeader) {
        let Some(ts) = h.options.timestamps else {
            return;
        };
        //= RFC 7323 §4.3
        //# "If: SEG.TSval >= TS.Recent and SEG.SEQ <= Last.ACK.sent then SEG.TSval is copied to
        //#  TS.Recent; otherwise, it is ignored."
        // A value that is older and yet got past PAWS follows more than 24 days of silence.
        if self.flags.contains(Flags::TIMESTAMPS) && h.seq.before_eq(self.rx.last_ack_sent) {
            self.stamps.recent = ts.value;
            self.stamps.recent_at = now;
        }
    }

    /// The first check failed.
    #[cold]
    fn on_unacceptable(&mut self, now: Instant, seg: &SegmentIn<'_, P>) {
        let h = seg.header;
        //= RFC 9293 §3.10.7.4
        //# "If an incoming segment is not acceptable, an acknowledgment should be sent in reply
        //#  (unless the RST bit is set, if so drop the segment and return)"
        if h.flags.contains(TcpFlags::RST) {
            return;
        }
        if self.state == State::TimeWait && h.flags.contains(TcpFlags::FIN) {
            self.timers.arm(Timer::Linger, now + self.config.time_wait);
        }
        // Data and FIN can't be part of an ACK loop, and their sender needs to know soon: a
        // duplicate after a lost ACK, or a window probe. All else is answered sparingly.
        if seg.sequence_len() > 0 && !h.flags.contains(TcpFlags::SYN) {
            self.rx.on_stale(h.seq, seg.payload_len);
            self.flags |= Flags::ACK_NOW;
        } else {
            self.challenge(now);
        }
    }

    /// An acceptable reset (RFC 5961 §3.2).
    #[cold]
    fn on_reset(&mut self, now: Instant, seq: SeqNum) {
        if seq != self.rx.nxt {
            //= RFC 5961 §3.2
            //# "If the RST bit is set and the sequence number does not exactly match the next
            //#  expected sequence value, yet is within the current receive window, TCP MUST
            //#  send an acknowledgment (challenge ACK)"
            if self.rx.in_window(seq) {
                self.challenge(now);
            }
            return;
        }
        //= RFC 5961 §3.2
        //# "If the RST bit is set and the sequence number exactly matches the next expected
        //#  sequence number (RCV.NXT), then TCP MUST reset the connection."
        match self.state {
            State::SynReceived if self.flags.contains(Flags::ACTIVE) => {
                self.fail(Event::Refused, now);
            }
            State::Closing | State::LastAck | State::TimeWait => {
                self.transition(Input::Delete, now);
            }
            _ => self.fail(Event::Reset, now),
        }
    }

    /// Acknowledges something that may be an attack (RFC 5961 §7).
    #[cold]
    pub(super) fn challenge(&mut self, now: Instant) {
        if self.challenge.allow(now) {
            self.counters.challenge_acks += 1;
            self.flags |= Flags::ACK_NOW;
        } else {
            self.counters.challenge_acks_limited += 1;
        }
    }

    /// Whether a SYN may open the successor of this connection in TIME-WAIT (RFC 6191 §2).
    #[cold]
    fn is_successor(&self, h: &TcpHeader) -> bool {
        let has_timestamps = self.flags.contains(Flags::TIMESTAMPS);
        let recent = has_timestamps.then_some(self.stamps.recent);
        may_succeed(h, self.rx.nxt, recent)
    }

    /// A listener is to have the SYN that [`Disposition::Reopen`] was the answer to. What has not
    /// been read stays.
    pub fn give_way(&mut self, now: Instant) {
        self.transition(Input::Delete, now);
    }

    /// Nobody is to have that SYN. Tells its sender that something is left here, as of any SYN
    /// (RFC 5961 §4).
    pub fn stay(&mut self, now: Instant) {
        self.challenge(now);
    }
}
