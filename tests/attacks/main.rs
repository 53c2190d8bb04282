//! What attackers do to TCP stacks, class by class, against a whole shard: the required behaviour,
//! and a bound on memory, allocations and packets for each packet of the attack.
//!
//! The bounds are counted, not timed: sizes of tables, objects of packet memory, allocations
//! (`counting.rs`), frames sent.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on fails"
)]

mod blind;
mod counting;
mod floods;
#[path = "../host/mod.rs"]
mod host;
mod malformed;
mod peer;
mod predict;
mod receivers;
mod reordering;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
