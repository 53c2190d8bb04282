//! The serving side on BSD calls: one thread, one listener, one epoll set.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use luna::sys::{EpollEvent, Errno};

use super::message::{CHUNK_BYTES, Pattern, Serving};
use super::net::Net;
use super::options::Failure;

/// How long a thread may wait before it looks whether it is to end.
const LOOK_MS: i32 = 100;
const EVENTS_MAX: usize = 64;
const BACKLOG: i32 = 1024;

/// What a serving thread is told.
pub(crate) struct Plan<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) verify: bool,
    pub(crate) spin: bool,
    pub(crate) stop: &'a AtomicBool,
    /// Hears once that the thread can be connected to.
    pub(crate) ready: &'a (dyn Fn() + Sync),
}

/// What a serving thread did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    pub(crate) connections: u64,
    pub(crate) answers: u64,
}

#[derive(Default)]
struct Conn {
    state: Serving,
    wants_out: bool,
}

struct Server<'a, N: Net> {
    plan: &'a Plan<'a>,
    epoll: RawFd,
    listener: RawFd,
    pattern: Pattern,
    buffer: Vec<u8>,
    /// By descriptor.
    conns: Vec<Option<Box<Conn>>>,
    served: Served,
    net: core::marker::PhantomData<N>,
}

/// Serves until it is told to stop.
pub(crate) fn serve<N: Net>(plan: &Plan<'_>) -> Result<Served, Failure> {
    let listener = N::socket(plan.address).map_err(Failure::call("socket"))?;
    N::set_option(listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
        .map_err(Failure::call("setsockopt"))?;
    N::bind(listener, plan.address).map_err(Failure::at("bind", plan.address))?;
    N::listen(listener, BACKLOG).map_err(Failure::at("listen", plan.address))?;
    let epoll = N::epoll_create().map_err(Failure::call("epoll_create"))?;
    N::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, listener, libc::EPOLLIN as u32)
        .map_err(Failure::call("epoll_ctl"))?;
    (plan.ready)();
    let mut server = Server::<N> {
        plan,
        epoll,
        listener,
        pattern: Pattern::new(),
        buffer: vec![0; CHUNK_BYTES],
        conns: Vec::new(),
        served: Served::default(),
        net: core::marker::PhantomData,
    };
    server.run()?;
    Ok(server.end())
}

impl<N: Net> Server<'_, N> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut events = [EpollEvent::default(); EVENTS_MAX];
        let timeout_ms = if self.plan.spin { 0 } else { LOOK_MS };
        while !self.plan.stop.load(Ordering::Relaxed) {
            let count = match N::epoll_wait(self.epoll, &mut events, timeout_ms) {
                Err(Errno::INTR) => continue,
                other => other.map_err(Failure::call("epoll_wait"))?,
            };
            for event in events.iter().take(count) {
                let fd = event.data as RawFd;
                if fd == self.listener {
                    self.accept()?;
                } else {
                    self.handle(fd);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), Failure> {
        loop {
            let fd = match N::accept(self.listener) {
                Ok(fd) => fd,
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
                Err(errno) => return Err(Failure::call("accept")(errno)),
            };
            // The stream is messages: none may wait for the acknowledgment of another.
            let _no_delay = N::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            N::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32)
                .map_err(Failure::call("epoll_ctl"))?;
            let index = fd as usize;
            if self.conns.len() <= index {
                self.conns.resize_with(index + 1, || None);
            }
            if let Some(slot) = self.conns.get_mut(index) {
                *slot = Some(Box::default());
            }
            self.served.connections += 1;
        }
    }

    fn handle(&mut self, fd: RawFd) {
        let Some(conn) = self.conns.get_mut(fd as usize).and_then(Option::as_mut) else {
            return;
        };
        let is_open = receive::<N>(fd, conn, &self.pattern, &mut self.buffer, self.plan.verify)
            && transmit::<N>(fd, conn, &self.pattern, self.epoll)
            && !conn.state.is_over();
        if !is_open {
            self.close(fd);
        }
    }

    fn close(&mut self, fd: RawFd) {
        if let Some(conn) = self.conns.get_mut(fd as usize).and_then(Option::take) {
            self.served.answers += conn.state.answered();
            N::close(fd);
        }
    }

    fn end(mut self) -> Served {
        for fd in 0..self.conns.len() {
            self.close(fd as RawFd);
        }
        N::close(self.listener);
        N::close(self.epoll);
        self.served
    }
}

/// Reads until nothing is left; false at the end of the stream.
fn receive<N: Net>(
    fd: RawFd,
    conn: &mut Conn,
    pattern: &Pattern,
    buffer: &mut [u8],
    verify: bool,
) -> bool {
    loop {
        match N::read(fd, buffer) {
            Ok(0) => return false,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                if let Err(wrong) = conn.state.received(pattern, bytes, verify) {
                    crate::show::note(&format!("knb server: {wrong}"));
                    return false;
                }
                // Less than there was room for: there is no more.
                if count < buffer.len() {
                    return true;
                }
            }
            Err(Errno::AGAIN) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Sends what is owed; false if the connection is lost.
fn transmit<N: Net>(fd: RawFd, conn: &mut Conn, pattern: &Pattern, epoll: RawFd) -> bool {
    loop {
        let pending = conn.state.pending(pattern);
        if pending.is_empty() {
            break;
        }
        match N::send(fd, pending) {
            Ok(count) => conn.state.sent(count),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    let wants_out = conn.state.owed() > 0;
    if wants_out != conn.wants_out {
        conn.wants_out = wants_out;
        let out = if wants_out { libc::EPOLLOUT } else { 0 };
        let interest = (libc::EPOLLIN | out) as u32;
        return N::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, interest).is_ok();
    }
    true
}
