//! Frames to descriptors: how a header and pieces of payload become what the kernel sends.

use arrayvec::ArrayVec;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};

use super::XdpQueue;
use crate::device::{FRAME_PIECES_MAX, TxFrame};
use crate::zbuf::{Pool, Slice};

/// The most descriptors of one frame: its header, and its pieces, each cut in two by a chunk's
/// boundary. A frame that would need more is copied together.
pub(super) const DESCRIPTORS_MAX: usize = 1 + 2 * FRAME_PIECES_MAX;

/// One descriptor and the reference that it stands for.
struct Posting {
    offset: u64,
    len: u32,
    slice: Slice,
}

type Postings = ArrayVec<Posting, DESCRIPTORS_MAX>;

impl XdpQueue {
    /// Puts a frame into the transmit ring, whole; the caller has made sure of room for it. False
    /// if the pool has no object for its header: try again later.
    ///
    /// In order of preference: the header in front of the payload, in the same descriptor; the
    /// header in an object of its own and the payload where it is; all copied together.
    pub(super) fn post(&mut self, pool: &mut Pool, frame: &mut TxFrame) -> bool {
        let payload_bytes = frame.payload_bytes();
        let bytes = frame.header.len() + payload_bytes;
        if bytes == 0 {
            // The kernel would refuse an empty descriptor, and never complete it.
            return true;
        }
        let Some(postings) = self.postings(pool, frame, payload_bytes) else {
            // A frame that would never fit is dropped: the stack disregarded our capabilities.
            return bytes > self.frame_bytes_max;
        };
        self.stats.tx_frames += 1;
        self.stats.tx_bytes += bytes as u64;
        self.push(postings);
        true
    }

    fn postings(
        &mut self,
        pool: &mut Pool,
        frame: &mut TxFrame,
        payload_bytes: usize,
    ) -> Option<Postings> {
        let bytes = frame.header.len() + payload_bytes;
        let segments_max = DESCRIPTORS_MAX.min(self.binding.segments_max as usize);
        // Offsets of another pool's slices would lead to other objects of this one.
        let ours = frame
            .payload
            .iter()
            .all(|piece| pool.owns(piece.as_bytes().as_ptr()));
        if ours && !frame.header.is_empty() {
            let in_front = self.header_in_front(frame, segments_max);
            if in_front.is_some() {
                return in_front;
            }
            if payload_bytes == 0 || self.prefer_gather || bytes > self.chunk_bytes {
                let gathered = self.gather(pool, frame, segments_max);
                if gathered.is_some() {
                    return gathered;
                }
            }
        }
        let copied = self.linearise(pool, frame, bytes, segments_max)?;
        self.stats.bytes_copied += payload_bytes as u64;
        Some(copied)
    }

    fn push(&mut self, postings: Postings) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        let last = postings.len().saturating_sub(1);
        for (index, posting) in postings.into_iter().enumerate() {
            let options = if index == last {
                XdpDescOptions::empty()
            } else {
                XdpDescOptions::XDP_PKT_CONTD
            };
            let Posting { offset, len, slice } = posting;
            let pushed = socket.tx.push(XdpDesc {
                addr: offset,
                len,
                options,
            });
            assert!(pushed, "has_room() was asked before");
            // The descriptor's reference. Its offset is in the slice's object, perhaps in front.
            let _ = slice.into_tx();
            self.posted.post(offset);
        }
        self.unsubmitted = true;
    }

    /// The header written right in front of the only piece of payload.
    fn header_in_front(&self, frame: &mut TxFrame, segments_max: usize) -> Option<Postings> {
        let [payload] = frame.payload.as_mut_slice() else {
            return None;
        };
        let header_bytes = frame.header.len();
        if payload.headroom() < header_bytes {
            return None;
        }
        let chunk = self.chunk_bytes as u64;
        let start = payload.umem_offset().checked_sub(header_bytes as u64)?;
        let bytes = (header_bytes + payload.len()) as u64;
        let chunks = (start + bytes - 1) / chunk - start / chunk + 1;
        if chunks > segments_max as u64 {
            return None;
        }
        let start = payload.write_headroom(&frame.header)?;
        let mut postings = Postings::new();
        let (mut offset, mut left) = (start, bytes);
        while left > 0 {
            let len = left.min(chunk - offset % chunk);
            postings
                .try_push(Posting {
                    offset,
                    len: len as u32,
                    slice: payload.clone(),
                })
                .ok()?;
            offset += len;
            left -= len;
        }
        Some(postings)
    }

    /// The header in an object of its own, the payload by reference.
    fn gather(&self, pool: &mut Pool, frame: &TxFrame, segments_max: usize) -> Option<Postings> {
        let pieces = || {
            frame.payload.iter().flat_map(|slice| {
                slice
                    .chunks(self.chunk_bytes)
                    .map(move |piece| (piece, slice))
            })
        };
        if !frame.payload.is_empty() && 1 + pieces().count() > segments_max {
            return None;
        }
        let header = pool.copy_in(&frame.header)?;
        let mut postings = Postings::new();
        let len = header.len() as u32;
        postings
            .try_push(Posting {
                offset: header.umem_offset(),
                len,
                slice: header,
            })
            .ok()?;
        for ((offset, len), slice) in pieces() {
            postings
                .try_push(Posting {
                    offset,
                    len,
                    slice: slice.clone(),
                })
                .ok()?;
        }
        Some(postings)
    }

    /// Header and payload copied into one object.
    fn linearise(
        &self,
        pool: &mut Pool,
        frame: &TxFrame,
        bytes: usize,
        segments_max: usize,
    ) -> Option<Postings> {
        let mut whole = pool.alloc(bytes)?;
        let mut copied = whole.append(&frame.header);
        for piece in &frame.payload {
            copied += whole.append(piece.as_bytes());
        }
        if copied != bytes || whole.chunks(self.chunk_bytes).count() > segments_max {
            return None;
        }
        whole
            .chunks(self.chunk_bytes)
            .map(|(offset, len)| Posting {
                offset,
                len,
                slice: whole.clone(),
            })
            .map(Some)
            .collect()
    }
}
