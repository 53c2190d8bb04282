//! The slow part of a socket's state: what only calls other than send and receive look at.
#![forbid(unsafe_code)]

use core::net::SocketAddr;
use std::sync::Arc;

use super::listener::Group;
use super::options::{OptionSet, Touched};
use crate::sys::Errno;
use crate::time::Instant;

/// Where a stream is in its life, as `connect(2)` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    /// No attempt, or the last one has failed and was reported.
    #[default]
    Idle,
    /// `connect` has begun, and its outcome was not reported.
    Connecting,
    /// The outcome was success.
    Connected,
}

/// What only slow calls look at.
#[derive(Debug, Default)]
pub struct SocketCell {
    /// `AF_INET` or `AF_INET6`: how addresses are shown.
    pub family: i32,
    /// The application's descriptor is a kernel socket of its own (a twin that holds options
    /// and the port), not a dup of the shared tombstone.
    pub has_twin: bool,
    /// Options that may have been set on the kernel socket: read at promotion.
    pub options_touched: Touched,
    /// `st_dev` and `st_ino` of the descriptor, to tell it from a stranger with its number.
    pub identity: (u64, u64),
    /// Options of a luna socket.
    pub options: OptionSet,
    /// See [`Phase`].
    pub phase: Phase,
    /// The number of the next send with `MSG_ZEROCOPY`.
    pub zero_copy_next: u32,
    /// The first and the last of those sends whose completion waits on the error queue.
    pub completed: Option<(u32, u32)>,
    /// An error that a socket without a connection still has to report.
    pub pending: Option<Errno>,
    /// `shutdown` has ended reading on a socket without a connection.
    pub read_over: bool,
    /// Who gets `SIGIO` (`F_SETOWN`), and which signal instead (`F_SETSIG`): remembered only.
    pub owner: (i32, i32),
    /// Our end, once known.
    pub local: Option<SocketAddr>,
    /// The peer, once known.
    pub remote: Option<SocketAddr>,
    /// The client port that our kernel socket holds.
    pub held_port: Option<u16>,
    /// The luna half of a listener.
    pub group: Option<Arc<Group>>,
    /// A listener's length of queue, for when it is promoted again in a child.
    pub backlog: u32,
    /// A listener without a luna half that is to get one when this process uses it: it was just
    /// made, or inherited over `fork`.
    pub is_pending: bool,
    /// When to try that again, after it has failed.
    pub retry_at: Instant,
    /// This process has waited on the listener, or accepted.
    pub is_used: bool,
    /// Accepts, counted to be fair between our queue and the kernel's.
    pub turn: u32,
}
