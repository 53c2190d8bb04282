//! The slow part of a socket's state.
#![forbid(unsafe_code)]

/// What only slow calls look at.
#[derive(Debug, Default)]
pub struct SocketCell {}
