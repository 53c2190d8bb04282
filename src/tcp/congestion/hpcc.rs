//! HPCC ("High Precision Congestion Control", SIGCOMM '19; LUNA §9): the window follows what the
//! hops of the path say about their load.
//!
//! The paper's hops each append their load to the packet, which TCP has no room for. Here a hop
//! replaces the value in the option if its own is larger (as PINT, SIGCOMM '20, does): the
//! sender only ever uses the largest. A path whose hops say nothing leaves the value at zero;
//! then this is NewReno.
#![forbid(unsafe_code)]

use super::{Ack, Algorithm, NewReno, UTILISATION_ONE, Window};
use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

/// η of the paper's §3: how busy the busiest hop is to be, in percent.
const TARGET_PERCENT: u32 = 95;
const TARGET: u32 = UTILISATION_ONE * TARGET_PERCENT / 100;
/// maxStage of the paper's §3.
const STAGES_MAX: u8 = 5;
/// Rounds without telemetry after which the path is taken to have none.
const SILENT_ROUNDS_MAX: u8 = 2;

/// The state of the paper's algorithm 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hpcc {
    reno: NewReno,
    /// W^c: the window of the last round, that this round's changes start from.
    reference: u32,
    /// U: the smoothed load.
    load: u32,
    last: Instant,
    /// lastUpdateSeq
    round_end: Option<SeqNum>,
    stage: u8,
    silent_rounds: u8,
    /// The path has said something.
    active: bool,
    heard: bool,
}

impl Hpcc {
    pub(super) const fn new() -> Self {
        Self {
            reno: NewReno::new(),
            reference: 0,
            load: 0,
            last: Instant::ZERO,
            round_end: None,
            stage: 0,
            silent_rounds: 0,
            active: false,
            heard: false,
        }
    }

    /// Whether the path says how busy it is.
    pub(super) const fn is_active(&self) -> bool {
        self.active
    }

    /// MeasureInflight of algorithm 1, with the hops' maximum already taken.
    fn measure(&mut self, utilisation: u16, ack: &Ack) {
        let base = ack.min_rtt.unwrap_or(Duration::from_micros(1));
        let base = base.as_nanos().clamp(1, 1 << 40);
        let elapsed = ack.now.saturating_since(self.last).as_nanos().min(base);
        self.last = ack.now;
        let mix = u64::from(self.load) * (base - elapsed) + u64::from(utilisation) * elapsed;
        self.load = u32::try_from(mix / base).unwrap_or(u32::MAX);
    }

    /// ComputeWind of algorithm 1.
    fn compute(&mut self, window: &mut Window, new_round: bool) {
        // W_AI: small enough that many flows together stay below what η leaves free.
        let additive = (window.mss / 8).max(1);
        let busy = self.load >= TARGET;
        let scaled = u64::from(self.reference) * u64::from(TARGET) / u64::from(self.load.max(1));
        // A path that was idle a moment ago must not be flooded: at most double.
        let most = u64::from(self.reference) * 2;
        let multiplicative = u32::try_from(scaled.min(most)).unwrap_or(u32::MAX);
        let jump = busy || self.stage >= STAGES_MAX;
        let base = if jump { multiplicative } else { self.reference };
        let next = base.saturating_add(additive).max(window.floor());
        window.cwnd = next.min(super::CWND_BYTES_MAX);
        if new_round {
            self.stage = if jump { 0 } else { self.stage + 1 };
            self.reference = window.cwnd;
        }
        window.ssthresh = window.cwnd;
    }
}

impl Algorithm for Hpcc {
    fn observe(&mut self, window: &mut Window, ack: &Ack) {
        let end = *self.round_end.get_or_insert(ack.nxt);
        let new_round = ack.una.after_eq(end);
        if new_round {
            self.round_end = Some(ack.nxt);
            self.silent_rounds = match self.heard {
                true => 0,
                false => self.silent_rounds.saturating_add(1),
            };
            self.heard = false;
            if self.silent_rounds >= SILENT_ROUNDS_MAX {
                self.active = false;
            }
        }
        let Some(utilisation) = ack.utilisation.filter(|u| *u > 0) else {
            return;
        };
        self.heard = true;
        self.silent_rounds = 0;
        self.measure(utilisation, ack);
        if !self.active {
            // The way up is slow start's until the path is busy for the first time.
            if self.load < TARGET && window.in_slow_start() {
                return;
            }
            self.active = true;
            self.reference = window.cwnd;
        }
        if !ack.after_timeout {
            self.compute(window, new_round);
        }
    }

    fn on_ack(&mut self, window: &mut Window, ack: &Ack) {
        if !self.active || ack.after_timeout {
            self.reno.on_ack(window, ack);
        }
    }

    fn on_loss(&mut self, window: &Window, flight: u32) -> u32 {
        let ssthresh = self.reno.on_loss(window, flight);
        self.reference = ssthresh;
        ssthresh
    }
}
