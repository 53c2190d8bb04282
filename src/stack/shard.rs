//! STUB for the first integration: the signatures of the shard.
use core::net::SocketAddr;
use std::io::{IoSlice, IoSliceMut};

use super::api::*;
use crate::tcp;
use crate::time::Instant;

/// One stack instance.
#[derive(Debug)]
pub struct Shard {}

#[allow(unused_variables, missing_docs, reason = "stub")]
impl Shard {
    /// One run-to-completion turn: receive a batch, run it through TCP, fire timers, send.
    pub fn turn(&mut self, now: Instant) -> TurnReport { TurnReport::default() }
    /// Sends what the calls since the last turn queued, without receiving.
    pub fn flush(&mut self, now: Instant) -> TurnReport { TurnReport::default() }
    /// The next moment at which `turn` has something to do even if no frame arrives.
    pub fn next_deadline(&self) -> Instant { Instant::FAR_FUTURE }
    /// Prepares the device for sleep; false: frames are waiting, do not sleep.
    pub fn arm(&mut self) -> bool { false }
    /// What to wait on for frames.
    pub fn wait_fds(&self) -> &[std::os::fd::RawFd] { &[] }
    /// Moves the wakeups since the last call to the back of `out`.
    pub fn take_wakeups(&mut self, out: &mut Vec<Wakeup>) {}
    /// Listens on `local` (an unspecified address listens on all of the link's; an unspecified IPv6 address with
    /// `dual_stack` also on IPv4).
    pub fn listen(&mut self, local: SocketAddr, dual_stack: bool, backlog: u32, config: &tcp::Config, token: u64) -> Result<ListenId, OpenError> { Err(OpenError::TableFull) }
    pub fn set_backlog(&mut self, id: ListenId, backlog: u32) {}
    /// Gives the oldest established connection of the accept queue and makes `token` its name.
    pub fn accept(&mut self, id: ListenId, token: u64) -> Option<Accepted> { None }
    /// Resets what was not accepted and stops listening.
    pub fn close_listener(&mut self, now: Instant, id: ListenId) {}
    pub fn listener_ready(&self, id: ListenId) -> Ready { Ready::empty() }
    /// Opens a connection from `local` (complete: address and port) to `remote`.
    pub fn connect(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, config: &tcp::Config, token: u64) -> Result<ConnId, OpenError> { Err(OpenError::TableFull) }
    /// Whether this four-tuple is free (no connection, no TIME-WAIT that may not be reused).
    pub fn tuple_is_free(&self, local: SocketAddr, remote: SocketAddr) -> bool { true }
    /// Copies as much of `bufs` as there is room for into the send queue. `more`: `MSG_MORE`.
    pub fn send(&mut self, now: Instant, id: ConnId, bufs: &[IoSlice<'_>], more: bool) -> Result<usize, SendError> { Err(SendError::Stale) }
    /// Copies received bytes out; `Ok(0)` with room in `bufs` is the end of the stream.
    pub fn recv(&mut self, now: Instant, id: ConnId, bufs: &mut [IoSliceMut<'_>], mode: RecvMode) -> Result<usize, RecvError> { Err(RecvError::Stale) }
    pub fn shutdown_write(&mut self, now: Instant, id: ConnId) {}
    pub fn shutdown_read(&mut self, now: Instant, id: ConnId) {}
    /// The application has let go: the connection ends by itself, its id is stale from now on.
    pub fn close(&mut self, now: Instant, id: ConnId, how: Close) {}
    pub fn ready(&self, id: ConnId) -> Ready { Ready::empty() }
    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&mut self, id: ConnId) -> Option<ConnError> { None }
    pub fn info(&self, id: ConnId) -> Option<ConnInfo> { None }
    /// Replaces the settings that can change during a connection's life (NODELAY, CORK, keepalive, buffers, …).
    pub fn configure(&mut self, now: Instant, id: ConnId, config: &tcp::Config) {}
    /// Bytes that can be read now (`SIOCINQ`).
    pub fn readable_bytes(&self, id: ConnId) -> usize { 0 }
    /// Bytes not yet acknowledged (`SIOCOUTQ`) and not yet sent (`SIOCOUTQNSD`).
    pub fn unsent_bytes(&self, id: ConnId) -> (usize, usize) { (0, 0) }
}
