//! What the protocol needs to know of payload bytes: that they can be counted, cut and shared.
//!
//! The protocol never looks at payload bytes, so the storage is a type parameter. Production
//! uses a counted slice of a packet buffer; tests use plain vectors. This module must not know
//! which.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use crate::limits::SEGMENT_PIECES_MAX;

/// A list of payloads that together are one segment's data.
pub type Pieces<P> = ArrayVec<P, SEGMENT_PIECES_MAX>;

/// A counted reference to a run of payload bytes.
///
/// Clones share the bytes: a clone costs a reference count, not a copy. No method panics; a
/// bound beyond the end stands for the end.
pub trait Payload: Clone {
    /// Bytes referred to.
    fn len(&self) -> usize;
    /// Whether it refers to nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Cuts the first `n` bytes off and returns them.
    #[must_use]
    fn split_to(&mut self, n: usize) -> Self;
    /// Keeps only the first `n` bytes.
    fn truncate(&mut self, n: usize);
    /// Drops the first `n` bytes.
    fn advance(&mut self, n: usize);
    /// A further reference to the bytes `[start, end)`.
    #[must_use]
    fn sub(&self, start: usize, end: usize) -> Self;
    /// Copies as many of `bytes` as fit behind this run, and returns how many. Never touches
    /// bytes that another reference covers.
    fn append(&mut self, bytes: &[u8]) -> usize;
    /// The bytes.
    fn as_bytes(&self) -> &[u8];
}
