//! BSD semantics on top of the stack: descriptors, open file descriptions, listeners, streams,
//! options, readiness.
//!
//! Owns which descriptor numbers are ours and what they mean. Knows nothing of packets; asks
//! the shards through [`runtime`].

pub mod addr;
pub mod blocking;
pub mod buffers;
pub mod calls;
pub mod cell;
pub mod close;
pub mod connect;
pub mod description;
pub mod duplicate;
pub mod epoll;
pub mod errno;
pub mod event_loop;
pub mod exit;
pub mod fork;
pub mod listener;
pub mod options;
pub mod passing;
pub mod placeholder;
pub mod policy;
pub mod poll;
pub(crate) mod publish;
pub mod reason;
pub mod report;
pub mod runtime;
pub mod sendfile;
pub mod stream;
pub mod table;
pub mod tcp_info;
pub mod totals;
pub mod zero_copy;

#[cfg(any(test, feature = "testutil"))]
#[allow(
    clippy::expect_used,
    clippy::panic,
    reason = "for tests and benches only"
)]
pub mod testutil;

use std::os::fd::RawFd;

use description::{Kind, Pin};

/// Forgets what the table has under a number that the kernel has just given out: it was closed
/// without us.
pub fn forget_number(fd: RawFd) {
    if let Some(stale) = table::remove(fd) {
        description::release(stale);
    }
}

/// The description behind a descriptor.
pub fn pin(fd: RawFd) -> Option<Pin> {
    fork::check();
    description::pin_fd(fd)
}

/// The description behind a descriptor for a call that is not on the data path: also checks
/// that the number still is the socket that we know, and has not been closed behind our back
/// and given to another file.
pub fn pin_checked(fd: RawFd) -> Option<Pin> {
    let pin = pin(fd)?;
    if matches!(pin.kind(), Kind::Stream | Kind::Listener) {
        let (_, known) = pin.socket.lock().identity;
        let is_same = known == 0 || crate::sys::identity(fd).is_ok_and(|(_, inode)| inode == known);
        if !is_same {
            if table::remove_if(fd, pin.id()) {
                description::release(pin.id());
            }
            return None;
        }
    }
    Some(pin)
}

/// As [`ready`], as `poll` and `epoll` show it: `SO_RCVLOWAT` holds, and notifications of
/// `MSG_ZEROCOPY` wait on the error queue.
pub fn polled(pin: &Pin) -> crate::stack::Ready {
    use crate::stack::Ready;
    let mut ready = ready(pin);
    if pin.has_completions() {
        ready |= Ready::ERR;
    }
    let low_water = pin.low_water();
    if low_water > 1
        && ready & (Ready::IN | Ready::RDHUP) == Ready::IN
        && stream::readable(pin).is_some_and(|bytes| bytes < low_water)
    {
        ready -= Ready::IN;
    }
    ready
}

/// Readiness of the luna side of a socket. (A listener's kernel half has its own, and a
/// socket on the kernel has none here.)
pub fn ready(pin: &Pin) -> crate::stack::Ready {
    match pin.kind() {
        Kind::Listener => listener::ready(pin),
        Kind::Stream => stream::ready(pin),
        _ => crate::stack::Ready::empty(),
    }
}
