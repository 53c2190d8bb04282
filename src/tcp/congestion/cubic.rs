//! CUBIC (RFC 9438): the window grows along a cubic around where it last overflowed.
//!
//! Bytes and milliseconds, integers only: W_cubic(t) = C * (t - K)^3 + W_max with C = 0.4
//! segments per second cubed.
#![forbid(unsafe_code)]

use super::hystart::HyStart;
use super::{Ack, Algorithm, NewReno, Window};
use crate::time::{Duration, Instant};

//= RFC 9438 §4.6
//# "The parameter β_cubic SHOULD be set to 0.7"
const BETA: (u32, u32) = (7, 10);
/// (1 + β_cubic) / 2: how far W_max gives way for new flows (RFC 9438 §4.7).
const FAST_CONVERGENCE: (u32, u32) = (17, 20);
/// α_cubic = 3 * (1 - β_cubic) / (1 + β_cubic) (RFC 9438 §4.3).
const ALPHA: (u32, u32) = (9, 17);
/// Beyond this the cubic has outgrown every window; keeps the arithmetic within 64 bits.
const T_MAX_MS: u64 = 100_000;
/// Without acknowledgments for this long the application, not the network, was the limit.
const PAUSE: Duration = Duration::from_millis(1);

/// The variables of RFC 9438 §4.1.2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cubic {
    /// W_max in bytes; zero before the first congestion event.
    w_max: u32,
    /// W_est in bytes.
    w_est: u32,
    /// cwnd_prior in bytes.
    prior: u32,
    /// K in milliseconds.
    k_ms: u32,
    /// t_epoch; none: the next congestion avoidance begins one.
    epoch: Option<Instant>,
    /// When the window last grew.
    last_ack: Instant,
    /// W_max and cwnd_prior before the last congestion event.
    before: (u32, u32),
    /// The next epoch is the first after a timeout.
    timed_out: bool,
    hystart: HyStart,
    reno: NewReno,
}

impl Cubic {
    pub(super) const fn new() -> Self {
        Self {
            w_max: 0,
            w_est: 0,
            prior: 0,
            k_ms: 0,
            epoch: None,
            last_ack: Instant::ZERO,
            before: (0, 0),
            timed_out: false,
            hystart: HyStart::new(),
            reno: NewReno::new(),
        }
    }

    fn begin_epoch(&mut self, window: &Window, now: Instant) -> Instant {
        //= RFC 9438 §4.2
        //# "K is the time period that the above function takes to increase the congestion
        //#  window size at the beginning of the current congestion avoidance stage to W_max"
        let mut missing = self.w_max.saturating_sub(window.cwnd);
        //= RFC 9438 §4.8
        //# "During the first congestion avoidance stage after a timeout ... K is set to 0, and
        //#  W_max is set to the congestion window size at the beginning of the current congestion
        //#  avoidance stage."
        // The same when the window is past W_max already (§4.10).
        if missing == 0 || self.timed_out {
            (missing, self.w_max) = (0, window.cwnd);
        }
        self.timed_out = false;
        self.k_ms = cube_root_ms(missing, window.mss);
        self.w_est = window.cwnd;
        self.epoch = Some(now);
        now
    }

    /// W_cubic(t) in bytes.
    fn w_cubic(&self, t: Duration, mss: u32) -> u32 {
        let t = t.as_millis().min(T_MAX_MS);
        let k = u64::from(self.k_ms);
        let d = t.abs_diff(k).min(T_MAX_MS);
        // 0.4 segments per second cubed; 10^15 * 65535 * 2 / 5 overflows, so divide in steps.
        let bytes = d * d * d / 1_000_000 * u64::from(mss) * 2 / 5_000;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if t >= k {
            self.w_max.saturating_add(bytes)
        } else {
            self.w_max.saturating_sub(bytes)
        }
    }
}

/// K of RFC 9438 §4.2: the cube root of `bytes` / (C * `mss`), in milliseconds.
fn cube_root_ms(bytes: u32, mss: u32) -> u32 {
    let cube = u128::from(bytes) * 5 * 1_000_000_000 / (2 * u128::from(mss.max(1)));
    let (mut root, mut bit) = (0u64, 1u64 << 31);
    while bit > 0 {
        let tried = u128::from(root | bit);
        if tried * tried * tried <= cube {
            root |= bit;
        }
        bit >>= 1;
    }
    u32::try_from(root).unwrap_or(u32::MAX)
}

impl Algorithm for Cubic {
    fn observe(&mut self, window: &mut Window, ack: &Ack) {
        //= RFC 9406 §4.3
        //# "An implementation SHOULD use HyStart++ only for the initial slow start (when the
        //#  ssthresh is at its initial value of arbitrarily high per [RFC5681]) and fall back to
        //#  using standard slow start for the remainder of the connection lifetime."
        if window.in_initial_slow_start() && self.hystart.observe(ack) {
            //= RFC 9406 §4.2
            //# "If CSS_ROUNDS rounds are complete, enter congestion avoidance by setting the
            //#  ssthresh to the current cwnd."
            window.ssthresh = window.cwnd;
        }
    }

    fn on_ack(&mut self, window: &mut Window, ack: &Ack) {
        if window.in_slow_start() {
            self.epoch = None;
            let divisor = if window.in_initial_slow_start() {
                self.hystart.growth_divisor()
            } else {
                1
            };
            let bytes = (ack.bytes / divisor).max(1);
            self.reno.on_ack(window, &Ack { bytes, ..*ack });
            return;
        }
        let pause = ack.now.saturating_since(self.last_ack);
        self.last_ack = ack.now;
        let mut epoch = match self.epoch {
            Some(epoch) => epoch,
            None => self.begin_epoch(window, ack.now),
        };
        let srtt = ack.srtt.unwrap_or(Duration::ZERO);
        //= RFC 9438 §4.2
        //# "The elapsed time MUST NOT include periods during which cwnd has not been updated due
        //#  to application-limited behavior"
        if pause > srtt.saturating_mul(2) + PAUSE {
            epoch = (epoch + pause).min(ack.now);
            self.epoch = Some(epoch);
        }
        let t = ack.now.saturating_since(epoch);
        let cwnd = u64::from(window.cwnd.max(1));
        let acked = u64::from(ack.bytes);
        //= RFC 9438 §4.3
        //# "W_est = W_est + α_cubic * (segments_acked / cwnd)"
        // and "once W_est has grown to reach cwnd_prior ... α_cubic SHOULD be set to 1".
        let (num, den) = if self.w_est >= self.prior {
            (1, 1)
        } else {
            ALPHA
        };
        let step = u64::from(window.mss) * acked * u64::from(num) / (cwnd * u64::from(den));
        self.w_est = self
            .w_est
            .saturating_add(u32::try_from(step).unwrap_or(u32::MAX));
        let cubic = self.w_cubic(t, window.mss);
        if cubic < self.w_est {
            //= RFC 9438 §4.3
            //# "CUBIC is in the Reno-friendly region and cwnd SHOULD be set to W_est at each
            //#  reception of a new ACK."
            let missing = self.w_est.saturating_sub(window.cwnd);
            window.grow(missing);
            return;
        }
        //= RFC 9438 §4.2
        //# "target = cwnd if W_cubic(t + RTT) < cwnd; 1.5 * cwnd if W_cubic(t + RTT) > 1.5 *
        //#  cwnd; W_cubic(t + RTT) otherwise"
        let ahead = u64::from(self.w_cubic(t + srtt, window.mss));
        let target = ahead.clamp(cwnd, cwnd * 3 / 2);
        //= RFC 9438 §4.4
        //# "cwnd MUST be incremented by (target - cwnd) / cwnd for each received new ACK"
        let step = (target - cwnd) * acked / cwnd;
        // No more than a second segment per acknowledged one.
        window.grow(u32::try_from(step).unwrap_or(u32::MAX).min(ack.bytes));
    }

    fn on_loss(&mut self, window: &Window, flight: u32) -> u32 {
        self.before = (self.w_max, self.prior);
        //= RFC 9438 §4.6
        //# "Implementations that use cwnd MUST use other measures to prevent cwnd from growing
        //#  when the volume of bytes in flight is smaller than cwnd."
        // As Linux does, and in slow start it may have grown to twice of what was in flight: where
        // a buffer of the peer's is the limit, the reduction is from the window that the path had
        // borne out, not from what the buffer let through (docs/GOODPUT.md).
        let borne_out = flight.saturating_mul(2).max(window.floor());
        let base = window.cwnd.min(borne_out);
        //= RFC 9438 §4.7
        //# "if cwnd < W_max and fast convergence is enabled: W_max = cwnd * (1 + β_cubic) / 2"
        let (num, den) = FAST_CONVERGENCE;
        self.w_max = if base < self.w_max {
            scaled(base, num, den)
        } else {
            base
        };
        self.prior = base;
        self.epoch = None;
        self.timed_out = false;
        scaled(base, BETA.0, BETA.1).max(window.floor())
    }

    fn on_timeout(&mut self) {
        self.timed_out = true;
    }

    fn on_undo(&mut self) {
        (self.w_max, self.prior) = self.before;
        self.epoch = None;
        self.timed_out = false;
    }
}

fn scaled(bytes: u32, num: u32, den: u32) -> u32 {
    let scaled = u64::from(bytes) * u64::from(num) / u64::from(den.max(1));
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_is_the_cube_root() {
        // 1000 segments below W_max: (1000 / 0.4)^(1/3) s = 13.572 s.
        assert_eq!(cube_root_ms(1_000_000, 1000), 13_572);
        assert_eq!(cube_root_ms(0, 1000), 0);
        assert!(cube_root_ms(u32::MAX, 1) > 2_000_000);
    }

    #[test]
    fn the_cubic_passes_through_w_max_at_k() {
        let mut c = Cubic::new();
        c.w_max = 1_000_000;
        let window = Window {
            cwnd: 700_000,
            ssthresh: 700_000,
            mss: 1000,
        };
        c.begin_epoch(&window, Instant::ZERO);
        assert_eq!(c.k_ms, 9085);
        let at = |ms| c.w_cubic(Duration::from_millis(ms), 1000);
        assert!((699_000..701_000).contains(&at(0)), "{}", at(0));
        assert_eq!(at(9085), 1_000_000);
        assert!(at(18_000) > 1_250_000);
        let mut last = 0;
        for ms in (0..200_000).step_by(100) {
            assert!(at(ms) >= last, "W_cubic never falls");
            last = at(ms);
        }
    }
}
