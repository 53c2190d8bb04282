//! How much may be in flight: the congestion window and the algorithm that moves it.
//!
//! The window and the arithmetic of loss recovery (RFC 5681 §3.2, RFC 6582, RFC 6937) are
//! common; an [`Algorithm`] decides only how the window grows and how far it falls. Knows nothing
//! of segments or of how a loss was detected.
#![forbid(unsafe_code)]

mod cubic;
mod dctcp;
mod hpcc;
mod hystart;
mod kind;
mod newreno;
mod prr;

pub use kind::CongestionControl;

use cubic::Cubic;
use dctcp::Dctcp;
use hpcc::Hpcc;
use kind::Kind;
use newreno::NewReno;
use prr::Prr;

use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

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

    /// Whether the window doubles per round trip.
    pub(crate) fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Whether nothing has ended slow start since the connection began.
    pub(crate) fn in_initial_slow_start(&self) -> bool {
        self.ssthresh == u32::MAX && self.in_slow_start()
    }

    /// The least that a threshold may be (RFC 5681 §3.1 equation (4)).
    pub(crate) fn floor(&self) -> u32 {
        self.mss.saturating_mul(2)
    }

    /// `num / den` of the window, but at least the floor.
    pub(crate) fn fraction(&self, num: u32, den: u32) -> u32 {
        let bytes = u64::from(self.cwnd) * u64::from(num) / u64::from(den.max(1));
        u32::try_from(bytes).unwrap_or(u32::MAX).max(self.floor())
    }
}

/// An acknowledgment of new data, as a congestion controller sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ack {
    /// Bytes acknowledged for the first time.
    pub(crate) bytes: u32,
    /// The data was sent before a retransmission timeout that is still being repaired.
    pub(crate) after_timeout: bool,
    /// It carried ECN-Echo (RFC 3168).
    pub(crate) ece: bool,
    /// SND.UNA, this acknowledgment included, and SND.NXT: where rounds end and begin.
    pub(crate) una: SeqNum,
    pub(crate) nxt: SeqNum,
    /// The round trip of the newest data that it acknowledges.
    pub(crate) rtt: Option<Duration>,
    /// SRTT.
    pub(crate) srtt: Option<Duration>,
    /// The smallest round trip measured.
    pub(crate) min_rtt: Option<Duration>,
    /// How busy the busiest hop was, in units of [`UTILISATION_ONE`], if the path says so.
    pub(crate) utilisation: Option<u16>,
    /// When it arrived.
    pub(crate) now: Instant,
}

/// A hop that carries exactly its capacity and queues nothing, in the units of the telemetry.
pub(crate) const UTILISATION_ONE: u32 = 4096;

/// What distinguishes one congestion control from another. All arithmetic is on integers.
pub(crate) trait Algorithm {
    /// New data was acknowledged, whatever the state of the connection: for measurements.
    fn observe(&mut self, _window: &mut Window, _ack: &Ack) {}
    /// New data was acknowledged while the window was fully used and nothing is being repaired.
    fn on_ack(&mut self, window: &mut Window, ack: &Ack);
    /// A loss was detected with `flight` bytes outstanding: the slow start threshold to use.
    fn on_loss(&mut self, window: &Window, flight: u32) -> u32;
    /// The path marked instead of dropping: the slow start threshold to use.
    fn on_ecn(&mut self, window: &Window, flight: u32) -> u32 {
        self.on_loss(window, flight)
    }
    /// The retransmission timer expired: after [`on_loss`](Self::on_loss), if it is the first time.
    fn on_timeout(&mut self) {}
    /// The last loss was none: forget what it taught.
    fn on_undo(&mut self) {}
}

/// The congestion state of a connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Controller {
    window: Window,
    kind: Kind,
    usage: Usage,
    prr: Prr,
    /// What to go back to if the recovery turns out to have been for nothing.
    prior: Option<Prior>,
}

/// The window before a loss.
#[derive(Clone, Copy, Debug)]
struct Prior {
    cwnd: u32,
    ssthresh: u32,
}

/// Whether the window has been a limit lately, measured per round trip.
#[derive(Clone, Copy, Debug)]
struct Usage {
    flight_max: u32,
    limited: bool,
}

impl Controller {
    /// The window comes first.
    pub(crate) const WINDOW_BYTES: usize = size_of::<Window>();

    /// A window to begin with. `lossy_handshake`: the SYN was lost more than once.
    pub(crate) fn new(control: CongestionControl, mss: u32, lossy_handshake: bool) -> Self {
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
            kind: Kind::new(control),
            usage: Usage {
                flight_max: 0,
                limited: false,
            },
            prr: Prr::default(),
            prior: None,
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

    /// The algorithm in use.
    pub(crate) fn control(&self) -> CongestionControl {
        self.kind.control()
    }

    /// Whether the window is all that the path holds without a queue, and to be sent at that rate.
    pub(crate) fn is_exact(&self) -> bool {
        self.kind.is_exact()
    }

    /// Changes the algorithm; the window stays as it is.
    pub(crate) fn set_control(&mut self, control: CongestionControl) {
        if control != self.control() {
            self.kind = Kind::new(control);
        }
    }

    /// SMSS changed. The window keeps its bytes but holds at least one segment, also after a
    /// recovery that ends at the threshold: a window of less would never let anything out.
    pub(crate) fn set_mss(&mut self, mss: u32) {
        self.window.mss = mss;
        self.window.cwnd = self.window.cwnd.max(mss);
        self.window.ssthresh = self.window.ssthresh.max(self.window.floor());
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

    /// New data was acknowledged, in whatever phase.
    #[inline]
    pub(crate) fn observe(&mut self, ack: &Ack) {
        if let Kind::NewReno(_) = self.kind {
            return;
        }
        self.kind.algorithm().observe(&mut self.window, ack);
    }

    /// New data was acknowledged outside fast recovery.
    #[inline]
    pub(crate) fn on_ack(&mut self, ack: &Ack) {
        // A window that the application does not fill says nothing about the path, so it must
        // not grow (RFC 7661 §3; the test is Linux's).
        let used = self.usage.limited
            || (self.window.in_slow_start()
                && self.window.cwnd < self.usage.flight_max.saturating_mul(2));
        if !used && !ack.after_timeout {
            return;
        }
        match &mut self.kind {
            Kind::NewReno(a) => a.on_ack(&mut self.window, ack),
            other => other.algorithm().on_ack(&mut self.window, ack),
        }
    }

    fn fall(&mut self, flight: u32) {
        self.prior = Some(Prior {
            cwnd: self.window.cwnd,
            ssthresh: self.window.ssthresh,
        });
        let ssthresh = self.kind.algorithm().on_loss(&self.window, flight);
        self.window.ssthresh = ssthresh.max(self.window.floor());
    }

    /// Fast retransmit with SACK (RFC 6675 §5 step 4.2): from here on
    /// [`on_recovery_ack`](Self::on_recovery_ack) brings the window down.
    pub(crate) fn enter_sack_recovery(&mut self, flight: u32) {
        self.fall(flight);
        self.prr = Prr::new(flight);
    }

    /// An acknowledgment in recovery with SACK told of `delivered` more bytes; `in_flight` are
    /// believed to be in the network. `progress`: SND.UNA moved, and nothing more was lost.
    pub(crate) fn on_recovery_ack(&mut self, delivered: u32, in_flight: u32, progress: bool) {
        let send = self
            .prr
            .on_ack(delivered, in_flight, progress, &self.window);
        let cwnd = in_flight.saturating_add(send);
        self.window.cwnd = cwnd.min(CWND_BYTES_MAX).max(self.window.mss);
    }

    /// `bytes` were sent in recovery with SACK, new or again.
    pub(crate) fn on_recovery_sent(&mut self, bytes: u32) {
        self.prr.on_sent(bytes);
    }

    /// Recovery with SACK is over.
    pub(crate) fn exit_sack_recovery(&mut self) {
        // RFC 6937 §1: recovery should end as near to ssthresh as it can; Linux sets it.
        let cwnd = self.window.ssthresh.min(CWND_BYTES_MAX);
        self.window.cwnd = cwnd.max(self.window.mss);
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

    /// The peer says that the network has marked our packets. To be called once per round trip
    /// (RFC 3168 §6.1.2); `flight` bytes are outstanding.
    pub(crate) fn on_ecn(&mut self, flight: u32) {
        let ssthresh = self.kind.algorithm().on_ecn(&self.window, flight);
        self.window.ssthresh = ssthresh.max(self.window.floor());
        self.window.cwnd = self.window.cwnd.min(self.window.ssthresh);
    }

    /// A loss that was repaired by a probe of the tail (RFC 8985 §7.4.2), with nothing in need of
    /// recovery: the window falls at once.
    pub(crate) fn on_repaired_loss(&mut self, flight: u32) {
        self.fall(flight);
        self.prior = None;
        self.window.cwnd = self.window.cwnd.min(self.window.ssthresh);
    }

    /// The retransmission timer expired. `first`: not already for the same segment.
    pub(crate) fn on_timeout(&mut self, flight: u32, first: bool) {
        if first {
            //= RFC 5681 §3.1
            //# "the value of ssthresh MUST be set to no more than the value given in
            //#  equation (4): ssthresh = max (FlightSize / 2, 2*SMSS)"
            let prior = self.prior;
            self.fall(flight);
            // A timeout in the middle of a recovery: what was before that counts.
            self.prior = prior.or(self.prior);
        }
        self.kind.algorithm().on_timeout();
        //= RFC 5681 §3.1
        //# "cwnd MUST be set to no more than the loss window, LW, which equals 1 full-sized
        //#  segment"
        self.window.cwnd = self.window.mss;
    }

    /// F-RTO has found that the timeout was none of its mistakes, a round trip later.
    pub(crate) fn on_frto_failed(&mut self) {
        //= RFC 5682 §2.1
        //# "set the congestion window to no more than 3 * MSS"
        self.window.cwnd = self.window.mss.saturating_mul(3);
    }

    /// Nothing was lost: everything as it was before (RFC 4015 §3.2).
    pub(crate) fn undo(&mut self) {
        if let Some(prior) = self.prior.take() {
            self.kind.algorithm().on_undo();
            self.window.cwnd = self.window.cwnd.max(prior.cwnd).max(self.window.mss);
            self.window.ssthresh = self.window.ssthresh.max(prior.ssthresh);
        }
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
