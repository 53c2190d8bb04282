//! A link in user space between two ends, each a Linux behind a TUN interface or a luna in this
//! process, in real time.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

use luna::stack::{ConnId, ListenId, RecvMode};
use luna::tcp::{Config, CongestionControl};
use luna::time::Instant;

use crate::common::netns::Netns;
use crate::host::lane::{Conditions, Lane};
use crate::host::{Host, OUR_MAC, PEER_MAC, Setup, address};
use crate::smol::Smol;

/// What is at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Linux,
    Luna,
    Smoltcp,
}

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Who sends, and who receives.
    pub(crate) pair: (Kind, Kind),
    pub(crate) loss_ppm: u32,
    pub(crate) round_trip: Duration,
    pub(crate) buffer: u32,
    pub(crate) seed: u64,
    /// It ends after this,
    pub(crate) span: Duration,
    /// or when so much has arrived.
    pub(crate) bytes: u64,
}

/// What arrived, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) received: u64,
    pub(crate) intact: bool,
    pub(crate) repairs: Repairs,
}

/// What a sender has done about losses: Linux counts it in its namespace, luna by connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repairs {
    pub(crate) timeouts: u64,
    pub(crate) recoveries: u64,
    pub(crate) retransmits: u64,
}

impl Repairs {
    fn of_linux(netns: &Netns) -> Self {
        let text = netns.enter(|| {
            let tables = ["snmp", "netstat"].map(|name| format!("/proc/thread-self/net/{name}"));
            tables
                .map(|path| std::fs::read_to_string(path).unwrap())
                .concat()
        });
        let value = |name: &str| {
            let mut lines = text.lines();
            loop {
                let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
                if let Some(at) = names.split(' ').position(|word| word == name) {
                    return values.split(' ').nth(at).unwrap().parse().unwrap();
                }
            }
        };
        // Counted by what went before: nothing, duplicates, a recovery, or another timeout.
        let timeouts = [
            "Timeouts",
            "SackFailures",
            "SackRecoveryFail",
            "LossFailures",
        ];
        Self {
            timeouts: timeouts
                .map(|name| value(&format!("TCP{name}")))
                .iter()
                .sum(),
            recoveries: value("TCPSackRecovery"),
            retransmits: value("RetransSegs"),
        }
    }
}

const RATE: u64 = 200_000_000;
const QUEUE_BYTES: u64 = 500_000;
pub(crate) const PORT: u16 = 80;

pub(crate) fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(131) >> 3) as u8
}

/// What both ends' applications share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    received: AtomicU64,
    broken: AtomicBool,
}

impl Shared {
    /// Bytes have been read.
    pub(crate) fn take(&self, bytes: &[u8]) {
        let at = self.received.load(Ordering::Relaxed);
        let good = bytes
            .iter()
            .enumerate()
            .all(|(i, b)| *b == pattern(at + i as u64));
        if !good {
            self.broken.store(true, Ordering::Relaxed);
        }
        self.received
            .store(at + bytes.len() as u64, Ordering::Relaxed);
    }
}

fn at(side: usize, port: u16) -> SocketAddr {
    SocketAddr::new(address(false, side as u8), port)
}

/// Something that frames go to and come from.
pub(crate) trait End {
    /// Frames that it has sent.
    fn collect(&mut self, now: u64, out: &mut VecDeque<Vec<u8>>);
    fn deliver(&mut self, now: u64, frame: &[u8]);
    fn repairs(&self) -> Repairs {
        Repairs::default()
    }
}

/// A Linux in its namespace: IP packets of a TUN interface, dressed as frames.
struct Tun {
    fd: OwnedFd,
    side: usize,
}

/// An IP packet of `side` as a frame.
pub(crate) fn dress(side: usize, packet: &[u8]) -> Vec<u8> {
    let macs = [OUR_MAC, PEER_MAC];
    let mut frame = [macs[1 - side], macs[side]].concat();
    frame.extend([8, 0]);
    frame.extend(packet);
    frame
}

/// `TUNSETIFF` and its flags (linux/if_tun.h).
const TUNSETIFF: u64 = 0x4004_54ca;
const IFF_TUN_NO_PI: u16 = 0x0001 | 0x1000;

impl Tun {
    fn new(netns: &Netns, side: usize) -> Self {
        let fd = netns.enter(|| {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .expect("/dev/net/tun");
            let mut request = [0u8; 40];
            request[..4].copy_from_slice(b"tun0");
            request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
            // SAFETY: the request is as long as a struct ifreq.
            let made =
                unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) };
            assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
            // SAFETY: our own descriptor, to read without waiting.
            unsafe {
                libc::fcntl(
                    file.as_raw_fd(),
                    libc::F_SETFL,
                    libc::O_NONBLOCK | libc::O_RDWR,
                )
            };
            OwnedFd::from(file)
        });
        netns.ip(&[
            "addr",
            "add",
            &format!("10.9.0.{}/16", side + 1),
            "dev",
            "tun0",
        ]);
        netns.ip(&[
            "link",
            "set",
            "tun0",
            "up",
            "mtu",
            "1500",
            "txqueuelen",
            "2000",
        ]);
        Self { fd, side }
    }
}

impl End for Tun {
    fn collect(&mut self, _: u64, out: &mut VecDeque<Vec<u8>>) {
        let mut buffer = [0u8; 2048];
        for _ in 0..64 {
            // SAFETY: the buffer's length.
            let n = unsafe {
                libc::read(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            };
            let Ok(n @ 1..) = usize::try_from(n) else {
                return;
            };
            // IPv6 router solicitations and the like are not ours.
            if buffer[0] >> 4 == 4 {
                out.push_back(dress(self.side, &buffer[..n]));
            }
        }
    }

    fn deliver(&mut self, _: u64, frame: &[u8]) {
        let packet = &frame[14..];
        // SAFETY: the packet's length.
        unsafe { libc::write(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
    }
}

/// A luna with its application.
struct Luna {
    host: Host,
    sends: bool,
    conn: Option<ConnId>,
    listener: Option<ListenId>,
    written: u64,
    limit: u64,
    shared: Arc<Shared>,
}

impl Luna {
    fn new(run: &Run, side: usize, sends: bool, shared: Arc<Shared>, now: u64) -> Self {
        let mut host = Host::new(Setup {
            own: side as u8,
            zones: 16,
            start: Instant::from_nanos(now),
            ..Setup::default()
        });
        // As SO_SNDBUF and SO_RCVBUF do for the kernel's end.
        let mut config = Config {
            congestion: CongestionControl::Cubic,
            ..Config::default()
        };
        config.set_send_buffer(run.buffer);
        config.set_receive_buffer(run.buffer);
        let (mut conn, mut listener) = (None, None);
        let now = host.now;
        if sends {
            let opened = host
                .shard
                .connect(now, at(side, 61440), at(1 - side, PORT), &config, 1);
            conn = Some(opened.unwrap());
        } else {
            listener = Some(
                host.shard
                    .listen(at(side, PORT), false, 4, &config, 1)
                    .unwrap(),
            );
        }
        Self {
            host,
            sends,
            conn,
            listener,
            written: 0,
            limit: run.bytes,
            shared,
        }
    }

    fn app(&mut self) {
        if let (None, Some(id)) = (self.conn, self.listener) {
            self.conn = self.host.shard.accept(id, 2).map(|a| a.conn);
        }
        let (now, Some(conn)) = (self.host.now, self.conn) else {
            return;
        };
        while self.sends && self.written < self.limit {
            let len = (self.limit - self.written).min(16384);
            let bytes: Vec<u8> = (self.written..self.written + len).map(pattern).collect();
            match self
                .host
                .shard
                .send(now, conn, &[IoSlice::new(&bytes)], false)
            {
                Ok(n @ 1..) => self.written += n as u64,
                _ => break,
            }
        }
        let mut buffer = [0; 65536];
        while !self.sends {
            let into = &mut [IoSliceMut::new(&mut buffer)];
            match self.host.shard.recv(now, conn, into, RecvMode::default()) {
                Ok(n @ 1..) => self.shared.take(&buffer[..n]),
                _ => break,
            }
        }
    }
}

impl End for Luna {
    fn collect(&mut self, now: u64, out: &mut VecDeque<Vec<u8>>) {
        self.host.now = Instant::from_nanos(now);
        self.host.turn();
        self.app();
        self.host.settle();
        out.extend(self.host.sent.drain(..).map(|(_, frame)| frame));
    }

    fn deliver(&mut self, now: u64, frame: &[u8]) {
        self.host.now = Instant::from_nanos(now);
        self.host.put(frame);
    }

    fn repairs(&self) -> Repairs {
        let info = self.conn.and_then(|conn| self.host.shard.info(conn));
        info.map_or(Repairs::default(), |info| Repairs {
            timeouts: info.tcp.counters.timeouts,
            recoveries: info.tcp.counters.fast_recoveries,
            retransmits: info.tcp.counters.retransmits,
        })
    }
}

/// Buffers and congestion control, alike on all machines.
fn set_options(fd: i32, bytes: u32) {
    let name = b"cubic";
    let len = name.len() as u32;
    // SAFETY: a name and its length.
    let set = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            len,
        )
    };
    assert_eq!(set, 0, "cubic: {}", std::io::Error::last_os_error());
    for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
        let value = bytes as i32;
        // SAFETY: an int and its size.
        let set =
            unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, (&raw const value).cast(), 4) };
        assert_eq!(set, 0);
    }
}

/// `SO_SNDTIMEO`, which bounds `connect` too.
fn set_send_timeout(fd: i32, limit: Duration) {
    let value = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: limit.subsec_micros().into(),
    };
    let (name, value) = (libc::SO_SNDTIMEO, (&raw const value).cast());
    // SAFETY: a timeval and its size.
    let set = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            value,
            size_of::<libc::timeval>() as u32,
        )
    };
    assert_eq!(set, 0);
}

/// Linux's application, on a thread in its namespace until `stop`.
fn linux_app(netns: &Netns, side: usize, sends: bool, run: Run, shared: &Shared) {
    netns.enter(|| match sends {
        true => linux_sender(side, run, shared),
        false => linux_receiver(side, run, shared),
    });
}

fn linux_sender(side: usize, run: Run, shared: &Shared) {
    // SAFETY: integers only; the descriptor is owned from here on.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
    set_options(fd.as_raw_fd(), run.buffer);
    let mut addr = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: PORT.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([10, 9, 0, 2 - side as u8]),
        },
        sin_zero: [0; 8],
    };
    // A SYN that is lost again and again must not outlast the run.
    set_send_timeout(fd.as_raw_fd(), run.span);
    // SAFETY: an address and its size.
    let connected = unsafe { libc::connect(fd.as_raw_fd(), (&raw mut addr).cast(), 16) };
    if connected != 0 {
        return;
    }
    let mut stream = TcpStream::from(fd);
    stream
        .set_write_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut written = 0u64;
    while written < run.bytes && !shared.stop.load(Ordering::Relaxed) {
        let len = (run.bytes - written).min(16384);
        let bytes: Vec<u8> = (written..written + len).map(pattern).collect();
        match stream.write(&bytes) {
            Ok(n) => written += n as u64,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    // Until everything has arrived: closing would not wait.
    while !shared.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn linux_receiver(side: usize, run: Run, shared: &Shared) {
    let listener = TcpListener::bind(at(side, PORT)).unwrap();
    set_options(listener.as_raw_fd(), run.buffer);
    listener.set_nonblocking(true).unwrap();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if shared.stop.load(Ordering::Relaxed) => return,
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut buffer = vec![0; 65536];
    while !shared.stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => shared.take(&buffer[..n]),
            Err(_) => {}
        }
    }
}

/// Runs one transfer.
pub(crate) fn run(run: &Run) -> Outcome {
    let kinds = [run.pair.0, run.pair.1];
    let shared = Arc::new(Shared::default());
    let spaces = [0, 1].map(|i| (kinds[i] == Kind::Linux).then(|| Netns::new(["tx", "rx"][i])));
    let begun = Clock::now();
    let now = move || begun.elapsed().as_nanos() as u64 + 10_000_000_000;
    let mut ends: Vec<Box<dyn End>> = Vec::new();
    for (side, space) in spaces.iter().enumerate() {
        ends.push(match space {
            Some(netns) => Box::new(Tun::new(netns, side)),
            None if kinds[side] == Kind::Smoltcp => {
                Box::new(Smol::new(run, side, Arc::clone(&shared), now()))
            }
            None => Box::new(Luna::new(run, side, side == 0, Arc::clone(&shared), now())),
        });
    }
    std::thread::scope(|scope| {
        // The receiver first, so that the first SYN finds it.
        for side in [1, 0] {
            let (space, shared, run) = (&spaces[side], Arc::clone(&shared), *run);
            if let Some(netns) = space {
                scope.spawn(move || linux_app(netns, side, side == 0, run, &shared));
                if side == 1 {
                    std::thread::sleep(Duration::from_millis(30));
                }
            }
        }
        carry(run, &mut ends, &shared, &now);
        shared.stop.store(true, Ordering::Relaxed);
    });
    Outcome {
        repairs: match &spaces[0] {
            Some(netns) => Repairs::of_linux(netns),
            None => ends[0].repairs(),
        },
        received: shared.received.load(Ordering::Relaxed),
        intact: !shared.broken.load(Ordering::Relaxed),
    }
}

/// Moves frames until the time is over or everything has arrived.
fn carry(run: &Run, ends: &mut [Box<dyn End>], shared: &Shared, now: &dyn Fn() -> u64) {
    let conditions = Conditions {
        loss_ppm: run.loss_ppm,
        delay_ns: run.round_trip.as_nanos() as u64 / 2,
        bits_per_second: RATE,
        queue_bytes: QUEUE_BYTES,
        ..Conditions::default()
    };
    let mut lanes = [
        Lane::new(conditions, run.seed),
        Lane::new(conditions, run.seed ^ 0xabcd),
    ];
    let mut out = VecDeque::new();
    let end = now() + run.span.as_nanos() as u64;
    while now() < end && shared.received.load(Ordering::Relaxed) < run.bytes {
        let mut idle = true;
        for (end, lane) in ends.iter_mut().zip(&mut lanes) {
            end.collect(now(), &mut out);
            while let Some(frame) = out.pop_front() {
                idle = false;
                lane.put(now(), frame);
            }
        }
        for (to, lane) in [1, 0].into_iter().zip(&mut lanes) {
            while let Some(frame) = lane.take(now()) {
                idle = false;
                ends[to].deliver(now(), &frame);
            }
        }
        if idle {
            // The applications share these processors.
            std::thread::yield_now();
        }
    }
}
