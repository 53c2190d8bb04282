//! BSD semantics on top of the stack: descriptors, open file descriptions, listeners, streams,
//! options, readiness.
//!
//! Owns which descriptor numbers are ours and what they mean. Knows nothing of packets; asks
//! the shards through [`runtime`].

pub mod cell;
pub mod close;
pub mod description;
pub mod epoll;
pub mod poll;
pub mod reason;
pub mod runtime;

pub mod table;
