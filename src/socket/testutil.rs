//! The socket layer on two shards that share a wire in memory, in one process and without
//! privilege: for tests and benches.
#![forbid(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::description::{self, Kind, Pin, StreamName, release};
use super::{epoll, runtime, stream, table};
use crate::device::Device;
use crate::device::pair::{PairConfig, linked};
use crate::stack::testutil::{self, Two};
use crate::stack::{ConnId, RecvMode, Shard};
use crate::sys::{self, EpollEvent, Errno};
use crate::tcp::Config;
use crate::time::Duration;

const MTU: u32 = 1500;
const SERVER: usize = 0;
const CLIENT: usize = 1;
/// More waits than any handshake or answer on a wire in memory takes.
const WAITS_MAX: usize = 1000;

/// A server's descriptor in an epoll set, and its client at the level of the shard.
#[derive(Debug)]
pub struct Rig {
    set: Arc<epoll::Set>,
    epfd: RawFd,
    server: Pin,
    fd: RawFd,
    client: ConnId,
    events: [EpollEvent; 16],
}

impl Rig {
    /// Connects the two. One at a time in a process, for the runtime is the process's.
    pub fn new(flags: u32) -> Self {
        let (a, b) = linked(PairConfig::default()).expect("descriptors");
        let shard = |own: u8, device: Box<dyn Device + Send>| {
            move || testutil::shard(own, MTU, 16, device as Box<dyn Device>)
        };
        runtime::start_on([
            Box::new(shard(0, Box::new(a))) as Box<dyn FnOnce() -> Shard + Send>,
            Box::new(shard(1, Box::new(b))),
        ]);
        let config = Config {
            nodelay: true,
            ..Config::default()
        };
        let (there, here) = (Two::at(0, 80), Two::at(1, 61440));
        let now = runtime::now();
        let server = description::create(Kind::Provisional).expect("a description");
        let token = server.id().to_bits();
        let listener = runtime::with_shard(SERVER, |shard| {
            shard.listen(there, false, 16, &config, 0).expect("listens")
        })
        .expect("a shard");
        let client = runtime::with_shard(CLIENT, |shard| {
            shard
                .connect(now, here, there, &config, 0)
                .expect("connects")
        })
        .expect("a shard");
        let (epfd, set) = epoll::create(libc::EPOLL_CLOEXEC).expect("a set");
        let fd = 850_000_000;
        server.attach(fd).expect("in the table");
        let wanted = EpollEvent {
            events: libc::EPOLLIN as u32 | flags,
            data: 1,
        };
        // In the set as a stream from the start: the kernel knows no such number.
        server.set_kind(Kind::Stream);
        epoll::change(&set, libc::EPOLL_CTL_ADD, fd, Some(&server), Some(wanted))
            .expect("in the set");
        let mut rig = Self {
            set,
            epfd,
            server,
            fd,
            client,
            events: [EpollEvent::default(); 16],
        };
        for _ in 0..WAITS_MAX {
            rig.wait(Duration::ZERO).expect("no signal");
            let accepted =
                runtime::with_shard(SERVER, |shard| shard.accept(listener, token)).flatten();
            if let Some(accepted) = accepted {
                rig.server.set_stream(StreamName {
                    shard: SERVER,
                    conn: accepted.conn,
                });
                rig.server.set_status_flags(libc::O_NONBLOCK);
                return rig;
            }
        }
        panic!("no connection");
    }

    /// `epoll_wait`.
    ///
    /// # Errors
    ///
    /// Its own.
    pub fn wait(&mut self, timeout: Duration) -> Result<usize, Errno> {
        epoll::wait(&self.set, &mut self.events, Some(timeout), None)
    }

    /// The client sends.
    pub fn request(&self, bytes: &[u8]) {
        let now = runtime::now();
        let client = self.client;
        let sent = runtime::with_shard(CLIENT, |shard| {
            let sent = shard.send(now, client, &[IoSlice::new(bytes)], false);
            shard.flush(now);
            sent
        });
        assert_eq!(sent, Some(Ok(bytes.len())));
    }

    /// The server reads until there is no more, and sends as much; how much.
    ///
    /// # Errors
    ///
    /// Those of the reads and the write.
    pub fn serve(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let count = stream::recv(&self.server, &mut [IoSliceMut::new(buffer)], 0)?;
        let answer = buffer.get(..count).unwrap_or_default();
        stream::send(&self.server, &[IoSlice::new(answer)], libc::MSG_NOSIGNAL)
    }

    /// The client reads.
    pub fn answer(&self, buffer: &mut [u8]) -> usize {
        let now = runtime::now();
        let client = self.client;
        runtime::with_shard(CLIENT, |shard| {
            let mode = RecvMode::default();
            shard
                .recv(now, client, &mut [IoSliceMut::new(buffer)], mode)
                .unwrap_or(0)
        })
        .unwrap_or(0)
    }

    /// One request and its answer, as an event loop does it; how often it waited.
    pub fn round_trip(&mut self, message: &[u8], buffer: &mut [u8]) -> usize {
        self.request(message);
        let (mut served, mut answered) = (0, 0);
        for waits in 1..WAITS_MAX {
            if self.wait(Duration::ZERO) == Ok(1) {
                served += self.serve(buffer).unwrap_or(0);
            }
            if served == message.len() {
                answered += self.answer(buffer);
                if answered == message.len() {
                    return waits;
                }
            }
        }
        panic!("no answer: {served} served, {answered} answered");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(id) = table::remove(self.fd) {
            release(id);
        }
        self.set.close();
        let _ = sys::close(self.epfd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_an_event_loop_answers() {
        let message: Vec<u8> = (0..4096_u32).map(|n| n as u8).collect();
        let mut buffer = vec![0; 8192];
        for flags in [0, libc::EPOLLET as u32] {
            let mut rig = Rig::new(flags);
            for _ in 0..100 {
                assert!(rig.round_trip(&message[..64], &mut buffer) < 10);
            }
            assert_eq!(buffer[..64], message[..64]);
            for _ in 0..100 {
                assert!(rig.round_trip(&message, &mut buffer) < 20);
            }
            assert_eq!(rig.wait(Duration::ZERO), Ok(0));
        }
    }
}
