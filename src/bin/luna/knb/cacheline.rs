//! How far two cores are apart: on shared hosts the figure moves by a factor of ten, and every
//! measurement between two cores with it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use luna::time::{Clock as _, SystemClock};

use super::run::pin;

const ROUNDS: u64 = 20_000;
const BATCHES: usize = 5;

/// `luna knb cacheline`
#[derive(Args)]
pub(crate) struct Options {
    /// The two cores
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "A,B")]
    cores: Vec<u16>,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let [one, other] = options.cores.as_slice() else {
        crate::show::note("--cores takes two: 0,1");
        return ExitCode::FAILURE;
    };
    match round_trip_ns(*one, *other) {
        Some(ns) => {
            crate::show::print(&format!("{ns:.0} ns\n"));
            ExitCode::SUCCESS
        }
        None => {
            crate::show::note(&format!("cores {one} and {other} can't both be used"));
            ExitCode::FAILURE
        }
    }
}

/// On its own line, so that only the ball travels.
#[repr(align(128))]
struct Ball(AtomicU64);

/// The middle of some batches of round trips, in nanoseconds.
pub(crate) fn round_trip_ns(one: u16, other: u16) -> Option<f64> {
    if one == other {
        return None;
    }
    let ball = &Ball(AtomicU64::new(0));
    let total = ROUNDS * BATCHES as u64;
    std::thread::scope(|scope| {
        let far = scope.spawn(move || {
            let pinned = pin(other);
            for round in 0..total {
                wait_for(ball, 2 * round + 1);
                ball.0.store(2 * round + 2, Ordering::Release);
            }
            pinned
        });
        let near = scope.spawn(move || {
            let pinned = pin(one);
            let mut times = Vec::with_capacity(BATCHES);
            let mut start = SystemClock.now();
            for round in 0..total {
                ball.0.store(2 * round + 1, Ordering::Release);
                wait_for(ball, 2 * round + 2);
                if (round + 1) % ROUNDS == 0 {
                    let now = SystemClock.now();
                    times.push(now.saturating_since(start).as_nanos() as f64 / ROUNDS as f64);
                    start = now;
                }
            }
            times.sort_by(f64::total_cmp);
            pinned.then(|| times.get(BATCHES / 2).copied()).flatten()
        });
        let time = near.join().ok()?;
        far.join().ok()?.then_some(time)?
    })
}

fn wait_for(ball: &Ball, value: u64) {
    let mut spins = 0_u32;
    while ball.0.load(Ordering::Acquire) != value {
        spins += 1;
        // Two threads that share a core (pinning failed) must not wait for their time slice.
        if spins.is_multiple_of(1 << 16) {
            std::thread::yield_now();
        }
        core::hint::spin_loop();
    }
}
