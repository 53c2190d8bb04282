//! luna: a run-to-completion user-space TCP stack for Linux (LUNA, USENIX ATC '23).
//!
//! The modules, bottom to top (a module uses only those above it in this list):
//!
//! | module | owns |
//! |---|---|
//! | [`time`], [`limits`], [`stats`], [`logging`] | vocabulary: instants, bounds, counters, lines |
//! | [`sys`] | raw system calls that no preload library can intercept |
//! | [`wire`] | bytes to headers and back |
//! | [`zbuf`] | the slab of reference-counted objects that every payload byte lives in |
//! | [`tcp`] | the protocol, sans-IO |
//! | [`device`] | links: AF_XDP, and in-memory ones for tests |
//! | [`traffic`] | which ports are ours and how their packets reach us |
//! | [`control`] | addresses, routes, neighbours, MTU as the kernel sees them |
//! | [`stack`] | the shard: the run-to-completion loop, ingress, egress, flows, timers |
//! | [`socket`] | BSD semantics: descriptors, streams, listeners, options, epoll |
//! | [`capi`] | the exported C functions |
//!
//! A packet in: `device.rx_burst` → `stack::shard::turn` → `wire` → `stack::flow_table` →
//! `tcp::connection::on_segment` → events → `socket` → `capi`. Out: `capi` → `socket` →
//! `tcp::sender` → `stack::egress` → `tcp::connection::poll_transmit` → `device.tx_burst`.

pub mod capi;
pub mod config;
pub mod control;
pub mod device;
pub mod limits;
pub mod logging;
pub mod socket;
pub mod stack;
pub mod stats;
pub mod sys;
pub mod tcp;
pub mod time;
pub mod traffic;
pub mod wire;
pub mod zbuf;
