//! A whole shard against a peer that does whatever the input says: frames in, calls, time.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;

use luna::stack::{Close, ConnId, ListenId, RecvMode};
use luna::tcp::{Config, Keepalive};
use luna::time::Duration;

use crate::host::frame::{ACK, PSH, RST, SYN, Segment};
use crate::host::{Host, Setup, address, tables};

/// Reads an input; beyond its end there are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn half(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn word(&mut self) -> u32 {
        u32::from(self.half()) << 16 | u32::from(self.half())
    }

    /// Near `base`, as a byte decides, or anywhere.
    fn near(&mut self, base: u32) -> u32 {
        match self.byte() {
            n @ 0..=120 => base.wrapping_add(u32::from(n / 40)),
            n @ 121..=180 => base.wrapping_add(u32::from(n)),
            n @ 181..=220 => base.wrapping_sub(u32::from(n - 180)),
            221..=245 => base.wrapping_add(u32::from(self.half())),
            _ => self.word(),
        }
    }
}

/// What the peer knows of one of its ports.
#[derive(Clone, Copy, Default)]
struct Ends {
    seq: u32,
    ack: u32,
    stamp: u32,
}

struct World {
    host: Host,
    v6: bool,
    ends: [Ends; 4],
    listener: Option<ListenId>,
    conns: Vec<ConnId>,
    config: Config,
}

const PEER_PORTS: u16 = 40_000;
const PORT: u16 = 80;
/// Frames that one step may make a host send: a full window to every peer.
const FRAMES_MAX: usize = 20_000;

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let shape = input.byte();
        let config = Config {
            mss_local: 1460,
            rcv_buf_max_bytes: 256 << (input.byte() % 10),
            snd_buf_max_bytes: 256 << (input.byte() % 10),
            window_scale: shape & 1 != 0,
            sack: shape & 2 != 0,
            timestamps: shape & 4 != 0,
            nodelay: shape & 8 != 0,
            keepalive: (shape & 16 != 0).then(Keepalive::default),
            user_timeout: (shape & 32 != 0).then_some(Duration::from_secs(20)),
            ..Config::default()
        };
        let mut world = Self {
            host: Host::new(Setup::default()),
            v6: shape & 64 != 0,
            ends: [Ends {
                seq: u32::MAX - 50,
                ..Ends::default()
            }; 4],
            listener: None,
            conns: Vec::new(),
            config,
        };
        world.listen();
        world
    }

    fn at(&self, own: u8, port: u16) -> SocketAddr {
        SocketAddr::new(address(self.v6, own), port)
    }

    fn listen(&mut self) {
        if self.listener.is_none() {
            let at = self.at(0, PORT);
            self.listener = self.host.shard.listen(at, false, 2, &self.config, 1).ok();
        }
    }

    fn segment(&mut self, input: &mut Input<'_>) {
        let who = usize::from(input.byte() % 4);
        let ends = self.ends[who];
        let flags = match input.byte() {
            0..=80 => ACK,
            81..=150 => ACK | PSH,
            151..=180 => SYN,
            181..=190 => SYN | ACK,
            191..=200 => RST,
            _ => input.byte(),
        };
        let src = (address(self.v6, 1), PEER_PORTS + who as u16);
        let mut segment = Segment::new(src, (address(self.v6, 0), PORT), flags);
        segment.seq = input.near(ends.seq);
        segment.ack = input.near(ends.ack);
        segment.window = input.half();
        segment.urgent = input.half();
        segment.ecn = input.byte() & 3;
        let len = match input.byte() {
            n @ 0..=200 => usize::from(n) % 30,
            n => usize::from(n - 200) * 26,
        };
        segment.payload = vec![0x55; len];
        segment.options = self.options(input, ends, flags);
        let mut frame = segment.frame();
        if input.byte() > 250 {
            let at = usize::from(input.byte()) % frame.len();
            frame[at] ^= input.byte();
            frame.truncate(frame.len() - usize::from(input.byte()) % 20);
        }
        let ends = &mut self.ends[who];
        if segment.seq == ends.seq {
            ends.seq = ends.seq.wrapping_add(segment.sequence_len());
        }
        ends.stamp = ends.stamp.wrapping_add(1);
        self.host.put(&frame);
    }

    fn options(&self, input: &mut Input<'_>, ends: Ends, flags: u8) -> Vec<u8> {
        let which = input.byte();
        let mut options = Vec::new();
        if self.config.timestamps && which & 1 == 0 {
            options.extend([8, 10]);
            options.extend(ends.stamp.to_be_bytes());
            options.extend(input.word().to_be_bytes());
        }
        if flags & SYN != 0 && which & 2 == 0 {
            options.extend([2, 4]);
            options.extend(input.half().to_be_bytes());
            options.extend([4, 2, 3, 3, input.byte() % 16]);
        }
        if which & 12 == 12 {
            let blocks = 1 + (which >> 6 & 1);
            options.extend([5, 2 + 8 * blocks]);
            for _ in 0..blocks {
                let left = input.near(ends.ack);
                options.extend(left.to_be_bytes());
                options.extend(input.near(left).to_be_bytes());
            }
        }
        if which & 0x30 == 0x30 {
            options.extend([input.byte(), input.byte(), input.byte()]);
        }
        options.truncate(40);
        options
    }

    fn call(&mut self, input: &mut Input<'_>) {
        let now = self.host.now;
        let which = usize::from(input.byte());
        let conn = self.conns.get(which % self.conns.len().max(1)).copied();
        match (input.byte() % 12, conn) {
            (0, _) => self.listen(),
            (1, _) => {
                if let Some(id) = self.listener.take() {
                    self.host.shard.close_listener(now, id);
                }
            }
            (2, _) => {
                let (local, remote) = (self.at(0, PORT), self.at(1, PEER_PORTS + which as u16 % 4));
                let opened = self.host.shard.connect(now, local, remote, &self.config, 7);
                self.conns.extend(opened);
            }
            (3..=5, Some(conn)) => {
                let bytes = vec![0x33; usize::from(input.half()) % 5000];
                let _ = self
                    .host
                    .shard
                    .send(now, conn, &[IoSlice::new(&bytes)], which > 200);
            }
            (6 | 7, Some(conn)) => {
                let mut buf = vec![0; usize::from(input.half())];
                let mode = RecvMode {
                    peek: which & 1 != 0,
                    discard: which & 2 != 0,
                };
                let _ = self
                    .host
                    .shard
                    .recv(now, conn, &mut [IoSliceMut::new(&mut buf)], mode);
            }
            (8, Some(conn)) => self.host.shard.shutdown_write(now, conn),
            (9, Some(conn)) => {
                let how = if which & 1 == 0 {
                    Close::Graceful
                } else {
                    Close::Abort
                };
                self.host.shard.close(now, conn, how);
                self.conns.retain(|c| *c != conn);
            }
            (10, Some(conn)) => {
                let mut config = self.config.clone();
                config.nodelay = which & 1 != 0;
                config.cork = which & 2 != 0;
                config.rcv_buf_max_bytes = 1 << (which % 20);
                config.user_timeout = (which & 4 != 0).then_some(Duration::from_millis(700));
                self.host.shard.configure(now, conn, &config);
            }
            _ => {
                let mac = (which & 1 != 0).then_some(crate::host::PEER_MAC);
                self.host.control.publish(tables(1500, None, mac));
            }
        }
    }

    fn settle(&mut self) {
        self.host.settle();
        if let Some(id) = self.listener {
            while let Some(accepted) = self.host.shard.accept(id, 5) {
                self.conns.push(accepted.conn);
            }
        }
        self.host.settle();
        assert!(self.host.sent.len() < FRAMES_MAX, "does not stop sending");
        for (_, frame) in self.host.sent.drain(..).collect::<Vec<_>>() {
            if frame[..6] != crate::host::PEER_MAC {
                continue;
            }
            let segment = Segment::parse(&frame).unwrap();
            let who = usize::from(segment.dst.1.wrapping_sub(PEER_PORTS)) % 4;
            let end = segment.seq.wrapping_add(segment.sequence_len());
            let ends = &mut self.ends[who];
            if !segment.has(RST) {
                ends.ack = end;
            }
        }
        let (connections, _) = self.host.shard.population();
        // Four peer ports, and connections that are over but still held by the application.
        assert!(
            connections <= self.conns.len() + 4,
            "{connections} connections"
        );
    }
}

/// A sequence of frames, calls and time. At the end everything is closed and nothing is left.
pub(crate) fn host(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    let objects = world.host.shard.objects_in_use();
    while !input.0.is_empty() {
        match input.byte() % 8 {
            0..=3 => world.segment(&mut input),
            4 | 5 => world.call(&mut input),
            6 => world
                .host
                .run_for(Duration::from_millis(u64::from(input.byte()))),
            _ => {
                let until = world.host.now + Duration::from_secs(u64::from(input.byte()));
                world.host.advance(until, false);
            }
        }
        // Sometimes several frames in one turn.
        if input.byte() & 3 != 0 {
            world.settle();
        }
    }
    world.settle();
    let now = world.host.now;
    for conn in std::mem::take(&mut world.conns) {
        world.host.shard.close(now, conn, Close::Abort);
    }
    if let Some(id) = world.listener.take() {
        world.host.shard.close_listener(now, id);
    }
    // What was let go of with bytes that the peer does not take is sent eight times more, up to
    // two minutes apart, before it is given up.
    let over = world.host.now + Duration::from_secs(3600);
    while world.host.now < over && world.host.shard.population() != (0, 0) {
        world.host.run_for(Duration::from_secs(60));
    }
    // Frames wait for a neighbour a little longer than their connections.
    world.host.run_for(Duration::from_secs(60));
    assert_eq!(world.host.shard.population(), (0, 0), "something is left");
    assert_eq!(world.host.shard.objects_in_use(), objects, "memory is left");
}

/// Option bytes in a header: what is understood must be understood again when it is emitted.
pub(crate) fn options(data: &[u8]) {
    use luna::wire::{TcpHeader, TcpOptions};
    let bytes = &data[..data.len().min(40)];
    let mut tcp = vec![0; 20];
    let padded = bytes.len().div_ceil(4) * 4;
    tcp[12] = ((20 + padded) as u8 / 4) << 4;
    tcp.extend(bytes);
    tcp.resize(20 + padded, 0);
    let alone = TcpOptions::parse(&tcp[20..]);
    match TcpHeader::parse(&tcp) {
        Err(_) => assert!(alone.is_err()),
        Ok((header, len)) => {
            assert_eq!(len, tcp.len());
            assert_eq!(Ok(&header.options), alone.as_ref());
            let mut out = arrayvec::ArrayVec::<u8, 60>::new();
            header.emit(0, &mut out);
            let (again, _) = TcpHeader::parse(&out).unwrap();
            if again.options.sack.len() == header.options.sack.len() {
                assert_eq!(again, header);
            }
            // A decoder that shares nothing with the stack's agrees about each option.
            let theirs = crate::host::frame::options(&tcp[20..]);
            let mss = theirs.iter().rev().find(|(k, b)| *k == 2 && b.len() == 2);
            let mss = mss.map(|(_, b)| u16::from_be_bytes([b[0], b[1]]));
            assert_eq!(mss, header.options.mss);
        }
    }
}
