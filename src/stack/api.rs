//! What the layers above see of a shard: identifiers, readiness, errors.
#![forbid(unsafe_code)]

use core::net::SocketAddr;

use bitflags::bitflags;
use thiserror::Error;

use crate::tcp;

/// A connection of one shard: slot and generation, so that a stale one is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A listener of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

bitflags! {
    /// What can be done with a socket now, in the terms of `poll(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Ready: u8 {
        /// `POLLIN`: data, end of stream, or a connection to accept.
        const IN = 0x01;
        /// `POLLOUT`: room to send.
        const OUT = 0x04;
        /// `POLLERR`: an error is pending.
        const ERR = 0x08;
        /// `POLLHUP`: both directions are over.
        const HUP = 0x10;
        /// `POLLRDHUP`: the peer has finished sending, or we have stopped reading.
        const RDHUP = 0x20;
    }
}

/// Something happened on a socket that a watcher may care about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// What the layer above gave when it made the socket.
    pub token: u64,
    /// The kinds of readiness that arose, for edge-triggered watchers. The level is asked with
    /// `Shard::ready`.
    pub edge: Ready,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnReport {
    /// Frames received.
    pub rx_frames: usize,
    /// Frames handed to the device.
    pub tx_frames: usize,
    /// There may be more to do at once (a full batch, or frames the device had no room for).
    pub more: bool,
}

impl TurnReport {
    /// Nothing was received or sent.
    pub const fn is_idle(self) -> bool {
        self.rx_frames == 0 && self.tx_frames == 0 && !self.more
    }
}

/// Why a connection ended or a call on it failed. The layer above maps it to an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnError {
    /// `ECONNREFUSED`: RST in answer to our SYN.
    #[error("connection refused")]
    Refused,
    /// `ECONNRESET`: RST on an open connection.
    #[error("connection reset by peer")]
    Reset,
    /// `EPIPE`: RST on a connection whose peer had finished sending.
    #[error("broken pipe")]
    BrokenPipe,
    /// `ETIMEDOUT`: retransmissions, keepalive or user timeout ran out.
    #[error("connection timed out")]
    TimedOut,
    /// `EHOSTUNREACH`: the neighbour or the route is gone.
    #[error("no route to host")]
    HostUnreachable,
    /// `ENETUNREACH`
    #[error("network is unreachable")]
    NetUnreachable,
    /// `ECONNABORTED`: aborted by us.
    #[error("connection aborted")]
    Aborted,
}

/// The outcome of a send that took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// `EAGAIN`: no room in the send buffer now.
    WouldBlock,
    /// `EPIPE`: our side is shut down or the connection is over.
    BrokenPipe,
    /// `ENOTCONN`: not connected yet.
    NotConnected,
    /// `ENOBUFS`: the pool is empty.
    NoMemory,
    /// The pending error, reported once.
    Failed(ConnError),
    /// `EBADF`: no such connection.
    Stale,
}

/// The outcome of a receive that gave nothing and is not an end of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// `EAGAIN`: no data now.
    WouldBlock,
    /// `ENOTCONN`: not connected yet.
    NotConnected,
    /// The pending error, reported once.
    Failed(ConnError),
    /// `EBADF`: no such connection.
    Stale,
}

/// Why a connect or a listen could not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// `EADDRINUSE`: the four-tuple or the listening address is taken.
    #[error("address already in use")]
    AddressInUse,
    /// `EADDRNOTAVAIL`: no port is free.
    #[error("no local port is free")]
    NoPort,
    /// `ENETUNREACH`: no route over this shard's link.
    #[error("network is unreachable")]
    NetUnreachable,
    /// `ENOBUFS`: a table is full.
    #[error("too many connections")]
    TableFull,
}

/// How to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecvMode {
    /// `MSG_PEEK`: leave the data where it is.
    pub peek: bool,
    /// `MSG_TRUNC`: discard instead of copying.
    pub discard: bool,
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// FIN after what is queued (RST if there is unread data).
    Graceful,
    /// RST now (`SO_LINGER` with zero).
    Abort,
}

/// A connection that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The connection.
    pub conn: ConnId,
    /// Our end.
    pub local: SocketAddr,
    /// Their end.
    pub remote: SocketAddr,
}

/// What is known of a connection, for `TCP_INFO` and `luna ss`.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Our end.
    pub local: SocketAddr,
    /// Their end.
    pub remote: SocketAddr,
    /// The protocol's view.
    pub tcp: tcp::Info,
}
