use super::*;
use crate::control::builder::TablesBuilder;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lan() -> TablesBuilder {
    Tables::builder()
        .ethernet(2, "eth0", Mac([2, 0, 0, 0, 0, 1]), 1500)
        .ethernet(3, "eth1", Mac([2, 0, 0, 0, 0, 2]), 9000)
        .address(2, ip("10.1.0.1"), 16)
        .address(3, ip("10.2.0.1"), 16)
}

fn gateway(tables: &Tables, dst: &str) -> Option<IpAddr> {
    tables.route(ip(dst)).unwrap().gateway
}

#[test]
fn the_longest_prefix_wins_and_then_the_lowest_metric() {
    let tables = lan()
        .route((ip("0.0.0.0"), 0), 2, Some(ip("10.1.0.254")), 0)
        .route((ip("192.0.2.0"), 24), 3, Some(ip("10.2.0.20")), 20)
        .route((ip("192.0.2.0"), 24), 3, Some(ip("10.2.0.10")), 10)
        .route((ip("192.0.2.128"), 25), 3, Some(ip("10.2.0.30")), 99)
        .route((ip("192.0.2.200"), 32), 3, Some(ip("10.2.0.40")), 99)
        .build();
    assert_eq!(gateway(&tables, "8.8.8.8"), Some(ip("10.1.0.254")));
    assert_eq!(gateway(&tables, "192.0.2.1"), Some(ip("10.2.0.10")));
    assert_eq!(gateway(&tables, "192.0.2.129"), Some(ip("10.2.0.30")));
    assert_eq!(gateway(&tables, "192.0.2.200"), Some(ip("10.2.0.40")));
    assert_eq!(gateway(&tables, "10.2.3.4"), None);
    assert_eq!(
        tables.route(ip("::1")),
        Err(RouteError::NoRoute),
        "no IPv6 here"
    );
}

#[test]
fn the_local_table_comes_first() {
    let tables = lan()
        .route((ip("10.1.0.1"), 32), 3, Some(ip("10.2.0.9")), 0)
        .build();
    let route = tables.route(ip("10.1.0.1")).unwrap();
    assert!(route.local);
    assert_eq!(route.preferred_src, Some(ip("10.1.0.1")));
    assert!(tables.is_local(ip("10.1.0.1")) && !tables.is_local(ip("10.1.0.2")));
}

#[test]
fn routes_that_lead_nowhere_say_why() {
    let default = (ip("0.0.0.0"), 0);
    for (kind, error) in [
        (RouteKind::Blackhole, RouteError::Blackhole),
        (RouteKind::Unreachable, RouteError::Unreachable),
        (RouteKind::Prohibit, RouteError::Prohibited),
        (RouteKind::NotUnicast, RouteError::NotUnicast),
        (RouteKind::Throw, RouteError::NoRoute),
    ] {
        let tables = lan()
            .route(default, 2, Some(ip("10.1.0.254")), 0)
            .special_route((ip("198.51.100.0"), 24), kind, 0)
            .build();
        assert_eq!(tables.route(ip("198.51.100.1")), Err(error));
        assert!(tables.route(ip("198.51.101.1")).is_ok());
    }
    assert_eq!(
        lan().build().route(ip("224.0.0.1")),
        Err(RouteError::NotUnicast)
    );
    assert_eq!(
        lan().build().route(ip("ff02::1")),
        Err(RouteError::NotUnicast)
    );
}

#[test]
fn multipath_is_stable_per_destination_and_keeps_the_weights() {
    let hop = |last: u8, weight, dead| NextHop {
        ifindex: 2,
        gateway: Some(IpAddr::from([10, 1, 0, last])),
        weight,
        dead,
    };
    let hops = vec![hop(1, 3, false), hop(2, 1, false), hop(3, 9, true)];
    let tables = lan().multipath((ip("0.0.0.0"), 0), hops, 0).build();
    let mut count = HashMap::new();
    for i in 0..4000u32 {
        let dst = IpAddr::from((0x0800_0000 + i).to_be_bytes());
        let first = tables.route(dst).unwrap().gateway;
        assert_eq!(first, tables.route(dst).unwrap().gateway);
        *count.entry(first).or_insert(0) += 1;
    }
    assert_eq!(count.len(), 2, "the dead one is not used");
    let heavy = count[&Some(IpAddr::from([10, 1, 0, 1]))];
    assert!(
        (2800..3200).contains(&heavy),
        "{heavy} of 4000, 3000 expected"
    );
}

#[test]
fn links_that_are_down_are_passed_by() {
    let backup = lan()
        .route((ip("0.0.0.0"), 0), 2, Some(ip("10.1.0.254")), 0)
        .route((ip("0.0.0.0"), 0), 3, Some(ip("10.2.0.254")), 5);
    let mut link = backup.tables.links[&2].clone();
    (link.up, link.carrier) = (false, false);
    let tables = backup.link(link.clone()).build();
    assert_eq!(gateway(&tables, "8.8.8.8"), Some(ip("10.2.0.254")));

    // Without a carrier a link is used only where there is no other next hop, as in the kernel.
    link.up = true;
    let hops = |indexes: &[u32]| {
        indexes
            .iter()
            .map(|i| NextHop {
                ifindex: *i,
                gateway: None,
                weight: 1,
                dead: false,
            })
            .collect()
    };
    let tables = lan()
        .link(link)
        .multipath((ip("0.0.0.0"), 0), hops(&[2, 3]), 0);
    let tables = tables.multipath((ip("9.0.0.0"), 8), hops(&[2]), 0).build();
    for i in 0..50 {
        assert_eq!(tables.route(IpAddr::from([8, 8, 8, i])).unwrap().ifindex, 3);
    }
    assert_eq!(tables.route(ip("9.9.9.9")).unwrap().ifindex, 2);
}

#[test]
fn one_interface_only() {
    let tables = Tables::builder()
        .ethernet(2, "a", Mac([0; 6]), 1500)
        .ethernet(3, "b", Mac([0; 6]), 1500)
        .address(2, ip("fe80::a"), 64)
        .address(3, ip("fe80::b"), 64)
        .build();
    for (ifindex, source) in [(2, "fe80::a"), (3, "fe80::b")] {
        let route = tables.route_on(ip("fe80::99"), Some(ifindex)).unwrap();
        assert_eq!(
            (route.ifindex, route.preferred_src),
            (ifindex, Some(ip(source)))
        );
    }
    assert_eq!(
        tables.route_on(ip("fe80::99"), Some(4)),
        Err(RouteError::NoRoute)
    );
}

#[test]
fn ipv4_sources() {
    let mut secondary = Address::new(2, ip("10.1.0.5"), 16);
    secondary.secondary = true;
    let mut builder = lan();
    Arc::make_mut(&mut builder.tables.addresses).insert(0, secondary);
    Arc::make_mut(&mut builder.tables.addresses).push(Address::new(2, ip("172.16.0.1"), 24));
    let tables = builder
        .route((ip("0.0.0.0"), 0), 2, Some(ip("172.16.0.254")), 0)
        .route((ip("203.0.113.0"), 24), 2, Some(ip("10.1.9.9")), 0)
        .route((ip("198.51.100.0"), 24), 2, Some(ip("9.9.9.9")), 0)
        .route((ip("192.0.2.0"), 24), 7, None, 0)
        .build();
    let source = |dst: &str| tables.route(ip(dst)).unwrap().preferred_src;
    assert_eq!(
        source("8.8.8.8"),
        Some(ip("172.16.0.1")),
        "its network has the gateway"
    );
    assert_eq!(
        source("203.0.113.1"),
        Some(ip("10.1.0.1")),
        "primary before secondary"
    );
    assert_eq!(
        source("198.51.100.1"),
        Some(ip("10.1.0.1")),
        "first of the interface"
    );
    assert_eq!(
        source("192.0.2.1"),
        Some(ip("10.1.0.1")),
        "an interface without an address"
    );
}

#[test]
fn ipv6_sources() {
    let address = |ifindex, text: &str| Address::new(ifindex, ip(text), 64);
    let mut tentative = address(2, "2001:db8:1::7");
    tentative.tentative = true;
    let mut deprecated = address(2, "2001:db8:1::8");
    deprecated.deprecated = true;
    let mut builder = Tables::builder().ethernet(2, "a", Mac([0; 6]), 1500);
    *Arc::make_mut(&mut builder.tables.addresses) = vec![
        address(1, "::1"),
        address(2, "fe80::2"),
        tentative,
        deprecated.clone(),
        address(2, "2001:db8:1::2"),
        address(2, "fd00::2"),
        address(3, "2001:db8:2::3"),
        address(3, "fe80::3"),
    ];
    let tables = builder.build();
    let source = |dst: &str| tables.source_for(2, None, ip(dst));
    assert_eq!(source("2001:db8:1::99"), Some(ip("2001:db8:1::2")));
    assert_eq!(
        source("2001:db8:1::8"),
        Some(ip("2001:db8:1::8")),
        "rule 1, even if deprecated"
    );
    assert_eq!(
        source("fd00::99"),
        Some(ip("fd00::2")),
        "longest common prefix"
    );
    assert_eq!(
        source("fe80::99"),
        Some(ip("fe80::2")),
        "scope, and of this link"
    );
    assert_eq!(
        source("2001:db8:2::99"),
        Some(ip("2001:db8:1::2")),
        "outgoing interface first"
    );

    let mut tables = tables;
    *Arc::make_mut(&mut tables.addresses) = vec![address(2, "fe80::2"), deprecated];
    let source = |dst: &str| tables.source_for(2, None, ip(dst));
    assert_eq!(
        source("2001:db8::1"),
        Some(ip("2001:db8:1::8")),
        "deprecated before too narrow"
    );
    *Arc::make_mut(&mut tables.addresses) = vec![address(3, "fe80::3")];
    assert_eq!(tables.source_for(2, None, ip("2001:db8::1")), None);
}

#[test]
fn masks() {
    assert_eq!(mask(ip("255.255.255.255"), 0), ip("0.0.0.0"));
    assert_eq!(mask(ip("255.255.255.255"), 1), ip("128.0.0.0"));
    assert_eq!(mask(ip("10.1.2.3"), 32), ip("10.1.2.3"));
    assert_eq!(
        mask(ip("10.1.2.3"), 200),
        ip("10.1.2.3"),
        "nonsense lengths do no harm"
    );
    assert_eq!(mask(ip("ffff::ffff"), 0), ip("::"));
    assert_eq!(mask(ip("ffff::ffff"), 127), ip("ffff::fffe"));
    assert!(covers(ip("10.1.0.0"), 16, ip("10.1.255.255")));
    assert!(!covers(ip("10.1.0.0"), 16, ip("10.2.0.0")));
    assert!(
        !covers(ip("::"), 0, ip("10.2.0.0")),
        "families never cover each other"
    );
}

proptest::proptest! {
    /// The index by prefix length finds what a search through all routes finds.
    #[test]
    fn look_up_agrees_with_a_linear_search(
        routes in proptest::collection::vec(
            (proptest::prelude::any::<u16>(), 0u8..=32, 0u32..4), 0..40),
        dst: u16,
    ) {
        let widen = |v: u16| IpAddr::from((u32::from(v) << 20 | u32::from(v)).to_be_bytes());
        let dst = widen(dst);
        let mut builder = Tables::builder();
        let mut best: Option<(u8, Reverse<u32>)> = None;
        for (prefix, len, metric) in routes {
            // The next hop names the route that was taken.
            let name = u32::from(len) * 10 + metric + 1;
            builder = builder.route((widen(prefix), len), name, None, metric);
            if covers(widen(prefix), len, dst) {
                best = best.max(Some((len, Reverse(metric))));
            }
        }
        let expected = best.map(|(len, metric)| u32::from(len) * 10 + metric.0 + 1);
        let tables = builder.build();
        proptest::prop_assume!(!dst.is_multicast());
        proptest::prop_assert_eq!(tables.route(dst).ok().map(|r| r.ifindex), expected);
    }
}
