//! Debian's redis, unchanged, on luna: answers kernel and luna clients, and the kernel's TCP has
//! nothing to do with it. Over loopback the same redis answers as ever.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::net::Ipv4Addr;

use common::luna::{self, Ends, Stack};
use common::measure::KernelTcp;
use common::netns::{Family, NetnsPair};
use common::proc::wait_until;
use common::redis::{self, Client, PORT, PROGRAMS};
use common::require::turn;

/// Pings over every way in; then the benchmark from the client's end.
fn serves(ends: Ends) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let pair = NetnsPair::new(1500);
    let (server, client) = ends.stacks(&pair.a_end, &pair.b_end, PORT);
    let mut running = redis::start(&pair.a, &server, PORT);

    for family in [Family::V4, Family::V6] {
        let address = pair.a_end.address(family);
        let mut connection =
            Client::connect(&pair.b, address, PORT).expect("connect over the link");
        connection.ping().expect("an answer over the link");
    }
    let mut local =
        Client::connect(&pair.a, Ipv4Addr::LOCALHOST.into(), PORT).expect("connect over loopback");
    local.ping().expect("an answer over loopback");
    let mut own = Client::connect(&pair.a, pair.a_end.v4.into(), PORT)
        .expect("connect to the host's own address");
    own.ping().expect("an answer at the host's own address");
    drop((local, own));

    let (a_before, b_before) = (KernelTcp::of(&pair.a), KernelTcp::of(&pair.b));
    let arguments = ["-t", "set,get", "-n", "20000", "-c", "20", "-d", "100"];
    let target = (pair.a_end.v4.into(), PORT);
    let rates = redis::benchmark(&pair.b, &client, target, &arguments);
    println!(
        "{} client -> {} server: {rates:?} requests/s",
        client.name(),
        server.name()
    );
    let at_server = KernelTcp::of(&pair.a).segments_since(&a_before);
    let at_client = KernelTcp::of(&pair.b).segments_since(&b_before);
    for (stack, segments) in [(&server, at_server), (&client, at_client)] {
        match stack {
            Stack::Kernel => assert!(segments > 20_000, "only {segments} segments"),
            Stack::Luna(_) => assert!(segments < 50, "the kernel's TCP saw {segments} segments"),
        }
    }
    assert!(running.ended().is_none(), "{}", running.report());
    assert!(running.terminate().success(), "{}", running.report());
}

#[test]
fn kernel_client_kernel_server() {
    serves(Ends::NEITHER);
}

#[test]
fn kernel_client_luna_server() {
    serves(Ends::SERVER);
}

#[test]
fn luna_client_kernel_server() {
    serves(Ends::CLIENT);
}

#[test]
fn luna_client_luna_server() {
    serves(Ends::BOTH);
}

/// `luna ss` names the listener and the connections of an accelerated redis.
#[test]
fn ss_lists_the_connections() {
    if !Ends::SERVER.runnable() {
        return;
    }
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let pair = NetnsPair::new(1500);
    let (server, _) = Ends::SERVER.stacks(&pair.a_end, &pair.b_end, PORT);
    let _redis = redis::start(&pair.a, &server, PORT);
    let mut connection =
        Client::connect(&pair.b, pair.a_end.v4.into(), PORT).expect("connect to redis");
    connection.ping().expect("redis answers");
    let local = format!("{}:{PORT}", pair.a_end.v4);
    let peer = pair.b_end.v4.to_string();
    // What `luna ss` shows may be half a second old.
    wait_until("luna ss to list the connection", || {
        let listing = luna::luna_in(&pair.a, &["ss"]);
        listing.contains(&local) && listing.contains(&peer)
    });
}
