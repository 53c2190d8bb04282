//! The bytes that the application wrote and the peer has not acknowledged, sent or not.
//!
//! Pieces keep their identity from the application to the wire, so a retransmission refers to
//! the very bytes of the first transmission. Knows nothing of windows or timers.
#![forbid(unsafe_code)]

use super::fifo::Fifo;
use super::payload::{Payload, Pieces};
use crate::wire::SeqNum;

/// Fewer pieces than this are searched one by one.
const FEW_PIECES: usize = 6;

/// A queue of payload with the sequence number of each piece.
#[derive(Clone, Debug)]
pub(crate) struct SendQueue<P> {
    start: SeqNum,
    end: SeqNum,
    pieces: Fifo<Piece<P>>,
}

#[derive(Clone, Debug)]
struct Piece<P> {
    start: SeqNum,
    payload: P,
}

impl<P: Payload> SendQueue<P> {
    /// An empty queue whose first byte will be `start`.
    pub(crate) const fn new(start: SeqNum) -> Self {
        Self {
            pieces: Fifo::new(),
            start,
            end: start,
        }
    }

    /// The sequence number that the next byte written will have.
    #[inline]
    pub(crate) fn end(&self) -> SeqNum {
        self.end
    }

    /// Bytes held.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end.distance_from(self.start) as usize
    }

    /// Bytes of the last piece.
    pub(crate) fn tail_len(&self) -> usize {
        self.pieces.back().map_or(0, |tail| tail.payload.len())
    }

    /// Adds a piece. The caller has checked that there is room.
    pub(crate) fn push(&mut self, payload: P) {
        if payload.is_empty() {
            return;
        }
        let start = self.end;
        self.end += payload.len() as u32;
        self.pieces.push_back(Piece { start, payload });
    }

    /// Copies what fits into the last piece's own spare room.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let n = self
            .pieces
            .back_mut()
            .map_or(0, |tail| tail.payload.append(bytes));
        self.end += n as u32;
        n
    }

    /// Everything before `una` is acknowledged: lets go of it.
    #[inline]
    pub(crate) fn release_until(&mut self, una: SeqNum) {
        let una = una.earliest(self.end);
        if una.before_eq(self.start) {
            return;
        }
        self.start = una;
        while let Some(front) = self.pieces.front_mut() {
            let done = una.distance_from(front.start) as usize;
            if una.before_eq(front.start) {
                break;
            }
            if done < front.payload.len() {
                front.payload.advance(done);
                front.start = una;
                break;
            }
            self.pieces.pop_front();
        }
    }

    /// References to at most `len` bytes from `from` on, and how many they are. Fewer come back
    /// if that would take more pieces than a segment may have.
    pub(crate) fn gather(&self, from: SeqNum, len: u32) -> (Pieces<P>, u32) {
        let mut out = Pieces::new();
        let mut taken = 0u32;
        // The usual message is a few pieces: then passing over some is quicker than halving.
        let first = if self.pieces.len() <= FEW_PIECES {
            0
        } else {
            let before = self.pieces.partition_point(|p| p.start.before_eq(from));
            before.saturating_sub(1)
        };
        for piece in self.pieces.iter_from(first) {
            if taken >= len || out.is_full() {
                break;
            }
            if (piece.start + piece.payload.len() as u32).before_eq(from) {
                continue;
            }
            let skip = (from + taken).distance_from(piece.start) as usize;
            let n = piece
                .payload
                .len()
                .saturating_sub(skip)
                .min((len - taken) as usize);
            if n > 0 {
                out.push(piece.payload.sub(skip, skip + n));
                taken += n as u32;
            }
        }
        (out, taken)
    }

    /// Whether storage is allocated.
    pub(crate) fn has_storage(&self) -> bool {
        self.pieces.is_allocated()
    }

    /// Gives unused storage back.
    pub(crate) fn shrink(&mut self) {
        self.pieces.shrink();
    }

    /// Lets go of everything.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.start = self.end;
    }
}
