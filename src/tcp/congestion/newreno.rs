//! Slow start and congestion avoidance as in RFC 5681, counting bytes as in RFC 3465.
#![forbid(unsafe_code)]

use super::{Ack, Algorithm, Window};

/// L of RFC 3465 §2.2: segments that one acknowledgment may open the window by in slow start.
/// Two, because a delayed ACK covers two; more would reward ACK division less but burst more.
const SLOW_START_LIMIT_SEGS: u32 = 2;

/// NewReno's own state.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewReno {
    /// Bytes acknowledged in congestion avoidance since the window last grew.
    bytes_acked: u32,
}

impl NewReno {
    pub(super) const fn new() -> Self {
        Self { bytes_acked: 0 }
    }
}

impl Algorithm for NewReno {
    fn on_ack(&mut self, window: &mut Window, ack: &Ack) {
        if window.cwnd < window.ssthresh {
            // RFC 3465 §2.3: after a timeout, while the window is rebuilt from what survives of
            // the last one, an acknowledgment may cover data that has long left the network.
            let segs = if ack.after_timeout {
                1
            } else {
                SLOW_START_LIMIT_SEGS
            };
            window.grow(ack.bytes.min(window.mss.saturating_mul(segs)));
            return;
        }
        //= RFC 5681 §3.1
        //# "when the number of bytes acknowledged reaches cwnd, then cwnd can be incremented
        //#  by up to SMSS bytes."
        self.bytes_acked = self.bytes_acked.saturating_add(ack.bytes);
        if self.bytes_acked >= window.cwnd {
            self.bytes_acked -= window.cwnd;
            window.grow(window.mss);
        }
    }

    fn on_loss(&mut self, window: &Window, flight: u32) -> u32 {
        self.bytes_acked = 0;
        //= RFC 5681 §3.1 equation (4)
        //# "ssthresh = max (FlightSize / 2, 2*SMSS)"
        (flight / 2).max(window.floor())
    }
}
