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
pub const REASSEMBLY_RANGES_MAX: usize = 256;
/// Most ranges of the SACK scoreboard (SACK Slowness, CVE-2019-11478).
pub const SACK_RANGES_MAX: usize = 256;
/// Most runs of bytes in the network that a sender tells apart by time and fate: what a
/// duplicate ACK may cost to look at. What one turn sends is one run.
pub const OUTSTANDING_RUNS_MAX: usize = 1024;
// A SACKed run, and what lies before the next: sent again, lost, or neither.
const _: () = assert!(OUTSTANDING_RUNS_MAX >= 4 * SACK_RANGES_MAX);
/// Smallest MSS that we honour from a peer (SACK Panic, CVE-2019-11477; Linux's floor is 48).
pub const MSS_FLOOR_BYTES: u16 = 48;
/// Most pieces of payload in one segment.
pub const SEGMENT_PIECES_MAX: usize = 4;
/// Most messages of routers that wait for the shards.
pub const NOTICES_MAX: usize = 64;
/// Most peers of one shard that a router has said to be behind a narrow path.
pub const NARROW_PATHS_MAX: usize = 64;
/// Most links that the control plane's mirror keeps.
pub const LINKS_MAX: usize = 4096;
/// Most addresses of this host that the control plane's mirror keeps.
pub const ADDRESSES_MAX: usize = 4096;
/// Most routes that the control plane's mirror keeps; a host with more (a full BGP table) is a
/// router and leaves the work to its kernel.
pub const ROUTES_MAX: usize = 1 << 16;
/// Most neighbours that the control plane's mirror keeps, and that requests are paced for.
pub const NEIGHBOURS_MAX: usize = 1 << 16;
/// Most neighbours that we find ourselves, on a link that the kernel does not know.
pub const DISCOVERED_NEIGHBOURS_MAX: usize = 1024;

const _: () = assert!(SYN_QUEUE_MAX <= CONNECTIONS_PER_SHARD);
const _: () = assert!(ACCEPT_QUEUE_MAX <= CONNECTIONS_PER_SHARD);
/// Most frames of one shard that wait for a neighbour's hardware address.
pub const FRAMES_AWAITING_NEIGHBOUR_MAX: usize = 256;
/// Most frames of one shard that wait for room in the device's ring; connections are asked for
/// no more while there are as many.
pub const TX_QUEUE_FRAMES: usize = 256;
/// Most segments that one connection sends before the others have their turn.
pub const SEGMENTS_PER_VISIT: usize = 64;
/// Most records in TIME-WAIT of one shard.
pub const TIME_WAIT_MAX: usize = 1 << 18;
/// Most listeners of one shard.
pub const LISTENERS_MAX: usize = 1024;
/// Descriptor numbers below this can be ours (as many as `fs.nr_open` commonly allows); what
/// the kernel numbers higher stays on the kernel. The table for them is sparse.
pub const FD_TABLE_MAX: usize = 1 << 30;
/// Entries of one leaf of the descriptor table (8 KiB).
pub const FD_LEAF_ENTRIES: usize = 1024;
/// Most open file descriptions of ours in one process.
pub const DESCRIPTIONS_MAX: usize = 1 << 22;
/// Descriptions that are allocated together.
pub const DESCRIPTION_CHUNK_ENTRIES: usize = 256;
/// Most shards of one process.
pub const SHARDS_MAX: usize = 256;

const _: () = assert!(FD_TABLE_MAX.is_multiple_of(FD_LEAF_ENTRIES));
const _: () = assert!(DESCRIPTIONS_MAX.is_multiple_of(DESCRIPTION_CHUNK_ENTRIES));
// A connection's name is packed into 64 bits: 8 of shard, 24 of index, 32 of generation.
const _: () = assert!(SHARDS_MAX <= 1 << 8 && CONNECTIONS_PER_SHARD <= 1 << 24);
