//! `kill -9` of a server: its clients fail in order, nothing is left behind, and the next start
//! serves at once.

#![cfg(feature = "cli")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test measures by the wall clock, and its helpers fail it"
)]

mod common;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use common::luna::{Ends, Stack};
use common::netns::{Netns, NetnsPair};
use common::proc::{PATIENCE, Proc, wait_until};
use common::redis::{self, Client, PORT, PROGRAMS};
use common::require::turn;
use common::stream::{Outcome, client};

/// What the kernel holds for an accelerated interface.
#[derive(Debug)]
struct Traces {
    program: Option<u64>,
    maps: Vec<u64>,
}

impl Traces {
    fn of(netns: &Netns, interface: &str) -> Self {
        let links = netns.ip(&["-j", "-d", "link", "show", "dev", interface]);
        let links: serde_json::Value = serde_json::from_str(&links).expect("ip prints JSON");
        let program = links[0]["xdp"]["prog"]["id"].as_u64();
        let maps = program.map(maps_of).unwrap_or_default();
        Self { program, maps }
    }

    fn all_gone(&self) -> bool {
        let known = |kind: &str, id: u64| {
            std::process::Command::new("bpftool")
                .args([kind, "show", "id", &id.to_string()])
                .output()
                .expect("run bpftool")
                .status
                .success()
        };
        self.program.is_none_or(|id| !known("prog", id))
            && !self.maps.iter().any(|&id| known("map", id))
    }
}

fn maps_of(program: u64) -> Vec<u64> {
    let mut command = std::process::Command::new("bpftool");
    let shown = common::netns::checked(
        command
            .args(["-j", "prog", "show", "id"])
            .arg(program.to_string()),
    );
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("bpftool prints JSON");
    let maps = shown["map_ids"].as_array().cloned().unwrap_or_default();
    maps.iter().filter_map(serde_json::Value::as_u64).collect()
}

/// Leases of client ports are abstract Unix sockets of the namespace.
fn leases(netns: &Netns) -> Vec<String> {
    let listing = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/unix"));
    let listing = listing.expect("read the Unix sockets of a namespace");
    let lines = listing.lines().filter(|line| line.contains("@luna/"));
    lines.map(str::to_owned).collect()
}

fn survives_kill(ends: Ends) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&["redis-server", "bpftool"]) else {
        return;
    };
    let pair = NetnsPair::new(1500);
    let (server, client_stack) = ends.stacks(&pair.a_end, &pair.b_end, PORT);
    let mut running = redis::start(&pair.a, &server, PORT);
    let address = pair.a_end.v4.into();
    let mut clients: Vec<Client> = (0..5)
        .map(|_| Client::connect(&pair.b, address, PORT).expect("connect to redis"))
        .collect();
    for connection in &mut clients {
        connection.ping().expect("redis answers");
    }
    let benchmark = start_benchmark(&pair, &client_stack);
    let traces = Traces::of(&pair.a, &pair.a_end.interface);
    let accelerated = matches!(server, Stack::Luna(_));
    assert_eq!(traces.program.is_some(), accelerated, "{traces:?}");

    running.kill();
    for connection in &mut clients {
        let started = Instant::now();
        let error = connection.ping().expect_err("nobody serves any more");
        let orderly = [
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
            ErrorKind::UnexpectedEof,
        ];
        assert!(orderly.contains(&error.kind()), "{error}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "after {:?}",
            started.elapsed()
        );
    }
    fails_in_order(benchmark);
    nothing_left(&pair, &traces);

    let started = Instant::now();
    let _again = redis::start(&pair.a, &server, PORT);
    let mut connection = Client::connect(&pair.b, address, PORT).expect("connect after a restart");
    connection.ping().expect("an answer after a restart");
    println!(
        "{} redis serves again after {:?}",
        server.name(),
        started.elapsed()
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "after {:?}",
        started.elapsed()
    );
}

/// A benchmark that is in the middle of its work, many requests under way.
fn start_benchmark(pair: &NetnsPair, stack: &Stack) -> Proc {
    let mut command = stack.command(&pair.b, "redis-benchmark");
    command.args(["-h", &pair.a_end.v4.to_string(), "-p", &PORT.to_string()]);
    command.args(["-t", "get", "-n", "100000000", "-c", "10"]);
    let benchmark = Proc::start(command);
    wait_until("the benchmark to be under way", || {
        benchmark.stdout().contains("rps=")
    });
    benchmark
}

/// redis-benchmark ends with status 1 when a connection breaks.
fn fails_in_order(mut benchmark: Proc) {
    let status = benchmark.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", benchmark.report());
}

fn nothing_left(pair: &NetnsPair, traces: &Traces) {
    wait_until("program and maps to be freed", || traces.all_gone());
    let now = Traces::of(&pair.a, &pair.a_end.interface);
    assert!(now.program.is_none(), "{now:?}");
    let net = pair.a.run("bpftool", &["net", "list"]);
    assert!(!net.contains(&pair.a_end.interface), "{net}");
    assert_eq!(leases(&pair.a), Vec::<String>::new());
    assert_eq!(
        leases(&pair.b),
        Vec::<String>::new(),
        "the benchmark has ended as well"
    );
}

#[test]
fn kernel_server_killed() {
    survives_kill(Ends::NEITHER);
}

#[test]
fn luna_server_killed_under_kernel_clients() {
    survives_kill(Ends::SERVER);
}

#[test]
fn luna_server_killed_under_luna_clients() {
    survives_kill(Ends::BOTH);
}

/// A killed luna client leaves nothing behind either, and the server sees its connection end.
#[test]
fn luna_client_killed() {
    if !Ends::CLIENT.runnable() {
        return;
    }
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let pair = NetnsPair::new(1500);
    let (_, stack) = Ends::CLIENT.stacks(&pair.a_end, &pair.b_end, PORT);
    let _redis = redis::start(&pair.a, &Stack::Kernel, PORT);
    let mut benchmark = start_benchmark(&pair, &stack);
    let traces = Traces::of(&pair.b, &pair.b_end.interface);
    assert!(
        traces.program.is_some() && !leases(&pair.b).is_empty(),
        "{traces:?}"
    );
    benchmark.kill();
    wait_until("program and maps to be freed", || traces.all_gone());
    assert_eq!(leases(&pair.b), Vec::<String>::new());
    // What redis was about to answer now meets the client's kernel, which resets.
    wait_until("the killed client's connections to end", || {
        let sockets = pair.a.run("ss", &["-Htn", "state", "established"]);
        sockets.lines().count() == 0
    });
}

/// The kernel's answer to a port where nobody listens is the same before and after.
#[test]
fn a_refused_connection_is_refused() {
    let Some(_turn) = turn(&[]) else { return };
    let pair = NetnsPair::new(1500);
    for ends in [Ends::NEITHER, Ends::CLIENT]
        .into_iter()
        .filter(|ends| ends.runnable())
    {
        let (_, stack) = ends.stacks(&pair.a_end, &pair.b_end, PORT);
        let mut refused = Proc::start(client(&pair.b, &stack, "rpc", (pair.a_end.v4.into(), PORT)));
        assert_eq!(
            refused.wait(PATIENCE).code(),
            Some(3),
            "{}",
            refused.report()
        );
        assert_eq!(
            Outcome::one(&refused.stdout()).text("errno"),
            "ECONNREFUSED"
        );
    }
}
