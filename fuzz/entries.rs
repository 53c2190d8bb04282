//! What is fuzzed: the same functions for libFuzzer's targets and for the replay of the corpus.
//!
//! Inputs are read byte by byte and never rejected, so that a mutation changes one thing, and the
//! corpus keeps its meaning whatever library versions come.

use std::net::SocketAddr;
use std::rc::Rc;

use luna::tcp::isn::IsnGenerator;
use luna::tcp::listener::{ListenDisposition, Listener};
use luna::tcp::time_wait::{TimeWait, TimeWaitDecision};
use luna::tcp::{
    Config, Connection, Disposition, Keepalive, Payload, Pieces, Ports, SegmentIn, State,
    TimeWaitSeed, TimeWaitStamps, cookie, reset_for,
};
use luna::time::{Duration, Instant};
use luna::wire::checksum::Checksum;
use luna::wire::{
    Ecn, EthernetHeader, IpHeader, SackBlock, SeqNum, TcpFlags, TcpHeader, TcpOptions, Telemetry,
    Timestamps,
};

/// Reads an input; beyond its end there are zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn half(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn word(&mut self) -> u32 {
        u32::from(self.half()) << 16 | u32::from(self.half())
    }

    /// Near `base`, as a byte decides, or anywhere.
    fn sequence(&mut self, base: SeqNum) -> SeqNum {
        match self.byte() {
            distance @ 0..=99 => base + u32::from(distance),
            distance @ 100..=199 => base - u32::from(distance - 99),
            200..=227 => base + u32::from(self.half()),
            228..=249 => base - u32::from(self.half()),
            _ => SeqNum::new(self.word()),
        }
    }

    fn options(&mut self, ack: SeqNum, seq: SeqNum, stamp: u32) -> TcpOptions {
        let which = self.byte();
        let mut options = TcpOptions::default();
        if which & 1 != 0 {
            options.timestamps = Some(Timestamps {
                value: stamp.wrapping_add(self.byte() as i8 as u32),
                echo: self.word(),
            });
        }
        if which & 2 != 0 {
            for _ in 0..self.byte() % 5 {
                let left = self.sequence(ack);
                let block = SackBlock {
                    left,
                    right: self.sequence(left),
                };
                let _ = options.sack.try_push(block);
            }
        }
        if which & 4 != 0 {
            options.mss = Some(self.half());
        }
        if which & 8 != 0 {
            options.window_scale = Some(self.byte());
        }
        options.sack_permitted = which & 16 != 0;
        if which & 32 != 0 {
            options.telemetry = Some(Telemetry {
                load: self.half(),
                echo: self.half(),
            });
        }
        let _ = seq;
        options
    }

    fn header(&mut self, seq: SeqNum, ack: SeqNum, stamp: u32) -> TcpHeader {
        // Mostly plain acknowledgments, as on any wire.
        let flags = match self.byte() {
            kind @ 0..=127 if kind & 1 == 0 => TcpFlags::ACK,
            0..=127 => TcpFlags::ACK | TcpFlags::PSH,
            _ => TcpFlags::from_bits_retain(self.byte()),
        };
        TcpHeader {
            src_port: 40_000,
            dst_port: 80,
            seq: self.sequence(seq),
            ack: self.sequence(ack),
            flags,
            window: self.half(),
            urgent: self.half(),
            options: self.options(ack, seq, stamp),
        }
    }
}

/// Parses bytes as a frame, a packet, a segment and options. What was parsed is emitted and must
/// parse to the same again.
pub(crate) fn wire(data: &[u8]) {
    if let Ok((header, len)) = EthernetHeader::parse(data) {
        assert!(len <= data.len());
        let mut out = arrayvec::ArrayVec::<u8, 64>::new();
        header.emit(&mut out);
    }
    for (claimed, parse) in [
        (data.len(), IpHeader::parse_v4 as fn(_, _) -> _),
        (0, IpHeader::parse_v6),
    ] {
        let claimed = if claimed == 0 { data.len() } else { claimed };
        if let Ok((_, len)) = parse(data, claimed) {
            assert!(len <= data.len());
        }
    }
    let _ = TcpOptions::parse(data);
    let Ok((header, len)) = TcpHeader::parse(data) else {
        return;
    };
    assert!((20..=60).contains(&len) && len <= data.len());
    let mut out = arrayvec::ArrayVec::<u8, 60>::new();
    header.emit(0, &mut out);
    assert_eq!(out.len(), header.emitted_len());
    let (again, _) = TcpHeader::parse(&out).unwrap();
    // More SACK blocks than fit next to the other options can't have been on the wire together
    // with them in the form in which we emit them.
    if again.options.sack.len() == header.options.sack.len() {
        assert_eq!(again, header);
    }
    let mut sum = Checksum::new();
    sum.add(data);
    let _ = sum.finish();
}

/// Feeds a datagram to the control plane.
pub(crate) fn netlink(data: &[u8]) {
    luna::control::fuzz_netlink(data);
}

/// Segments to everything that answers without a connection.
pub(crate) fn unconnected(data: &[u8]) {
    let mut input = Input(data);
    let mut now = Instant::from_nanos(u64::from(input.word()) << 16);
    let (ours, theirs) = (SeqNum::new(input.word()), SeqNum::new(input.word()));
    let stamps = TimeWaitStamps {
        recent: 77,
        recent_at: now,
        offset: 5,
        last_value: 9,
    };
    let mut record = TimeWait::new(
        &TimeWaitSeed {
            ports: Ports {
                local: 80,
                remote: 40_000,
            },
            snd_nxt: ours,
            rcv_nxt: theirs,
            rcv_wnd: input.word(),
            rcv_wscale: input.byte(),
            timestamps: input.flag().then_some(stamps),
            until: now + Duration::from_millis(u64::from(input.half())),
            duration: Duration::from_secs(60),
        },
        now,
    );
    let secret = IsnGenerator::new([7; 16]);
    let ends = (
        SocketAddr::from(([10, 0, 0, 1], 80)),
        SocketAddr::from(([10, 0, 0, 2], 40_000)),
    );
    let mut listener = Listener::new(i32::from(input.byte()));
    while !input.is_empty() {
        now += Duration::from_millis(u64::from(input.byte()));
        let header = input.header(theirs, ours, 77);
        let len = u32::from(input.byte());
        if let Some(reset) = reset_for(&header, len) {
            assert_eq!(reset_for(&reset, 0), None);
        }
        match record.on_segment(now, &header, len) {
            TimeWaitDecision::Reuse { iss_min } => {
                assert!(header.flags.contains(TcpFlags::SYN) && iss_min.after(ours));
            }
            TimeWaitDecision::Ack(ack) => assert_eq!((ack.seq, ack.ack), (ours, theirs)),
            TimeWaitDecision::Ignore => {}
        }
        let _ = (record.is_expired(now), record.expires_at(now));
        listen(&mut listener, now, &header, len);
        let baked = cookie::bake(&secret, now, ends, &header, 3);
        let ack = TcpHeader {
            seq: header.seq + 1,
            ack: baked.iss + 1,
            flags: TcpFlags::ACK,
            ..TcpHeader::default()
        };
        let plain = header.options.timestamps.is_none();
        assert!(!plain || cookie::check(&secret, now, ends, &ack).is_some());
        let _ = cookie::check(&secret, now, ends, &header);
    }
}

fn listen(listener: &mut Listener, now: Instant, header: &TcpHeader, len: u32) {
    match listener.on_segment(now, header, len) {
        ListenDisposition::Create => listener.on_created(),
        ListenDisposition::Cookie => listener.on_cookie_sent(now),
        ListenDisposition::CheckCookie(_) => {
            let _ = listener.on_cookie_accepted();
        }
        ListenDisposition::Reset(reset) => {
            assert!(reset.flags.contains(TcpFlags::RST));
            let _ = listener.on_handshake_done();
        }
        ListenDisposition::Drop(_) => listener.on_accepted(),
    }
    assert!(listener.waiting() <= listener.backlog() + 1);
}

/// A payload over a vector.
#[derive(Clone, Debug)]
struct Bytes {
    whole: Rc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Bytes {
    fn new(len: usize) -> Self {
        Self {
            whole: Rc::new(vec![0x5a; len]),
            start: 0,
            end: len,
        }
    }
}

impl Payload for Bytes {
    fn len(&self) -> usize {
        self.end - self.start
    }
    fn split_to(&mut self, n: usize) -> Self {
        let head = self.sub(0, n);
        self.advance(n);
        head
    }
    fn truncate(&mut self, n: usize) {
        self.end = self.end.min(self.start + n);
    }
    fn advance(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
    }
    fn sub(&self, start: usize, end: usize) -> Self {
        let end = self.end.min(self.start + end);
        Self {
            start: end.min(self.start + start),
            end,
            ..self.clone()
        }
    }
    fn append(&mut self, _: &[u8]) -> usize {
        0
    }
    fn as_bytes(&self) -> &[u8] {
        &self.whole[self.start..self.end]
    }
}

/// What one call may make a connection send: a full send buffer in the smallest segments, and
/// the acknowledgments it owes.
const SEGMENTS_PER_CALL_MAX: usize = 10_000;

/// One connection against a peer that does whatever the input says.
struct Victim {
    c: Connection<Bytes>,
    now: Instant,
    /// What the peer can know: where our next segment begins and what we expect.
    ours: SeqNum,
    theirs: SeqNum,
    stamp: u32,
    readable_max: usize,
}

impl Victim {
    fn new(input: &mut Input<'_>) -> Self {
        let shape = input.byte();
        let config = Config {
            mss_local: 40 + u16::from(input.byte()) * 6,
            rcv_buf_max_bytes: 1 << (input.byte() % 18),
            snd_buf_max_bytes: 1 << (input.byte() % 18),
            window_scale: shape & 1 != 0,
            sack: shape & 2 != 0,
            timestamps: shape & 4 != 0,
            nodelay: shape & 8 != 0,
            keepalive: (shape & 16 != 0).then(Keepalive::default),
            user_timeout: (shape & 32 != 0).then_some(Duration::from_secs(30)),
            ..Config::default()
        };
        let ports = Ports {
            local: 80,
            remote: 40_000,
        };
        let now = Instant::from_nanos(1 << 40);
        let iss = SeqNum::new(u32::MAX - 1_000);
        let theirs = SeqNum::new(u32::MAX - 100);
        let c = if shape & 64 != 0 {
            Connection::connect(&config, ports, iss, 0, now)
        } else {
            let mut syn = input.header(theirs, iss, 77);
            syn.seq = theirs;
            syn.flags = TcpFlags::SYN;
            Connection::accept(&config, ports, iss, 0, &syn, now)
        };
        let readable_max = config.rcv_buf_max_bytes as usize + (1 << 14);
        let mut victim = Self {
            c,
            now,
            ours: iss + 1,
            theirs: theirs + 1,
            stamp: 77,
            readable_max,
        };
        victim.settle();
        // Most inputs should get beyond the handshake.
        if shape & 128 == 0 {
            let mut header = TcpHeader {
                seq: victim.theirs,
                ack: victim.ours,
                flags: TcpFlags::ACK,
                window: 60_000,
                ..TcpHeader::default()
            };
            if shape & 64 != 0 {
                header.seq = theirs;
                header.flags |= TcpFlags::SYN;
                header.options.sack_permitted = true;
            }
            if config.timestamps {
                header.options.timestamps = Some(Timestamps { value: 78, echo: 0 });
            }
            victim.segment(&header, 0);
        }
        victim
    }

    fn segment(&mut self, header: &TcpHeader, len: usize) {
        let mut payload = Pieces::new();
        for part in [len / 2, len - len / 2] {
            if part > 0 {
                payload.push(Bytes::new(part));
            }
        }
        let segment = SegmentIn {
            header,
            payload: &mut payload,
            payload_len: len as u32,
            ecn: Ecn::NotEct,
        };
        match self.c.on_segment(self.now, segment) {
            Disposition::Reset(reset) => assert!(reset.flags.contains(TcpFlags::RST)),
            Disposition::Continue | Disposition::Orphan | Disposition::Reopen => {}
        }
        self.settle();
    }

    fn settle(&mut self) {
        let mut sent = 0;
        while let Some(out) = self.c.poll_transmit(self.now) {
            let len: usize = out.payload.iter().map(Payload::len).sum();
            assert_eq!(len, out.payload_len as usize);
            assert!(out.header.options.emitted_len() <= 40);
            if !out.header.flags.contains(TcpFlags::RST) {
                self.ours = self.ours.latest(out.end());
                if out.header.flags.contains(TcpFlags::ACK) {
                    self.theirs = out.header.ack;
                }
            }
            sent += 1;
            assert!(sent < SEGMENTS_PER_CALL_MAX, "does not stop sending");
        }
        while self.c.poll_event().is_some() {}
        self.check();
    }

    fn check(&mut self) {
        assert!(
            self.c.readable_bytes() <= self.readable_max,
            "buffers too much"
        );
        let info = self.c.info();
        assert!(info.snd_mss > 0 && info.cwnd >= info.snd_mss, "{info:?}");
        let queued = self.c.unacked_bytes() > 0 || info.unacked > 0;
        let live = !matches!(info.state, State::Closed | State::TimeWait);
        if live && queued {
            assert!(self.c.poll_at() < Instant::FAR_FUTURE, "no timer: {info:?}");
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=6 => {
                self.stamp = self.stamp.wrapping_add(1);
                let header = input.header(self.theirs, self.ours, self.stamp);
                let len = match input.byte() {
                    n @ 0..=199 => usize::from(n) % 40,
                    n => usize::from(n) * 7,
                };
                self.segment(&header, len);
            }
            7 => self.now += Duration::from_millis(u64::from(input.byte())),
            8 => {
                // To the next timer, however far.
                let at = self.c.poll_at();
                if at < Instant::FAR_FUTURE {
                    self.now = if at > self.now { at } else { self.now };
                    self.c.on_timer(self.now);
                }
            }
            9 | 10 => {
                let len = usize::from(input.half()).min(self.c.send_space());
                if len > 0 {
                    self.c.push(Bytes::new(len), input.flag()).unwrap();
                }
            }
            11 => {
                let _ = self.c.consume(usize::from(input.half()));
            }
            12 => {
                let _ = self.c.pop_piece(usize::from(input.byte()));
            }
            13 => self.c.set_path_mss(input.half()),
            14 => self.settings(input),
            _ => match input.byte() % 8 {
                0 => self.c.shutdown_write(self.now),
                1 => self.c.close(self.now),
                2 => self.c.abort(self.now),
                _ => {}
            },
        }
        self.settle();
    }

    fn settings(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 => self.c.set_nodelay(input.flag()),
            1 => self.c.set_cork(input.flag()),
            2 => self.c.set_receive_budget(input.word()),
            3 => self.c.flush(),
            4 => self.c.set_quick_ack(input.flag()),
            5 => self
                .c
                .set_user_timeout(input.flag().then_some(Duration::from_millis(5))),
            6 => {
                let (low, high) = (u64::from(input.byte()), u64::from(input.half()));
                self.c
                    .set_rto_bounds(Duration::from_millis(low), Duration::from_millis(high));
            }
            _ => {
                let keepalive = Keepalive {
                    idle: Duration::from_millis(u64::from(input.byte())),
                    interval: Duration::from_millis(u64::from(input.byte())),
                    count: input.byte(),
                };
                self.c
                    .set_keepalive(input.flag().then_some(keepalive), self.now);
            }
        }
    }
}

/// A sequence of segments, timers and application calls.
pub(crate) fn segments(data: &[u8]) {
    let mut input = Input(data);
    let mut victim = Victim::new(&mut input);
    while !input.is_empty() {
        victim.step(&mut input);
    }
}
