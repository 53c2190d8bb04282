//! Which rate a connection is paced at, if it is.
#![forbid(unsafe_code)]

use super::super::pacer::{Pacer, RATE_UNLIMITED};
use super::super::payload::Payload;
use super::super::timers::Timer;
use super::Connection;
use crate::time::{Duration, Instant};

/// Linux's `tcp_pacing_ss_ratio` and `tcp_pacing_ca_ratio`: in percent of a window per round trip.
/// Faster than the window, so that it is the window that limits; in slow start, twice as fast, so
/// that it can double.
const GAIN_SLOW_START_PERCENT: u64 = 200;
const GAIN_PERCENT: u64 = 120;

impl<P: Payload> Connection<P> {
    /// Sets the limit of `SO_MAX_PACING_RATE`, in bytes of data per second; 0 and
    /// [`RATE_UNLIMITED`] are none.
    pub fn set_max_pacing_rate(&mut self, bytes_per_second: u64) {
        if bytes_per_second != self.config.max_pacing_rate {
            self.config.change(|c| c.max_pacing_rate = bytes_per_second);
        }
        self.choose_pacing();
    }

    /// The rate at which segments leave, in bytes of data per second; `None` if at none.
    pub fn pacing_rate(&self) -> Option<u64> {
        let pacer = self.pacer.as_ref()?;
        Some(pacer.rate()).filter(|rate| *rate != RATE_UNLIMITED)
    }

    /// The limit set for that; [`RATE_UNLIMITED`] if there is none.
    pub(super) fn rate_limit(&self) -> u64 {
        match self.config.max_pacing_rate {
            0 => RATE_UNLIMITED,
            limit => limit,
        }
    }

    /// Begins or ends pacing, after something that decides it has changed.
    pub(super) fn choose_pacing(&mut self) {
        let wanted = self.config.pacing
            || self.rate_limit() != RATE_UNLIMITED
            || self.congestion.control().is_paced();
        if !wanted {
            self.pacer = None;
            self.timers.disarm(Timer::Pacing);
        } else if self.pacer.is_none() {
            self.pacer = Some(Box::new(Pacer::new()));
        }
        self.update_pacing_rate();
    }

    /// After the window or the round-trip time has changed.
    #[inline]
    pub(super) fn update_pacing_rate(&mut self) {
        if self.pacer.is_some() {
            let rate = self.wanted_rate();
            if let Some(pacer) = &mut self.pacer {
                pacer.set_rate(rate);
            }
        }
    }

    #[cold]
    fn wanted_rate(&self) -> u64 {
        let limit = self.rate_limit();
        let per_round = |bytes: u64, round: Option<Duration>| {
            let nanos = u128::from(round?.as_nanos().max(1));
            u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).ok()
        };
        let cwnd = u64::from(self.congestion.cwnd());
        let rate = match self.congestion.is_exact() {
            // HPCC's window is what the path holds without a queue.
            true => per_round(cwnd, self.rtt.min_rtt()),
            false if self.config.pacing => {
                // Linux's condition: near the threshold already more slowly.
                let doubling = self.congestion.cwnd() < self.congestion.ssthresh() / 2;
                let gain = if doubling {
                    GAIN_SLOW_START_PERCENT
                } else {
                    GAIN_PERCENT
                };
                per_round(cwnd * gain / 100, self.rtt.srtt())
            }
            false => None,
        };
        rate.unwrap_or(RATE_UNLIMITED).min(limit)
    }

    /// Bytes that the rate lets out now.
    #[inline]
    pub(super) fn pacing_allowance(&mut self, now: Instant, mss: u32) -> u32 {
        match &mut self.pacer {
            Some(pacer) => pacer.allowance(now, mss),
            None => u32::MAX,
        }
    }

    /// There is something to send that the rate holds back.
    pub(super) fn wait_for_pacing(&mut self) {
        if let Some(pacer) = &self.pacer {
            self.timers.arm(Timer::Pacing, pacer.next());
        }
    }

    /// `bytes` have been sent, new or again.
    #[inline]
    pub(super) fn on_paced(&mut self, now: Instant, bytes: u32) {
        if let Some(pacer) = &mut self.pacer {
            pacer.on_sent(now, bytes);
        }
    }
}
