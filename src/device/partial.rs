//! A frame that comes piece by piece, and is handed over in parts if it has too many.
#![forbid(unsafe_code)]

use super::{DeviceStats, FramePart, Pieces, RxFrame};
use crate::zbuf::Slice;

/// A frame of which not all pieces have arrived yet.
#[derive(Debug, Default)]
pub(super) struct Partial {
    pieces: Pieces,
    bytes: u64,
    /// Its first pieces have been handed over.
    begun: bool,
    /// It can't be delivered; its other pieces are dropped as they come.
    spoilt: bool,
}

impl Partial {
    /// Adds a piece of `len` bytes; `None`: it is lost, and the frame with it.
    #[inline]
    pub(super) fn add(&mut self, piece: Option<Slice>, len: usize) {
        self.bytes += len as u64;
        match piece {
            Some(piece) if !self.spoilt => self.spoilt = self.pieces.try_push(piece).is_err(),
            _ => self.spoilt = true,
        }
    }

    /// Whether a part of the frame has been handed over, and not the last.
    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The rest of a frame that has begun does not come.
    pub(super) fn break_off(&mut self) {
        self.spoilt |= self.begun;
    }

    /// What can be handed over now: a whole frame at its end, or a part when the list is full.
    /// A frame is counted at its end, as received or dropped.
    #[inline]
    pub(super) fn take(
        &mut self,
        ended: bool,
        checksum_ok: bool,
        stats: &mut DeviceStats,
    ) -> Option<RxFrame> {
        if !ended && (self.spoilt || !self.pieces.is_full()) {
            return None;
        }
        let part = match (self.begun, ended) {
            (false, true) => FramePart::Whole,
            (false, false) => FramePart::First,
            (true, false) => FramePart::Middle,
            (true, true) => FramePart::Last,
        };
        let pieces = core::mem::take(&mut self.pieces);
        let delivered = !self.spoilt && !pieces.is_empty();
        self.begun = !ended;
        if ended {
            let whole = core::mem::take(self);
            if delivered {
                stats.rx_frames += 1;
                stats.rx_bytes += whole.bytes;
            } else {
                stats.rx_dropped += 1;
            }
        }
        delivered.then_some(RxFrame {
            pieces,
            checksum_ok,
            part,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pool;
    use super::*;

    /// Adds pieces one by one; what was handed over, as parts and their pieces.
    fn run(pieces: usize, lost: Option<usize>) -> (Vec<(FramePart, usize)>, DeviceStats) {
        let mut pool = pool();
        let (mut partial, mut stats) = (Partial::default(), DeviceStats::default());
        let mut parts = Vec::new();
        for index in 0..pieces {
            let piece = pool.copy_in(&[1; 10]).filter(|_| lost != Some(index));
            partial.add(piece, 10);
            let part = partial.take(index + 1 == pieces, true, &mut stats);
            parts.extend(part.map(|frame| (frame.part, frame.pieces.len())));
        }
        assert!(!partial.has_begun());
        (parts, stats)
    }

    #[test]
    fn a_frame_of_many_pieces_comes_in_parts() {
        use FramePart::{First, Last, Middle, Whole};
        assert_eq!(run(3, None).0, [(Whole, 3)]);
        assert_eq!(run(4, None).0, [(Whole, 4)]);
        let (parts, stats) = run(10, None);
        assert_eq!(parts, [(First, 4), (Middle, 4), (Last, 2)]);
        assert_eq!((stats.rx_frames, stats.rx_bytes), (1, 100));
    }

    #[test]
    fn a_frame_with_a_lost_piece_is_dropped_from_there_on() {
        assert!(run(3, Some(1)).0.is_empty());
        let (parts, stats) = run(10, Some(5));
        assert_eq!(parts, [(FramePart::First, 4)]);
        assert_eq!((stats.rx_frames, stats.rx_dropped), (0, 1));
    }
}
