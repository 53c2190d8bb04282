//! What knb prints: progress, a table, or a line of JSON.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::measure::{Outcome, Shared};
use super::options::{ClientOptions, ServerOptions};
use super::run::PROGRESS_EVERY;
use super::server::Served;
use crate::show::{note, print, print_table, table};

/// The quantiles of the distribution that JSON carries: enough to draw it down to 1 in 10,000.
const QUANTILES: [f64; 27] = [
    0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965,
    0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 0.9995, 0.9999,
];

/// The server can be connected to.
pub(crate) fn ready(options: &ServerOptions) {
    if options.side.json {
        print("{\"ready\":true}\n");
    } else {
        note(&format!(
            "knb: serving on {} ({})",
            options.address,
            options.side.stack.name()
        ));
    }
}

pub(crate) fn served(options: &ServerOptions, threads: &[Served]) {
    let connections: u64 = threads.iter().map(|thread| thread.connections).sum();
    let answers: u64 = threads.iter().map(|thread| thread.answers).sum();
    if options.side.json {
        let line = json!({ "connections": connections, "answers": answers });
        print(&format!("{line}\n"));
    } else {
        note(&format!(
            "knb: {answers} answers on {connections} connections"
        ));
    }
}

/// Only people want to see it move.
pub(crate) fn wants_progress(options: &ClientOptions) -> bool {
    !options.side.json && std::io::stderr().is_terminal()
}

pub(crate) fn progress(options: &ClientOptions, shared: &Shared, done: &AtomicBool) {
    let whole = options.warmup + options.seconds;
    let mut passed = std::time::Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let part = (passed.as_secs_f64() / whole.as_secs_f64().max(1e-9)).min(1.0);
        let filled = (part * 30.0) as usize;
        let _shown = write!(
            std::io::stderr().lock(),
            "\r[{:<30}] {:>4.1} s  {} requests ",
            "#".repeat(filled),
            passed.as_secs_f64(),
            shared.requests(),
        );
        std::thread::sleep(PROGRESS_EVERY);
        passed += PROGRESS_EVERY;
    }
    let _cleared = write!(std::io::stderr().lock(), "\r{:<60}\r", "");
}

pub(crate) fn measured(options: &ClientOptions, outcome: &Outcome) {
    if options.side.json {
        print(&format!("{}\n", as_json(options, outcome)));
        return;
    }
    let header = [
        "STACK",
        "REQUESTS/S",
        "MB/S",
        "P50 µs",
        "P90 µs",
        "P99 µs",
        "P99.9 µs",
        "MAX µs",
    ];
    let mut table = table(&header, &[1, 2, 3, 4, 5, 6, 7]);
    let mut row = vec![
        options.side.stack.name().to_owned(),
        format!("{:.0}", outcome.per_second()),
        format!("{:.1}", megabytes_per_second(options, outcome)),
    ];
    row.extend([0.5, 0.9, 0.99, 0.999, 1.0].map(|at| format!("{:.1}", outcome.micros(at))));
    table.add_row(row);
    print_table(&table);
    if outcome.unanswered > 0 {
        note(&format!(
            "knb: {} requests were not answered",
            outcome.unanswered
        ));
    }
}

/// One way: requests and responses are of one size.
fn megabytes_per_second(options: &ClientOptions, outcome: &Outcome) -> f64 {
    outcome.per_second() * f64::from(options.size) / 1e6
}

fn as_json(options: &ClientOptions, outcome: &Outcome) -> serde_json::Value {
    let cdf: Vec<_> = QUANTILES
        .iter()
        .map(|&at| json!([outcome.micros(at), at]))
        .collect();
    json!({
        "stack": options.side.stack.name(),
        "spin": options.side.spin,
        "verify": !options.side.no_verify,
        "threads": options.side.threads,
        "server_threads": options.server_threads,
        "connections": options.connections,
        "iodepth": options.iodepth,
        "size": options.size,
        "short": options.short,
        "rate": options.rate,
        "seconds": outcome.seconds,
        "requests": outcome.requests,
        "unanswered": outcome.unanswered,
        "rps": outcome.per_second(),
        "mb_per_s": megabytes_per_second(options, outcome),
        "p50_us": outcome.micros(0.5),
        "p90_us": outcome.micros(0.9),
        "p99_us": outcome.micros(0.99),
        "p999_us": outcome.micros(0.999),
        "max_us": outcome.micros(1.0),
        "cdf": cdf,
    })
}
