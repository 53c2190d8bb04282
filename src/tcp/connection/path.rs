//! What the path takes: said by a router, suspected after timeouts, found out by trying.
#![forbid(unsafe_code)]

use super::super::path_mtu::{PathMtu, RAISE_AFTER, TIMEOUTS_SUSPECT};
use super::super::payload::Payload;
use super::super::recovery::Phase;
use super::super::segment::SegmentOut;
use super::Connection;
use crate::time::Instant;
use crate::wire::SeqNum;

impl<P: Payload> Connection<P> {
    /// The link and the route take segments of at most `mss` bytes (MTU less fixed headers).
    /// Lowering it sends again at once what may have been too large.
    pub fn set_path_mss(&mut self, mss: u16) {
        let mss = mss.clamp(self.config.mss_min, self.config.mss_local);
        if mss != self.path.mss_link() {
            self.change_path(|path| path.set_link(mss));
        }
    }

    /// The path takes segments of at most `mss` bytes, as far as is known; larger ones are to be
    /// tried from `raise_at` on. What is believed already to be narrower stays so.
    pub fn lower_path_mss(&mut self, mss: u16, raise_at: Instant) {
        let mss = mss.max(self.config.mss_min);
        if mss < self.path.mss() {
            self.change_path(|path| path.lower(mss, raise_at));
        }
    }

    /// A router says that it cannot forward the segment at `seq`, and that `mss` bytes would fit
    /// (RFC 1191, RFC 8201). Whether that was believed.
    ///
    /// Anybody may say so who guesses our ports; it must concern a segment that is in the network
    /// and is larger than what would fit (RFC 5927 §7.2).
    pub fn on_too_big(&mut self, seq: SeqNum, mss: u16, now: Instant) -> bool {
        let in_flight = self.tx.una.before_eq(seq) && seq.before(self.tx.nxt);
        if !self.state.is_synchronized() || !in_flight {
            return false;
        }
        //= RFC 8201 §4
        //# "The node must reduce the size of the packets it is sending along the path."
        let raise_at = now + RAISE_AFTER;
        if mss < self.path.mss() {
            self.lower_path_mss(mss, raise_at);
            return true;
        }
        // About the larger segment that was to find that out.
        let ours = self.path.on_resent(seq, seq + 1, now);
        if ours {
            self.path.refuse(now);
        }
        ours
    }

    fn change_path(&mut self, change: impl FnOnce(&mut PathMtu)) {
        change(&mut self.path);
        let before = self.mss;
        self.apply_mss();
        if self.mss < before && self.state.is_synchronized() && self.tx.flight() > 0 {
            // A packet that was too big is no sign of congestion: cwnd and ssthresh stay.
            self.scoreboard.mark_lost(|_| true);
            self.recovery
                .begin(Phase::Timeout, self.tx.una, self.tx.nxt);
            self.recovery.forget_undo();
        }
    }

    /// A retransmission has timed out once more. If what is sent may be larger than the path
    /// takes, and the router that knows keeps silent, smaller segments will arrive (RFC 2923 §2.1,
    /// RFC 4821 §7.7).
    pub(super) fn suspect_black_hole(&mut self, now: Instant) {
        if !self.recovery.timeouts.is_multiple_of(TIMEOUTS_SUSPECT) {
            return;
        }
        let oldest = self.tx.queue.end().distance_from(self.tx.una);
        let size = self.path.safe_size().filter(|size| {
            // A smaller one has been lost: it is not the size.
            u32::from(*size) < self.mss && oldest > u32::from(*size)
        });
        if let Some(size) = size.filter(|size| *size >= self.config.mss_min) {
            // A link that was merely cut takes large ones as soon as it is whole.
            self.path.lower(size, now);
            self.apply_mss();
        }
    }

    /// A segment that is larger than the path is believed to take, if it is time for one and its
    /// loss would show at once (RFC 4821 §7.2): there is more to send behind it.
    #[cold]
    pub(super) fn probe_path(
        &mut self,
        now: Instant,
        allowed: u32,
        room: u32,
    ) -> Option<SegmentOut<P>> {
        let narrow = self.mss;
        let larger = self.effective_mss(self.path.mss_link());
        if larger <= narrow {
            self.path.stay();
            return None;
        }
        let size = larger.saturating_sub(narrow - room);
        let both = size.saturating_add(room);
        let most = allowed.min(self.tx.window_left()).min(self.tx.unsent());
        if self.recovery.phase != Phase::Open || most < both {
            return None;
        }
        let start = self.tx.nxt;
        let mut out = self.emit_new(now, size, false, size);
        out.alone = true;
        // In too many pieces it became a shorter one, which says nothing.
        if out.payload_len > room {
            self.path.on_probe(start);
        }
        Some(out)
    }

    /// The larger segment has arrived: the path takes what the link takes.
    #[cold]
    pub(super) fn raise_path_mss(&mut self) {
        self.path.raise();
        self.apply_mss();
    }
}
