//! How much may be in flight: the congestion window and the algorithm that moves it.
//!
//! The window and the arithmetic of loss recovery (RFC 5681 §3.2, RFC 6582) are common; an
//! [`Algorithm`] decides only how the window grows and how far it falls. Knows nothing of
//! segments or of how a loss was detected.
#![forbid(unsafe_code)]

mod newreno;

pub(crate) use newreno::NewReno;

use crate::time::{Duration, Instant};

/// RFC 6928 §2: the initial window in segments …
const INITIAL_WINDOW_SEGS: u32 = 10;
/// … but no more than this many bytes unless two segments are more.
const INITIAL_WINDOW_BYTES: u32 = 14_600;
/// A window beyond the largest possible send buffer says nothing.
const CWND_BYTES_MAX: u32 = 1 << 30;

/// The window, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    /// SMSS.
    pub(crate) mss: u32,
}

impl Window {
    /// Opens the window by `bytes`.
    pub(crate) fn grow(&mut self, bytes: u32) {
        self.cwnd = self.cwnd.saturating_add(bytes).min(CWND_BYTES_MAX);
    }
}

/// An acknowledgment of new data, as a congestion controller sees it.
#[derive(Clone, Copy, Debug)]
#[allow(
    dead_code,
    reason = "what CUBIC, DCTCP and HPCC will read; NewReno reads two fields"
)]
pub(crate) struct Ack {
    /// Bytes acknowledged for the first time.
    pub(crate) bytes: u32,
    /// The data was sent before a retransmission timeout that is still being repaired.
    pub(crate) after_timeout: bool,
    /// SRTT.
    pub(crate) srtt: Option<Duration>,
    /// When it arrived.
    pub(crate) now: Instant,
}

/// What distinguishes one congestion control from another.
pub(crate) trait Algorithm {
    /// New data was acknowledged while the window was fully used and nothing is being repaired.
    fn on_ack(&mut self, window: &mut Window, ack: &Ack);
    /// A loss was detected with `flight` bytes outstanding: the slow start threshold to use.
    fn on_loss(&mut self, window: &Window, flight: u32) -> u32;
}

/// The algorithm in use.
#[derive(Clone, Copy, Debug)]
enum Kind {
    NewReno(NewReno),
}

/// The congestion state of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controller {
    window: Window,
    kind: Kind,
    usage: Usage,
}

/// Whether the window has been a limit lately, measured per round trip.
#[derive(Clone, Copy, Debug)]
struct Usage {
    flight_max: u32,
    limited: bool,
}

impl Controller {
    /// A NewReno window. `lossy_handshake`: the SYN was lost more than once.
    pub(crate) fn new(mss: u32, lossy_handshake: bool) -> Self {
        let cwnd = if lossy_handshake {
            //= RFC 5681 §3.1
            //# "if the SYN or SYN/ACK is lost, the initial window used by a sender after a
            //#  correctly transmitted SYN MUST be one segment"
            // RFC 6928 §2 relaxes "lost" to more than one retransmission.
            mss
        } else {
            initial_window(mss)
        };
        Self {
            //= RFC 5681 §3.1
            //# "The initial value of ssthresh SHOULD be set arbitrarily high"
            window: Window {
                cwnd,
                ssthresh: u32::MAX,
                mss,
            },
            kind: Kind::NewReno(NewReno::new()),
            usage: Usage {
                flight_max: 0,
                limited: false,
            },
        }
    }

    /// The congestion window.
    #[inline]
    pub(crate) fn cwnd(&self) -> u32 {
        self.window.cwnd
    }

    /// The slow start threshold.
    pub(crate) fn ssthresh(&self) -> u32 {
        self.window.ssthresh
    }

    /// The name that `TCP_CONGESTION` reports.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::NewReno(_) => "reno",
        }
    }

    /// SMSS changed. The window keeps its bytes but holds at least one segment, also after a
    /// recovery that ends at the threshold: a window of less would never let anything out.
    pub(crate) fn set_mss(&mut self, mss: u32) {
        self.window.mss = mss;
        self.window.cwnd = self.window.cwnd.max(mss);
        self.window.ssthresh = self.window.ssthresh.max(mss.saturating_mul(2));
    }

    /// Records how full the window is, at the end of a burst of transmissions, and says whether
    /// the record is new: then a round begins that ends when all of `flight` is acknowledged.
    /// `new_round`: everything outstanding at the last record has been acknowledged.
    #[inline]
    pub(crate) fn on_transmitted(&mut self, flight: u32, limited: bool, new_round: bool) -> bool {
        let more = limited || (!self.usage.limited && flight > self.usage.flight_max);
        if new_round || more {
            self.usage = Usage {
                flight_max: flight,
                limited,
            };
        }
        new_round || more
    }

    /// New data was acknowledged outside recovery.
    #[inline]
    pub(crate) fn on_ack(&mut self, ack: &Ack) {
        // A window that the application does not fill says nothing about the path, so it must
        // not grow (RFC 7661 §3; the test is Linux's).
        let slow_start = self.window.cwnd < self.window.ssthresh;
        let used = self.usage.limited
            || (slow_start && self.window.cwnd < self.usage.flight_max.saturating_mul(2));
        if !used && !ack.after_timeout {
            return;
        }
        match &mut self.kind {
            Kind::NewReno(a) => a.on_ack(&mut self.window, ack),
        }
    }

    fn fall(&mut self, flight: u32) {
        let ssthresh = match &mut self.kind {
            Kind::NewReno(a) => a.on_loss(&self.window, flight),
        };
        self.window.ssthresh = ssthresh;
    }

    /// Fast retransmit with SACK (RFC 6675 §5 step 4.2).
    pub(crate) fn enter_sack_recovery(&mut self, flight: u32) {
        self.fall(flight);
        self.window.cwnd = self.window.ssthresh;
    }

    /// Fast retransmit without SACK.
    pub(crate) fn enter_reno_recovery(&mut self, flight: u32) {
        self.fall(flight);
        //= RFC 5681 §3.2 step 3
        //# "cwnd set to ssthresh plus 3*SMSS"
        self.window.cwnd = self.window.ssthresh;
        self.window.grow(self.window.mss.saturating_mul(3));
    }

    /// A further duplicate ACK in recovery without SACK: a segment has left the network
    /// (RFC 5681 §3.2 step 4).
    pub(crate) fn inflate(&mut self) {
        self.window.grow(self.window.mss);
    }

    /// A partial acknowledgment in recovery without SACK.
    pub(crate) fn deflate(&mut self, acked: u32) {
        //= RFC 6582 §3.2 step 3
        //# "deflate the congestion window by the amount of new data acknowledged ... If the
        //#  partial ACK acknowledges at least one SMSS of new data, then add back SMSS bytes"
        let add_back = if acked >= self.window.mss {
            self.window.mss
        } else {
            0
        };
        let cwnd = self
            .window
            .cwnd
            .saturating_sub(acked)
            .saturating_add(add_back);
        self.window.cwnd = cwnd.max(self.window.mss);
    }

    /// Recovery is over; `flight` bytes are outstanding.
    pub(crate) fn exit_reno_recovery(&mut self, flight: u32) {
        //= RFC 6582 §3.2 step 3
        //# "Set cwnd to ... min (ssthresh, max(FlightSize, SMSS) + SMSS)"
        let bound = flight.max(self.window.mss).saturating_add(self.window.mss);
        self.window.cwnd = self.window.ssthresh.min(bound);
    }

    /// The retransmission timer expired. `first`: not already for the same segment.
    pub(crate) fn on_timeout(&mut self, flight: u32, first: bool) {
        if first {
            //= RFC 5681 §3.1
            //# "the value of ssthresh MUST be set to no more than the value given in
            //#  equation (4): ssthresh = max (FlightSize / 2, 2*SMSS)"
            self.fall(flight);
        }
        //= RFC 5681 §3.1
        //# "cwnd MUST be set to no more than the loss window, LW, which equals 1 full-sized
        //#  segment"
        self.window.cwnd = self.window.mss;
    }

    /// Nothing has been sent for longer than a retransmission timeout.
    pub(crate) fn on_idle(&mut self) {
        //= RFC 5681 §4.1
        //# "TCP SHOULD set cwnd to no more than RW before beginning transmission if the TCP
        //#  has not sent data in an interval exceeding the retransmission timeout."
        self.window.cwnd = self.window.cwnd.min(initial_window(self.window.mss));
    }
}

/// RFC 6928 §2: min (10*MSS, max (2*MSS, 14600)).
fn initial_window(mss: u32) -> u32 {
    mss.saturating_mul(INITIAL_WINDOW_SEGS)
        .min(mss.saturating_mul(2).max(INITIAL_WINDOW_BYTES))
}

#[cfg(test)]
mod tests;
