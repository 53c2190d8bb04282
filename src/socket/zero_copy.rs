//! Receiving and sending by reference on descriptors, and what has become of what was sent.
//!
//! Owns the completions of sockets on the kernel, where bytes are copied and done with at once.
//! The rest is the shards'.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;

use arrayvec::ArrayVec;

use super::description::Pin;
use super::stream::{
    is_connecting, is_nonblocking, name, on_shard, recv_deadline, recv_failed, send_deadline,
    send_failed, wait_for_memory,
};
use super::{blocking, buffers, errno, runtime};
use crate::stack::{ConnId, Ready, RecvError, SendError, Shard};
use crate::sys::{self, Errno, ForkMutex};
use crate::zbuf::Loan;

/// Most pieces that one call receives.
pub const PIECES_MAX: usize = 64;

/// Bytes that the application has been given.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Where they are.
    pub loan: Loan,
    /// They were copied on their way.
    pub copied: bool,
}

/// Pieces received by one call.
pub type Pieces = ArrayVec<Received, PIECES_MAX>;

/// Bytes to send.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The bytes, wherever they are.
    pub bytes: &'a [u8],
    /// Comes back when they are acknowledged; 0: nothing does.
    pub token: u64,
}

/// What became of bytes that were sent with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token.
    pub token: u64,
    /// Why they are lost, if they are.
    pub error: Option<Errno>,
    /// They were copied when they were sent.
    pub copied: bool,
}

impl From<crate::stack::Completion> for Completion {
    fn from(done: crate::stack::Completion) -> Self {
        Self {
            token: done.mark,
            error: done.error.map(errno::of_connection),
            copied: done.copied,
        }
    }
}

/// Receives what has arrived, up to `max` pieces. None is the end of the stream.
///
/// # Errors
///
/// Those of `recv(2)` on TCP; `ENOMEM` if nothing could be lent.
pub fn recv(pin: &Pin, max: usize, flags: i32) -> Result<Pieces, Errno> {
    let name = name(pin)?;
    let mut deadline = None;
    let mut turned = false;
    loop {
        let found = on_shard(name, |shard| lend_pieces(shard, name.conn, max))?;
        match found {
            Ok(pieces) => return pieces,
            Err(RecvError::NotConnected) if !is_connecting(pin) => return Err(Errno::NOTCONN),
            Err(RecvError::WouldBlock | RecvError::NotConnected) => {}
            Err(error) => return recv_failed(pin, error).map(|_| Pieces::new()),
        }
        if !is_nonblocking(pin, flags) {
            let until = *deadline.get_or_insert_with(|| recv_deadline(pin));
            blocking::wait(pin, Ready::IN, until)?;
        } else if turned || !runtime::turn_for(name.shard) {
            return Err(Errno::AGAIN);
        } else {
            turned = true;
        }
    }
}

/// Takes pieces and lends them, or copies of them where that much is lent already, or where
/// the link is at risk of having nothing to receive into.
fn lend_pieces(
    shard: &mut Shard,
    conn: ConnId,
    max: usize,
) -> Result<Result<Pieces, Errno>, RecvError> {
    let mut pieces = Pieces::new();
    let room = max.min(PIECES_MAX);
    while pieces.len() < room {
        let copies = shard.pool().lends_too_much() || shard.pool().low_water();
        let slice = match shard.recv_slice(conn) {
            Ok(Some(slice)) => slice,
            Ok(None) => break,
            Err(_) if !pieces.is_empty() => break,
            Err(error) => return Err(error),
        };
        if !copies {
            pieces.push(Received {
                loan: shard.lend(conn, slice),
                copied: false,
            });
            continue;
        }
        let copy = buffers::copy_apart(&slice);
        shard.count_copied(slice.len(), 0);
        // There is no memory for a copy either: the application keeps what it holds for longer
        // than it should, but what it has not got is lost to nobody.
        let loan = copy.unwrap_or_else(|_| shard.lend(conn, slice));
        pieces.push(Received { loan, copied: true });
    }
    Ok(Ok(pieces))
}

/// Sends as much as there is room for; returns how many bytes. Raises `SIGPIPE` as `send` does.
///
/// # Errors
///
/// Those of `send(2)` on TCP; `EINVAL` or `EFAULT` for bytes in a buffer that the application
/// does not hold; `ENOBUFS` if too many completions were not fetched.
pub fn send(pin: &Pin, pieces: &[Piece<'_>], flags: i32) -> Result<usize, Errno> {
    let result = send_quietly(pin, pieces, flags);
    if result == Err(Errno::PIPE) && flags & libc::MSG_NOSIGNAL == 0 {
        sys::raise(libc::SIGPIPE);
    }
    result
}

/// Where a send has got to.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Pieces taken whole.
    pieces: usize,
    /// Bytes of the next one.
    of_next: usize,
    /// Bytes in all.
    bytes: usize,
}

fn send_quietly(pin: &Pin, pieces: &[Piece<'_>], flags: i32) -> Result<usize, Errno> {
    let name = name(pin).map_err(|_| Errno::PIPE)?;
    let more = flags & libc::MSG_MORE != 0;
    let mut done = Progress::default();
    let mut deadline = None;
    loop {
        let before = done.bytes;
        let outcome = on_shard(name, |shard| {
            queue_pieces(shard, name.conn, pieces, &mut done, more)
        })?;
        if done.bytes > before {
            runtime::after_write(name.shard, done.bytes - before);
        }
        let refused = match outcome {
            Ok(()) => return Ok(done.bytes),
            Err(refused) => refused,
        };
        match refused {
            Refused::Misuse(errno) if done.bytes == 0 => return Err(errno),
            Refused::Send(SendError::WouldBlock | SendError::NoMemory) => {}
            Refused::Send(SendError::NotConnected) if is_connecting(pin) => {}
            _ if done.bytes > 0 => return Ok(done.bytes),
            Refused::Send(error) => return send_failed(pin, error),
            Refused::Misuse(errno) => return Err(errno),
        }
        if is_nonblocking(pin, flags) {
            let none = match refused {
                Refused::Send(SendError::NoMemory) => Errno::NOBUFS,
                _ => Errno::AGAIN,
            };
            return if done.bytes > 0 {
                Ok(done.bytes)
            } else {
                Err(none)
            };
        }
        let until = *deadline.get_or_insert_with(|| send_deadline(pin));
        let waited = match refused {
            Refused::Send(SendError::NoMemory) => wait_for_memory(pin, until),
            _ => blocking::wait(pin, Ready::OUT, until).map(drop),
        };
        if let Err(errno) = waited {
            return if done.bytes > 0 {
                Ok(done.bytes)
            } else {
                Err(errno)
            };
        }
    }
}

enum Refused {
    Send(SendError),
    Misuse(Errno),
}

/// Queues what there is room for.
fn queue_pieces(
    shard: &mut Shard,
    conn: ConnId,
    pieces: &[Piece<'_>],
    done: &mut Progress,
    more: bool,
) -> Result<(), Refused> {
    while let Some(piece) = pieces.get(done.pieces) {
        let rest = piece.bytes.get(done.of_next..).unwrap_or(&[]);
        let last = done.pieces + 1 == pieces.len();
        let taken = queue_one(shard, conn, (rest, piece.token), more || !last);
        let taken = match taken {
            Ok(taken) => taken,
            Err(refused) => {
                shard.end_more(conn);
                return Err(refused);
            }
        };
        done.bytes += taken;
        if taken < rest.len() {
            done.of_next += taken;
            shard.end_more(conn);
            return Err(Refused::Send(SendError::WouldBlock));
        }
        done.pieces += 1;
        done.of_next = 0;
    }
    Ok(())
}

/// Queues bytes on a connection of `shard`, by reference if they lie in its memory.
///
/// # Errors
///
/// The shard's, or that the application does not hold them.
fn queue_one(
    shard: &mut Shard,
    conn: ConnId,
    (bytes, token): (&[u8], u64),
    more: bool,
) -> Result<usize, Refused> {
    if shard.pool().owns(bytes.as_ptr()) {
        let slice = shard
            .pool_mut()
            .slice_from_lent(bytes.as_ptr(), bytes.len());
        let slice = slice.map_err(|error| Refused::Misuse(buffers::errno_of(error)))?;
        return shard
            .send_slice(conn, slice, token, more)
            .map_err(Refused::Send);
    }
    shard
        .send_marked(runtime::now(), conn, bytes, token, more)
        .map_err(Refused::Send)
}

/// As [`send`] with `MSG_DONTWAIT`, on a connection of a shard that is no descriptor's.
///
/// # Errors
///
/// As `send`.
pub fn send_on(
    shard: &mut Shard,
    conn: ConnId,
    pieces: &[Piece<'_>],
    more: bool,
) -> Result<usize, Errno> {
    let mut done = Progress::default();
    match queue_pieces(shard, conn, pieces, &mut done, more) {
        Ok(()) => Ok(done.bytes),
        Err(_) if done.bytes > 0 => Ok(done.bytes),
        Err(Refused::Misuse(errno)) => Err(errno),
        Err(Refused::Send(SendError::NoMemory)) => Err(Errno::NOBUFS),
        Err(Refused::Send(error)) => Err(errno::of_send(error)),
    }
}

// ---- completions ----

/// Those of sockets on the kernel, by descriptor, and under −1 those of closed ones.
static KERNEL: ForkMutex<BTreeMap<RawFd, VecDeque<Completion>>> = ForkMutex::new(BTreeMap::new());
/// How many there are, so that most calls need not look.
static KERNEL_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Of sockets whose descriptor has been closed.
pub const CLOSED: RawFd = -1;

/// The kernel has taken (a copy of) what was sent on `fd` with these tokens; zero is none.
pub fn completed_by_kernel(fd: RawFd, tokens: impl Iterator<Item = u64>) {
    let mut all = KERNEL.lock();
    for token in tokens.filter(|&token| token != 0) {
        all.entry(fd).or_default().push_back(Completion {
            token,
            error: None,
            copied: true,
        });
        KERNEL_COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

/// A descriptor is about to be closed: its completions are kept apart.
pub(super) fn closes(fd: RawFd) {
    if KERNEL_COUNT.load(Ordering::Relaxed) != 0 {
        let mut all = KERNEL.lock();
        if let Some(left) = all.remove(&fd) {
            all.entry(CLOSED).or_default().extend(left);
        }
    }
}

/// Gives up to `max` completions of `fd` ([`CLOSED`]: of closed descriptors) to `take`; returns
/// how many.
pub fn completions(
    fd: RawFd,
    pin: Option<&Pin>,
    max: usize,
    mut take: impl FnMut(Completion) + Send,
) -> usize {
    let mut count = 0;
    let mut give = |done: Completion| {
        count += 1;
        take(done);
    };
    if fd == CLOSED {
        let mut left = max;
        for shard in 0..runtime::shards() {
            let _runs = runtime::with_shard(shard, |shard| {
                shard.take_orphans(left, |done| {
                    left -= 1;
                    give(done.into());
                });
            });
        }
    } else if let Some(name) = pin.and_then(|pin| pin.stream()) {
        let _runs = on_shard(name, |shard| {
            shard.take_completions(name.conn, max, |done| give(done.into()));
        });
    }
    if KERNEL_COUNT.load(Ordering::Relaxed) != 0 {
        let mut all = KERNEL.lock();
        if let Some(queue) = all.get_mut(&fd) {
            let some = queue.len().min(max - count);
            KERNEL_COUNT.fetch_sub(some, Ordering::Relaxed);
            for done in queue.drain(..some) {
                count += 1;
                take(done);
            }
            if queue.is_empty() {
                all.remove(&fd);
            }
        }
    }
    count
}
