//! DCTCP (RFC 8257): the window falls in proportion to how much of it was marked.
#![forbid(unsafe_code)]

use super::{Ack, Algorithm, NewReno, Window};
use crate::wire::SeqNum;

/// One, in the units of alpha.
const ONE: u32 = 1 << 10;
/// g = 1/16: RFC 8257 §3.3 leaves it to the implementation; this is Linux's.
const GAIN_SHIFT: u32 = 4;

/// The state variables of RFC 8257 §3.3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dctcp {
    reno: NewReno,
    /// DCTCP.Alpha in units of 1/1024.
    alpha: u32,
    acked: u32,
    marked: u32,
    /// DCTCP.WindowEnd
    window_end: Option<SeqNum>,
}

impl Dctcp {
    pub(super) const fn new() -> Self {
        Self {
            reno: NewReno::new(),
            // As in Linux: until something is known, a mark counts as much as for RFC 3168.
            alpha: ONE,
            acked: 0,
            marked: 0,
            window_end: None,
        }
    }
}

impl Algorithm for Dctcp {
    fn observe(&mut self, _window: &mut Window, ack: &Ack) {
        self.acked = self.acked.saturating_add(ack.bytes);
        if ack.ece {
            self.marked = self.marked.saturating_add(ack.bytes);
        }
        let end = *self.window_end.get_or_insert(ack.nxt);
        //= RFC 8257 §3.3
        //# "If the acknowledgment number is less than or equal to DCTCP.WindowEnd, stop
        //#  processing."
        if ack.una.before_eq(end) && ack.una != ack.nxt {
            return;
        }
        //= RFC 8257 §3.3
        //# "M = DCTCP.BytesMarked / DCTCP.BytesAcked"
        //# "DCTCP.Alpha = DCTCP.Alpha * (1 - g) + g * M"
        let share = u64::from(self.marked) * u64::from(ONE) / u64::from(self.acked.max(1));
        let share = u32::try_from(share).unwrap_or(ONE).min(ONE);
        // As in Linux, the last traces go at once: the shift would keep them for ever.
        let decay = (self.alpha >> GAIN_SHIFT).max(self.alpha.min(1));
        self.alpha = (self.alpha - decay + (share >> GAIN_SHIFT)).min(ONE);
        self.acked = 0;
        self.marked = 0;
        self.window_end = Some(ack.nxt);
    }

    fn on_ack(&mut self, window: &mut Window, ack: &Ack) {
        self.reno.on_ack(window, ack);
    }

    fn on_loss(&mut self, window: &Window, flight: u32) -> u32 {
        //= RFC 8257 §3.5
        //# "a DCTCP sender MUST react to loss episodes in the same way as conventional TCP"
        self.reno.on_loss(window, flight)
    }

    fn on_ecn(&mut self, window: &Window, _flight: u32) -> u32 {
        //= RFC 8257 §3.3
        //# "cwnd = cwnd * (1 - DCTCP.Alpha / 2)"
        window.fraction(2 * ONE - self.alpha, 2 * ONE)
    }
}
