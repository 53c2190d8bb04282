//! Peers that a router has said to be behind a narrower path than the link (RFC 1191 §6.3), so that
//! new connections to them need not find out for themselves.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use crate::limits::NARROW_PATHS_MAX;
use crate::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Narrow {
    /// Bytes of the largest packet, IP header included.
    pub(super) mtu: u32,
    /// Until when that is believed.
    pub(super) until: Instant,
}

/// What is known. A few paths, if any: searched from end to end, when a way to a peer is looked up.
#[derive(Debug, Default)]
pub(super) struct NarrowPaths {
    paths: Vec<(IpAddr, Narrow)>,
}

impl NarrowPaths {
    /// The path to `peer`, if it is known to be narrow.
    pub(super) fn get(&self, now: Instant, peer: IpAddr) -> Option<Narrow> {
        let (_, narrow) = self.paths.iter().find(|(ip, _)| *ip == peer)?;
        (narrow.until > now).then_some(*narrow)
    }

    /// Enters one. The oldest gives way when there are too many.
    pub(super) fn insert(&mut self, peer: IpAddr, narrow: Narrow) {
        self.paths.retain(|(ip, _)| *ip != peer);
        if self.paths.len() >= NARROW_PATHS_MAX {
            self.paths.remove(0);
        }
        self.paths.push((peer, narrow));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_by_age_and_by_number() {
        let at = Instant::from_nanos;
        let peer = |i: usize| IpAddr::from((i as u32).to_be_bytes());
        let narrow = |mtu, until| Narrow {
            mtu,
            until: at(until),
        };
        let mut paths = NarrowPaths::default();
        paths.insert(peer(0), narrow(1400, 10));
        paths.insert(peer(0), narrow(1300, 20));
        assert_eq!(paths.get(at(19), peer(0)), Some(narrow(1300, 20)));
        assert_eq!(paths.get(at(20), peer(0)), None);
        for i in 1..=NARROW_PATHS_MAX {
            paths.insert(peer(i), narrow(1400, 100));
        }
        assert_eq!(paths.get(at(0), peer(0)), None);
        assert!(paths.get(at(0), peer(1)).is_some());
        assert_eq!(paths.paths.len(), NARROW_PATHS_MAX);
    }
}
