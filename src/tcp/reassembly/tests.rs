use proptest::prelude::*;

use super::*;
use crate::tcp::testutil::Bytes;

fn seq(n: u32) -> SeqNum {
    SeqNum::new(u32::MAX - 1000) + n
}

fn bytes(start: u32, end: u32) -> Vec<u8> {
    (start..end).map(|i| (i % 251) as u8).collect()
}

fn insert(r: &mut Reassembly<Bytes>, start: u32, end: u32) -> Inserted {
    let mut pieces = Pieces::new();
    // In two pieces, so that trimming has to cross a border.
    let middle = (start + end) / 2;
    for (a, b) in [(start, middle), (middle, end)] {
        pieces.push(Bytes::new(&bytes(a, b)));
    }
    r.insert(seq(start), end - start, &mut pieces)
}

fn blocks(r: &Reassembly<Bytes>, room: usize) -> Vec<(u32, u32)> {
    let mut out = ArrayVec::new();
    r.sack_blocks(&mut out, room);
    let rel = |s: SeqNum| s.distance_from(seq(0));
    out.iter().map(|b| (rel(b.left), rel(b.right))).collect()
}

#[test]
fn the_latest_block_comes_first_and_room_is_respected() {
    let mut r = Reassembly::new();
    for start in [1000, 3000, 5000, 7000, 9000] {
        assert_eq!(insert(&mut r, start, start + 100), Inserted::New);
    }
    assert_eq!(blocks(&r, 3), [(9000, 9100), (7000, 7100), (5000, 5100)]);
    assert_eq!(insert(&mut r, 1000, 1100), Inserted::Duplicate);
    assert_eq!(blocks(&r, 4)[0], (1000, 1100));
    assert_eq!(blocks(&r, 0), []);
}

#[test]
fn when_full_the_newest_is_dropped_but_what_touches_is_kept() {
    let mut r = Reassembly::new();
    for i in 1..=REASSEMBLY_RANGES_MAX as u32 {
        assert_eq!(insert(&mut r, i * 10, i * 10 + 4), Inserted::New);
    }
    assert_eq!(insert(&mut r, 5, 7), Inserted::Full);
    assert_eq!(insert(&mut r, 14, 16), Inserted::New, "behind a range");
    assert_eq!(insert(&mut r, 18, 20), Inserted::New, "before a range");
    assert_eq!(insert(&mut r, 16, 18), Inserted::New, "between");
    assert_eq!(r.ranges(), REASSEMBLY_RANGES_MAX - 1);
    assert_eq!(blocks(&r, 1), [(10, 24)]);
}

/// A byte at a time, in an order of which each byte touches what is there.
fn one_by_one(order: impl Iterator<Item = u32>) -> Reassembly<Bytes> {
    let mut r = Reassembly::new();
    for at in order {
        let mut pieces = Pieces::new();
        pieces.push(Bytes::with_room(&bytes(at, at + 1), 1900));
        assert_eq!(r.insert(seq(at), 1, &mut pieces), Inserted::New);
    }
    r
}

#[test]
fn whatever_the_order_short_pieces_become_long_ones() {
    const END: u32 = 20_000;
    let up = one_by_one(1..END);
    let down = one_by_one((1..END).rev());
    // From the middle to both sides.
    let out = one_by_one((0..END - 1).map(|i| {
        let half = i / 2;
        END / 2 + if i % 2 == 0 { half } else { 0 } - if i % 2 == 1 { half + 1 } else { 0 }
    }));
    for (name, mut r) in [("up", up), ("down", down), ("out", out)] {
        assert_eq!(r.ranges(), 1, "{name}");
        let pieces = r.ranges[0].pieces.len();
        assert!(pieces <= END as usize / 1000 + 2, "{name}: {pieces} pieces");
        let mut queue = Fifo::new();
        assert_eq!(r.drain_into(seq(1), &mut queue), seq(END));
        let got: Vec<u8> = queue
            .iter_from(0)
            .flat_map(|p: &Bytes| p.as_bytes().to_vec())
            .collect();
        assert!(got == bytes(1, END), "{name}");
    }
}

const SPAN: u32 = 2000;

proptest! {
    #[test]
    fn agrees_with_a_bit_per_byte(
        arrivals in prop::collection::vec((1u32..SPAN, 2u32..200), 0..100),
        head in 0u32..100,
    ) {
        let mut r = Reassembly::new();
        let mut model = vec![false; SPAN as usize];
        for (start, len) in arrivals {
            let end = (start + len).min(SPAN);
            let had = model[start as usize..end as usize].iter().all(|b| *b);
            match insert(&mut r, start, end) {
                Inserted::New => model[start as usize..end as usize].fill(true),
                Inserted::Duplicate => prop_assert!(had),
                Inserted::Full => prop_assert_eq!(r.ranges(), REASSEMBLY_RANGES_MAX),
            }
            prop_assert!(r.ranges() <= REASSEMBLY_RANGES_MAX);
            prop_assert_eq!(r.bytes(), model.iter().filter(|b| **b).count());
            let pieces = r.ranges.iter().flat_map(|x| x.pieces.iter_from(0));
            let held: usize = pieces.map(Payload::len).sum();
            prop_assert_eq!(held, r.bytes());
        }
        // Everything before `head` arrives in order; then what follows comes out.
        let mut queue = Fifo::new();
        let nxt = r.drain_into(seq(head), &mut queue);
        let end = (head..SPAN).find(|i| !model[*i as usize]).unwrap_or(SPAN);
        prop_assert_eq!(nxt, seq(end));
        let got: Vec<u8> = queue.iter_from(0).flat_map(|p: &Bytes| p.as_bytes().to_vec()).collect();
        prop_assert_eq!(got, bytes(head, end));
        let left = model[end as usize..].iter().filter(|b| **b).count();
        prop_assert_eq!(r.bytes(), left);
    }
}
