//! What the peer holds beyond its cumulative acknowledgment (RFC 2018), and what follows from
//! it about losses (RFC 6675).
//!
//! Sorted, disjoint, non-adjacent ranges; never more than [`SACK_RANGES_MAX`]. Knows sequence
//! numbers only: no segments, no timers, no window.
#![forbid(unsafe_code)]

use crate::limits::SACK_RANGES_MAX;
use crate::wire::{SackBlock, SeqNum};

/// RFC 6675 §2: how much reordering is tolerated before a gap counts as a loss, in segments.
pub(crate) const DUP_THRESH: u32 = 3;

/// `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: SeqNum,
    pub(crate) end: SeqNum,
}

impl Range {
    fn len(self) -> u32 {
        self.end.distance_from(self.start)
    }
}

/// The scoreboard of RFC 6675 §3. Unallocated until the first SACK block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scoreboard {
    ranges: Vec<Range>,
    sacked_bytes: u32,
    /// Everything unSACKed before this is lost.
    lost_edge: Option<SeqNum>,
}

impl Scoreboard {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: Vec::new(),
            sacked_bytes: 0,
            lost_edge: None,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes SACKed.
    pub(crate) fn sacked_bytes(&self) -> u32 {
        self.sacked_bytes
    }

    /// The sequence number just after the highest SACKed one.
    pub(crate) fn highest(&self) -> Option<SeqNum> {
        self.ranges.last().map(|r| r.end)
    }

    /// Everything unSACKed before this counts as lost by RFC 6675's IsLost.
    pub(crate) fn lost_edge(&self) -> Option<SeqNum> {
        self.lost_edge
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.sacked_bytes = 0;
        self.lost_edge = None;
    }

    /// The cumulative acknowledgment has reached `una`.
    pub(crate) fn on_cumulative_ack(&mut self, una: SeqNum) {
        if self.ranges.is_empty() {
            return;
        }
        let gone = self.ranges.partition_point(|r| r.end.before_eq(una));
        self.ranges.drain(..gone);
        if let Some(first) = self.ranges.first_mut() {
            // A range that starts at or before the acknowledgment is cut, and what the
            // acknowledgment touches is acknowledged sooner or later: keep only what is above.
            first.start = first.start.latest(una);
        }
        self.sacked_bytes = self.ranges.iter().map(|r| r.len()).sum();
        if self.lost_edge.is_some_and(|edge| edge.before_eq(una)) {
            self.lost_edge = None;
        }
    }

    /// Takes the blocks of one acknowledgment and returns how many bytes are newly SACKed.
    /// `una` and `max` bound what can truthfully be reported.
    pub(crate) fn update(
        &mut self,
        blocks: &[SackBlock],
        una: SeqNum,
        max: SeqNum,
        mss: u32,
    ) -> u32 {
        let before = self.sacked_bytes;
        for block in blocks {
            if is_plausible(*block, una, max) {
                self.insert(Range {
                    start: block.left,
                    end: block.right,
                });
            }
        }
        let newly = self.sacked_bytes.saturating_sub(before);
        if newly > 0 {
            self.recompute_lost_edge(mss);
        }
        newly
    }

    fn insert(&mut self, new: Range) {
        // Ranges [first, last) touch or overlap the new one.
        let first = self.ranges.partition_point(|r| r.end.before(new.start));
        let last = self
            .ranges
            .partition_point(|r| r.start.before_eq(new.end))
            .max(first);
        let mut merged = new;
        let mut absorbed = 0;
        for r in self.ranges.drain(first..last) {
            merged.start = merged.start.earliest(r.start);
            merged.end = merged.end.latest(r.end);
            absorbed += r.len();
        }
        // When full, an isolated block is ignored: SACK is advice, and forgetting advice is safe.
        if self.ranges.len() < SACK_RANGES_MAX {
            self.ranges.insert(first, merged);
            self.sacked_bytes += merged.len() - absorbed;
        }
    }

    fn recompute_lost_edge(&mut self, mss: u32) {
        //= RFC 6675 §4
        //# "The routine returns true when either DupThresh discontiguous SACKed sequences have
        //#  arrived above 'SeqNum' or more than (DupThresh - 1) * SMSS bytes with sequence
        //#  numbers greater than 'SeqNum' have been SACKed."
        let bytes_max = (DUP_THRESH - 1).saturating_mul(mss);
        let (mut runs, mut bytes) = (0, 0);
        self.lost_edge = self.ranges.iter().rev().find_map(|r| {
            runs += 1;
            bytes += r.len();
            (runs >= DUP_THRESH || bytes > bytes_max).then_some(r.start)
        });
    }

    /// The first unSACKed run that starts at or after `from` and before `limit`; its end is
    /// cut at `limit`.
    pub(crate) fn next_gap(&self, from: SeqNum, limit: SeqNum) -> Option<Range> {
        let mut start = from;
        let next = self.ranges.partition_point(|r| r.end.before_eq(from));
        let mut rest = self.ranges.iter().skip(next);
        let mut following = rest.next();
        if let Some(r) = following
            && r.start.before_eq(start)
        {
            start = r.end;
            following = rest.next();
        }
        let end = following.map_or(limit, |r| r.start.earliest(limit));
        start.before(end).then_some(Range { start, end })
    }

    /// The last unSACKed run of `[una, nxt)`.
    pub(crate) fn last_gap(&self, una: SeqNum, nxt: SeqNum) -> Option<Range> {
        let mut end = nxt;
        for r in self.ranges.iter().rev() {
            if r.end.before(end) {
                return Some(Range { start: r.end, end });
            }
            end = r.start;
        }
        una.before(end).then_some(Range { start: una, end })
    }

    /// RFC 6675's SetPipe: an estimate of the bytes in the network between `una` and `nxt`,
    /// where everything unSACKed before `lost` is lost and everything before `high_rxt` has
    /// been retransmitted.
    pub(crate) fn pipe(&self, una: SeqNum, nxt: SeqNum, lost: SeqNum, high_rxt: SeqNum) -> u32 {
        let mut pipe = 0u32;
        let mut start = una;
        let ends = self.ranges.iter().map(|r| (r.start, r.end));
        for (gap_end, next_start) in ends.chain([(nxt, nxt)]) {
            if start.before(gap_end) {
                //= RFC 6675 §4
                //# "(a) If IsLost (S1) returns false: Pipe is incremented by 1 octet."
                pipe = pipe.saturating_add(overlap(start.latest(lost), gap_end));
                //= RFC 6675 §4
                //# "(b) If S1 <= HighRxt: Pipe is incremented by 1 octet."
                pipe = pipe.saturating_add(overlap(start, gap_end.earliest(high_rxt)));
            }
            start = next_start;
        }
        pipe
    }
}

/// Length of `[start, end)`, zero if it is empty.
fn overlap(start: SeqNum, end: SeqNum) -> u32 {
    if start.before(end) {
        end.distance_from(start)
    } else {
        0
    }
}

/// Whether a block can be true: within what was sent, above what is acknowledged.
///
/// What fails is an old block, a D-SACK report (RFC 2883 §4), or a forgery.
fn is_plausible(block: SackBlock, una: SeqNum, max: SeqNum) -> bool {
    // By distances: three comparisons on a circle may each hold and yet not fit together.
    let (left, right) = (
        block.left.distance_from(una),
        block.right.distance_from(una),
    );
    left < right && right <= max.distance_from(una)
}

/// Whether the first of `blocks` reports a duplicate rather than new data.
pub(crate) fn reports_duplicate(blocks: &[SackBlock], ack: SeqNum) -> bool {
    let Some((first, rest)) = blocks.split_first() else {
        return false;
    };
    // RFC 2883: the first block is a report of duplicate data if it lies below the cumulative
    // acknowledgment of the same segment, or within its second block.
    first.right.before_eq(ack)
        || rest.first().is_some_and(|second| {
            second.left.before_eq(first.left) && first.right.before_eq(second.right)
        })
}

#[cfg(test)]
mod tests;
