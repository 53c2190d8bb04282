//! Which ports are ours, and how their packets reach us (LUNA §7).
//!
//! | module | owns |
//! |---|---|
//! | [`port_range`] | port lists and connect rules as people write them |
//! | [`lease`] | which process uses which client ports and receive queues |
//! | [`reserve`] | keeping the kernel from handing them out |
//! | [`steering`] | the plan of rules for a NIC (pure) |
//! | `xdp` | the XDP program that steers to AF_XDP sockets (feature `xdp`) |
//!
//! Knows nothing of frames, connections or sockets of the application.
#![forbid(unsafe_code)]

mod kernel_connections;
pub mod lease;
pub mod port_range;
pub mod reserve;
pub mod steering;
#[cfg(feature = "xdp")]
pub mod xdp;

pub use kernel_connections::{kernel_has_connections, kernel_uses};
pub use lease::{Lease, LeaseError, QueueLease};
pub use port_range::{ConnectRules, ParseRangeError, PortBlock, PortSet};
