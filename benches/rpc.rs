//! Two shards on a wire in memory, on one thread: what a 4 KB request and response, a short
//! connection and an idle connection cost. `key=value` lines, one figure each.
//!
//! `cargo bench --bench rpc --features testutil [-- MODE…]`; without a mode, all. Cycles are the
//! time-stamp counter's. For instructions see `scripts/instructions.sh`.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark"
)]
#![allow(missing_docs, reason = "a benchmark")]

mod crowd;
mod inline;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use luna::device::pair::PairConfig;
use luna::stack::testutil::Two;
use luna::stack::{Close, ConnId, ListenId, RecvMode};
use luna::tcp::Config;
use luna::time::{Clock, Duration, SystemClock};

const MESSAGE: usize = 4096;

/// Bytes that are allocated now, and allocations ever.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn wire(checksum_offload: bool) -> PairConfig {
    PairConfig {
        checksum_offload,
        by_reference: true,
        ..PairConfig::default()
    }
}

fn config() -> Config {
    Config {
        nodelay: true,
        ..Config::default()
    }
}

struct Rpc {
    two: Two,
    server: ConnId,
    client: ConnId,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Rpc {
    fn new(checksum_offload: bool) -> Self {
        let mut two = Two::joined_by(wire(checksum_offload));
        let (here, there) = (Two::at(1, 61440), Two::at(0, 80));
        let listen = two.ends[0]
            .listen(there, false, 16, &config(), 1)
            .expect("listen");
        let client = two.ends[1]
            .connect(two.now, here, there, &config(), 2)
            .expect("connect");
        two.settle();
        let server = two.ends[0].accept(listen, 3).expect("accept").conn;
        Self {
            two,
            server,
            client,
            message: vec![0x5a; MESSAGE],
            buffer: vec![0; 2 * MESSAGE],
        }
    }

    /// One request and one response, a copy each way; both applications included.
    fn round(&mut self) {
        self.two.now += Duration::from_micros(10);
        for (from, to) in [(1, 0), (0, 1)] {
            let (now, ids) = (self.two.now, [self.server, self.client]);
            let sent =
                self.two.ends[from].send(now, ids[from], &[IoSlice::new(&self.message)], false);
            assert_eq!(sent, Ok(MESSAGE));
            self.two.turn(from);
            self.two.turn(to);
            let buffer = &mut [IoSliceMut::new(&mut self.buffer)];
            let got = self.two.ends[to].recv(now, ids[to], buffer, RecvMode::default());
            assert_eq!(got, Ok(MESSAGE));
            self.two.wakeups[to].clear();
        }
    }
}

/// Functions of their own, so that callgrind can be told to count only these.
#[inline(never)]
fn measured_rounds(rpc: &mut Rpc, rounds: usize) {
    for _ in 0..rounds {
        rpc.round();
    }
    black_box(&rpc.buffer);
}

fn frames(two: &Two) -> u64 {
    two.ends.iter().map(|e| e.counters().segments_out).sum()
}

/// Bytes that were copied for the applications, in and out.
fn copied(two: &Two) -> [u64; 2] {
    let sum =
        |of: fn(&luna::stack::Counters) -> u64| two.ends.iter().map(|end| of(end.counters())).sum();
    [sum(|c| c.bytes_copied_in), sum(|c| c.bytes_copied_out)]
}

fn copying(name: &str, checksum_offload: bool) {
    let rounds = rounds(200_000);
    let mut rpc = Rpc::new(checksum_offload);
    for _ in 0..2_000 {
        rpc.round();
    }
    let before = (frames(&rpc.two), copied(&rpc.two));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let start = cycles();
    measured_rounds(&mut rpc, rounds);
    let spent = cycles().wrapping_sub(start);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let sides = rounds as f64 * 2.0;
    println!("{name}.rounds={rounds}");
    println!("{name}.cycles_per_rpc_and_side={:.0}", spent as f64 / sides);
    let frames = (frames(&rpc.two) - before.0) as f64 / rounds as f64;
    println!("{name}.frames_per_rpc={frames:.3}");
    let bytes = (2 * MESSAGE * rounds) as f64;
    for (way, now, before) in [
        ("in", copied(&rpc.two)[0], before.1[0]),
        ("out", copied(&rpc.two)[1], before.1[1]),
    ] {
        let copies = (now - before) as f64 / bytes;
        println!("{name}.copies_of_a_byte_{way}={copies:.3}");
    }
    println!("{name}.allocations={allocations}");
}

fn by_reference(name: &str, checksum_offload: bool) {
    let rounds = rounds(200_000);
    let mut both = inline::Both::new(checksum_offload);
    both.warm_up();
    let before = (both.frames(), both.bytes_copied());
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let start = cycles();
    both.measured_inline(rounds);
    let spent = cycles().wrapping_sub(start);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let cycles_each = spent as f64 / rounds as f64 / 2.0;
    println!("{name}.rounds={rounds}");
    println!("{name}.cycles_per_rpc_and_side={cycles_each:.0}");
    let frames = (both.frames() - before.0) as f64 / rounds as f64;
    println!("{name}.frames_per_rpc={frames:.3}");
    println!("{name}.bytes_copied={}", both.bytes_copied() - before.1);
    println!("{name}.allocations={allocations}");
}

/// Connections that are opened, used for one exchange and closed together.
const TOGETHER: usize = 16;
/// Tuples come from this many server ports …
const SERVER_PORTS: usize = 16;
/// … and this many client ports each.
const CLIENT_PORTS: usize = 60_000;

struct Short {
    two: Two,
    listeners: Vec<ListenId>,
    done: usize,
    buffer: [u8; 64],
}

impl Short {
    fn new() -> Self {
        let mut two = Two::joined_by(wire(true));
        let listeners = (0..SERVER_PORTS as u16)
            .map(|n| {
                let at = Two::at(0, 80 + n);
                two.ends[0]
                    .listen(at, false, 64, &config(), 1)
                    .expect("listen")
            })
            .collect();
        Self {
            two,
            listeners,
            done: 0,
            buffer: [0; 64],
        }
    }

    /// Connect, one exchange of 64 bytes, close: the client first, which keeps TIME-WAIT.
    fn round(&mut self) {
        let Self { two, buffer, .. } = self;
        two.now += Duration::from_micros(100);
        let now = two.now;
        let server_port = self.done / CLIENT_PORTS % SERVER_PORTS;
        let listener = self.listeners[server_port];
        let there = Two::at(0, 80 + server_port as u16);
        let mut clients = [None; TOGETHER];
        for (n, client) in clients.iter_mut().enumerate() {
            let port = 2_000 + (self.done + n) % CLIENT_PORTS;
            let here = Two::at(1, port as u16);
            let id = two.ends[1].connect(now, here, there, &config(), n as u64);
            *client = Some(id.expect("a free tuple"));
        }
        self.done += TOGETHER;
        for end in [1, 0, 1] {
            two.turn(end);
        }
        for id in clients.into_iter().flatten() {
            let sent = two.ends[1].send(now, id, &[IoSlice::new(buffer)], false);
            assert_eq!(sent, Ok(64));
        }
        two.turn(1);
        two.turn(0);
        let mut servers = [None; TOGETHER];
        for server in &mut servers {
            let id = two.ends[0].accept(listener, 0).expect("a connection").conn;
            let room = &mut [IoSliceMut::new(buffer)];
            assert_eq!(two.ends[0].recv(now, id, room, RecvMode::default()), Ok(64));
            let sent = two.ends[0].send(now, id, &[IoSlice::new(buffer)], false);
            assert_eq!(sent, Ok(64));
            *server = Some(id);
        }
        two.turn(0);
        two.turn(1);
        for id in clients.into_iter().flatten() {
            let room = &mut [IoSliceMut::new(buffer)];
            assert_eq!(two.ends[1].recv(now, id, room, RecvMode::default()), Ok(64));
            two.ends[1].close(now, id, Close::Graceful);
        }
        two.turn(1);
        two.turn(0);
        for id in servers.into_iter().flatten() {
            two.ends[0].close(now, id, Close::Graceful);
        }
        for end in [0, 1, 0] {
            two.turn(end);
        }
        two.wakeups.iter_mut().for_each(Vec::clear);
    }
}

#[inline(never)]
fn measured_short(short: &mut Short, rounds: usize) {
    for _ in 0..rounds {
        short.round();
    }
}

fn short() {
    // Each leaves a TIME-WAIT record, and all of them are to be kept.
    let rounds = rounds(150_000).min(150_000) / TOGETHER;
    let mut short = Short::new();
    for _ in 0..100 {
        short.round();
    }
    let before = frames(&short.two);
    let (start, begun) = (cycles(), SystemClock.now());
    measured_short(&mut short, rounds);
    let spent = cycles().wrapping_sub(start);
    let seconds = SystemClock.now().saturating_since(begun).as_nanos() as f64 / 1e9;
    let count = (rounds * TOGETHER) as f64;
    let frames = (frames(&short.two) - before) as f64;
    let (_, kept) = short.two.ends[1].population();
    assert_eq!(kept, short.done, "TIME-WAIT was cut short");
    println!("short.connections={count}");
    println!("short.time_wait_records={kept}");
    println!("short.frames_per_connection={:.2}", frames / count);
    println!(
        "short.cycles_per_connection_and_side={:.0}",
        spent as f64 / count / 2.0
    );
    println!("short.per_second_and_core={:.0}", 2.0 * count / seconds);
    println!(
        "short.per_second_both_ends_on_one_core={:.0}",
        count / seconds
    );
}

fn rounds(default: usize) -> usize {
    let given = std::env::var("RPC_ROUNDS").ok();
    given.and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wants = |mode: &str| wanted.is_empty() || wanted.iter().any(|w| w == mode);
    if wants("copy") {
        copying("copy", false);
    }
    if wants("copy_offload") {
        copying("copy_offload", true);
    }
    if wants("inline") {
        by_reference("inline", false);
    }
    if wants("inline_offload") {
        by_reference("inline_offload", true);
    }
    if wants("short") {
        short();
    }
    if wants("idle") {
        crowd::idle(&|| ALLOCATED.load(Ordering::Relaxed), rounds(1_000_000));
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn cycles() -> u64 {
    // SAFETY: reading the time-stamp counter has no precondition.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn cycles() -> u64 {
    0
}
