//! Two hosts, a link, a clock that only moves when nothing is left to do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use luna::time::{Duration, Instant};

use luna::wire::TcpHeader;

use crate::link::{Link, LinkConfig};
use crate::oracle::{Line, Oracle};
use crate::rng::Rng;

/// What the simulator runs: a single connection, or a whole stack behind a device.
pub(crate) trait Host {
    /// A packet has arrived.
    fn receive(&mut self, now: Instant, packet: Vec<u8>);
    /// Does everything that can be done now; `send` takes packets.
    fn turn(&mut self, now: Instant, send: &mut dyn FnMut(Vec<u8>));
    /// When it next wants a turn without having received anything.
    fn poll_at(&self) -> Instant;
    /// Asserts what must hold after every turn.
    fn check(&mut self, now: Instant);
    /// It has done what it was to do, and nothing will follow.
    fn is_done(&self) -> bool;
    /// The TCP segment (header and data) inside a packet, unless it is damaged.
    fn segment(packet: &[u8]) -> Option<&[u8]>;
    /// A packet with this segment, for an attacker.
    fn forge(header: &TcpHeader, data: &[u8]) -> Vec<u8>;
    /// For the report of a failure.
    fn describe(&self) -> String;
}

/// The two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        if self == Self::A { Self::B } else { Self::A }
    }
}

/// How a host's thread behaves: after a turn it may be away for a while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scheduling {
    pub(crate) away_ppm: u32,
    pub(crate) away_for: Duration,
    /// After a turn, an attacker who sees nothing but guesses ports sends a host something.
    pub(crate) attack_ppm: u32,
}

/// What bounds a run: beyond either, it does not terminate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) events: u64,
    pub(crate) time: Duration,
}

struct Seat<H> {
    host: H,
    link: Link,
    away_until: Instant,
    /// It has received something since its last turn.
    dirty: bool,
}

type Flying = Reverse<(Instant, u64, Side, Vec<u8>)>;

/// A line of the trace, to be put into words only if somebody will read it.
struct Note {
    at: Duration,
    side: Side,
    arrow: &'static str,
    /// `None`: damaged.
    line: Option<Line>,
}

/// A run.
pub(crate) struct World<A, B> {
    now: Instant,
    started: Instant,
    a: Seat<A>,
    b: Seat<B>,
    flying: BinaryHeap<Flying>,
    serial: u64,
    scheduling: Scheduling,
    rng: Rng,
    oracle: Oracle,
    pub(crate) packets: u64,
    trace: VecDeque<Note>,
}

/// Lines of the trace that a failure prints.
const TRACE_LINES: usize = 60;

impl<A: Host, B: Host> World<A, B> {
    pub(crate) fn new(
        now: Instant,
        (a, b): (A, B),
        (ab, ba): (LinkConfig, LinkConfig),
        scheduling: Scheduling,
        mut rng: Rng,
    ) -> Self {
        fn seat<H>(host: H, link: Link) -> Seat<H> {
            Seat {
                host,
                link,
                away_until: Instant::ZERO,
                dirty: true,
            }
        }
        Self {
            now,
            started: now,
            a: seat(a, Link::new(ab, rng.fork())),
            b: seat(b, Link::new(ba, rng.fork())),
            flying: BinaryHeap::new(),
            serial: 0,
            scheduling,
            rng,
            oracle: Oracle::default(),
            packets: 0,
            trace: VecDeque::new(),
        }
    }

    pub(crate) fn hosts(&mut self) -> (&mut A, &mut B) {
        (&mut self.a.host, &mut self.b.host)
    }

    /// How long what A sends waits in a queue, on average.
    pub(crate) fn mean_wait(&self) -> Duration {
        self.a.link.mean_wait()
    }

    /// Virtual time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.saturating_since(self.started)
    }

    /// Runs until both hosts are done; panics if that does not happen within `bounds`.
    pub(crate) fn run(&mut self, bounds: Bounds) {
        self.run_until(bounds, |_, _| false);
    }

    /// Runs until both hosts are done or `stop` says so.
    pub(crate) fn run_until(&mut self, bounds: Bounds, mut stop: impl FnMut(&A, &B) -> bool) {
        for _ in 0..bounds.events {
            self.turn_both();
            if self.a.host.is_done() && self.b.host.is_done() || stop(&self.a.host, &self.b.host) {
                return;
            }
            let next = self.next_event();
            assert!(
                next < Instant::FAR_FUTURE,
                "nobody will ever do anything again"
            );
            assert!(
                self.elapsed() < bounds.time,
                "takes longer than {:?}",
                bounds.time
            );
            self.now = self.now.max(next);
            self.deliver();
        }
        panic!("takes more than {} events", bounds.events);
    }

    fn next_event(&self) -> Instant {
        fn wake<H: Host>(seat: &Seat<H>, now: Instant) -> Instant {
            let wanted = if seat.dirty { now } else { seat.host.poll_at() };
            wanted.max(seat.away_until)
        }
        let arrival = self
            .flying
            .peek()
            .map_or(Instant::FAR_FUTURE, |Reverse(f)| f.0);
        arrival
            .min(wake(&self.a, self.now))
            .min(wake(&self.b, self.now))
    }

    fn deliver(&mut self) {
        while let Some(Reverse(first)) = self.flying.peek()
            && first.0 <= self.now
        {
            let Some(Reverse((_, _, to, packet))) = self.flying.pop() else {
                return;
            };
            let note = match segment::<A, B>(to, &packet) {
                Some(segment) => Some(self.oracle.on_delivered(to, segment)),
                None => None,
            };
            self.note(to, "<-", note);
            match to {
                Side::A => {
                    self.a.host.receive(self.now, packet);
                    self.a.dirty = true;
                }
                Side::B => {
                    self.b.host.receive(self.now, packet);
                    self.b.dirty = true;
                }
            }
        }
    }

    fn turn_both(&mut self) {
        if self.may_turn(Side::A) {
            let mut sent = Vec::new();
            self.a.host.turn(self.now, &mut |p| sent.push(p));
            self.a.host.check(self.now);
            self.after_turn(Side::A, sent);
        }
        if self.may_turn(Side::B) {
            let mut sent = Vec::new();
            self.b.host.turn(self.now, &mut |p| sent.push(p));
            self.b.host.check(self.now);
            self.after_turn(Side::B, sent);
        }
    }

    fn may_turn(&self, side: Side) -> bool {
        let (dirty, poll_at, away) = match side {
            Side::A => (self.a.dirty, self.a.host.poll_at(), self.a.away_until),
            Side::B => (self.b.dirty, self.b.host.poll_at(), self.b.away_until),
        };
        away <= self.now && (dirty || poll_at <= self.now)
    }

    fn after_turn(&mut self, side: Side, sent: Vec<Vec<u8>>) {
        let mut forged = false;
        for packet in sent {
            self.packets += 1;
            let Some(segment) = segment::<A, B>(side, &packet) else {
                panic!("{side:?} sends a damaged packet");
            };
            let note = self.oracle.on_sent(side, segment);
            self.note(side, "->", Some(note));
            let (flying, serial, to) = (&mut self.flying, &mut self.serial, side.other());
            let link = match side {
                Side::A => &mut self.a.link,
                Side::B => &mut self.b.link,
            };
            link.send(self.now, packet, |at, packet| {
                *serial += 1;
                flying.push(Reverse((at, *serial, to, packet)));
            });
        }
        if self.rng.chance(self.scheduling.attack_ppm)
            && let Some(header) = self.oracle.forge(side, &mut self.rng)
        {
            let data = &[0x5a; 100][..self.rng.below(100) as usize];
            let packet = match side {
                Side::A => A::forge(&header, data),
                Side::B => B::forge(&header, data),
            };
            self.note(
                side,
                "<! forged",
                Some(Line::new(header, data.len() as u32)),
            );
            match side {
                Side::A => self.a.host.receive(self.now, packet),
                Side::B => self.b.host.receive(self.now, packet),
            }
            forged = true;
        }
        let mut away_until = Instant::ZERO;
        if self.rng.chance(self.scheduling.away_ppm) {
            let ns = self.rng.below(self.scheduling.away_for.as_nanos());
            away_until = self.now + Duration::from_nanos(ns);
        }
        let (dirty, away) = match side {
            Side::A => (&mut self.a.dirty, &mut self.a.away_until),
            Side::B => (&mut self.b.dirty, &mut self.b.away_until),
        };
        (*dirty, *away) = (forged, away_until);
    }

    fn note(&mut self, side: Side, arrow: &'static str, line: Option<Line>) {
        if std::env::var_os("LUNA_SIM_TRACE").is_some() {
            let line = line.as_ref().map_or("damaged".to_owned(), Line::to_string);
            eprintln!("{:>14?} {side:?} {arrow} {line}", self.elapsed());
        }
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace.push_back(Note {
            at: self.elapsed(),
            side,
            arrow,
            line,
        });
    }
}

fn segment<A: Host, B: Host>(side: Side, packet: &[u8]) -> Option<&[u8]> {
    match side {
        Side::A => A::segment(packet),
        Side::B => B::segment(packet),
    }
}

impl<A, B> Drop for World<A, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last {} packets:", self.trace.len());
            for Note {
                at,
                side,
                arrow,
                line,
            } in &self.trace
            {
                let line = line.as_ref().map_or("damaged".to_owned(), Line::to_string);
                eprintln!("{at:>14?} {side:?} {arrow} {line}");
            }
        }
    }
}
