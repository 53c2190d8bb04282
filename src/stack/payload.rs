//! What the protocol needs of payload, given by the slab. Here, because neither knows the other.
#![forbid(unsafe_code)]

use crate::tcp::Payload;
use crate::zbuf::Slice;

impl Payload for Slice {
    #[inline]
    fn len(&self) -> usize {
        Self::len(self)
    }
    #[inline]
    fn split_to(&mut self, n: usize) -> Self {
        Self::split_to(self, n)
    }
    #[inline]
    fn truncate(&mut self, n: usize) {
        Self::truncate(self, n);
    }
    #[inline]
    fn advance(&mut self, n: usize) {
        Self::advance(self, n);
    }
    #[inline]
    fn sub(&self, start: usize, end: usize) -> Self {
        Self::sub(self, start, end)
    }
    #[inline]
    fn append(&mut self, bytes: &[u8]) -> usize {
        Self::append(self, bytes)
    }
    #[inline]
    fn as_bytes(&self) -> &[u8] {
        Self::as_bytes(self)
    }
}
