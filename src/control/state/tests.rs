use core::cmp::Reverse;

use super::*;
use crate::control::tables::{NeighbourState, NextHop, RouteKind, TableId};
use crate::wire::Mac;

fn key(i: u32) -> RouteKey {
    RouteKey {
        table: TableId::Main,
        v6: false,
        prefix_len: Reverse(32),
        prefix: IpAddr::from(i.to_be_bytes()),
        tos: 0,
        priority: 0,
        device: 0,
    }
}

fn entry(ifindex: u32) -> RouteEntry {
    RouteEntry {
        kind: RouteKind::Unicast,
        preferred_src: None,
        mtu: None,
        advmss: None,
        hops: vec![NextHop {
            ifindex,
            gateway: None,
            weight: 1,
            dead: false,
        }],
    }
}

fn link(index: u32, up: bool) -> Link {
    Link {
        index,
        name: format!("l{index}"),
        mac: None,
        mtu: 1500,
        up,
        carrier: up,
        loopback: false,
        kind: String::new(),
        vlan: None,
    }
}

fn neighbour(last: u8, state: NeighbourState) -> Update {
    let entry = NeighbourEntry(Neighbour::Known(Mac([last; 6]), state));
    Update::Neighbour((1, IpAddr::from([10, 0, 0, 1])), entry)
}

fn put(i: u32, ifindex: u32) -> Update {
    Update::Route(key(i), entry(ifindex), false)
}

#[test]
fn a_dump_drops_what_it_did_not_mention_and_keeps_what_was_notified_during_it() {
    let mut state = State::default();
    (1..=3).for_each(|i| state.apply(put(i, 1), false));
    state.begin_dump(DumpKind::Routes);
    state.apply(put(1, 1), true);
    state.apply(put(4, 1), false);
    state.apply(put(2, 1), true);
    state.apply(Update::RouteGone(key(2), entry(1)), false);
    state.end_dump(true);
    let left: Vec<_> = state.tables.routes.entries.keys().copied().collect();
    assert_eq!(left, [key(1), key(4)]);

    state.begin_dump(DumpKind::Routes);
    state.end_dump(false);
    assert_eq!(
        state.tables.route_count(),
        2,
        "an incomplete dump drops nothing"
    );
    state.begin_dump(DumpKind::Routes);
    state.end_dump(true);
    assert_eq!(state.tables.route_count(), 0);
}

#[test]
fn only_changes_are_published() {
    let mut state = State::default();
    state.apply(put(1, 1), false);
    assert!(state.take_dirty() && !state.take_dirty());
    state.begin_dump(DumpKind::Routes);
    state.apply(put(1, 1), true);
    state.end_dump(true);
    assert!(!state.take_dirty(), "a dump that finds nothing new");
    for quiet in [
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
    ] {
        state.apply(neighbour(1, NeighbourState::Reachable), false);
        let _ = state.take_dirty();
        state.apply(neighbour(1, quiet), false);
        assert!(!state.take_dirty(), "{quiet:?}");
    }
    state.apply(neighbour(2, NeighbourState::Stale), false);
    assert!(state.take_dirty(), "another address");
    state.apply(neighbour(2, NeighbourState::Permanent), false);
    assert!(state.take_dirty(), "no longer to be confirmed");
}

#[test]
fn what_only_the_kernel_knows_is_asked_for() {
    let wanted = |apply: &[Update]| {
        let mut state = State::default();
        state.apply(Update::Link(link(1, true)), false);
        state.apply(put(1, 1), false);
        assert!(state.wanted.is_empty());
        apply.iter().for_each(|u| state.apply(u.clone(), false));
        let first = state.wanted.take_first();
        assert!(state.wanted.is_empty());
        first
    };
    let routes = Some(DumpKind::Routes);
    assert_eq!(
        wanted(&[Update::Link(link(1, false))]),
        routes,
        "flushed without a word"
    );
    assert_eq!(wanted(&[Update::LinkGone(1)]), routes);
    assert_eq!(wanted(&[put(1, 2)]), routes, "appended");
    assert_eq!(
        wanted(&[Update::RouteGone(key(1), entry(2))]),
        routes,
        "one of several"
    );
    assert_eq!(wanted(&[Update::RuleGone]), Some(DumpKind::Rules));
    assert_eq!(
        wanted(&[Update::Route(key(1), entry(2), true)]),
        None,
        "replaced"
    );
    assert_eq!(wanted(&[Update::RouteGone(key(1), entry(1))]), None);
    assert_eq!(
        wanted(&[Update::RouteGone(key(9), entry(1))]),
        None,
        "not ours"
    );
}

#[test]
fn of_two_routes_with_one_key_the_first_dumped_counts() {
    let mut state = State::default();
    state.apply(put(1, 9), false);
    state.begin_dump(DumpKind::Routes);
    state.apply(put(1, 1), true);
    state.apply(put(1, 2), true);
    state.end_dump(true);
    assert_eq!(state.tables.routes.entries[&key(1)], entry(1));
    state.apply(Update::RouteGone(key(1), entry(1)), false);
    assert_eq!(
        state.wanted.take_first(),
        Some(DumpKind::Routes),
        "the second takes over"
    );
}

#[test]
fn tables_are_bounded() {
    let mut state = State::default();
    for i in 0..limits::ROUTES_MAX as u32 + 10 {
        state.apply(put(i, 1), false);
    }
    for i in 0..limits::NEIGHBOURS_MAX as u32 + 10 {
        let key = (1, IpAddr::from(i.to_be_bytes()));
        state.apply(
            Update::Neighbour(key, NeighbourEntry(Neighbour::Failed)),
            false,
        );
    }
    for i in 0..limits::LINKS_MAX as u32 + 10 {
        state.apply(Update::Link(link(i, true)), false);
    }
    for i in 0..limits::ADDRESSES_MAX as u32 + 10 {
        let address = Address::new(1, IpAddr::from(i.to_be_bytes()), 8);
        state.apply(Update::Address(address), false);
    }
    assert_eq!(state.tables.route_count(), limits::ROUTES_MAX);
    assert_eq!(state.tables.neighbour_count(), limits::NEIGHBOURS_MAX);
    assert_eq!(state.tables.links.len(), limits::LINKS_MAX);
    assert_eq!(state.tables.addresses.len(), limits::ADDRESSES_MAX);
    assert_eq!(state.stats.dropped, 40);
    assert!(state.tables.is_truncated());
}

#[test]
fn published_tables_do_not_change() {
    let mut state = State::default();
    state.apply(put(1, 1), false);
    let published = state.tables.clone();
    state.apply(put(2, 1), false);
    assert_eq!(
        (published.route_count(), state.tables.route_count()),
        (1, 2)
    );
}
