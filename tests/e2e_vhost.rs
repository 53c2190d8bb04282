//! Two processes on luna joined by vhost-user: DPDK's `net_vhost` at the server, its
//! `net_virtio_user` at the client, as a service in a virtual machine and one beside it would be.
//! Every byte arrives, with segmentation offload and without; either end may be killed.

#![cfg(all(feature = "cli", feature = "dpdk"))]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use common::link::Link;
use common::netns::Netns;
use common::redis::{self, PROGRAMS};
use common::require::turn;
use common::stream::Io;

/// `tso`: the client's end may send segments of up to 64 KiB.
fn link(v6: bool, mtu: u16, tso: bool) -> Link {
    let folder = tempfile::tempdir().expect("make a directory");
    let (network, len) = if v6 { ("fd79::", 64) } else { ("10.79.0.", 24) };
    let path = folder.path().join("link.sock");
    let path = path.display();
    let end = |args: String, host: u8| format!("eal:{args},ip={network}{host}/{len},mtu={mtu}");
    let tso = u8::from(tso);
    Link {
        netns: Netns::new("vhost"),
        server: end(format!("net_vhost0,iface={path},tso={tso}"), 1),
        client: end(format!("net_virtio_user0,path={path}"), 2),
        address: format!("{network}1").parse().expect("an address"),
        folder,
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
        let mbit = link(v6, mtu, tso).exchange_every_byte(io);
        println!("MTU {mtu}, v6 {v6}, TSO {tso}: {mbit:.0} Mbit/s each way");
    }
}

#[test]
fn redis_serves_over_vhost() {
    let Some(_turn) = turn(&PROGRAMS) else { return };
    let link = link(false, 1500, true);
    let mut server = redis::start(&link.netns, &link.serving(redis::PORT), redis::PORT);
    let arguments = ["-t", "set,get", "-n", "20000", "-c", "50", "-d", "100"];
    let target = (link.address, redis::PORT);
    let rates = redis::benchmark(&link.netns, &link.calling(), target, &arguments);
    println!("set, get: {rates:?} requests/s");
    assert!(server.terminate().success(), "{}", server.report());
}

#[test]
fn either_end_may_be_killed_again_and_again() {
    let Some(_turn) = turn(&[]) else { return };
    link(false, 1500, true).kill_either_end(6);
}
