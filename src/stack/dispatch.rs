//! Who is told what a packet did, and when (LUNA §5.1).
//!
//! *Batch*: readiness is collected and taken with [`Shard::take_wakeups`] after the turn.
//! *Inline*: after each packet, before the next is looked at, the application is called, and
//! what it answers goes to the device. Each socket is one or the other.
//!
//! Owns the lists of inline sockets that something has happened to. Does not know what an
//! application does.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::api::{Accepted, ConnError, ConnId, ListenId, Ready};
use super::listeners::listener_key;
use super::shard::{Mark, Shard};
use super::slab::SlabKey;
use super::zero_copy::Completion;
use crate::device::Pieces;
use crate::tcp::State;
use crate::time::Instant;

/// Is called by a turn where the application may run.
pub trait Dispatch {
    /// Whether it wants to be called after each packet.
    const INLINE: bool;
    /// Something may have happened to inline sockets. The shard is in order, and may be used
    /// in every way but turning it.
    fn dispatch(&mut self, now: Instant, shard: &mut Shard);
}

/// Batch-r2c: nobody is called.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch;

impl Dispatch for Batch {
    const INLINE: bool = false;
    fn dispatch(&mut self, _: Instant, _: &mut Shard) {}
}

/// What an application of the inline loop does. `token` is what it gave the connection.
///
/// Whatever is called may use the shard in every way but turning it: send on any connection,
/// close any, its own included.
pub trait App {
    /// A listener that was given `listener` as its token has a new connection. Returns the
    /// connection's token.
    fn accepted(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        listener: u64,
        accepted: Accepted,
    ) -> u64;

    /// How a connect ended. After an error the connection is gone.
    fn connected(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        conn: ConnId,
        token: u64,
        result: Result<(), ConnError>,
    );

    /// Bytes have arrived, in order; none: the peer has finished sending. What is left in
    /// `pieces` is given back to the pool.
    fn readable(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        conn: ConnId,
        token: u64,
        pieces: &mut Pieces,
    );

    /// There is room again after a send that took less than it was given.
    fn writable(&mut self, now: Instant, shard: &mut Shard, conn: ConnId, token: u64) {
        let _ = (now, shard, conn, token);
    }

    /// What was sent with marks is acknowledged, or never will be. Once for each mark; also for
    /// connections that are gone.
    fn completed(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        conn: ConnId,
        token: u64,
        completions: &[Completion],
    ) {
        let _ = (now, shard, conn, token, completions);
    }

    /// The connection is over, and gone when this returns; not called after [`Shard::close`].
    fn closed(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        conn: ConnId,
        token: u64,
        error: Option<ConnError>,
    );
}

/// Inline-r2c: calls an [`App`] (LUNA §5.1).
#[derive(Debug, Default)]
pub struct Inline<A>(pub A);

/// Completions that are told together.
const COMPLETIONS_AT_ONCE: usize = 32;

/// Inline sockets that something has happened to.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Connections, each once ([`Mark::WOKEN`]).
    pub(super) conns: VecDeque<u32>,
    /// Listeners, once per connection that is ready.
    pub(super) listeners: VecDeque<u32>,
    /// Completions of inline connections that are gone.
    pub(super) orphans: VecDeque<(ConnId, u64, Completion)>,
    /// Connections that the application has sent something on while it was called.
    pub(super) answered: Vec<u32>,
    /// The application is being called.
    pub(super) active: bool,
    /// About what arrived on this connection.
    pub(super) told: Option<ConnId>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.listeners.is_empty() && self.orphans.is_empty()
    }
}

/// A connection, as the loop sees it at one moment.
struct Seen {
    conn: ConnId,
    token: u64,
    edges: Ready,
}

impl<A: App> Dispatch for Inline<A> {
    const INLINE: bool = true;

    fn dispatch(&mut self, now: Instant, shard: &mut Shard) {
        // What callbacks cause (a close that wakes another connection) is seen in this loop too.
        loop {
            if let Some(listener) = shard.inbox.listeners.pop_front() {
                self.accept(now, shard, listener);
            } else if let Some(index) = shard.inbox.conns.pop_front() {
                if let Some(seen) = shard.look(index) {
                    self.visit(now, shard, &seen);
                }
            } else if let Some((conn, token, completion)) = shard.inbox.orphans.pop_front() {
                self.0.completed(now, shard, conn, token, &[completion]);
            } else {
                return;
            }
        }
    }
}

impl<A: App> Inline<A> {
    fn accept(&mut self, now: Instant, shard: &mut Shard, listener: u32) {
        let Some((token, accepted)) = shard.accept_next(listener) else {
            return;
        };
        let own = self.0.accepted(now, shard, token, accepted);
        shard.adopt(accepted.conn, own, true);
    }

    fn visit(&mut self, now: Instant, shard: &mut Shard, seen: &Seen) {
        let Seen { conn, token, edges } = *seen;
        if !shard.has_mark(conn, Mark::ANNOUNCED) {
            let over = shard.is_over(conn);
            if over {
                let error = shard.take_error(conn).unwrap_or(ConnError::Aborted);
                shard.mark(conn, Mark::ANNOUNCED);
                self.0.connected(now, shard, conn, token, Err(error));
                shard.release(now, conn);
                return;
            }
            if !edges.contains(Ready::OUT) {
                return;
            }
            shard.mark(conn, Mark::ANNOUNCED);
            self.0.connected(now, shard, conn, token, Ok(()));
        }
        self.read(now, shard, conn, token);
        self.complete(now, shard, conn, token);
        // One that does not read yet is told of an end in good order when it has read.
        if shard.is_over(conn) && (!shard.has_mark(conn, Mark::PAUSED) || shard.has_error(conn)) {
            let error = shard.take_error(conn);
            self.0.closed(now, shard, conn, token, error);
            shard.release(now, conn);
        } else if edges.contains(Ready::OUT) && shard.stops_waiting(conn) {
            self.0.writable(now, shard, conn, token);
        }
    }

    fn read(&mut self, now: Instant, shard: &mut Shard, conn: ConnId, token: u64) {
        loop {
            let mut pieces = Pieces::new();
            if !shard.take_pieces(conn, &mut pieces) {
                return;
            }
            shard.inbox.told = Some(conn);
            self.0.readable(now, shard, conn, token, &mut pieces);
            shard.inbox.told = None;
        }
    }

    fn complete(&mut self, now: Instant, shard: &mut Shard, conn: ConnId, token: u64) {
        loop {
            let mut some = arrayvec::ArrayVec::<_, COMPLETIONS_AT_ONCE>::new();
            shard.take_completions(conn, COMPLETIONS_AT_ONCE, |one| some.push(one));
            if some.is_empty() {
                return;
            }
            self.0.completed(now, shard, conn, token, &some);
        }
    }
}

const fn key(id: ConnId) -> SlabKey {
    SlabKey {
        index: id.index,
        generation: id.generation,
    }
}

impl Shard {
    /// Makes a connection an inline one, with this token. What has happened to it already is
    /// told at the next dispatch; that it is connected only if it is not `known`.
    pub fn adopt(&mut self, id: ConnId, token: u64, known: bool) {
        let Some(slot) = self.slots.get_mut(key(id)) else {
            return;
        };
        slot.token = token;
        // Whatever list it was on: what has happened so far is told from its state.
        slot.marks.remove(Mark::WOKEN);
        slot.marks.insert(Mark::INLINE);
        slot.marks.set(Mark::ANNOUNCED, known);
        let mut level = self.ready(id);
        level.set(Ready::OUT, !known && level.contains(Ready::OUT));
        self.wake(id.index, level);
    }

    /// Replaces the token of an inline connection.
    pub fn rename(&mut self, id: ConnId, token: u64) {
        if let Some(slot) = self.slots.get_mut(key(id)) {
            slot.token = token;
        }
    }

    /// Makes a listener an inline one, with this token.
    pub fn adopt_listener(&mut self, id: ListenId, token: u64) {
        let Some(listener) = self.listeners.get_mut(listener_key(id)) else {
            return;
        };
        let waiting = listener.make_inline(token);
        for _ in 0..waiting {
            self.inbox.listeners.push_back(id.index);
        }
    }

    /// The connection whose bytes are before the application, while it is called about some.
    pub fn told(&self) -> Option<ConnId> {
        self.inbox.told
    }

    /// Whether something happened to an inline socket that its application was not told.
    pub fn has_inline_work(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// The token of an inline connection; `None` if the name is stale or the application has
    /// let go of it.
    pub fn inline_token(&self, id: ConnId) -> Option<u64> {
        let slot = self.slots.get(key(id))?;
        let live = slot.marks.contains(Mark::INLINE) && !slot.marks.contains(Mark::DETACHED);
        live.then_some(slot.token)
    }

    /// The process ends: closes what inline applications have open, in good order.
    pub fn close_inline(&mut self, now: Instant) {
        let all: Vec<u32> = self.slots.indices().collect();
        for index in all {
            let Some(key) = self.slots.key_at(index) else {
                continue;
            };
            let conn = ConnId {
                index: key.index,
                generation: key.generation,
            };
            if self.has_mark(conn, Mark::INLINE) {
                self.release(now, conn);
            }
        }
    }

    /// Stops or resumes telling of bytes that arrive.
    pub fn pause_reading(&mut self, id: ConnId, paused: bool) {
        let Some(slot) = self.slots.get_mut(key(id)) else {
            return;
        };
        slot.marks.set(Mark::PAUSED, paused);
        if !paused {
            let level = self.ready(id) - Ready::OUT;
            self.wake(id.index, level);
        }
    }

    /// Calls the application, and sends what it answers, unless that is to wait for more.
    pub(super) fn run_inline<D: Dispatch>(&mut self, now: Instant, dispatch: &mut D, send: bool) {
        if !self.inbox.is_empty() {
            self.inbox.active = true;
            dispatch.dispatch(now, self);
            self.inbox.active = false;
        }
        if send {
            self.send_answers(now);
        }
    }

    /// Notes that the application has sent something.
    #[inline]
    pub(super) fn answered(&mut self, index: u32) {
        if self.inbox.active && self.inbox.answered.last() != Some(&index) {
            self.inbox.answered.push(index);
        }
    }

    fn has_mark(&self, id: ConnId, mark: Mark) -> bool {
        self.slots
            .get(key(id))
            .is_some_and(|slot| slot.marks.contains(mark))
    }

    fn mark(&mut self, id: ConnId, mark: Mark) {
        if let Some(slot) = self.slots.get_mut(key(id)) {
            slot.marks.insert(mark);
        }
    }

    fn look(&mut self, index: u32) -> Option<Seen> {
        let generation = self.slots.key_at(index)?.generation;
        let slot = self.slots.at_mut(index)?;
        if !slot.marks.contains(Mark::WOKEN | Mark::INLINE) {
            return None;
        }
        slot.marks.remove(Mark::WOKEN);
        let edges = core::mem::take(&mut slot.edges);
        let token = slot.token;
        let gone = slot.marks.contains(Mark::DETACHED);
        (!gone).then_some(Seen {
            conn: ConnId { index, generation },
            token,
            edges,
        })
    }

    fn accept_next(&mut self, index: u32) -> Option<(u64, Accepted)> {
        let generation = self.listeners.key_at(index)?.generation;
        let token = self.listeners.at(index)?.inline_token()?;
        let accepted = self.accept(ListenId { index, generation }, 0)?;
        // Until the application has named it, nothing is told of it.
        let slot = self.slots.get_mut(key(accepted.conn))?;
        slot.marks
            .insert(Mark::INLINE | Mark::ANNOUNCED | Mark::WOKEN);
        Some((token, accepted))
    }

    /// Whether nothing more will come or go on a connection that still is the application's.
    fn is_over(&self, id: ConnId) -> bool {
        self.slots.get(key(id)).is_some_and(|slot| {
            !slot.marks.contains(Mark::DETACHED)
                && matches!(slot.conn.state(), State::Closed | State::TimeWait)
        })
    }

    fn has_error(&self, id: ConnId) -> bool {
        let slot = self.slots.get(key(id));
        slot.is_some_and(|slot| slot.error.is_some())
    }

    /// The application has been told the end: lets go of what is left.
    fn release(&mut self, now: Instant, id: ConnId) {
        if !self.has_mark(id, Mark::DETACHED) {
            self.close(now, id, super::Close::Graceful);
        }
    }

    /// Whether the application waits for room, and there is some: it does not wait any more.
    fn stops_waiting(&mut self, id: ConnId) -> bool {
        let Some(slot) = self.slots.get_mut(key(id)) else {
            return false;
        };
        let waits = slot.marks.contains(Mark::WANTS_ROOM) && !slot.marks.contains(Mark::DETACHED);
        if waits && slot.conn.send_space() > 0 {
            slot.marks.remove(Mark::WANTS_ROOM);
            return true;
        }
        false
    }

    /// What can be read, up to as much as is told at once. False: nothing is to be told. True
    /// and no pieces: the end of the stream.
    fn take_pieces(&mut self, id: ConnId, pieces: &mut Pieces) -> bool {
        let Some(slot) = self.slots.get_mut(key(id)) else {
            return false;
        };
        if slot.marks.intersects(Mark::PAUSED | Mark::DETACHED) {
            return false;
        }
        let mut bytes = 0;
        while !pieces.is_full()
            && let Some(piece) = slot.conn.pop_piece(usize::MAX)
        {
            bytes += piece.len() as u64;
            pieces.push(piece);
        }
        if !pieces.is_empty() {
            self.stats.bytes_in += bytes;
            self.mark_dirty(id.index);
            return true;
        }
        if slot.conn.recv_finished() && !slot.marks.contains(Mark::END_TOLD) {
            slot.marks.insert(Mark::END_TOLD);
            return true;
        }
        false
    }
}
