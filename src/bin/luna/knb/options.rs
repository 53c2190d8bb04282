//! The command line of knb, and why a run can fail.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use luna::sys::Errno;

use super::message::{MESSAGE_BYTES_MAX, Wrong};

/// Whose TCP a side runs on, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stack {
    /// Linux, with epoll
    Kernel,
    /// luna, turned by the calls of the program itself; copies
    Batch,
    /// luna, turned by a thread of its own; copies
    Dedicated,
    /// luna's loop, which calls the program packet by packet; does not copy
    Inline,
}

impl Stack {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Batch => "batch",
            Self::Dedicated => "dedicated",
            Self::Inline => "inline",
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// knb's own, to `luna knb server`
    Knb,
    /// memcached's text protocol: get of one value of --size bytes
    Memcached,
}

/// What both sides are told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Side {
    /// The stack to run on
    #[arg(long, value_enum, default_value = "kernel")]
    pub(crate) stack: Stack,
    /// luna's link, as LUNA_DEV
    #[arg(long, value_name = "SPEC", required_if_eq_any = [
        ("stack", "batch"), ("stack", "dedicated"), ("stack", "inline"),
    ])]
    pub(crate) dev: Option<String>,
    /// How many shards luna runs, one device queue each
    #[arg(long, default_value_t = 1)]
    pub(crate) shards: u32,
    /// Threads of this side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// Pin the threads to these cores, one each, in turn: 0 or 0,2
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) cores: Vec<u16>,
    /// Never sleep: ask epoll with a timeout of 0 (the kernel), poll for ever (luna)
    #[arg(long)]
    pub(crate) spin: bool,
    /// Do not compare what arrives with what was sent
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// One line of JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// `luna knb server`
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerOptions {
    #[command(flatten)]
    pub(crate) side: Side,
    /// Address and port of the first thread; the next thread takes the next port
    #[arg(long, default_value = "0.0.0.0:7000")]
    pub(crate) address: SocketAddr,
    /// End when standard input does
    #[arg(long)]
    pub(crate) until_eof: bool,
}

/// `luna knb client`
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientOptions {
    #[command(flatten)]
    pub(crate) side: Side,
    /// Address and port of the server's first thread
    #[arg(value_name = "ADDRESS:PORT")]
    pub(crate) server: SocketAddr,
    /// Threads of the server
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) server_threads: u16,
    /// Connections between each pair of threads
    #[arg(short, long, default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,
    /// Bytes of a request, and of its response
    #[arg(short, long, default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MESSAGE_BYTES_MAX)))]
    pub(crate) size: u32,
    /// Requests under way on each connection
    #[arg(short = 'd', long, default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) iodepth: u32,
    /// What the server speaks
    #[arg(long, value_enum, default_value = "knb")]
    pub(crate) protocol: Protocol,
    /// A connection for each request; --connections of them at a time
    #[arg(long, conflicts_with_all = ["iodepth", "rate", "protocol"])]
    pub(crate) short: bool,
    /// Open loop: so many requests per second, at fixed times, whether or not answers come
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "iodepth")]
    pub(crate) rate: Option<f64>,
    /// Measured time
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Time before that, which does not count
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    pub(crate) warmup: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if !(0.0..=3600.0).contains(&value) {
        return Err("between 0 and 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(value))
}

/// Why a run failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Call(&'static str, Errno),
    At(&'static str, SocketAddr, Errno),
    Wrong(Wrong),
    Closed,
    Silence,
    Setup(String),
}

impl Failure {
    pub(crate) fn call(name: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Call(name, errno)
    }

    pub(crate) fn at(name: &'static str, address: SocketAddr) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::At(name, address, errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(name, errno) => write!(out, "{name}: {errno}"),
            Self::At(name, address, Errno::ADDRNOTAVAIL) if *name == "connect" => {
                write!(
                    out,
                    "connect to {address}: no local port is free (fewer --connections)"
                )
            }
            Self::At(name, address, errno) => write!(out, "{name} {address}: {errno}"),
            Self::Wrong(wrong) => write!(out, "{wrong}"),
            Self::Closed => write!(out, "the server closed a connection (its output says why)"),
            Self::Silence => write!(out, "the server has not answered for ten seconds"),
            Self::Setup(text) => out.write_str(text),
        }
    }
}
