//! Proportional rate reduction (RFC 6937): how fast the window comes down during fast recovery.
#![forbid(unsafe_code)]

use super::Window;

/// The state variables of RFC 6937 §3, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prr {
    /// prr_delivered: told of as delivered since recovery began.
    delivered: u32,
    /// prr_out: sent since recovery began.
    out: u32,
    /// RecoverFS: FlightSize when recovery began.
    recover_fs: u32,
}

impl Prr {
    pub(super) const fn new(flight: u32) -> Self {
        Self {
            delivered: 0,
            out: 0,
            recover_fs: flight,
        }
    }

    pub(super) fn on_sent(&mut self, bytes: u32) {
        self.out = self.out.saturating_add(bytes);
    }

    /// How many bytes this acknowledgment allows to be sent.
    pub(super) fn on_ack(
        &mut self,
        delivered: u32,
        pipe: u32,
        progress: bool,
        window: &Window,
    ) -> u32 {
        self.delivered = self.delivered.saturating_add(delivered);
        if pipe > window.ssthresh {
            //= RFC 6937 §3
            //# "sndcnt = CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out"
            let share = (u64::from(self.delivered) * u64::from(window.ssthresh))
                .div_ceil(u64::from(self.recover_fs.max(1)));
            return u32::try_from(share)
                .unwrap_or(u32::MAX)
                .saturating_sub(self.out);
        }
        let owed = self.delivered.saturating_sub(self.out);
        //= RFC 6937 §3
        //# "limit = MAX(prr_delivered - prr_out, DeliveredData) + MSS"
        // Where nothing advances, only the conservative bound: one byte out for one delivered
        // (as RFC 6937 §3.1 found best and Linux does).
        let limit = if progress {
            owed.max(delivered).saturating_add(window.mss)
        } else {
            owed
        };
        //= RFC 6937 §3
        //# "sndcnt = MIN(ssthresh - pipe, limit)"
        (window.ssthresh - pipe).min(limit)
    }
}
