//! The one table from the stack's errors to Linux's.
#![forbid(unsafe_code)]

use crate::stack::{ConnError, OpenError, RecvError, SendError};
use crate::sys::Errno;

/// What a connection that has ended with `error` reports.
pub const fn of_connection(error: ConnError) -> Errno {
    match error {
        ConnError::Refused => Errno::CONNREFUSED,
        ConnError::Reset => Errno::CONNRESET,
        ConnError::BrokenPipe => Errno::PIPE,
        ConnError::TimedOut => Errno::TIMEDOUT,
        ConnError::HostUnreachable => Errno::HOSTUNREACH,
        ConnError::NetUnreachable => Errno::NETUNREACH,
        ConnError::Aborted => Errno::CONNABORTED,
    }
}

/// What a send that took nothing reports.
pub const fn of_send(error: SendError) -> Errno {
    match error {
        // No memory is a full buffer to the application: it is woken when there is some.
        SendError::WouldBlock | SendError::NoMemory => Errno::AGAIN,
        // Linux sends on an unconnected stream give EPIPE, not ENOTCONN.
        SendError::BrokenPipe | SendError::NotConnected => Errno::PIPE,
        SendError::Failed(error) => of_connection(error),
        SendError::Stale => Errno::BADF,
    }
}

/// What a receive that gave nothing reports.
pub const fn of_recv(error: RecvError) -> Errno {
    match error {
        RecvError::WouldBlock => Errno::AGAIN,
        RecvError::NotConnected => Errno::NOTCONN,
        RecvError::Failed(error) => of_connection(error),
        RecvError::Stale => Errno::BADF,
    }
}

/// What a `connect` or `listen` that could not start reports.
pub const fn of_open(error: OpenError) -> Errno {
    match error {
        OpenError::AddressInUse => Errno::ADDRINUSE,
        OpenError::NoPort => Errno::ADDRNOTAVAIL,
        OpenError::NetUnreachable => Errno::NETUNREACH,
        OpenError::TableFull => Errno::NOBUFS,
    }
}
