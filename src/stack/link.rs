//! The way from a connection to its peer's hardware address, as the control plane sees it now.
//!
//! Owns the shard's picture of the control plane and the frames that wait for a neighbour. The
//! picture is replaced when its generation changes, which costs one load per turn.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::VecDeque;
use std::sync::Arc;

use super::narrow::{Narrow, NarrowPaths};
use super::template::Template;
use crate::control::{ControlHandle, Discovery, Neighbour, RouteError, Tables, TooBig};
use crate::device::{Pieces, TxFrame};
use crate::limits::FRAMES_AWAITING_NEIGHBOUR_MAX;
use crate::time::{Duration, Instant};
use crate::wire::Mac;

/// How often a neighbour in use is confirmed to the kernel, which sees none of our traffic.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// How long a frame waits for a neighbour before it is dropped: the kernel's three probes.
const RESOLVE_FOR: Duration = Duration::from_secs(3);

/// How far the way to a peer is known.
#[derive(Clone, Debug)]
pub(super) enum Hop {
    /// Frames can go.
    Ready(Template),
    /// The neighbour at this address is not known yet.
    Unresolved(IpAddr),
    /// There is no way over this link.
    Unreachable(RouteError),
}

/// A connection's cached [`Hop`].
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct HopCache {
    generation: u64,
    confirm_at: Instant,
    hop: Option<Hop>,
    next_hop: Option<IpAddr>,
}

/// Ways kept from look-ups, by their ends: connections come and go, their peers stay.
const WAYS_KEPT: usize = 256;

/// A way that has been looked up since the control plane last changed.
#[derive(Clone, Debug)]
struct Way {
    ends: (IpAddr, IpAddr),
    found: Result<(IpAddr, Option<Template>), RouteError>,
    mtu: u32,
}

/// Where in the table of ways one may be. Who can make ways collide gains nothing but look-ups.
fn place_of(ends: (IpAddr, IpAddr)) -> usize {
    let word = |ip| match ip {
        IpAddr::V4(a) => Ipv4Addr::to_bits(a),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            (bits ^ (bits >> 32) ^ (bits >> 64) ^ (bits >> 96)) as u32
        }
    };
    let mixed = (word(ends.0).rotate_left(16) ^ word(ends.1)).wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as usize % WAYS_KEPT
}

struct Waiting {
    next_hop: IpAddr,
    until: Instant,
    frame: TxFrame,
}

/// The shard's side of the control plane.
pub(super) struct Link {
    control: Arc<ControlHandle>,
    tables: Arc<Tables>,
    generation: u64,
    ifindex: u32,
    mac: Mac,
    mtu: u32,
    waiting: VecDeque<Waiting>,
    /// On a link that the kernel does not know.
    discovery: Option<Box<Discovery>>,
    /// The ends of the last packet that [`Link::accepts`] has found good.
    accepted: Option<(IpAddr, IpAddr)>,
    ways: Vec<Option<Way>>,
    narrow: NarrowPaths,
    /// How many of the control plane's notices have been seen.
    notices_seen: u64,
}

impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Link")
            .field("ifindex", &self.ifindex)
            .field("mac", &self.mac)
            .finish()
    }
}

impl Link {
    pub(super) fn new(
        control: Arc<ControlHandle>,
        ifindex: u32,
        discovery: Option<Box<Discovery>>,
    ) -> Self {
        let tables = control.tables();
        let generation = control.generation();
        let mut link = Self {
            control,
            tables,
            generation,
            ifindex,
            mac: Mac::default(),
            mtu: 1500,
            waiting: VecDeque::new(),
            discovery,
            accepted: None,
            ways: vec![None; WAYS_KEPT],
            narrow: NarrowPaths::default(),
            notices_seen: 0,
        };
        link.read_link();
        link
    }

    fn read_link(&mut self) {
        if let Some(link) = self.tables.link(self.ifindex) {
            self.mac = link.mac.unwrap_or_default();
            self.mtu = link.mtu;
        }
    }

    /// Takes over a newer picture if there is one; whether there was.
    pub(super) fn refresh(&mut self) -> bool {
        let generation = self.control.generation();
        if generation == self.generation {
            return false;
        }
        self.generation = generation;
        self.tables = self.control.tables();
        self.accepted = None;
        self.ways.fill(None);
        self.read_link();
        true
    }

    /// Whether a packet from `src` to `dst` can belong to a connection of ours.
    #[inline]
    pub(super) fn accepts(&mut self, src: IpAddr, dst: IpAddr) -> bool {
        if self.accepted == Some((src, dst)) {
            return true;
        }
        let good =
            is_tcp_endpoint(src) && is_tcp_endpoint(dst) && src != dst && self.tables.is_local(dst);
        if good {
            self.accepted = Some((src, dst));
        }
        good
    }

    /// Whether there is something for [`Link::take_notices`].
    #[inline]
    pub(super) fn has_notices(&self) -> bool {
        self.control.notices().count() != self.notices_seen
    }

    /// Moves what routers have said since the last call to the back of `out`.
    pub(super) fn take_notices(&mut self, out: &mut Vec<TooBig>) {
        self.control.notices().since(&mut self.notices_seen, out);
    }

    /// The path to a peer has turned out to be narrow.
    pub(super) fn narrow(&mut self, peer: IpAddr, narrow: Narrow) {
        self.narrow.insert(peer, narrow);
    }

    /// The path to a peer, if it is known to be narrower than the link.
    pub(super) fn narrow_path(&self, now: Instant, peer: IpAddr) -> Option<Narrow> {
        self.narrow.get(now, peer)
    }

    /// Whether the way has not been looked up since the control plane last changed.
    #[inline]
    pub(super) fn is_stale(&self, cache: &HopCache) -> bool {
        cache.generation != self.generation
    }

    /// The longest IP packet that the link and the route take from `src` to `dst`.
    pub(super) fn path_mtu(&mut self, src: IpAddr, dst: IpAddr) -> u32 {
        self.way(src, dst).mtu
    }

    fn way(&mut self, src: IpAddr, dst: IpAddr) -> Way {
        let (ends, place) = ((src, dst), place_of((src, dst)));
        if let Some(Some(way)) = self.ways.get(place)
            && way.ends == ends
        {
            return way.clone();
        }
        let route = self.tables.route_on(dst, Some(self.ifindex));
        let mtu = route.as_ref().ok().and_then(|r| r.mtu);
        let way = Way {
            ends,
            found: self.find(src, dst),
            mtu: mtu.unwrap_or(self.mtu).min(self.mtu),
        };
        if let Some(slot) = self.ways.get_mut(place) {
            *slot = Some(way.clone());
        }
        way
    }

    /// The way from `src` to `dst`, from `cache` if that is still true. `answers`: what was sent
    /// that way has not timed out again and again.
    pub(super) fn hop<'a>(
        &mut self,
        now: Instant,
        src: IpAddr,
        dst: IpAddr,
        answers: bool,
        cache: &'a mut HopCache,
    ) -> &'a Hop {
        if cache.generation != self.generation || cache.hop.is_none() {
            cache.generation = self.generation;
            cache.hop = None;
        }
        if !answers && let Some(ip) = cache.next_hop {
            // To confirm it now would keep the kernel from finding out that it has another address.
            let _rate_limited = self.control.request_probe(now, self.ifindex, ip);
        } else if now >= cache.confirm_at
            && let Some(ip) = cache.next_hop
        {
            cache.confirm_at = now + CONFIRM_EVERY;
            let _rate_limited = self.control.request_confirm(now, self.ifindex, ip);
        }
        let HopCache { hop, next_hop, .. } = cache;
        hop.get_or_insert_with(|| {
            let found = self.way(src, dst).found;
            *next_hop = match &found {
                Ok((ip, _)) => Some(*ip),
                Err(_) => None,
            };
            match found {
                Ok((_, Some(template))) => Hop::Ready(template),
                Ok((ip, None)) => Hop::Unresolved(ip),
                Err(e) => Hop::Unreachable(e),
            }
        })
    }

    fn find(&self, src: IpAddr, dst: IpAddr) -> Result<(IpAddr, Option<Template>), RouteError> {
        let route = self.tables.route_on(dst, Some(self.ifindex))?;
        if route.local {
            return Err(RouteError::NoRoute);
        }
        let next_hop = route.gateway.unwrap_or(dst);
        let template = match self.tables.neighbour(self.ifindex, next_hop) {
            Neighbour::Known(mac, _) => Some(Template::new((self.mac, mac), src, dst)),
            Neighbour::Failed | Neighbour::Unknown => None,
        };
        Ok((next_hop, template))
    }

    /// Keeps a frame, whose Ethernet header is still blank, until its neighbour is known; asks
    /// the kernel to find it. The oldest frame gives way when there are too many.
    pub(super) fn wait_for_neighbour(&mut self, now: Instant, next_hop: IpAddr, frame: TxFrame) {
        if self.waiting.len() >= FRAMES_AWAITING_NEIGHBOUR_MAX {
            self.waiting.pop_front();
        }
        match &mut self.discovery {
            Some(discovery) => discovery.resolve(now, next_hop),
            None => {
                let _rate_limited = self.control.request_resolve(now, self.ifindex, next_hop);
            }
        }
        self.waiting.push_back(Waiting {
            next_hop,
            until: now + RESOLVE_FOR,
            frame,
        });
    }

    /// Moves frames whose neighbour has become known to `out`, and drops those that waited too
    /// long.
    pub(super) fn release_waiting(&mut self, now: Instant, out: &mut VecDeque<TxFrame>) {
        for _ in 0..self.waiting.len() {
            let Some(mut waiting) = self.waiting.pop_front() else {
                break;
            };
            match self.tables.neighbour(self.ifindex, waiting.next_hop) {
                Neighbour::Known(mac, _) => {
                    self.control.note_resolved(self.ifindex, waiting.next_hop);
                    let (dst, rest) = waiting.frame.header.split_at_mut(6);
                    dst.copy_from_slice(&mac.0);
                    if let Some(src) = rest.first_chunk_mut::<6>() {
                        *src = self.mac.0;
                    }
                    out.push_back(waiting.frame);
                }
                // A failure may be an old one: the kernel has been asked again.
                Neighbour::Failed | Neighbour::Unknown if now >= waiting.until => {}
                Neighbour::Failed | Neighbour::Unknown => self.waiting.push_back(waiting),
            }
        }
    }

    /// Frames wait for a neighbour.
    #[inline]
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a frame, of which these are the first bytes, is for [`Link::discover`].
    #[inline]
    pub(super) fn is_discovery(&self, first: &[u8]) -> bool {
        self.discovery.is_some() && Discovery::wants(first)
    }

    /// Takes in a frame of address resolution.
    pub(super) fn discover(&mut self, now: Instant, frame: &[u8]) {
        if let Some(discovery) = &mut self.discovery {
            discovery.on_frame(now, frame);
        }
    }

    /// Does what address resolution has to do by now, and moves its frames to `out`.
    pub(super) fn run_discovery(&mut self, now: Instant, out: &mut VecDeque<TxFrame>) {
        let Some(discovery) = &mut self.discovery else {
            return;
        };
        if discovery.deadline() <= now {
            discovery.run(now);
        }
        while let Some(frame) = discovery.take_frame() {
            out.push_back(TxFrame {
                header: frame.iter().copied().collect(),
                payload: Pieces::new(),
                checksum_offload: false,
                segment_bytes: 0,
                alone: false,
            });
        }
    }

    /// When address resolution has something to do.
    pub(super) fn discovery_deadline(&self) -> Instant {
        self.discovery
            .as_ref()
            .map_or(Instant::FAR_FUTURE, |discovery| discovery.deadline())
    }

    /// Whether the kernel has tried to find the neighbour at `ip` and failed.
    pub(super) fn neighbour_failed(&self, ip: IpAddr) -> bool {
        matches!(self.tables.neighbour(self.ifindex, ip), Neighbour::Failed)
    }

    /// For frames to a neighbour that is not known yet: blank hardware addresses.
    pub(super) fn blank_template(&self, src: IpAddr, dst: IpAddr) -> Template {
        Template::new((self.mac, Mac::default()), src, dst)
    }
}

/// Whether a packet from or to this address can belong to a TCP connection at all.
///
//= RFC 9293 §3.9.2.3
//# "An incoming SYN with an invalid source address MUST be ignored either by TCP or by the IP
//# layer (MUST-63)."
//= RFC 9293 §3.9.2.3
//# "A TCP implementation MUST silently discard an incoming SYN segment that is addressed to a
//# broadcast or multicast address (MUST-57)."
fn is_tcp_endpoint(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => {
            !(a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback())
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified() || a.is_multicast() || a == Ipv6Addr::LOCALHOST)
                && a.to_ipv4_mapped().is_none()
        }
    }
}
