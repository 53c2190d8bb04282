//! Connections that the loop reaches over their descriptors: kernel sockets, and streams of
//! shards that are not its own.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::table::{OverFd, What};
use super::{Callbacks, Completion, Inner, Loop, Piece, Received};
use crate::socket::description::{self, Pin};
use crate::socket::{buffers, listener, runtime, stream, zero_copy};
use crate::sys::{self, Errno};

/// How much of a kernel socket's bytes one read takes.
const READ_BYTES: usize = 16384;
/// How many reads of one connection before others have their turn.
const READS_MAX: usize = 4;
/// How many connections one listener accepts before others have their turn.
const ACCEPTS_MAX: usize = 64;
/// Pieces that are told together.
const PIECES_AT_ONCE: usize = 8;

/// The events that a connection waits for.
pub(super) fn interest(conn: &OverFd) -> u32 {
    let mut events = 0;
    if conn.connecting || conn.wants_room {
        events |= libc::EPOLLOUT;
    }
    if !conn.connecting && !conn.paused && !conn.end_told {
        events |= libc::EPOLLIN | libc::EPOLLRDHUP;
    }
    events as u32
}

fn stream_of(fd: RawFd) -> Option<Pin> {
    description::pin_fd(fd).filter(|pin| pin.stream().is_some())
}

impl<C: Callbacks> Inner<C> {
    /// Changes a connection, and what is waited for on it.
    pub(super) fn put(&self, handle: u64, conn: OverFd) -> Result<(), Errno> {
        if let Some(entry) = self.table.borrow_mut().live(handle) {
            entry.what = What::Fd(conn);
        }
        self.rewatch(conn.fd, handle, interest(&conn))
    }

    pub(super) fn send_over_fd(
        &self,
        handle: u64,
        mut conn: OverFd,
        pieces: &[Piece<'_>],
        flags: i32,
    ) -> Result<usize, Errno> {
        let total: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let sent = match stream_of(conn.fd) {
            Some(pin) => {
                let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                zero_copy::send(&pin, pieces, flags)
            }
            None => sys::send(conn.fd, pieces.iter().map(|piece| piece.bytes), flags),
        };
        if !conn.wants_room && sent.map_or_else(|errno| errno == Errno::AGAIN, |sent| sent < total)
        {
            conn.wants_room = true;
            self.put(handle, conn)?;
        }
        let sent = sent?;
        self.count_marks(handle, pieces, sent);
        if stream_of(conn.fd).is_none() {
            // The kernel has a copy.
            let mut end = 0;
            let whole = pieces.iter().take_while(|piece| {
                end += piece.bytes.len();
                end <= sent
            });
            let tokens = whole.map(|piece| piece.token).filter(|&token| token != 0);
            let done = tokens.map(|token| {
                let completion = Completion {
                    token,
                    error: None,
                    copied: true,
                };
                (handle, completion)
            });
            self.done.borrow_mut().extend(done);
        } else if pieces.iter().any(|piece| piece.token != 0) {
            self.look.borrow_mut().push_back(handle);
        }
        Ok(sent)
    }

    /// Before a stream of another shard goes: whatever it has not completed counts as lost.
    pub(super) fn lose_completions(&self, handle: u64, fd: RawFd) {
        let Some(name) = stream_of(fd).and_then(|pin| pin.stream()) else {
            return;
        };
        let lost = runtime::with_shard(name.shard, |shard| shard.forget_marks(name.conn));
        let lost = lost.unwrap_or_default().into_iter().map(|mark| Completion {
            token: mark,
            error: Some(Errno::CONNABORTED),
            copied: false,
        });
        let mut done = self.done.borrow_mut();
        done.extend(lost.map(|completion| (handle, completion)));
    }

    /// Moves what a stream of another shard has completed to what is to be told.
    pub(super) fn finish_completions(&self, handle: u64, fd: RawFd) {
        let Some(pin) = stream_of(fd) else { return };
        let mut all = Vec::new();
        zero_copy::completions(fd, Some(&pin), usize::MAX, |done| all.push(done));
        self.done
            .borrow_mut()
            .extend(all.into_iter().map(|done| (handle, done)));
    }
}

impl<C: Callbacks> Loop<C> {
    /// Something is ready in the set.
    pub(super) fn on_event(&self, inner: &Inner<C>, handle: u64, events: u32) {
        let Ok(entry) = inner.live(handle) else {
            return;
        };
        match entry.what {
            What::Watch { fd, task } => C::ready(task, self, fd, events),
            What::Listener { fd } => self.accept_over_fd(inner, handle, fd),
            What::Fd(conn) => self.visit(inner, handle, conn, events),
            What::Conn { .. } | What::Timer { .. } => {}
        }
    }

    fn accept_over_fd(&self, inner: &Inner<C>, listener: u64, fd: RawFd) {
        for _ in 0..ACCEPTS_MAX {
            let Ok(entry) = inner.live(listener) else {
                return;
            };
            let Some(callbacks) = entry.callbacks else {
                return;
            };
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let accepted = match description::pin_fd(fd) {
                Some(pin) => listener::accept(&pin, flags).map(|new| new.fd),
                None => sys::accept4(fd, flags).map(|(fd, _)| fd),
            };
            let Ok(new) = accepted else {
                return;
            };
            let Ok(conn) = inner.take_over(new, true, callbacks, 0) else {
                continue;
            };
            let user = callbacks.accepted(self, listener, entry.user, conn);
            if let Some(entry) = inner.table.borrow_mut().live(conn) {
                entry.user = user;
            }
        }
    }

    fn visit(&self, inner: &Inner<C>, handle: u64, mut conn: OverFd, events: u32) {
        let Ok(entry) = inner.live(handle) else {
            return;
        };
        let Some(callbacks) = entry.callbacks else {
            return;
        };
        if conn.connecting {
            let error = pending_error(conn.fd);
            if error != 0 {
                callbacks.connected(self, handle, entry.user, error);
                let _closed = inner.close(handle, false);
                return;
            }
            conn.connecting = false;
            let _watched = inner.put(handle, conn);
            callbacks.connected(self, handle, entry.user, 0);
            return;
        }
        if !conn.paused && !self.read_over_fd(inner, handle, conn) {
            return;
        }
        let Ok(What::Fd(mut conn)) = inner.live(handle).map(|entry| entry.what) else {
            return;
        };
        self.tell_completions(inner, handle, conn.fd);
        let ended = libc::EPOLLHUP | libc::EPOLLERR;
        if events & ended as u32 != 0 && (!conn.paused || events & libc::EPOLLERR as u32 != 0) {
            self.end(inner, handle, pending_error(conn.fd));
        } else if conn.wants_room && events & libc::EPOLLOUT as u32 != 0 {
            conn.wants_room = false;
            let _watched = inner.put(handle, conn);
            if let Ok(entry) = inner.live(handle) {
                callbacks.writable(self, handle, entry.user);
            }
        }
    }

    /// False: the connection is not the application's any more.
    fn read_over_fd(&self, inner: &Inner<C>, handle: u64, conn: OverFd) -> bool {
        for _ in 0..READS_MAX {
            let Ok(entry) = inner.live(handle) else {
                return false;
            };
            let (What::Fd(conn_now), Some(callbacks)) = (entry.what, entry.callbacks) else {
                return false;
            };
            if conn_now.paused || conn_now.end_told {
                return true;
            }
            match read(conn.fd) {
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(errno) => {
                    self.tell_completions(inner, handle, conn.fd);
                    self.end(inner, handle, errno.raw_os_error());
                    return false;
                }
                Ok(pieces) => {
                    if pieces.is_empty() {
                        let mut conn = conn_now;
                        conn.end_told = true;
                        let _watched = inner.put(handle, conn);
                    }
                    callbacks.readable(self, handle, entry.user, &pieces);
                    for piece in pieces {
                        let _kept_by_the_application = buffers::free(piece.loan.as_ptr());
                    }
                }
            }
        }
        true
    }

    fn end(&self, inner: &Inner<C>, handle: u64, error: i32) {
        if let Ok(entry) = inner.live(handle)
            && let Some(callbacks) = entry.callbacks
        {
            callbacks.closed(self, handle, entry.user, error);
            let _closed = inner.close(handle, false);
        }
    }

    /// Tells what a stream of another shard has completed.
    pub(super) fn tell_completions(&self, inner: &Inner<C>, handle: u64, fd: RawFd) {
        let marks = inner.table.borrow_mut().any(handle).map_or(0, |e| e.marks);
        if marks == 0 {
            return;
        }
        inner.finish_completions(handle, fd);
        let left = inner.table.borrow_mut().any(handle).map_or(0, |e| e.marks);
        if left > 0 && stream_of(fd).is_some() {
            inner.look.borrow_mut().push_back(handle);
        }
    }
}

fn read(fd: RawFd) -> Result<zero_copy::Pieces, Errno> {
    if let Some(pin) = stream_of(fd) {
        return zero_copy::recv(&pin, PIECES_AT_ONCE, libc::MSG_DONTWAIT);
    }
    let mut bytes = [0u8; READ_BYTES];
    let count = sys::read(fd, &mut bytes)?;
    let mut pieces = zero_copy::Pieces::new();
    let read = bytes.get(..count).unwrap_or(&[]);
    if !read.is_empty() {
        pieces.push(Received {
            loan: buffers::copy_apart(read)?,
            copied: true,
        });
    }
    Ok(pieces)
}

fn pending_error(fd: RawFd) -> i32 {
    match stream_of(fd) {
        Some(pin) => stream::take_error(&pin).map_or(0, Errno::raw_os_error),
        None => sys::getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(0),
    }
}
