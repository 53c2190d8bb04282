//! Starting a side: the stack's settings, the threads, their cores.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use luna::config::Config;
use luna::socket::policy::{self, Policy};

use super::client::ask;
use super::inline;
use super::measure::{Load, Meter, Outcome, Shared};
use super::net::{Kernel, Luna};
use super::options::{ClientOptions, Failure, ServerOptions, Side, Stack};
use super::server::{Plan, Served, serve};
use super::show;

/// Pins the calling thread; false if there is no such core for us.
pub(crate) fn pin(core: u16) -> bool {
    let mut set = rustix::thread::CpuSet::new();
    set.set(usize::from(core));
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

fn pin_thread(side: &Side, thread: u16) -> Result<(), Failure> {
    let count = side.cores.len().max(1);
    match side.cores.get(usize::from(thread) % count) {
        Some(&core) if !pin(core) => Err(Failure::Setup(format!("core {core} can't be used"))),
        _ => Ok(()),
    }
}

/// The address of each thread of a server.
fn addresses(first: SocketAddr, threads: u16) -> Result<Vec<SocketAddr>, Failure> {
    (0..threads)
        .map(|thread| {
            let port = first.port().checked_add(thread);
            let port = port.ok_or_else(|| Failure::Setup("not enough ports".to_owned()))?;
            Ok(SocketAddr::new(first.ip(), port))
        })
        .collect()
}

/// Configures luna in this process, before its first socket: `port_key` and `ports` are
/// `LUNA_LISTEN` or `LUNA_CONNECT` and its value.
fn configure(side: &Side, port_key: &str, ports: &str) -> Result<(), Failure> {
    if side.stack == Stack::Kernel {
        return Ok(());
    }
    let shards = side.shards.to_string();
    let mode = if side.stack == Stack::Dedicated {
        "dedicated"
    } else {
        "batch"
    };
    let variables = [
        ("LUNA_DEV", side.dev.as_deref().unwrap_or_default()),
        ("LUNA_MODE", mode),
        ("LUNA_SHARDS", &shards),
        ("LUNA_BUSY", if side.spin { "1" } else { "0" }),
        ("LUNA_STRICT", "1"),
        (port_key, ports),
    ];
    let loaded = Config::load(variables.map(|(name, value)| (name.into(), value.into())))
        .map_err(|error| Failure::Setup(error.to_string()))?;
    if let Some(config) = loaded.config {
        luna::logging::start(config.log);
        policy::set(Policy::from(config));
    }
    Ok(())
}

fn range(first: SocketAddr, threads: u16) -> String {
    let last = first.port().saturating_add(threads - 1);
    format!("{}-{last}", first.port())
}

fn exit(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            crate::show::note(&format!("knb: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// `luna knb server`
pub(crate) fn server(options: &ServerOptions) -> ExitCode {
    exit(serve_all(options))
}

fn serve_all(options: &ServerOptions) -> Result<(), Failure> {
    let side = &options.side;
    configure(side, "LUNA_LISTEN", &range(options.address, side.threads))?;
    let stop = AtomicBool::new(false);
    let waiting = AtomicU32::new(u32::from(side.threads));
    let ready = || {
        if waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            show::ready(options);
        }
    };
    let addresses = addresses(options.address, side.threads)?;
    let served = serve_threads(options, &addresses, &stop, &ready)?;
    show::served(options, &served);
    Ok(())
}

fn serve_threads(
    options: &ServerOptions,
    addresses: &[SocketAddr],
    stop: &AtomicBool,
    ready: &(dyn Fn() + Sync),
) -> Result<Vec<Served>, Failure> {
    let side = &options.side;
    std::thread::scope(|scope| {
        let threads: Vec<_> = addresses
            .iter()
            .zip(0..)
            .map(|(&address, thread)| {
                scope.spawn(move || {
                    pin_thread(side, thread)?;
                    let plan = Plan {
                        address,
                        verify: !side.no_verify,
                        spin: side.spin,
                        stop,
                        ready,
                    };
                    match side.stack {
                        Stack::Kernel => serve::<Kernel>(&plan),
                        Stack::Batch | Stack::Dedicated => serve::<Luna>(&plan),
                        Stack::Inline => inline::serve(&plan),
                    }
                })
            })
            .collect();
        if options.until_eof {
            let _end = std::io::stdin().lock().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        }
        threads.into_iter().map(joined).collect()
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Failure::Setup("a thread panicked".to_owned())))
}

/// `luna knb client`
pub(crate) fn client(options: &ClientOptions) -> ExitCode {
    exit(ask_all(options))
}

fn load_of(options: &ClientOptions) -> Result<Load, Failure> {
    let per_thread = options
        .rate
        .map(|rate| rate / f64::from(options.side.threads));
    if per_thread.is_some_and(|rate| !(rate > 0.0 && rate < 1e9)) {
        return Err(Failure::Setup("--rate must be more than 0".to_owned()));
    }
    Ok(Load {
        servers: addresses(options.server, options.server_threads)?,
        connections: options.connections,
        size: options.size,
        protocol: options.protocol,
        iodepth: options.iodepth,
        short: options.short,
        interval_ns: per_thread.map(|rate| 1e9 / rate),
        verify: !options.side.no_verify,
        spin: options.side.spin,
        warmup_ns: options.warmup.as_nanos() as u64,
        measure_ns: options.seconds.as_nanos() as u64,
    })
}

fn ask_thread<'a>(
    side: &Side,
    thread: u16,
    load: &'a Load,
    shared: &'a Shared,
) -> Result<Meter<'a>, Failure> {
    pin_thread(side, thread)?;
    let meter = Meter::new(u32::from(thread), load, shared)
        .ok_or_else(|| Failure::Setup("no histogram".to_owned()))?;
    match side.stack {
        Stack::Kernel => ask::<Kernel>(load, meter),
        Stack::Batch | Stack::Dedicated => ask::<Luna>(load, meter),
        Stack::Inline => inline::ask(load, meter),
    }
}

fn ask_all(options: &ClientOptions) -> Result<(), Failure> {
    let side = &options.side;
    let rule = format!(
        "{}:{}",
        options.server.ip(),
        range(options.server, options.server_threads)
    );
    configure(side, "LUNA_CONNECT", &rule)?;
    let load = &load_of(options)?;
    let shared = &Shared::new(usize::from(side.threads));
    let done = &AtomicBool::new(false);
    let meters = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..side.threads)
            .map(|thread| {
                scope.spawn(move || {
                    let outcome = ask_thread(side, thread, load, shared);
                    if let Err(failure) = &outcome {
                        // The other threads may wait for this one at the start.
                        crate::show::note(&format!("knb: {failure}"));
                        std::process::exit(1);
                    }
                    outcome
                })
            })
            .collect();
        if show::wants_progress(options) {
            scope.spawn(move || show::progress(options, shared, done));
        }
        let meters: Result<Vec<Meter<'_>>, Failure> = threads.into_iter().map(joined).collect();
        done.store(true, Ordering::Relaxed);
        meters
    })?;
    let outcome = Outcome::of(meters).ok_or_else(|| Failure::Setup("no result".to_owned()))?;
    show::measured(options, &outcome);
    Ok(())
}

/// How often the progress is brought up to date.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_millis(200);
