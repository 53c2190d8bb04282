//! What one connection's path takes (RFC 1191, RFC 8201), also where nobody says so (RFC 4821).
//!
//! Owns the belief and when to doubt it; segments are `connection/path.rs`'s business.
#![forbid(unsafe_code)]

use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

/// After this a larger size is tried again.
///
//= RFC 8201 §4
//# "An attempt to detect an increase (by sending a packet larger than the current estimate) must
//#  not be done less than 5 minutes after a Packet Too Big message has been received for the
//#  given path. The recommended setting for this timer is twice its minimum value (10 minutes)."
pub const RAISE_AFTER: Duration = Duration::from_secs(600);
/// So many timeouts in a row make us suspect that full segments vanish (Linux's `tcp_retries1`):
/// with fewer, the segment may just have been lost again.
pub(crate) const TIMEOUTS_SUSPECT: u8 = 3;
/// So many larger segments in a row are tried before it is believed that none arrives (MAX_PROBES
/// of RFC 8899 §5.1.2): one may be lost by chance.
const PROBES_MAX: u8 = 3;
/// What is sent then, in bytes of payload and options: Linux's `tcp_base_mss`. Few paths take less,
/// and a segment of this size that is lost is seldom lost for its size.
const SAFE: u16 = 1024;
/// What is sent after that: what fits wherever IPv4 goes (RFC 9293 §3.7.1).
const SAFEST: u16 = 536;

/// The belief.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathMtu {
    /// Bytes of payload and options of the largest segment that may be sent.
    mss: u16,
    /// Those of the largest that the link takes.
    mss_link: u16,
    /// Where the segment starts that is larger than `mss`, to find out whether it arrives.
    probe: Option<SeqNum>,
    /// How many of those have been lost, one after the other.
    probes_lost: u8,
    /// When the next may go. Far in the future while `mss` is all that the link takes.
    raise_at: Instant,
}

impl PathMtu {
    /// Of a path that takes what the link takes.
    pub(crate) const fn new(mss_link: u16) -> Self {
        Self {
            mss: mss_link,
            mss_link,
            probe: None,
            probes_lost: 0,
            raise_at: Instant::FAR_FUTURE,
        }
    }

    pub(crate) const fn mss(&self) -> u16 {
        self.mss
    }

    pub(crate) const fn mss_link(&self) -> u16 {
        self.mss_link
    }

    /// The link takes `mss` now.
    pub(crate) fn set_link(&mut self, mss: u16) {
        let widest = self.mss == self.mss_link;
        self.mss_link = mss;
        if widest || self.mss >= mss {
            *self = Self::new(mss);
        }
    }

    /// Whether a larger segment is to be tried by now.
    #[inline]
    pub(crate) fn is_raise_due(&self, now: Instant) -> bool {
        self.raise_at <= now
    }

    /// It takes only `mss`, and until `raise_at` nothing larger is to be tried.
    pub(crate) fn lower(&mut self, mss: u16, raise_at: Instant) {
        self.mss = mss;
        self.probe = None;
        self.probes_lost = 0;
        self.raise_at = raise_at;
    }

    /// It takes what the link takes.
    pub(crate) fn raise(&mut self) {
        *self = Self::new(self.mss_link);
    }

    /// There is nothing larger to try.
    pub(crate) fn stay(&mut self) {
        self.raise_at = Instant::FAR_FUTURE;
    }

    /// The size to go down to when full segments seem to vanish; none if these are small.
    pub(crate) fn safe_size(&self) -> Option<u16> {
        match self.mss {
            mss if mss > SAFE => Some(SAFE),
            SAFE if self.mss_link > SAFE => Some(SAFEST),
            _ => None,
        }
    }

    /// A larger segment leaves, which starts at `start`.
    pub(crate) fn on_probe(&mut self, start: SeqNum) {
        self.probe = Some(start);
        self.raise_at = Instant::FAR_FUTURE;
    }

    /// `[start, end)` is sent again, in smaller segments: if the larger one begins there, it has
    /// not arrived. Whether it does.
    pub(crate) fn on_resent(&mut self, start: SeqNum, end: SeqNum, now: Instant) -> bool {
        match self.probe {
            Some(probe) if start.before_eq(probe) && probe.before(end) => {
                self.probes_lost += 1;
                if self.probes_lost < PROBES_MAX {
                    self.probe = None;
                    self.raise_at = now;
                } else {
                    self.refuse(now);
                }
                true
            }
            _ => false,
        }
    }

    /// Nothing larger gets through.
    pub(crate) fn refuse(&mut self, now: Instant) {
        self.probe = None;
        self.probes_lost = 0;
        self.raise_at = now + RAISE_AFTER;
    }

    /// Everything before `una` has arrived. Whether the larger segment has.
    #[inline]
    pub(crate) fn has_arrived(&mut self, una: SeqNum) -> bool {
        match self.probe {
            Some(start) if una.after(start) => {
                self.probe = None;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_ends_one_way_or_the_other() {
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let mut path = PathMtu::new(1460);
        assert!(!path.is_raise_due(at(1 << 30)), "nothing larger to try");
        path.lower(1000, at(5));
        assert!(!path.is_raise_due(at(4)) && path.is_raise_due(at(5)));
        path.on_probe(SeqNum::new(7));
        assert!(!path.is_raise_due(at(100)), "one at a time");
        let seq = SeqNum::new;
        assert!(!path.on_resent(seq(6), seq(7), at(6)) && !path.has_arrived(seq(7)));
        assert!(!path.on_resent(seq(8), seq(9), at(6)));
        for _ in 1..PROBES_MAX {
            assert!(path.on_resent(seq(6), seq(8), at(6)));
            assert!(path.is_raise_due(at(6)), "that may have been chance");
            path.on_probe(seq(7));
        }
        assert!(path.on_resent(seq(6), seq(8), at(6)));
        assert!(
            !path.has_arrived(SeqNum::new(8)),
            "that was the smaller one"
        );
        assert!(!path.is_raise_due(at(605)) && path.is_raise_due(at(606)));
        path.on_probe(SeqNum::new(70));
        assert!(path.has_arrived(SeqNum::new(71)));
    }

    #[test]
    fn a_link_that_changes_is_followed() {
        let later = Instant::ZERO + Duration::from_secs(9);
        let mut path = PathMtu::new(1460);
        path.set_link(1000);
        assert_eq!((path.mss(), path.is_raise_due(later)), (1000, false));
        path.set_link(8960);
        assert_eq!(path.mss(), 8960);
        path.lower(1400, later);
        path.set_link(1460);
        assert_eq!(
            path.mss(),
            1400,
            "narrower than the link for another reason"
        );
        path.set_link(1300);
        assert_eq!((path.mss(), path.is_raise_due(later)), (1300, false));
    }

    #[test]
    fn sizes_go_down_in_two_steps() {
        let mut path = PathMtu::new(8960);
        for size in [SAFE, SAFEST] {
            assert_eq!(path.safe_size(), Some(size));
            path.lower(size, Instant::ZERO);
        }
        assert_eq!(path.safe_size(), None);
        assert_eq!(PathMtu::new(1000).safe_size(), None);
    }
}
