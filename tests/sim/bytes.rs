//! A payload over plain vectors.

use std::rc::Rc;

use luna::tcp::Payload;

/// A counted slice of a byte vector.
#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    whole: Rc<Vec<u8>>,
    start: usize,
    end: usize,
    /// How long the buffer may become.
    room: usize,
}

impl Bytes {
    /// The given bytes in a buffer of `room` bytes.
    pub(crate) fn with_room(bytes: Vec<u8>, room: usize) -> Self {
        let end = bytes.len();
        Self {
            whole: Rc::new(bytes),
            start: 0,
            end,
            room: room.max(end),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::with_room(bytes, 0)
    }
}

impl Payload for Bytes {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn split_to(&mut self, n: usize) -> Self {
        let head = self.sub(0, n);
        self.advance(n);
        head
    }

    fn truncate(&mut self, n: usize) {
        self.end = self.end.min(self.start + n);
    }

    fn advance(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
    }

    fn sub(&self, start: usize, end: usize) -> Self {
        let end = self.end.min(self.start + end);
        Self {
            start: end.min(self.start + start),
            end,
            ..self.clone()
        }
    }

    /// Copies the buffer if it is shared, so that, as with packet buffers, no other reference
    /// sees a change.
    fn append(&mut self, bytes: &[u8]) -> usize {
        if self.end != self.whole.len() {
            return 0;
        }
        let n = bytes.len().min(self.room.saturating_sub(self.end));
        Rc::make_mut(&mut self.whole).extend_from_slice(&bytes[..n]);
        self.end += n;
        n
    }

    fn as_bytes(&self) -> &[u8] {
        &self.whole[self.start..self.end]
    }
}
