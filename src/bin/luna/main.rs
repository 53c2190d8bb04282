//! `luna`: starts programs on the stack, shows what it does, and says what is missing.
#![forbid(unsafe_code)]

mod doctor;
mod elf;
mod knb;
mod run;
mod show;
mod ss;
mod stat;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A user-space TCP stack for unmodified programs.
///
/// Sockets whose local port is reserved for luna use the stack; all others stay on the kernel.
/// Every option of `luna run` can be given as an environment variable or in a file as well; see
/// `luna run --help`.
#[derive(Parser)]
#[command(name = "luna", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program with the sockets of its reserved ports on the stack
    Run(run::Options),
    /// List the sockets of all programs that use luna, and why each is where it is
    Ss(ss::Options),
    /// Show the counters of every shard
    Stat(stat::Options),
    /// Check this machine, link and configuration, and say what to do
    Doctor(doctor::Options),
    /// Measure a stack with requests and responses, as the paper does
    Knb(knb::Options),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Ss(options) => ss::run(&options),
        Command::Stat(options) => stat::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Knb(options) => knb::run(&options),
    }
}
