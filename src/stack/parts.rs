//! Segments that arrive in parts ([`FramePart`]): each is processed as a segment of its own, as if
//! the sender had not left the cutting to a link that does not cut.
#![forbid(unsafe_code)]

use core::net::SocketAddr;

use super::counters::Drop;
use super::ingress::{Arrived, truncate};
use super::shard::Shard;
use crate::device::{FramePart, RxFrame};
use crate::time::Instant;
use crate::wire::{Ecn, TcpFlags, TcpHeader};

/// What only the end of a segment means.
const AT_THE_END: TcpFlags = TcpFlags::PSH.union(TcpFlags::FIN);

/// A segment whose last part has not come.
#[derive(Debug)]
pub(super) struct Continued {
    local: SocketAddr,
    remote: SocketAddr,
    /// As in the first part but for the sequence number, which is the next part's.
    header: TcpHeader,
    ecn: Ecn,
    /// Payload bytes that have not come yet.
    left: usize,
}

impl Shard {
    /// The beginning of a segment of which more is to come.
    #[cold]
    pub(super) fn first_part(&mut self, now: Instant, mut arrived: Arrived) {
        let here: usize = arrived.payload.iter().map(|piece| piece.len()).sum();
        let left = (arrived.payload_len as usize).saturating_sub(here);
        self.continued = None;
        if arrived.header.flags.contains(TcpFlags::SYN) || left == 0 {
            self.stats.count_drop(Drop::Malformed);
            return;
        }
        let mut header = arrived.header.clone();
        header.seq += here as u32;
        self.continued = Some(Continued {
            local: arrived.local,
            remote: arrived.remote,
            header,
            ecn: arrived.ecn,
            left,
        });
        arrived.header.flags -= AT_THE_END;
        arrived.payload_len = here as u32;
        self.segment_arrives(now, &mut arrived);
    }

    /// More of a segment, or the last of it.
    #[cold]
    pub(super) fn further_part(&mut self, now: Instant, frame: RxFrame) {
        // The beginning may have been refused.
        let Some(continued) = &mut self.continued else {
            return;
        };
        let mut payload = frame.pieces;
        truncate(&mut payload, continued.left);
        let here: usize = payload.iter().map(|piece| piece.len()).sum();
        let mut header = continued.header.clone();
        continued.header.seq += here as u32;
        continued.left -= here;
        let is_last = frame.part == FramePart::Last;
        if !is_last || continued.left > 0 {
            header.flags -= AT_THE_END;
        }
        let mut arrived = Arrived {
            local: continued.local,
            remote: continued.remote,
            header,
            payload,
            payload_len: here as u32,
            ecn: continued.ecn,
        };
        if is_last {
            self.continued = None;
        }
        if here > 0 {
            self.segment_arrives(now, &mut arrived);
        }
    }
}
