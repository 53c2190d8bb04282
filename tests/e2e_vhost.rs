//! Two processes on luna joined by vhost-user: DPDK's `net_vhost` at the server, its
//! `net_virtio_user` at the client, as a service in a virtual machine and one beside it would be.
//! Every byte arrives, with segmentation offload and without; either end may be killed.

#![cfg(all(feature = "cli", feature = "dpdk"))]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use common::luna::{self, Run, Stack};
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
    /// `tso`: the client's end may send segments of up to 64 KiB.
    fn new(v6: bool, mtu: u16, tso: bool) -> Self {
        let folder = tempfile::tempdir().expect("make a directory");
        let (network, len) = if v6 { ("fd79::", 64) } else { ("10.79.0.", 24) };
        let path = folder.path().join("link.sock");
        let path = path.display();
        let end = |args: String, host: u8| format!("eal:{args},ip={network}{host}/{len},mtu={mtu}");
        let tso = u8::from(tso);
        Self {
            netns: Netns::new("vhost"),
            server: end(format!("net_vhost0,iface={path},tso={tso}"), 1),
            client: end(format!("net_virtio_user0,path={path}"), 2),
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
    for (v6, mtu, tso, io) in [
        (false, 1500, false, Io::Epoll),
        (true, 1500, true, Io::Blocking),
        (false, 9000, true, Io::Edge),
    ] {
        let link = Link::new(v6, mtu, tso);
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
        let mbit = at_client.number("mbit");
        println!("MTU {mtu}, v6 {v6}, TSO {tso}: {mbit:.0} Mbit/s each way");
    }
}

#[test]
fn redis_serves_over_vhost() {
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let link = Link::new(false, 1500, true);
    let mut server = redis::start(&link.netns, &link.serving(redis::PORT), redis::PORT);
    let arguments = ["-t", "set,get", "-n", "20000", "-c", "50", "-d", "100"];
    let target = (link.address, redis::PORT);
    let rates = redis::benchmark(&link.netns, &link.calling(), target, &arguments);
    println!("set, get: {rates:?} requests/s");
    assert!(server.terminate().success(), "{}", server.report());
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
    let link = Link::new(false, 1500, true);
    let mut server = link.stream_server(0, Io::Epoll);
    let one_exchange = || -> Command {
        let mut command = client(&link.netns, &link.calling(), "rpc", (link.address, PORT));
        command.args(["--count", "100", "--request", "4096", "--response", "4096"]);
        command
    };
    for round in 0..6 {
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
