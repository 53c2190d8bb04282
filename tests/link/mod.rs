//! What several integration tests share.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken assumption of a test is best reported where it shows"
)]

pub(crate) mod frames;
pub(crate) mod netns;
