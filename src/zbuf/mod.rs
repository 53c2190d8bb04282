//! The slab of reference-counted objects that every payload byte lives in (LUNA §6.1).

/// A shard's share of the slab.
#[derive(Debug)]
pub struct Pool;
/// A counted reference to part of an object.
#[derive(Debug)]
pub struct Slice;
