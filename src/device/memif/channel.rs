//! The control channel of a memif link: a Unix socket over which two processes agree on memory
//! and rings, and by whose end each knows that the other has gone.
//!
//! Owns the socket, the handshake and the descriptor that becomes readable for any of it. Never
//! blocks; is looked at when something is readable.
#![forbid(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::fd::Handle;
use super::message::{
    AddRing, Hello, MESSAGE_BYTES, Message, RING_TO_SERVER, VERSION, name, printable,
};
use super::region::Region;
use super::ring::{Descriptor, End, LOG2_MAX, Ring, ring_bytes};
use super::{MemifConfig, MemifRole};
use crate::sys::{self, EpollEvent, OwnFd};

/// What both ends of ours call themselves: they take frames whose TCP checksum is unfinished, and
/// frames longer than the MTU, as the ends of a veth do.
const LUNA_NAME: &str = "luna/1 with offloads";

const LISTENER: u64 = 1;
const CONNECTION: u64 = 2;
const EVENT: u64 = 3;
const TIMER: u64 = 4;

/// How often a client looks for its server.
const RETRY_EVERY_NS: i64 = 20_000_000;

/// Most regions that a client may have.
const REGIONS_MAX: usize = 8;

/// The path of frames, once both ends agree on it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) regions: Vec<Region>,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    /// The peer is one of ours: it minds neither unfinished checksums nor long frames.
    pub(super) is_luna: bool,
    /// A client's: the size of its buffers, which are those of both rings.
    pub(super) buffer_bytes: Option<u32>,
    /// So many descriptors at the end of the ring are those of a frame that lacks others.
    pub(super) incomplete: u16,
}

/// A connection on its way to be a link.
#[derive(Debug)]
struct Connection {
    socket: Handle,
    peer: [u8; 32],
    regions: Vec<Region>,
    to_server: Option<Ring>,
    to_client: Option<Ring>,
    /// A client's: what the next acknowledgment is for. A server's: an INIT has come.
    step: u8,
    /// A client's descriptors that go with its messages.
    memory: Option<OwnedFd>,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Outcome {
    Nothing,
    Up(Box<Link>),
    Down,
}

/// The channel.
#[derive(Debug)]
pub(super) struct Channel {
    config: MemifConfig,
    epoll: Handle,
    listener: Option<Handle>,
    timer: Option<Handle>,
    connection: Option<Connection>,
}

impl Channel {
    pub(super) fn open(config: &MemifConfig) -> Result<Self, (&'static str, Errno)> {
        let epoll = OwnFd::epoll().and_then(Handle::own);
        let mut channel = Self {
            config: config.clone(),
            epoll: epoll.map_err(|errno| ("make an epoll descriptor", errno))?,
            listener: None,
            timer: None,
            connection: None,
        };
        match config.role {
            MemifRole::Server => channel
                .listen()
                .map_err(|errno| ("listen on the socket", errno))?,
            MemifRole::Client => channel
                .start_retrying()
                .map_err(|errno| ("make a timer", errno))?,
        }
        Ok(channel)
    }

    pub(super) fn wait_fd(&self) -> RawFd {
        self.epoll.raw()
    }

    /// Handles whatever is readable.
    pub(super) fn service(&mut self) -> Outcome {
        let mut events = [EpollEvent::default(); 8];
        let count = sys::epoll_wait(self.epoll.raw(), &mut events, Some(0), None).unwrap_or(0);
        let mut outcome = Outcome::Nothing;
        // The end of the old connection comes before the beginning of a new one.
        let mut tokens: Vec<u64> = events.iter().take(count).map(|event| event.data).collect();
        tokens.sort_unstable_by_key(|token| *token != CONNECTION);
        for token in tokens {
            let happened = match token {
                CONNECTION => self.hear(),
                LISTENER => self.accept(),
                TIMER => self.retry(),
                _ => Outcome::Nothing,
            };
            if !matches!(happened, Outcome::Nothing) {
                outcome = happened;
            }
        }
        outcome
    }

    /// Ends the connection, for a reason that the peer is told.
    pub(super) fn hang_up(&mut self, reason: &str) {
        if let Some(connection) = self.connection.take() {
            log::warn!("{}: {reason}", self.config.socket);
            // It may be gone already.
            let _ = send(&connection.socket, &Message::disconnect(reason), None);
        }
        if self.config.role == MemifRole::Client && self.start_retrying().is_err() {
            log::warn!("{}: cannot look for the server again", self.config.socket);
        }
    }

    fn watch(&self, fd: RawFd, token: u64, edge: bool) -> Result<(), Errno> {
        let edge = if edge { libc::EPOLLET } else { 0 };
        let event = EpollEvent {
            events: (libc::EPOLLIN | edge) as u32,
            data: token,
        };
        sys::epoll_ctl(self.epoll.raw(), libc::EPOLL_CTL_ADD, fd, Some(event))
    }

    /// Before a link's ring goes: the peer holds its event as well, so closing ours would not end
    /// the watch.
    pub(super) fn unwatch(&self, rx: &Ring) {
        let event = rx.event().raw();
        let _ = sys::epoll_ctl(self.epoll.raw(), libc::EPOLL_CTL_DEL, event, None);
    }

    // ---- a server's side --------------------------------------------------------------------

    fn listen(&mut self) -> Result<(), Errno> {
        let address = address(&self.config.socket)?;
        let listener = seqpacket()?;
        let bound = match sys::bind(listener.raw(), &address) {
            // What a killed server left behind: nobody answers there.
            Err(Errno::ADDRINUSE) if !self.config.socket.starts_with('@') => {
                let probe = seqpacket()?;
                match sys::connect(probe.raw(), &address) {
                    Err(Errno::CONNREFUSED) => {
                        rustix::fs::unlink(self.config.socket.as_str())?;
                        sys::bind(listener.raw(), &address)
                    }
                    _ => Err(Errno::ADDRINUSE),
                }
            }
            other => other,
        };
        bound?;
        sys::listen(listener.raw(), 8)?;
        self.watch(listener.raw(), LISTENER, false)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn accept(&mut self) -> Outcome {
        let Some(listener) = &self.listener else {
            return Outcome::Nothing;
        };
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let Ok((fd, _)) = sys::accept4(listener.raw(), flags) else {
            return Outcome::Nothing;
        };
        let Ok(socket) = Handle::adopt_raw(fd) else {
            return Outcome::Nothing;
        };
        if self.connection.is_some() {
            let _ = send(&socket, &Message::disconnect("already connected"), None);
            return Outcome::Nothing;
        }
        let hello = Message::Hello(Hello {
            name: name(LUNA_NAME),
            version_min: VERSION,
            version_max: VERSION,
            region_max: REGIONS_MAX as u16 - 1,
            // The highest number of a ring, so there is one.
            ring_to_client_max: 0,
            ring_to_server_max: 0,
            ring_log2_max: LOG2_MAX,
        });
        if send(&socket, &hello, None).is_ok()
            && self.watch(socket.raw(), CONNECTION, false).is_ok()
        {
            self.connection = Some(Connection::new(socket));
        }
        Outcome::Nothing
    }

    // ---- a client's side --------------------------------------------------------------------

    fn start_retrying(&mut self) -> Result<(), Errno> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = Handle::adopt(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let spec = Itimerspec {
            it_interval: at(RETRY_EVERY_NS),
            it_value: at(1),
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)?;
        self.watch(timer.raw(), TIMER, false)?;
        self.timer = Some(timer);
        Ok(())
    }

    fn retry(&mut self) -> Outcome {
        if let Some(timer) = &self.timer {
            sys::eventfd_clear(timer.raw());
        }
        if self.connection.is_some() {
            return Outcome::Nothing;
        }
        if let Ok(socket) = self.call() {
            self.timer = None;
            self.connection = Some(Connection::new(socket));
        }
        Outcome::Nothing
    }

    fn call(&self) -> Result<Handle, Errno> {
        let socket = seqpacket()?;
        sys::connect(socket.raw(), &address(&self.config.socket)?)?;
        self.watch(socket.raw(), CONNECTION, false)?;
        Ok(socket)
    }

    // ---- both -------------------------------------------------------------------------------

    /// Reads the connection's messages.
    fn hear(&mut self) -> Outcome {
        loop {
            let Some(connection) = &mut self.connection else {
                return Outcome::Nothing;
            };
            let (message, fd) = match receive(&connection.socket) {
                Ok(Some(received)) => received,
                Err(Errno::AGAIN) => return Outcome::Nothing,
                Ok(None) | Err(_) => return self.lost("the peer has gone"),
            };
            let step = match self.config.role {
                MemifRole::Server => connection.serve(message, fd),
                MemifRole::Client => connection.ask(message, &self.config),
            };
            match step {
                Ok(false) => {}
                Ok(true) => return self.establish(),
                Err(reason) => {
                    self.hang_up(&reason);
                    return Outcome::Down;
                }
            }
        }
    }

    fn lost(&mut self, why: &str) -> Outcome {
        self.connection = None;
        log::info!("{}: {why}", self.config.socket);
        if self.config.role == MemifRole::Client && self.start_retrying().is_err() {
            log::warn!("{}: cannot look for the server again", self.config.socket);
        }
        Outcome::Down
    }

    fn establish(&mut self) -> Outcome {
        let Some(connection) = &mut self.connection else {
            return Outcome::Nothing;
        };
        let (Some(to_server), Some(to_client)) =
            (connection.to_server.take(), connection.to_client.take())
        else {
            self.hang_up("a ring is missing");
            return Outcome::Down;
        };
        let (rx, tx) = match self.config.role {
            MemifRole::Server => (to_server, to_client),
            MemifRole::Client => (to_client, to_server),
        };
        let link = Link {
            regions: core::mem::take(&mut connection.regions),
            rx,
            tx,
            is_luna: connection.peer == name(LUNA_NAME),
            buffer_bytes: (self.config.role == MemifRole::Client)
                .then_some(self.config.buffer_bytes),
            incomplete: 0,
        };
        if self.config.role == MemifRole::Client {
            // DPDK's server resets the rings when it connects, and with them what was offered.
            link.rx.show(&link.regions);
        }
        let peer = printable(&connection.peer);
        if self.watch(link.rx.event().raw(), EVENT, true).is_err() {
            self.hang_up("no descriptor to wait on");
            return Outcome::Down;
        }
        log::info!("{}: connected to `{peer}`", self.config.socket);
        Outcome::Up(Box::new(link))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Only who still has the listener made the name: a forked child has not.
        if self.listener.is_some() && !self.config.socket.starts_with('@') {
            let _ = rustix::fs::unlink(self.config.socket.as_str());
        }
    }
}

impl Connection {
    fn new(socket: Handle) -> Self {
        Self {
            socket,
            peer: [0; 32],
            regions: Vec::new(),
            to_server: None,
            to_client: None,
            step: 0,
            memory: None,
        }
    }

    fn say(&self, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<bool, String> {
        send(&self.socket, message, fd)
            .map(|()| false)
            .map_err(|errno| format!("cannot send to the peer: {errno}"))
    }

    /// A server's answer to a message; true: the link is complete.
    fn serve(&mut self, message: Message, fd: Option<OwnedFd>) -> Result<bool, String> {
        match message {
            Message::Init {
                version,
                mode,
                name,
                ..
            } => {
                if version != VERSION || !Message::is_ethernet(mode) {
                    return Err(format!("version {version:#x}, mode {mode}: not supported"));
                }
                self.peer = name;
                self.step = 1;
            }
            Message::AddRegion { index, bytes } if self.step == 1 => {
                let fd = fd.ok_or("a region without memory")?;
                if usize::from(index) != self.regions.len() || self.regions.len() == REGIONS_MAX {
                    return Err("a region out of order".into());
                }
                let region = Region::open(fd.as_fd(), bytes).map_err(|errno| {
                    format!("its memory is unusable ({errno}; is it sealed against shrinking?)")
                })?;
                self.regions.push(region);
            }
            Message::AddRing(ring) if self.step == 1 => {
                let event = fd.ok_or("a ring without an interrupt")?;
                let event = Handle::adopt_event(event)
                    .map_err(|errno| format!("its interrupt is no eventfd ({errno})"))?;
                if ring.index != 0 {
                    return Err("more than one ring each way".into());
                }
                let at = (usize::from(ring.region), ring.offset as usize);
                let end = Ring::new(End::Server, &self.regions, at, ring.log2, event)
                    .ok_or("a ring that is none")?;
                if ring.flags & RING_TO_SERVER != 0 {
                    end.mask(&self.regions);
                    self.to_server = Some(end);
                } else {
                    self.to_client = Some(end);
                }
            }
            Message::Connect => {
                self.say(&Message::Connected, None)?;
                self.step = 2;
                return Ok(true);
            }
            Message::Disconnect { reason } => return Err(ended(&reason)),
            other => return Err(format!("unexpected {other:?}")),
        }
        self.say(&Message::Ack, None)
    }

    /// A client's next message after the server's; true: the link is complete.
    fn ask(&mut self, message: Message, config: &MemifConfig) -> Result<bool, String> {
        match (message, self.step) {
            (Message::Hello(hello), 0) => {
                if hello.version_min > VERSION || hello.version_max < VERSION {
                    return Err("the server speaks no memif 2.0".into());
                }
                self.peer = hello.name;
                let log2 = config.ring_log2.min(hello.ring_log2_max);
                self.lay_out(config, log2)
                    .map_err(|errno| format!("no memory to share: {errno}"))?;
                self.step = 1;
                self.say(&Message::init(config.id, name(LUNA_NAME)), None)
            }
            (Message::Ack, 1) => {
                let bytes = layout(config, self.log2()).bytes as u64;
                self.step = 2;
                let memory = self.memory.take();
                let fd = memory.as_ref().map(AsFd::as_fd);
                self.say(&Message::AddRegion { index: 0, bytes }, fd)
            }
            (Message::Ack, 2) => self.add_ring(config, RING_TO_SERVER),
            (Message::Ack, 3) => self.add_ring(config, 0),
            (Message::Ack, 4) => {
                self.step = 5;
                self.say(&Message::Connect, None)
            }
            (Message::Connected, 5) => Ok(true),
            (Message::Disconnect { reason }, _) => Err(ended(&reason)),
            (other, step) => Err(format!("unexpected {other:?} at step {step}")),
        }
    }

    fn log2(&self) -> u8 {
        let size = self.to_server.as_ref().map_or(1, Ring::size);
        size.trailing_zeros() as u8
    }

    fn add_ring(&mut self, config: &MemifConfig, flags: u16) -> Result<bool, String> {
        let layout = layout(config, self.log2());
        self.step += 1;
        let (ring, offset) = if flags == RING_TO_SERVER {
            (&self.to_server, layout.to_server)
        } else {
            (&self.to_client, layout.to_client)
        };
        let message = Message::AddRing(AddRing {
            flags,
            index: 0,
            region: 0,
            offset: offset as u32,
            log2: self.log2(),
        });
        let fd = ring.as_ref().map(|ring| ring.event().as_fd());
        self.say(&message, fd)
    }

    /// A client's memory: two rings and the buffers of each.
    fn lay_out(&mut self, config: &MemifConfig, log2: u8) -> Result<(), Errno> {
        let layout = layout(config, log2);
        let (region, memory) = Region::create(layout.bytes)?;
        for base in [layout.to_server, layout.to_client] {
            Ring::lay_out(&region, base);
        }
        let regions = vec![region];
        let mut ends = Vec::new();
        for (end, base, buffers) in [
            (End::ClientSends, layout.to_server, layout.buffers_to_server),
            (
                End::ClientReceives,
                layout.to_client,
                layout.buffers_to_client,
            ),
        ] {
            let event = Handle::own(OwnFd::eventfd()?)?;
            let ring = Ring::new(end, &regions, (0, base), log2, event).ok_or(Errno::INVAL)?;
            for index in 0..ring.size() {
                let descriptor = Descriptor {
                    flags: 0,
                    region: 0,
                    len: config.buffer_bytes,
                    offset: (buffers + usize::from(index) * config.buffer_bytes as usize) as u32,
                };
                ring.describe(&regions, index, descriptor, false);
            }
            ring.show(&regions);
            ends.push(ring);
        }
        self.to_client = ends.pop();
        self.to_server = ends.pop();
        self.regions = regions;
        self.memory = Some(memory);
        Ok(())
    }
}

/// Where things are in a client's memory.
struct Layout {
    to_server: usize,
    to_client: usize,
    buffers_to_server: usize,
    buffers_to_client: usize,
    bytes: usize,
}

fn layout(config: &MemifConfig, log2: u8) -> Layout {
    const PAGE_BYTES: usize = 4096;
    let ring = ring_bytes(log2).next_multiple_of(PAGE_BYTES);
    let buffers = (config.buffer_bytes as usize) << log2;
    Layout {
        to_server: 0,
        to_client: ring,
        buffers_to_server: 2 * ring,
        buffers_to_client: 2 * ring + buffers,
        bytes: (2 * ring + 2 * buffers).next_multiple_of(PAGE_BYTES),
    }
}

fn ended(reason: &[u8]) -> String {
    format!("the peer has disconnected: {}", printable(reason))
}

/// A `struct sockaddr_un`; a name that begins with `@` is an abstract one.
fn address(path: &str) -> Result<Vec<u8>, Errno> {
    /// `sizeof sun_path`, less the zero at its end.
    const PATH_BYTES_MAX: usize = 107;
    if path.len() > PATH_BYTES_MAX || path.bytes().any(|byte| byte == 0) {
        return Err(Errno::NAMETOOLONG);
    }
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    match path.strip_prefix('@') {
        Some(name) => {
            bytes.push(0);
            bytes.extend_from_slice(name.as_bytes());
        }
        None => {
            bytes.extend_from_slice(path.as_bytes());
            bytes.push(0);
        }
    }
    Ok(bytes)
}

fn seqpacket() -> Result<Handle, Errno> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    Handle::adopt_raw(sys::socket(libc::AF_UNIX, kind, 0)?)
}

fn send(socket: &Handle, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = message.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        let pushed = control.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(pushed, "there is room for one");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags).map(drop)
}

/// A message and the descriptor that came with it; `None` at the end of the connection.
fn receive(socket: &Handle) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    )?;
    let mut first = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            // More than one would be a mistake of the peer's: they are closed.
            for fd in fds {
                first.get_or_insert(fd);
            }
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    let message = Message::decode(bytes.get(..got.bytes).unwrap_or_default());
    message
        .map(|message| Some((message, first)))
        .ok_or(Errno::PROTO)
}
