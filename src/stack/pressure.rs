//! What is done with payload while the link is at risk of having nothing to receive into.
//!
//! Every received piece, however small, keeps a whole object from the link. So, below the pool's
//! low-water mark, small pieces are copied together into one object, and a connection whose
//! application has left much unread gets no more: its peer keeps what is not acknowledged, and
//! sends it again. What else a segment says still counts.
#![forbid(unsafe_code)]

use super::counters::Drop;
use super::ingress::Arrived;
use super::shard::Shard;
use crate::wire::TcpFlags;
use crate::zbuf::Slice;

/// Pieces up to this long are copied.
const SMALL_BYTES: usize = 512;
/// The object that they are copied into.
const SCRAP_BYTES: usize = 2048;
/// Unread bytes beyond which a connection gets no more while memory is short.
const SHARE_BYTES: usize = 16 << 10;

impl Shard {
    /// Called for each segment with payload while memory is short.
    #[cold]
    pub(super) fn relieve(&mut self, index: u32, arrived: &mut Arrived) {
        let unread = self.slots.at(index).map_or(0, |s| s.conn.readable_bytes());
        if unread > SHARE_BYTES {
            self.stats.count_drop(Drop::Memory);
            arrived.payload.clear();
            arrived.payload_len = 0;
            arrived.header.flags.remove(TcpFlags::FIN);
            return;
        }
        for piece in &mut arrived.payload {
            if piece.len() <= SMALL_BYTES
                && let Some(copy) = self.scrap(piece)
            {
                *piece = copy;
            }
        }
    }

    /// A copy in an object that it shares with others.
    fn scrap(&mut self, bytes: &Slice) -> Option<Slice> {
        let len = bytes.len();
        if self
            .scrap
            .as_ref()
            .is_none_or(|scrap| scrap.spare_capacity() < len)
        {
            self.scrap = self.pool.alloc(SCRAP_BYTES);
        }
        let scrap = self.scrap.as_mut()?;
        let start = scrap.len();
        (scrap.append(bytes) == len).then(|| scrap.sub(start, start + len))
    }
}
