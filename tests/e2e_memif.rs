//! Two processes on luna with nothing between them but shared memory: every byte arrives, redis
//! serves, and either end may be killed at any time without harm to the other.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use common::luna::{self, Run, Stack};
use common::measure::KernelTcp;
use common::netns::Netns;
use common::proc::{PATIENCE, Proc, wait_until};
use common::redis::{self, PROGRAMS};
use common::require::turn;
use common::stream::{Io, Outcome, Server, client};

const PORT: u16 = 7000;

/// The two ends of a link, each on luna, in one namespace that has no other network.
struct Link {
    netns: Netns,
    server: String,
    client: String,
    address: IpAddr,
    _folder: tempfile::TempDir,
}

impl Link {
    fn new(v6: bool, mtu: u16) -> Self {
        let folder = tempfile::tempdir().expect("make a directory");
        let path = folder.path().join("link.sock");
        let (network, len) = if v6 { ("fd77::", 64) } else { ("10.77.0.", 24) };
        let end = |role: &str, host: u8| {
            let path = path.display();
            format!("memif:{path},role={role},ip={network}{host}/{len},mtu={mtu}")
        };
        Self {
            netns: Netns::new("memif"),
            server: end("server", 1),
            client: end("client", 2),
            address: format!("{network}1").parse().expect("an address"),
            _folder: folder,
        }
    }

    fn serving(&self, port: u16) -> Stack {
        Stack::Luna(Run::listen(&self.server, port))
    }

    fn calling(&self) -> Stack {
        let rule = match self.address {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Stack::Luna(Run::connect(&self.client, rule))
    }

    fn stream_server(&self, connections: u32, io: Io) -> Proc {
        Server {
            netns: &self.netns,
            stack: self.serving(PORT),
            io,
            // The link's own, of which the kernel knows nothing.
            address: self.address,
            port: PORT,
            connections,
        }
        .start()
    }
}

#[test]
fn every_byte_arrives_both_ways() {
    let Some(_turn) = turn(&[]) else { return };
    for (v6, mtu, io) in [
        (false, 1500, Io::Epoll),
        (true, 9000, Io::Blocking),
        (false, 65_000, Io::Edge),
    ] {
        let link = Link::new(v6, mtu);
        let before = KernelTcp::of(&link.netns);
        let mut server = link.stream_server(1, io);
        let bytes = (64_u64 << 20).to_string();
        let mut command = client(&link.netns, &link.calling(), "bulk", (link.address, PORT));
        command.args(["--up", &bytes, "--down", &bytes, "--seed", "7"]);
        command.args(["--io", io.word()]);
        let mut sending = Proc::start(command);
        let ended = sending.wait(PATIENCE + Duration::from_secs(120));
        assert!(
            ended.success(),
            "client: {}\nserver: {}",
            sending.report(),
            server.report()
        );
        assert!(server.wait(PATIENCE).success(), "{}", server.report());
        let (at_client, at_server) = (
            Outcome::one(&sending.stdout()),
            Outcome::one(&server.stdout()),
        );
        for (one, other) in [(&at_client, &at_server), (&at_server, &at_client)] {
            assert_eq!(one.text("received"), bytes);
            assert_eq!(one.text("sent_sha256"), other.text("received_sha256"));
        }
        let segments = KernelTcp::of(&link.netns).segments_since(&before);
        assert!(segments < 20, "the kernel's TCP saw {segments} segments");
        let mbit = at_client.number("mbit");
        println!(
            "MTU {mtu}, v6 {v6}, {}: {mbit:.0} Mbit/s each way",
            io.word()
        );
    }
}

#[test]
fn redis_serves_over_shared_memory() {
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let link = Link::new(false, 1500);
    let mut server = redis::start(&link.netns, &link.serving(redis::PORT), redis::PORT);
    let arguments = ["-t", "set,get", "-n", "50000", "-c", "50", "-d", "100"];
    let target = (link.address, redis::PORT);
    let before = KernelTcp::of(&link.netns);
    let rates = redis::benchmark(&link.netns, &link.calling(), target, &arguments);
    println!("set, get: {rates:?} requests/s");
    let segments = KernelTcp::of(&link.netns).segments_since(&before);
    assert!(segments < 20, "the kernel's TCP saw {segments} segments");
    assert!(server.terminate().success(), "{}", server.report());
}

#[test]
fn an_inline_loop_listens_at_the_links_own_address() {
    let Some(_turn) = turn(&[]) else { return };
    let link = Link::new(false, 1500);
    let address = format!("{}:{PORT}", link.address);
    let knb = |side: &str, device: &str| {
        let mut command = link.netns.command(env!("CARGO_BIN_EXE_luna"));
        command.args(["knb", side, "--json", "--stack", "inline", "--dev", device]);
        command
    };
    let mut command = knb("server", &link.server);
    command.args(["--address", &address]);
    let mut server = Proc::start(command);
    wait_until("the server to be ready", || {
        assert!(server.ended().is_none(), "{}", server.report());
        server.stdout().contains("ready")
    });
    let mut command = knb("client", &link.client);
    command.args(["--seconds", "0.3", "--warmup", "0.1", "--connections", "3"]);
    command.arg(&address);
    let told = Proc::start(command).succeed(PATIENCE);
    assert!(
        told.contains("\"requests\":") && !told.contains("\"requests\":0,"),
        "{told}"
    );
    server.kill();
}

/// Starts a client that exchanges messages for as long as it is let, and waits until it does.
fn busy_client(link: &Link) -> Proc {
    let mut command = client(&link.netns, &link.calling(), "rpc", (link.address, PORT));
    command.args([
        "--seconds",
        "600",
        "--request",
        "4096",
        "--response",
        "4096",
    ]);
    Proc::start(command)
}

#[test]
fn either_end_may_be_killed_again_and_again() {
    let Some(_turn) = turn(&[]) else { return };
    let link = Link::new(false, 1500);
    let mut server = link.stream_server(0, Io::Epoll);
    let one_exchange = || -> Command {
        let mut command = client(&link.netns, &link.calling(), "rpc", (link.address, PORT));
        command.args(["--count", "100", "--request", "4096", "--response", "4096"]);
        command
    };
    for round in 0..12 {
        let mut busy = busy_client(&link);
        // Not before it is in the middle of things: its socket is there and established.
        let pid = busy.pid().to_string();
        wait_until("the client to be connected", || {
            assert!(busy.ended().is_none(), "{}", busy.report());
            let shown = luna::luna_in(&link.netns, &["ss", "-a"]);
            shown
                .lines()
                .any(|line| line.contains("ESTAB") && line.contains(&pid))
        });
        if round % 3 == 2 {
            server.kill();
            busy.kill();
            server = link.stream_server(0, Io::Epoll);
        } else {
            busy.kill();
        }
        assert!(server.ended().is_none(), "{}", server.report());
        Proc::start(one_exchange()).succeed(PATIENCE);
    }
}
