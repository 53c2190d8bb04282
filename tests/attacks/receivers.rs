//! Peers that lie as receivers: optimistic ACKs, ACK division, invented duplicates, SACK abuse
//! (CVE-2019-11477, -11478, -11479), reneging, windows that shrink.

use std::io::IoSlice;

use luna::stack::{ConnId, Ready, SendError};
use luna::tcp::Config;
use luna::time::Duration;

use crate::host::Host;
use crate::host::frame::{ACK, RST, Segment};
use crate::peer::{Peer, Rng, connected, give_counted, read_all, sack_option, syn_options, write};

fn fresh(mss: u16, sack: bool) -> (Host, Peer, ConnId) {
    let config = Config {
        nodelay: true,
        ..Config::default()
    };
    let (host, _, peer, conn) = connected(&config, syn_options(mss, sack, None, Some(7)));
    (host, peer, conn)
}

fn cwnd(host: &Host, conn: ConnId) -> u32 {
    host.shard.info(conn).unwrap().tcp.cwnd
}

/// Acknowledging what was not sent yet gains nothing: the ACK is dropped (RFC 9293 §3.10.7.4).
#[test]
fn optimistic_acknowledgments_are_dropped() {
    let (mut host, mut peer, conn) = fresh(1000, true);
    write(&mut host, conn, &[1; 200_000]);
    host.settle();
    let before = cwnd(&host, conn);
    let sent: u32 = peer
        .answers(&mut host)
        .iter()
        .map(|s| s.payload.len() as u32)
        .sum();
    for ahead in (1..100_000u32).step_by(37) {
        let mut ack = peer.segment(ACK, &[]);
        ack.ack = peer.ack.wrapping_add(sent).wrapping_add(ahead);
        host.give(&ack.frame());
    }
    let data: usize = peer
        .answers(&mut host)
        .iter()
        .map(|s| s.payload.len())
        .sum();
    assert_eq!((data, cwnd(&host, conn)), (0, before));
    peer.ack = peer.ack.wrapping_add(sent);
    host.give(&peer.segment(ACK, &[]).frame());
    assert!(cwnd(&host, conn) > before);
}

/// RFC 3465: a thousand ACKs for a byte each grow the window by what one ACK for a thousand
/// bytes would.
#[test]
fn acknowledgments_cut_into_pieces_gain_nothing() {
    let (mut host, mut honest, conn) = fresh(1000, true);
    write(&mut host, conn, &[1; 200_000]);
    host.settle();
    honest.answers(&mut host);
    let before = cwnd(&host, conn);
    honest.ack = honest.ack.wrapping_add(1000);
    host.give(&honest.segment(ACK, &[]).frame());
    let honest_gain = cwnd(&host, conn) - before;

    let (mut host, mut liar, conn) = fresh(1000, true);
    write(&mut host, conn, &[1; 200_000]);
    host.settle();
    liar.answers(&mut host);
    let before = cwnd(&host, conn);
    for _ in 0..1000 {
        liar.ack = liar.ack.wrapping_add(1);
        host.give(&liar.segment(ACK, &[]).frame());
    }
    let gain = cwnd(&host, conn) - before;
    assert!(
        gain <= honest_gain,
        "{gain} by division, {honest_gain} by an honest ACK"
    );
}

/// Invented duplicate ACKs release no more than the segments that were in flight.
#[test]
fn invented_duplicates_release_no_flood() {
    for sack in [false, true] {
        let (mut host, peer, conn) = fresh(1000, sack);
        write(&mut host, conn, &[1; 1_000_000]);
        host.settle();
        peer.answers(&mut host);
        let flight = host.shard.info(conn).unwrap().tcp.unacked;
        for _ in 0..10_000 {
            host.give(&peer.segment(ACK, &[]).frame());
        }
        let sent: u32 = peer
            .answers(&mut host)
            .iter()
            .map(|s| s.payload.len() as u32)
            .sum();
        // At most the segment that seems lost, and one new for each that seems to have arrived.
        assert!(
            sent <= flight + 2000,
            "{sent} bytes for {flight} in flight (SACK: {sack})"
        );
    }
}

/// SACK Slowness: a hundred thousand ACKs with random blocks ask nothing of the allocator and
/// make nothing grow, and the honest end of the transfer still works.
#[test]
fn random_sack_blocks_cost_nothing() {
    for mss in [1u16, 8, 48, 1000] {
        let (mut host, mut peer, conn) = fresh(mss, true);
        write(&mut host, conn, &vec![1; 60_000]);
        host.settle();
        host.sent.clear();
        let info = host.shard.info(conn).unwrap().tcp;
        assert!(
            info.snd_mss >= 36,
            "an MSS of {mss} is taken as {}",
            info.snd_mss
        );
        let mut rng = Rng(u64::from(mss));
        let mut calls = 0;
        let mut objects = host.shard.objects_in_use();
        for i in 0..25_000 {
            let blocks: Vec<_> = (0..4)
                .map(|_| {
                    let left = rng.below(u64::from(info.unacked) * 2) as u32;
                    let len = 1 + rng.below(2000) as u32;
                    let left = peer.ack.wrapping_add(left);
                    match rng.below(10) {
                        0 => (rng.next() as u32, rng.next() as u32),
                        1 => (left.wrapping_add(len), left),
                        _ => (left, left.wrapping_add(len)),
                    }
                })
                .collect();
            let mut ack = peer.segment(ACK, &[]);
            ack.options = [&[1, 1][..], &sack_option(&blocks)].concat();
            let asked = give_counted(&mut host, &ack.frame());
            if i > 1000 {
                calls += asked.calls;
                assert!(host.shard.objects_in_use() <= objects + 1);
            } else {
                objects = objects.max(host.shard.objects_in_use());
            }
            // A retransmission or two for what it calls lost, no storm.
            assert!(
                host.sent.len() <= 64,
                "{} frames for one ACK",
                host.sent.len()
            );
            host.sent.clear();
        }
        assert_eq!(calls, 0, "allocations with an MSS of {mss}");
        finish(&mut host, &mut peer, conn);
    }
}

/// Acknowledges everything in order until the host has nothing left.
fn finish(host: &mut Host, peer: &mut Peer, conn: ConnId) {
    for _ in 0..20_000 {
        let info = host.shard.info(conn).expect("the connection lives").tcp;
        if info.unacked == 0 && info.unsent == 0 {
            return;
        }
        let mut arrived: Vec<Segment> = peer.answers(host);
        arrived.sort_by_key(|s| s.seq.wrapping_sub(peer.ack) as i32);
        for segment in arrived {
            let end = segment.seq.wrapping_add(segment.payload.len() as u32);
            let starts = segment.seq.wrapping_sub(peer.ack) as i32 <= 0;
            if starts && end.wrapping_sub(peer.ack) as i32 > 0 {
                peer.ack = end;
            }
        }
        host.give(&peer.segment(ACK, &[]).frame());
        if host.sent.is_empty() {
            let at = host.shard.next_deadline();
            let until = at.min(host.now + Duration::from_secs(200));
            host.advance(until, true);
        }
    }
    panic!("never finished: {:?}", host.shard.info(conn).unwrap().tcp);
}

/// A receiver that takes back what it has SACKed (RFC 2018 §8) gets it again.
#[test]
fn a_reneging_receiver_is_served() {
    let (mut host, mut peer, conn) = fresh(1000, true);
    write(&mut host, conn, &[1; 10_000]);
    host.settle();
    host.sent.clear();
    // All but the first segment, then never again.
    let mut ack = peer.segment(ACK, &[]);
    let (from, to) = (peer.ack.wrapping_add(1000), peer.ack.wrapping_add(10_000));
    ack.options = [&[1, 1][..], &sack_option(&[(from, to)])].concat();
    host.give(&ack.frame());
    host.sent.clear();
    finish(&mut host, &mut peer, conn);
}

/// Blocks beyond SND.NXT, below SND.UNA or upside down mark nothing.
#[test]
fn impossible_blocks_are_ignored() {
    let (mut host, peer, conn) = fresh(1000, true);
    write(&mut host, conn, &[1; 5000]);
    host.settle();
    host.sent.clear();
    let una = peer.ack;
    let at = |n: i32| una.wrapping_add(n as u32);
    for block in [
        (at(5001), at(6000)),
        (at(4000), at(5001)),
        (at(-3000), at(-2000)),
        (at(3000), at(2000)),
        (at(1000), at(1000)),
        (at(i32::MIN), at(i32::MAX)),
    ] {
        let mut ack = peer.segment(ACK, &[]);
        ack.options = [&[1, 1][..], &sack_option(&[block])].concat();
        host.give(&ack.frame());
        assert_eq!(host.shard.info(conn).unwrap().tcp.sacked, 0, "{block:?}");
    }
}

/// Windows that open, shrink and close at random: nothing is ever sent beyond the furthest edge
/// that was promised, and in the end everything arrives (RFC 9293 §3.8.6, SHLD-16).
#[test]
fn windows_that_shrink_are_survived() {
    for seed in 0..20 {
        let (mut host, mut peer, conn) = fresh(1000, seed % 2 == 0);
        let mut rng = Rng(seed);
        write(&mut host, conn, &[1; 100_000]);
        let mut edge = peer.ack.wrapping_add(65535 << 7);
        peer.window = 8;
        for _ in 0..300 {
            peer.window = rng.below(30) as u16;
            let promised = peer.ack.wrapping_add(u32::from(peer.window) << 7);
            if promised.wrapping_sub(edge) as i32 > 0 {
                edge = promised;
            }
            host.give(&peer.segment(ACK, &[]).frame());
            for segment in peer.answers(&mut host) {
                let end = segment.seq.wrapping_add(segment.payload.len() as u32);
                assert!(edge.wrapping_sub(end) as i32 >= 0, "beyond the edge");
                if segment.seq == peer.ack && rng.below(4) > 0 {
                    peer.ack = end;
                }
            }
            host.run_for(Duration::from_millis(rng.below(300)));
        }
        peer.window = 1000;
        finish(&mut host, &mut peer, conn);
    }
}

/// Fills a connection's send queue until the host takes no more; whether that was for want of
/// memory.
fn fill(host: &mut Host, conn: ConnId) -> bool {
    let bytes = [7; 4096];
    loop {
        let now = host.now;
        match host.shard.send(now, conn, &[IoSlice::new(&bytes)], false) {
            Ok(_) => {}
            Err(error) => return error == SendError::NoMemory,
        }
    }
}

/// Peers that read nothing, and so many that what waits for them would fill all memory: those that
/// come later are served; who found no memory is not told to send, until there is some.
#[test]
fn readers_that_never_read_leave_memory_for_others() {
    let config = Config::default();
    let (mut host, listener, _, _) = connected(&config, syn_options(1000, true, None, Some(7)));
    let join = |host: &mut Host, port| {
        let mut peer = Peer::new(port);
        peer.connect(host, syn_options(1000, true, None, Some(7)));
        (peer, host.shard.accept(listener, 9).expect("accepts").conn)
    };
    let mut sleepers = Vec::new();
    for port in 0..12 {
        let (peer, conn) = join(&mut host, 41_000 + port);
        let starved = fill(&mut host, conn);
        host.settle();
        host.sent.clear();
        sleepers.push((peer, conn, starved));
    }
    assert!(
        sleepers.iter().any(|sleeper| sleeper.2),
        "the test has too much memory"
    );
    assert!(
        !host.shard.pool().low_water(),
        "what the link needs is there"
    );

    let (mut late, conn) = join(&mut host, 42_000);
    for _ in 0..100 {
        late.send(&mut host, b"question");
        assert_eq!(read_all(&mut host, conn), b"question");
        write(&mut host, conn, b"answer");
        host.settle();
        let answers = late.answers(&mut host);
        assert!(
            answers.iter().any(|s| s.payload == b"answer"),
            "{answers:?}"
        );
        late.ack = late.ack.wrapping_add(6);
    }

    let (_, waiting, _) = sleepers.pop().expect("a sleeper");
    assert!(fill(&mut host, waiting));
    host.take_wakeups();
    host.settle();
    assert!(!host.shard.ready(waiting).contains(Ready::OUT));
    assert!(host.take_wakeups().is_empty(), "woken to find nothing");
    for (peer, _, _) in &sleepers {
        host.give(&peer.segment(RST | ACK, &[]).frame());
    }
    assert!(host.shard.ready(waiting).contains(Ready::OUT));
    assert!(!host.take_wakeups().is_empty());
}
