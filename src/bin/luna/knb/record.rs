//! `luna knb record`: keeps what another program measured beside the suite's results.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::suite::Store;
use crate::show::note;

/// `luna knb record`
#[derive(Args)]
pub(crate) struct Options {
    /// The results of `luna knb suite`
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// The table, the cell and the variant that the figures belong to; older ones are forgotten
    #[arg(num_args = 3, required = true)]
    place: Vec<String>,
    /// KEY=NUMBER
    #[arg(last = true, value_name = "KEY=NUMBER")]
    figures: Vec<String>,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    match keep(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&error);
            ExitCode::FAILURE
        }
    }
}

fn keep(options: &Options) -> Result<(), String> {
    let mut record = Map::new();
    for (key, value) in ["table", "cell", "variant"].into_iter().zip(&options.place) {
        record.insert(key.to_owned(), value.clone().into());
    }
    let mut store = Store::open(&options.results)?;
    store.forget(|old| {
        record
            .iter()
            .all(|(key, value)| old.get(key) == Some(value))
    });
    for figure in &options.figures {
        let parsed = figure.split_once('=').and_then(|(key, value)| {
            Some((key.to_owned(), Value::from(value.parse::<f64>().ok()?)))
        });
        let (key, value) = parsed.ok_or_else(|| format!("`{figure}`: KEY=NUMBER"))?;
        record.insert(key, value);
    }
    store.add(Value::Object(record))
}
