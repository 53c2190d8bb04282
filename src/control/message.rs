//! Rtnetlink messages to table entries and requests to bytes.
//!
//! Pure: takes and gives bytes, so that it can be fuzzed. Attributes are decoded one by one and
//! one that does not make sense is skipped, because a newer kernel may extend any of them; a
//! message without what identifies its object is [`Update::Malformed`].
#![forbid(unsafe_code)]

use core::cmp::Reverse;
use core::net::IpAddr;

use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::address::{AddressHeader, AddressHeaderFlags};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage,
    NeighbourState as WireState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::tables::{
    Address, Link, Neighbour, NeighbourEntry, NeighbourState, NextHop, RouteEntry, RouteKey,
    RouteKind, Scope, TableId, Vlan, device_of, mask,
};
use crate::wire::Mac;

// From <linux/rtnetlink.h>, <linux/if_link.h> and <linux/fib_rules.h>; `libc` lacks them.
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const IFLA_VLAN_ID: u16 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;

/// What one message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Update {
    Link(Link),
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    /// The last field: it takes the place of one with the same key.
    Route(RouteKey, RouteEntry, bool),
    RouteGone(RouteKey, RouteEntry),
    Neighbour((u32, IpAddr), NeighbourEntry),
    NeighbourGone((u32, IpAddr)),
    /// A policy rule other than the kernel's three appeared or, in a dump, is there.
    Rule,
    /// Some policy rule went away.
    RuleGone,
    /// The end of a dump, or an error instead of it (a positive errno).
    Done(i32),
    /// Nothing that we keep.
    Ignored,
    Malformed,
}

/// A message and what its header says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sequence: u32,
    pub(super) port: u32,
    /// The table changed while it was being dumped.
    pub(super) interrupted: bool,
    pub(super) update: Update,
}

/// Decodes all messages of one datagram.
pub(super) fn decode(datagram: &[u8], mut each: impl FnMut(Message)) {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(buffer) = NetlinkBuffer::new_checked(rest) else {
            each(Message {
                sequence: 0,
                port: 0,
                interrupted: false,
                update: Update::Malformed,
            });
            return;
        };
        let length = buffer.length() as usize;
        let payload = rest.get(16..length).unwrap_or_default();
        let flags = buffer.flags();
        each(Message {
            sequence: buffer.sequence_number(),
            port: buffer.port_number(),
            interrupted: flags & NLM_F_DUMP_INTR != 0,
            update: decode_one(buffer.message_type(), flags, payload).unwrap_or(Update::Malformed),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn decode_one(message_type: u16, flags: u16, payload: &[u8]) -> Option<Update> {
    match i32::from(message_type) {
        libc::NLMSG_NOOP => Some(Update::Ignored),
        // An empty NLMSG_DONE is allowed and means success; ours to receive are never positive.
        libc::NLMSG_DONE => Some(Update::Done(
            read_u32(payload).map_or(0, |v| (v as i32).wrapping_neg()),
        )),
        libc::NLMSG_ERROR => Some(Update::Done((read_u32(payload)? as i32).wrapping_neg())),
        _ => match message_type {
            libc::RTM_NEWLINK => link(payload).map(Update::Link),
            libc::RTM_DELLINK => {
                let header = LinkHeader::parse(payload).ok()?;
                // A bridge port that leaves its bridge is not a link that goes away.
                let bridge = header.interface_family == AddressFamily::Bridge;
                Some(if bridge {
                    Update::Ignored
                } else {
                    Update::LinkGone(header.index)
                })
            }
            libc::RTM_NEWADDR => address(payload).map(Update::Address),
            libc::RTM_DELADDR => address(payload).map(Update::AddressGone),
            libc::RTM_NEWROUTE => {
                let replaces = flags & NLM_F_REPLACE != 0;
                route(payload)
                    .map(|r| r.map_or(Update::Ignored, |(k, e)| Update::Route(k, e, replaces)))
            }
            libc::RTM_DELROUTE => {
                route(payload).map(|r| r.map_or(Update::Ignored, |(k, e)| Update::RouteGone(k, e)))
            }
            libc::RTM_NEWNEIGH => neighbour(payload)
                .map(|n| n.map_or(Update::Ignored, |(k, e)| Update::Neighbour(k, e))),
            libc::RTM_DELNEIGH => neighbour(payload)
                .map(|n| n.map_or(Update::Ignored, |(k, _)| Update::NeighbourGone(k))),
            libc::RTM_NEWRULE => rule(payload),
            libc::RTM_DELRULE => Some(Update::RuleGone),
            _ => Some(Update::Ignored),
        },
    }
}

/// Calls `each` with the type and value of every well-formed attribute up to the first that is
/// not: after that one, where the next begins is a guess.
fn attributes(bytes: &[u8], mut each: impl FnMut(u16, &[u8])) {
    for attribute in NlasIterator::new(bytes).map_while(|a: Result<_, _>| a.ok()) {
        each(attribute.kind(), attribute.value());
    }
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn read_ip(family: AddressFamily, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        AddressFamily::Inet6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn read_string(bytes: &[u8]) -> String {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    let mut out = Link {
        index: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        loopback: header.flags.contains(LinkFlags::Loopback),
        kind: String::new(),
        vlan: None,
    };
    let mut parent = None;
    let mut vlan_id = None;
    attributes(payload.get(16..)?, |kind, value| match kind {
        libc::IFLA_IFNAME => out.name = read_string(value),
        libc::IFLA_ADDRESS => out.mac = <[u8; 6]>::try_from(value).ok().map(Mac),
        libc::IFLA_MTU => out.mtu = read_u32(value).unwrap_or(0),
        libc::IFLA_LINK => parent = read_u32(value),
        libc::IFLA_LINKINFO => attributes(value, |kind, value| match kind {
            libc::IFLA_INFO_KIND => out.kind = read_string(value),
            libc::IFLA_INFO_DATA => attributes(value, |kind, value| {
                // Other kinds use the number for other things: see below.
                if let (IFLA_VLAN_ID, Some(id)) = (kind, value.first_chunk()) {
                    vlan_id = Some(u16::from_ne_bytes(*id));
                }
            }),
            _ => {}
        }),
        _ => {}
    });
    if let ("vlan", Some(parent), Some(id)) = (out.kind.as_str(), parent, vlan_id) {
        out.vlan = Some(Vlan { parent, id });
    }
    // Bridge notifications share the message type but carry only bridge attributes.
    (out.index != 0 && header.interface_family != AddressFamily::Bridge).then_some(out)
}

fn address(payload: &[u8]) -> Option<Address> {
    let header = AddressHeader::parse(payload).ok()?;
    let (mut local, mut network) = (None, None);
    let mut flags = u32::from(header.flags.bits());
    attributes(payload.get(8..)?, |kind, value| match kind {
        libc::IFA_LOCAL => local = read_ip(header.family, value),
        libc::IFA_ADDRESS => network = read_ip(header.family, value),
        libc::IFA_FLAGS => flags = read_u32(value).unwrap_or(flags),
        _ => {}
    });
    let has = |flag: AddressHeaderFlags| flags & u32::from(flag.bits()) != 0;
    let network = network.or(local)?;
    // Optimistic addresses are usable while they are still tentative (RFC 4429 §3.1).
    let tentative = has(AddressHeaderFlags::Tentative) && !has(AddressHeaderFlags::Optimistic);
    Some(Address {
        ifindex: header.index,
        ip: local.unwrap_or(network),
        network,
        prefix_len: header.prefix_len,
        scope: scope(u8::from(header.scope)),
        secondary: has(AddressHeaderFlags::Secondary),
        tentative: tentative || has(AddressHeaderFlags::Dadfailed),
        deprecated: has(AddressHeaderFlags::Deprecated),
    })
}

fn scope(raw: u8) -> Scope {
    match raw {
        0..200 => Scope::Universe,
        200..253 => Scope::Site,
        253 => Scope::Link,
        _ => Scope::Host,
    }
}

/// `Some(None)`: well-formed, but nothing that we keep.
fn route(payload: &[u8]) -> Option<Option<(RouteKey, RouteEntry)>> {
    let header = RouteHeader::parse(payload).ok()?;
    let family = header.address_family;
    let unspecified = match family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return Some(None),
    };
    let mut table = u32::from(header.table);
    let mut destination = unspecified;
    let mut priority = 0;
    let mut single = NextHop {
        ifindex: 0,
        gateway: None,
        weight: 1,
        dead: false,
    };
    single.dead = header.flags.contains(RouteFlags::Dead);
    let mut entry = RouteEntry {
        kind: route_kind(header.kind),
        preferred_src: None,
        mtu: None,
        advmss: None,
        hops: Vec::new(),
    };
    attributes(payload.get(12..)?, |kind, value| match kind {
        libc::RTA_TABLE => table = read_u32(value).unwrap_or(table),
        libc::RTA_DST => destination = read_ip(family, value).unwrap_or(destination),
        libc::RTA_PRIORITY => priority = read_u32(value).unwrap_or(0),
        libc::RTA_PREFSRC => entry.preferred_src = read_ip(family, value),
        libc::RTA_OIF => single.ifindex = read_u32(value).unwrap_or(0),
        libc::RTA_GATEWAY => single.gateway = read_ip(family, value),
        RTA_VIA => single.gateway = read_via(value),
        libc::RTA_MULTIPATH => entry.hops = multipath(family, value),
        libc::RTA_METRICS => metrics(value, &mut entry),
        _ => {}
    });
    if entry.hops.is_empty() && single.ifindex != 0 {
        entry.hops.push(single);
    }
    let table = match table {
        255 => TableId::Local,
        254 => TableId::Main,
        253 => TableId::Default,
        _ => return Some(None),
    };
    // Cached clones are not routes, and source-specific ones need a source to match against.
    if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length != 0 {
        return Some(None);
    }
    let key = RouteKey {
        table,
        v6: family == AddressFamily::Inet6,
        prefix_len: Reverse(header.destination_prefix_length),
        prefix: mask(destination, header.destination_prefix_length),
        tos: header.tos,
        priority,
        device: device_of(family == AddressFamily::Inet6, &entry.hops),
    };
    Some(Some((key, entry)))
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::NotUnicast,
    }
}

fn read_via(value: &[u8]) -> Option<IpAddr> {
    let (family, address) = value.split_at_checked(2)?;
    let family = u16::from_ne_bytes(*family.first_chunk()?);
    read_ip(AddressFamily::from(u8::try_from(family).ok()?), address)
}

fn metrics(value: &[u8], entry: &mut RouteEntry) {
    attributes(value, |kind, value| match kind {
        RTAX_MTU => entry.mtu = read_u32(value).filter(|mtu| *mtu != 0),
        RTAX_ADVMSS => {
            entry.advmss = read_u32(value)
                .and_then(|v| u16::try_from(v).ok())
                .filter(|v| *v != 0);
        }
        _ => {}
    });
}

/// `struct rtnexthop`s: length, flags, hops, interface, attributes (rtnetlink(7)).
fn multipath(family: AddressFamily, value: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    let mut rest = value;
    while let Some(&[l0, l1, flags, weight, i0, i1, i2, i3]) = rest.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(inner) = rest.get(8..length) else {
            break;
        };
        let flags = RouteNextHopFlags::from_bits_retain(flags);
        let mut hop = NextHop {
            ifindex: u32::from_ne_bytes([i0, i1, i2, i3]),
            gateway: None,
            // The wire holds the weight less one.
            weight: u16::from(weight) + 1,
            dead: flags.contains(RouteNextHopFlags::Dead),
        };
        attributes(inner, |kind, value| match kind {
            libc::RTA_GATEWAY => hop.gateway = read_ip(family, value),
            RTA_VIA => hop.gateway = read_via(value),
            _ => {}
        });
        hops.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// `Some(None)`: well-formed, but nothing that we keep.
fn neighbour(payload: &[u8]) -> Option<Option<((u32, IpAddr), NeighbourEntry)>> {
    let header = NeighbourHeader::parse(payload).ok()?;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return Some(None);
    }
    let (mut ip, mut mac) = (None, None);
    attributes(payload.get(12..)?, |kind, value| match kind {
        libc::NDA_DST => ip = read_ip(header.family, value),
        libc::NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok().map(Mac),
        _ => {}
    });
    let state = match header.state {
        WireState::Reachable => Some(NeighbourState::Reachable),
        WireState::Stale => Some(NeighbourState::Stale),
        WireState::Delay => Some(NeighbourState::Delay),
        WireState::Probe => Some(NeighbourState::Probe),
        WireState::Permanent => Some(NeighbourState::Permanent),
        WireState::Noarp => Some(NeighbourState::NoArp),
        _ => None,
    };
    let known = match (mac, state, header.state) {
        (Some(mac), Some(state), _) => Neighbour::Known(mac, state),
        (_, _, WireState::Failed) => Neighbour::Failed,
        _ => Neighbour::Unknown,
    };
    Some(Some(((header.ifindex, ip?), NeighbourEntry(known))))
}

/// Tells the three rules that every kernel starts with from those an administrator adds.
fn rule(payload: &[u8]) -> Option<Update> {
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags.
    let &[
        family,
        dst_len,
        src_len,
        tos,
        header_table,
        _,
        _,
        action,
        ..,
    ] = payload.first_chunk::<12>()?;
    if !matches!(
        AddressFamily::from(family),
        AddressFamily::Inet | AddressFamily::Inet6
    ) {
        return Some(Update::Ignored);
    }
    let mut table = u32::from(header_table);
    let mut plain = (dst_len, src_len, tos, action) == (0, 0, 0, 1);
    attributes(payload.get(12..)?, |kind, value| match kind {
        FRA_TABLE => table = read_u32(value).unwrap_or(table),
        FRA_PRIORITY | FRA_PROTOCOL => {}
        // Always there, -1 unless it is used.
        FRA_SUPPRESS_PREFIXLEN => plain &= read_u32(value) == Some(u32::MAX),
        // Any selector.
        _ => plain = false,
    });
    Some(if plain && (253..=255).contains(&table) {
        Update::Ignored
    } else {
        Update::Rule
    })
}

fn emit(flags: u16, sequence: u32, message: RouteNetlinkMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What can be dumped, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DumpKind {
    Links,
    Addresses,
    Routes,
    Neighbours,
    Rules,
}

impl DumpKind {
    pub(super) const ALL: [Self; 5] = [
        Self::Links,
        Self::Addresses,
        Self::Routes,
        Self::Neighbours,
        Self::Rules,
    ];
}

/// A request for all entries of a table, of both families.
pub(super) fn dump_request(kind: DumpKind, sequence: u32) -> Vec<u8> {
    let message = match kind {
        DumpKind::Links => RouteNetlinkMessage::GetLink(Default::default()),
        DumpKind::Addresses => RouteNetlinkMessage::GetAddress(Default::default()),
        DumpKind::Routes => RouteNetlinkMessage::GetRoute(Default::default()),
        DumpKind::Neighbours => RouteNetlinkMessage::GetNeighbour(Default::default()),
        DumpKind::Rules => RouteNetlinkMessage::GetRule(Default::default()),
    };
    emit(NLM_F_DUMP, sequence, message)
}

/// Asks the kernel to resolve `ip` as if it had a packet for it.
pub(super) fn resolve_request(ifindex: u32, ip: IpAddr, sequence: u32) -> Vec<u8> {
    let mut message = neighbour_message(ifindex, ip);
    message.header.flags = NeighbourFlags::Use;
    emit(
        NLM_F_CREATE,
        sequence,
        RouteNetlinkMessage::NewNeighbour(message),
    )
}

/// Tells the kernel that a neighbour which it knows has just been heard. Without a link-layer
/// address the kernel keeps the one that it has, and refuses if it has none.
pub(super) fn confirm_request(ifindex: u32, ip: IpAddr, sequence: u32) -> Vec<u8> {
    let mut message = neighbour_message(ifindex, ip);
    message.header.state = WireState::Reachable;
    emit(0, sequence, RouteNetlinkMessage::NewNeighbour(message))
}

/// Asks the kernel to ask a neighbour that it knows whether it is still there, at once.
pub(super) fn probe_request(ifindex: u32, ip: IpAddr, sequence: u32) -> Vec<u8> {
    let mut message = neighbour_message(ifindex, ip);
    message.header.state = WireState::Probe;
    emit(0, sequence, RouteNetlinkMessage::NewNeighbour(message))
}

fn neighbour_message(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(ip);
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(ip.into()));
    message
}

/// Asks for the route that the kernel would take to `dst`, with what it learned about its path.
pub(super) fn route_request(dst: IpAddr, sequence: u32) -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(dst);
    message.header.destination_prefix_length = if dst.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(dst.into()));
    emit(0, sequence, RouteNetlinkMessage::GetRoute(message))
}

/// The MTU in bytes that an answer to [`route_request`] carries; `None` if it has none.
pub(super) fn route_reply_mtu(datagram: &[u8], sequence: u32) -> Option<u32> {
    let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
    if buffer.sequence_number() != sequence || buffer.message_type() != libc::RTM_NEWROUTE {
        return None;
    }
    let mut entry = RouteEntry {
        kind: RouteKind::Unicast,
        preferred_src: None,
        mtu: None,
        advmss: None,
        hops: Vec::new(),
    };
    let payload = datagram.get(16 + 12..buffer.length() as usize)?;
    attributes(payload, |kind, value| {
        if kind == libc::RTA_METRICS {
            metrics(value, &mut entry);
        }
    });
    entry.mtu
}

fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

#[cfg(test)]
mod tests;
