//! Runs a case against a host.

use std::collections::HashMap;

use luna::stack::{Close, ConnId, ListenId};
use luna::tcp::Config;
use luna::time::{Duration, Instant};

use crate::host::frame::{ACK, FIN, RST, SYN, Segment};
use crate::host::{Host, Setup, address};
use crate::script::{Case, Event, What, When};
use crate::text::{Opts, Written, flags_text, options_match, options_text, read_options};

/// The peer's port unless a line says `[port N]`.
const PEER_PORT: u16 = 40_000;
/// Script time zero on the host's clock.
const START: Instant = Instant::from_nanos(10_000_000_000);
/// How long a `*` line waits.
const ANY_TIME: Duration = Duration::from_secs(3600);

/// What the test knows of one connection's numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    iss: u32,
    /// What to take off a TSval of ours to get milliseconds since the script began.
    clock: u32,
    clock_known: bool,
}

/// What a descriptor of the script's is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Fresh,
    Listener(ListenId),
    Conn(ConnId),
}

/// A socket of the script's.
#[derive(Clone, Debug)]
pub(crate) struct Sock {
    pub(crate) kind: Kind,
    pub(crate) config: Config,
    pub(crate) port: u16,
    pub(crate) close: Close,
    /// Where in the streams the next read and write are, relative to the initial numbers.
    pub(crate) read_at: u32,
    pub(crate) write_at: u32,
}

/// A case being run.
pub(crate) struct Run {
    pub(crate) host: Option<Host>,
    pub(crate) socks: HashMap<i32, Sock>,
    pub(crate) config: Config,
    pub(crate) v6: bool,
    pub(crate) backlog_port: u16,
    setup: Setup,
    tolerance: Duration,
    peer_isn: u32,
    numbers: HashMap<u16, Numbers>,
    /// The time of the line before.
    at: Instant,
    held: bool,
}

/// The byte at a place of either stream.
pub(crate) fn pattern(at: u32) -> u8 {
    (at.wrapping_mul(31) ^ at >> 8) as u8
}

/// Why a case failed, and at which line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) what: String,
}

impl Run {
    fn new() -> Self {
        Self {
            host: None,
            socks: HashMap::new(),
            config: Config::default(),
            v6: false,
            backlog_port: 8080,
            setup: Setup {
                start: START,
                zones: 6,
                ..Setup::default()
            },
            tolerance: Duration::from_millis(2),
            // So that every script of any length sees the wrap.
            peer_isn: u32::MAX - 700,
            numbers: HashMap::new(),
            at: START,
            held: false,
        }
    }

    /// Runs a case to its end.
    pub(crate) fn case(case: &Case) -> Result<(), Failure> {
        let mut run = Self::prepared(case)?;
        let last = case.lines.last().cloned().unwrap_or_default();
        let over = run.nothing_before(None);
        over.map_err(|what| Failure {
            line: last.0,
            text: last.1,
            what: format!("the script ends here, but {what}"),
        })
    }

    /// A case that has run to its end and goes on by [`Run::probe`].
    pub(crate) fn prepared(case: &Case) -> Result<Self, Failure> {
        let mut run = Self::new();
        for (number, text) in &case.lines {
            let fail = |what| Failure {
                line: *number,
                text: text.clone(),
                what,
            };
            let event = Event::parse(text).map_err(fail)?;
            run.step(&event).map_err(fail)?;
        }
        Ok(run)
    }

    /// Gives the host one segment and says in short what it answers at once.
    pub(crate) fn probe(&mut self, flags: u8, seq: u32, ack: u32, len: u32) -> Vec<String> {
        let written = Written {
            port: None,
            tags: Vec::new(),
            ecn: None,
            flags,
            seq,
            len,
            ack: Some(ack),
            win: Some(65535),
            urg: Some(0),
            options: Opts::Unsaid,
        };
        let frame = self.frame(&written).unwrap_or_else(|e| panic!("{e}"));
        let host = self.host();
        host.give(&frame);
        let frames: Vec<_> = host.sent.drain(..).collect();
        let syn_and_fin = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let end = seq.wrapping_add(len).wrapping_add(syn_and_fin);
        let answer = |(_, frame): &(Instant, Vec<u8>)| {
            let segment = Segment::parse(frame).unwrap_or_else(|e| panic!("{e}"));
            let rel = |ack: u32| ack.wrapping_sub(self.peer_isn);
            match segment.flags {
                RST if segment.seq.wrapping_sub(self.numbers(PEER_PORT).iss) == ack => "R".into(),
                f if f == RST | ACK && segment.seq == 0 && rel(segment.ack) == end => "R.".into(),
                f if f == SYN | ACK => "S.".to_string(),
                f if f == ACK && segment.payload.is_empty() => {
                    format!(".{}", rel(segment.ack) as i32)
                }
                _ => self.show(&segment),
            }
        };
        frames.iter().map(answer).collect()
    }

    /// The host; it starts when it is first needed, after every `config`.
    pub(crate) fn host(&mut self) -> &mut Host {
        let setup = self.setup;
        self.host.get_or_insert_with(|| Host::new(setup))
    }

    fn step(&mut self, event: &Event) -> Result<(), String> {
        match &event.what {
            What::Config(pairs) => return self.configure(pairs),
            What::Out(expected) => return self.expect(event.when, expected),
            _ => {}
        }
        let at = match event.when {
            When::After(span) => self.at + span,
            When::At(span) => START + span,
            _ => return Err("only `>` lines may have an uncertain time".into()),
        };
        if at < self.at {
            return Err("goes back in time".into());
        }
        self.pass_to(at);
        self.at = at;
        match &event.what {
            What::In(written) => {
                self.nothing_before(Some(at))?;
                let frame = self.frame(written)?;
                self.host().put(&frame);
                self.settle();
            }
            What::Call { name, args, result } => {
                self.nothing_before(Some(at))?;
                let got = self.call(name, args)?;
                self.settle();
                if got != *result && result != "*" {
                    return Err(format!("{name}() = {got}"));
                }
            }
            What::Assert { fd, checks } => self.check(*fd, checks)?,
            What::Quiet => self.nothing_before(None)?,
            What::Hold => self.held = true,
            What::Release => {
                self.held = false;
                self.settle();
            }
            What::Config(_) | What::Out(_) => {}
        }
        Ok(())
    }

    fn pass_to(&mut self, at: Instant) {
        if self.held {
            self.host().now = at;
        } else {
            self.host().advance(at, false);
        }
    }

    fn settle(&mut self) {
        if !self.held {
            self.host().settle();
        }
    }

    /// Complains if the host sent something (before `at`) that no line has expected.
    fn nothing_before(&mut self, at: Option<Instant>) -> Result<(), String> {
        let Some((sent_at, frame)) = self.host().sent.front().cloned() else {
            return Ok(());
        };
        if at.is_some_and(|at| sent_at >= at) {
            return Ok(());
        }
        let segment = Segment::parse(&frame)?;
        Err(format!(
            "the host has sent, at {}: {}",
            since_start(sent_at),
            self.show(&segment)
        ))
    }

    fn expect(&mut self, when: When, expected: &Written) -> Result<(), String> {
        let (from, to) = match when {
            When::After(span) => (self.at + span, self.at + span),
            When::At(span) => (START + span, START + span),
            When::Between(from, to) => (self.at + from, self.at + to),
            When::Any => (self.at, self.at + ANY_TIME),
        };
        let tolerance = self.tolerance;
        if self.host().sent.is_empty() && !self.held {
            self.host().advance(to + tolerance, true);
        }
        let Some((at, frame)) = self.host().sent.pop_front() else {
            return Err(format!(
                "nothing was sent until {}",
                since_start(to + tolerance)
            ));
        };
        let segment = Segment::parse(&frame)?;
        self.learn(at, &segment);
        let shown = self.show(&segment);
        self.compare(expected, &segment)
            .map_err(|what| format!("{what}\n      got: {} {shown}", since_start(at)))?;
        if at < from - tolerance || at > to + tolerance {
            return Err(format!(
                "expected at {}, sent at {}: {shown}",
                since_start(from),
                since_start(at)
            ));
        }
        self.at = self.at.max(at);
        Ok(())
    }

    /// Takes the host's initial numbers from what it sends.
    fn learn(&mut self, at: Instant, segment: &Segment) {
        let numbers = self.numbers.entry(segment.dst.1).or_default();
        if segment.has(SYN) {
            numbers.iss = segment.seq;
        }
        if let Some((value, _)) = segment.timestamps()
            && !numbers.clock_known
        {
            numbers.clock = value.wrapping_sub(at.saturating_since(START).as_millis() as u32);
            numbers.clock_known = true;
        }
    }

    fn numbers(&self, port: u16) -> Numbers {
        self.numbers.get(&port).copied().unwrap_or_default()
    }

    fn compare(&self, expected: &Written, got: &Segment) -> Result<(), String> {
        let numbers = self.numbers(got.dst.1);
        let port = expected.port.unwrap_or(PEER_PORT);
        if got.dst != (address(self.v6, 1), port) || got.src.0 != address(self.v6, 0) {
            return Err(format!("sent from {:?} to {:?}", got.src, got.dst));
        }
        if expected.flags != got.flags {
            return Err("the flags differ".into());
        }
        let mut seq = got.seq.wrapping_sub(numbers.iss);
        if got.has(RST) && got.seq == 0 {
            seq = 0;
        }
        if (expected.seq, expected.len) != (seq, got.payload.len() as u32) {
            return Err("the sequence range differs".into());
        }
        let ack = got.ack.wrapping_sub(self.peer_isn);
        if expected.ack.is_some_and(|e| e != ack) || expected.ack.is_some() != got.has(ACK) {
            return Err("the acknowledgment differs".into());
        }
        if !got.has(ACK) && got.ack != 0 {
            return Err(format!("acknowledgment number {} without ACK", got.ack));
        }
        if expected.win.is_some_and(|win| win != got.window) {
            return Err("the window differs".into());
        }
        if expected.ecn.is_some_and(|ecn| ecn != got.ecn) {
            return Err(format!("the ECN field is {}", got.ecn));
        }
        if got.urgent != expected.urg.unwrap_or(0) {
            return Err("the urgent pointer differs".into());
        }
        if !options_match(&expected.options, &self.options_of(got)) {
            return Err("the options differ".into());
        }
        let bytes = got.payload.iter().enumerate();
        let wrong = bytes
            .map(|(i, byte)| (seq.wrapping_add(i as u32), *byte))
            .find(|(at, byte)| *byte != pattern(*at));
        match wrong {
            Some((at, _)) => Err(format!("the payload is wrong at {at}")),
            None => Ok(()),
        }
    }

    fn options_of(&self, got: &Segment) -> Vec<crate::text::Opt> {
        let numbers = self.numbers(got.dst.1);
        read_options(
            got,
            |n| n.wrapping_sub(self.peer_isn),
            |n| n.wrapping_sub(numbers.clock),
        )
    }

    fn show(&self, got: &Segment) -> String {
        let numbers = self.numbers(got.dst.1);
        let seq = match got.has(RST) && got.seq == 0 {
            true => 0,
            false => got.seq.wrapping_sub(numbers.iss),
        };
        let len = got.payload.len() as u32;
        let mut text = format!(
            "> {} {seq}:{}({len})",
            flags_text(got.flags),
            seq.wrapping_add(len)
        );
        if got.dst.1 != PEER_PORT {
            text.insert_str(1, &format!(" [port {}]", got.dst.1));
        }
        if got.has(ACK) {
            text += &format!(" ack {}", got.ack.wrapping_sub(self.peer_isn));
        }
        text += &format!(" win {}", got.window);
        let options = self.options_of(got);
        if !options.is_empty() {
            text += &format!(" {}", options_text(&options));
        }
        text
    }

    /// The frame that a `<` line describes.
    fn frame(&mut self, written: &Written) -> Result<Vec<u8>, String> {
        let port = written.port.unwrap_or(PEER_PORT);
        let numbers = self.numbers(port);
        let local = self.backlog_port;
        let src = (address(self.v6, 1), port);
        let dst = (address(self.v6, 0), local);
        let mut segment = Segment::new(src, dst, written.flags);
        segment.seq = self.peer_isn.wrapping_add(written.seq);
        segment.ack = written.ack.map_or(0, |ack| numbers.iss.wrapping_add(ack));
        segment.window = written.win.unwrap_or(65535);
        segment.urgent = written.urg.unwrap_or(0);
        segment.ecn = written.ecn.unwrap_or(0);
        if written.options == Opts::Any {
            return Err("what to send can't be `...`".into());
        }
        segment.options = written.option_bytes(
            |n| numbers.iss.wrapping_add(n),
            |n| numbers.clock.wrapping_add(n),
        );
        if segment.options.len() > 40 {
            return Err("more than 40 bytes of options".into());
        }
        // Data of a SYN begins behind it.
        let first = written.seq + u32::from(segment.has(SYN));
        segment.payload = (first..first + written.len).map(pattern).collect();
        let mut frame = segment.frame();
        for tag in &written.tags {
            damage(&mut frame, tag, self.v6)?;
        }
        Ok(frame)
    }

    fn configure(&mut self, pairs: &[(String, String)]) -> Result<(), String> {
        for (key, value) in pairs {
            let number = || value.parse::<u32>().map_err(|_| format!("{key}: a number"));
            match key.as_str() {
                "ip" => self.v6 = value == "v6",
                "mtu" => self.setup.mtu = number()?,
                "port" => self.backlog_port = number()? as u16,
                "peer_isn" => self.peer_isn = number()?,
                "tolerance" => {
                    self.tolerance =
                        crate::script::duration(value).ok_or("tolerance: a duration")?;
                }
                _ => crate::calls::configure(&mut self.config, key, value)?,
            }
            if self.host.is_some() && ["mtu", "ip"].contains(&key.as_str()) {
                return Err(format!("{key} must be set before anything happens"));
            }
        }
        Ok(())
    }
}

/// Does to a frame what a tag says.
fn damage(frame: &mut Vec<u8>, tag: &str, v6: bool) -> Result<(), String> {
    let tcp = if v6 { 54 } else { 34 };
    let words: Vec<_> = tag.split_whitespace().collect();
    match words[..] {
        ["badsum"] => frame[tcp + 16] ^= 0x55,
        ["cut", n] => {
            let n = n.parse::<usize>().map_err(|_| "cut: a number")?;
            frame.truncate(frame.len().saturating_sub(n));
        }
        ["padded", n] => {
            let n = n.parse::<usize>().map_err(|_| "padded: a number")?;
            frame.resize(frame.len() + n, 0xaa);
        }
        ["doff", n] => {
            frame[tcp + 12] = n.parse::<u8>().map_err(|_| "doff: a number")? << 4;
            resum(frame, v6);
        }
        ["reserved", n] => {
            frame[tcp + 12] |= n.parse::<u8>().map_err(|_| "reserved: a number")? & 15;
            resum(frame, v6);
        }
        _ => return Err(format!("`[{tag}]` is no tag")),
    }
    Ok(())
}

/// Mends the TCP checksum.
fn resum(frame: &mut [u8], v6: bool) {
    let tcp = if v6 { 54 } else { 34 };
    frame[tcp + 16..tcp + 18].fill(0);
    let sum = crate::host::frame::tcp_checksum(address(v6, 1), address(v6, 0), &frame[tcp..]);
    frame[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
}

fn since_start(at: Instant) -> String {
    let ns = at.saturating_since(START).as_nanos();
    format!("{:.6}", ns as f64 / 1e9)
}
