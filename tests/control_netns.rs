//! The control plane's mirror against a real kernel, in network namespaces of its own.
//!
//! Needs root and iproute2; without them each test prints why and passes, unless `CI` is set.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod common;
mod netns;

use std::net::{IpAddr, SocketAddr};

use luna::control::{
    Change, ControlHandle, IcmpListener, Mirror, Neighbour, NeighbourState, RouteError, Tables,
    TooBig,
};
use luna::time::{Clock, Duration, Instant, SystemClock};
use luna::wire::{Mac, SeqNum};
use netns::Pair;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Polls until `done` holds of the tables, or fails after five seconds.
#[track_caller]
fn until(mirror: &mut Mirror, what: &str, mut done: impl FnMut(&Tables) -> bool) {
    let deadline = SystemClock.now() + Duration::from_secs(5);
    loop {
        mirror.poll().unwrap();
        if mirror.is_settled() && done(&mirror.tables()) {
            return;
        }
        assert!(SystemClock.now() < deadline, "not within 5 s: {what}");
        wait(mirror);
    }
}

fn wait(mirror: &Mirror) {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    let fd = mirror.fd();
    poll(
        &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
        Some(&timeout),
    )
    .unwrap();
}

/// How many of 100 destinations go to the gateways that end in 11 and in 12.
fn spread(tables: &Tables, prefix: &str) -> (u32, u32) {
    let (mut first, mut second) = (0, 0);
    for i in 1..=100 {
        match tables
            .route(addr(&format!("{prefix}{i}")))
            .ok()
            .and_then(|r| r.gateway)
        {
            Some(gateway) if gateway.to_string().ends_with("11") => first += 1,
            Some(_) => second += 1,
            None => {}
        }
    }
    (first, second)
}

#[test]
fn the_first_dump_finds_links_addresses_and_routes() {
    let Some(pair) = Pair::new() else { return };
    pair.ip(&[
        "route",
        "add",
        "10.50.0.0/16",
        "via",
        "10.9.0.2",
        "mtu",
        "1400",
        "advmss",
        "1300",
    ]);
    let mirror = pair.enter(Mirror::open).unwrap();
    let tables = mirror.tables();
    let link = tables.link_by_name("v0").unwrap();
    assert!(link.up && link.carrier && !link.loopback);
    assert_eq!((link.mtu, link.kind.as_str()), (1500, "veth"));
    assert!(tables.link_by_name("lo").unwrap().loopback);
    assert!(tables.is_local(addr("10.9.0.1")));
    assert!(
        tables.is_local(addr("127.0.0.5")),
        "all of 127/8 is in the local table"
    );
    assert!(!tables.is_local(addr("10.9.0.2")));

    let route = tables.route(addr("10.50.1.2")).unwrap();
    assert_eq!(route.ifindex, link.index);
    assert_eq!(route.gateway, Some(addr("10.9.0.2")));
    assert_eq!(route.preferred_src, Some(addr("10.9.0.1")));
    assert_eq!((route.mtu, route.advmss), (Some(1400), Some(1300)));
    let direct = tables.route(addr("10.9.0.2")).unwrap();
    assert_eq!((direct.gateway, direct.mtu), (None, None));
    assert_eq!(
        tables.route(addr("fd09::2")).unwrap().preferred_src,
        Some(addr("fd09::1"))
    );
    assert!(tables.route(addr("10.9.0.1")).unwrap().local);
    assert_eq!(
        tables.route(addr("10.9.0.255")),
        Err(RouteError::NotUnicast)
    );
    assert_eq!(tables.route(addr("203.0.113.1")), Err(RouteError::NoRoute));
    assert!(!tables.has_policy_rules() && !tables.is_truncated());
    assert_eq!(mirror.stats().malformed, 0);
    assert_eq!(mirror.stats().refused, 0);
}

#[test]
fn addresses_come_and_go_with_their_routes() {
    let Some(pair) = Pair::new() else { return };
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let generation = mirror.handle().generation();
    pair.ip(&["addr", "add", "10.77.0.1/24", "dev", "v0"]);
    pair.ip(&[
        "route",
        "add",
        "10.88.0.0/16",
        "via",
        "10.9.0.2",
        "src",
        "10.77.0.1",
    ]);
    until(&mut mirror, "address added", |t| {
        t.is_local(addr("10.77.0.1"))
    });
    until(&mut mirror, "its routes", |t| {
        t.route(addr("10.77.0.9")).is_ok()
            && t.route(addr("10.88.0.1"))
                .is_ok_and(|r| r.preferred_src == Some(addr("10.77.0.1")))
    });
    assert_ne!(mirror.handle().generation(), generation);
    pair.ip(&["addr", "del", "10.77.0.1/24", "dev", "v0"]);
    // The kernel takes the route that preferred it away without a notification.
    until(&mut mirror, "address and routes gone", |t| {
        !t.is_local(addr("10.77.0.1"))
            && t.route(addr("10.77.0.9")).is_err()
            && t.route(addr("10.88.0.1")).is_err()
    });
}

#[test]
fn routes_follow_the_kernel() {
    let Some(pair) = Pair::new() else { return };
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let via = |t: &Tables, dst: &str| t.route(addr(dst)).ok().and_then(|r| r.gateway);
    pair.ip(&["route", "add", "default", "via", "10.9.0.2"]);
    pair.ip(&["route", "add", "blackhole", "10.60.0.0/16"]);
    pair.ip(&["route", "add", "unreachable", "10.61.0.0/16"]);
    pair.ip(&["route", "add", "prohibit", "10.62.0.0/16"]);
    pair.ip(&["route", "add", "10.60.1.0/24", "via", "10.9.0.3"]);
    pair.ip(&[
        "route",
        "add",
        "10.63.0.0/16",
        "via",
        "10.9.0.4",
        "metric",
        "20",
    ]);
    pair.ip(&[
        "route",
        "add",
        "10.63.0.0/16",
        "via",
        "10.9.0.5",
        "metric",
        "10",
    ]);
    until(&mut mirror, "routes", |t| {
        t.route(addr("10.60.0.1")) == Err(RouteError::Blackhole)
            && t.route(addr("10.61.0.1")) == Err(RouteError::Unreachable)
            && t.route(addr("10.62.0.1")) == Err(RouteError::Prohibited)
            && via(t, "10.60.1.1") == Some(addr("10.9.0.3"))
            && via(t, "10.63.0.1") == Some(addr("10.9.0.5"))
            && via(t, "8.8.8.8") == Some(addr("10.9.0.2"))
    });
    assert!(
        pair.ip(&["route", "get", "10.63.0.1"])
            .contains("via 10.9.0.5")
    );
    pair.ip(&["route", "del", "10.63.0.0/16", "metric", "10"]);
    pair.ip(&["route", "replace", "10.60.1.0/24", "via", "10.9.0.6"]);
    until(&mut mirror, "the other metric, the replaced route", |t| {
        via(t, "10.63.0.1") == Some(addr("10.9.0.4"))
            && via(t, "10.60.1.1") == Some(addr("10.9.0.6"))
    });
    pair.ip(&["route", "append", "10.60.1.0/24", "via", "10.9.0.7"]);
    until(&mut mirror, "the first one still", |t| {
        via(t, "10.60.1.1") == Some(addr("10.9.0.6"))
    });
    pair.ip(&["route", "del", "10.60.1.0/24", "via", "10.9.0.6"]);
    until(&mut mirror, "the other one", |t| {
        via(t, "10.60.1.1") == Some(addr("10.9.0.7"))
    });
    assert!(
        pair.ip(&["route", "get", "10.60.1.1"])
            .contains("via 10.9.0.7")
    );
    pair.ip(&["rule", "add", "from", "10.9.0.1", "lookup", "100"]);
    until(&mut mirror, "a policy rule", Tables::has_policy_rules);
    pair.ip(&["rule", "del", "from", "10.9.0.1", "lookup", "100"]);
    until(&mut mirror, "no policy rule", |t| !t.has_policy_rules());
}

#[test]
fn multipath_routes_of_both_families() {
    let Some(pair) = Pair::new() else { return };
    let mut mirror = pair.enter(Mirror::open).unwrap();
    pair.ip(&[
        "route",
        "add",
        "10.64.0.0/16",
        "nexthop",
        "via",
        "10.9.0.11",
        "weight",
        "3",
        "nexthop",
        "via",
        "10.9.0.12",
    ]);
    pair.ip(&[
        "-6",
        "route",
        "add",
        "fd64::/64",
        "nexthop",
        "via",
        "fd09::11",
        "nexthop",
        "via",
        "fd09::12",
    ]);
    until(&mut mirror, "both next hops", |t| {
        let (v4, v6) = (spread(t, "10.64.0."), spread(t, "fd64::"));
        v4.0 > 60 && v4.1 > 10 && v6.0 > 30 && v6.1 > 30
    });
    pair.ip(&["-6", "route", "del", "fd64::/64", "via", "fd09::11"]);
    until(&mut mirror, "one next hop left", |t| {
        spread(t, "fd64::") == (0, 100)
    });
    pair.ip(&["-6", "route", "append", "fd64::/64", "via", "fd09::11"]);
    until(&mut mirror, "two again", |t| spread(t, "fd64::").0 > 30);
}

#[test]
fn a_link_that_goes_down_takes_its_routes_along() {
    let Some(pair) = Pair::new() else { return };
    pair.ip(&["route", "add", "default", "via", "10.9.0.2"]);
    let mut mirror = pair.enter(Mirror::open).unwrap();
    pair.ip(&["link", "set", "v0", "down"]);
    until(&mut mirror, "down", |t| {
        !t.link_by_name("v0").unwrap().up
            && t.route(addr("8.8.8.8")) == Err(RouteError::NoRoute)
            && t.route(addr("10.9.0.2")) == Err(RouteError::NoRoute)
    });
    pair.ip(&["link", "set", "v0", "up"]);
    until(&mut mirror, "up again", |t| {
        t.link_by_name("v0").unwrap().up && t.route(addr("10.9.0.2")).is_ok()
    });
    pair.ip(&["link", "set", "v0", "mtu", "1280"]);
    until(&mut mirror, "MTU", |t| {
        t.link_by_name("v0").unwrap().mtu == 1280
    });
    pair.ip(&["link", "set", "v0", "address", "02:00:00:00:00:99"]);
    until(&mut mirror, "address of the link", |t| {
        t.link_by_name("v0").unwrap().mac == Some(Mac([2, 0, 0, 0, 0, 0x99]))
    });
    // Not every kernel has VLAN interfaces; decoding one has a unit test too.
    if pair.try_ip(&[
        "link", "add", "link", "v0", "name", "v0.7", "type", "vlan", "id", "7",
    ]) {
        until(&mut mirror, "VLAN", |t| {
            let parent = t.link_by_name("v0").unwrap().index;
            t.link_by_name("v0.7")
                .and_then(|l| l.vlan)
                .is_some_and(|v| v.parent == parent && v.id == 7)
        });
    }
    pair.ip(&["link", "del", "v0"]);
    until(&mut mirror, "gone", |t| {
        t.link_by_name("v0").is_none() && !t.is_local(addr("10.9.0.1"))
    });
}

/// Neighbours of both families are found when `ask` asks for them, and nobody is not.
fn neighbours_are_resolved(ask: impl Fn(&ControlHandle, u32, IpAddr) -> bool) {
    let Some(pair) = Pair::new() else { return };
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let handle = mirror.handle();
    let ifindex = mirror.tables().link_by_name("v0").unwrap().index;
    for peer in ["10.9.0.2", "fd09::2"] {
        let peer = addr(peer);
        assert_eq!(mirror.tables().neighbour(ifindex, peer), Neighbour::Unknown);
        assert!(ask(&handle, ifindex, peer));
        until(&mut mirror, "neighbour resolved", |t| {
            let found = t.neighbour(ifindex, peer);
            matches!(found, Neighbour::Known(mac, _) if mac == pair.peer_mac())
        });
    }
    let nobody = addr("10.9.0.77");
    assert!(ask(&handle, ifindex, nobody));
    until(&mut mirror, "failed", |t| {
        t.neighbour(ifindex, nobody) == Neighbour::Failed
    });
}

#[test]
fn a_missing_neighbour_is_resolved_on_request() {
    neighbours_are_resolved(|handle, ifindex, peer| {
        let now = SystemClock.now();
        assert!(handle.request_resolve(now, ifindex, peer));
        assert!(!handle.request_resolve(now, ifindex, peer), "paced");
        handle.note_resolved(ifindex, peer);
        // Lost again.
        handle.request_resolve(now, ifindex, peer)
    });
}

#[test]
fn confirming_makes_an_entry_reachable_and_spares_permanent_ones() {
    let Some(pair) = Pair::new() else { return };
    let peer = addr("10.9.0.2");
    let lladdr = [
        "neigh",
        "replace",
        "10.9.0.2",
        "lladdr",
        "02:00:00:00:00:02",
        "dev",
        "v0",
    ];
    pair.ip(&[&lladdr[..], &["nud", "stale"]].concat());
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let handle = mirror.handle();
    let ifindex = mirror.tables().link_by_name("v0").unwrap().index;
    let known = |state| Neighbour::Known(Mac([2, 0, 0, 0, 0, 2]), state);
    assert_eq!(
        mirror.tables().neighbour(ifindex, peer),
        known(NeighbourState::Stale)
    );

    let now = SystemClock.now();
    assert!(handle.request_confirm(now, ifindex, peer));
    assert!(!handle.request_confirm(now, ifindex, peer), "paced");
    assert!(
        pair.ip(&["neigh", "show", "10.9.0.2"])
            .contains("REACHABLE")
    );
    assert!(
        !handle.request_confirm(now, ifindex, addr("10.9.0.3")),
        "unknown"
    );
    assert_eq!(
        mirror.poll().unwrap(),
        Change::Unchanged,
        "usable before, usable after"
    );

    pair.ip(&[&lladdr[..], &["nud", "permanent"]].concat());
    until(&mut mirror, "permanent", |t| {
        t.neighbour(ifindex, peer) == known(NeighbourState::Permanent)
    });
    let later = now + Duration::from_secs(60);
    assert!(!handle.request_confirm(later, ifindex, peer));
    assert!(!handle.request_resolve(later, ifindex, peer));
    assert!(
        pair.ip(&["neigh", "show", "10.9.0.2"])
            .contains("PERMANENT")
    );
    pair.ip(&["neigh", "del", "10.9.0.2", "dev", "v0"]);
    until(&mut mirror, "deleted", |t| {
        t.neighbour(ifindex, peer) == Neighbour::Unknown
    });
}

#[test]
fn a_confirmed_entry_outlives_its_reachable_time() {
    let Some(pair) = Pair::new() else { return };
    pair.sysctl("net/ipv4/neigh/v0/base_reachable_time_ms", "200");
    let peer = addr("10.9.0.2");
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let handle = mirror.handle();
    let ifindex = mirror.tables().link_by_name("v0").unwrap().index;
    assert!(handle.request_resolve(SystemClock.now(), ifindex, peer));
    until(&mut mirror, "resolved", |t| {
        matches!(t.neighbour(ifindex, peer), Neighbour::Known(..))
    });
    let show = || pair.ip(&["neigh", "show", "10.9.0.2"]);
    // Left alone it ages…
    let deadline = SystemClock.now() + Duration::from_secs(10);
    while show().contains("REACHABLE") {
        assert!(SystemClock.now() < deadline, "never went stale");
        wait(&mirror);
    }
    // …and confirmed it is reachable, as often as it is asked. The pacing is by the given time.
    for i in 1..20 {
        let now = Instant::from_nanos(i * 10_000_000_000);
        mirror.poll().unwrap();
        assert!(handle.request_confirm(now, ifindex, peer));
        assert!(show().contains("REACHABLE"), "{}", show());
    }
}

/// Runs `f` as a daemon would that has become another user: without `CAP_NET_ADMIN`.
fn without_privileges<R>(f: impl FnOnce() -> R) -> R {
    let all = capabilities(None).unwrap();
    let mut fewer = all;
    fewer.effective.remove(CapabilitySet::NET_ADMIN);
    set_capabilities(None, fewer).unwrap();
    let result = f();
    set_capabilities(None, all).unwrap();
    result
}

#[test]
fn without_privileges_a_missing_neighbour_is_resolved_by_traffic() {
    neighbours_are_resolved(|handle, ifindex, peer| {
        without_privileges(|| handle.request_resolve(SystemClock.now(), ifindex, peer))
    });
}

#[test]
fn without_privileges_a_confirmed_entry_outlives_its_reachable_time() {
    let Some(pair) = Pair::new() else { return };
    let sent = || pair.ip(&["-s", "-j", "link", "show", "v0"]);
    for (family, peer) in [("ipv4", "10.9.0.2"), ("ipv6", "fd09::2")] {
        pair.sysctl(
            &format!("net/{family}/neigh/v0/base_reachable_time_ms"),
            "400",
        );
        let mut mirror = pair.enter(Mirror::open).unwrap();
        let handle = mirror.handle();
        let ifindex = mirror.tables().link_by_name("v0").unwrap().index;
        let ip = addr(peer);
        assert!(handle.request_resolve(SystemClock.now(), ifindex, ip));
        until(&mut mirror, "resolved", |t| {
            matches!(t.neighbour(ifindex, ip), Neighbour::Known(..))
        });
        // Three times as long as it would last at most (half as much again as the base).
        let end = SystemClock.now() + Duration::from_millis(1800);
        let mut told = Instant::ZERO;
        while SystemClock.now() < end {
            told += Duration::from_secs(10);
            assert!(without_privileges(
                || handle.request_confirm(told, ifindex, ip)
            ));
            let entry = pair.ip(&["neigh", "show", peer]);
            assert!(entry.contains("REACHABLE"), "{entry}");
            wait(&mirror);
            mirror.poll().unwrap();
        }
    }
    // And all that without a packet.
    let before = sent();
    let mirror = pair.enter(Mirror::open).unwrap();
    let ifindex = mirror.tables().link_by_name("v0").unwrap().index;
    let far = Instant::ZERO + Duration::from_secs(1_000_000);
    for peer in ["10.9.0.2", "fd09::2"] {
        let handle = mirror.handle();
        assert!(without_privileges(|| handle.request_confirm(
            far,
            ifindex,
            addr(peer)
        )));
    }
    assert_eq!(sent(), before);
}

/// The neighbour has got another address without a word. An entry that is taken for good is doubted
/// when its time is up, as for any program's traffic.
#[test]
fn without_privileges_a_neighbour_that_has_moved_is_found() {
    let Some(pair) = Pair::new() else { return };
    let peer = addr("10.9.0.2");
    for (name, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "200")] {
        pair.sysctl(&format!("net/ipv4/neigh/v0/{name}"), value);
    }
    let old = "neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale";
    pair.ip(&old.split(' ').collect::<Vec<_>>());
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let handle = mirror.handle();
    let ifindex = mirror.tables().link_by_name("v0").unwrap().index;
    let mut asked = 0;
    until(&mut mirror, "the neighbour's other address", |t| {
        let now = SystemClock.now();
        // As a shard does: doubts what it knows, and looks for what it does not.
        asked += u32::from(without_privileges(|| {
            handle.request_probe(now, ifindex, peer) || handle.request_resolve(now, ifindex, peer)
        }));
        matches!(t.neighbour(ifindex, peer), Neighbour::Known(mac, _) if mac == pair.peer_mac())
    });
    assert!(asked >= 1);
}

#[test]
fn a_flap_of_a_thousand_routes_ends_in_a_consistent_table() {
    let Some(pair) = Pair::new() else { return };
    let mut mirror = pair.enter(Mirror::open).unwrap();
    let before = mirror.tables().route_count();
    let batch = |verb: &str, step: usize| {
        (0..1000)
            .step_by(step)
            .map(|i| {
                format!(
                    "route {verb} 10.{}.{}.0/24 via 10.9.0.2\n",
                    100 + i / 250,
                    i % 250
                )
            })
            .collect::<String>()
    };
    for _ in 0..5 {
        pair.ip_batch(&batch("add", 1));
        mirror.poll().unwrap();
        pair.ip_batch(&batch("del", 1));
        mirror.poll().unwrap();
    }
    pair.ip_batch(&batch("add", 1));
    pair.ip_batch(&batch("del", 2));
    until(&mut mirror, "every second route", |t| {
        t.route_count() == before + 500
    });
    let tables = mirror.tables();
    for i in 0..1000 {
        let dst = addr(&format!("10.{}.{}.1", 100 + i / 250, i % 250));
        assert_eq!(tables.route(dst).is_ok(), i % 2 == 1, "{dst}");
    }
    let generation = mirror.handle().generation();
    mirror.dump();
    until(&mut mirror, "a dump", |_| true);
    assert_eq!(
        mirror.handle().generation(),
        generation,
        "and it found nothing new"
    );
    assert_eq!(mirror.stats().malformed, 0);
}

#[test]
fn an_overrun_is_healed_by_a_dump() {
    let Some(pair) = Pair::new() else { return };
    let mut mirror = pair.enter(Mirror::open).unwrap();
    sockopt::set_socket_recv_buffer_size(mirror.fd(), 4096).unwrap();
    let before = mirror.tables().route_count();
    let batch: String = (0..1000)
        .map(|i| {
            format!(
                "route add 10.{}.{}.0/24 via 10.9.0.2\n",
                100 + i / 250,
                i % 250
            )
        })
        .collect();
    pair.ip_batch(&batch);
    until(&mut mirror, "all routes", |t| {
        t.route_count() == before + 1000
    });
    assert!(
        mirror.stats().overruns > 0,
        "the small buffer should have overrun"
    );
}

#[test]
fn a_path_mtu_that_the_kernel_learned_can_be_asked_for() {
    let Some(pair) = Pair::new() else { return };
    pair.ip(&[
        "route",
        "add",
        "10.70.0.0/16",
        "via",
        "10.9.0.2",
        "mtu",
        "1300",
    ]);
    narrow_path(&pair);
    let mirror = pair.enter(Mirror::open).unwrap();
    assert_eq!(
        mirror.query_path_mtu(addr("10.70.0.1")),
        Some(1300),
        "a route's metric"
    );
    assert_eq!(mirror.query_path_mtu(addr("10.71.0.9")), None);
    assert_eq!(mirror.query_path_mtu(addr("203.0.113.1")), None, "no route");

    // A UDP socket of the kernel's, since messages about our own traffic reach no socket there.
    let socket = pair
        .enter(|| std::net::UdpSocket::bind("10.9.0.1:0"))
        .unwrap();
    sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO).unwrap();
    let deadline = SystemClock.now() + Duration::from_secs(5);
    while mirror.query_path_mtu(addr("10.71.0.9")) != Some(1400) {
        assert!(SystemClock.now() < deadline, "the kernel did not learn");
        let _ = socket.send_to(&[0; 1450], "10.71.0.9:9");
        wait(&mirror);
    }
}

/// Beyond the peer lies a narrower link: the peer, a router, says so to large packets.
fn narrow_path(pair: &Pair) {
    pair.peer_ip(&[
        "link", "add", "narrow", "type", "veth", "peer", "name", "far",
    ]);
    pair.peer_ip(&["link", "set", "narrow", "mtu", "1400", "up"]);
    pair.peer_ip(&["link", "set", "far", "up"]);
    pair.peer_ip(&["addr", "add", "10.71.0.1/24", "dev", "narrow"]);
    pair.peer_ip(&["addr", "add", "fd71::1/64", "dev", "narrow", "nodad"]);
    pair.peer_sysctl("net/ipv4/ip_forward", "1");
    pair.peer_sysctl("net/ipv6/conf/all/forwarding", "1");
    pair.ip(&["route", "add", "10.71.0.0/16", "via", "10.9.0.2"]);
    pair.ip(&["-6", "route", "add", "fd71::/64", "via", "fd09::2"]);
}

#[test]
fn routers_say_how_much_their_links_take() {
    let Some(pair) = Pair::new() else { return };
    narrow_path(&pair);
    let listener = pair.enter(IcmpListener::open).unwrap();
    for (family, here, there) in [
        (AddressFamily::INET, "10.9.0.1", "10.71.0.9"),
        (AddressFamily::INET6, "fd09::1", "fd71::9"),
    ] {
        // A segment that no socket of the kernel's knows of, as ours are.
        let mut segment = vec![0; 1420];
        segment[..8].copy_from_slice(&[0x9c, 0x40, 0, 80, 1, 2, 3, 4]);
        let raw = pair
            .enter(|| socket(family, SocketType::RAW, Some(ipproto::TCP)))
            .unwrap();
        if family == AddressFamily::INET {
            sockopt::set_ip_mtu_discover(&raw, sockopt::Ipv4PathMtuDiscovery::DO).unwrap();
        }
        let to = SocketAddr::new(addr(there), 0);
        let expected = TooBig {
            local: SocketAddr::new(addr(here), 40_000),
            remote: SocketAddr::new(addr(there), 80),
            sequence: SeqNum::new(0x0102_0304),
            mtu: 1400,
        };
        let deadline = SystemClock.now() + Duration::from_secs(5);
        let mut got = Vec::new();
        while got.is_empty() {
            assert!(
                SystemClock.now() < deadline,
                "nothing was said about {there}"
            );
            let _ = sendto(&raw, &segment, SendFlags::empty(), &to);
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            let mut fds: Vec<_> = listener
                .fds()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            poll(&mut fds, Some(&timeout)).unwrap();
            listener.poll(|message| got.push(message));
        }
        assert_eq!(got[0], expected);
    }
}
