//! The shard: one stack instance bound to one device queue pair (LUNA §4.2 "share-nothing", §5).
//!
//! Owns the run-to-completion turn, the flow table, the timer wheel and the connections of its
//! queues. It is told the time, knows no descriptors, threads or locks.

mod api;
mod shard;

pub use api::*;
pub use shard::Shard;
