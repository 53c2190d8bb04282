//! The shard: one stack instance bound to one device queue pair (LUNA §4.2 "share-nothing", §5).
//!
//! Owns the run-to-completion turn, the flow table, the timer wheel and the connections of its
//! queues. It is told the time, knows no descriptors, threads or locks.
//!
//! In: [`Shard::turn`] → `ingress` → `flow_table` → connection, `listeners` or `time_wait`.
//! Out: `streams` (what the layer above asks) → dirty list → `egress` → device.

mod api;
mod configs;
mod counters;
mod dispatch;
mod egress;
mod flow_table;
mod ingress;
#[cfg(test)]
mod inline_tests;
mod link;
mod listeners;
mod narrow;
mod parts;
mod paths;
mod payload;
mod pressure;
mod shard;
mod slab;
mod streams;
mod template;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testutil"))]
#[allow(
    clippy::expect_used,
    clippy::panic,
    reason = "for tests and benches only"
)]
pub mod testutil;
mod time_wait;
mod timer_wheel;
mod zero_copy;

pub use api::*;
pub use counters::{Counters, DROP_KINDS, Drop};
pub use dispatch::{App, Batch, Dispatch, Inline};
pub use shard::{Shard, ShardParts};
pub use zero_copy::{COMPLETIONS_MAX, Completion};
