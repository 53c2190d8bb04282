//! What the end-to-end tests share: namespaces, processes, requirements and measurements.
//!
//! Knows the command line of `luna` and of the programs under test, and nothing of the stack's
//! insides. Everything it creates (namespaces, links, processes) is removed when its value is
//! dropped, panics included.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary compiles this module and uses its own part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is the test failing"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "deadlines of tests are wall-clock deadlines"
)]

#[cfg(feature = "cli")]
pub mod link;
#[cfg(feature = "cli")]
pub mod luna;
pub mod measure;
pub mod netns;
pub mod proc;
#[cfg(feature = "cli")]
pub mod redis;
pub mod require;
#[cfg(feature = "cli")]
pub mod stream;
pub mod transcript;
