//! TIME-WAIT without a connection: what is left when both FINs are acknowledged.
//!
//! A busy server has far more of these than connections, so a record is 32 bytes: with the
//! addresses that its owner files it under, one cache line. It answers what old duplicates and
//! repeated FINs must be answered, and decides when a SYN may open a successor.
#![forbid(unsafe_code)]

use super::config::Ports;
use super::info::TimeWaitSeed;
use crate::time::{Duration, Instant};
use crate::wire::{SeqNum, TcpFlags, TcpHeader, Timestamps};

const _: () = assert!(
    size_of::<TimeWait>() + 2 * 16 <= 64,
    "two IPv6 addresses and this"
);

/// How far beyond everything it ever sent a successor must begin (Linux's distance): no old
/// duplicate of ours can then lie in its window as long as windows are not scaled, and with
/// timestamps PAWS rejects the others.
const REUSE_GAP: u32 = 65_535 + 2;

/// Acknowledgments that one record may send per period of 256 ms. A peer that lost our last ACK
/// repeats its FIN at most a few times in that time.
const ACKS_PER_PERIOD: u8 = 4;

const HAS_TIMESTAMPS: u8 = 0x80;

/// What to do about a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum TimeWaitDecision {
    /// Drop it.
    Ignore,
    /// Send this and drop it.
    Ack(TcpHeader),
    /// Forget this record and give the SYN to the listener, if there is one; the new
    /// connection's initial sequence number must not be before `iss_min`. Without a listener
    /// the record stays: see [`TimeWait::stay`].
    Reuse {
        /// The earliest initial sequence number for the successor.
        iss_min: SeqNum,
    },
}

/// A connection in TIME-WAIT.
#[derive(Clone, Debug)]
pub struct TimeWait {
    ports: Ports,
    snd_nxt: SeqNum,
    rcv_nxt: SeqNum,
    /// TS.Recent and our offset; meaningless without [`HAS_TIMESTAMPS`].
    ts_recent: u32,
    ts_offset: u32,
    /// When it ends, on the clock of wrapping milliseconds.
    until_ms: u32,
    duration_ms: u32,
    /// As it goes on the wire.
    window: u16,
    /// The present period of the ACK limit, modulo 256.
    ack_period: u8,
    /// ACKs sent in this period, and [`HAS_TIMESTAMPS`].
    acks_and_flags: u8,
}

impl TimeWait {
    /// Takes over from a connection.
    pub fn new(seed: &TimeWaitSeed, now: Instant) -> Self {
        let window = seed.rcv_wnd >> seed.rcv_wscale.min(14);
        let left = seed.until.saturating_since(now);
        Self {
            ports: seed.ports,
            snd_nxt: seed.snd_nxt,
            rcv_nxt: seed.rcv_nxt,
            ts_recent: seed.timestamps.map_or(0, |ts| ts.recent),
            ts_offset: seed.timestamps.map_or(0, |ts| ts.offset),
            until_ms: now.as_millis_wrapping().wrapping_add(millis_up(left)),
            duration_ms: millis_up(seed.duration),
            window: u16::try_from(window).unwrap_or(u16::MAX),
            ack_period: 0,
            acks_and_flags: if seed.timestamps.is_some() {
                HAS_TIMESTAMPS
            } else {
                0
            },
        }
    }

    /// Our port and the peer's.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether it has lasted long enough. To be asked at least every 20 days.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.left_ms(now) <= 0
    }

    /// When it will have lasted long enough, if nothing happens until then.
    pub fn expires_at(&self, now: Instant) -> Instant {
        let left = u64::try_from(self.left_ms(now)).unwrap_or(0);
        now + Duration::from_millis(left)
    }

    fn left_ms(&self, now: Instant) -> i32 {
        self.until_ms.wrapping_sub(now.as_millis_wrapping()) as i32
    }

    /// RFC 9293 §3.10.7.4 for TIME-WAIT.
    pub fn on_segment(
        &mut self,
        now: Instant,
        header: &TcpHeader,
        payload_len: u32,
    ) -> TimeWaitDecision {
        let has = |flag| header.flags.contains(flag);
        //= RFC 1337 §3
        //# "Ignore RST segments in TIME-WAIT state."
        if has(TcpFlags::RST) {
            return TimeWaitDecision::Ignore;
        }
        let old = self.is_old(header);
        let recent = self.has_timestamps().then_some(self.ts_recent);
        if may_succeed(header, self.rcv_nxt, recent) {
            return TimeWaitDecision::Reuse {
                iss_min: self.snd_nxt + REUSE_GAP,
            };
        }
        if has(TcpFlags::SYN) && !has(TcpFlags::ACK) && !has(TcpFlags::FIN) {
            // An old duplicate, or a new connection that started badly. The answer tells the
            // latter's sender that something is left here (RFC 5961 §4).
            return self.ack(now);
        }
        let control = u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
        let end = header.seq + payload_len + control;
        //= RFC 9293 §3.10.7.4
        //# "The only thing that can arrive in this state is a retransmission of the remote FIN.
        //#  Acknowledge it, and restart the 2 MSL timeout."
        if has(TcpFlags::FIN) && end == self.rcv_nxt && !old {
            self.until_ms = now.as_millis_wrapping().wrapping_add(self.duration_ms);
            return self.ack(now);
        }
        if end == self.rcv_nxt && header.seq == self.rcv_nxt && !old {
            // Nothing new, nothing missing: the ACK of our FIN again.
            return TimeWaitDecision::Ignore;
        }
        //= RFC 9293 §3.10.7.4
        //# "If an incoming segment is not acceptable, an acknowledgment should be sent in reply
        //#  (unless the RST bit is set, if so drop the segment and return)"
        self.ack(now)
    }

    /// Whether PAWS says that it is an old duplicate (RFC 7323 §5.3).
    fn is_old(&self, header: &TcpHeader) -> bool {
        self.has_timestamps()
            && header
                .options
                .timestamps
                .is_some_and(|ts| is_before(ts.value, self.ts_recent))
    }

    /// The answer to a SYN for a successor that nobody wants: it tells the sender that something is
    /// left here, as it tells that of any other.
    pub fn stay(&mut self, now: Instant) -> TimeWaitDecision {
        self.ack(now)
    }

    fn has_timestamps(&self) -> bool {
        self.acks_and_flags & HAS_TIMESTAMPS != 0
    }

    /// `<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>`, if the limit allows one more.
    fn ack(&mut self, now: Instant) -> TimeWaitDecision {
        let now_ms = now.as_millis_wrapping();
        let period = (now_ms >> 8) as u8;
        if period != self.ack_period {
            self.ack_period = period;
            self.acks_and_flags &= HAS_TIMESTAMPS;
        }
        if self.acks_and_flags & !HAS_TIMESTAMPS >= ACKS_PER_PERIOD {
            return TimeWaitDecision::Ignore;
        }
        self.acks_and_flags += 1;
        let mut header = TcpHeader {
            src_port: self.ports.local,
            dst_port: self.ports.remote,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK,
            window: self.window,
            ..TcpHeader::default()
        };
        header.options.timestamps = self.has_timestamps().then(|| Timestamps {
            value: now_ms.wrapping_add(self.ts_offset),
            echo: self.ts_recent,
        });
        TimeWaitDecision::Ack(header)
    }
}

/// RFC 7323 §5.2: timestamps wrap.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether a segment may open the successor of a connection in TIME-WAIT (RFC 6191 §2). `recent`:
/// TS.Recent, if the connection had timestamps.
pub(super) fn may_succeed(header: &TcpHeader, rcv_nxt: SeqNum, recent: Option<u32>) -> bool {
    let flags = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::FIN | TcpFlags::RST;
    if header.flags & flags != TcpFlags::SYN {
        return false;
    }
    //= RFC 9293 §3.6.1
    //# "it MAY accept a new SYN from the remote TCP endpoint to reopen the connection
    //#  directly from the TIME-WAIT state (MAY-2)"
    let later_sequence = header.seq.after(rcv_nxt);
    match (recent, header.options.timestamps) {
        (Some(recent), Some(ts)) => {
            is_before(recent, ts.value) || (ts.value == recent && later_sequence)
        }
        // Timestamps begin with the successor: PAWS can tell its segments from older ones.
        (None, Some(_)) => true,
        (_, None) => later_sequence,
    }
}

/// Whole milliseconds, rounded up so that nothing ends early.
fn millis_up(duration: Duration) -> u32 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u32::try_from(ms).unwrap_or(u32::MAX).min(i32::MAX as u32)
}

#[cfg(test)]
mod tests;
