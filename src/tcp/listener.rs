//! The LISTEN state: what to do about a segment to a listening port, and how many connections
//! may be on their way in.
//!
//! Pure accounting and decisions; the connections themselves, the queue of those to accept and
//! the cookies' secret are the owner's. The two bounds follow Linux: up to `backlog + 1`
//! connections wait to be accepted, and as many handshakes may be under way; beyond that SYNs
//! are answered with cookies (RFC 4987 §3.6), which keep no state here.
#![forbid(unsafe_code)]

use super::reset::reset_for;
use crate::limits::{ACCEPT_QUEUE_MAX, SYN_QUEUE_MAX};
use crate::time::{Duration, Instant};
use crate::wire::{TcpFlags, TcpHeader};

/// Handshakes that even a listener with a tiny backlog may have under way, so that a handful of
/// clients at once do not fall back to cookies, which lose options. (Linux counts up to the
/// backlog only.)
const SYN_QUEUE_MIN: u32 = 16;

/// For how long after a cookie was sent an ACK may carry one back: the lifetime of a cookie.
pub(super) const COOKIE_LIFETIME: Duration = Duration::from_secs(128);

/// What to do about a segment to a listening port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum ListenDisposition {
    /// Nothing: there is a reason to be silent.
    Drop(ListenDrop),
    /// Send this.
    Reset(TcpHeader),
    /// A SYN: open a connection in SYN-RECEIVED and call [`Listener::on_created`].
    Create,
    /// A SYN, but no more handshakes fit: answer with a cookie, keep nothing, and call
    /// [`Listener::on_cookie_sent`]. An owner without cookies drops the segment.
    Cookie,
    /// An ACK that may carry a cookie back. If it does, open the connection and call
    /// [`Listener::on_cookie_accepted`]; if not, send this reset.
    CheckCookie(TcpHeader),
}

/// Why a segment to a listening port is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenDrop {
    /// A RST means nothing here.
    Reset,
    /// SYN and FIN together: no honest sender opens and closes in one segment.
    SynFin,
    /// None of SYN, ACK and RST.
    NoControl,
    /// As many connections as may wait to be accepted do so; the sender will try again.
    AcceptQueueFull,
}

/// What becomes of a handshake whose last ACK has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum HandshakeDone {
    /// The connection is to be accepted: it counts as waiting now.
    Queued,
    /// No room: drop the ACK and stay in SYN-RECEIVED. The SYN-ACK is repeated by its timer,
    /// and the peer's answer finds room by then, or the handshake ends.
    QueueFull,
}

/// The accounting of one listening socket.
#[derive(Clone, Debug)]
pub struct Listener {
    accept_max: u32,
    syn_max: u32,
    waiting: u32,
    half_open: u32,
    cookies_until: Instant,
}

impl Listener {
    /// With the argument of `listen(2)`; a negative one asks for as much as possible.
    pub fn new(backlog: i32) -> Self {
        let mut listener = Self {
            accept_max: 0,
            syn_max: 0,
            waiting: 0,
            half_open: 0,
            cookies_until: Instant::ZERO,
        };
        listener.set_backlog(backlog);
        listener
    }

    /// A later `listen(2)` on the same socket. What waits already stays.
    pub fn set_backlog(&mut self, backlog: i32) {
        let most = ACCEPT_QUEUE_MAX as u32;
        self.accept_max = u32::try_from(backlog).map_or(most, |b| b.min(most));
        self.syn_max = self.accept_max.clamp(SYN_QUEUE_MIN, SYN_QUEUE_MAX as u32);
    }

    /// RFC 9293 §3.10.7.2, for a segment that belongs to no connection or TIME-WAIT record.
    pub fn on_segment(
        &self,
        now: Instant,
        header: &TcpHeader,
        payload_len: u32,
    ) -> ListenDisposition {
        let has = |flag| header.flags.contains(flag);
        //= RFC 9293 §3.10.7.2
        //# "First, check for a RST: An incoming RST segment could not be valid since it could
        //#  not have been sent in response to anything sent by this incarnation of the
        //#  connection. An incoming RST should be ignored. Return."
        if has(TcpFlags::RST) {
            return ListenDisposition::Drop(ListenDrop::Reset);
        }
        //= RFC 9293 §3.10.7.2
        //# "Any acknowledgment is bad if it arrives on a connection still in the LISTEN state.
        //#  An acceptable reset segment should be formed for any arriving ACK-bearing segment."
        if has(TcpFlags::ACK) {
            let Some(reset) = reset_for(header, payload_len) else {
                return ListenDisposition::Drop(ListenDrop::Reset);
            };
            return if now < self.cookies_until && !has(TcpFlags::SYN) {
                ListenDisposition::CheckCookie(reset)
            } else {
                ListenDisposition::Reset(reset)
            };
        }
        if !has(TcpFlags::SYN) {
            //= RFC 9293 §3.10.7.2
            //# "Any other data or control-bearing segment (not containing SYN) must have an ACK
            //#  and thus would have been discarded by the ACK processing ... drop the segment"
            return ListenDisposition::Drop(ListenDrop::NoControl);
        }
        if has(TcpFlags::FIN) {
            return ListenDisposition::Drop(ListenDrop::SynFin);
        }
        if self.is_accept_queue_full() {
            ListenDisposition::Drop(ListenDrop::AcceptQueueFull)
        } else if self.half_open >= self.syn_max {
            ListenDisposition::Cookie
        } else {
            ListenDisposition::Create
        }
    }

    /// Whether no further connection may wait to be accepted.
    pub fn is_accept_queue_full(&self) -> bool {
        // "More than": as in Linux, a backlog of zero still lets one wait.
        self.waiting > self.accept_max
    }

    /// Whether an established connection waits to be accepted.
    pub fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Connections that wait to be accepted (`tcpi_unacked` of a listener).
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// The backlog in force (`tcpi_sacked` of a listener).
    pub fn backlog(&self) -> u32 {
        self.accept_max
    }

    /// Handshakes under way.
    pub fn half_open(&self) -> u32 {
        self.half_open
    }

    /// A connection was opened for a SYN.
    pub fn on_created(&mut self) {
        self.half_open = self.half_open.saturating_add(1);
    }

    /// A cookie was sent at `now`.
    pub fn on_cookie_sent(&mut self, now: Instant) {
        self.cookies_until = now + COOKIE_LIFETIME;
    }

    /// The last ACK of a handshake has arrived. To be asked before the connection sees it.
    pub fn on_handshake_done(&mut self) -> HandshakeDone {
        if self.is_accept_queue_full() {
            return HandshakeDone::QueueFull;
        }
        self.half_open = self.half_open.saturating_sub(1);
        self.waiting = self.waiting.saturating_add(1);
        HandshakeDone::Queued
    }

    /// As [`Listener::on_handshake_done`], for an owner that takes the connection in any case.
    pub fn force_queued(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
        self.waiting = self.waiting.saturating_add(1);
    }

    /// A cookie came back. With no room the ACK is dropped, as if it had been lost.
    pub fn on_cookie_accepted(&mut self) -> HandshakeDone {
        if self.is_accept_queue_full() {
            return HandshakeDone::QueueFull;
        }
        self.waiting = self.waiting.saturating_add(1);
        HandshakeDone::Queued
    }

    /// A handshake ended without a connection: reset or timed out.
    pub fn on_handshake_failed(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// The application accepted a connection, or one that waited was dropped.
    pub fn on_accepted(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SeqNum;

    const NOW: Instant = Instant::from_nanos(1);

    fn segment(bits: u8) -> TcpHeader {
        TcpHeader {
            src_port: 1000,
            dst_port: 80,
            seq: SeqNum::new(10),
            ack: SeqNum::new(20),
            flags: TcpFlags::from_bits_retain(bits),
            ..TcpHeader::default()
        }
    }

    fn syn() -> TcpHeader {
        segment(TcpFlags::SYN.bits())
    }

    #[test]
    fn every_combination_of_flags() {
        let idle = Listener::new(5);
        let mut cookies = Listener::new(5);
        cookies.on_cookie_sent(NOW);
        for bits in 0..=u8::MAX {
            let header = segment(bits);
            let has = |flag| header.flags.contains(flag);
            let got = idle.on_segment(NOW, &header, 3);
            let reset = reset_for(&header, 3);
            let expected = if has(TcpFlags::RST) {
                ListenDisposition::Drop(ListenDrop::Reset)
            } else if has(TcpFlags::ACK) {
                ListenDisposition::Reset(reset.clone().unwrap())
            } else if has(TcpFlags::SYN | TcpFlags::FIN) {
                ListenDisposition::Drop(ListenDrop::SynFin)
            } else if has(TcpFlags::SYN) {
                ListenDisposition::Create
            } else {
                ListenDisposition::Drop(ListenDrop::NoControl)
            };
            assert_eq!(got, expected, "{:?}", header.flags);
            let with_cookies = cookies.on_segment(NOW, &header, 3);
            match (&expected, reset) {
                (ListenDisposition::Reset(_), Some(reset)) if !has(TcpFlags::SYN) => {
                    assert_eq!(with_cookies, ListenDisposition::CheckCookie(reset));
                }
                _ => assert_eq!(with_cookies, expected),
            }
            let later = NOW + COOKIE_LIFETIME;
            assert_eq!(
                cookies.on_segment(later, &header, 3),
                expected,
                "cookies have expired"
            );
        }
    }

    #[test]
    fn backlog_plus_one_connections_wait_as_in_linux() {
        for backlog in [0, 1, 5] {
            let mut l = Listener::new(backlog);
            for _ in 0..=backlog {
                assert_eq!(l.on_segment(NOW, &syn(), 0), ListenDisposition::Create);
                l.on_created();
                assert_eq!(l.on_handshake_done(), HandshakeDone::Queued);
            }
            let full = ListenDisposition::Drop(ListenDrop::AcceptQueueFull);
            assert_eq!(l.on_segment(NOW, &syn(), 0), full);
            l.on_created();
            assert_eq!(l.on_handshake_done(), HandshakeDone::QueueFull);
            assert_eq!(l.on_cookie_accepted(), HandshakeDone::QueueFull);
            assert_eq!((l.half_open(), l.waiting()), (1, backlog as u32 + 1));
            l.on_accepted();
            assert_eq!(l.on_handshake_done(), HandshakeDone::Queued);
        }
    }

    #[test]
    fn many_half_open_connections_lead_to_cookies() {
        let mut l = Listener::new(64);
        for _ in 0..64 {
            assert_eq!(l.on_segment(NOW, &syn(), 0), ListenDisposition::Create);
            l.on_created();
        }
        assert_eq!(l.on_segment(NOW, &syn(), 0), ListenDisposition::Cookie);
        l.on_handshake_failed();
        assert_eq!(l.on_segment(NOW, &syn(), 0), ListenDisposition::Create);
    }

    #[test]
    fn backlogs_are_clamped_and_counters_do_not_underflow() {
        assert_eq!(Listener::new(-1).backlog(), ACCEPT_QUEUE_MAX as u32);
        assert_eq!(Listener::new(i32::MAX).backlog(), ACCEPT_QUEUE_MAX as u32);
        let mut l = Listener::new(0);
        l.on_accepted();
        l.on_handshake_failed();
        assert_eq!((l.waiting(), l.half_open(), l.has_waiting()), (0, 0, false));
        l.set_backlog(9);
        assert_eq!(l.backlog(), 9);
    }
}
