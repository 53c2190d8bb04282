//! Two processes on luna with nothing between them but shared memory: every byte arrives, redis
//! serves, and either end may be killed at any time without harm to the other.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use common::link::{Link, PORT};
use common::measure::KernelTcp;
use common::netns::Netns;
use common::proc::{PATIENCE, Proc, wait_until};
use common::redis::{self, PROGRAMS};
use common::require::turn;
use common::stream::Io;

fn link(v6: bool, mtu: u16) -> Link {
    let folder = tempfile::tempdir().expect("make a directory");
    let path = folder.path().join("link.sock");
    let (network, len) = if v6 { ("fd77::", 64) } else { ("10.77.0.", 24) };
    let end = |role: &str, host: u8| {
        let path = path.display();
        format!("memif:{path},role={role},ip={network}{host}/{len},mtu={mtu}")
    };
    Link {
        netns: Netns::new("memif"),
        server: end("server", 1),
        client: end("client", 2),
        address: format!("{network}1").parse().expect("an address"),
        folder,
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
        let link = link(v6, mtu);
        let before = KernelTcp::of(&link.netns);
        let mbit = link.exchange_every_byte(io);
        let segments = KernelTcp::of(&link.netns).segments_since(&before);
        assert!(segments < 20, "the kernel's TCP saw {segments} segments");
        println!(
            "MTU {mtu}, v6 {v6}, {}: {mbit:.0} Mbit/s each way",
            io.word()
        );
    }
}

#[test]
fn redis_serves_over_shared_memory() {
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let link = link(false, 1500);
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
    let link = link(false, 1500);
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

#[test]
fn either_end_may_be_killed_again_and_again() {
    let Some(_turn) = turn(&[]) else { return };
    link(false, 1500).kill_either_end(12);
}
