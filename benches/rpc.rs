//! 4 KB request and response between two shards on a wire in memory, on one thread.
//!
//! `cargo bench --bench rpc --features testutil` prints instructions per RPC under
//! `valgrind --tool=callgrind` (see `scripts/instructions.sh`), cycles otherwise.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark"
)]
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::io::{IoSlice, IoSliceMut};

use luna::stack::testutil::Two;
use luna::stack::{ConnId, RecvMode};
use luna::tcp::Config;
use luna::time::Duration;

const MESSAGE: usize = 4096;

struct Rpc {
    two: Two,
    server: ConnId,
    client: ConnId,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Rpc {
    fn new() -> Self {
        let mut two = Two::new(1500);
        let config = Config {
            nodelay: true,
            ..Config::default()
        };
        let (here, there) = (Two::at(1, 61440), Two::at(0, 80));
        let listen = two.ends[0]
            .listen(there, false, 16, &config, 1)
            .expect("listen");
        let client = two.ends[1]
            .connect(two.now, here, there, &config, 2)
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

    /// One request and one response; both applications included.
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

/// A function of its own, so that callgrind can be told to count only this.
#[inline(never)]
fn measured_rounds(rpc: &mut Rpc, rounds: usize) {
    for _ in 0..rounds {
        rpc.round();
    }
    black_box(&rpc.buffer);
}

fn main() {
    let rounds: usize = std::env::var("RPC_ROUNDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(200_000);
    let mut rpc = Rpc::new();
    for _ in 0..2_000 {
        rpc.round();
    }
    let frames = rpc.two.ends[0].counters().segments_out + rpc.two.ends[1].counters().segments_out;
    let start = cycles();
    measured_rounds(&mut rpc, rounds);
    let spent = cycles().wrapping_sub(start);
    let sent = rpc.two.ends[0].counters().segments_out + rpc.two.ends[1].counters().segments_out;
    println!(
        "{rounds} RPCs of {MESSAGE} bytes each way: {:.0} cycles per RPC and side, \
         {:.3} frames per RPC",
        spent as f64 / rounds as f64 / 2.0,
        (sent - frames) as f64 / rounds as f64,
    );
}

#[cfg(target_arch = "x86_64")]
fn cycles() -> u64 {
    // SAFETY: reading the time-stamp counter has no precondition.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn cycles() -> u64 {
    0
}
