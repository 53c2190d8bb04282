//! Round-trip time and the retransmission timeout derived from it (RFC 6298).
//!
//! Takes measurements; knows nothing of segments. Which measurements are valid (Karn's
//! algorithm, timestamps) is decided where acknowledgments are processed.
#![forbid(unsafe_code)]

use super::config::Config;
use crate::time::{Duration, Instant};

/// G of RFC 6298 §2: a shard reads its clock once per turn, and a turn takes microseconds.
const GRANULARITY: Duration = Duration::from_micros(100);
/// Beyond this many doublings every RTO has reached its ceiling.
const BACKOFF_MAX: u8 = 31;
/// How long a smallest round-trip time is believed to be the path's. Linux: five minutes; BBR's
/// ten seconds would take a standing queue for the path.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(60);

/// The estimator of RFC 6298 §2, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct RttEstimator {
    srtt: Option<Duration>,
    rttvar: Duration,
    min_rtt: Duration,
    /// When `min_rtt` was measured.
    min_at: Instant,
    /// Without back-off.
    base: Duration,
    backoff: u8,
    floor: Duration,
    ceiling: Duration,
}

impl RttEstimator {
    /// Without a measurement.
    pub(crate) fn new(cfg: &Config) -> Self {
        Self {
            srtt: None,
            rttvar: Duration::ZERO,
            min_rtt: Duration::MAX,
            min_at: Instant::ZERO,
            base: cfg.rto_initial,
            backoff: 0,
            floor: cfg.rto_min,
            ceiling: cfg.rto_max,
        }
    }

    /// Takes a measurement for the minimum only.
    //= RFC 8985 §6.2
    //# "The sender SHOULD track a windowed min-filtered estimate of recent RTT measurements that
    //#  can adapt when migrating to significantly longer paths"
    #[inline]
    pub(crate) fn observe(&mut self, rtt: Duration, now: Instant) {
        if rtt <= self.min_rtt || now.saturating_since(self.min_at) > MIN_RTT_WINDOW {
            self.min_rtt = rtt;
            self.min_at = now;
        }
    }

    /// Takes an exact measurement.
    pub(crate) fn on_sample(&mut self, rtt: Duration) {
        self.min_rtt = self.min_rtt.min(rtt);
        self.on_coarse_sample(rtt);
    }

    /// Takes a measurement by timestamps, which count milliseconds.
    pub(crate) fn on_coarse_sample(&mut self, rtt: Duration) {
        let srtt = match self.srtt {
            //= RFC 6298 §2.2
            //# "SRTT <- R ... RTTVAR <- R/2 ... RTO <- SRTT + max (G, K*RTTVAR)"
            None => {
                self.rttvar = rtt.div(2);
                rtt
            }
            //= RFC 6298 §2.3
            //# "RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|
            //#  SRTT <- (1 - alpha) * SRTT + alpha * R'", alpha = 1/8, beta = 1/4
            Some(srtt) => {
                let error = srtt.max(rtt).saturating_sub(srtt.min(rtt));
                self.rttvar = self.rttvar.saturating_sub(self.rttvar.div(4)) + error.div(4);
                srtt.saturating_sub(srtt.div(8)) + rtt.div(8)
            }
        };
        self.srtt = Some(srtt);
        self.base = srtt + GRANULARITY.max(self.rttvar.saturating_mul(4));
        // A measurement ends the back-off (RFC 6298 §5, last paragraph; Karn's algorithm).
        self.backoff = 0;
    }

    /// The timeout to arm a timer with.
    pub fn rto(&self) -> Duration {
        let backed_off = self.base.max(self.floor).saturating_mul(1 << self.backoff);
        backed_off.min(self.ceiling)
    }

    /// The timeout expired.
    pub(crate) fn back_off(&mut self) {
        //= RFC 6298 §5.5
        //# "The host MUST set RTO <- RTO * 2 ("back off the timer")."
        if self.rto() < self.ceiling {
            self.backoff = self.backoff.saturating_add(1).min(BACKOFF_MAX);
        }
    }

    /// The handshake lost its SYN and data is about to flow without any measurement.
    pub(crate) fn on_lossy_handshake(&mut self) {
        if self.srtt.is_none() {
            //= RFC 6298 §5.7
            //# "the RTO MUST be re-initialized to 3 seconds when data transmission begins"
            // Relative to the second that §2.1 starts from, so that a configured start scales.
            self.base = self.base.saturating_mul(3);
            self.backoff = 0;
        }
    }

    /// Changes the bounds while the connection lives.
    pub(crate) fn set_bounds(&mut self, floor: Duration, ceiling: Duration) {
        self.floor = floor;
        self.ceiling = ceiling.max(floor);
    }

    /// SRTT, once there is a measurement.
    pub fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// RTTVAR.
    pub fn rttvar(&self) -> Duration {
        self.rttvar
    }

    /// The smallest measurement so far.
    pub fn min_rtt(&self) -> Option<Duration> {
        (self.min_rtt != Duration::MAX).then_some(self.min_rtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn estimator(floor: Duration) -> RttEstimator {
        RttEstimator::new(&Config {
            rto_min: floor,
            ..Config::default()
        })
    }

    #[test]
    fn the_first_measurement() {
        let mut r = estimator(ms(1));
        assert_eq!(r.rto(), Duration::from_secs(1));
        r.on_sample(ms(100));
        assert_eq!(
            (r.srtt(), r.rttvar(), r.rto()),
            (Some(ms(100)), ms(50), ms(300))
        );
    }

    #[test]
    fn later_measurements_are_smoothed() {
        let mut r = estimator(ms(1));
        r.on_sample(ms(80));
        r.on_sample(ms(160));
        assert_eq!(
            (r.srtt(), r.rttvar(), r.rto()),
            (Some(ms(90)), ms(50), ms(290))
        );
        assert_eq!(r.min_rtt(), Some(ms(80)));
    }

    #[test]
    fn the_floor_and_the_ceiling_hold() {
        let mut r = estimator(ms(4));
        for _ in 0..100 {
            r.on_sample(Duration::from_micros(50));
        }
        assert_eq!(r.rto(), ms(4));
        for n in [8, 16, 32] {
            r.back_off();
            assert_eq!(r.rto(), ms(n));
        }
        for _ in 0..100 {
            r.back_off();
        }
        assert_eq!(r.rto(), Duration::from_secs(120));
        r.on_sample(Duration::from_micros(50));
        assert_eq!(r.rto(), ms(4), "a measurement ends the back-off");
        r.on_sample(Duration::MAX);
        assert_eq!(r.rto(), Duration::from_secs(120));
    }
}
