//! `luna knb`: the paper's network benchmark (LUNA §3.1, §8.1.1). Threads on both sides, a
//! long-lived connection between every two of them, requests and responses of one size.

mod cacheline;
mod client;
mod figures;
mod inline;
mod interruptions;
mod measure;
mod message;
mod net;
mod options;
mod record;
mod report;
mod run;
mod server;
mod show;
mod suite;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use options::{ClientOptions, ServerOptions};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer every request with as many bytes
    Server(ServerOptions),
    /// Ask, and measure
    Client(ClientOptions),
    /// The time for which a cache line travels between two cores and back
    Cacheline(cacheline::Options),
    /// How often a core does something else, and for how long
    Interruptions(interruptions::Options),
    /// Measure the tables of docs/BENCHMARKS.md (root)
    Suite(suite::Options),
    /// Keep what another program measured beside the suite's results
    Record(record::Options),
    /// Write docs/BENCHMARKS.md from the results; status 1 if a target is missed
    Report(report::Options),
    /// Draw the paper's figures from the results
    Figures(figures::Options),
}

pub(crate) fn run(options: &Options) -> ExitCode {
    match &options.command {
        Command::Server(options) => run::server(options),
        Command::Client(options) => run::client(options),
        Command::Cacheline(options) => cacheline::run(options),
        Command::Interruptions(options) => interruptions::run(options),
        Command::Suite(options) => suite::run(options),
        Command::Record(options) => record::run(options),
        Command::Report(options) => report::run(options),
        Command::Figures(options) => figures::run(options),
    }
}
