//! The other end of a connection, as an attacker or an honest peer plays it.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use luna::stack::{ConnId, ListenId, RecvMode};
use luna::tcp::Config;

use crate::counting::{Asked, asked};
use crate::host::frame::{ACK, PSH, SYN, Segment};
use crate::host::{Host, address};

/// The host's port.
pub(crate) const PORT: u16 = 80;

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// One end of a connection to the host, with what it needs to make segments.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    /// What it sends next, and what it has received up to.
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    /// Its own TSval, if timestamps are agreed.
    pub(crate) stamp: Option<u32>,
}

/// Options of a SYN: an MSS and what is named.
pub(crate) fn syn_options(mss: u16, sack: bool, stamp: Option<u32>, scale: Option<u8>) -> Vec<u8> {
    let mut options = vec![2, 4];
    options.extend(mss.to_be_bytes());
    if sack {
        options.extend([4, 2]);
    }
    if let Some(stamp) = stamp {
        options.extend(timestamps(stamp, 0));
    }
    if let Some(scale) = scale {
        options.extend([3, 3, scale]);
    }
    options
}

pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut option = vec![8, 10];
    option.extend(value.to_be_bytes());
    option.extend(echo.to_be_bytes());
    option
}

pub(crate) fn sack_option(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut option = vec![5, 2 + 8 * blocks.len() as u8];
    for (left, right) in blocks {
        option.extend(left.to_be_bytes());
        option.extend(right.to_be_bytes());
    }
    option
}

impl Peer {
    pub(crate) fn new(port: u16) -> Self {
        Self {
            ip: address(false, 1),
            port,
            seq: 1000,
            ack: 0,
            window: 65535,
            stamp: None,
        }
    }

    /// A segment at this end's place in both streams.
    pub(crate) fn segment(&self, flags: u8, payload: &[u8]) -> Segment {
        let mut segment = Segment::new(
            (self.ip, self.port),
            (address(self.ip.is_ipv6(), 0), PORT),
            flags,
        );
        segment.seq = self.seq;
        segment.ack = self.ack;
        segment.window = self.window;
        segment.payload = payload.to_vec();
        if let Some(stamp) = self.stamp {
            segment.options = timestamps(stamp, 0);
        }
        segment
    }

    /// Shakes hands; the segments that the host sent meanwhile are thrown away.
    pub(crate) fn connect(&mut self, host: &mut Host, options: Vec<u8>) {
        let mut syn = self.segment(SYN, &[]);
        syn.ack = 0;
        syn.options = options;
        host.give(&syn.frame());
        let answer = self.answers(host).pop().expect("a SYN-ACK");
        assert!(answer.has(SYN | ACK), "{answer:?}");
        // A stack that has agreed to timestamps drops what comes without.
        self.stamp = answer.timestamps().map(|(_, echo)| echo.wrapping_add(1));
        self.seq = self.seq.wrapping_add(1);
        self.ack = answer.seq.wrapping_add(1);
        host.give(&self.segment(ACK, &[]).frame());
        self.answers(host);
    }

    /// Sends data in order and moves on.
    pub(crate) fn send(&mut self, host: &mut Host, payload: &[u8]) {
        host.give(&self.segment(ACK | PSH, payload).frame());
        self.seq = self.seq.wrapping_add(payload.len() as u32);
    }

    /// What the host has sent to this peer; what it sent to others is thrown away.
    pub(crate) fn answers(&self, host: &mut Host) -> Vec<Segment> {
        let frames: Vec<_> = host.sent.drain(..).collect();
        let parsed = frames
            .iter()
            .map(|(_, f)| Segment::parse(f).expect("a good frame"));
        parsed.filter(|s| s.dst == (self.ip, self.port)).collect()
    }
}

/// A listener at [`PORT`].
pub(crate) fn listen(host: &mut Host, backlog: u32, config: &Config) -> ListenId {
    let at = SocketAddr::new(address(false, 0), PORT);
    host.shard
        .listen(at, false, backlog, config, 1)
        .expect("listens")
}

/// A host with one listener, and a peer whose connection has been accepted.
pub(crate) fn connected(config: &Config, options: Vec<u8>) -> (Host, ListenId, Peer, ConnId) {
    let mut host = Host::new(crate::host::Setup::default());
    let listener = listen(&mut host, 64, config);
    let mut peer = Peer::new(40_000);
    peer.connect(&mut host, options);
    let conn = host.shard.accept(listener, 9).expect("accepts").conn;
    (host, listener, peer, conn)
}

/// Reads everything there is.
pub(crate) fn read_all(host: &mut Host, conn: ConnId) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; 65536];
    let now = host.now;
    while let Ok(n @ 1..) = host.shard.recv(
        now,
        conn,
        &mut [IoSliceMut::new(&mut buf)],
        RecvMode::default(),
    ) {
        all.extend_from_slice(&buf[..n]);
    }
    host.settle();
    all
}

/// Writes as much as fits.
pub(crate) fn write(host: &mut Host, conn: ConnId, bytes: &[u8]) -> usize {
    let now = host.now;
    host.shard
        .send(now, conn, &[IoSlice::new(bytes)], false)
        .unwrap_or(0)
}

/// Gives the host a frame and counts what its turns ask of the allocator.
pub(crate) fn give_counted(host: &mut Host, frame: &[u8]) -> Asked {
    host.put(frame);
    let mut wakeups = Vec::with_capacity(64);
    let ((), asked) = asked(|| {
        while !host.shard.turn(host.now).is_idle() {
            host.shard.take_wakeups(&mut wakeups);
        }
    });
    host.collect();
    asked
}
