//! The end of descriptors and of descriptions.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::description::{Kind, Pin, release};
use super::{connect, fork, listener, runtime, table, zero_copy};
use crate::stack::{Close, Ready};
use crate::sys::{self, Errno, internal};
use crate::time::Duration;

/// How often a lingering close looks whether everything was acknowledged.
const LINGER_STEP: Duration = Duration::from_millis(5);

/// `close(2)` on any number.
///
/// # Errors
///
/// `EBADF`, and what the kernel's `close` answers for descriptors that are not ours.
pub fn close(fd: RawFd) -> Result<(), Errno> {
    if internal::is_internal(fd) {
        return Err(Errno::BADF);
    }
    zero_copy::closes(fd);
    let Some(id) = table::lookup(fd) else {
        return sys::close(fd);
    };
    if fork::is_foreign_process() {
        return sys::close(fd);
    }
    if let Some(pin) = super::description::pin(id)
        && pin.descriptors() == 1
    {
        linger(&pin);
    }
    if table::remove_if(fd, id) {
        release(id);
    }
    sys::close(fd)
}

/// `close_range(2)`: our descriptors are closed as by [`close`], internal ones survive.
///
/// # Errors
///
/// As `close_range(2)`.
pub fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    let plain = flags & !libc::CLOSE_RANGE_UNSHARE == 0;
    if first > last || !plain {
        // Errors, and CLOSE_RANGE_CLOEXEC, which ours obey like any descriptor.
        return sys::close_range(first, last, flags);
    }
    if !fork::is_foreign_process() {
        for (fd, id) in table::ours(first, last) {
            if table::remove_if(fd, id) {
                release(id);
            }
        }
    }
    let mut from = first;
    for fd in internal::internal_fds().into_iter().map(i32::cast_unsigned) {
        if fd < from || fd > last {
            continue;
        }
        if fd > from {
            sys::close_range(from, fd - 1, flags)?;
        }
        from = fd + 1;
    }
    if from <= last {
        sys::close_range(from, last, flags)
    } else {
        Ok(())
    }
}

/// Waits as `SO_LINGER` asks, before the last descriptor goes.
fn linger(pin: &Pin) {
    let Some(name) = pin.stream() else { return };
    let Some(seconds @ 1..) = pin.socket.lock().options.linger else {
        return;
    };
    let now = runtime::now();
    let begun = runtime::with_shard(name.shard, |shard| shard.shutdown_write(now, name.conn));
    runtime::after_write(name.shard, 0);
    let deadline = now + Duration::from_secs(u64::from(seconds));
    while begun.is_some() && runtime::now() < deadline {
        let unacknowledged =
            runtime::with_shard(name.shard, |shard| shard.unsent_bytes(name.conn).0);
        if unacknowledged.unwrap_or(0) == 0 {
            return;
        }
        let step = (runtime::now() + LINGER_STEP).min(deadline);
        match runtime::wait(pin, Ready::HUP, Some(step)) {
            Err(Errno::AGAIN) => {}
            // An end, or a signal, which the kernel's lingering obeys as well.
            _ => return,
        }
    }
}

/// The last descriptor of a description is gone: ends what it stood for and wakes whoever
/// waits on it.
pub(super) fn last(pin: &Pin) {
    for watcher in pin.take_watchers() {
        watcher.closed();
    }
    match pin.kind() {
        Kind::Stream => stream(pin),
        Kind::Listener => listener::close(pin),
        Kind::Epoll => super::epoll::on_last_close(pin),
        Kind::Provisional | Kind::Kernel | Kind::Dead => {}
    }
    connect::let_go_of_port(pin);
    pin.wake_sleepers();
}

/// Lets go of a stream's connection.
pub(super) fn stream(pin: &Pin) {
    let Some(name) = pin.stream() else { return };
    let how = match pin.socket.lock().options.linger {
        Some(0) => Close::Abort,
        _ => Close::Graceful,
    };
    let now = runtime::now();
    let _runs = runtime::with_shard(name.shard, |shard| {
        if how == Close::Abort {
            // What was written had been sent by now if its call had not left that to the next
            // turn: an abort only drops what the windows hold back.
            shard.flush(now);
        }
        shard.close(now, name.conn, how);
    });
    runtime::after_write(name.shard, 0);
}
