//! Transcripts: a connection on a virtual clock, with segments written as packetdrill does.
//!
//! `S. 0:0(0) ack 1 win 65535 <mss 1460>` — flags, sequence range, acknowledgment, window,
//! options. Numbers are relative to the initial sequence number of their direction. An expected
//! segment is compared only in what it mentions.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Write as _;

use crate::tcp::testutil::Bytes;
use crate::tcp::{Config, Connection, Disposition, Event, Pieces, Ports, SegmentIn, SegmentOut};
use crate::tcp::{Payload, State};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, SackBlock, SeqNum, TcpFlags, TcpHeader, Telemetry, Timestamps};

pub(super) const PORTS: Ports = Ports {
    local: 80,
    remote: 40000,
};
/// The connection under test; close to the end of the circle so that every test wraps.
const ISS: u32 = u32::MAX - 2000;
/// Its peer.
const PEER_ISS: u32 = u32::MAX - 700;

/// What most transcripts use: no timestamps and no SACK unless asked for, immediate timers.
pub(super) fn plain() -> Config {
    Config {
        mss_local: 1000,
        timestamps: false,
        sack: false,
        window_scale: false,
        rcv_buf_max_bytes: 60_000,
        snd_buf_max_bytes: 1 << 20,
        nodelay: true,
        ..Config::default()
    }
}

pub(super) fn with_sack() -> Config {
    Config {
        sack: true,
        ..plain()
    }
}

pub(super) struct Script {
    pub(super) c: Connection<Bytes>,
    pub(super) now: Instant,
    out: VecDeque<(Instant, SegmentOut<Bytes>)>,
    pub(super) disposition: Disposition,
    iss: u32,
    peer_iss: u32,
    /// The congestion bits of what is injected.
    pub(super) ecn: Ecn,
    /// Position in the test pattern of the next byte written and of the next byte received.
    written: usize,
    read: usize,
}

fn pattern(from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(|i| (i % 251) as u8).collect()
}

impl Script {
    fn with(c: Connection<Bytes>) -> Self {
        Self {
            c,
            now: Instant::ZERO,
            out: VecDeque::new(),
            disposition: Disposition::Continue,
            iss: ISS,
            peer_iss: PEER_ISS,
            ecn: Ecn::NotEct,
            written: 0,
            read: 0,
        }
    }

    /// An active open; the SYN is in the outbox.
    pub(super) fn connect(cfg: &Config) -> Self {
        let c = Connection::connect(cfg, PORTS, SeqNum::new(ISS), 0, Instant::ZERO);
        let mut s = Self::with(c);
        s.run();
        s
    }

    /// A passive open by `syn`; the SYN-ACK is in the outbox.
    pub(super) fn accept(cfg: &Config, syn: &str) -> Self {
        let (header, _) = parse(syn, ISS, PEER_ISS);
        let c = Connection::accept(cfg, PORTS, SeqNum::new(ISS), 0, &header, Instant::ZERO);
        let mut s = Self::with(c);
        s.run();
        s
    }

    /// ESTABLISHED by a passive open at time 0, with nothing left to tell.
    pub(super) fn established(cfg: &Config) -> Self {
        Self::established_with(cfg, "win 60000", "<mss 1000,sackOK>")
    }

    /// ESTABLISHED by a passive open at `ms`, which is also the round-trip time.
    pub(super) fn established_after(cfg: &Config, ms: u64) -> Self {
        let mut s = Self::accept(cfg, "S 0:0(0) win 60000 <mss 1000,sackOK>");
        s.expect("S. 0:0(0) ack 1");
        s.at(ms);
        s.inject(". 1:1(0) ack 1 win 60000");
        s.nothing();
        s.events();
        s.c.set_quick_ack(false);
        s
    }

    pub(super) fn established_with(cfg: &Config, win: &str, options: &str) -> Self {
        let mut s = Self::accept(cfg, &format!("S 0:0(0) {win} {options}"));
        s.expect("S. 0:0(0) ack 1");
        s.inject(&format!(". 1:1(0) ack 1 {win}"));
        assert_eq!(s.c.state(), State::Established);
        s.nothing();
        s.events();
        // Most tests want delayed ACKs as in steady state.
        s.c.set_quick_ack(false);
        s
    }

    /// Advances the clock to `ms`, firing timers on the way.
    #[track_caller]
    pub(super) fn at(&mut self, ms: u64) {
        self.at_time(Instant::ZERO + Duration::from_millis(ms));
    }

    #[track_caller]
    pub(super) fn at_time(&mut self, to: Instant) {
        assert!(to >= self.now, "time runs forward");
        self.nothing();
        while self.c.poll_at() <= to {
            self.now = self.now.max(self.c.poll_at());
            self.c.on_timer(self.now);
            self.run();
            assert!(
                self.out.is_empty() || self.now == to,
                "unexpected: {}",
                self.first()
            );
        }
        self.now = to;
    }

    /// Lets everything out that wants out.
    pub(super) fn run(&mut self) {
        while let Some(out) = self.c.poll_transmit(self.now) {
            assert_eq!(
                out.payload_len as usize,
                out.payload.iter().map(Payload::len).sum()
            );
            self.out.push_back((self.now, out));
            assert!(self.out.len() < 1000, "endless output: {}", self.first());
        }
    }

    pub(super) fn inject(&mut self, text: &str) {
        self.inject_burst(&[text]);
    }

    /// Several segments in one turn.
    pub(super) fn inject_burst(&mut self, texts: &[&str]) {
        for text in texts {
            let (header, len) = parse(text, self.iss, self.peer_iss);
            let mut payload = Pieces::new();
            if len > 0 {
                let offset = header.seq.distance_from(SeqNum::new(self.peer_iss) + 1);
                payload.push(Bytes::new(&pattern(offset as usize, len as usize)));
            }
            let ecn = self.ecn;
            let payload = &mut payload;
            let seg = SegmentIn {
                header: &header,
                payload,
                payload_len: len,
                ecn,
            };
            self.disposition = self.c.on_segment(self.now, seg);
        }
        self.run();
    }

    fn first(&self) -> String {
        self.out
            .front()
            .map_or("nothing".into(), |(_, o)| self.show(o))
    }

    fn show(&self, out: &SegmentOut<Bytes>) -> String {
        show(out, self.iss, self.peer_iss)
    }

    /// The next segment out, now, must match.
    #[track_caller]
    pub(super) fn expect(&mut self, want: &str) -> SegmentOut<Bytes> {
        let Some((at, out)) = self.out.pop_front() else {
            panic!("nothing sent, want {want}")
        };
        assert_eq!(at, self.now, "sent at another time");
        let got = self.show(&out);
        assert!(matches_text(&got, want), "\n got {got}\nwant {want}");
        self.check_bytes(&out);
        out
    }

    fn check_bytes(&self, out: &SegmentOut<Bytes>) {
        let offset = out.header.seq.distance_from(SeqNum::new(self.iss) + 1) as usize;
        let bytes: Vec<u8> = out
            .payload
            .iter()
            .flat_map(|p| p.as_bytes().to_vec())
            .collect();
        assert_eq!(
            bytes,
            pattern(offset, bytes.len()),
            "wrong bytes in {}",
            self.show(out)
        );
    }

    /// SND.NXT, relative to the initial sequence number.
    pub(super) fn sent_until(&self) -> u32 {
        self.c.tx.nxt.distance_from(SeqNum::new(self.iss))
    }

    /// No segment is waiting.
    #[track_caller]
    pub(super) fn nothing(&self) {
        assert!(self.out.is_empty(), "unexpected: {}", self.first());
    }

    /// Drops what is waiting, and says how many segments that were.
    pub(super) fn discard(&mut self) -> usize {
        self.out.drain(..).count()
    }

    /// The application writes `n` bytes.
    pub(super) fn write(&mut self, n: usize) {
        self.write_more(n, false);
    }

    pub(super) fn write_more(&mut self, n: usize, more: bool) {
        let bytes = pattern(self.written, n);
        self.written += n;
        self.c
            .push(Bytes::new(&bytes), more)
            .expect("room to write");
        self.run();
    }

    /// The application reads `n` bytes.
    #[track_caller]
    pub(super) fn read(&mut self, n: usize) {
        let mut left = n;
        while left > 0 {
            let piece = self.c.pop_piece(left).expect("something to read");
            assert_eq!(
                piece.as_bytes(),
                pattern(self.read, piece.len()),
                "wrong bytes read"
            );
            self.read += piece.len();
            left -= piece.len();
        }
        self.run();
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.c.poll_event()).collect()
    }

    #[track_caller]
    pub(super) fn state(&self, state: State) {
        assert_eq!(self.c.state(), state);
    }

    pub(super) fn shutdown(&mut self) {
        self.c.shutdown_write(self.now);
        self.run();
    }

    pub(super) fn close(&mut self) {
        self.c.close(self.now);
        self.run();
    }
}

/// Flags and range must be equal, and everything else that `want` says must be in `got`.
fn matches_text(got: &str, want: &str) -> bool {
    let (got, want) = (parts(got), parts(want));
    got.first() == want.first()
        && got.get(1) == want.get(1)
        && want.iter().all(|w| got.contains(w))
        && want.iter().any(|w| w.starts_with("sack ")) == got.iter().any(|g| g.starts_with("sack "))
}

/// Cuts a segment's text into its words, keeping a key and its value together.
fn parts(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut key = String::new();
    let mut in_sack = false;
    for word in text.split([' ', ',', '<', '>']).filter(|w| !w.is_empty()) {
        if in_sack && word.contains(':') {
            let last = out.last_mut().expect("sack");
            last.push(' ');
            last.push_str(word);
            continue;
        }
        in_sack = word == "sack";
        match word {
            "ack" | "win" | "mss" | "wscale" | "val" | "ecr" | "load" | "echo" => {
                key = format!("{word} ")
            }
            "TS" => {}
            _ => out.push(core::mem::take(&mut key) + word),
        }
        if in_sack {
            *out.last_mut().expect("sack") += " ";
        }
    }
    out
}

fn show(out: &SegmentOut<Bytes>, iss: u32, peer_iss: u32) -> String {
    let h = &out.header;
    let mut s = String::new();
    for (flag, c) in [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::ECE, 'E'),
        (TcpFlags::CWR, 'W'),
    ] {
        if h.flags.contains(flag) {
            s.push(c);
        }
    }
    if h.flags.contains(TcpFlags::ACK) {
        s.push('.');
    }
    let seq = h.seq.distance_from(SeqNum::new(iss));
    let ack = h.ack.distance_from(SeqNum::new(peer_iss));
    let (len, end) = (out.payload_len, seq.wrapping_add(out.payload_len));
    let _ = write!(s, " {seq}:{end}({len})");
    if h.flags.contains(TcpFlags::ACK) {
        let _ = write!(s, " ack {ack}");
    }
    let _ = write!(s, " win {} <", h.window);
    let o = &h.options;
    if let Some(mss) = o.mss {
        let _ = write!(s, "mss {mss},");
    }
    if o.sack_permitted {
        s.push_str("sackOK,");
    }
    if let Some(ts) = o.timestamps {
        let _ = write!(s, "TS val {} ecr {},", ts.value, ts.echo);
    }
    if let Some(t) = o.telemetry {
        let _ = write!(s, "load {} echo {},", t.load, t.echo);
    }
    if let Some(shift) = o.window_scale {
        let _ = write!(s, "wscale {shift},");
    }
    if !o.sack.is_empty() {
        s.push_str("sack ");
        for b in &o.sack {
            let rel = |n: SeqNum| n.distance_from(SeqNum::new(peer_iss));
            let _ = write!(s, "{}:{} ", rel(b.left), rel(b.right));
        }
    }
    s.push('>');
    s
}

/// Parses a segment from the peer; returns its header and payload length.
fn parse(text: &str, iss: u32, peer_iss: u32) -> (TcpHeader, u32) {
    let mut words = text
        .split([' ', ',', '<', '>'])
        .filter(|w| !w.is_empty())
        .peekable();
    let mut h = TcpHeader {
        src_port: PORTS.remote,
        dst_port: PORTS.local,
        ..Default::default()
    };
    for c in words.next().expect("flags").chars() {
        h.flags |= match c {
            'S' => TcpFlags::SYN,
            'F' => TcpFlags::FIN,
            'R' => TcpFlags::RST,
            'P' => TcpFlags::PSH,
            'E' => TcpFlags::ECE,
            'W' => TcpFlags::CWR,
            '.' => TcpFlags::ACK,
            'U' => TcpFlags::URG,
            _ => TcpFlags::empty(),
        };
    }
    let num = |s: &str| {
        s.parse::<u32>()
            .unwrap_or_else(|_| panic!("number in {text}: {s}"))
    };
    let range = words.next().expect("range");
    let (seq, rest) = range.split_once(':').expect("seq:end(len)");
    let len = num(rest.split_once('(').expect("(len)").1.trim_end_matches(')'));
    h.seq = SeqNum::new(peer_iss) + seq.parse::<i64>().expect("seq") as u32;
    h.window = 60_000;
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("value");
        match word {
            "ack" => h.ack = SeqNum::new(iss) + next().parse::<i64>().expect("ack") as u32,
            "win" => h.window = num(next()) as u16,
            "urg" => h.urgent = num(next()) as u16,
            "mss" => h.options.mss = Some(num(next()) as u16),
            "sackOK" => h.options.sack_permitted = true,
            "load" => {
                let (load, _, echo) = (num(next()) as u16, next(), num(next()) as u16);
                h.options.telemetry = Some(Telemetry { load, echo });
            }
            "wscale" => h.options.window_scale = Some(num(next()) as u8),
            "TS" => {
                let (_, value, _, echo) = (next(), num(next()), next(), num(next()));
                h.options.timestamps = Some(Timestamps { value, echo });
            }
            "sack" => {
                while let Some((l, r)) = words.peek().and_then(|w| w.split_once(':')) {
                    let ours = |s: &str| SeqNum::new(iss) + s.parse::<i64>().expect("sack") as u32;
                    h.options.sack.push(SackBlock {
                        left: ours(l),
                        right: ours(r),
                    });
                    words.next();
                }
            }
            other => panic!("unknown word {other} in {text}"),
        }
    }
    (h, len)
}
