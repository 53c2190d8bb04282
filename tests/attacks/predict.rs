//! Predictability: initial sequence numbers (NUMBER:JACK, CVE-2004-0230) and timestamp offsets.
//! Client ports: `socket::connect`'s own tests.

use std::collections::HashSet;
use std::net::SocketAddr;

use luna::tcp::Config;
use luna::tcp::isn::IsnGenerator;
use luna::time::{Duration, Instant};

use crate::host::frame::{ACK, RST, SYN};
use crate::host::{Host, Setup};
use crate::peer::{Peer, listen, syn_options};

fn ends(i: u32) -> (SocketAddr, SocketAddr) {
    let port = 1024 + (i % 60_000) as u16;
    let host = (i / 60_000) as u8;
    (
        SocketAddr::from(([10, 0, 0, 1], 80)),
        SocketAddr::from(([10, 1, host, 2], port)),
    )
}

const MANY: u32 = 1_000_000;

/// A million numbers for neighbouring tuples at one moment: every bit is even, no two differ by
/// what others differ by, and none is a step from its neighbour.
#[test]
fn a_million_initial_numbers_show_no_relation() {
    let isn = IsnGenerator::new([9; 16]);
    let now = Instant::from_nanos(1 << 50);
    let mut ones = [0u32; 32];
    let mut steps = vec![0u32; 65536];
    let mut last = 0u32;
    for i in 0..MANY {
        let (local, remote) = ends(i);
        let value = isn.initial_sequence(now, local, remote).get();
        for (bit, count) in ones.iter_mut().enumerate() {
            *count += value >> bit & 1;
        }
        steps[(value.wrapping_sub(last) >> 16) as usize] += 1;
        last = value;
    }
    for (bit, count) in ones.iter().enumerate() {
        // Five standard deviations of a fair coin.
        assert!(
            count.abs_diff(MANY / 2) < 2500,
            "bit {bit} is one {count} times"
        );
    }
    // Chi-square of the differences' upper halves over 65,536 cells: mean 65,535, deviation 362.
    let expected = f64::from(MANY) / 65536.0;
    let chi: f64 = steps
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected)
        .sum();
    assert!((chi - 65535.0).abs() < 5.0 * 362.0, "chi-square {chi}");
}

/// RFC 6528: for one tuple the numbers rise with time (a step per 64 ns, as Linux's), so that the
/// successor of a connection begins beyond what it sent.
#[test]
fn for_one_tuple_they_rise_with_the_clock() {
    let isn = IsnGenerator::new([9; 16]);
    for i in [0, 1, 77, 70_000] {
        let (local, remote) = ends(i);
        let mut now = Instant::from_nanos(1 << 40);
        let first = isn.initial_sequence(now, local, remote);
        now += Duration::from_millis(40);
        let later = isn.initial_sequence(now, local, remote);
        assert_eq!(later.get().wrapping_sub(first.get()), 625_000);
    }
}

#[test]
fn another_start_has_other_numbers_and_offsets() {
    let (a, b) = (IsnGenerator::new([1; 16]), IsnGenerator::new([2; 16]));
    let now = Instant::from_nanos(1 << 40);
    let mut same = 0;
    let mut differences = HashSet::new();
    for i in 0..10_000 {
        let (local, remote) = ends(i);
        let pair = [&a, &b].map(|g| g.initial_sequence(now, local, remote).get());
        differences.insert(pair[0].wrapping_sub(pair[1]));
        let offsets = [&a, &b].map(|g| g.timestamp_offset(local, remote));
        same += u32::from(pair[0] == pair[1]) + u32::from(offsets[0] == offsets[1]);
    }
    assert_eq!(same, 0);
    assert!(
        differences.len() > 9_990,
        "a constant distance between starts"
    );
}

/// The numbers on the wire are these: SYN-ACKs of a whole shard to a thousand ports.
#[test]
fn what_leaves_the_host_is_as_random_as_that() {
    let mut host = Host::new(Setup::default());
    listen(&mut host, 1000, &Config::default());
    let mut values = Vec::new();
    let mut offsets = HashSet::new();
    for port in 2000..3000 {
        let peer = Peer::new(port);
        let mut syn = peer.segment(SYN, &[]);
        syn.options = syn_options(1000, true, Some(1), None);
        host.give(&syn.frame());
        let answer = peer.answers(&mut host).pop().unwrap();
        values.push(answer.seq);
        offsets.insert(answer.timestamps().unwrap().0);
        let mut reset = peer.segment(RST | ACK, &[]);
        reset.seq = reset.seq.wrapping_add(1);
        host.give(&reset.frame());
    }
    let steps: HashSet<u32> = values.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    assert!(steps.len() > 990 && offsets.len() > 990);
    let near = values
        .windows(2)
        .filter(|w| w[1].wrapping_sub(w[0]) < 1 << 20)
        .count();
    assert!(
        near < 10,
        "{near} of a thousand are close to the one before"
    );
}
