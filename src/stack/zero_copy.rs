//! Sending and receiving by reference, and telling when what was sent has been acknowledged.
//!
//! Owns the marks that the application puts behind what it sends. Does not know what an address
//! of the application's is: it takes and gives slices.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;

use super::api::{ConnError, ConnId, RecvError, SendError};
use super::shard::{Mark, Shard, Slot};
use super::slab::SlabKey;
use crate::limits::CONNECTIONS_PER_SHARD;
use crate::tcp::State;
use crate::time::Instant;
use crate::wire::SeqNum;
use crate::zbuf::{FreeError, Loan, Slice};

/// Most marks of one connection of which the application has not fetched the completion.
pub const COMPLETIONS_MAX: usize = 1 << 16;

/// The part of an account's number that is a connection's index; above it, a part of its
/// generation.
const ACCOUNT_INDEX: u32 = CONNECTIONS_PER_SHARD as u32 - 1;

const _: () = assert!(CONNECTIONS_PER_SHARD.is_power_of_two());

/// The account of a connection in packet memory: rarely, one of a later connection at its place.
const fn account(id: ConnId) -> u32 {
    id.index | id.generation << (ACCOUNT_INDEX + 1).trailing_zeros()
}

/// The application's reads are bounded by what it holds of earlier ones.
fn bound_window(slot: &mut Slot) {
    let room = slot.conn.receive_buffer().saturating_sub(slot.lent_bytes);
    let bound = if slot.lent_bytes > 0 { room } else { u32::MAX };
    slot.conn.set_receive_budget(bound);
}

/// What became of bytes that were sent with a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The mark.
    pub mark: u64,
    /// `None`: the peer has acknowledged them. Otherwise why it never will, as far as we know.
    pub error: Option<ConnError>,
    /// They were copied when they were given to send.
    pub copied: bool,
}

/// The end of what was sent with a mark.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// The sequence number after the last byte.
    end: SeqNum,
    mark: u64,
    copied: bool,
}

impl Pending {
    const fn complete(self, error: Option<ConnError>) -> Completion {
        Completion {
            mark: self.mark,
            error,
            copied: self.copied,
        }
    }
}

/// The marks of one connection.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Those not acknowledged, oldest first.
    pending: VecDeque<Pending>,
    /// Those the application has to be told of.
    done: VecDeque<Completion>,
}

const fn key(id: ConnId) -> SlabKey {
    SlabKey {
        index: id.index,
        generation: id.generation,
    }
}

fn too_many_marks(slot: &Slot) -> bool {
    slot.completions
        .as_ref()
        .is_some_and(|marks| marks.pending.len() + marks.done.len() >= COMPLETIONS_MAX)
}

/// Puts a mark behind what was written last. Zero is none.
fn put_mark(slot: &mut Slot, mark: u64, copied: bool) {
    if mark != 0 {
        let end = slot.conn.write_seq();
        let marks = slot.completions.get_or_insert_default();
        marks.pending.push_back(Pending { end, mark, copied });
        slot.marks.insert(Mark::MARKED);
    }
}

/// Whether the application may send on a connection.
pub(super) fn may_send(slot: &mut Slot) -> Result<(), SendError> {
    if let Some(error) = slot.error.take() {
        return Err(SendError::Failed(error));
    }
    match slot.conn.state() {
        State::SynSent | State::SynReceived if !slot.conn.is_send_closed() => {
            Err(SendError::NotConnected)
        }
        State::Established | State::CloseWait if !slot.conn.is_send_closed() => Ok(()),
        _ => Err(SendError::BrokenPipe),
    }
}

/// What a receive that finds no bytes is told; `Ok`: the end of the stream.
pub(super) fn nothing_to_read(slot: &mut Slot) -> Result<(), RecvError> {
    // As on Linux, a stream that has ended in order stays ended, whatever came after.
    if slot.conn.recv_finished() {
        return Ok(());
    }
    if let Some(error) = slot.error.take() {
        return Err(RecvError::Failed(error));
    }
    if slot.marks.contains(Mark::READ_SHUT) || slot.conn.state() == State::Closed {
        return Ok(());
    }
    match slot.conn.state() {
        State::SynSent | State::SynReceived => Err(RecvError::NotConnected),
        _ => Err(RecvError::WouldBlock),
    }
}

impl Shard {
    /// Queues as much of `slice` as there is room for, without copying; returns how many bytes.
    /// `mark`, unless zero, is put behind the last byte of the slice, if that was taken: it comes
    /// back in one [`Completion`]. `more`: another send follows at once.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was taken. `NoMemory` if [`COMPLETIONS_MAX`] marks are out.
    pub fn send_slice(
        &mut self,
        id: ConnId,
        mut slice: Slice,
        mark: u64,
        more: bool,
    ) -> Result<usize, SendError> {
        let slot = self.slots.get_mut(key(id)).ok_or(SendError::Stale)?;
        may_send(slot)?;
        let wanted = slice.len();
        let room = slot.conn.send_space();
        if mark != 0 && too_many_marks(slot) {
            return Err(SendError::NoMemory);
        }
        if room == 0 && wanted > 0 {
            slot.conn.want_write();
            slot.marks.insert(Mark::WANTS_ROOM);
            return Err(SendError::WouldBlock);
        }
        let taken = wanted.min(room);
        slice.truncate(taken);
        if taken > 0 && slot.conn.push(slice, more && taken == wanted).is_err() {
            return Err(SendError::WouldBlock);
        }
        if taken < wanted {
            slot.conn.want_write();
            slot.marks.insert(Mark::WANTS_ROOM);
        } else {
            put_mark(slot, mark, false);
        }
        self.stats.bytes_out += taken as u64;
        self.mark_dirty(id.index);
        self.answered(id.index);
        Ok(taken)
    }

    /// As [`Shard::send_slice`], for bytes that have to be copied.
    ///
    /// # Errors
    /// As [`Shard::send_slice`].
    pub fn send_marked(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        mark: u64,
        more: bool,
    ) -> Result<usize, SendError> {
        if mark != 0 && self.slots.get(key(id)).is_some_and(too_many_marks) {
            return Err(SendError::NoMemory);
        }
        let sent = self.send(now, id, &[IoSlice::new(bytes)], more)?;
        if sent == bytes.len()
            && let Some(slot) = self.slots.get_mut(key(id))
        {
            put_mark(slot, mark, true);
        }
        Ok(sent)
    }

    /// What was sent with `more`, which is not to follow after all, may go.
    pub fn end_more(&mut self, id: ConnId) {
        if let Some(slot) = self.slots.get_mut(key(id)) {
            slot.conn.flush();
        }
    }

    /// Takes bytes that have arrived and lie in one piece, without copying. `None` is the end of
    /// the stream.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv_slice(&mut self, id: ConnId) -> Result<Option<Slice>, RecvError> {
        let slot = self.slots.get_mut(key(id)).ok_or(RecvError::Stale)?;
        let shut = slot.marks.contains(Mark::READ_SHUT);
        let piece = if shut {
            None
        } else {
            slot.conn.pop_piece(usize::MAX)
        };
        let Some(piece) = piece else {
            return nothing_to_read(slot).map(|()| None);
        };
        self.stats.bytes_in += piece.len() as u64;
        self.mark_dirty(id.index);
        Ok(Some(piece))
    }

    /// Gives what [`Shard::recv_slice`] took to the application. Until it gives the object back,
    /// that counts against the connection's receive window (whole objects do: that is what it
    /// keeps from the link).
    pub fn lend(&mut self, id: ConnId, slice: Slice) -> Loan {
        let (loan, charged) = slice.lend_on(account(id));
        self.charge(id, charged);
        loan
    }

    /// The application keeps what is before it in a callback of `id`.
    ///
    /// # Errors
    /// [`FreeError`], counted.
    pub fn lend_exposed(&mut self, id: Option<ConnId>, at: *const u8) -> Result<(), FreeError> {
        let charged = self.pool.lend_exposed(at, id.map_or(0, account))?;
        if let Some(id) = id {
            self.charge(id, charged);
        }
        Ok(())
    }

    /// Bytes of packet memory that the application holds of what has arrived on a connection.
    pub fn lent_bytes(&self, id: ConnId) -> u32 {
        self.slots.get(key(id)).map_or(0, |slot| slot.lent_bytes)
    }

    fn charge(&mut self, id: ConnId, bytes: u32) {
        if bytes > 0
            && let Some(slot) = self.slots.get_mut(key(id))
        {
            slot.lent_bytes = slot.lent_bytes.saturating_add(bytes);
            bound_window(slot);
        }
    }

    /// The application has given something back: windows open.
    #[cold]
    pub(super) fn credit_returned(&mut self) {
        let (slots, dirty) = (&mut self.slots, &mut self.dirty);
        self.pool.take_returned(|back| {
            let index = back.account & ACCOUNT_INDEX;
            let generation = slots.key_at(index).map_or(0, |key| key.generation);
            if account(ConnId { index, generation }) != back.account {
                return;
            }
            if let Some(slot) = slots.at_mut(index) {
                slot.lent_bytes = slot.lent_bytes.saturating_sub(back.bytes);
                bound_window(slot);
                if !slot.marks.contains(Mark::DIRTY) {
                    slot.marks.insert(Mark::DIRTY);
                    dirty.push(index);
                }
            }
        });
    }

    /// Bytes that were received or given to send by reference had to be copied after all.
    pub fn count_copied(&mut self, received: usize, sent: usize) {
        self.stats.bytes_copied_in += received as u64;
        self.stats.bytes_copied_out += sent as u64;
    }

    /// Gives up to `max` completions of a connection to `take`.
    pub fn take_completions(&mut self, id: ConnId, max: usize, mut take: impl FnMut(Completion)) {
        if let Some(marks) = self
            .slots
            .get_mut(key(id))
            .and_then(|slot| slot.completions.as_mut())
        {
            let count = max.min(marks.done.len());
            marks.done.drain(..count).for_each(&mut take);
        }
    }

    /// Takes the marks that are not acknowledged away from a connection: nothing is told of them.
    pub fn forget_marks(&mut self, id: ConnId) -> Vec<u64> {
        let slot = self.slots.get_mut(key(id));
        let marks = slot.and_then(|slot| slot.completions.as_mut());
        marks.map_or_else(Vec::new, |marks| {
            marks.pending.drain(..).map(|lost| lost.mark).collect()
        })
    }

    /// Gives up to `max` completions of connections that are not the application's any more, and
    /// were not inline, to `take`.
    pub fn take_orphans(&mut self, max: usize, take: impl FnMut(Completion)) {
        let count = max.min(self.orphans.len());
        self.orphans.drain(..count).for_each(take);
    }

    /// Moves marks that are acknowledged, or never will be, to those to be told.
    pub(super) fn settle_marks(&mut self, index: u32) {
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        let Some(marks) = &mut slot.completions else {
            return;
        };
        let acked = slot.conn.acked_seq();
        let mut any = false;
        while let Some(&front) = marks.pending.front()
            && front.end.before_eq(acked)
        {
            marks.pending.pop_front();
            marks.done.push_back(front.complete(None));
            any = true;
        }
        if slot.conn.state() == State::Closed {
            let error = Some(slot.error.unwrap_or(ConnError::Aborted));
            any |= !marks.pending.is_empty();
            let lost = marks.pending.drain(..);
            marks.done.extend(lost.map(|lost| lost.complete(error)));
        }
        if marks.pending.is_empty() {
            slot.marks.remove(Mark::MARKED);
        }
        if any && slot.marks.contains(Mark::DETACHED) {
            self.orphan_marks(index);
        } else if any && slot.marks.contains(Mark::INLINE) && !slot.marks.contains(Mark::WOKEN) {
            slot.marks.insert(Mark::WOKEN);
            self.inbox.conns.push_back(index);
        }
    }

    /// Hands what the application has to be told of a connection that it has let go of to where
    /// it will ask.
    pub(super) fn orphan_marks(&mut self, index: u32) {
        let Some(generation) = self.slots.key_at(index).map(|key| key.generation) else {
            return;
        };
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        let (token, inline) = (slot.token, slot.marks.contains(Mark::INLINE));
        let Some(marks) = &mut slot.completions else {
            return;
        };
        let done = marks.done.drain(..);
        if inline {
            let conn = ConnId { index, generation };
            let told = done.map(|completion| (conn, token, completion));
            self.inbox.orphans.extend(told);
        } else {
            self.orphans.extend(done);
        }
    }

    /// A connection's block goes away: every mark that is left is told of.
    pub(super) fn end_marks(&mut self, index: u32) {
        if let Some(slot) = self.slots.at_mut(index)
            && let Some(marks) = &mut slot.completions
        {
            let error = Some(slot.error.unwrap_or(ConnError::Aborted));
            let lost = marks.pending.drain(..);
            marks.done.extend(lost.map(|lost| lost.complete(error)));
            self.orphan_marks(index);
        }
    }
}
