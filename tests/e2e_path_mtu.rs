//! A router in the middle whose next link is narrower: one that says so, and one that keeps silent.
//! An unchanged kernel receives every byte all the same.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is the test failing"
)]

mod common;

use common::luna::Ends;
use common::measure::KernelTcp;
use common::netns::{Family, NetnsRoute};
use common::proc::PATIENCE;
use common::require::turn;
use common::stream::{Io, Outcome, Server, client, run_client};

const PORT: u16 = 7000;
const NARROW: u32 = 1300;
const BYTES: &str = "8388608";
const ENDS: Ends = Ends {
    server: true,
    client: false,
};

/// A luna server sends to a kernel client behind the narrow link.
fn send_through(route: &NetnsRoute, family: Family) {
    let address = route.a_end.address(family);
    let (server_stack, client_stack) = ENDS.stacks(&route.a_end, &route.b_end, PORT);
    let before = KernelTcp::of(&route.a);
    let mut running = Server {
        netns: &route.a,
        stack: server_stack,
        io: Io::Epoll,
        address,
        port: PORT,
        connections: 1,
    }
    .start();
    let mut command = client(&route.b, &client_stack, "bulk", (address, PORT));
    command.args(["--up", "1000", "--down", BYTES, "--io", "blocking"]);
    let at_client = run_client(command);
    assert!(running.wait(PATIENCE).success(), "{}", running.report());
    let at_server = Outcome::one(&running.stdout());
    assert_eq!(at_client.text("received"), BYTES);
    assert_eq!(
        at_client.text("received_sha256"),
        at_server.text("sent_sha256")
    );
    let segments = KernelTcp::of(&route.a).segments_since(&before);
    assert!(segments < 20, "the kernel's TCP saw {segments} segments");
}

/// How many messages about packets that are too big the router has sent.
fn complaints(route: &NetnsRoute) -> u64 {
    let read = |file: &str, name: &str| -> u64 {
        let text = route.middle.run("cat", &[file]);
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut words = line.split_whitespace();
            // IPv6: a name and a number a line. IPv4: names, then numbers.
            if words.next() == Some(name) {
                return words.next().expect("a number").parse().expect("a number");
            }
            if let Some(at) = line.split_whitespace().position(|word| word == name) {
                let numbers = lines.next().expect("the numbers");
                let number = numbers.split_whitespace().nth(at).expect("its number");
                return number.parse().expect("a number");
            }
        }
        panic!("no {name} in {file}")
    };
    read("/proc/net/snmp", "OutDestUnreachs") + read("/proc/net/snmp6", "Icmp6OutPktTooBigs")
}

fn narrow_route() -> NetnsRoute {
    let route = NetnsRoute::new(1500);
    let device = &route.b_router.interface;
    let mtu = NARROW.to_string();
    route
        .middle
        .ip(&["link", "set", "dev", device, "mtu", &mtu]);
    route
}

#[test]
fn a_router_that_says_what_it_takes_is_heeded() {
    if !ENDS.runnable() {
        return;
    }
    let Some(_turn) = turn(&[]) else { return };
    let route = narrow_route();
    for family in [Family::V4, Family::V6] {
        let before = complaints(&route);
        send_through(&route, family);
        let more = complaints(&route) - before;
        assert!((1..200).contains(&more), "{family:?}: {more} complaints");
    }
}

#[test]
fn a_router_that_keeps_silent_is_found_out() {
    if !ENDS.runnable() {
        return;
    }
    let Some(_turn) = turn(&["nft"]) else { return };
    let route = narrow_route();
    let rules = "add table inet silence; \
         add chain inet silence output { type filter hook output priority 0; }; \
         add rule inet silence output icmp type destination-unreachable drop; \
         add rule inet silence output icmpv6 type packet-too-big drop";
    route.middle.run("nft", &[rules]);
    for family in [Family::V4, Family::V6] {
        send_through(&route, family);
    }
}
