//! Attackers who know the four-tuple and see nothing: RFC 5961 over the whole window, the
//! challenge-ACK side channel (CVE-2016-5696), PAWS poisoning (CVE-2005-0356), TIME-WAIT
//! assassination (RFC 1337), old duplicates (RFC 6191), forged path MTUs and control-plane churn.

use luna::tcp::Config;
use luna::time::Duration;

use crate::host::frame::{ACK, FIN, PSH, RST, SYN};
use crate::host::{PEER_MAC, tables};
use crate::peer::{Peer, Rng, connected, give_counted, listen, read_all, syn_options, write};

fn state(host: &crate::host::Host, conn: luna::stack::ConnId) -> &'static str {
    host.shard.info(conn).map_or("gone", |i| i.tcp.state.name())
}

/// More acknowledgments than this a second would let two hosts be played against each other.
const CHALLENGES_PER_SECOND_MAX: usize = 8;

/// Every sequence number of the window and some around it, but the one that is right.
#[test]
fn resets_and_syns_over_the_whole_window_close_nothing() {
    for flags in [RST, RST | ACK, SYN, SYN | ACK] {
        let config = Config::default();
        let (mut host, _, mut peer, conn) = connected(&config, syn_options(1000, true, None, None));
        let mut answers = 0;
        // Every place near the edges, every seventh elsewhere.
        let near = |o: i64| {
            [0, 65_535, 1 << 20]
                .iter()
                .any(|edge| (o - edge).abs() < 2000)
        };
        for offset in (-70_000i64..1_060_000).filter(|o| near(*o) || o % 37 == 0) {
            if offset == 0 && flags & RST != 0 {
                continue;
            }
            let mut segment = peer.segment(flags, &[]);
            segment.seq = segment.seq.wrapping_add(offset as u32);
            let asked = give_counted(&mut host, &segment.frame());
            assert_eq!(asked.calls, 0);
            answers += host.sent.len();
            host.sent.clear();
        }
        assert_eq!(state(&host, conn), "ESTABLISHED", "{flags:x}");
        // All within one second of the host's time.
        assert!(answers <= CHALLENGES_PER_SECOND_MAX, "{answers} challenges");
        peer.send(&mut host, b"still here");
        assert_eq!(read_all(&mut host, conn), b"still here");
    }
}

/// Data at every place of the window with every plausible wrong acknowledgment: nothing of it is
/// delivered, and the stream goes on. (With a right guess of both no TCP can tell.)
#[test]
fn blind_data_with_a_wrong_acknowledgment_is_not_taken() {
    let config = Config::default();
    let (mut host, _, mut peer, conn) = connected(&config, syn_options(1000, true, None, None));
    let mut rng = Rng(3);
    for offset in (0..65_535u32).step_by(13) {
        let mut segment = peer.segment(ACK | PSH, b"evil");
        segment.seq = segment.seq.wrapping_add(offset);
        // Neither old within MAX.SND.WND nor sent.
        let far = 70_000 + rng.below((1 << 32) - 200_000) as u32;
        segment.ack = segment.ack.wrapping_add(far);
        give_counted(&mut host, &segment.frame());
        host.sent.clear();
    }
    host.run_for(Duration::from_secs(2));
    host.sent.clear();
    peer.send(&mut host, b"good");
    assert_eq!(read_all(&mut host, conn), b"good");
    let after = peer.answers(&mut host);
    assert!(
        after.iter().all(|s| s.sack().is_empty()),
        "evil data is held: {after:?}"
    );
}

/// An observer of one connection learns nothing about another: their limits are their own.
#[test]
fn challenges_of_one_connection_do_not_change_anothers() {
    let mut totals = std::collections::BTreeSet::new();
    for noise in [0u32, 1, 5, 100, 1000] {
        let config = Config::default();
        let (mut host, listener, a, _) = connected(&config, syn_options(1000, true, None, None));
        let mut b = Peer::new(40_001);
        b.connect(&mut host, syn_options(1000, true, None, None));
        host.shard.accept(listener, 10).unwrap();
        host.run_for(Duration::from_secs(1));
        host.sent.clear();
        for i in 0..noise {
            let mut probe = a.segment(RST, &[]);
            probe.seq = probe.seq.wrapping_add(10 + i);
            host.give(&probe.frame());
        }
        host.sent.clear();
        let mut answers = 0;
        for i in 0..200 {
            let mut probe = b.segment(RST, &[]);
            probe.seq = probe.seq.wrapping_add(10 + i);
            host.give(&probe.frame());
            answers += b.answers(&mut host).len();
        }
        totals.insert(answers);
    }
    assert_eq!(totals.len(), 1, "the other's noise shows: {totals:?}");
}

/// The size of the limit changes from second to second, so it can't be counted out.
#[test]
fn the_limit_is_not_a_constant() {
    let config = Config::default();
    let (mut host, _, peer, _) = connected(&config, syn_options(1000, true, None, None));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        host.run_for(Duration::from_millis(1001));
        host.sent.clear();
        for i in 0..50 {
            let mut probe = peer.segment(RST, &[]);
            probe.seq = probe.seq.wrapping_add(100 + i);
            host.give(&probe.frame());
        }
        seen.insert(host.sent.len());
    }
    assert!(seen.len() >= 3, "always {seen:?}");
    assert!(
        seen.iter()
            .all(|n| (1..=CHALLENGES_PER_SECOND_MAX).contains(n))
    );
}

/// CVE-2005-0356: timestamps of the far future at random places do not stall the connection.
#[test]
fn forged_timestamps_stall_nothing() {
    let options = syn_options(1000, true, Some(1000), None);
    let (mut host, _, mut peer, conn) = connected(&Config::default(), options);
    peer.stamp = Some(1001);
    let mut rng = Rng(5);
    for round in 0..2000u32 {
        let mut forged = peer.clone();
        forged.stamp = Some(1001u32.wrapping_add(1 << 30).wrapping_add(round));
        // Anywhere but exactly in order with a good acknowledgment.
        forged.seq = forged.seq.wrapping_add(1 + rng.next() as u32 % u32::MAX);
        let flags = [ACK, ACK | PSH, ACK | FIN, SYN, PSH][rng.below(5) as usize];
        let mut segment = forged.segment(flags, &[]);
        segment.ack = segment.ack.wrapping_add(1 + rng.below(1 << 20) as u32);
        host.give(&segment.frame());
        host.sent.clear();
        if round % 100 == 0 {
            peer.stamp = peer.stamp.map(|s| s + 1);
            peer.send(&mut host, b"tick");
            assert_eq!(read_all(&mut host, conn), b"tick", "stalled after {round}");
        }
    }
}

/// RFC 1337: nothing but time and a legitimate successor ends TIME-WAIT.
#[test]
fn time_wait_is_not_assassinated() {
    let config = Config::default();
    let (mut host, _, mut peer, conn) = connected(&config, syn_options(1000, true, None, None));
    let now = host.now;
    host.shard.close(now, conn, luna::stack::Close::Graceful);
    host.settle();
    host.sent.clear();
    peer.ack = peer.ack.wrapping_add(1);
    host.give(&peer.segment(FIN | ACK, &[]).frame());
    peer.seq = peer.seq.wrapping_add(1);
    assert_eq!(host.shard.population(), (0, 1));
    host.sent.clear();
    for offset in -2000i64..70_000 {
        for flags in [RST, RST | ACK] {
            let mut reset = peer.segment(flags, &[]);
            reset.seq = reset.seq.wrapping_add(offset as u32);
            assert_eq!(give_counted(&mut host, &reset.frame()).calls, 0);
        }
    }
    assert!(host.sent.is_empty());
    assert_eq!(host.shard.population(), (0, 1));
    // An old duplicate SYN opens nothing; what it gets is an ACK.
    for offset in -30_000i64..=0 {
        let mut syn = peer.segment(SYN, &[]);
        syn.seq = syn.seq.wrapping_add(offset as u32);
        host.give(&syn.frame());
    }
    assert_eq!(host.shard.population(), (0, 1));
    assert!(
        host.sent.len() <= 8,
        "{} answers to old SYNs",
        host.sent.len()
    );
    // RFC 6191: one that begins later does.
    host.sent.clear();
    let mut syn = peer.segment(SYN, &[]);
    syn.seq = syn.seq.wrapping_add(100_000);
    host.give(&syn.frame());
    let answer = peer.answers(&mut host).pop().unwrap();
    assert!(answer.has(SYN | ACK));
    // And it begins beyond anything that the old one sent.
    let step = answer.seq.wrapping_sub(peer.ack);
    assert!(
        (65_536..1 << 31).contains(&step),
        "the successor begins {step} later"
    );
    let _ = listen;
}

/// Neighbours and routes change ten thousand times a second while data flows both ways.
#[test]
fn churn_of_the_control_plane_loses_no_connection() {
    let config = Config::default();
    let (mut host, _, mut peer, conn) = connected(&config, syn_options(1000, true, None, None));
    let mut rng = Rng(8);
    let (mut echoed, mut lost) = (0u32, 0u32);
    for tick in 0..20_000u32 {
        // Every 100 µs: the neighbour is known, forgotten, or known by another address.
        let mac = match rng.below(4) {
            0 => None,
            1 => Some([2, 0, 0, 0, 0, 9]),
            _ => Some(PEER_MAC),
        };
        let mtu = [None, Some(1400), Some(600)][rng.below(3) as usize];
        let _ = mtu;
        host.control.publish(tables(1500, None, mac));
        host.run_for(Duration::from_micros(100));
        if tick % 20 == 0 {
            peer.send(&mut host, b"ping");
            assert_eq!(read_all(&mut host, conn), b"ping");
            write(&mut host, conn, b"pong");
            host.settle();
        }
        // Frames to the other address are lost to this peer, as on a real link.
        let frames: Vec<_> = host.sent.drain(..).collect();
        for (_, frame) in frames {
            match crate::host::frame::Segment::parse(&frame) {
                Ok(segment) if segment.seq == peer.ack => {
                    peer.ack = peer.ack.wrapping_add(segment.payload.len() as u32);
                    echoed += segment.payload.len() as u32;
                    let ack = peer.segment(ACK, &[]);
                    host.put(&ack.frame());
                }
                Ok(_) => {}
                Err(_) => lost += 1,
            }
        }
    }
    host.control.publish(tables(1500, None, Some(PEER_MAC)));
    for _ in 0..100 {
        host.run_for(Duration::from_millis(50));
        for segment in peer.answers(&mut host) {
            if segment.seq == peer.ack {
                peer.ack = peer.ack.wrapping_add(segment.payload.len() as u32);
                echoed += segment.payload.len() as u32;
            }
        }
        host.give(&peer.segment(ACK, &[]).frame());
    }
    assert_eq!(echoed, 4000, "{lost} frames went to the wrong neighbour");
    assert_eq!(state(&host, conn), "ESTABLISHED");
}
