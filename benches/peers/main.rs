//! What luna is measured against on its own links: raw frames, which show the limit of a link,
//! and smoltcp, which runs knb's workload over luna's devices.
//!
//! `scripts/bench.sh` runs it beside `luna knb`; by hand, in two terminals:
//! ```text
//! peers smoltcp server --dev memif:/tmp/m,role=server,ip=10.78.0.1/24
//! peers smoltcp client 10.78.0.1:7000 --dev memif:/tmp/m,role=client,ip=10.78.0.2/24
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement, not library code"
)]
#![allow(missing_docs, reason = "a program")]

mod link;
#[path = "../../src/bin/luna/knb/message.rs"]
#[allow(dead_code, reason = "knb uses all of it")]
mod message;
mod raw;
mod smoltcp;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    Raw,
    Smoltcp,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Role {
    Server,
    Client,
}

/// The words are those of `luna knb`, as far as they apply.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    kind: Kind,
    pub(crate) role: Role,
    /// A client's server
    pub(crate) server: Option<SocketAddr>,
    /// The link, as LUNA_DEV: memif or xdp
    #[arg(long)]
    pub(crate) dev: String,
    #[arg(long, default_value = "0.0.0.0:7000")]
    pub(crate) address: SocketAddr,
    #[arg(long)]
    cores: Option<usize>,
    #[arg(long)]
    json: bool,
    /// End when standard input does
    #[arg(long)]
    until_eof: bool,
    /// One of each, whatever is said
    #[arg(long)]
    threads: Option<u16>,
    #[arg(long)]
    server_threads: Option<u16>,
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: u32,
    #[arg(long, default_value_t = 4096)]
    pub(crate) size: u32,
    #[arg(long, default_value_t = 1)]
    pub(crate) iodepth: u32,
    /// raw: so many there and back
    #[arg(long, default_value_t = 1)]
    pub(crate) frames: usize,
    /// raw: of so many bytes
    #[arg(long, default_value_t = 1514)]
    pub(crate) bytes: usize,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
}

/// A run's window and what was measured in it.
pub(crate) struct Meter {
    begin: Instant,
    end: Instant,
    seconds: f64,
    histogram: Histogram<u64>,
}

impl Meter {
    pub(crate) fn start(options: &Options) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(options.warmup);
        Self {
            begin,
            end: begin + Duration::from_secs_f64(options.seconds),
            seconds: options.seconds,
            histogram: Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap(),
        }
    }

    pub(crate) fn record(&mut self, start: Instant, now: Instant) {
        if now >= self.begin && now < self.end {
            self.histogram
                .saturating_record((now - start).as_nanos() as u64);
        }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }
}

/// Set when standard input ends.
static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

pub(crate) fn ready() {
    println!("{{\"ready\":true}}");
}

fn main() {
    // `cargo bench` and `cargo test` start every bench; this one has nothing to do by itself.
    if std::env::args().any(|word| word == "--bench" || word == "--test") {
        println!("see the top of benches/peers/main.rs");
        return;
    }
    let options = Options::parse();
    if let Some(core) = options.cores {
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set).expect("such a core");
    }
    if options.until_eof {
        std::thread::spawn(|| {
            let _end = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            STOP.store(true, Ordering::Relaxed);
        });
    }
    let meter = match (options.kind, options.role) {
        (Kind::Raw, Role::Server) => return raw::serve(&options),
        (Kind::Smoltcp, Role::Server) => return smoltcp::serve(&options),
        (Kind::Raw, Role::Client) => raw::ask(&options),
        (Kind::Smoltcp, Role::Client) => smoltcp::ask(&options),
    };
    report(&options, &meter);
}

fn report(options: &Options, meter: &Meter) {
    let micros = |at: f64| meter.histogram.value_at_quantile(at) as f64 / 1e3;
    let rps = meter.histogram.len() as f64 / meter.seconds;
    let quantiles = [
        0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9999,
    ];
    let cdf: Vec<_> = quantiles.iter().map(|&at| (micros(at), at)).collect();
    let result = serde_json::json!({
        "stack": if options.kind == Kind::Raw { "raw" } else { "smoltcp" },
        "verify": options.kind == Kind::Smoltcp,
        "connections": options.connections,
        "iodepth": options.iodepth,
        "size": options.size,
        "frames": options.frames,
        "frame_bytes": options.bytes,
        "seconds": meter.seconds,
        "requests": meter.histogram.len(),
        "rps": rps,
        "fps": rps * options.frames as f64,
        "mb_per_s": rps * f64::from(options.size) / 1e6,
        "p50_us": micros(0.5),
        "p90_us": micros(0.9),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "max_us": micros(1.0),
        "cdf": cdf,
    });
    if options.json {
        println!("{result}");
    } else {
        println!("{result:#}");
    }
}
