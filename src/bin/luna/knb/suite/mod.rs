//! `luna knb suite`: the tables of docs/BENCHMARKS.md, cell by cell, each stack in turn, round by
//! round, so that what the machine does meanwhile happens to all of them.

mod link;
mod lists;
pub(crate) mod plan;
mod play;
mod store;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use self::link::Links;
pub(crate) use self::plan::Variant;
use self::plan::{Run, Table};
use self::play::Stage;
use self::store::{AFTER, BEFORE};
pub(crate) use self::store::{Store, middle};
use super::cacheline::round_trip_ns;
use crate::show::note;

/// `luna knb suite`
#[derive(Args)]
pub(crate) struct Options {
    /// The tables to measure [default: all]
    #[arg(value_enum)]
    tables: Vec<Table>,
    /// Only these variants
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    only: Vec<String>,
    /// Only cells whose name contains this
    #[arg(long, value_name = "TEXT")]
    cell: Option<String>,
    /// Where the results are kept, one JSON object a line; those of the tables asked for are
    /// replaced
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// The program with smoltcp and raw frames (`cargo bench --bench peers`)
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// The first part of the names of network namespaces and links, at most 8 letters
    #[arg(long, default_value_t = format!("knb{}", std::process::id() % 100_000))]
    names: String,
    /// Interleaved runs of each cell
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Measured time of a run
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// The cores of the server and of the client
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "A,B")]
    cores: Vec<u16>,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    match measure(options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            note(&format!(
                "{failed} runs failed: they are in the results with their reasons"
            ));
            ExitCode::SUCCESS
        }
        Err(error) => {
            note(&error);
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<u32, String> {
    let &[server, client] = options.cores.as_slice() else {
        return Err("--cores takes two: 0,1".to_owned());
    };
    let mut store = Store::open(&options.results)?;
    let tables = if options.tables.is_empty() {
        Table::all()
    } else {
        options.tables.clone()
    };
    let mut stage = Stage {
        links: Links::new(&options.names)?,
        cores: (server, client),
        seconds: options.seconds,
        peers: options.peers.clone(),
    };
    let mut failed = 0;
    for table in tables {
        let runs = wanted(options, table);
        store.forget(|record| {
            let is = |key: &str, value: &str| record.get(key).is_some_and(|field| field == value);
            is("table", table.name())
                && runs
                    .iter()
                    .any(|run| is("cell", &run.cell) && is("variant", run.variant.id()))
        });
        let mut rounds = Rounds {
            stage: &mut stage,
            store: &mut store,
            table,
            failed: 0,
        };
        for round in 0..options.rounds {
            for run in &runs {
                rounds.play(run, round)?;
            }
        }
        rounds.play_far_ones_again(&runs, options.rounds)?;
        failed += rounds.failed;
    }
    Ok(failed)
}

/// The runs of one table.
struct Rounds<'a> {
    stage: &'a mut Stage,
    store: &'a mut Store,
    table: Table,
    failed: u32,
}

/// For how long the cores are waited for to be near again, in each table.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

impl Rounds<'_> {
    fn distance(&self) -> Option<f64> {
        let (server, client) = self.stage.cores;
        round_trip_ns(server, client)
    }

    fn play(&mut self, run: &Run, round: u32) -> Result<(), String> {
        let before = self.distance();
        let mut record = match self.stage.play(run) {
            Ok(record) => record,
            Err(error) => {
                self.failed += 1;
                note(&format!("{} {}: {error}", run.cell, run.variant.id()));
                json!({ "error": error })
            }
        };
        if let Some(fields) = record.as_object_mut() {
            fields.insert("table".into(), self.table.name().into());
            fields.insert("cell".into(), run.cell.clone().into());
            fields.insert("variant".into(), run.variant.id().into());
            fields.insert("round".into(), round.into());
            fields.insert(BEFORE.into(), json!(before));
            fields.insert(AFTER.into(), json!(self.distance()));
        }
        tell(&record);
        self.store.add(record)
    }

    /// Plays again the cells that were played while the cores were far apart, if they come near
    /// again: of each run there shall be as many as there are rounds.
    fn play_far_ones_again(&mut self, runs: &[Run], rounds: u32) -> Result<(), String> {
        let table = self.table.name();
        let mut patience = PATIENCE;
        for round in rounds..2 * rounds {
            let short: BTreeSet<String> = runs
                .iter()
                .filter(|run| {
                    let near = (self.store).near_runs(table, &run.cell, run.variant.id());
                    near < rounds as usize
                })
                .map(|run| run.cell.clone())
                .collect();
            for run in runs.iter().filter(|run| short.contains(&run.cell)) {
                while !self.distance().is_none_or(|ns| self.store.is_near(ns)) {
                    if patience.is_zero() {
                        return Ok(());
                    }
                    std::thread::sleep(LOOK);
                    patience = patience.saturating_sub(LOOK);
                }
                self.play(run, round)?;
            }
        }
        Ok(())
    }
}

/// The runs of a table that were asked for.
fn wanted(options: &Options, table: Table) -> Vec<Run> {
    let only = &options.only;
    let is_wanted = |run: &Run| {
        let is_cell = options
            .cell
            .as_ref()
            .is_none_or(|text| run.cell.contains(text));
        is_cell && (only.is_empty() || only.iter().any(|id| id == run.variant.id()))
    };
    table.runs().into_iter().filter(is_wanted).collect()
}

/// One line about a run.
fn tell(record: &serde_json::Value) {
    let text = |key| {
        record
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    note(&format!(
        "{} {} | {:<14} | {:<12} | {:>9.0}/s p50 {:>7.1} p99 {:>8.1} µs | line {:.0} ns",
        text("table"),
        number(record, "round"),
        text("cell"),
        text("variant"),
        number(record, "rps"),
        number(record, "p50_us"),
        number(record, "p99_us"),
        number(record, "cacheline_ns"),
    ));
}

fn number(record: &serde_json::Value, key: &str) -> f64 {
    record
        .get(key)
        .and_then(serde_json::Value::as_f64)
        .unwrap_or(f64::NAN)
}
