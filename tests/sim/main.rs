//! The deterministic simulator: whole connections on a virtual clock and a hostile link.
//!
//! A run is a function of its seed. A failing run prints its seed and its last packets;
//! `LUNA_SIM_SEED=n cargo test --test sim a_given_seed -- --nocapture` repeats it, with
//! `LUNA_SIM_TRACE=1` packet by packet; `LUNA_SIM_SURVEY=0..99999` with `survey` tries many.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a simulation that finds a contradiction must stop there"
)]

mod app;
mod bytes;
mod goodput;
mod hop;
mod link;
mod oracle;
mod rng;
mod scenario;
mod tcp_host;
mod world;

use scenario::Scenario;

/// Prints which seed failed while a panic unwinds.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "repeat with LUNA_SIM_SEED={} cargo test --test sim a_given_seed",
                self.0
            );
        }
    }
}

fn run(seed: u64) {
    let _seed = Seed(seed);
    Scenario::random(seed).run();
}

/// Several tests, so that they run side by side.
macro_rules! seeds {
    ($($name:ident: $range:expr;)*) => {
        $(#[test]
        fn $name() {
            $range.for_each(run);
        })*
    };
}

seeds! {
    random_runs_0: 0..1_000;
    random_runs_1: 1_000..2_000;
    random_runs_2: 2_000..3_000;
    random_runs_3: 3_000..4_000;
}

#[test]
fn a_given_seed() {
    if let Ok(seed) = std::env::var("LUNA_SIM_SEED") {
        let (first, last) = seed.split_once("..").unwrap_or((&seed, &seed));
        (first.parse().unwrap()..=last.parse().unwrap()).for_each(run);
    }
}

#[test]
fn a_run_repeats_itself() {
    for seed in [1, 2, 3] {
        assert_eq!(Scenario::random(seed).run(), Scenario::random(seed).run());
    }
}

/// Lists the failing seeds of a range: `LUNA_SIM_SURVEY=0..9999`.
#[test]
fn survey() {
    let Ok(range) = std::env::var("LUNA_SIM_SURVEY") else {
        return;
    };
    let (first, last) = range.split_once("..").unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        eprintln!("MESSAGE {}", info.to_string().replace('\n', " "));
    }));
    for seed in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
        if std::panic::catch_unwind(|| Scenario::random(seed).run()).is_err() {
            eprintln!("FAILED {seed}");
        }
    }
    std::panic::set_hook(hook);
}
