//! Every compile-time bound of the stack, in one place, with the relations between them asserted.
#![forbid(unsafe_code)]

/// Most frames one turn takes from a device ("a batch is a maximum, never a wait").
pub const RX_BURST_FRAMES: usize = 64;
/// Most connections of one shard.
pub const CONNECTIONS_PER_SHARD: usize = 1 << 20;
/// Most half-open connections of one listener.
pub const SYN_QUEUE_MAX: usize = 1024;
/// Most connections that wait to be accepted on one listener (the kernel's `somaxconn`).
pub const ACCEPT_QUEUE_MAX: usize = 4096;
/// Most out-of-order ranges that one connection holds (SegmentSmack, CVE-2018-5390).
pub const REASSEMBLY_RANGES_MAX: usize = 64;
/// Most ranges of the SACK scoreboard (SACK Slowness, CVE-2019-11478).
pub const SACK_RANGES_MAX: usize = 64;
/// Smallest MSS that we honour from a peer (SACK Panic, CVE-2019-11477; Linux's floor is 48).
pub const MSS_FLOOR_BYTES: u16 = 48;
/// Most pieces of payload in one segment.
pub const SEGMENT_PIECES_MAX: usize = 8;
/// Most links that the control plane's mirror keeps.
pub const LINKS_MAX: usize = 4096;
/// Most addresses of this host that the control plane's mirror keeps.
pub const ADDRESSES_MAX: usize = 4096;
/// Most routes that the control plane's mirror keeps; a host with more (a full BGP table) is a
/// router and leaves the work to its kernel.
pub const ROUTES_MAX: usize = 1 << 16;
/// Most neighbours that the control plane's mirror keeps, and that requests are paced for.
pub const NEIGHBOURS_MAX: usize = 1 << 16;

const _: () = assert!(SYN_QUEUE_MAX <= CONNECTIONS_PER_SHARD);
const _: () = assert!(ACCEPT_QUEUE_MAX <= CONNECTIONS_PER_SHARD);
