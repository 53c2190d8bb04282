//! What a core does besides: timer ticks, interrupts, the hypervisor. On a virtual machine they
//! come a thousand times a second and last longer than a request, so that they, not the stack, are
//! the p99 of one that answers 100,000 a second.

use std::process::ExitCode;

use clap::Args;
use luna::time::{Clock as _, Duration, SystemClock};

use super::run::pin;
use super::suite::middle;

/// A thread that only reads the clock has been interrupted if it sees nothing for this long.
const GAP: Duration = Duration::from_micros(2);
/// How many are kept, however many there are.
const GAPS_MAX: usize = 100_000;

/// `luna knb interruptions`
#[derive(Args)]
pub(crate) struct Options {
    /// The cores
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "A,B")]
    cores: Vec<u16>,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    for core in &options.cores {
        match sample(*core, Duration::from_secs(1)) {
            Some(found) => crate::show::print(&format!("core {core}: {found}\n")),
            None => {
                crate::show::note(&format!("core {core} can't be used"));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// What interrupted a thread that did nothing but read the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interruptions {
    /// How many in a second.
    pub(crate) per_second: f64,
    /// How long the middle one lasted, in microseconds.
    pub(crate) middle_us: f64,
}

impl std::fmt::Display for Interruptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s of {:.1} µs", self.per_second, self.middle_us)
    }
}

/// Samples a core for `span`. `None`: this process may not use it.
pub(crate) fn sample(core: u16, span: Duration) -> Option<Interruptions> {
    let sampler = std::thread::spawn(move || {
        let pinned = pin(core);
        let mut gaps = Vec::with_capacity(GAPS_MAX);
        let start = SystemClock.now();
        let mut last = start;
        while last.saturating_since(start) < span {
            let now = SystemClock.now();
            let gap = now.saturating_since(last);
            if gap > GAP && gaps.len() < GAPS_MAX {
                gaps.push(gap.as_nanos() as f64 / 1e3);
            }
            last = now;
        }
        let seconds = last.saturating_since(start).as_nanos() as f64 / 1e9;
        pinned.then(|| Interruptions {
            per_second: gaps.len() as f64 / seconds,
            middle_us: middle(gaps).unwrap_or(0.0),
        })
    });
    sampler.join().ok()?
}
