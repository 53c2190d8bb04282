use proptest::prelude::*;

use super::*;

fn seq(n: u32) -> SeqNum {
    // Across the end of the circle.
    SeqNum::new(u32::MAX - 5000) + n
}

fn block(left: u32, right: u32) -> SackBlock {
    SackBlock {
        left: seq(left),
        right: seq(right),
    }
}

fn board(blocks: &[(u32, u32)]) -> Scoreboard {
    let mut b = Scoreboard::new();
    for (l, r) in blocks {
        b.update(&[block(*l, *r)], seq(0), seq(1_000_000), 1000);
    }
    b
}

#[test]
fn blocks_that_touch_become_one() {
    let b = board(&[(1000, 2000), (3000, 4000), (2000, 3000)]);
    assert_eq!(
        b.ranges,
        [Range {
            start: seq(1000),
            end: seq(4000)
        }]
    );
    assert_eq!(b.sacked_bytes(), 3000);
}

#[test]
fn is_lost_by_runs_and_by_bytes() {
    assert_eq!(board(&[(1000, 2000), (3000, 4000)]).lost_edge(), None);
    let three_runs = board(&[(1000, 1010), (3000, 3010), (5000, 5010)]);
    assert_eq!(three_runs.lost_edge(), Some(seq(1000)));
    // Exactly two segments are not more than two segments.
    assert_eq!(board(&[(1000, 3000)]).lost_edge(), None);
    assert_eq!(board(&[(1000, 3001)]).lost_edge(), Some(seq(1000)));
    let higher = board(&[(1000, 1010), (2000, 2010), (3000, 3010), (4000, 4010)]);
    assert_eq!(higher.lost_edge(), Some(seq(2000)));
}

#[test]
fn gaps() {
    let b = board(&[(1000, 2000), (3000, 4000)]);
    let gap = |from, limit| {
        b.next_gap(seq(from), seq(limit))
            .map(|g| (g.start.distance_from(seq(0)), g.end.distance_from(seq(0))))
    };
    assert_eq!(gap(0, 9000), Some((0, 1000)));
    assert_eq!(gap(500, 700), Some((500, 700)));
    assert_eq!(gap(1000, 9000), Some((2000, 3000)));
    assert_eq!(gap(1500, 9000), Some((2000, 3000)));
    assert_eq!(gap(3000, 9000), Some((4000, 9000)));
    assert_eq!(gap(3000, 4000), None);
    assert_eq!(gap(9000, 9000), None);
    let last = b.last_gap(seq(0), seq(4000)).map(|g| (g.start, g.end));
    assert_eq!(last, Some((seq(2000), seq(3000))));
    let last = b.last_gap(seq(0), seq(5000)).map(|g| (g.start, g.end));
    assert_eq!(last, Some((seq(4000), seq(5000))));
}

#[test]
fn duplicate_reports() {
    assert!(reports_duplicate(&[block(0, 10)], seq(10)));
    assert!(reports_duplicate(&[block(20, 30), block(15, 40)], seq(10)));
    assert!(!reports_duplicate(&[block(20, 30), block(50, 60)], seq(10)));
    assert!(!reports_duplicate(&[], seq(10)));
}

/// The obvious way: a bit per byte.
struct Model(Vec<bool>);

const SPAN: u32 = 3000;

impl Model {
    fn pipe(&self, una: u32, nxt: u32, lost: u32, high_rxt: u32) -> u32 {
        (una..nxt)
            .filter(|i| !self.0[*i as usize])
            .map(|i| u32::from(i >= lost) + u32::from(i < high_rxt))
            .sum()
    }

    fn lost_edge(&self, mss: u32) -> Option<u32> {
        let (mut runs, mut bytes) = (0, 0);
        for i in (0..SPAN as usize).rev() {
            let starts_run = self.0[i] && !self.0.get(i + 1).is_some_and(|n| *n);
            runs += u32::from(starts_run);
            bytes += u32::from(self.0[i]);
            let run_ends = self.0[i] && (i == 0 || !self.0[i - 1]);
            if run_ends && (runs >= DUP_THRESH || bytes > 2 * mss) {
                return Some(i as u32);
            }
        }
        None
    }
}

proptest! {
    #[test]
    fn agrees_with_a_bit_per_byte(
        blocks in prop::collection::vec((0u32..SPAN, 1u32..300), 0..40),
        una in 0u32..SPAN / 2,
        marks in (0u32..SPAN, 0u32..SPAN),
    ) {
        let mut b = Scoreboard::new();
        let mut m = Model(vec![false; SPAN as usize]);
        for (l, n) in blocks {
            let r = (l + n).min(SPAN);
            let before = m.0.iter().filter(|s| **s).count() as u32;
            m.0[l as usize..r as usize].fill(true);
            let after = m.0.iter().filter(|s| **s).count() as u32;
            let newly = b.update(&[block(l, r)], seq(0), seq(SPAN), 100);
            prop_assert_eq!(newly, after - before);
        }
        prop_assert_eq!(b.lost_edge(), m.lost_edge(100).map(seq));
        b.on_cumulative_ack(seq(una));
        m.0[..una as usize].fill(false);
        prop_assert_eq!(b.sacked_bytes(), m.0.iter().filter(|s| **s).count() as u32);
        let (lost, high) = (marks.0.max(una), marks.1.max(una));
        let pipe = b.pipe(seq(una), seq(SPAN), seq(lost), seq(high));
        prop_assert_eq!(pipe, m.pipe(una, SPAN, lost, high));
        let gap = b.next_gap(seq(una), seq(SPAN));
        let first = (una..SPAN).find(|i| !m.0[*i as usize]);
        prop_assert_eq!(gap.map(|g| g.start), first.map(seq));
        for pair in b.ranges.windows(2) {
            prop_assert!(pair[0].end.before(pair[1].start));
        }
    }

    #[test]
    fn stays_small_whatever_the_peer_says(
        blocks in prop::collection::vec(any::<(u32, u32)>(), 0..2000),
        una: u32,
        flight in 0u32..1 << 30,
    ) {
        let mut b = Scoreboard::new();
        let (una, max) = (SeqNum::new(una), SeqNum::new(una) + flight);
        for (l, r) in blocks {
            let b1 = SackBlock { left: SeqNum::new(l), right: SeqNum::new(r) };
            let left = una + l % flight.max(1);
            let b2 = SackBlock { left, right: left + r % 64 };
            b.update(&[b1, b2], una, max, 1460);
            prop_assert!(b.ranges.len() <= SACK_RANGES_MAX);
            prop_assert!(b.sacked_bytes() <= flight);
        }
        let _ = b.pipe(una, max, una, una);
    }
}
