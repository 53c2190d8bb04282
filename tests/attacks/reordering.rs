//! SegmentSmack (CVE-2018-5390, -6922): segments out of order, as small and as many as possible.

use luna::tcp::Config;

use crate::host::frame::{ACK, FIN, PSH};
use crate::peer::{Rng, connected, give_counted, read_all, syn_options};

/// Every other byte of a window, in a segment of its own, over and over.
#[test]
fn alternate_bytes_pin_a_bounded_number_of_objects() {
    let (mut host, _, mut peer, conn) =
        connected(&Config::default(), syn_options(1000, true, None, None));
    let objects = host.shard.objects_in_use();
    let (mut calls, mut most) = (0, 0);
    for round in 0..3 {
        for i in 0..20_000u32 {
            let mut segment = peer.segment(ACK | PSH, &[i as u8]);
            segment.seq = segment.seq.wrapping_add(1 + i * 2);
            let asked = give_counted(&mut host, &segment.frame());
            // One duplicate ACK each, as RFC 5681 wants, and no more.
            assert!(host.sent.len() <= 1);
            host.sent.clear();
            most = most.max(host.shard.objects_in_use() - objects);
            if round > 0 {
                calls += asked.calls;
            }
        }
    }
    // limits::REASSEMBLY_RANGES_MAX ranges of one object each, and the frame in hand.
    assert!(most <= 256 + 2, "{most} objects");
    assert_eq!(calls, 0, "allocations once the store is full");
    // The stream is whole all the same.
    let text: Vec<u8> = (0..40_000u32).map(|i| (i * 13) as u8).collect();
    let mut got = Vec::new();
    for part in text.chunks(1000) {
        peer.send(&mut host, part);
        got.extend(read_all(&mut host, conn));
    }
    assert_eq!(got.len(), text.len());
}

/// A window from its end to its beginning, a byte at a time: never more than one range.
#[test]
fn descending_bytes_pin_a_bounded_number_of_objects() {
    const BYTES: u32 = 60_000;
    let (mut host, _, mut peer, conn) =
        connected(&Config::default(), syn_options(1000, true, None, None));
    let objects = host.shard.objects_in_use();
    let mut most = 0;
    for at in (1..BYTES).rev() {
        let mut segment = peer.segment(ACK | PSH, &[(at * 13) as u8]);
        segment.seq = segment.seq.wrapping_add(at);
        host.give(&segment.frame());
        host.sent.clear();
        most = most.max(host.shard.objects_in_use() - objects);
    }
    assert!(most <= BYTES as usize / 1000 + 2, "{most} objects");
    peer.send(&mut host, &[0]);
    let got = read_all(&mut host, conn);
    let text: Vec<u8> = (0..BYTES).map(|at| (at * 13) as u8).collect();
    assert!(got == text, "{} bytes", got.len());
    assert_eq!(host.shard.objects_in_use(), objects);
}

/// Random overlapping pieces of one stream, and FINs in wrong places: the first copy of a byte
/// counts, every byte comes once.
#[test]
fn overlapping_pieces_give_one_stream() {
    let text: Vec<u8> = (0..20_000u32)
        .map(|i| ((i * 31) ^ (i >> 8)) as u8)
        .collect();
    for seed in 0..10 {
        let (mut host, _, peer, conn) =
            connected(&Config::default(), syn_options(1000, true, None, None));
        let mut rng = Rng(seed);
        let mut got = Vec::new();
        for step in 0..20_000usize {
            let from = if step % 20 == 0 {
                got.len()
            } else {
                (got.len() + rng.below(8000) as usize).saturating_sub(rng.below(1500) as usize)
            };
            if from >= text.len() {
                continue;
            }
            let to = (from + 1 + rng.below(1400) as usize).min(text.len());
            let flags = ACK
                | if rng.below(200) == 0 && to == text.len() {
                    FIN
                } else {
                    0
                };
            let mut segment = peer.segment(flags, &text[from..to]);
            segment.seq = segment.seq.wrapping_add(from as u32);
            host.give(&segment.frame());
            host.sent.clear();
            got.extend(read_all(&mut host, conn));
            if got.len() == text.len() {
                break;
            }
        }
        assert_eq!(got, text, "seed {seed}");
    }
}
