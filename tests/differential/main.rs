//! The same transfers between luna, Linux and smoltcp, over a link in user space that loses and
//! delays: all must complete, and the goodput of one is held against the other's, cell by cell.
//!
//! Linux runs in network namespaces behind TUN interfaces and needs real time, so a few transfers
//! run in CI, and the whole table (loss × round trip × buffer) is measured by hand on a quiet
//! machine, into `target/differential.md`:
//!
//!     LUNA_DIFFERENTIAL=table cargo test --release --test differential -- --nocapture

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that can't go on fails; the kernel's half runs in real time"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../host/mod.rs"]
mod host;
mod link;
mod smol;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use link::{Kind, Repairs, Run};

const LOSSES_PPM: [u32; 6] = [0, 1_000, 10_000, 30_000, 100_000, 300_000];
const ROUND_TRIPS_US: [u64; 4] = [100, 1_000, 20_000, 100_000];
const BUFFERS: [u32; 2] = [64 << 10, 1 << 20];

/// How long a cell lasts: some tens of round trips, or of timeouts where these decide.
fn span(round_trip_us: u64, loss_ppm: u32) -> Duration {
    match round_trip_us {
        100 | 1_000 if loss_ppm >= 300_000 => Duration::from_millis(10_000),
        100 | 1_000 if loss_ppm >= 100_000 => Duration::from_millis(5_000),
        100 | 1_000 => Duration::from_millis(800),
        20_000 => Duration::from_millis(2_000),
        _ => Duration::from_millis(4_000),
    }
}

/// kB/s, and what the sender did about losses.
fn transfer(
    pair: (Kind, Kind),
    (loss_ppm, round_trip_us, buffer): (u32, u64, u32),
    seed: u64,
) -> (u64, Repairs) {
    let span = span(round_trip_us, loss_ppm);
    let run = Run {
        pair,
        loss_ppm,
        round_trip: Duration::from_micros(round_trip_us),
        buffer,
        seed: seed + u64::from(loss_ppm) + round_trip_us,
        span,
        bytes: u64::MAX,
    };
    let outcome = link::run(&run);
    let kilobytes = outcome.received as f64 / span.as_secs_f64() / 1000.0;
    (kilobytes as u64, outcome.repairs)
}

fn table_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/differential.md")
}

/// Measures one cell with nine orders of losses: `LUNA_DIFFERENTIAL=cell:100000,1024,1000` for
/// 100 ms, 1 MiB and 0.1 %; a fourth number asks for as many. What a single run says of a cell
/// may be chance, and where losses are few, what nine say too.
fn measure_cell(which: &str) {
    let numbers: Vec<u64> = which.split(',').filter_map(|n| n.parse().ok()).collect();
    let [round_trip, buffer, loss, ref orders @ ..] = numbers[..] else {
        panic!("microseconds, KiB and parts per million: {which}")
    };
    let orders = orders.first().map_or(9, |n| (*n).max(1));
    for pair in [
        (Kind::Linux, Kind::Linux),
        (Kind::Luna, Kind::Linux),
        (Kind::Linux, Kind::Luna),
    ] {
        let (loss, buffer) = (loss as u32, (buffer as u32) << 10);
        let cell = (loss, round_trip, buffer);
        let (mut all, repairs): (Vec<u64>, Vec<Repairs>) = (0..orders)
            .map(|seed| transfer(pair, cell, seed * 7919))
            .unzip();
        all.sort_unstable();
        let (median, mean) = (all[all.len() / 2], all.iter().sum::<u64>() / orders);
        println!("{pair:?}: median {median}, mean {mean} of {all:?}");
        let mean =
            |of: fn(&Repairs) -> u64| repairs.iter().map(of).sum::<u64>() as f64 / orders as f64;
        println!(
            "  {:.1} timeouts, {:.1} recoveries, {:.1} segments sent again",
            mean(|r| r.timeouts),
            mean(|r| r.recoveries),
            mean(|r| r.retransmits),
        );
    }
}

/// Measures everything; `LUNA_DIFFERENTIAL=table`, or `table:N` for the Nth round-trip time only.
fn measure(which: &str) {
    let only: Option<usize> = which.split_once(':').and_then(|(_, n)| n.parse().ok());
    let mut out = String::new();
    for (index, round_trip) in ROUND_TRIPS_US.into_iter().enumerate() {
        if only.is_some_and(|n| n != index) {
            continue;
        }
        for buffer in BUFFERS {
            for loss in LOSSES_PPM {
                let cell = |pair| transfer(pair, (loss, round_trip, buffer), 0).0;
                let linux = cell((Kind::Linux, Kind::Linux));
                let sends = cell((Kind::Luna, Kind::Linux));
                let receives = cell((Kind::Linux, Kind::Luna));
                let both = cell((Kind::Luna, Kind::Luna));
                let smoltcp = cell((Kind::Luna, Kind::Smoltcp));
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {linux} | {sends} | {receives} | {both} | {smoltcp} |",
                    round_trip as f64 / 1000.0,
                    buffer >> 10,
                    f64::from(loss) / 10_000.0,
                );
                println!("{}", out.lines().last().unwrap());
            }
        }
    }
    let path = table_path();
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(path, old + &out).unwrap();
}

/// Transfers in both directions complete and arrive whole, on a link that loses and reorders.
#[test]
fn transfers_of_luna_linux_and_smoltcp_complete() {
    let Some(_turn) = common::require::turn(&["ip"]) else {
        return;
    };
    if let Ok(which) = std::env::var("LUNA_DIFFERENTIAL") {
        match which.strip_prefix("cell:") {
            Some(cell) => measure_cell(cell),
            None => measure(&which),
        }
        return;
    }
    for pair in [
        (Kind::Luna, Kind::Linux),
        (Kind::Linux, Kind::Luna),
        (Kind::Linux, Kind::Linux),
        (Kind::Luna, Kind::Luna),
        (Kind::Luna, Kind::Smoltcp),
        (Kind::Smoltcp, Kind::Luna),
    ] {
        for loss_ppm in [0, 30_000] {
            let run = Run {
                pair,
                loss_ppm,
                round_trip: Duration::from_millis(2),
                buffer: 256 << 10,
                seed: 7,
                span: Duration::from_secs(60),
                bytes: 1_000_000,
            };
            let outcome = link::run(&run);
            assert_eq!(outcome.received, 1_000_000, "{run:?}");
            assert!(outcome.intact, "{run:?}: bytes differ");
        }
    }
}
