//! Every byte of a transfer arrives, both ways at once, as the sender's SHA-256 says.
//!
//! The matrix: luna on both ends, on the server's, on the client's, on neither (the harness's own
//! control); no loss and 1 % random loss; IPv4 and IPv6; MTU 1500 and 9000. `E2E_MIB` sets the
//! size of each direction: 64 MiB by default, 1024 in `make soak`.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use common::luna::Ends;
use common::measure::KernelTcp;
use common::netns::{End, Family, Netns, NetnsPair, NetnsRoute};
use common::proc::Proc;
use common::require::turn;
use common::stream::{Io, Outcome, Server, client};

const PORT: u16 = 7000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Clean,
    /// A router in the middle drops 1 % of the TCP packets.
    Lossy,
}

fn mebibytes() -> u64 {
    std::env::var("E2E_MIB").map_or(64, |text| text.parse().expect("E2E_MIB is a number"))
}

/// One end's namespace and its address there.
type Site<'a> = (&'a Netns, &'a End);

/// Transfers both ways at once over every family and MTU.
fn transfers(ends: Ends, link: Link) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&[]) else { return };
    for mtu in [1500, 9000] {
        match link {
            Link::Clean => {
                let pair = NetnsPair::new(mtu);
                families(ends, (&pair.a, &pair.a_end), (&pair.b, &pair.b_end), mtu);
            }
            Link::Lossy => {
                let route = NetnsRoute::new(mtu);
                route.middle.drop_forwarded(1);
                families(
                    ends,
                    (&route.a, &route.a_end),
                    (&route.b, &route.b_end),
                    mtu,
                );
                let dropped = route.middle.dropped();
                assert!(dropped > 100, "the router dropped only {dropped} packets");
            }
        }
    }
}

fn families(ends: Ends, server: Site<'_>, client: Site<'_>, mtu: u32) {
    for (family, io) in [(Family::V4, Io::Epoll), (Family::V6, Io::Blocking)] {
        let mbit = transfer(ends, server, client, family, io);
        println!(
            "{ends:?} MTU {mtu} {family:?} {}: {mbit:.0} Mbit/s",
            io.word()
        );
    }
}

fn transfer(ends: Ends, server: Site<'_>, peer: Site<'_>, family: Family, io: Io) -> f64 {
    let (server_netns, server_end) = server;
    let (client_netns, client_end) = peer;
    let address = server_end.address(family);
    let (server_stack, client_stack) = ends.stacks(server_end, client_end, PORT);
    let before = [KernelTcp::of(server_netns), KernelTcp::of(client_netns)];
    let mut running = Server {
        netns: server_netns,
        stack: server_stack,
        io,
        address,
        port: PORT,
        connections: 1,
    }
    .start();

    let bytes = (mebibytes() << 20).to_string();
    let mut command = client(client_netns, &client_stack, "bulk", (address, PORT));
    // Seeds differ, or a transfer that mixed up its runs would go unnoticed.
    let seed = u64::from(family == Family::V6) * 1000 + mebibytes();
    command.args([
        "--up",
        &bytes,
        "--down",
        &bytes,
        "--seed",
        &seed.to_string(),
    ]);
    command.args(["--io", io.word()]);
    let mut sending = Proc::start(command);
    let at_client = Outcome::of_both(&mut sending, &mut running, &bytes);
    assert_ne!(
        at_client.text("sent_sha256"),
        at_client.text("received_sha256")
    );
    for (accelerated, netns, before) in [
        (ends.server, server_netns, before[0]),
        (ends.client, client_netns, before[1]),
    ] {
        let segments = KernelTcp::of(netns).segments_since(&before);
        // What arrives after the process has gone meets the kernel: a few segments.
        assert!(
            !accelerated || segments < 20,
            "the kernel's TCP saw {segments} segments"
        );
    }
    at_client.number("mbit")
}

#[test]
fn kernel_to_kernel_clean() {
    transfers(Ends::NEITHER, Link::Clean);
}

#[test]
fn kernel_to_kernel_lossy() {
    transfers(Ends::NEITHER, Link::Lossy);
}

#[test]
fn luna_to_luna_clean() {
    transfers(Ends::BOTH, Link::Clean);
}

#[test]
fn luna_to_luna_lossy() {
    transfers(Ends::BOTH, Link::Lossy);
}

#[test]
fn kernel_client_to_luna_server_clean() {
    transfers(Ends::SERVER, Link::Clean);
}

#[test]
fn kernel_client_to_luna_server_lossy() {
    transfers(Ends::SERVER, Link::Lossy);
}

#[test]
fn luna_client_to_kernel_server_clean() {
    transfers(Ends::CLIENT, Link::Clean);
}

#[test]
fn luna_client_to_kernel_server_lossy() {
    transfers(Ends::CLIENT, Link::Lossy);
}
