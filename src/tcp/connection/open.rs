//! The handshake: options offered and agreed, and segments in SYN-SENT and SYN-RECEIVED.
#![forbid(unsafe_code)]

use super::super::congestion::CongestionControl;
use super::super::ecn::EcnUse;
use super::super::payload::Payload;
use super::super::receiver::WINDOW_SHIFT_MAX;
use super::super::segment::{Disposition, SegmentIn};
use super::super::state::{Input, State};
use super::super::timers::Timer;
use super::{Connection, Controller, Event, Flags};
use crate::time::Instant;
use crate::wire::{SeqNum, TELEMETRY_BYTES, TcpFlags, TcpHeader, TcpOptions, Timestamps};

/// Bytes of the timestamps option in every segment, padding included (RFC 7323 App. A).
const TIMESTAMPS_BYTES: u32 = 12;

/// The smallest shift with which a window field can express `bytes`.
pub(super) fn window_shift(bytes: u32) -> u8 {
    (0..WINDOW_SHIFT_MAX)
        .find(|shift| bytes >> shift <= u32::from(u16::MAX))
        .unwrap_or(WINDOW_SHIFT_MAX)
}

impl<P: Payload> Connection<P> {
    /// The options of our SYN, or of the SYN-ACK that answers the peer's.
    pub(super) fn syn_options(&mut self, now: Instant) -> TcpOptions {
        let (answering, agreed) = (self.flags.contains(Flags::PASSIVE_OPTIONS), self.flags);
        let offer = |wanted: bool, flag: Flags| {
            if answering {
                agreed.contains(flag)
            } else {
                wanted
            }
        };
        let timestamps = offer(self.config.timestamps, Flags::TIMESTAMPS);
        let again = self.flags.contains(Flags::SYN_RESENT);
        let wanted = self.config.congestion == CongestionControl::Hpcc;
        let telemetry = self.telemetry.syn_option(answering, wanted, again);
        TcpOptions {
            //= RFC 9293 §3.7.1
            //# "TCP endpoints MUST implement both sending and receiving the MSS Option"
            mss: Some(self.config.mss_local),
            //= RFC 7323 §2.2
            //# "It MAY also be sent in a <SYN,ACK> segment, but only if a Window Scale option was
            //#  received in the initial <SYN> segment."
            window_scale: offer(self.config.window_scale, Flags::SCALING).then_some(self.rx.shift),
            sack_permitted: offer(self.config.sack, Flags::SACK),
            timestamps: timestamps.then(|| self.stamp(now)),
            telemetry,
            sack: arrayvec::ArrayVec::new(),
        }
    }

    /// The timestamps option for a segment sent now.
    #[inline]
    pub(super) fn stamp(&mut self, now: Instant) -> Timestamps {
        let value = now.as_millis_wrapping().wrapping_add(self.stamps.offset);
        self.stamps.last_value = value;
        Timestamps {
            value,
            echo: self.stamps.recent,
        }
    }

    /// Takes the sequence number and options of the peer's SYN or SYN-ACK.
    pub(super) fn negotiate(&mut self, syn: &TcpHeader, now: Instant) {
        self.irs = syn.seq;
        self.rx.synchronize(syn.seq);
        let offered = &syn.options;
        //= RFC 9293 §3.7.1
        //# "If an MSS Option is not received at connection setup, TCP implementations MUST
        //#  assume a default send MSS of 536 (576 - 40) for IPv4 or 1220 (1280 - 60) for IPv6"
        let mss = offered.mss.unwrap_or(self.config.mss_default);
        self.mss_peer = mss.max(self.config.mss_min);
        self.flags |= Flags::PASSIVE_OPTIONS;
        let allowed = self.config.ecn != EcnUse::Off || self.uses_dctcp();
        self.ecn.negotiate(syn.flags, allowed);
        let answer = syn.flags.contains(TcpFlags::ACK);
        (self.telemetry).negotiate(offered.telemetry.is_some(), answer);
        match offered.window_scale.filter(|_| self.config.window_scale) {
            Some(shift) => {
                //= RFC 7323 §2.3
                //# "If a Window Scale option is received with a shift.cnt value larger than 14,
                //#  the TCP SHOULD log the error but MUST use 14 instead of the specified value."
                self.tx.shift = shift.min(WINDOW_SHIFT_MAX);
                self.flags |= Flags::SCALING;
            }
            None => {
                //= RFC 7323 §2.2
                //# "both sides MUST send Window Scale options in their <SYN> segments to enable
                //#  window scaling in either direction"
                self.tx.shift = 0;
                self.rx.shift = 0;
            }
        }
        self.flags
            .set(Flags::SACK, offered.sack_permitted && self.config.sack);
        if let Some(ts) = offered.timestamps.filter(|_| self.config.timestamps) {
            self.flags |= Flags::TIMESTAMPS;
            self.stamps.recent = ts.value;
            self.stamps.recent_at = now;
        }
        self.apply_mss();
    }

    /// Recomputes the effective MSS after something that it depends on has changed.
    pub(super) fn apply_mss(&mut self) {
        //= RFC 9293 §3.7.1
        //# "Eff.snd.MSS = min(SendMSS+20, MMS_S) - TCPhdrsize - IPoptionsize"
        self.mss = self.effective_mss(self.path.mss());
        self.congestion.set_mss(self.mss);
    }

    /// Payload bytes of a full segment on a path that takes `mss`.
    pub(super) fn effective_mss(&self, mss: u16) -> u32 {
        let bytes = u32::from(self.mss_peer.min(mss));
        bytes.saturating_sub(self.options_bytes()).max(1)
    }

    /// Bytes of the options that are in every segment.
    pub(super) fn options_bytes(&self) -> u32 {
        let mut bytes = 0;
        if self.flags.contains(Flags::TIMESTAMPS) {
            bytes += TIMESTAMPS_BYTES;
        }
        if self.telemetry.agreed {
            bytes += TELEMETRY_BYTES as u32;
        }
        bytes
    }

    /// RFC 9293 §3.10.7.3.
    #[cold]
    pub(super) fn on_segment_syn_sent(
        &mut self,
        now: Instant,
        seg: &mut SegmentIn<'_, P>,
    ) -> Disposition {
        let h = seg.header;
        let has_ack = h.flags.contains(TcpFlags::ACK);
        //= RFC 9293 §3.10.7.3
        //# "If SND.UNA < SEG.ACK =< SND.NXT, then the ACK is acceptable."
        let acceptable = has_ack && h.ack.after(self.tx.una) && h.ack.before_eq(self.tx.nxt);
        if has_ack && !acceptable {
            if h.flags.contains(TcpFlags::RST) {
                return Disposition::Continue;
            }
            return Disposition::Reset(self.reset_for_ack(h.ack));
        }
        if h.flags.contains(TcpFlags::RST) {
            //= RFC 9293 §3.10.7.3
            //# "If the ACK was acceptable, then signal to the user "error: connection reset",
            //#  drop the segment, enter CLOSED state ... Otherwise (no ACK), drop the segment"
            if acceptable {
                self.fail(Event::Refused, now);
            }
            return Disposition::Continue;
        }
        if !h.flags.contains(TcpFlags::SYN) {
            return Disposition::Continue;
        }
        self.negotiate(h, now);
        if acceptable {
            self.on_syn_acked(now, h);
        }
        //= RFC 7323 §2.2
        //# "The window field in a segment where the SYN bit is set (i.e., a <SYN> or
        //#  <SYN,ACK>) MUST NOT be scaled."
        self.tx.set_window(h.seq, h.ack, u32::from(h.window));
        if !acceptable {
            // Simultaneous open: our SYN goes out once more, now as a SYN-ACK.
            self.flags |= Flags::SYN_PENDING;
            self.transition(Input::SynArrives, now);
            return Disposition::Continue;
        }
        self.transition(Input::SynAckArrives, now);
        self.flags |= Flags::ACK_NOW;
        if seg.payload_len > 0 || h.flags.contains(TcpFlags::FIN) {
            self.on_text(now, h.seq + 1, seg);
        }
        Disposition::Continue
    }

    /// The acknowledgment of our SYN has arrived in `h`.
    fn on_syn_acked(&mut self, now: Instant, h: &TcpHeader) {
        self.tx.advance(self.iss + 1);
        self.recovery.on_progress(self.tx.una);
        self.progress_at = now;
        self.timers.disarm(Timer::Retransmit);
        //= RFC 6298 §3
        //# "RTT samples MUST NOT be made using segments that were retransmitted (and thus for
        //#  which it is ambiguous whether the reply was for the first instance"
        if !self.flags.contains(Flags::SYN_RESENT) {
            // A cookie does not remember when: until data tells, RFC 6298 §2.1 holds.
            if self.syn_sent_at != Instant::FAR_FUTURE {
                self.rtt.on_sample(now.saturating_since(self.syn_sent_at));
            }
        } else if !self.sample_by_timestamp(now, h) {
            self.rtt.on_lossy_handshake();
        }
    }

    /// ESTABLISHED has been entered.
    pub(super) fn on_established(&mut self, now: Instant) {
        self.congestion = Controller::new(self.config.congestion, self.mss, self.syn_timeouts > 1);
        self.usage_mark = self.tx.nxt;
        self.choose_pacing();
        self.receive_buffer.begin(self.rx.nxt, now);
        self.raise(Event::Connected);
        if self.send_space() > 0 {
            self.raise(Event::Writable);
        }
        self.arm_keepalive(now);
        if self.flags.contains(Flags::CLOSE_QUEUED) {
            //= RFC 9293 §3.10.4
            //# "otherwise, queue for processing after entering ESTABLISHED state"
            self.tx.fin = true;
            self.transition(Input::Close, now);
        }
    }

    /// A SYN with the peer's own initial sequence number, in SYN-RECEIVED.
    #[cold]
    pub(super) fn on_repeated_syn(&mut self, now: Instant, h: &TcpHeader) {
        if h.flags.contains(TcpFlags::ACK) {
            // The SYN-ACK of a simultaneous open. Its SYN lies before RCV.NXT, so by the
            // letter of the acceptability test it would be dropped (RFC 9293 App. A.2).
            if self.acks_syn(h) {
                self.complete_handshake(now, h, u32::from(h.window));
            }
        } else if self.challenge.allow(now) {
            // The peer did not get our SYN-ACK: answering its SYN with another is what makes
            // the handshake go on without waiting for our timer.
            self.flags |= Flags::SYN_PENDING;
        }
    }

    /// The fifth check of RFC 9293 §3.10.7.4 in SYN-RECEIVED; `Some` ends the processing.
    #[cold]
    pub(super) fn on_ack_syn_received(
        &mut self,
        now: Instant,
        h: &TcpHeader,
    ) -> Option<Disposition> {
        if !self.acks_syn(h) {
            //= RFC 9293 §3.10.7.4
            //# "If the segment acknowledgment is not acceptable, form a reset segment"
            return Some(Disposition::Reset(self.reset_for_ack(h.ack)));
        }
        self.complete_handshake(now, h, u32::from(h.window) << self.tx.shift);
        None
    }

    fn acks_syn(&self, h: &TcpHeader) -> bool {
        //= RFC 9293 §3.10.7.4
        //# "If SND.UNA < SEG.ACK =< SND.NXT, then enter ESTABLISHED state"
        h.ack.after(self.tx.una) && h.ack.before_eq(self.tx.nxt)
    }

    fn complete_handshake(&mut self, now: Instant, h: &TcpHeader, wnd: u32) {
        self.flags -= Flags::SYN_PENDING;
        self.on_syn_acked(now, h);
        self.tx.set_window(h.seq, h.ack, wnd);
        self.transition(Input::SynAcked, now);
    }

    /// `<SEQ=SEG.ACK><CTL=RST>`
    #[cold]
    pub(super) fn reset_for_ack(&self, ack: SeqNum) -> TcpHeader {
        TcpHeader {
            src_port: self.ports.local,
            dst_port: self.ports.remote,
            seq: ack,
            flags: TcpFlags::RST,
            ..TcpHeader::default()
        }
    }

    pub(super) fn uses_dctcp(&self) -> bool {
        self.config.congestion == CongestionControl::Dctcp
    }

    /// Whether our SYN asks for ECN.
    pub(super) fn wants_ecn(&self) -> bool {
        self.config.ecn == EcnUse::Request || self.uses_dctcp()
    }

    /// Whether our SYN is still unanswered.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::SynSent | State::SynReceived)
    }
}
