//! `luna knb report`: docs/BENCHMARKS.md from the results of a suite.

mod targets;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use self::targets::Target;
use super::interruptions::sample;
use super::suite::{Store, Variant, middle};
use crate::show::{note, print};
use luna::time::Duration;

/// `luna knb report`
#[derive(Args)]
pub(crate) struct Options {
    /// The results of `luna knb suite`
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// Write there instead of to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let store = match Store::open(&options.results) {
        Ok(store) => store,
        Err(error) => {
            note(&error);
            return ExitCode::FAILURE;
        }
    };
    let targets = targets::all(&store);
    let text = page(&store, &targets);
    match &options.output {
        None => print(&text),
        Some(path) => {
            if let Err(error) = std::fs::write(path, &text) {
                note(&format!("{}: {error}", path.display()));
                return ExitCode::FAILURE;
            }
        }
    }
    let missed = targets.iter().filter(|target| !target.is_met()).count();
    if missed > 0 {
        note(&format!(
            "{missed} of {} targets are not met",
            targets.len()
        ));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn field_of_file(path: &str, start: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(start));
    line.unwrap_or("unknown")
        .trim_matches([' ', '\t', ':', '"', '='])
        .to_owned()
}

fn machine(store: &Store) -> String {
    let counts = store.all().iter().filter_map(|record| {
        let text = |key| record.get(key).and_then(serde_json::Value::as_str);
        let runs = store.alike(text("table")?, text("cell")?, text("variant")?);
        let measures = !is(record, "table", "memory") && record.get("error").is_none();
        measures.then(|| runs.count())
    });
    let rounds = counts.min().unwrap_or(0);
    let lines = cachelines(store.all().iter());
    let seconds = middle(
        store
            .all()
            .iter()
            .filter_map(|r| r.get("seconds")?.as_f64())
            .collect(),
    );
    format!(
        "- machine: {}, {} cores; server on core 0, client on core 1, one thread each\n\
         - Linux {}, {}, {}, {}, luna {} at commit {}\n\
         - medians of {} or more interleaved runs of {} s after 0.2 s of warm-up; every payload \
         byte is compared at both ends\n\
         - a cache line's round trip between the two cores, sampled before and after each run: \
         {} ns. It moves with the host. Of each cell only runs at the same distance are compared: \
         near ones (under twice a short one), which are repeated until there are enough, else far \
         ones, and it says so. Differences under 1.5 × between columns are not resolved\n{}",
        field_of_file("/proc/cpuinfo", "model name"),
        std::thread::available_parallelism().map_or(0, usize::from),
        first_line("uname", &["-r"]),
        field_of_file("/etc/os-release", "PRETTY_NAME="),
        first_line("rustc", &["--version"]),
        first_line("redis-server", &["--version"]),
        env!("CARGO_PKG_VERSION"),
        first_line("git", &["rev-parse", "--short", "HEAD"]),
        rounds,
        seconds.unwrap_or(0.0),
        lines,
        interruptions(),
    )
}

/// What a tail is made of where requests are fast; sampled as the page is written.
fn interruptions() -> String {
    let cores = [0, 1].map(|core| sample(core, Duration::from_secs(1)));
    let [Some(one), Some(other)] = cores else {
        return String::new();
    };
    let share = (one.per_second + other.per_second) / 100_000.0 * 100.0;
    format!(
        "- what interrupts a thread that only reads the clock (timer ticks, the hypervisor; `luna \
         knb interruptions`), sampled when this page was written: core 0 {one}, core 1 {other}. At \
         100,000 requests/s that is one in {share:.1} % of them: where it is more than 1 %, p99 is \
         theirs\n"
    )
}

/// Lowest, middle and highest.
fn cachelines<'a>(records: impl Iterator<Item = &'a serde_json::Value>) -> String {
    let mut all: Vec<f64> = records
        .filter_map(|r| r.get("cacheline_ns")?.as_f64())
        .collect();
    all.sort_by(f64::total_cmp);
    match (all.first(), middle(all.clone()), all.last()) {
        (Some(low), Some(middle), Some(high)) => format!("{low:.0} – {middle:.0} – {high:.0}"),
        _ => "not measured".to_owned(),
    }
}

fn page(store: &Store, targets: &[Target]) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "# Benchmarks\n\n\
         Written by `make bench`; figures of one machine at one time. Compare within a table, not \
         between machines or days.\n`scripts/bench.sh TABLE…` measures single tables again; \
         `make figures` draws curves.\n\n{}\n## Targets\n\n\
         | | target | measured | |\n|---|---|---:|---|\n",
        machine(store)
    );
    for target in targets {
        let _ = writeln!(out, "{target}");
    }
    for (table, title, text, keys) in SECTIONS {
        section(&mut out, store, table, title, text, keys);
    }
    out
}

type Section = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const RATES: &[(&str, &str)] = &[
    ("rps", "requests/s"),
    ("p50_us", "p50, µs"),
    ("p99_us", "p99, µs"),
];

const SECTIONS: [Section; 6] = [
    (
        "link",
        "Raw frames",
        "So many frames there and back, without TCP (`cargo bench --bench peers`, `raw`): what a \
         stack on the link is judged against.",
        &[
            ("fps", "frames/s each way"),
            ("p50_us", "p50 of the round trip, µs"),
            ("p99_us", "p99, µs"),
        ],
    ),
    (
        "rpc",
        "Requests over memif, MTU 1500",
        "`luna knb client --size … --connections … --iodepth …` (connections × iodepth). The \
         kernel's ends are joined by veth, MTU 1500: it passes 64 KB packets by reference, unless \
         it has no offloads; over memif every frame of 1514 bytes is copied and summed in \
         software. smoltcp runs the same workload on the same memif and device code, without \
         congestion control.",
        RATES,
    ),
    (
        "short",
        "A connection for each request",
        "`luna knb client --short --size 64`: connect, one exchange, the server closes and keeps \
         TIME_WAIT. The kernel and `luna ↔ luna, batch` over veth, the others over memif.",
        RATES,
    ),
    (
        "xdp",
        "Requests over AF_XDP on veth",
        "The kernel has the same kind of pair, with its offloads. Where it wins at depth, veth \
         passes its 64 KB packets by reference: of a request and its answer each byte is copied \
         four times, by the calls. A kernel client of luna through sockets has seven copies: by \
         the four calls, by the kernel for XDP (which must not touch the sender's copy), into \
         and out of luna's memory. From Linux 6.7 on there is more: docs/CONFIG.md, Clients on the \
         same machine, says why such clients at depth are slower still, and the row with short \
         page lists (`sysctl vm.percpu_pagelist_high_fraction=2000`) has that removed.",
        RATES,
    ),
    (
        "apps",
        "redis and memcached, unmodified",
        "`redis-benchmark -t get -c 50 -d 100`; `luna knb client --protocol memcached --size 100 \
         --connections 50`; no pipelining. `luna batch` is memif, `luna ↔ luna` AF_XDP on veth.",
        RATES,
    ),
    (
        "memory",
        "In memory",
        "`cargo bench --bench rpc --bench connections --features testutil` and \
         `scripts/instructions.sh --all`: two shards on a wire in memory, one thread, both \
         applications included; 4 KB each way, or connect–exchange–close. No system call is made \
         there (`cargo test --test fast_path`, under a filter); a server on a real link asks the \
         kernel for events now and then (`scripts/syscalls.sh`, over memif).",
        &[],
    ),
];

fn section(
    out: &mut String,
    store: &Store,
    table: &str,
    title: &str,
    text: &str,
    keys: &[(&str, &str)],
) {
    let records: Vec<_> = store
        .all()
        .iter()
        .filter(|r| is(r, "table", table))
        .collect();
    if records.is_empty() {
        return;
    }
    let _ = write!(out, "\n## {title}\n\n{text}\n");
    let mut cells: Vec<&str> = Vec::new();
    for record in &records {
        let cell = record
            .get("cell")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    if keys.is_empty() {
        plain(out, &records);
        return;
    }
    let columns: Vec<Variant> = Variant::ALL
        .into_iter()
        .filter(|variant| {
            records
                .iter()
                .any(|record| is(record, "variant", variant.id()))
        })
        .collect();
    for (key, name) in keys {
        let titles: Vec<&str> = columns.iter().map(|variant| variant.title()).collect();
        let _ = write!(
            out,
            "\n| {name} | {} |\n|---|{}\n",
            titles.join(" | "),
            "---:|".repeat(titles.len())
        );
        for cell in &cells {
            let _ = write!(out, "| {} |", row_name(store, table, cell));
            for variant in &columns {
                let value = store.median(table, cell, variant.id(), key);
                let failed = store
                    .of(table, cell, variant.id())
                    .any(|r| r.get("error").is_some());
                let _ = match value {
                    Some(value) => write!(out, " {} |", number(value)),
                    None if failed => write!(out, " failed |"),
                    None => write!(out, " |"),
                };
            }
            out.push('\n');
        }
    }
    let _ = writeln!(
        out,
        "\nCache line, ns: {}.",
        cachelines(records.into_iter())
    );
}

fn row_name(store: &Store, table: &str, cell: &str) -> String {
    let far = match store.is_far(table, cell) {
        true => " (far)",
        false => "",
    };
    cell.replace('x', "×") + far
}

/// Records of other keys: one line each.
fn plain(out: &mut String, records: &[&serde_json::Value]) {
    let _ = write!(out, "\n| | |\n|---|---:|\n");
    for record in records {
        for (key, value) in record.as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64().filter(|_| !META.contains(&key.as_str())) {
                let _ = writeln!(
                    out,
                    "| {} | {} |",
                    key.replace(['_', '.'], " "),
                    number(value)
                );
            }
        }
    }
}

const META: [&str; 3] = ["round", "cacheline_ns", "cacheline_after_ns"];

fn is(record: &serde_json::Value, key: &str, value: &str) -> bool {
    record.get(key).is_some_and(|field| field == value)
}

/// Three digits that count, and thousands as such.
fn number(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => {
            let (thousands, rest) = ((value / 1000.0) as u64, (value % 1000.0) as u64);
            match thousands {
                thousands if thousands >= 1000 => {
                    format!("{},{:03},{rest:03}", thousands / 1000, thousands % 1000)
                }
                thousands => format!("{thousands},{rest:03}"),
            }
        }
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 || value == 0.0 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_readable() {
        let all = [0.0063, 0.256, 12.34, 456.7, 9999.0, 12_345.6, 2_345_067.0].map(number);
        assert_eq!(
            all,
            [
                "0.0063",
                "0.26",
                "12.3",
                "457",
                "9999",
                "12,345",
                "2,345,067"
            ]
        );
    }
}
