//! The receiving half: what has arrived, what the application has not read, and the window
//! that follows from both.
//!
//! Decides how urgent an acknowledgment is, but neither sends nor times it. Knows nothing of
//! states, ports or the sending half.
#![forbid(unsafe_code)]

use super::fifo::Fifo;
use super::payload::{Payload, Pieces};
use super::reassembly::{Inserted, Reassembly, trim_front, truncate};
use crate::wire::{SackBlock, SeqNum};

/// RFC 7323 §2.3: the largest shift.
pub(crate) const WINDOW_SHIFT_MAX: u8 = 14;
/// Pieces up to this long are copied behind the last queued piece if its buffer has room.
///
/// Otherwise a peer that sends one byte at a time would pin a whole packet buffer per byte.
/// Short enough that the copy costs less than the cache misses of another piece.
pub(super) const COALESCE_BYTES_MAX: usize = 256;

/// What a segment's data did to the receive side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// In order, and nothing is missing.
    InOrder,
    /// In order; something was or is still waiting behind a gap.
    FilledGap,
    /// Ahead of its turn.
    OutOfOrder,
    /// Nothing new, or nothing that we could keep.
    Useless,
}

/// The receive variables of RFC 9293 §3.3.1 and the buffers behind them.
#[derive(Debug)]
pub(crate) struct Receiver<P> {
    /// RCV.NXT
    pub(crate) nxt: SeqNum,
    /// RCV.NXT + RCV.WND as last advertised: what we promised to take.
    edge: SeqNum,
    /// Last.ACK.sent of RFC 7323 §4.3.
    pub(crate) last_ack_sent: SeqNum,
    queued: u32,
    budget: u32,
    /// The largest segment seen: what "full-sized" means for delayed ACKs.
    pub(crate) mss: u32,
    /// The sequence number of the peer's FIN, if `fin_known`.
    fin: SeqNum,
    /// Rcv.Wind.Shift
    pub(crate) shift: u8,
    fin_known: bool,
    fin_received: bool,
    queue: Fifo<P>,
    /// There only while something arrives in another order than it was sent in.
    unordered: Option<Box<Unordered<P>>>,
}

/// What came ahead of its turn, or once too often.
#[derive(Debug)]
struct Unordered<P> {
    early: Reassembly<P>,
    duplicate: Option<SackBlock>,
}

impl<P: Payload> Receiver<P> {
    /// Before the peer's SYN.
    pub(crate) fn new(budget: u32, shift: u8, mss: u32) -> Self {
        Self {
            nxt: SeqNum::default(),
            edge: SeqNum::default(),
            last_ack_sent: SeqNum::default(),
            queued: 0,
            budget,
            mss,
            fin: SeqNum::default(),
            shift,
            fin_known: false,
            fin_received: false,
            queue: Fifo::new(),
            unordered: None,
        }
    }

    fn unordered(&mut self) -> &mut Unordered<P> {
        self.unordered.get_or_insert_with(|| {
            Box::new(Unordered {
                early: Reassembly::new(),
                duplicate: None,
            })
        })
    }

    /// Whether anything waits behind a gap.
    #[inline]
    fn has_gap(&self) -> bool {
        self.unordered.as_ref().is_some_and(|u| !u.early.is_empty())
    }

    /// Lets go of the store for disorder when there is none any more.
    fn tidy(&mut self) {
        if (self.unordered.as_ref()).is_some_and(|u| u.early.is_empty() && u.duplicate.is_none()) {
            self.unordered = None;
        }
    }

    /// Whether storage is allocated.
    pub(crate) fn has_storage(&self) -> bool {
        self.queue.is_allocated()
    }

    /// Gives unused storage back.
    pub(crate) fn shrink(&mut self) {
        self.queue.shrink();
    }

    /// The peer's SYN has sequence number `irs`.
    pub(crate) fn synchronize(&mut self, irs: SeqNum) {
        // Our own SYN may have promised a window already.
        let promised = self.window();
        self.nxt = irs + 1;
        self.edge = self.nxt + promised;
        self.last_ack_sent = self.nxt;
    }

    /// The window still open, in bytes.
    #[inline]
    pub(crate) fn window(&self) -> u32 {
        if self.nxt.before(self.edge) {
            self.edge.distance_from(self.nxt)
        } else {
            0
        }
    }

    /// The first acceptability check of RFC 9293 §3.10.7.4.
    ///
    /// Two allowances. A window of zero still takes the ACK and FIN of a segment at RCV.NXT
    /// ("special allowance should be made to accept valid ACKs"), its data being cut off. A
    /// segment without data may lie exactly at the right edge: that is where the ACKs of a
    /// peer come from that has filled our window.
    pub(crate) fn is_acceptable(&self, seq: SeqNum, len: u32) -> bool {
        if len == 0 {
            return seq.after_eq(self.nxt) && seq.before_eq(self.nxt + self.window());
        }
        seq == self.nxt || (seq.before(self.edge) && (seq + len).after(self.nxt))
    }

    /// Whether `seq` lies in the window (RFC 5961 §3.2).
    pub(crate) fn in_window(&self, seq: SeqNum) -> bool {
        seq == self.nxt || seq.within(self.nxt, self.window())
    }

    /// Takes in-order data that fits the window, when nothing is out of order.
    #[inline]
    pub(crate) fn take_in_order(&mut self, pieces: &mut Pieces<P>, len: u32) {
        self.nxt += len;
        self.queued += len;
        self.mss = self.mss.max(len);
        for piece in pieces.drain(..) {
            push_coalescing(&mut self.queue, piece);
        }
    }

    /// Whether data that follows RCV.NXT directly may take the short way.
    #[inline]
    pub(crate) fn is_simple(&self, len: u32) -> bool {
        !self.has_gap() && !self.fin_known && len <= self.window()
    }

    /// Takes the data and FIN of an acceptable segment.
    pub(crate) fn on_data(
        &mut self,
        seq: SeqNum,
        len: u32,
        fin: bool,
        pieces: &mut Pieces<P>,
    ) -> Arrival {
        let (mut start, mut end) = (seq, seq + len);
        if fin && !self.fin_known && end.after_eq(self.nxt) && end.before_eq(self.edge) {
            self.fin = end;
            self.fin_known = true;
        }
        self.note_duplicate(start, end);
        if start.before(self.nxt) {
            trim_front(pieces, self.nxt.distance_from(start).min(len) as usize);
            start = self.nxt.earliest(end);
        }
        //= RFC 9293 §3.10.7.4
        //# "segments with higher beginning sequence numbers SHOULD be held for later processing"
        let limit = if self.fin_known {
            self.fin.earliest(self.edge)
        } else {
            self.edge
        };
        if end.after(limit) {
            end = limit.latest(start);
            truncate(pieces, end.distance_from(start) as usize);
        }
        let len = end.distance_from(start);
        if start.after(self.nxt) {
            return self.on_early_data(start, len, fin, pieces);
        }
        let had_gap = self.has_gap();
        if len > 0 {
            self.take_in_order(pieces, len);
            if had_gap && let Some(unordered) = &mut self.unordered {
                let before = self.nxt;
                self.nxt = unordered.early.drain_into(before, &mut self.queue);
                self.queued += self.nxt.distance_from(before);
            }
        }
        let ended = self.take_fin();
        self.tidy();
        match (len > 0 || ended, had_gap || ended) {
            (false, _) => Arrival::Useless,
            (true, false) => Arrival::InOrder,
            (true, true) => Arrival::FilledGap,
        }
    }

    fn on_early_data(
        &mut self,
        start: SeqNum,
        len: u32,
        fin: bool,
        pieces: &mut Pieces<P>,
    ) -> Arrival {
        if len == 0 {
            // A FIN alone, ahead of its turn, is remembered but still out of order.
            return if fin {
                Arrival::OutOfOrder
            } else {
                Arrival::Useless
            };
        }
        self.mss = self.mss.max(len);
        let unordered = self.unordered();
        match unordered.early.insert(start, len, pieces) {
            Inserted::New | Inserted::Full => Arrival::OutOfOrder,
            Inserted::Duplicate => {
                unordered.duplicate = Some(SackBlock {
                    left: start,
                    right: start + len,
                });
                Arrival::OutOfOrder
            }
        }
    }

    /// Takes the FIN if everything before it is here.
    fn take_fin(&mut self) -> bool {
        if self.fin_received || !self.fin_known || self.fin != self.nxt {
            return false;
        }
        self.fin_received = true;
        self.nxt += 1;
        self.edge = self.edge.latest(self.nxt);
        if let Some(unordered) = &mut self.unordered {
            unordered.early.clear();
        }
        true
    }

    fn note_duplicate(&mut self, start: SeqNum, end: SeqNum) {
        //= RFC 2883 §4
        //# "the first block of the SACK option should be a D-SACK block specifying the sequence
        //#  numbers for the duplicate segment that triggers the acknowledgement."
        let right = end.earliest(self.nxt);
        if start.before(right) {
            self.unordered().duplicate = Some(SackBlock { left: start, right });
        }
    }

    /// A duplicate that arrived outside the window.
    pub(crate) fn on_stale(&mut self, seq: SeqNum, len: u32) {
        // Only what we may really have received: one window back.
        if self.nxt.distance_from(seq) <= self.budget {
            self.note_duplicate(seq, seq + len);
        }
    }

    /// The peer's FIN has been taken.
    pub(crate) fn fin_received(&self) -> bool {
        self.fin_received
    }

    /// The SACK blocks for the next acknowledgment, at most `room`. A duplicate is reported
    /// once.
    pub(crate) fn sack_blocks(&mut self, out: &mut arrayvec::ArrayVec<SackBlock, 4>, room: usize) {
        if let Some(unordered) = &mut self.unordered {
            if room > 0
                && let Some(block) = unordered.duplicate.take()
            {
                out.push(block);
            }
            unordered.early.sack_blocks(out, room);
        }
        self.tidy();
    }

    /// Whether the next acknowledgment carries SACK blocks.
    #[inline]
    pub(crate) fn has_sack_blocks(&self) -> bool {
        self.unordered.is_some()
    }

    /// Bytes that the application can read.
    #[inline]
    pub(crate) fn readable(&self) -> usize {
        self.queued as usize
    }

    /// The queue.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &P> {
        self.queue.iter_from(0)
    }

    /// Takes at most `max` bytes that lie in one piece.
    pub(crate) fn pop(&mut self, max: usize) -> Option<P> {
        if max == 0 {
            return None;
        }
        let front = self.queue.front_mut()?;
        let piece = if front.len() > max {
            Some(front.split_to(max))
        } else {
            self.queue.pop_front()
        };
        self.queued = self
            .queued
            .saturating_sub(piece.as_ref().map_or(0, Payload::len) as u32);
        piece
    }

    /// Drops at most `n` bytes and returns how many it dropped.
    pub(crate) fn consume(&mut self, n: usize) -> usize {
        let mut left = n;
        while left > 0
            && let Some(front) = self.queue.front_mut()
        {
            if front.len() > left {
                front.advance(left);
                left = 0;
            } else {
                left -= front.len();
                self.queue.pop_front();
            }
        }
        let done = n - left;
        self.queued = self.queued.saturating_sub(done as u32);
        done
    }

    /// Bounds what may be buffered from now on. What was promised stays promised.
    pub(crate) fn set_budget(&mut self, bytes: u32) {
        self.budget = bytes;
    }

    /// Bytes held out of order.
    #[cfg(test)]
    pub(crate) fn ooo_bytes(&self) -> usize {
        self.unordered.as_ref().map_or(0, |u| u.early.bytes())
    }

    /// Ranges held out of order.
    #[cfg(test)]
    pub(crate) fn ooo_ranges(&self) -> usize {
        self.unordered.as_ref().map_or(0, |u| u.early.ranges())
    }

    /// The most that may be held: the budget, rounded up to what a window field can express.
    #[cfg(test)]
    pub(crate) fn budget_with_slack(&self) -> usize {
        self.budget as usize + (1 << self.shift)
    }

    fn free(&self) -> u32 {
        let early = self.unordered.as_ref().map_or(0, |u| u.early.bytes());
        let held = (self.queued as usize).saturating_add(early);
        self.budget
            .saturating_sub(u32::try_from(held).unwrap_or(u32::MAX))
    }

    /// The window that we would advertise now, in bytes.
    fn target(&self) -> u32 {
        //= RFC 9293 §3.8.6.2.2
        //# "keep RCV.NXT+RCV.WND fixed until the reduction satisfies: RCV.BUFF - RCV.USER -
        //#  RCV.WND >= min( Fr * RCV.BUFF, Eff.snd.MSS )"
        // No more than the field can say, or every read would ask for an update that says nothing.
        let free = self.free().min(u32::from(u16::MAX) << self.shift);
        let current = self.window();
        let step = (self.budget / 2).min(self.mss).max(1);
        //= RFC 9293 §3.8.6
        //# "a TCP receiver SHOULD NOT shrink the window"
        if free.saturating_sub(current) >= step {
            free
        } else {
            current
        }
    }

    /// Whether an acknowledgment only for the sake of the window is due.
    pub(crate) fn wants_window_update(&self) -> bool {
        // Besides the rule above, only when it at least doubles the window (Linux's rule):
        // a window that is far from closing travels with the next acknowledgment.
        let (current, target) = (self.window(), self.target());
        target > current && target >= current.saturating_mul(2)
    }

    /// The window field of a SYN, which is never scaled (RFC 7323 §2.2).
    pub(crate) fn advertise_unscaled(&mut self) -> u16 {
        let field = u16::try_from(self.free().max(self.window())).unwrap_or(u16::MAX);
        self.edge = self.edge.latest(self.nxt + u32::from(field));
        field
    }

    /// The window field of an acknowledgment that is now sent, and the promise that it makes.
    #[inline]
    pub(crate) fn advertise(&mut self) -> u16 {
        // Rounding up what is already promised keeps the edge from moving back by a fraction
        // of the scale. But not beyond the buffer: every small segment would push the edge by
        // its length, and a peer that sends nothing else could fill any amount of memory. Then
        // the field is rounded down (RFC 7323 §2.4), and what was promised is still taken.
        let (promised, fraction) = (self.window(), (1u32 << self.shift) - 1);
        let up = promised.saturating_add(fraction) >> self.shift;
        let fits = up << self.shift <= self.free().saturating_add(fraction);
        let kept = if fits { up } else { promised >> self.shift };
        let field = kept
            .max(self.target() >> self.shift)
            .min(u32::from(u16::MAX));
        self.edge = self.edge.latest(self.nxt + (field << self.shift));
        self.last_ack_sent = self.nxt;
        field as u16
    }
}

/// Queues `piece`, or copies it behind the last one if it is short and there is room.
pub(crate) fn push_coalescing<P: Payload>(queue: &mut Fifo<P>, mut piece: P) {
    if piece.len() <= COALESCE_BYTES_MAX
        && let Some(tail) = queue.back_mut()
    {
        let n = tail.append(piece.as_bytes());
        piece.advance(n);
    }
    if !piece.is_empty() {
        queue.push_back(piece);
    }
}

#[cfg(test)]
mod tests;
