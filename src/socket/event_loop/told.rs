//! What the loop's own shard tells, packet by packet.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::table::What;
use super::{Callbacks, Completion, Inner, Loop, Received};
use crate::device::{FRAME_PIECES_MAX, Pieces};
use crate::socket::{close, errno};
use crate::stack::{Accepted, App, Close, ConnError, ConnId, Shard};
use crate::time::Instant;
use crate::zbuf::{ShardCell, Slice};

/// Takes what the shard says to the application. The shard steps back for each callback, so that
/// the application may use it.
#[derive(Debug)]
pub(super) struct Told<'a, C: Callbacks> {
    pub(super) to: &'a Loop<C>,
    pub(super) cell: &'a ShardCell<Shard>,
}

impl<C: Callbacks> Told<'_, C> {
    /// The callbacks of an entry, and what belongs to it.
    fn who(&self, handle: u64) -> Option<(C, usize)> {
        let inner = self.to.confined.enter()?;
        let mut table = inner.table.borrow_mut();
        let entry = table.any(handle)?;
        Some((entry.callbacks?, entry.user))
    }

    fn inner<R>(&self, f: impl FnOnce(&Inner<C>) -> R) -> Option<R> {
        self.to.confined.enter().map(|inner| f(&inner))
    }

    /// The connection is gone, or will be when the shard has it back.
    fn forget(&self, handle: u64) {
        let fd = self.inner(|inner| {
            let what = inner.live(handle).ok()?.what;
            inner.let_go(handle);
            match what {
                What::Conn { fd, .. } => fd,
                _ => None,
            }
        });
        if let Some(fd) = fd.flatten() {
            // Ends the descriptor and gives the port back.
            let _closed = close::close(fd);
        }
    }
}

impl<C: Callbacks> App for Told<'_, C> {
    fn accepted(&mut self, now: Instant, shard: &mut Shard, listener: u64, new: Accepted) -> u64 {
        let Some((callbacks, user)) = self.who(listener) else {
            shard.close(now, new.conn, Close::Abort);
            return 0;
        };
        let conn = self.inner(|inner| {
            let what = What::Conn {
                id: new.conn,
                fd: None,
            };
            inner.insert(what, Some(callbacks), 0)
        });
        let conn = conn.unwrap_or(0);
        shard.rename(new.conn, conn);
        let user = self
            .cell
            .suspend(shard, || callbacks.accepted(self.to, listener, user, conn));
        // It may have closed it.
        self.inner(|inner| {
            if let Some(entry) = inner.table.borrow_mut().live(conn) {
                entry.user = user;
            }
        });
        conn
    }

    fn connected(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        _: ConnId,
        token: u64,
        result: Result<(), ConnError>,
    ) {
        let Some((callbacks, user)) = self.who(token) else {
            return;
        };
        let error = result.map_err(|error| errno::of_connection(error).raw_os_error());
        self.cell.suspend(shard, || {
            callbacks.connected(self.to, token, user, error.err().unwrap_or(0));
            if error.is_err() {
                self.forget(token);
            }
        });
    }

    fn readable(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        _: ConnId,
        token: u64,
        pieces: &mut Pieces,
    ) {
        let Some((callbacks, user)) = self.who(token) else {
            return;
        };
        let lent: ArrayVec<Received, FRAME_PIECES_MAX> = pieces
            .iter()
            .map(|piece| Received {
                loan: piece.expose(),
                copied: false,
            })
            .collect();
        self.cell
            .suspend(shard, || callbacks.readable(self.to, token, user, &lent));
        pieces.iter().for_each(Slice::withdraw);
    }

    fn writable(&mut self, _: Instant, shard: &mut Shard, _: ConnId, token: u64) {
        if let Some((callbacks, user)) = self.who(token) {
            self.cell
                .suspend(shard, || callbacks.writable(self.to, token, user));
        }
    }

    fn completed(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        _: ConnId,
        token: u64,
        completions: &[crate::stack::Completion],
    ) {
        let Some((callbacks, user)) = self.who(token) else {
            return;
        };
        for some in completions.chunks(COMPLETIONS_AT_ONCE) {
            let done: ArrayVec<Completion, COMPLETIONS_AT_ONCE> =
                some.iter().map(|&one| one.into()).collect();
            self.cell
                .suspend(shard, || callbacks.completed(self.to, token, user, &done));
        }
        self.inner(|inner| inner.told_marks(token, completions.len()));
    }

    fn closed(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        _: ConnId,
        token: u64,
        error: Option<ConnError>,
    ) {
        let Some((callbacks, user)) = self.who(token) else {
            return;
        };
        let error = error.map_or(0, |error| errno::of_connection(error).raw_os_error());
        self.cell.suspend(shard, || {
            callbacks.closed(self.to, token, user, error);
            self.forget(token);
        });
    }
}

/// Completions that are told together.
const COMPLETIONS_AT_ONCE: usize = 32;
