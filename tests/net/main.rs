//! Two whole stacks on a bad link, on a virtual clock: how fast they recover from what a network
//! does to them, and whether a day of it leaves anything behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on fails"
)]

#[path = "../host/mod.rs"]
mod host;
mod recovery;
mod soak;
