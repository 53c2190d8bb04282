//! Latency with 100 and with 10,000 connections at equal load: an inline echo on a wire in memory,
//! requests of mixed sizes, so many under way at any time, spread over all connections.
//!
//! `cargo bench --bench connections --features testutil` prints a line for each number of
//! connections, and how the tails compare.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]
#![allow(missing_docs, reason = "a benchmark")]

use std::io::{IoSlice, IoSliceMut};

use hdrhistogram::Histogram;
use luna::device::Pieces;
use luna::stack::testutil::Two;
use luna::stack::{Accepted, App, ConnError, ConnId, Inline, RecvMode, Shard};
use luna::tcp::Config;
use luna::time::{Duration, Instant};

/// Requests under way.
const DEPTH: usize = 32;
const REQUESTS: usize = 200_000;
const SIZES: [usize; 8] = [64, 64, 64, 512, 512, 1448, 4096, 16384];

struct Echo;

impl App for Echo {
    fn accepted(&mut self, _: Instant, _: &mut Shard, _: u64, _: Accepted) -> u64 {
        0
    }
    fn connected(
        &mut self,
        _: Instant,
        _: &mut Shard,
        _: ConnId,
        _: u64,
        _: Result<(), ConnError>,
    ) {
    }
    fn readable(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        conn: ConnId,
        _: u64,
        pieces: &mut Pieces,
    ) {
        for piece in pieces.drain(..) {
            shard.send_slice(conn, piece, 0, false).expect("room");
        }
    }
    fn closed(&mut self, _: Instant, _: &mut Shard, _: ConnId, _: u64, _: Option<ConnError>) {}
}

struct Pending {
    conn: ConnId,
    left: usize,
    began: std::time::Instant,
}

fn connect(two: &mut Two, app: &mut Inline<Echo>, count: usize) -> Vec<ConnId> {
    let config = Config {
        nodelay: true,
        ..Config::default()
    };
    let listener = two.ends[0]
        .listen(Two::at(0, 80), false, 1024, &config, 0)
        .expect("listen");
    two.ends[0].adopt_listener(listener, 0);
    let mut all = Vec::new();
    for index in 0..count {
        let from = Two::at(1, 40000 + index as u16);
        let conn = two.ends[1]
            .connect(two.now, from, Two::at(0, 80), &config, index as u64)
            .expect("connect");
        all.push(conn);
        two.now += Duration::from_micros(1);
        two.settle_with(app);
        two.wakeups.iter_mut().for_each(Vec::clear);
    }
    all
}

fn measure(count: usize) -> Histogram<u64> {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo);
    let conns = connect(&mut two, &mut app, count);
    // In nanoseconds, up to a minute: beyond its bounds it would record the bound.
    let bounds = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3);
    let mut histogram = bounds.expect("a histogram");
    let mut pending: Vec<Pending> = Vec::new();
    let bytes = vec![0x5a; 16384];
    let mut buffer = vec![0; 65536];
    // A walk that visits every connection, in no order that a cache could like.
    let mut at = 0;
    let mut next = |step: usize| {
        at = (at + 7919) % count;
        (conns[at], SIZES[step % SIZES.len()])
    };
    let mut started = 0;
    while histogram.len() < REQUESTS as u64 {
        while pending.len() < DEPTH && started < REQUESTS {
            let (conn, size) = next(started);
            if pending.iter().any(|other| other.conn == conn) {
                break;
            }
            started += 1;
            let began = std::time::Instant::now();
            let sent = two.ends[1].send(two.now, conn, &[IoSlice::new(&bytes[..size])], false);
            assert_eq!(sent, Ok(size));
            pending.push(Pending {
                conn,
                left: size,
                began,
            });
        }
        two.now += Duration::from_micros(5);
        two.turn(1);
        two.turn_with(0, &mut app);
        two.turn(1);
        two.wakeups.iter_mut().for_each(Vec::clear);
        let (now, client) = (two.now, &mut two.ends[1]);
        pending.retain_mut(|request| {
            let room = &mut [IoSliceMut::new(&mut buffer)];
            if let Ok(got) = client.recv(now, request.conn, room, RecvMode::default()) {
                request.left -= got;
            }
            if request.left == 0 {
                histogram.saturating_record(request.began.elapsed().as_nanos() as u64);
            }
            request.left > 0
        });
    }
    histogram
}

fn main() {
    let mut tails = Vec::new();
    for count in [100, 1000, 10_000, 100, 10_000] {
        let histogram = measure(count);
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{count:>6} connections: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us",
            us(0.5),
            us(0.99),
            us(0.999)
        );
        tails.push((count, us(0.99)));
    }
    let best = |wanted| {
        let of = tails.iter().filter(|(count, _)| *count == wanted);
        of.map(|(_, tail)| *tail).fold(f64::INFINITY, f64::min)
    };
    for count in [100, 10_000] {
        println!("connections_{count}.p99_us={:.1}", best(count));
    }
    println!(
        "connections.p99_with_10000_over_p99_with_100={:.2}",
        best(10_000) / best(100)
    );
}
