//! The asking side on BSD calls: one thread, one epoll set, a closed loop (so many requests under
//! way on each connection) or an open one (requests at fixed times), or a connection for each
//! request.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use luna::sys::{EpollEvent, Errno};
use luna::time::{Clock as _, SystemClock};

use super::measure::{Load, Meter};
use super::message::{Asking, CHUNK_BYTES, Hello, Script};
use super::net::Net;
use super::options::{Failure, Protocol};

const EVENTS_MAX: usize = 64;
const MS: u64 = 1_000_000;
/// A wait is cut up, to look at the clock.
const WAIT_MS_MAX: u64 = 100;
/// A connection that says nothing for so long is lost.
const SILENCE_NS_MAX: u64 = 10_000 * MS;

struct Conn {
    state: Asking,
    server: SocketAddr,
    id: u32,
    began: u64,
    is_connected: bool,
    wants_out: bool,
}

pub(crate) struct Client<'a, N: Net> {
    load: &'a Load,
    meter: Meter<'a>,
    epoll: RawFd,
    script: Script,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    /// By descriptor.
    conns: Vec<Option<Box<Conn>>>,
    open: Vec<RawFd>,
    connected: usize,
    /// The next connection that an open loop asks on.
    turn: usize,
    last_heard: u64,
    net: core::marker::PhantomData<N>,
}

fn now() -> u64 {
    SystemClock.now().as_nanos()
}

/// Runs one thread's share of a load.
pub(crate) fn ask<'a, N: Net>(load: &'a Load, meter: Meter<'a>) -> Result<Meter<'a>, Failure> {
    let mut client = Client::<N> {
        load,
        meter,
        epoll: N::epoll_create().map_err(Failure::call("epoll_create"))?,
        script: match load.protocol {
            Protocol::Knb => Script::knb(load.size),
            Protocol::Memcached => Script::memcached(load.size),
        },
        buffer: vec![0; CHUNK_BYTES],
        scratch: Vec::new(),
        conns: Vec::new(),
        open: Vec::new(),
        connected: 0,
        turn: 0,
        last_heard: now(),
        net: core::marker::PhantomData,
    };
    let outcome = client.run();
    for fd in core::mem::take(&mut client.open) {
        N::close(fd);
    }
    N::close(client.epoll);
    outcome.map(|()| client.meter)
}

impl<N: Net> Client<'_, N> {
    fn run(&mut self) -> Result<(), Failure> {
        for (id, server) in self.meter.connections(self.load) {
            self.connect(server, id)?;
        }
        if !self.load.short {
            while self.connected < self.open.len() {
                self.turn(WAIT_MS_MAX as i32)?;
            }
        }
        let wanted = self.open.clone();
        self.meter.start(now);
        if !self.load.short && self.load.interval_ns.is_none() {
            for fd in wanted {
                let start = now();
                for _ in 0..self.load.iodepth {
                    self.ask(fd, start);
                }
                self.transmit(fd)?;
            }
        }
        loop {
            let present = now();
            if self.meter.is_over(present) {
                return Ok(());
            }
            let timeout_ms = match self.load.interval_ns {
                Some(interval) => self.pace(present, interval)?,
                None => WAIT_MS_MAX as i32,
            };
            self.turn(if self.load.spin { 0 } else { timeout_ms })?;
        }
    }

    fn conn(&mut self, fd: RawFd) -> Option<&mut Conn> {
        self.conns.get_mut(fd as usize)?.as_deref_mut()
    }

    fn ask(&mut self, fd: RawFd, start: u64) {
        if let Some(conn) = self.conns.get_mut(fd as usize).and_then(Option::as_mut) {
            conn.state.ask(&self.script, start);
        }
    }

    /// Makes the requests that are due; returns how long there is to wait. What is due is asked
    /// whether or not the last answer has come, and its time counts from when it was due, so
    /// that a stall is seen by every request it would have met.
    fn pace(&mut self, present: u64, interval: f64) -> Result<i32, Failure> {
        while let Some(due) = self.meter.due(present, interval) {
            let index = self.turn % self.open.len().max(1);
            self.turn += 1;
            let Some(&fd) = self.open.get(index) else {
                break;
            };
            self.ask(fd, due);
            self.transmit(fd)?;
        }
        let wait = self.meter.next_due(interval).saturating_sub(present) / MS;
        Ok(wait.min(WAIT_MS_MAX) as i32)
    }

    fn turn(&mut self, timeout_ms: i32) -> Result<(), Failure> {
        let mut events = [EpollEvent::default(); EVENTS_MAX];
        let count = match N::epoll_wait(self.epoll, &mut events, timeout_ms) {
            Err(Errno::INTR) => 0,
            other => other.map_err(Failure::call("epoll_wait"))?,
        };
        if count == 0 {
            let silence = now().saturating_sub(self.last_heard);
            if silence > SILENCE_NS_MAX && self.load.interval_ns.is_none() {
                return Err(Failure::Silence);
            }
        }
        for event in events.iter().take(count) {
            self.handle(event.data as RawFd)?;
        }
        Ok(())
    }

    fn handle(&mut self, fd: RawFd) -> Result<(), Failure> {
        let Some(conn) = self.conn(fd) else {
            return Ok(());
        };
        if !conn.is_connected {
            return self.established(fd);
        }
        self.receive(fd)
    }

    fn connect(&mut self, server: SocketAddr, id: u32) -> Result<(), Failure> {
        let began = now();
        let fd = N::socket(server).map_err(Failure::call("socket"))?;
        let _no_delay = N::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        match N::connect(fd, server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(Failure::at("connect", server)(errno)),
        }
        let (size, short) = (self.load.size, self.load.short);
        let mut state = match self.load.protocol {
            Protocol::Knb => Asking::new(Hello { size, id, short }),
            Protocol::Memcached => Asking::memcached(size),
        };
        if short {
            state.ask(&self.script, began);
        }
        let conn = Conn {
            state,
            server,
            id,
            began,
            is_connected: false,
            wants_out: true,
        };
        let index = fd as usize;
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.conns.get_mut(index) {
            *slot = Some(Box::new(conn));
        }
        self.open.push(fd);
        let interest = (libc::EPOLLIN | libc::EPOLLOUT) as u32;
        N::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, fd, interest)
            .map_err(Failure::call("epoll_ctl"))
    }

    fn established(&mut self, fd: RawFd) -> Result<(), Failure> {
        let error = N::error_of(fd);
        let Some(conn) = self.conn(fd) else {
            return Ok(());
        };
        if error != 0 {
            return Err(Failure::at("connect", conn.server)(
                Errno::from_raw_os_error(error),
            ));
        }
        conn.is_connected = true;
        self.connected += 1;
        self.last_heard = now();
        self.transmit(fd)
    }

    fn receive(&mut self, fd: RawFd) -> Result<(), Failure> {
        loop {
            let count = match N::read(fd, &mut self.buffer) {
                Ok(count) => count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Failure::call("read")(errno)),
            };
            let Some(conn) = self.conns.get_mut(fd as usize).and_then(Option::as_mut) else {
                return Ok(());
            };
            if count == 0 {
                return self.ended(fd);
            }
            let bytes = self.buffer.get(..count).unwrap_or_default();
            let (present, meter, mut answers) = (now(), &mut self.meter, 0);
            self.last_heard = present;
            let is_short = self.load.short;
            conn.state
                .received(&self.script, bytes, self.load.verify, |start| {
                    answers += 1;
                    // A short connection is measured to its end.
                    if !is_short {
                        meter.record(start, present);
                    }
                })
                .map_err(Failure::Wrong)?;
            if !is_short && self.load.interval_ns.is_none() {
                for _ in 0..answers {
                    conn.state.ask(&self.script, present);
                }
            }
            if count < self.buffer.len() {
                break;
            }
        }
        self.transmit(fd)
    }

    /// The server closed: what a short connection is to come to.
    fn ended(&mut self, fd: RawFd) -> Result<(), Failure> {
        let conn = self.conns.get_mut(fd as usize).and_then(Option::take);
        N::close(fd);
        self.open.retain(|&open| open != fd);
        let Some(conn) = conn.filter(|conn| self.load.short && conn.state.under_way() == 0) else {
            return Err(Failure::Closed);
        };
        let present = now();
        self.meter.record(conn.began, present);
        if self.meter.is_over(present) {
            return Ok(());
        }
        self.connect(conn.server, conn.id)
    }

    fn transmit(&mut self, fd: RawFd) -> Result<(), Failure> {
        let Some(conn) = self.conns.get_mut(fd as usize).and_then(Option::as_mut) else {
            return Ok(());
        };
        if !conn.is_connected {
            return Ok(());
        }
        let wants_out = loop {
            let pending = conn.state.pending(&self.script, &mut self.scratch);
            if pending.is_empty() {
                break false;
            }
            match N::send(fd, pending) {
                Ok(count) => conn.state.sent(count),
                Err(Errno::AGAIN) => break true,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::call("send")(errno)),
            }
        };
        if wants_out != conn.wants_out {
            conn.wants_out = wants_out;
            let out = if wants_out { libc::EPOLLOUT } else { 0 };
            let interest = (libc::EPOLLIN | out) as u32;
            N::epoll_ctl(self.epoll, libc::EPOLL_CTL_MOD, fd, interest)
                .map_err(Failure::call("epoll_ctl"))?;
        }
        Ok(())
    }
}
