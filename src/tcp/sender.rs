//! The sending half: what may be sent next, given the peer's window and good manners.
//!
//! Silly window avoidance (RFC 9293 §3.8.6.2.1), Nagle (§3.7.4) and cork. Knows nothing of
//! congestion or losses: how much the network takes is an argument.
#![forbid(unsafe_code)]

use super::payload::Payload;
use super::send_queue::SendQueue;
use crate::wire::SeqNum;

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// `len` bytes from SND.NXT, then FIN if `fin`.
    Send { len: u32, fin: bool },
    /// Nothing is waiting.
    Nothing,
    /// The congestion window is full.
    Congestion,
    /// The pacing rate holds it back.
    Paced,
    /// The peer's window is full, or too small to be worth a segment.
    Window,
    /// The application asked to wait for more (cork, MSG_MORE).
    Corked,
    /// Nagle: an earlier small segment is unacknowledged.
    Nagle,
}

/// How polite to be about small segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) nodelay: bool,
    pub(crate) cork: bool,
    /// Waited long enough: send what the window takes.
    pub(crate) flush: bool,
}

/// The send variables of RFC 9293 §3.3.1; the queue is behind them, beyond the hot cache lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Sender<P> {
    /// SND.UNA
    pub(crate) una: SeqNum,
    /// SND.NXT
    pub(crate) nxt: SeqNum,
    /// SND.WND, in bytes.
    pub(crate) wnd: u32,
    /// SND.WL1
    wl1: SeqNum,
    /// SND.WL2
    wl2: SeqNum,
    /// The largest window the peer ever offered.
    pub(crate) max_wnd: u32,
    /// End of the last write that was complete.
    push: SeqNum,
    /// End of the last segment that was smaller than it could have been.
    small: SeqNum,
    /// Snd.Wind.Shift
    pub(crate) shift: u8,
    /// The application will write no more.
    pub(crate) fin: bool,
    /// The last write said that more follows.
    pub(crate) more: bool,
    pub(crate) queue: SendQueue<P>,
}

impl<P: Payload> Sender<P> {
    /// Before the SYN with sequence number `iss`.
    pub(crate) fn new(iss: SeqNum) -> Self {
        Self {
            una: iss,
            nxt: iss,
            wnd: 0,
            wl1: SeqNum::default(),
            wl2: SeqNum::default(),
            max_wnd: 0,
            push: iss,
            small: iss,
            shift: 0,
            fin: false,
            more: false,
            queue: SendQueue::new(iss + 1),
        }
    }

    /// Bytes sent and not cumulatively acknowledged: FlightSize of RFC 5681.
    #[inline]
    pub(crate) fn flight(&self) -> u32 {
        self.nxt.distance_from(self.una)
    }

    /// Whether nothing awaits acknowledgment.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.una == self.nxt
    }

    /// Bytes written and never sent.
    #[inline]
    pub(crate) fn unsent(&self) -> u32 {
        let end = self.queue.end();
        if self.nxt.before(end) {
            end.distance_from(self.nxt)
        } else {
            0
        }
    }

    /// Whether there is a FIN to send for the first time.
    pub(crate) fn fin_unsent(&self) -> bool {
        self.fin && self.nxt.before_eq(self.queue.end())
    }

    /// Whether our FIN has been acknowledged.
    pub(crate) fn fin_acked(&self) -> bool {
        self.fin && self.una.after(self.queue.end())
    }

    /// The room in the peer's window after SND.NXT. Zero if the window was shrunk.
    #[inline]
    pub(crate) fn window_left(&self) -> u32 {
        let edge = self.una + self.wnd;
        if self.nxt.before(edge) {
            edge.distance_from(self.nxt)
        } else {
            0
        }
    }

    /// The sequence number for a segment without data. SND.NXT, unless the peer has shrunk its
    /// window to before that: then what it will still accept.
    #[inline]
    pub(crate) fn acceptable_seq(&self) -> SeqNum {
        let edge = self.una + self.wnd;
        // A window field is rounded down to its scale, which is not a shrunk window.
        let rounding = 1u32 << self.shift;
        if edge.before(self.nxt) && self.nxt.distance_from(edge) >= rounding {
            edge
        } else {
            self.nxt
        }
    }

    /// Takes the window of a handshake segment.
    pub(crate) fn set_window(&mut self, seq: SeqNum, ack: SeqNum, wnd: u32) {
        self.wnd = wnd;
        self.max_wnd = self.max_wnd.max(wnd);
        self.wl1 = seq;
        self.wl2 = ack;
    }

    /// Takes the window of an acceptable ACK unless the segment is an old one. Says whether
    /// the window changed.
    #[inline]
    pub(crate) fn update_window(&mut self, seq: SeqNum, ack: SeqNum, wnd: u32) -> bool {
        //= RFC 9293 §3.10.7.4
        //# "If (SND.WL1 < SEG.SEQ or (SND.WL1 = SEG.SEQ and SND.WL2 =< SEG.ACK)), set
        //#  SND.WND <- SEG.WND, set SND.WL1 <- SEG.SEQ, and set SND.WL2 <- SEG.ACK."
        if !(self.wl1.before(seq) || (self.wl1 == seq && self.wl2.before_eq(ack))) {
            return false;
        }
        let changed = self.wnd != wnd;
        self.set_window(seq, ack, wnd);
        changed
    }

    /// The peer acknowledges everything before `ack`, whichis in (SND.UNA, SND.NXT].
    #[inline]
    pub(crate) fn advance(&mut self, ack: SeqNum) {
        // The window's right edge stays where it was until the segment's own window is taken.
        self.wnd = self.wnd.saturating_sub(ack.distance_from(self.una));
        self.una = ack;
        // Taken along, or after 2 GiB of full segments it would seem to lie ahead.
        if self.small.before(ack) {
            self.small = ack;
        }
        self.queue.release_until(ack);
    }

    /// Decides what to send next: at most `mss` bytes, of which the network takes `allowed`.
    pub(crate) fn plan(&self, mss: u32, allowed: u32, manners: Manners) -> Plan {
        let unsent = self.unsent();
        if unsent == 0 && !self.fin_unsent() {
            return Plan::Nothing;
        }
        let room = self.window_left();
        let len = unsent.min(mss).min(room);
        let fin = self.fin && len == unsent && room > len;
        if len == 0 && !fin {
            return Plan::Window;
        }
        if let Some(reason) = self.reason_to_wait(len, unsent, mss, fin, manners) {
            return reason;
        }
        if len > allowed {
            return Plan::Congestion;
        }
        Plan::Send { len, fin }
    }

    //= RFC 9293 §3.8.6.2.1
    //# "Send data: (1) if a maximum-sized segment can be sent ... (2) or if the data is pushed
    //#  and all queued data can be sent now ... (3) or if at least a fraction Fs of the maximum
    //#  window can be sent ... (4) or if the override timeout occurs."
    #[inline]
    fn reason_to_wait(
        &self,
        len: u32,
        unsent: u32,
        mss: u32,
        fin: bool,
        manners: Manners,
    ) -> Option<Plan> {
        if len == mss || fin || manners.flush {
            return None;
        }
        if len < unsent {
            let half = self.nxt == self.una && len.saturating_mul(2) >= self.max_wnd;
            return if half { None } else { Some(Plan::Window) };
        }
        // From here on everything that is queued fits into this small segment.
        if self.fin {
            return None;
        }
        if manners.cork || self.more {
            return Some(Plan::Corked);
        }
        //= RFC 9293 §3.7.4
        //# "if there is unacknowledged data (i.e., SND.NXT > SND.UNA), then the sending TCP
        //#  endpoint buffers all user data ... until the outstanding data has been acknowledged
        //#  or until the TCP endpoint can send a full-sized segment"
        // With the modification of Appendix A.3 (Minshall): only an unacknowledged *small*
        // segment holds the next one back, so the tail of a large write goes out at once.
        if !manners.nodelay && self.flight() > 0 && self.small.after(self.una) {
            return Some(Plan::Nagle);
        }
        None
    }

    /// How much can go together, and with FIN or not, over a link that cuts it into segments of
    /// `mss` bytes and takes at most `most`, when a full segment can go: as many full segments as
    /// there are, and the rest behind them if it would go by itself. Never less than the one.
    pub(crate) fn lengthen(
        &self,
        mss: u32,
        allowed: u32,
        most: u32,
        manners: Manners,
    ) -> (u32, bool) {
        let unsent = self.unsent();
        let window = self.window_left();
        let room = window.min(allowed).min(most).max(mss);
        let full = unsent.min(room) / mss * mss;
        let rest = unsent - full;
        // In front of the rest goes a full segment, so Minshall's question is whether there is
        // a small one as well.
        let held = manners.cork
            || self.more
            || !manners.nodelay && self.flight() > 0 && self.small.after(self.una);
        let goes = rest == 0 || rest < mss && unsent <= room && (self.fin || !held);
        if !goes {
            return (full, false);
        }
        (unsent, self.fin && window > unsent)
    }

    /// `len` bytes (and `fin`) from SND.NXT on have been sent; `full`: as many as fit.
    pub(crate) fn on_sent(&mut self, len: u32, fin: bool, full: bool) {
        self.nxt = self.nxt + len + u32::from(fin);

        if !full {
            self.small = self.nxt;
        }
    }

    /// A write is complete (`more` false) or to be continued.
    pub(crate) fn on_written(&mut self, more: bool) {
        self.more = more;
        if !more {
            self.push = self.queue.end();
        }
    }

    /// Whether a segment of data `[start, end)` carries PSH.
    pub(crate) fn is_push(&self, start: SeqNum, end: SeqNum) -> bool {
        //= RFC 9293 §3.9.1.2
        //# "MUST set the PSH bit in the last buffered segment (i.e., when there is no more
        //#  queued data to be sent)"
        end == self.queue.end() || (start.before(self.push) && self.push.before_eq(end))
    }
}
