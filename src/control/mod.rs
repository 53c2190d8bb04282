//! Addresses, routes, neighbours, links and MTU as the kernel sees them (LUNA §7.3).
//!
//! The kernel stays in charge of the control plane: it answers ARP and neighbour discovery, runs
//! routing daemons and DHCP, and we follow. [`Mirror`] turns its rtnetlink messages into
//! immutable [`Tables`]; shards share a [`ControlHandle`] and notice a change by one load of its
//! generation. The kernel never sees our traffic, so two things that it does by itself for its
//! own must be asked for: to resolve a neighbour that we need
//! ([`ControlHandle::request_resolve`]), and to believe that one we hear from is alive
//! ([`ControlHandle::request_confirm`]).
//!
//! A link without a kernel twin has [`Discovery`] instead: it finds neighbours itself.
//!
//! Not mirrored: policy rules (only that there are some, [`Tables::has_policy_rules`]), other
//! tables than local, main and default, VRFs, source-specific routes, cached path MTUs
//! ([`Mirror::query_path_mtu`] asks for one; those of our own connections come from
//! [`IcmpListener`]). Knows nothing of connections or shards.
#![forbid(unsafe_code)]

mod asker;
mod builder;
mod discovery;
mod handle;
mod icmp;
mod message;
mod mirror;
mod notices;
mod state;
mod tables;

pub use builder::TablesBuilder;
pub use discovery::{Discovery, DiscoveryFrame};
pub use handle::{CONFIRM_INTERVAL, ControlHandle, RESOLVE_INTERVAL};
pub use icmp::{IcmpListener, PATH_MTU_MIN_V4, PATH_MTU_MIN_V6, TooBig};
pub use mirror::{Change, Mirror, OpenError};
pub use notices::Notices;
pub use state::MirrorStats;
pub use tables::{
    Address, Link, Neighbour, NeighbourState, NextHop, Route, RouteError, RouteKind, Scope,
    TableId, Tables, Vlan,
};

/// Feeds arbitrary bytes to the decoder and the tables as if the kernel had sent them; returns
/// how many messages they held. For fuzzing: nothing that the bytes say may make it panic.
#[doc(hidden)]
pub fn fuzz_netlink(datagram: &[u8]) -> usize {
    let mut state = state::State::default();
    let mut messages = 0;
    for in_dump in [true, false] {
        if in_dump {
            state.begin_dump(message::DumpKind::Routes);
        }
        message::decode(datagram, |message| {
            messages += 1;
            state.apply(message.update, in_dump);
        });
        state.end_dump(true);
    }
    let _ = message::route_reply_mtu(datagram, 0);
    icmp::fuzz(datagram);
    let addresses: Vec<_> = state.tables.addresses().iter().map(|a| a.ip).collect();
    for ip in addresses {
        let _ = state.tables.route(ip);
        let _ = state.tables.source_for(1, None, ip);
    }
    messages
}
