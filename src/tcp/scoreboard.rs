//! What is in the network: every byte between SND.UNA and SND.NXT, when it was last sent, and
//! what is known of its fate (RFC 2018, RFC 6675, RFC 8985).
//!
//! Runs of sequence space with one fate and one time of transmission; a shard reads its clock
//! once per turn, so what one turn sends is one run. Never more than [`OUTSTANDING_RUNS_MAX`],
//! of which at most [`SACK_RANGES_MAX`] are SACKed. Knows sequence numbers and times only: no
//! segments, no timers, no window.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bitflags::bitflags;

use crate::limits::{OUTSTANDING_RUNS_MAX, SACK_RANGES_MAX};
use crate::time::Instant;
use crate::wire::{SackBlock, SeqNum};

/// RFC 6675 §2: how much reordering is tolerated before a gap counts as a loss, in segments.
pub(crate) const DUP_THRESH: u32 = 3;

bitflags! {
    /// What is known of a run.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Fate: u8 {
        /// The peer holds it.
        const SACKED = 1;
        /// Taken for lost, and not sent again since.
        const LOST = 2;
        /// Sent more than once.
        const RESENT = 4;
    }
}

/// `[start, end)`, sent at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: SeqNum,
    pub(crate) end: SeqNum,
    /// When it was last sent.
    pub(crate) sent_at: Instant,
    pub(crate) fate: Fate,
}

impl Run {
    pub(crate) fn len(&self) -> u32 {
        self.end.distance_from(self.start)
    }

    pub(crate) fn is(&self, fate: Fate) -> bool {
        self.fate.contains(fate)
    }

    /// Whether `next`, which follows, can be part of this run.
    fn absorbs(&self, next: &Self) -> bool {
        // When a SACKed byte was sent no longer matters.
        self.fate.contains(Fate::SACKED) && next.fate.contains(Fate::SACKED)
            || self.fate == next.fate && self.sent_at == next.sent_at
    }
}

/// The bytes outstanding, in order and without gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scoreboard {
    runs: VecDeque<Run>,
    sacked: u32,
    lost: u32,
    sacked_ranges: u16,
    /// Nothing before it is lost.
    lost_from: SeqNum,
}

impl Scoreboard {
    pub(crate) const fn new() -> Self {
        Self {
            runs: VecDeque::new(),
            sacked: 0,
            lost: 0,
            sacked_ranges: 0,
            lost_from: SeqNum::new(0),
        }
    }

    /// Bytes SACKed.
    #[inline]
    pub(crate) fn sacked_bytes(&self) -> u32 {
        self.sacked
    }

    /// Bytes taken for lost and not sent again.
    #[inline]
    pub(crate) fn lost_bytes(&self) -> u32 {
        self.lost
    }

    /// Whether enough is SACKed that with it, and no reordering, what lies below is lost.
    pub(crate) fn has_dup_thresh(&self, mss: u32) -> bool {
        //= RFC 6675 §4
        //# "either DupThresh discontiguous SACKed sequences have arrived above 'SeqNum' or more
        //#  than (DupThresh - 1) * SMSS bytes with sequence numbers greater than 'SeqNum' have
        //#  been SACKed."
        u32::from(self.sacked_ranges) >= DUP_THRESH
            || self.sacked > (DUP_THRESH - 1).saturating_mul(mss)
    }

    /// The run at SND.UNA.
    pub(crate) fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// Whether storage is allocated.
    pub(crate) fn has_storage(&self) -> bool {
        self.runs.capacity() > 0
    }

    /// Gives the storage back if there is nothing in it.
    pub(crate) fn shrink(&mut self) {
        if self.runs.is_empty() {
            self.runs = VecDeque::new();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// `[start, end)` has been sent for the first time.
    #[inline]
    pub(crate) fn on_sent(&mut self, start: SeqNum, end: SeqNum, now: Instant) {
        if let Some(last) = self.runs.back_mut()
            && last.fate.is_empty()
            && last.sent_at == now
        {
            last.end = end;
            return;
        }
        self.make_room();
        let full = self.runs.len() >= OUTSTANDING_RUNS_MAX;
        if let Some(last) = self.runs.back_mut().filter(|r| full && r.fate.is_empty()) {
            (last.end, last.sent_at) = (end, now);
            return;
        }
        self.runs.push_back(Run {
            start,
            end,
            sent_at: now,
            fate: Fate::empty(),
        });
    }

    /// Everything before `una` is acknowledged: calls `each` for every run, or part of one, that
    /// is gone.
    #[inline]
    pub(crate) fn acknowledge(&mut self, una: SeqNum, mut each: impl FnMut(&Run)) {
        while let Some(front) = self.runs.front_mut()
            && front.start.before(una)
        {
            let mut gone = *front;
            if front.end.before_eq(una) {
                self.runs.pop_front();
                self.sacked_ranges -= u16::from(gone.is(Fate::SACKED));
            } else {
                gone.end = una;
                front.start = una;
            }
            if gone.is(Fate::SACKED) {
                self.sacked -= gone.len();
            } else if gone.is(Fate::LOST) {
                self.lost -= gone.len();
            }
            each(&gone);
        }
    }

    /// Takes one SACK block; `[una, nxt)` bounds what can truthfully be reported. Calls `each`
    /// for every run that is newly SACKed.
    pub(crate) fn sack(
        &mut self,
        block: SackBlock,
        una: SeqNum,
        nxt: SeqNum,
        mut each: impl FnMut(&Run),
    ) {
        if !is_plausible(block, una, nxt) {
            return;
        }
        let at = self.index_of(block.left);
        let known = self
            .runs
            .get(at)
            .is_some_and(|r| r.is(Fate::SACKED) && block.right.before_eq(r.end));
        // When full, an isolated block is ignored: SACK is advice, and forgetting advice is safe.
        if known || !self.has_room_for(at, block) {
            return;
        }
        self.make_room();
        let Some(first) = self.split(block.left) else {
            return;
        };
        let Some(last) = self.split(block.right) else {
            return;
        };
        for run in self.runs.range_mut(first..last) {
            if run.is(Fate::SACKED) {
                continue;
            }
            each(run);
            self.sacked += run.len();
            self.sacked_ranges += 1;
            if run.is(Fate::LOST) {
                self.lost -= run.len();
            }
            run.fate = run.fate.difference(Fate::LOST).union(Fate::SACKED);
        }
        self.merge(first.saturating_sub(1), last);
    }

    /// Whether a block is small enough an addition: it touches a SACKed run, or there are few.
    fn has_room_for(&self, at: usize, block: SackBlock) -> bool {
        if usize::from(self.sacked_ranges) < SACK_RANGES_MAX {
            return true;
        }
        let touches = |r: &Run| {
            r.is(Fate::SACKED) && r.start.before_eq(block.right) && block.left.before_eq(r.end)
        };
        let from = at.saturating_sub(1);
        self.runs
            .iter()
            .skip(from)
            .take_while(|r| r.start.before_eq(block.right))
            .any(touches)
    }

    /// The run that contains `seq`, or would be next.
    fn index_of(&self, seq: SeqNum) -> usize {
        self.runs.partition_point(|r| r.end.before_eq(seq))
    }

    /// Makes a run begin at `seq` and returns its index; one past the last for the end.
    /// `None`: there are too many runs already.
    fn split(&mut self, seq: SeqNum) -> Option<usize> {
        let at = self.index_of(seq);
        let full = self.runs.len() >= OUTSTANDING_RUNS_MAX;
        let Some(run) = self.runs.get_mut(at).filter(|r| r.start.before(seq)) else {
            return Some(at);
        };
        if full {
            return None;
        }
        let mut tail = *run;
        run.end = seq;
        tail.start = seq;
        self.sacked_ranges += u16::from(tail.is(Fate::SACKED));
        self.runs.insert(at + 1, tail);
        Some(at + 1)
    }

    /// Sees to it that two more cuts are possible, if that can be.
    #[inline]
    fn make_room(&mut self) {
        if self.runs.len() + 2 > OUTSTANDING_RUNS_MAX {
            self.thin_out();
        }
    }

    /// Joins neighbours of one fate two by two, as if both had been sent when the later one was: a
    /// loss is noticed later, that is all.
    #[cold]
    fn thin_out(&mut self) {
        let (mut kept, mut alone) = (0, false);
        for at in 0..self.runs.len() {
            let Some(&run) = self.runs.get(at) else { break };
            if alone
                && let Some(last) = self.runs.get_mut(kept - 1)
                && last.fate == run.fate
            {
                last.end = run.end;
                last.sent_at = last.sent_at.max(run.sent_at);
                self.sacked_ranges -= u16::from(run.is(Fate::SACKED));
                alone = false;
                continue;
            }
            if let Some(place) = self.runs.get_mut(kept) {
                *place = run;
            }
            kept += 1;
            alone = true;
        }
        self.runs.truncate(kept);
    }

    /// Joins runs with the indices `[from, to]` where that loses nothing.
    fn merge(&mut self, from: usize, to: usize) {
        let mut at = to.min(self.runs.len().saturating_sub(1));
        while at > from {
            if let (Some(&left), Some(&right)) = (self.runs.get(at - 1), self.runs.get(at))
                && left.absorbs(&right)
            {
                self.sacked_ranges -= u16::from(right.is(Fate::SACKED));
                self.runs.remove(at);
                if let Some(left) = self.runs.get_mut(at - 1) {
                    left.end = right.end;
                    left.fate |= right.fate;
                }
            }
            at -= 1;
        }
    }

    /// Marks as lost whatever `is_lost` says is, among what is neither SACKed nor lost already.
    /// Returns how many bytes that are.
    pub(crate) fn mark_lost(&mut self, mut is_lost: impl FnMut(&Run) -> bool) -> u32 {
        let mut newly = 0;
        for run in &mut self.runs {
            if run.fate.intersects(Fate::SACKED | Fate::LOST) || !is_lost(run) {
                continue;
            }
            if self.lost + newly == 0 || run.start.before(self.lost_from) {
                self.lost_from = run.start;
            }
            run.fate |= Fate::LOST;
            newly += run.len();
        }
        self.lost += newly;
        newly
    }

    /// Nothing is lost after all.
    pub(crate) fn unmark_lost(&mut self) {
        for run in &mut self.runs {
            run.fate -= Fate::LOST;
        }
        self.lost = 0;
    }

    /// The peer has thrown away what it SACKed: it counts as sent long ago, and as nothing else.
    pub(crate) fn unmark_sacked(&mut self) {
        for run in &mut self.runs {
            run.fate -= Fate::SACKED;
        }
        self.sacked = 0;
        self.sacked_ranges = 0;
    }

    /// The first lost bytes that begin before `limit`; their end is cut at `limit`.
    pub(crate) fn first_lost(&mut self, limit: SeqNum) -> Option<(SeqNum, SeqNum)> {
        if self.lost == 0 {
            return None;
        }
        let from = self.index_of(self.lost_from);
        let mut lost = (self.runs.range(from..))
            .skip_while(|r| !r.is(Fate::LOST))
            .take_while(|r| r.is(Fate::LOST));
        let first = lost.next()?;
        let (start, mut end) = (first.start, first.end);
        // No segment is longer.
        while end.distance_from(start) < u32::from(u16::MAX)
            && let Some(next) = lost.next()
        {
            end = next.end;
        }
        self.lost_from = start;
        let end = end.earliest(limit);
        start.before(end).then_some((start, end))
    }

    /// Where the peer is first known to hold something; the end of `[una, nxt)` if nowhere.
    pub(crate) fn first_sacked(&self, nxt: SeqNum) -> SeqNum {
        let first = self.runs.iter().find(|r| r.is(Fate::SACKED));
        first.map_or(nxt, |r| r.start)
    }

    /// Nothing is SACKed or lost.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.sacked == 0 && self.lost == 0
    }

    /// `[start, end)`, which is outstanding, has been sent again.
    pub(crate) fn on_resent(&mut self, start: SeqNum, end: SeqNum, now: Instant) {
        self.make_room();
        // With too many runs to cut another one, what lies beside it counts as resent too: its
        // loss is then noticed a round trip later.
        let first = self.split(start).unwrap_or_else(|| self.index_of(start));
        let last = self
            .split(end)
            .unwrap_or_else(|| (self.index_of(end) + 1).min(self.runs.len()));
        for run in self.runs.range_mut(first..last.max(first)) {
            if run.is(Fate::SACKED) {
                continue;
            }
            if run.is(Fate::LOST) {
                self.lost -= run.len();
            }
            run.fate = Fate::RESENT;
            run.sent_at = now;
        }
        self.merge(first.saturating_sub(1), last);
    }

    #[cfg(test)]
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
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

/// The first of `blocks`, if it reports a duplicate rather than new data.
pub(crate) fn duplicate_report(blocks: &[SackBlock], ack: SeqNum) -> Option<SackBlock> {
    let (&first, rest) = blocks.split_first()?;
    // RFC 2883 §4: the first block is a report of duplicate data if it lies below the cumulative
    // acknowledgment of the same segment, or within its second block.
    let duplicate = first.right.before_eq(ack)
        || rest.first().is_some_and(|second| {
            second.left.before_eq(first.left) && first.right.before_eq(second.right)
        });
    duplicate.then_some(first)
}

#[cfg(test)]
mod tests;
