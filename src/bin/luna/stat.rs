//! `luna stat`: the counters.

use std::process::ExitCode;

use clap::Args;
use luna::stats::discover::Process;
use luna::stats::{COUNTERS, Counters, RunState};
use serde_json::{Value, json};

use crate::show;

#[derive(Args)]
pub(crate) struct Options {
    /// Also counters that are zero
    #[arg(short, long)]
    all: bool,
    /// One JSON array of processes with all their counters
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let Some(found) = show::processes() else {
        return ExitCode::FAILURE;
    };
    if options.json {
        show::print_json(&found.processes.iter().map(process_json).collect());
        return ExitCode::SUCCESS;
    }
    if found.processes.is_empty() {
        show::note("no program uses luna");
    }
    for process in &found.processes {
        print_process(process, options.all);
    }
    ExitCode::SUCCESS
}

fn print_process(process: &Process, all: bool) {
    let info = process.board.info();
    let mut state = info.state.name().to_owned();
    if info.state == RunState::KernelOnly {
        state = format!("{state}: {}", info.state_reason.name());
    }
    show::print(&format!(
        "{}/{}: {}, {} mode, {state}\n",
        info.program,
        process.pid,
        info.device,
        mode(info.dedicated)
    ));
    let shards: Vec<[u64; COUNTERS]> = counters(process).iter().map(Counters::to_array).collect();
    let mut header = vec!["COUNTER".to_owned()];
    header.extend((0..shards.len()).map(|shard| format!("SHARD {shard}")));
    if shards.len() > 1 {
        header.push("ALL".into());
    }
    header.push("MEANING".into());
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let numbers: Vec<usize> = (1..header.len() - 1).collect();
    let mut table = show::table(&header, &numbers);
    for (index, (name, help)) in Counters::NAMES.iter().zip(Counters::HELP).enumerate() {
        let values: Vec<u64> = shards
            .iter()
            .filter_map(|shard| shard.get(index))
            .copied()
            .collect();
        let sum: u64 = values.iter().fold(0, |sum, value| sum.wrapping_add(*value));
        if sum == 0 && !all {
            continue;
        }
        let mut cells = vec![(*name).to_owned()];
        cells.extend(values.iter().map(u64::to_string));
        if values.len() > 1 {
            cells.push(sum.to_string());
        }
        cells.push(help.trim().trim_end_matches('.').to_owned());
        table.add_row(cells);
    }
    if table.row_count() > 0 {
        show::print_table(&table);
    }
    show::print("\n");
}

const fn mode(dedicated: bool) -> &'static str {
    if dedicated { "dedicated" } else { "batch" }
}

fn counters(process: &Process) -> Vec<Counters> {
    let shards = usize::from(process.board.info().shards);
    (0..shards)
        .map(|shard| process.board.counters(shard))
        .collect()
}

fn process_json(process: &Process) -> Value {
    let info = process.board.info();
    let shard = |counters: &Counters| -> Value {
        let pairs = Counters::NAMES.iter().zip(counters.to_array());
        pairs
            .map(|(name, value)| ((*name).to_owned(), Value::from(value)))
            .collect()
    };
    json!({
        "pid": process.pid,
        "program": info.program,
        "device": info.device,
        "mode": mode(info.dedicated),
        "state": info.state.name(),
        "reason": (info.state == RunState::KernelOnly).then(|| info.state_reason.name()),
        "started_s": info.started_s,
        "shards": counters(process).iter().map(shard).collect::<Value>(),
    })
}
