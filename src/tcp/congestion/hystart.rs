//! HyStart++ (RFC 9406): leaves slow start when round trips begin to take longer, before the
//! queue overflows.
#![forbid(unsafe_code)]

use super::Ack;
use crate::time::Duration;
use crate::wire::SeqNum;

//= RFC 9406 §4.3
//# "MIN_RTT_THRESH = 4 msec, MAX_RTT_THRESH = 16 msec, MIN_RTT_DIVISOR = 8, N_RTT_SAMPLE = 8,
//#  CSS_GROWTH_DIVISOR = 4, CSS_ROUNDS = 5"
const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u64 = 8;
const N_RTT_SAMPLE: u8 = 8;
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;

/// The state of RFC 9406 §4.2.
#[derive(Clone, Copy, Debug)]
pub(super) struct HyStart {
    window_end: Option<SeqNum>,
    last_min: Duration,
    current_min: Duration,
    samples: u8,
    /// Rounds spent in conservative slow start, and the round trip that led there.
    css: Option<(u8, Duration)>,
}

impl HyStart {
    pub(super) const fn new() -> Self {
        Self {
            window_end: None,
            last_min: Duration::MAX,
            current_min: Duration::MAX,
            samples: 0,
            css: None,
        }
    }

    /// How much slower than slow start the window grows.
    pub(super) fn growth_divisor(&self) -> u32 {
        if self.css.is_some() {
            CSS_GROWTH_DIVISOR
        } else {
            1
        }
    }

    /// An acknowledgment in slow start. Says whether to leave it.
    pub(super) fn observe(&mut self, ack: &Ack) -> bool {
        if let Some(rtt) = ack.rtt {
            self.current_min = self.current_min.min(rtt);
            self.samples = self.samples.saturating_add(1);
        }
        let enough = self.samples >= N_RTT_SAMPLE && self.current_min != Duration::MAX;
        match self.css {
            None if enough && self.last_min != Duration::MAX => {
                //= RFC 9406 §4.2
                //# "RttThresh = max(MIN_RTT_THRESH, min(lastRoundMinRTT / MIN_RTT_DIVISOR,
                //#  MAX_RTT_THRESH))"
                //# "if (currentRoundMinRTT >= (lastRoundMinRTT + RttThresh)) ... exit slow start
                //#  and enter CSS"
                let eighth = self.last_min.div(MIN_RTT_DIVISOR);
                let thresh = MIN_RTT_THRESH.max(eighth.min(MAX_RTT_THRESH));
                if self.current_min >= self.last_min + thresh {
                    self.css = Some((0, self.current_min));
                }
            }
            //= RFC 9406 §4.2
            //# "if (currentRoundMinRTT < cssBaselineMinRtt) cssBaselineMinRtt = infinity, resume
            //#  slow start"
            Some((_, baseline)) if enough && self.current_min < baseline => self.css = None,
            _ => {}
        }
        let end = *self.window_end.get_or_insert(ack.nxt);
        if ack.una.before(end) {
            return false;
        }
        self.window_end = Some(ack.nxt);
        self.last_min = self.current_min;
        self.current_min = Duration::MAX;
        self.samples = 0;
        match &mut self.css {
            Some((rounds, _)) => {
                *rounds += 1;
                *rounds >= CSS_ROUNDS
            }
            None => false,
        }
    }
}
