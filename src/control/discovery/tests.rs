use super::*;
use crate::control::Tables;

const IFINDEX: u32 = 1;

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
}

fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n))
}

fn host(n: u8) -> Discovery {
    let tables = Tables::builder()
        .ethernet(IFINDEX, "memif", mac(n), 1500)
        .address(IFINDEX, v4(n), 24)
        .address(IFINDEX, v6(n.into()), 64)
        .build();
    let mut host = Discovery::new(ControlHandle::from_static(tables), IFINDEX);
    let announced = host.outbox.len();
    assert_eq!(announced, 2, "one for each address");
    host.outbox.clear();
    host
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn known(host: &Discovery, ip: IpAddr) -> Neighbour {
    host.control.tables().neighbour(IFINDEX, ip)
}

/// Carries all frames of each to the other until there are none.
fn exchange(now: Instant, one: &mut Discovery, other: &mut Discovery) -> usize {
    let mut count = 0;
    loop {
        let before = count;
        while let Some(frame) = one.take_frame() {
            assert!(Discovery::wants(&frame));
            other.on_frame(now, &frame);
            count += 1;
        }
        while let Some(frame) = other.take_frame() {
            one.on_frame(now, &frame);
            count += 1;
        }
        if count == before {
            return count;
        }
    }
}

#[test]
fn two_hosts_find_each_other() {
    for ip in [v4(2), v6(2)] {
        let (mut a, mut b) = (host(1), host(2));
        let generation = a.control.generation();
        a.resolve(at(0), ip);
        assert_eq!(known(&a, ip), Neighbour::Unknown);
        assert_eq!(
            exchange(at(0), &mut a, &mut b),
            2,
            "a question and an answer"
        );
        assert_eq!(
            known(&a, ip),
            Neighbour::Known(mac(2), NeighbourState::Reachable)
        );
        assert!(a.control.generation() > generation);
        let back = if ip.is_ipv4() { v4(1) } else { v6(1) };
        assert_eq!(
            known(&b, back),
            Neighbour::Known(mac(1), NeighbourState::Reachable)
        );
        a.resolve(at(1), ip);
        assert!(a.take_frame().is_none(), "it is known");
    }
}

#[test]
fn nobody_answers() {
    let mut a = host(1);
    a.resolve(at(0), v4(9));
    let mut asked = 0;
    let mut now = at(0);
    while known(&a, v4(9)) != Neighbour::Failed {
        while a.take_frame().is_some() {
            asked += 1;
        }
        assert!(a.deadline() > now && a.deadline() < at(10_000));
        now = a.deadline();
        a.run(now);
    }
    assert_eq!(asked, ASK_EVERY.len());
    assert_eq!(now, at(3000));
    // A new need asks anew…
    a.resolve(now, v4(9));
    assert!(a.take_frame().is_some());
    // …and an answer, however late, is welcome.
    let mut b = host(9);
    b.resolve(now, v4(1));
    exchange(now, &mut b, &mut a);
    assert_eq!(
        known(&a, v4(9)),
        Neighbour::Known(mac(9), NeighbourState::Reachable)
    );
}

#[test]
fn a_known_neighbour_is_probed_and_given_up() {
    let (mut a, mut b) = (host(1), host(2));
    a.resolve(at(0), v4(2));
    exchange(at(0), &mut a, &mut b);
    let generation = a.control.generation();
    a.run(at(30_000));
    assert_eq!(exchange(at(30_000), &mut a, &mut b), 2, "it answers");
    assert_eq!(a.control.generation(), generation, "nothing new");
    for second in 60..63 {
        a.run(at(second * 1000));
        let probe = a.take_frame().unwrap();
        assert_eq!(probe[..6], mac(2).0, "to itself");
    }
    assert_ne!(known(&a, v4(2)), Neighbour::Failed);
    a.run(at(63_000));
    assert_eq!(known(&a, v4(2)), Neighbour::Failed);
    a.run(at(93_000));
    assert_eq!(known(&a, v4(2)), Neighbour::Unknown);
    assert_eq!(a.deadline(), Instant::FAR_FUTURE);
}

#[test]
fn a_neighbour_that_moves_is_followed() {
    let (mut a, mut b) = (host(1), host(2));
    a.resolve(at(0), v4(2));
    exchange(at(0), &mut a, &mut b);
    b.mac = mac(7);
    b.announce();
    exchange(at(5), &mut b, &mut a);
    assert_eq!(
        known(&a, v4(2)),
        Neighbour::Known(mac(7), NeighbourState::Reachable)
    );
}

#[test]
fn strangers_get_no_entry() {
    let mut a = host(1);
    let claim = |sender: Ipv4Addr, sender_mac: Mac, target: Ipv4Addr| {
        let mut frame = DiscoveryFrame::new();
        EthernetHeader {
            dst: BROADCAST,
            src: sender_mac,
            vlan: None,
            ether_type: EtherType::Arp,
        }
        .emit(&mut frame);
        ArpPacket {
            operation: ArpOperation::Request,
            sender_mac,
            sender,
            target_mac: Mac::default(),
            target,
        }
        .emit(&mut frame);
        frame
    };
    let (me, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 3));
    for frame in [
        // Of another network, with a group's address, with none, with ours; a talk of others.
        claim(Ipv4Addr::new(10, 9, 0, 1), mac(5), me),
        claim(other, Mac([3, 0, 0, 0, 0, 1]), me),
        claim(Ipv4Addr::UNSPECIFIED, mac(5), me),
        claim(me, mac(5), me),
        claim(other, mac(5), Ipv4Addr::new(10, 0, 0, 4)),
    ] {
        a.on_frame(at(0), &frame);
        assert!(a.entries.is_empty());
    }
    for end in 0..60 {
        a.on_frame(at(0), &claim(other, mac(5), me)[..end.min(42)]);
    }
    assert_eq!(a.entries.len(), 1);
}

#[test]
fn a_flood_of_neighbours_is_bounded_and_pushes_out_no_question() {
    let tables = Tables::builder()
        .ethernet(IFINDEX, "memif", mac(1), 1500)
        .address(IFINDEX, v4(1), 8)
        .build();
    let mut a = Discovery::new(ControlHandle::from_static(tables), IFINDEX);
    a.resolve(at(0), v4(2));
    for i in 0..3 * DISCOVERED_NEIGHBOURS_MAX as u32 {
        let ip = IpAddr::from((0x0a01_0000 + i).to_be_bytes());
        a.learn(at(1), ip, mac(3), true);
    }
    assert_eq!(a.entries.len(), DISCOVERED_NEIGHBOURS_MAX);
    assert_eq!(
        a.control.tables().neighbour_count(),
        DISCOVERED_NEIGHBOURS_MAX - 1
    );
    assert!(a.entries.contains_key(&v4(2)));
    assert!(a.outbox.len() <= OUTBOX_MAX);
}
