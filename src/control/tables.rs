//! An immutable picture of the kernel's addresses, routes, neighbours and links.
//!
//! Owns the look-ups: longest-prefix match, source address selection, multipath. Knows nothing
//! of netlink: [`Tables`] is filled by the mirror, or by hand with [`Tables::builder`].
#![forbid(unsafe_code)]

use core::cmp::Reverse;
use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use crate::wire::Mac;

#[cfg(test)]
mod tests;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It has a carrier.
    pub carrier: bool,
    /// It is the loopback interface.
    pub loopback: bool,
    /// The driver's kind as `ip -d link` shows it (`veth`, `vlan`, `bond`…); empty if none.
    pub kind: String,
    /// What it is stacked on, if it is a VLAN interface.
    pub vlan: Option<Vlan>,
}

/// What a VLAN interface is stacked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Index of the lower interface.
    pub parent: u32,
    /// The 802.1Q tag's identifier.
    pub id: u16,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface it is on.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Any address of the network that is reached directly: `ip`, or the other end of a
    /// point-to-point link.
    pub network: IpAddr,
    /// Length of that network's prefix.
    pub prefix_len: u8,
    /// How far it is valid.
    pub scope: Scope,
    /// Secondary (IPv4) or temporary (IPv6).
    pub secondary: bool,
    /// Not a source yet, or no more: duplicate address detection has not passed.
    pub tentative: bool,
    /// To be used as a source only when there is no other.
    pub deprecated: bool,
}

impl Address {
    /// A permanent address of global scope.
    pub fn new(ifindex: u32, ip: IpAddr, prefix_len: u8) -> Self {
        Self {
            ifindex,
            ip,
            network: ip,
            prefix_len,
            scope: Scope::of(ip),
            secondary: false,
            tentative: false,
            deprecated: false,
        }
    }
}

/// How far an address is valid; wider scopes come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere.
    Universe,
    /// Within the site.
    Site,
    /// On this link only.
    Link,
    /// Inside this host only.
    Host,
}

impl Scope {
    /// The scope that an address has by its value (RFC 4007, RFC 6724 §3.1).
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) if v4.is_loopback() => Self::Host,
            IpAddr::V4(v4) if v4.is_link_local() => Self::Link,
            IpAddr::V6(v6) if v6.is_loopback() => Self::Host,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::Link,
            _ => Self::Universe,
        }
    }
}

/// Which of the kernel's tables a route is in, in the order in which they are consulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableId {
    /// The kernel's own: addresses of this host.
    Local,
    /// Where routes go.
    Main,
    /// The last resort, usually empty.
    Default,
}

impl TableId {
    const ALL: [Self; 3] = [Self::Local, Self::Main, Self::Default];
}

/// What the kernel does with a packet that matches a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwarded to a next hop or delivered on the link.
    Unicast,
    /// Addressed to this host.
    Local,
    /// Broadcast, multicast or anycast: no peer for TCP.
    NotUnicast,
    /// Silently dropped.
    Blackhole,
    /// Answered with host unreachable.
    Unreachable,
    /// Answered with administratively prohibited.
    Prohibit,
    /// As if this table had no match.
    Throw,
}

/// One way out of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The outgoing interface.
    pub ifindex: u32,
    /// The router, if the destination is not on the link itself. May be of the other family.
    pub gateway: Option<IpAddr>,
    /// Share of the flows, 1 or more.
    pub weight: u16,
    /// The kernel does not use it now.
    pub dead: bool,
}

/// What identifies a route among all others, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RouteKey {
    pub(super) table: TableId,
    pub(super) v6: bool,
    pub(super) prefix_len: Reverse<u8>,
    /// The prefix with its host bits cleared.
    pub(super) prefix: IpAddr,
    pub(super) tos: u8,
    /// The metric: the lowest wins.
    pub(super) priority: u32,
    /// For IPv6 routes without a gateway the interface, else 0: `fe80::/64` is there once per
    /// link, and all are alive.
    pub(super) device: u32,
}

/// What [`RouteKey::device`] is for a route with these next hops.
pub(super) fn device_of(v6: bool, hops: &[NextHop]) -> u32 {
    match hops {
        [
            NextHop {
                ifindex,
                gateway: None,
                ..
            },
        ] if v6 => *ifindex,
        _ => 0,
    }
}

/// The rest of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteEntry {
    pub(super) kind: RouteKind,
    pub(super) preferred_src: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) advmss: Option<u16>,
    pub(super) hops: Vec<NextHop>,
}

/// How to reach a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The outgoing interface.
    pub ifindex: u32,
    /// The router to hand the packet to; `None` if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address to use if the application did not choose one.
    pub preferred_src: Option<IpAddr>,
    /// The route's own MTU in bytes, if it has one; else the link's holds.
    pub mtu: Option<u32>,
    /// The MSS to announce on this route, if the administrator fixed one.
    pub advmss: Option<u16>,
    /// The destination is this host.
    pub local: bool,
}

/// Why there is no way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Nothing matches (`ENETUNREACH`).
    #[error("no route to the destination")]
    NoRoute,
    /// A blackhole route (`EINVAL`, as the kernel answers).
    #[error("the route discards packets")]
    Blackhole,
    /// An unreachable route (`EHOSTUNREACH`).
    #[error("the route says unreachable")]
    Unreachable,
    /// A prohibit route (`EACCES`).
    #[error("the route says prohibited")]
    Prohibited,
    /// Broadcast or multicast: nothing that TCP can talk to (`ENETUNREACH`).
    #[error("the destination is not a unicast address")]
    NotUnicast,
}

/// How much the kernel knows about a neighbour's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Confirmed recently.
    Reachable,
    /// Known, not confirmed recently.
    Stale,
    /// Used since, about to be probed.
    Delay,
    /// Being probed.
    Probe,
    /// Set by the administrator: never expires and is never probed.
    Permanent,
    /// The link needs no resolution.
    NoArp,
}

impl NeighbourState {
    /// Whether the kernel neither ages nor probes it, so that nobody must confirm it.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Permanent | Self::NoArp)
    }
}

/// What is known of a neighbour's link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Its address. The state is that of the time of the snapshot: moves between states that
    /// leave the address usable do not make a new snapshot.
    Known(Mac, NeighbourState),
    /// The kernel asked and got no answer.
    Failed,
    /// Never asked for, or the answer is still awaited.
    Unknown,
}

/// A neighbour as the mirror keeps it; no entry means [`Neighbour::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeighbourEntry(pub(super) Neighbour);

/// The routes and how many there are of each prefix length, longest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    pub(super) entries: BTreeMap<RouteKey, RouteEntry>,
    lengths: BTreeMap<(TableId, bool, Reverse<u8>), usize>,
}

impl Routes {
    pub(super) fn insert(&mut self, key: RouteKey, entry: RouteEntry) {
        if self.entries.insert(key, entry).is_none() {
            *self
                .lengths
                .entry((key.table, key.v6, key.prefix_len))
                .or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &RouteKey) {
        if self.entries.remove(key).is_some() {
            let slot = (key.table, key.v6, key.prefix_len);
            if let Some(count) = self.lengths.get_mut(&slot) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&slot);
                }
            }
        }
    }

    /// Entries of one table that cover `dst`, best first.
    fn matching(&self, table: TableId, dst: IpAddr) -> impl Iterator<Item = &RouteEntry> {
        let v6 = dst.is_ipv6();
        self.lengths
            .range((table, v6, Reverse(u8::MAX))..=(table, v6, Reverse(0)))
            .flat_map(move |(&(_, _, prefix_len), _)| {
                let key = |priority, device| RouteKey {
                    table,
                    v6,
                    prefix_len,
                    prefix: mask(dst, prefix_len.0),
                    // We send with a zero type of service, so other routes never match.
                    tos: 0,
                    priority,
                    device,
                };
                self.entries
                    .range(key(0, 0)..=key(u32::MAX, u32::MAX))
                    .map(|(_, entry)| entry)
            })
    }
}

/// An immutable picture of the control plane. Cheap to clone: its parts are shared.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub(super) links: Arc<BTreeMap<u32, Link>>,
    pub(super) addresses: Arc<Vec<Address>>,
    pub(super) routes: Arc<Routes>,
    pub(super) neighbours: Arc<HashMap<(u32, IpAddr), NeighbourEntry>>,
    /// Something did not fit in the bounds of `limits`.
    pub(super) truncated: bool,
    /// There are policy rules besides the kernel's three.
    pub(super) policy_rules: bool,
}

impl Tables {
    /// All addresses of this host, in the kernel's order per interface.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// All links, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        self.routes.entries.len()
    }

    /// How many neighbours there are, whatever their state.
    pub fn neighbour_count(&self) -> usize {
        self.neighbours.len()
    }

    /// Whether the kernel had more entries than [`crate::limits`] allows us to keep: then a
    /// look-up may miss what the kernel would find, and the kernel should do the work.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether there are policy rules (`ip rule`) besides the default ones. They are not
    /// evaluated here, so a route found here may not be the kernel's choice.
    pub fn has_policy_rules(&self) -> bool {
        self.policy_rules
    }

    /// Whether packets to `ip` are for this host.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.ip == ip)
            || matches!(
                self.routes.matching(TableId::Local, ip).next(),
                Some(RouteEntry {
                    kind: RouteKind::Local,
                    ..
                })
            )
    }

    /// The link of that index.
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// The link of that name.
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|l| l.name == name)
    }

    /// What is known of a neighbour.
    pub fn neighbour(&self, ifindex: u32, ip: IpAddr) -> Neighbour {
        self.neighbours
            .get(&(ifindex, ip))
            .map_or(Neighbour::Unknown, |n| n.0)
    }

    /// How to reach `dst`: longest prefix of the local table, else of the main one, else of the
    /// default one; the lowest metric among equals.
    ///
    /// # Errors
    /// [`RouteError`], with the errno that the kernel gives for it.
    pub fn route(&self, dst: IpAddr) -> Result<Route, RouteError> {
        self.route_on(dst, None)
    }

    /// As [`Tables::route`], through one interface only if `ifindex` says so (a bound socket, a
    /// link-local destination).
    ///
    /// # Errors
    /// [`RouteError`], with the errno that the kernel gives for it.
    pub fn route_on(&self, dst: IpAddr, ifindex: Option<u32>) -> Result<Route, RouteError> {
        if dst.is_multicast() {
            return Err(RouteError::NotUnicast);
        }
        for table in TableId::ALL {
            for entry in self.routes.matching(table, dst) {
                match entry.kind {
                    RouteKind::Throw => break,
                    RouteKind::Blackhole => return Err(RouteError::Blackhole),
                    RouteKind::Unreachable => return Err(RouteError::Unreachable),
                    RouteKind::Prohibit => return Err(RouteError::Prohibited),
                    RouteKind::NotUnicast => return Err(RouteError::NotUnicast),
                    RouteKind::Local => return Ok(self.resolved(dst, entry, None)),
                    RouteKind::Unicast => {}
                }
                if let Some(hop) = self.pick(dst, entry, ifindex) {
                    return Ok(self.resolved(dst, entry, Some(hop)));
                }
            }
        }
        Err(RouteError::NoRoute)
    }

    fn resolved(&self, dst: IpAddr, entry: &RouteEntry, hop: Option<NextHop>) -> Route {
        let local = entry.kind == RouteKind::Local;
        let hop = hop.or_else(|| entry.hops.first().copied());
        let ifindex = hop.map_or(0, |h| h.ifindex);
        let gateway = hop.and_then(|h| h.gateway);
        let preferred_src = if local {
            Some(dst)
        } else {
            entry
                .preferred_src
                .or_else(|| self.source_for(ifindex, gateway, dst))
        };
        Route {
            ifindex,
            gateway,
            preferred_src,
            mtu: entry.mtu,
            advmss: entry.advmss,
            local,
        }
    }

    /// One of a route's usable next hops; the same destination always gets the same one.
    fn pick(&self, dst: IpAddr, entry: &RouteEntry, ifindex: Option<u32>) -> Option<NextHop> {
        let usable = |with_carrier: bool| {
            entry.hops.iter().filter(move |hop| {
                let link = self.links.get(&hop.ifindex);
                !hop.dead
                    && ifindex.is_none_or(|i| i == hop.ifindex)
                    && link.is_none_or(|l| l.up && (l.carrier || !with_carrier))
            })
        };
        for with_carrier in [true, false] {
            let total: u64 = usable(with_carrier)
                .map(|h| u64::from(h.weight.max(1)))
                .sum();
            if total == 0 {
                continue;
            }
            let mut point = mix(dst) % total;
            for hop in usable(with_carrier) {
                let weight = u64::from(hop.weight.max(1));
                if point < weight {
                    return Some(*hop);
                }
                point -= weight;
            }
        }
        None
    }

    /// The best address of this host for packets that leave through `ifindex`.
    pub fn source_for(&self, ifindex: u32, gateway: Option<IpAddr>, dst: IpAddr) -> Option<IpAddr> {
        if dst.is_ipv6() {
            self.source_v6(ifindex, dst)
        } else {
            self.source_v4(ifindex, gateway, dst)
        }
    }

    /// As the kernel's `inet_select_addr`: an address whose network holds the next hop, else the
    /// interface's first primary one, else any of sufficient scope.
    fn source_v4(&self, ifindex: u32, gateway: Option<IpAddr>, dst: IpAddr) -> Option<IpAddr> {
        let scope = Scope::of(dst);
        let next_hop = gateway.filter(IpAddr::is_ipv4).unwrap_or(dst);
        let candidates = || {
            self.addresses
                .iter()
                .filter(move |a| a.ip.is_ipv4() && a.scope <= scope.max(Scope::Site))
        };
        let here = || candidates().filter(|a| a.ifindex == ifindex);
        here()
            .find(|a| !a.secondary && covers(a.network, a.prefix_len, next_hop))
            .or_else(|| here().find(|a| !a.secondary))
            .or_else(|| here().next())
            .or_else(|| {
                self.addresses
                    .iter()
                    .find(|a| a.ip.is_ipv4() && a.ifindex == ifindex)
            })
            .or_else(|| candidates().find(|a| !a.secondary))
            .map(|a| a.ip)
    }

    /// RFC 6724 §5 without labels and home addresses: rules 1, 2, 3, 5 and 8.
    fn source_v6(&self, ifindex: u32, dst: IpAddr) -> Option<IpAddr> {
        //= RFC 6724 §5
        //# "Rule 2: Prefer appropriate scope."
        //# "Rule 3: Avoid deprecated addresses."
        let scope = Scope::of(dst);
        let rank = |a: &&Address| {
            (
                a.ip != dst,
                // Wide enough for the destination, and no wider than needed.
                a.scope > scope,
                if a.scope > scope {
                    a.scope as u8
                } else {
                    scope as u8 - a.scope as u8
                },
                a.deprecated,
                a.ifindex != ifindex,
                Reverse(common_prefix_len(a.ip, dst)),
            )
        };
        self.addresses
            .iter()
            .filter(|a| a.ip.is_ipv6() && !a.tentative && a.scope != Scope::Host)
            // A link-local address means nothing on another link.
            .filter(|a| a.ifindex == ifindex || a.scope < Scope::Link)
            .min_by_key(rank)
            .map(|a| a.ip)
    }
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

/// `ip` with all but its first `prefix_len` bits cleared.
pub(super) fn mask(ip: IpAddr, prefix_len: u8) -> IpAddr {
    let (value, width) = bits(ip);
    let keep = u32::from(prefix_len.min(width));
    let kept = if keep == 0 {
        0
    } else {
        value & (u128::MAX << (128 - keep))
    };
    match ip {
        IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(kept.into()),
    }
}

pub(super) fn covers(network: IpAddr, prefix_len: u8, ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && mask(network, prefix_len) == mask(ip, prefix_len)
}

fn common_prefix_len(a: IpAddr, b: IpAddr) -> u32 {
    (bits(a).0 ^ bits(b).0).leading_zeros()
}

/// A well-spread hash of an address (the finaliser of MurmurHash3). It need not resist anyone:
/// a peer that chooses its own address only chooses its own path.
fn mix(ip: IpAddr) -> u64 {
    let value = bits(ip).0;
    let mut h = (value >> 64) as u64 ^ (value as u64).rotate_left(29);
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
