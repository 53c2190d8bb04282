//! Debian's own programs, unchanged, on luna: servers for kernel and luna clients, and clients of
//! kernel servers. One module for each family of programs; docs/APPS.md is the table.
//!
//! Every test asserts results, and that the bytes went through luna: the kernel's TCP counters of
//! the namespace stand still. The namespaces have no default route.

#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a helper that fails is the test failing, and tests go by the wall clock"
)]

#[path = "../common/mod.rs"]
mod common;

mod bed;
mod forking;
mod haproxy;
mod iperf;
mod java;
mod memcached;
mod nginx;
mod node;
mod redis;
mod stress;
mod tools;
