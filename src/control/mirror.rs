//! The netlink socket that keeps [`Tables`](super::Tables) true to the kernel.
//!
//! One non-blocking socket receives dumps and notifications in the order in which the kernel
//! made them. When the kernel had to drop notifications (`ENOBUFS`), or a table changed under a
//! dump (`NLM_F_DUMP_INTR`), what may be wrong is dumped again; the same is how a restarted
//! process recovers (LUNA §7.3).
#![forbid(unsafe_code)]

use core::net::IpAddr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recvfrom,
    send, socket_with, sockopt,
};
use thiserror::Error;

use super::asker::Asker;
use super::handle::ControlHandle;
use super::message::{self, DumpKind, Message, Update};
use super::state::{DumpSet, MirrorStats, State};
use crate::sys::internal;

/// `RTMGRP_*` and, for what has none, `1 << (RTNLGRP_* - 1)`: links, neighbours, addresses,
/// routes and rules of both families.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;

/// The kernel makes dump messages of at most 32 KiB; notifications are far smaller.
const BUFFER_BYTES: usize = 64 * 1024;

/// Room for a burst of some ten thousand notifications.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// One poll handles no more datagrams than this, so that a flood of changes does not keep the
/// calling thread from its packets: the descriptor stays readable.
const DATAGRAMS_PER_POLL: usize = 64;

/// How many rounds the initial dump may take: with input, each is [`DATAGRAMS_PER_POLL`] long…
const OPEN_ROUNDS: usize = 10_000;

/// …and without, it is a wait of 20 ms, of which there may be this many.
const OPEN_WAITS: usize = 100;

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tables are different: there is a new generation.
    Changed,
    /// Nothing that anyone must know.
    Unchanged,
}

/// Why the mirror could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel refused.
    #[error("netlink: cannot {action}: {source}")]
    Refused {
        /// What was refused.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not send its tables.
    #[error("netlink: no complete answer to the initial dump")]
    Incomplete,
}

/// A dump whose answers are being awaited.
#[derive(Clone, Copy, Debug)]
struct Running {
    kind: DumpKind,
    sequence: u32,
    /// Its outcome is not to be trusted.
    tainted: bool,
}

/// Follows the kernel's tables. Owned by one thread, which polls it when its descriptor is
/// readable.
#[derive(Debug)]
pub struct Mirror {
    socket: OwnedFd,
    /// Our netlink port: what tells answers to us from notifications.
    port: u32,
    sequence: u32,
    running: Option<Running>,
    state: State,
    handle: Arc<ControlHandle>,
    buffer: Vec<u8>,
}

impl Mirror {
    /// Opens the socket in the calling thread's network namespace and reads all tables.
    ///
    /// # Errors
    /// [`OpenError`], if netlink is not to be had or its answers stop.
    pub fn open() -> Result<Self, OpenError> {
        let socket = netlink_socket(GROUPS)?;
        // Ours to enlarge only with privilege; without, what the system allows is what we get,
        // and an overrun only costs a dump.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES));
        let port = getsockname(&socket)
            .and_then(SocketAddrNetlink::try_from)
            .map_err(|e| refused("learn its port", e))?
            .pid();
        let mut mirror = Self {
            handle: Arc::new(ControlHandle::new(
                Default::default(),
                Some(Asker::new(netlink_socket(0)?)),
            )),
            socket,
            port,
            sequence: 0,
            running: None,
            state: State::default(),
            buffer: vec![0; BUFFER_BYTES],
        };
        mirror.dump();
        let mut waits = 0;
        for _ in 0..OPEN_ROUNDS {
            let more = mirror.poll_once().map_err(|e| refused("read tables", e))?;
            if mirror.is_settled() {
                mirror.publish();
                return Ok(mirror);
            }
            if !more {
                waits += 1;
                if waits > OPEN_WAITS {
                    break;
                }
                wait_readable(mirror.socket.as_fd());
            }
        }
        Err(OpenError::Incomplete)
    }

    /// The descriptor that becomes readable when there is something to [`Mirror::poll`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// All its descriptors, that one and those by which [`Mirror::handle`] asks.
    pub fn fds(&self) -> Vec<RawFd> {
        let mut fds = self.handle.fds();
        fds.push(self.socket.as_raw_fd());
        fds
    }

    /// Has all tables read again by the next polls.
    pub fn dump(&mut self) {
        self.state.wanted = DumpSet::ALL;
        if let Some(running) = &mut self.running {
            running.tainted = true;
        }
    }

    /// Takes in what the kernel has sent since, a bounded part of it at a time.
    ///
    /// # Errors
    /// The socket's, which no later call will cure.
    pub fn poll(&mut self) -> io::Result<Change> {
        let outcome = self.poll_once();
        let change = self.publish();
        outcome.map(|_| change).map_err(io::Error::from)
    }

    /// Whether no dump is under way or wanted: the tables are complete.
    pub fn is_settled(&self) -> bool {
        self.running.is_none() && self.state.wanted.is_empty()
    }

    /// What shards share.
    pub fn handle(&self) -> Arc<ControlHandle> {
        Arc::clone(&self.handle)
    }

    /// The tables as last published.
    pub fn tables(&self) -> Arc<super::Tables> {
        self.handle.tables()
    }

    /// Counters.
    pub fn stats(&self) -> MirrorStats {
        self.state.stats
    }

    /// Asks the kernel for the MTU in bytes of the path to `dst` as far as it is less than the
    /// link's: a route's metric, or what the kernel learned from "packet too big" messages.
    ///
    /// The kernel learns only from messages about traffic of its own sockets: it finds no socket
    /// for ours, so this serves paths that something else of this host has used too. What routers
    /// say about our own segments comes from [`IcmpListener`](super::IcmpListener).
    pub fn query_path_mtu(&self, dst: IpAddr) -> Option<u32> {
        self.handle.path_mtu(dst)
    }

    /// Returns whether it stopped for its bound rather than for want of input.
    fn poll_once(&mut self) -> Result<bool, Errno> {
        for _ in 0..DATAGRAMS_PER_POLL {
            match recvfrom(
                &self.socket,
                &mut self.buffer[..],
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            ) {
                Ok((_, length, sender)) => {
                    // Only the kernel tells us what its tables hold.
                    let kernel = sender
                        .and_then(|s| SocketAddrNetlink::try_from(s).ok())
                        .is_some_and(|s| s.pid() == 0);
                    if kernel {
                        self.on_datagram(length);
                    }
                }
                Err(Errno::AGAIN) if self.start_dump()? => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    self.state.stats.overruns += 1;
                    self.dump();
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    fn on_datagram(&mut self, length: usize) {
        let Some(datagram) = self.buffer.get(..length) else {
            // It did not fit, so what it said is lost.
            self.state.stats.overruns += 1;
            return self.dump();
        };
        let (state, running, port) = (&mut self.state, &mut self.running, self.port);
        message::decode(datagram, |message| {
            on_message(state, running, port, message)
        });
    }

    /// Asks for the next table that is wanted, unless one is being read; returns whether it did.
    fn start_dump(&mut self) -> Result<bool, Errno> {
        if self.running.is_some() {
            return Ok(false);
        }
        let Some(kind) = self.state.wanted.take_first() else {
            return Ok(false);
        };
        self.sequence = self.sequence.wrapping_add(1);
        let request = message::dump_request(kind, self.sequence);
        match send(
            &self.socket,
            &request,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(_) => {
                self.state.begin_dump(kind);
                self.running = Some(Running {
                    kind,
                    sequence: self.sequence,
                    tainted: false,
                });
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {
                self.state.wanted.add(kind);
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }

    fn publish(&mut self) -> Change {
        if !self.state.take_dirty() {
            return Change::Unchanged;
        }
        self.handle.publish(self.state.tables.clone());
        Change::Changed
    }
}

fn on_message(state: &mut State, running: &mut Option<Running>, port: u32, message: Message) {
    let answer = running
        .as_mut()
        .filter(|r| message.port == port && message.sequence == r.sequence);
    let in_dump = answer.is_some();
    if let Some(dump) = answer {
        dump.tainted |= message.interrupted;
        if let Update::Done(errno) = message.update {
            let Running { kind, tainted, .. } = *dump;
            *running = None;
            // EOPNOTSUPP and the like: a kernel without IPv6, say, or without policy rules.
            // Asking again would not help.
            if errno == Errno::INTR.raw_os_error() || errno == Errno::BUSY.raw_os_error() || tainted
            {
                state.end_dump(false);
                state.wanted.add(kind);
            } else {
                state.stats.refused += u64::from(errno != 0);
                state.end_dump(errno == 0);
            }
            return;
        }
    }
    state.apply(message.update, in_dump);
}

fn netlink_socket(groups: u32) -> Result<OwnedFd, OpenError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
        .map_err(|e| refused("open a socket", e))?;
    let socket = internal::out_of_the_way(socket);
    bind(&socket, &SocketAddrNetlink::new(0, groups)).map_err(|e| refused("subscribe", e))?;
    Ok(socket)
}

fn refused(action: &'static str, errno: Errno) -> OpenError {
    OpenError::Refused {
        action,
        source: errno.into(),
    }
}

/// Waits a little for input; a spurious return only costs its caller a look.
fn wait_readable(fd: BorrowedFd<'_>) {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let _ = poll(
        &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
        Some(&timeout),
    );
}
