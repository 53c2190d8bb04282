//! The slab of reference-counted objects that every payload byte lives in (LUNA §6.1).
//!
//! | type | is |
//! |---|---|
//! | [`Area`] | the process's contiguous range of 2 MiB zones, on hugepages where possible |
//! | [`Pool`] | one shard's contiguous share of the area, cut into objects of four sizes |
//! | [`Slice`] | a counted reference to some bytes of one object |
//! | [`ShardCell`] | the lock that keeps a shard's slices and their plain counts to one thread |
//!
//! This module knows nothing of packets, connections or devices. It knows that somebody outside
//! the process (a kernel, a NIC) reads and writes objects by their offset in the pool's memory.
//!
//! # Who may touch what
//!
//! 1. *Reference counts are plain.* Whatever changes them ([`Slice`], [`Pool`]) is `!Send` and
//!    lives behind the shard's lock.
//! 2. *A slice lies within `data_start..used_end` of its object.* Bytes in front of `data_start`
//!    (headroom) and from `used_end` on are covered by no slice, so that writing there
//!    ([`Slice::write_headroom`], [`Slice::append`]) changes nothing that anybody could be reading.
//! 3. *Bytes in a slice change only while its reference is the object's only one*
//!    ([`Slice::bytes_mut`]): a reply written over a request that is still in a retransmission
//!    queue would be sent in its place (the rule that LUNA §6.2 leaves to the application).
//! 4. *The link holds references like everybody else*: one per descriptor in flight, so that an
//!    object is free when it is acknowledged **and** the link has finished reading it.
//! 5. *All references that an application holds on one object count as one plain reference.* Their
//!    number is an atomic of its own, which any thread may decrease through [`Area::free_ptr`];
//!    when it reaches zero, the object goes to a lock-free list that the pool's owner drains.
//!
//! # Fork
//!
//! Redis forks to save while it serves. With ordinary private memory, the parent's next write to
//! an object would be to a fresh copy (copy on write) while the link goes on reading and writing
//! the page that it has pinned. With `MAP_SHARED` memory there is no copy, but a stray drop in the
//! child then changes the parent's counts: silent corruption; also shared anonymous memory gets
//! transparent hugepages only if `shmem_enabled` says so, which it does not by default. So the
//! area is private memory that is not inherited: `MADV_WIPEONFORK`, under which the parent keeps
//! its pages as they are and the child reads zeroes. A slice that a child drops finds a count of
//! zero, which means "leave alone". Hugetlb memory knows only `MADV_DONTFORK`: there, a child must
//! call [`Area::restore_after_fork`] before it touches a slice, or never touch one. Either way
//! fork is faster, too: there are no page tables to copy for the area.

mod area;
mod backing;
mod cell;
mod layout;
mod pool;
mod slice;
#[cfg(test)]
mod tests;
mod zone;

pub use area::{Area, AreaError, FreeError, Misuse};
pub use backing::Backing;
pub use cell::{ShardCell, ShardError};
pub use layout::{CLASSES, OBJECT_BYTES, OBJECT_BYTES_MAX, ZONE_BYTES, class_for};
pub use pool::{ClassStats, Pool, PoolConfig, PoolError};
pub use slice::{Chunks, Loan, Slice};
pub use zone::Returned;
