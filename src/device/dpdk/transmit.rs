//! Frames to pieces: how a header and its payload become what a port sends.

use std::collections::VecDeque;

use dpdk_sys::{
    luna_dpdk_burst_max, luna_dpdk_piece, luna_dpdk_piece_checksum_v4, luna_dpdk_piece_checksum_v6,
    luna_dpdk_piece_copy, luna_dpdk_piece_last, luna_dpdk_private_bytes_max,
    luna_dpdk_tx_multi_segment,
};

use super::DpdkQueue;
use crate::device::TxFrame;
use crate::device::segment::complete_checksum;
use crate::zbuf::{Pool, Slice};

const ETHERNET_BYTES: u8 = 14;
const IPV4_BYTES: u8 = 20;
const IPV6_BYTES: u8 = 40;

impl DpdkQueue {
    /// Sends a burst from the front of `frames`: how many it tried, and how many went.
    pub(super) fn send(
        &mut self,
        pool: &mut Pool,
        frames: &mut VecDeque<TxFrame>,
    ) -> (usize, usize) {
        self.reap(pool);
        if self
            .queue
            .as_ref()
            .is_none_or(|queue| queue.port().is_closed())
        {
            return (0, 0);
        }
        let mut pieces = core::mem::take(&mut self.pieces);
        pieces.clear();
        let mut posted = 0;
        for frame in frames.iter_mut().take(luna_dpdk_burst_max as usize) {
            if !self.describe(pool, frame, &mut pieces) {
                break;
            }
            posted += 1;
        }
        let mut sent = 0;
        if let Some(queue) = &mut self.queue
            && posted > 0
        {
            // SAFETY: pieces that are not copied are of this pool, and each has a reference that
            // `reap` drops when its cookie comes back.
            sent = unsafe { queue.tx_burst(&pieces) };
            self.stats.doorbells += 1;
        }
        for frame in frames.drain(..sent) {
            let payload = frame.payload_bytes();
            self.stats.tx_bytes += (frame.header.len() + payload) as u64;
            if self.private_memory {
                self.stats.bytes_copied += payload as u64;
            }
        }
        self.stats.tx_frames += sent as u64;
        self.pieces = pieces;
        self.reap(pool);
        (posted, sent)
    }

    /// Adds a frame's pieces, with a reference for each; false if it must wait for memory.
    fn describe(
        &self,
        pool: &mut Pool,
        frame: &mut TxFrame,
        pieces: &mut Vec<luna_dpdk_piece>,
    ) -> bool {
        let first = pieces.len();
        if self.private_memory {
            copy_all(frame, pieces);
            finish(frame, pieces, first);
            return true;
        }
        let ours = frame
            .payload
            .iter()
            .all(|piece| pool.owns(piece.as_bytes().as_ptr()));
        let gathers = self.has(luna_dpdk_tx_multi_segment);
        if let Some(piece) = self.header_in_front(frame, ours) {
            pieces.push(piece);
        } else if frame.payload.is_empty() {
            pieces.push(copied(&frame.header));
        } else if ours && gathers {
            if frame.checksum_offload && frame.segment_bytes == 0 && self.sums_one_piece_only {
                complete_checksum(frame);
            }
            pieces.push(copied(&frame.header));
            for slice in &frame.payload {
                pieces.push(self.by_reference(slice));
            }
        } else {
            let bytes = frame.header.len() + frame.payload_bytes();
            let Some(mut whole) = pool.alloc(bytes) else {
                return false;
            };
            whole.append(&frame.header);
            for slice in &frame.payload {
                whole.append(slice.as_bytes());
            }
            pieces.push(self.by_reference(&whole));
        }
        finish(frame, pieces, first);
        true
    }

    /// The header written right in front of the only piece of payload.
    fn header_in_front(&self, frame: &mut TxFrame, ours: bool) -> Option<luna_dpdk_piece> {
        let [payload] = frame.payload.as_mut_slice() else {
            return None;
        };
        if !ours {
            return None;
        }
        let start = payload.write_headroom(&frame.header)?;
        let len = frame.header.len() + payload.len();
        Some(luna_dpdk_piece {
            address: self.umem_start.wrapping_add(start as usize).cast(),
            cookie: payload.clone().into_tx(),
            len: len as u32,
            ..luna_dpdk_piece::default()
        })
    }

    fn by_reference(&self, slice: &Slice) -> luna_dpdk_piece {
        luna_dpdk_piece {
            address: slice.as_bytes().as_ptr().cast(),
            cookie: slice.clone().into_tx(),
            len: slice.len() as u32,
            ..luna_dpdk_piece::default()
        }
    }
}

/// Marks a frame's last piece, and its first with what the port is to do.
fn finish(frame: &TxFrame, pieces: &mut [luna_dpdk_piece], first: usize) {
    if let Some(last) = pieces.last_mut() {
        last.flags |= luna_dpdk_piece_last;
    }
    if frame.checksum_offload
        && let Some(piece) = pieces.get_mut(first)
    {
        offload(piece, &frame.header);
        piece.tso_segment = frame.segment_bytes;
    }
}

/// All of a frame, to be copied.
fn copy_all(frame: &TxFrame, pieces: &mut Vec<luna_dpdk_piece>) {
    pieces.push(copied(&frame.header));
    let payload = frame.payload.iter().map(Slice::as_bytes);
    let parts = payload.flat_map(|bytes| bytes.chunks(luna_dpdk_private_bytes_max as usize));
    pieces.extend(parts.map(copied));
}

fn copied(bytes: &[u8]) -> luna_dpdk_piece {
    luna_dpdk_piece {
        address: bytes.as_ptr().cast(),
        len: bytes.len() as u32,
        flags: luna_dpdk_piece_copy,
        ..luna_dpdk_piece::default()
    }
}

/// Asks for the TCP checksum, whose field holds the pseudo-header's sum, as DPDK wants it.
fn offload(piece: &mut luna_dpdk_piece, header: &[u8]) {
    let is_v4 = header
        .get(usize::from(ETHERNET_BYTES))
        .is_some_and(|byte| byte >> 4 == 4);
    let (flag, l3_len) = if is_v4 {
        (luna_dpdk_piece_checksum_v4, IPV4_BYTES)
    } else {
        (luna_dpdk_piece_checksum_v6, IPV6_BYTES)
    };
    piece.flags |= flag;
    piece.l2_len = ETHERNET_BYTES;
    piece.l3_len = l3_len;
    piece.l4_len = (header.len() as u8).saturating_sub(ETHERNET_BYTES + l3_len);
}
