//! Sending and receiving on a connection of a shard, with the semantics of Linux's `tcp(7)`.
//!
//! Knows which shard to ask and how long to wait; the bytes are the shard's.
#![forbid(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};

use super::cell::Phase;
use super::description::{Pin, StreamName};
use super::options::Int;
use super::{blocking, errno, runtime};
use crate::stack::{ConnInfo, Ready, RecvError, RecvMode, SendError};
use crate::sys::{self, Errno};
use crate::time::{Duration, Instant};

/// How often a call that waits for more than is there looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// `MSG_ERRQUEUE`, and what Linux ignores on TCP, are not in here.
const MSG_URGENT: i32 = libc::MSG_OOB;

pub(super) fn name(pin: &Pin) -> Result<StreamName, Errno> {
    pin.stream().ok_or(Errno::NOTCONN)
}

/// Runs `f` on the stream's shard.
pub(super) fn on_shard<R: Send>(
    name: StreamName,
    f: impl FnOnce(&mut crate::stack::Shard) -> R + Send,
) -> Result<R, Errno> {
    runtime::with_shard(name.shard, f).ok_or(Errno::NOTCONN)
}

/// Readiness of a stream.
pub fn ready(pin: &Pin) -> Ready {
    let ready = name(pin).and_then(|name| on_shard(name, |shard| shard.ready(name.conn)));
    match ready {
        // An open or dead connection has more to say: this is none at all.
        Ok(ready) if ready != Ready::ERR | Ready::HUP => ready,
        _ => ready_without(pin),
    }
}

/// Readiness of a stream that has no connection.
fn ready_without(pin: &Pin) -> Ready {
    let cell = pin.socket.lock();
    let mut ready = Ready::OUT | Ready::HUP;
    if cell.read_over {
        ready |= Ready::IN | Ready::RDHUP;
    }
    if cell.pending.is_some() {
        ready |= Ready::ERR;
    }
    ready
}

/// What the shard knows of the connection.
pub fn info(pin: &Pin) -> Option<ConnInfo> {
    let name = pin.stream()?;
    runtime::with_shard(name.shard, |shard| shard.info(name.conn))?
}

/// Takes the pending error.
pub fn take_error(pin: &Pin) -> Option<Errno> {
    if let Some(pending) = pin.socket.lock().pending.take() {
        return Some(pending);
    }
    let name = pin.stream()?;
    let error = runtime::with_shard(name.shard, |shard| shard.take_error(name.conn))??;
    Some(errno::of_connection(error))
}

pub(super) fn is_connecting(pin: &Pin) -> bool {
    pin.socket.lock().phase == Phase::Connecting
}

// ---- receiving ----

/// `recvmsg(2)` without addresses and control messages. `Ok(0)` with room in `bufs` is the end
/// of the stream.
///
/// # Errors
///
/// Those of `recv(2)` on TCP.
pub fn recv(pin: &Pin, bufs: &mut [IoSliceMut<'_>], flags: i32) -> Result<usize, Errno> {
    let name = name(pin)?;
    if flags & MSG_URGENT != 0 {
        // There is never urgent data here: it is delivered in line.
        return Err(Errno::INVAL);
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return take_completions(pin).map(|_| 0).ok_or(Errno::AGAIN);
    }
    let mode = RecvMode {
        peek: flags & libc::MSG_PEEK != 0,
        discard: flags & libc::MSG_TRUNC != 0,
    };
    let now = runtime::now();
    let room: usize = bufs.iter().map(|buf| buf.len()).sum();
    if room == 0 {
        return recv_nothing(pin, name, flags);
    }
    let first = on_shard(name, |shard| shard.recv(now, name.conn, bufs, mode))?;
    let target = if flags & libc::MSG_WAITALL != 0 {
        room
    } else {
        pin.low_water().min(room)
    };
    match first {
        Ok(count) if count == 0 || count >= target => Ok(count),
        Ok(count) if is_nonblocking(pin, flags) => Ok(count),
        Ok(count) => recv_rest(pin, name, bufs, flags, mode, (count, target)),
        Err(RecvError::WouldBlock | RecvError::NotConnected) => {
            if first == Err(RecvError::NotConnected) && !is_connecting(pin) {
                return Err(Errno::NOTCONN);
            }
            if !is_nonblocking(pin, flags) {
                return recv_rest(pin, name, bufs, flags, mode, (0, target));
            }
            if !runtime::turn_for(name.shard) {
                return Err(Errno::AGAIN);
            }
            match on_shard(name, |shard| shard.recv(now, name.conn, bufs, mode))? {
                Ok(count) => Ok(count),
                Err(RecvError::WouldBlock | RecvError::NotConnected) => Err(Errno::AGAIN),
                Err(error) => recv_failed(pin, error),
            }
        }
        Err(error) => recv_failed(pin, error),
    }
}

/// A receive into no room tells only whether there is something.
fn recv_nothing(pin: &Pin, name: StreamName, flags: i32) -> Result<usize, Errno> {
    loop {
        let (ready, readable) = on_shard(name, |shard| {
            (shard.ready(name.conn), shard.readable_bytes(name.conn))
        })?;
        if readable > 0 {
            return Ok(0);
        }
        if ready.contains(Ready::ERR)
            && let Some(error) = take_error(pin)
        {
            return Err(error);
        }
        if ready.intersects(Ready::IN | Ready::RDHUP | Ready::HUP) {
            return Ok(0);
        }
        if is_nonblocking(pin, flags) {
            return Err(Errno::AGAIN);
        }
        blocking::wait(pin, Ready::IN, recv_deadline(pin))?;
    }
}

/// The part of a receive that waits. `done` bytes are there of `target`.
#[cold]
fn recv_rest(
    pin: &Pin,
    name: StreamName,
    bufs: &mut [IoSliceMut<'_>],
    flags: i32,
    mode: RecvMode,
    (mut done, target): (usize, usize),
) -> Result<usize, Errno> {
    let deadline = recv_deadline(pin);
    loop {
        if done >= target {
            return Ok(done);
        }
        // Peeked bytes stay, so their being there is no reason to look again.
        let waited = if mode.peek && done > 0 {
            wait_for_more(pin, deadline)
        } else {
            blocking::wait(pin, Ready::IN, deadline)
        };
        if let Err(errno) = waited {
            return if done > 0 { Ok(done) } else { Err(errno) };
        }
        let skip = if mode.peek { 0 } else { done };
        let now = runtime::now();
        let received = on_shard(name, |shard| {
            if done > 0 && shard.ready(name.conn).contains(Ready::ERR) {
                // The error is for the next call.
                return Ok(0);
            }
            let mut rest = advance(bufs, skip);
            shard.recv(now, name.conn, &mut rest, mode)
        })?;
        match received {
            Ok(0) => return Ok(done),
            Ok(count) if mode.peek => {
                let ended = ready(pin).contains(Ready::RDHUP);
                done = count;
                if ended {
                    return Ok(done);
                }
            }
            Ok(count) => {
                done += count;
                if flags & libc::MSG_WAITALL == 0 && done >= target {
                    return Ok(done);
                }
            }
            Err(RecvError::WouldBlock) => {}
            Err(RecvError::NotConnected) if is_connecting(pin) => {}
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return recv_failed(pin, error),
        }
    }
}

/// What is left of `bufs` after `skip` bytes.
fn advance<'a>(bufs: &'a mut [IoSliceMut<'_>], mut skip: usize) -> Vec<IoSliceMut<'a>> {
    bufs.iter_mut()
        .filter_map(|buf| {
            let start = skip.min(buf.len());
            skip -= start;
            buf.get_mut(start..)
                .filter(|rest| !rest.is_empty())
                .map(IoSliceMut::new)
        })
        .collect()
}

fn wait_for_more(pin: &Pin, deadline: Option<Instant>) -> Result<Ready, Errno> {
    let soon = runtime::now() + LOOK_AGAIN;
    let until = deadline.map_or(soon, |deadline| deadline.min(soon));
    match blocking::wait(pin, Ready::RDHUP, Some(until)) {
        Err(Errno::AGAIN) if deadline.is_none_or(|deadline| runtime::now() < deadline) => {
            Ok(Ready::IN)
        }
        result => result,
    }
}

pub(super) fn recv_failed(pin: &Pin, error: RecvError) -> Result<usize, Errno> {
    match error {
        RecvError::Stale if !pin.is_closed() => {
            let mut cell = pin.socket.lock();
            match cell.pending.take() {
                Some(pending) => Err(pending),
                None if cell.read_over => Ok(0),
                None => Err(Errno::NOTCONN),
            }
        }
        error => Err(errno::of_recv(error)),
    }
}

pub(super) fn recv_deadline(pin: &Pin) -> Option<Instant> {
    blocking::deadline(pin.socket.lock().options.rcv_timeout)
}

pub(super) fn send_deadline(pin: &Pin) -> Option<Instant> {
    blocking::deadline(pin.socket.lock().options.snd_timeout)
}

#[inline]
pub(super) fn is_nonblocking(pin: &Pin, flags: i32) -> bool {
    flags & libc::MSG_DONTWAIT != 0 || pin.is_nonblocking()
}

// ---- sending ----

/// `sendmsg(2)` without addresses (which TCP ignores) and control messages. Raises `SIGPIPE`
/// in the calling thread, unless `MSG_NOSIGNAL`, where it returns `EPIPE`.
///
/// # Errors
///
/// Those of `send(2)` on TCP; `EOPNOTSUPP` for `MSG_OOB`.
pub fn send(pin: &Pin, bufs: &[IoSlice<'_>], flags: i32) -> Result<usize, Errno> {
    let result = send_quietly(pin, bufs, flags);
    if flags & libc::MSG_ZEROCOPY != 0 && result.is_ok_and(|count| count > 0) {
        complete(pin);
    }
    if result == Err(Errno::PIPE) && flags & libc::MSG_NOSIGNAL == 0 {
        sys::raise(libc::SIGPIPE);
    }
    result
}

/// A send with `MSG_ZEROCOPY`: its bytes were copied, as Linux does where it can't do without,
/// so the caller's buffer is free again at once, and the notification says so.
#[cold]
fn complete(pin: &Pin) {
    {
        let mut cell = pin.socket.lock();
        if !cell.options.is_on(Int::ZeroCopy) {
            return;
        }
        let number = cell.zero_copy_next;
        cell.zero_copy_next = number.wrapping_add(1);
        let first = cell.completed.map_or(number, |(first, _)| first);
        cell.completed = Some((first, number));
        pin.set_has_completions(true);
    }
    pin.wake(Ready::ERR);
}

/// Takes what the error queue has: the first and the last send that are complete.
pub fn take_completions(pin: &Pin) -> Option<(u32, u32)> {
    let mut cell = pin.socket.lock();
    pin.set_has_completions(false);
    cell.completed.take()
}

/// Bytes that can be read now.
pub fn readable(pin: &Pin) -> Option<usize> {
    let name = pin.stream()?;
    runtime::with_shard(name.shard, |shard| shard.readable_bytes(name.conn))
}

fn send_quietly(pin: &Pin, bufs: &[IoSlice<'_>], flags: i32) -> Result<usize, Errno> {
    let name = name(pin).map_err(|_| Errno::PIPE)?;
    if flags & MSG_URGENT != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    if flags & libc::MSG_FASTOPEN != 0 {
        // To connect once more.
        return Err(Errno::ISCONN);
    }
    let more = flags & libc::MSG_MORE != 0;
    let total: usize = bufs.iter().map(|buf| buf.len()).sum();
    let now = runtime::now();
    let first = on_shard(name, |shard| shard.send(now, name.conn, bufs, more))?;
    let done = match first {
        Ok(count) => count,
        Err(SendError::WouldBlock) => 0,
        Err(SendError::NotConnected) if is_connecting(pin) => 0,
        Err(error) => return send_failed(pin, error),
    };
    if done > 0 {
        runtime::after_write(name.shard, done);
    }
    if done == total && (total > 0 || first.is_ok()) {
        return Ok(done);
    }
    if is_nonblocking(pin, flags) {
        return if done > 0 {
            Ok(done)
        } else {
            Err(Errno::AGAIN)
        };
    }
    send_rest(pin, name, bufs, more, (done, total))
}

/// The part of a send that waits.
#[cold]
fn send_rest(
    pin: &Pin,
    name: StreamName,
    bufs: &[IoSlice<'_>],
    more: bool,
    (mut done, total): (usize, usize),
) -> Result<usize, Errno> {
    let deadline = send_deadline(pin);
    // Nothing at all can be sent only when there is a connection.
    while done < total || total == 0 {
        if let Err(errno) = blocking::wait(pin, Ready::OUT, deadline) {
            return if done > 0 { Ok(done) } else { Err(errno) };
        }
        let rest = after(bufs, done);
        let now = runtime::now();
        let sent = on_shard(name, |shard| {
            if done > 0 && shard.ready(name.conn).contains(Ready::ERR) {
                return Err(SendError::Stale);
            }
            shard.send(now, name.conn, &rest, more)
        })?;
        match sent {
            Ok(count) => {
                done += count;
                runtime::after_write(name.shard, count);
                if total == 0 {
                    break;
                }
            }
            Err(SendError::WouldBlock) => {}
            Err(SendError::NotConnected) if is_connecting(pin) => {}
            Err(SendError::NoMemory) if done == 0 => wait_for_memory(pin, deadline)?,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return send_failed(pin, error),
        }
    }
    Ok(done)
}

/// What is left of `bufs` after `skip` bytes.
fn after<'a>(bufs: &'a [IoSlice<'_>], mut skip: usize) -> Vec<IoSlice<'a>> {
    bufs.iter()
        .filter_map(|buf| {
            let start = skip.min(buf.len());
            skip -= start;
            buf.get(start..)
                .filter(|rest| !rest.is_empty())
                .map(IoSlice::new)
        })
        .collect()
}

/// A blocking call waits until the pool has memory again.
pub(super) fn wait_for_memory(pin: &Pin, deadline: Option<Instant>) -> Result<(), Errno> {
    let soon = runtime::now() + LOOK_AGAIN;
    let until = deadline.map_or(soon, |deadline| deadline.min(soon));
    match blocking::wait(pin, Ready::HUP, Some(until)) {
        Err(Errno::AGAIN) if deadline.is_none_or(|deadline| runtime::now() < deadline) => Ok(()),
        result => result.map(drop),
    }
}

pub(super) fn send_failed(pin: &Pin, error: SendError) -> Result<usize, Errno> {
    match error {
        SendError::Stale if !pin.is_closed() => {
            Err(pin.socket.lock().pending.take().unwrap_or(Errno::PIPE))
        }
        error => Err(errno::of_send(error)),
    }
}

// ---- ending ----

/// `shutdown(2)` on a stream.
///
/// # Errors
///
/// `ENOTCONN` if the connection is over or never was.
pub fn shutdown(pin: &Pin, how: i32) -> Result<(), Errno> {
    let name = name(pin)?;
    let now = runtime::now();
    let state = info(pin).map(|info| info.tcp.state);
    if state == Some(crate::tcp::State::SynSent) {
        // Linux gives the attempt up and calls that success. That the application has not asked
        // how its attempt ended (the phase is still `Connecting`) does not make it one.
        super::connect::disconnect(pin);
        pin.wake(Ready::IN | Ready::OUT | Ready::HUP);
        return Ok(());
    }
    if !state.is_some_and(is_open_state) {
        // It is remembered all the same, and polls see it.
        if how != libc::SHUT_WR {
            pin.socket.lock().read_over = true;
            pin.wake(Ready::IN | Ready::RDHUP | Ready::HUP);
        }
        return Err(Errno::NOTCONN);
    }
    on_shard(name, |shard| {
        if how != libc::SHUT_WR {
            shard.shutdown_read(now, name.conn);
        }
        if how != libc::SHUT_RD {
            shard.shutdown_write(now, name.conn);
        }
    })?;
    runtime::after_write(name.shard, 0);
    let mut edge = Ready::OUT;
    if how != libc::SHUT_WR {
        edge |= Ready::IN | Ready::RDHUP;
    }
    if how == libc::SHUT_RDWR {
        edge |= Ready::HUP;
    }
    pin.wake(edge);
    Ok(())
}

/// Whether the connection is one that `shutdown` and `getpeername` still see.
pub fn is_open(info: &ConnInfo) -> bool {
    is_open_state(info.tcp.state)
}

const fn is_open_state(state: crate::tcp::State) -> bool {
    !matches!(
        state,
        crate::tcp::State::Closed | crate::tcp::State::SynSent | crate::tcp::State::TimeWait
    )
}
