//! Data that arrived ahead of its turn.
//!
//! Sorted, disjoint, non-adjacent ranges of pieces; never more than [`REASSEMBLY_RANGES_MAX`]
//! of them, and the bytes are bounded by the receive window, which the caller checks. When the
//! ranges are full the newest arrival is dropped, so nothing that was reported by SACK is
//! taken back. Knows nothing of the receive queue or of acknowledgment policy.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::fifo::Fifo;
use super::payload::{Payload, Pieces};
use super::receiver::{COALESCE_BYTES_MAX, push_coalescing};
use crate::limits::REASSEMBLY_RANGES_MAX;
use crate::wire::{SackBlock, SeqNum};

/// A piece up to this long is copied behind a short one that arrives in front of it.
///
/// Otherwise a peer that sends a window from its end to its beginning, a byte at a time, would pin
/// a packet buffer per byte; with this, one per so many bytes.
const MERGE_BYTES_MAX: usize = 1024;

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// Some of it is new.
    New,
    /// All of it was there already.
    Duplicate,
    /// No room for another range.
    Full,
}

#[derive(Debug)]
struct Range<P> {
    start: SeqNum,
    end: SeqNum,
    /// When it last changed, in arrivals: RFC 2018 wants the latest reported first.
    stamp: u32,
    pieces: Fifo<P>,
}

/// The out-of-order store. Unallocated until something is out of order.
#[derive(Debug)]
pub(crate) struct Reassembly<P> {
    ranges: Vec<Range<P>>,
    bytes: usize,
    arrivals: u32,
}

impl<P: Payload> Reassembly<P> {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: Vec::new(),
            bytes: 0,
            arrivals: 0,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes held.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ranges held.
    #[cfg(test)]
    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Takes `pieces`, whose first byte is `start` and whose bytes are `len`. What is there
    /// already stays; what the arrival covers entirely is replaced by it.
    pub(crate) fn insert(&mut self, start: SeqNum, len: u32, pieces: &mut Pieces<P>) -> Inserted {
        self.arrivals = self.arrivals.wrapping_add(1);
        let (mut start, mut end) = (start, start + len);
        // `next` is the first range that starts after the arrival does.
        let next = self.ranges.partition_point(|r| r.start.before_eq(start));
        let mut join = None;
        if let Some(i) = next.checked_sub(1)
            && let Some(prev) = self.ranges.get_mut(i)
            && prev.end.after_eq(start)
        {
            if prev.end.after_eq(end) {
                prev.stamp = self.arrivals;
                return Inserted::Duplicate;
            }
            trim_front(pieces, prev.end.distance_from(start) as usize);
            start = prev.end;
            join = Some(i);
        }
        while let Some(r) = self.ranges.get(next)
            && r.end.before_eq(end)
        {
            self.bytes -= r.end.distance_from(r.start) as usize;
            self.ranges.remove(next);
        }
        if let Some(r) = self.ranges.get(next)
            && r.start.before(end)
        {
            end = r.start;
        }
        truncate(pieces, end.distance_from(start) as usize);
        let index = match join {
            Some(i) => i,
            None if self.ranges.len() >= REASSEMBLY_RANGES_MAX && !self.starts(next, end) => {
                return Inserted::Full;
            }
            None => {
                let fresh = Range {
                    start,
                    end: start,
                    stamp: 0,
                    pieces: Fifo::new(),
                };
                self.ranges.insert(next, fresh);
                next
            }
        };
        self.extend(index, end, pieces);
        Inserted::New
    }

    fn starts(&self, index: usize, at: SeqNum) -> bool {
        self.ranges.get(index).is_some_and(|r| r.start == at)
    }

    /// Extends range `index` to `end` with `pieces`, and joins it with its successor if they
    /// now touch.
    fn extend(&mut self, index: usize, end: SeqNum, pieces: &mut Pieces<P>) {
        let successor = index + 1;
        let follower = if self.starts(successor, end) {
            Some(self.ranges.remove(successor))
        } else {
            None
        };
        let Some(range) = self.ranges.get_mut(index) else {
            return;
        };
        self.bytes += end.distance_from(range.end) as usize;
        range.end = end;
        range.stamp = self.arrivals;
        for piece in pieces.drain(..) {
            push_coalescing(&mut range.pieces, piece);
        }
        if let Some(follower) = follower {
            range.end = follower.end;
            join(&mut range.pieces, follower.pieces);
        }
    }

    /// Moves what is now in order at `rcv_nxt` into `queue`, and returns the new RCV.NXT.
    pub(crate) fn drain_into(&mut self, rcv_nxt: SeqNum, queue: &mut Fifo<P>) -> SeqNum {
        let mut nxt = rcv_nxt;
        while self.ranges.first().is_some_and(|r| r.start.before_eq(nxt)) {
            let mut range = self.ranges.remove(0);
            self.bytes -= range.end.distance_from(range.start) as usize;
            if range.end.before_eq(nxt) {
                continue;
            }
            let mut skip = nxt.distance_from(range.start) as usize;
            while let Some(mut piece) = range.pieces.pop_front() {
                let n = skip.min(piece.len());
                piece.advance(n);
                skip -= n;
                if !piece.is_empty() {
                    push_coalescing(queue, piece);
                }
            }
            nxt = range.end;
        }
        nxt
    }

    /// The range that holds `seq`, for a duplicate report.
    pub(crate) fn sack_blocks(&self, out: &mut ArrayVec<SackBlock, 4>, room: usize) {
        //= RFC 2018 §4
        //# "The first SACK block ... MUST specify the contiguous block of data containing the
        //#  segment which triggered this ACK"
        //= RFC 2018 §4
        //# "The SACK option SHOULD be filled out by repeating the most recently reported SACK
        //#  blocks"
        let mut last_age = None;
        while out.len() < room.min(out.capacity()) {
            let age = |r: &Range<P>| self.arrivals.wrapping_sub(r.stamp);
            let next = (self.ranges.iter())
                .filter(|r| last_age.is_none_or(|last| age(r) > last))
                .min_by_key(|r| age(r));
            let Some(r) = next else { break };
            last_age = Some(age(r));
            out.push(SackBlock {
                left: r.start,
                right: r.end,
            });
        }
    }

    /// Lets go of everything.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }
}

/// Puts `back` behind `front`. Where they meet short pieces become one, and the shorter of the two
/// is what moves: a byte costs the same however many there are, in whatever order they come.
fn join<P: Payload>(front: &mut Fifo<P>, mut back: Fifo<P>) {
    while let Some(tail) = front.back_mut()
        && let Some(next) = back.front_mut()
        && tail.len().min(next.len()) <= COALESCE_BYTES_MAX
        && next.len() <= MERGE_BYTES_MAX
    {
        let copied = tail.append(next.as_bytes());
        next.advance(copied);
        if !next.is_empty() {
            break;
        }
        back.pop_front();
    }
    if front.len() >= back.len() {
        front.append(&mut back);
        return;
    }
    while let Some(piece) = front.pop_back() {
        back.push_front(piece);
    }
    *front = back;
}

/// Drops the first `n` bytes of `pieces`.
pub(crate) fn trim_front<P: Payload>(pieces: &mut Pieces<P>, mut n: usize) {
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        if n < piece.len() {
            piece.advance(n);
            break;
        }
        n -= piece.len();
        whole += 1;
    }
    pieces.drain(..whole);
}

/// Keeps only the first `n` bytes of `pieces`.
pub(crate) fn truncate<P: Payload>(pieces: &mut Pieces<P>, mut n: usize) {
    let mut keep = 0;
    for piece in pieces.iter_mut() {
        if n == 0 {
            break;
        }
        if n < piece.len() {
            piece.truncate(n);
        }
        n -= n.min(piece.len());
        keep += 1;
    }
    pieces.truncate(keep);
}

#[cfg(test)]
mod tests;
