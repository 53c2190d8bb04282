//! Segments out: what to send, in which order, and how it looks.
#![forbid(unsafe_code)]

use super::super::payload::{Payload, Pieces};
use super::super::recovery::{Frto, Phase};
use super::super::segment::SegmentOut;
use super::super::sender::{Manners, Plan};
use super::super::state::State;
use super::super::timers::Timer;
use super::{Connection, Flags};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, SeqNum, TcpFlags, TcpHeader, TcpOptions};

/// How long cork and MSG_MORE may hold data back (tcp(7): "a ceiling of 200 milliseconds").
const CORK_MAX: Duration = Duration::from_millis(200);
/// Bytes of the option space (RFC 9293 §3.1: a header of at most 60 bytes).
const OPTIONS_BYTES_MAX: u32 = 40;
/// Segments of less are not left to the link to cut (i40e and iavf refuse less than 256).
const CUT_BYTES_MIN: u32 = 256;

impl<P: Payload> Connection<P> {
    /// The next segment to send; call until there is none.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<SegmentOut<P>> {
        let out = self.next_segment(now);
        if let Some(out) = &out {
            self.volume.segs_out += u64::from(out.segments());
        }
        out
    }

    #[inline]
    fn next_segment(&mut self, now: Instant) -> Option<SegmentOut<P>> {
        if self
            .flags
            .intersects(Flags::RST_PENDING | Flags::SYN_PENDING)
        {
            return Some(self.emit_control(now));
        }
        match self.state {
            State::Closed | State::SynSent => return None,
            // The answer to what does not belong to this handshake. A peer that has begun
            // another one resets ours because of it (RFC 9293 §3.5.1, figure 8).
            State::SynReceived => {
                let owed = self.flags.contains(Flags::ACK_NOW);
                return owed.then(|| self.emit_ack(now, self.tx.nxt));
            }
            _ => {}
        }
        if self.ack.dups > 0 {
            self.ack.dups -= 1;
            return Some(self.emit_ack(now, self.tx.acceptable_seq()));
        }
        if self.state.may_transmit_data()
            && let Some(out) = self.next_data(now)
        {
            return Some(out);
        }
        if self.flags.contains(Flags::PROBE_PENDING) {
            return Some(self.emit_probe(now));
        }
        if self.flags.contains(Flags::ACK_NOW) {
            return Some(self.emit_ack(now, self.tx.acceptable_seq()));
        }
        None
    }

    /// Retransmissions first, then new data, then probes.
    #[inline]
    fn next_data(&mut self, now: Instant) -> Option<SegmentOut<P>> {
        if self.tx.is_quiet() {
            // Most connections, most of the time: no more of them is fetched from memory.
            if self.tx.unsent() == 0 && !self.tx.fin_unsent() {
                self.flags -= Flags::FLUSH;
                return None;
            }
            // What was to be sent again has arrived meanwhile.
            self.recovery.force_nothing();
        }
        let r = &self.recovery;
        if (r.force_first || r.force_lost || r.probe_tail)
            && let Some(out) = self.next_forced(now)
        {
            return Some(out);
        }
        if self.tx.flight() > 0 && self.recovery.phase != Phase::Open {
            return self.next_in_recovery(now);
        }
        if self.tx.unsent() == 0 && !self.tx.fin_unsent() {
            self.on_blocked(now, Plan::Nothing, self.in_flight());
            return None;
        }
        self.restart_if_idle(now);
        let in_flight = self.in_flight();
        self.send_new(now, in_flight)
    }

    /// What goes out whatever the congestion window says.
    #[cold]
    fn next_forced(&mut self, now: Instant) -> Option<SegmentOut<P>> {
        let r = &mut self.recovery;
        let (first, lost) = (r.force_first, r.force_lost);
        let probe = r.probe_tail;
        r.force_nothing();
        if first && let Some(out) = self.retransmit_first(now) {
            return Some(out);
        }
        let mss = self.current_mss();
        if lost && let Some((start, limit)) = self.next_lost() {
            return self.retransmit(now, start, limit, mss);
        }
        if probe {
            return self.probe_tail(now, mss);
        }
        None
    }

    /// A probe of the tail (RFC 8985 §7.3): new data if there is any, else the last segment.
    fn probe_tail(&mut self, now: Instant, mss: u32) -> Option<SegmentOut<P>> {
        let new = self.tx.unsent().min(mss).min(self.tx.window_left());
        if new > 0 {
            let out = self.emit_new(now, new, false, mss);
            self.rack.probe_end = Some(self.tx.nxt);
            self.rack.probe_is_retrans = false;
            return Some(out);
        }
        let nxt = self.tx.nxt;
        let start = self.tx.una.latest(nxt - mss);
        // The end of a shrunk window is for the retransmission timer to deal with.
        if nxt.after(self.tx.una + self.tx.wnd) {
            return None;
        }
        let out = self.retransmit(now, start, nxt, mss)?;
        self.rack.probe_end = Some(nxt);
        self.rack.probe_is_retrans = true;
        Some(out)
    }

    /// RFC 5681 §4.1, before the first transmission after an idle time.
    #[inline]
    fn restart_if_idle(&mut self, now: Instant) {
        if self.tx.flight() == 0 && now.saturating_since(self.last_out_at) > self.rtt.rto() {
            self.congestion.on_idle();
        }
    }

    /// An estimate of the bytes in the network.
    //= RFC 6675 §4
    //# "(a) If IsLost (S1) returns false: Pipe is incremented by 1 octet."
    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        let board = &self.scoreboard;
        self.tx
            .flight()
            .saturating_sub(board.sacked_bytes() + board.lost_bytes())
    }

    /// Sends new data if the windows and good manners allow it.
    #[inline]
    fn send_new(&mut self, now: Instant, in_flight: u32) -> Option<SegmentOut<P>> {
        let mss = self.current_mss();
        let mut window = self.congestion.cwnd();
        let limited = self.recovery.phase == Phase::Open && self.recovery.dup_acks > 0;
        if limited && !self.flags.contains(Flags::SACK) {
            //= RFC 3042 §2
            //# "a TCP sender to transmit new data upon the arrival of the first two consecutive
            //#  duplicate ACKs"
            window = window.saturating_add(self.recovery.dup_acks.min(2).saturating_mul(self.mss));
        }
        let manners = Manners {
            nodelay: self.flags.contains(Flags::NODELAY),
            cork: self.flags.contains(Flags::CORK),
            flush: self.flags.contains(Flags::FLUSH),
        };
        let allowed = window.saturating_sub(in_flight);
        let paced = self.pacing_allowance(now, mss);
        if self.path.is_raise_due(now)
            && paced > 0
            && let Some(out) = self.probe_path(now, allowed, mss)
        {
            return Some(out);
        }
        let plan = match self.tx.plan(mss, allowed, manners) {
            Plan::Send { .. } if paced == 0 => Plan::Paced,
            plan => plan,
        };
        match plan {
            Plan::Send { mut len, mut fin } => {
                if limited {
                    self.recovery.limited_bytes += len;
                } else if len == mss && !fin && self.recovery.phase == Phase::Open {
                    let most = match self.mss {
                        // Cards refuse to cut into less, and a refused frame is a lost one.
                        ..CUT_BYTES_MIN => 0,
                        _ => self.config.tso_bytes_max,
                    };
                    if most > mss {
                        let allowed = allowed.min(paced);
                        (len, fin) = self.tx.lengthen(mss, allowed, most, manners);
                    }
                }
                Some(self.emit_new(now, len, fin, mss))
            }
            _ => {
                self.on_blocked(now, plan, in_flight);
                None
            }
        }
    }

    /// Nothing more can be sent in this turn, because of `plan`.
    fn on_blocked(&mut self, now: Instant, plan: Plan, in_flight: u32) {
        self.flags -= Flags::FLUSH;
        let new_round = self.tx.una.after_eq(self.usage_mark);
        let limited = plan == Plan::Congestion;
        if plan == Plan::Paced {
            self.wait_for_pacing();
        }
        if self
            .congestion
            .on_transmitted(in_flight, limited, new_round)
        {
            self.usage_mark = self.tx.nxt;
        }
        // With something in flight, its acknowledgment is the occasion to look again.
        if self.tx.flight() > 0 || self.timers.is_armed(Timer::Persist) {
            return;
        }
        match plan {
            //= RFC 9293 §3.8.6.1
            //# "The transmitting host SHOULD send the first zero-window probe when a zero
            //#  window has existed for the retransmission timeout period"
            Plan::Window => {
                self.progress_at = now;
                self.timers.arm(Timer::Persist, now + self.rtt.rto());
            }
            Plan::Corked => self.timers.arm(Timer::Persist, now + CORK_MAX),
            _ => {}
        }
    }

    /// RFC 6675 §5 step (C), or what remains to be sent again after a timeout.
    #[cold]
    fn next_in_recovery(&mut self, now: Instant) -> Option<SegmentOut<P>> {
        let in_flight = self.in_flight();
        let mss = self.current_mss();
        if self.recovery.frto == Frto::Second {
            return self.next_of_frto(now, mss);
        }
        let room = self.congestion.cwnd().saturating_sub(in_flight);
        if let Some((start, limit)) = self.next_lost() {
            //= RFC 6675 §5
            //# "(C) If cwnd - pipe >= 1 SMSS, the sender SHOULD transmit one or more segments"
            if room < limit.distance_from(start).min(mss) {
                self.on_blocked(now, Plan::Congestion, in_flight);
                return None;
            }
            if self.pacing_allowance(now, mss) == 0 {
                self.on_blocked(now, Plan::Paced, in_flight);
                return None;
            }
            return self.retransmit(now, start, limit, mss);
        }
        self.send_new(now, in_flight)
    }

    /// RFC 5682 §2.1 step 2b: at most two new segments before the second acknowledgment.
    fn next_of_frto(&mut self, now: Instant, mss: u32) -> Option<SegmentOut<P>> {
        let sent = self.tx.nxt.distance_from(self.recovery.recover);
        let new = self.tx.unsent().min(mss).min(self.tx.window_left());
        if new == 0 || sent.saturating_add(new) > mss.saturating_mul(2) {
            self.on_blocked(now, Plan::Congestion, self.in_flight());
            return None;
        }
        Some(self.emit_new(now, new, false, mss))
    }

    /// NextSeg rule (1) of RFC 6675 §4: the first run that is lost, within the peer's window
    /// (which may have shrunk).
    fn next_lost(&mut self) -> Option<(SeqNum, SeqNum)> {
        let edge = self.tx.una + self.tx.wnd;
        self.scoreboard.first_lost(edge)
    }

    /// Sends the segment at SND.UNA again, whatever the windows say.
    #[cold]
    fn retransmit_first(&mut self, now: Instant) -> Option<SegmentOut<P>> {
        let una = self.tx.una;
        let sacked = self.scoreboard.first_sacked(self.tx.nxt);
        let limit = if sacked == una { self.tx.nxt } else { sacked };
        let mss = self.current_mss();
        self.retransmit(now, una, limit, mss)
    }

    /// Sends at most `mss` bytes of `[start, limit)` again, and FIN if it belongs there.
    fn retransmit(
        &mut self,
        now: Instant,
        start: SeqNum,
        limit: SeqNum,
        mss: u32,
    ) -> Option<SegmentOut<P>> {
        if !start.before(limit) {
            return None;
        }
        let data_end = self.tx.queue.end();
        let len_max = match start.before(data_end) {
            true => data_end.earliest(limit).distance_from(start).min(mss),
            false => 0,
        };
        let (payload, len) = self.tx.queue.gather(start, len_max);
        let end = start + len;
        let fin = self.tx.fin && end == data_end && limit.after(data_end);
        if len == 0 && !fin {
            return None;
        }
        self.counters.retransmits += 1;
        self.counters.bytes_retransmitted += u64::from(len);
        let end = end + u32::from(fin);
        let _failed = self.path.on_resent(start, end, now);
        self.scoreboard.on_resent(start, end, now);
        let bytes = end.distance_from(start);
        self.on_paced(now, bytes);
        self.recovery.on_resent(now, bytes);
        self.on_sent_in_recovery(bytes);
        if !self.timers.is_armed(Timer::Retransmit) {
            self.arm_retransmit(now);
        }
        Some(self.emit_data(now, start, payload, len, fin, true))
    }

    #[inline]
    pub(super) fn emit_new(
        &mut self,
        now: Instant,
        len: u32,
        fin: bool,
        mss: u32,
    ) -> SegmentOut<P> {
        let start = self.tx.nxt;
        if self.tx.flight() == 0 {
            self.progress_at = now;
        }
        let (mut payload, mut taken) = self.tx.queue.gather(start, len);
        // A segment may have too few pieces for its length: then the rest, and FIN, follow.
        if taken < len && taken > mss && !taken.is_multiple_of(mss) {
            (payload, taken) = self.tx.queue.gather(start, taken / mss * mss);
        }
        let fin = fin && taken == len;
        let full = taken == mss || taken < len || taken > mss && taken.is_multiple_of(mss);
        self.tx.on_sent(taken, fin, full);
        self.volume.bytes_out += u64::from(taken);
        self.on_paced(now, taken);
        //= RFC 6298 §5.1
        //# "Every time a packet containing data is sent (including a retransmission), if the
        //#  timer is not running, start it running so that it will expire after RTO seconds"
        if !self.timers.is_armed(Timer::Retransmit) {
            self.arm_retransmit(now);
        }
        self.timers.disarm(Timer::Persist);
        self.flags -= Flags::PROBE_PENDING;
        self.persist_backoff = 0;
        let end = self.tx.nxt;
        self.scoreboard.on_sent(start, end, now);
        if self.recovery.phase != Phase::Open {
            self.on_sent_in_recovery(end.distance_from(start));
        }
        let mut out = self.emit_data(now, start, payload, taken, fin, false);
        if taken > mss {
            out.segment_bytes = mss as u16;
        }
        out
    }

    fn on_sent_in_recovery(&mut self, bytes: u32) {
        if self.recovery.phase == Phase::Fast && self.flags.contains(Flags::SACK) {
            self.congestion.on_recovery_sent(bytes);
        }
    }

    /// A window or keepalive probe: a segment that the peer can't accept and must answer.
    ///
    /// It repeats an old sequence number and carries nothing. An octet of new data would be
    /// the other way (RFC 9293 §3.8.6.1), but until its acknowledgment arrives neither side
    /// knows whether SND.NXT lies inside the peer's window, so two hosts that probe each other
    /// can end up with every pure ACK unacceptable to the other.
    #[cold]
    fn emit_probe(&mut self, now: Instant) -> SegmentOut<P> {
        self.flags -= Flags::PROBE_PENDING;
        self.counters.probes += 1;
        //= RFC 9293 §3.8.4
        //# "an implementation SHOULD send a keep-alive segment with no data (SHLD-12)"
        self.emit_ack(now, self.tx.una - 1)
    }

    /// Payload bytes that fit into a segment sent now.
    #[inline]
    fn current_mss(&self) -> u32 {
        if !self.flags.contains(Flags::SACK) || !self.rx.has_sack_blocks() {
            return self.mss;
        }
        // Two bytes of padding, two of header, and eight per block.
        let blocks = self.sack_room() as u32;
        self.mss.saturating_sub(4 + 8 * blocks).max(1)
    }

    /// SACK blocks that fit next to the other options.
    fn sack_room(&self) -> usize {
        ((OPTIONS_BYTES_MAX - self.options_bytes() - 4) / 8) as usize
    }

    #[inline]
    fn emit_data(
        &mut self,
        now: Instant,
        seq: SeqNum,
        payload: Pieces<P>,
        len: u32,
        fin: bool,
        retransmission: bool,
    ) -> SegmentOut<P> {
        let mut flags = TcpFlags::ACK;
        if len > 0 && self.tx.is_push(seq, seq + len) {
            flags |= TcpFlags::PSH;
        }
        if fin {
            flags |= TcpFlags::FIN;
        }
        if self.flags.contains(Flags::ACK_NOW) || self.timers.is_armed(Timer::DelayedAck) {
            // The application answers by itself: its data will carry the acknowledgments, so
            // there is no need for quick ones (Linux's "pingpong" mode).
            self.ack.quick = 0;
        }
        self.last_out_at = now;
        let mut ecn = Ecn::NotEct;
        //= RFC 3168 §6.1.5
        //# "ECN-capable TCP implementations MUST NOT set either ECT codepoint (ECT(0) or ECT(1))
        //#  in the IP header for retransmitted data packets"
        if self.ecn.agreed && len > 0 && !retransmission {
            ecn = Ecn::Ect0;
            //= RFC 3168 §6.1.2
            //# "the TCP sender sets the CWR flag in the TCP header of the first new data packet
            //#  sent after the window reduction"
            if core::mem::take(&mut self.ecn.cwr) {
                flags |= TcpFlags::CWR;
            }
        }
        let header = self.header(now, seq, flags);
        SegmentOut {
            header,
            payload,
            payload_len: len,
            segment_bytes: 0,
            alone: false,
            ecn,
            retransmission,
        }
    }

    fn emit_ack(&mut self, now: Instant, seq: SeqNum) -> SegmentOut<P> {
        self.ack.quick = self.ack.quick.saturating_sub(1);
        SegmentOut::without_data(self.header(now, seq, TcpFlags::ACK))
    }

    /// A header with an acknowledgment of everything received: after it none is due.
    #[inline]
    fn header(&mut self, now: Instant, seq: SeqNum, flags: TcpFlags) -> TcpHeader {
        self.flags -= Flags::ACK_NOW;
        self.timers.disarm(Timer::DelayedAck);
        let flags = match self.ecn.echo {
            true => flags | TcpFlags::ECE,
            false => flags,
        };
        let mut options = TcpOptions::default();
        if self.flags.contains(Flags::TIMESTAMPS) {
            //= RFC 7323 §3.2
            //# "Once TSopt has been successfully negotiated ... the TSopt MUST be sent in every
            //#  non-<RST> segment for the duration of the connection"
            options.timestamps = Some(self.stamp(now));
        }
        options.telemetry = self.telemetry.option();
        if self.flags.contains(Flags::SACK) && self.rx.has_sack_blocks() {
            let room = self.sack_room();
            self.rx.sack_blocks(&mut options.sack, room);
        }
        TcpHeader {
            src_port: self.ports.local,
            dst_port: self.ports.remote,
            seq,
            ack: self.rx.nxt,
            flags,
            window: self.rx.advertise(),
            urgent: 0,
            options,
        }
    }

    /// A SYN, a SYN-ACK, or a reset.
    #[cold]
    fn emit_control(&mut self, now: Instant) -> SegmentOut<P> {
        let retransmission = self.tx.nxt != self.iss && self.flags.contains(Flags::SYN_PENDING);
        let header = if self.flags.contains(Flags::RST_PENDING) {
            self.flags -= Flags::RST_PENDING;
            let mut options = TcpOptions::default();
            if self.flags.contains(Flags::TIMESTAMPS) {
                //= RFC 7323 §3.2
                //# "and SHOULD be sent in an <RST> segment"
                options.timestamps = Some(self.stamp(now));
            }
            TcpHeader {
                src_port: self.ports.local,
                dst_port: self.ports.remote,
                seq: self.tx.nxt,
                ack: self.rx.nxt,
                flags: TcpFlags::RST | TcpFlags::ACK,
                options,
                ..TcpHeader::default()
            }
        } else {
            self.emit_syn(now)
        };
        SegmentOut {
            retransmission,
            ..SegmentOut::without_data(header)
        }
    }

    fn emit_syn(&mut self, now: Instant) -> TcpHeader {
        self.flags -= Flags::SYN_PENDING;
        let (answering, again) = (self.state == State::SynReceived, self.tx.nxt != self.iss);
        let wanted = self.wants_ecn();
        let bits = self.ecn.syn_bits(answering, wanted, again);
        if self.tx.nxt != self.iss {
            self.flags |= Flags::SYN_RESENT;
            self.recovery.resent_at = now;
        } else {
            self.tx.nxt = self.iss + 1;
            self.syn_sent_at = now;
            self.progress_at = now;
        }
        if !self.timers.is_armed(Timer::Retransmit) {
            self.arm_retransmit(now);
        }
        self.last_out_at = now;
        let (flags, ack) = match self.state {
            State::SynReceived => (TcpFlags::SYN | TcpFlags::ACK, self.rx.nxt),
            _ => (TcpFlags::SYN, SeqNum::default()),
        };
        TcpHeader {
            src_port: self.ports.local,
            dst_port: self.ports.remote,
            seq: self.iss,
            ack,
            flags: flags | bits,
            window: self.rx.advertise_unscaled(),
            urgent: 0,
            options: self.syn_options(now),
        }
    }
}
