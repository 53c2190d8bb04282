use proptest::prelude::*;

use super::*;
use crate::time::Duration;

fn seq(n: u32) -> SeqNum {
    // Across the end of the circle.
    SeqNum::new(u32::MAX - 5000) + n
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn block(left: u32, right: u32) -> SackBlock {
    SackBlock {
        left: seq(left),
        right: seq(right),
    }
}

/// `[0, end)` sent in turns of `step` bytes, a millisecond apart.
fn sent(end: u32, step: u32) -> Scoreboard {
    let mut b = Scoreboard::new();
    for start in (0..end).step_by(step as usize) {
        let turn = at(u64::from(start / step) + 1);
        b.on_sent(seq(start), seq((start + step).min(end)), turn);
    }
    b
}

fn sack(b: &mut Scoreboard, left: u32, right: u32, end: u32) -> u32 {
    let mut newly = 0;
    b.sack(block(left, right), seq(0), seq(end), |r| newly += r.len());
    newly
}

#[test]
fn what_one_turn_sends_is_one_run() {
    let mut b = Scoreboard::new();
    for i in 0..64 {
        b.on_sent(seq(i * 1000), seq(i * 1000 + 1000), at(1));
    }
    assert_eq!(b.runs().count(), 1);
    b.on_sent(seq(64_000), seq(65_000), at(2));
    assert_eq!(b.runs().count(), 2);
    let mut gone = Vec::new();
    b.acknowledge(seq(64_500), |r| gone.push((r.len(), r.sent_at)));
    assert_eq!(gone, [(64_000, at(1)), (500, at(2))]);
    assert_eq!(b.front().map(Run::len), Some(500));
}

#[test]
fn blocks_that_touch_become_one() {
    let mut b = sent(6000, 1000);
    for (l, r) in [(1000, 2000), (3000, 4000), (2000, 3000)] {
        assert_eq!(sack(&mut b, l, r, 6000), 1000);
    }
    assert_eq!(sack(&mut b, 1000, 4000, 6000), 0, "nothing new");
    let sacked: Vec<_> = b.runs().filter(|r| r.is(Fate::SACKED)).collect();
    assert_eq!(sacked.len(), 1);
    assert_eq!((sacked[0].start, sacked[0].end), (seq(1000), seq(4000)));
    assert_eq!(b.sacked_bytes(), 3000);
}

#[test]
fn dup_thresh_by_runs_and_by_bytes() {
    let thresh = |blocks: &[(u32, u32)]| {
        let mut b = sent(10_000, 1000);
        for (l, r) in blocks {
            sack(&mut b, *l, *r, 10_000);
        }
        b.has_dup_thresh(1000)
    };
    assert!(!thresh(&[(1000, 2000), (3000, 4000)]));
    assert!(thresh(&[(1000, 1010), (3000, 3010), (5000, 5010)]));
    // Exactly two segments are not more than two segments.
    assert!(!thresh(&[(1000, 3000)]));
    assert!(thresh(&[(1000, 3001)]));
}

#[test]
fn lost_then_sent_again_then_lost_again() {
    let mut b = sent(5000, 1000);
    sack(&mut b, 3000, 5000, 5000);
    assert_eq!(b.mark_lost(|r| r.sent_at < at(3)), 2000);
    assert_eq!(b.mark_lost(|r| r.sent_at < at(3)), 0, "only once");
    assert_eq!(b.first_lost(seq(5000)), Some((seq(0), seq(2000))));
    b.on_resent(seq(0), seq(700), at(9));
    assert_eq!(b.lost_bytes(), 1300);
    assert_eq!(b.first_lost(seq(5000)), Some((seq(700), seq(2000))));
    assert_eq!(b.first_lost(seq(900)), Some((seq(700), seq(900))), "window");
    assert_eq!(b.first_lost(seq(700)), None);
    b.on_resent(seq(700), seq(2000), at(9));
    assert_eq!(b.first_lost(seq(5000)), None);
    assert_eq!(b.mark_lost(|r| r.is(Fate::RESENT)), 2000);
    b.unmark_lost();
    assert_eq!((b.lost_bytes(), b.sacked_bytes()), (0, 2000));
    b.unmark_sacked();
    assert!(b.is_plain());
}

#[test]
fn a_sacked_run_is_not_lost_any_more() {
    let mut b = sent(3000, 1000);
    assert_eq!(b.mark_lost(|_| true), 3000);
    assert_eq!(sack(&mut b, 500, 1500, 3000), 1000);
    assert_eq!((b.lost_bytes(), b.sacked_bytes()), (2000, 1000));
    b.acknowledge(seq(2000), |_| {});
    assert_eq!((b.lost_bytes(), b.sacked_bytes()), (1000, 0));
}

#[test]
fn duplicate_reports() {
    let report = |blocks: &[SackBlock]| duplicate_report(blocks, seq(10)).is_some();
    assert!(report(&[block(0, 10)]));
    assert!(report(&[block(20, 30), block(15, 40)]));
    assert!(!report(&[block(20, 30), block(50, 60)]));
    assert!(!report(&[]));
}

/// The obvious way: an entry per byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Byte {
    fate: Fate,
    sent_at: Instant,
}

const SPAN: u32 = 3000;

#[derive(Clone, Debug)]
enum Step {
    Sack(u32, u32),
    Lose(u64),
    Resend(u32, u32),
    Acknowledge(u32),
    Renege,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..SPAN, 1u32..300).prop_map(|(l, n)| Step::Sack(l, (l + n).min(SPAN))),
        (0u64..40).prop_map(Step::Lose),
        (0..SPAN, 1u32..300).prop_map(|(l, n)| Step::Resend(l, (l + n).min(SPAN))),
        (0u32..300).prop_map(Step::Acknowledge),
        Just(Step::Renege),
    ]
}

fn count(model: &[Byte], una: u32, fate: Fate) -> u32 {
    let bytes = model.iter().skip(una as usize);
    bytes.filter(|b| b.fate.contains(fate)).count() as u32
}

fn play(b: &mut Scoreboard, model: &mut [Byte], una: &mut u32, now: Instant, step: &Step) {
    match *step {
        Step::Sack(l, r) if l >= *una => {
            let before = count(model, *una, Fate::SACKED);
            let mut newly = 0;
            b.sack(block(l, r), seq(*una), seq(SPAN), |run| newly += run.len());
            for byte in &mut model[l as usize..r as usize] {
                byte.fate = byte.fate.difference(Fate::LOST).union(Fate::SACKED);
            }
            assert_eq!(newly, count(model, *una, Fate::SACKED) - before);
        }
        Step::Lose(before) => {
            let before = at(before);
            b.mark_lost(|run| run.sent_at < before);
            for byte in model.iter_mut() {
                if byte.sent_at < before && !byte.fate.contains(Fate::SACKED) {
                    byte.fate |= Fate::LOST;
                }
            }
        }
        Step::Resend(l, r) => {
            let (l, r) = (l.max(*una), r.max(*una));
            if l < r {
                b.on_resent(seq(l), seq(r), now);
            }
            for byte in &mut model[l as usize..r as usize] {
                if !byte.fate.contains(Fate::SACKED) {
                    *byte = Byte {
                        fate: Fate::RESENT,
                        sent_at: now,
                    };
                }
            }
        }
        Step::Acknowledge(n) => {
            *una = (*una + n).min(SPAN);
            b.acknowledge(seq(*una), |_| {});
        }
        Step::Renege => {
            b.unmark_sacked();
            for byte in model.iter_mut() {
                byte.fate -= Fate::SACKED;
            }
        }
        Step::Sack(..) => {}
    }
}

#[test]
fn more_turns_than_can_be_told_apart_leave_room_for_what_is_sacked() {
    let mut b = Scoreboard::new();
    let sent = 3 * OUTSTANDING_RUNS_MAX as u32;
    for i in 0..sent {
        b.on_sent(seq(i), seq(i + 1), at(u64::from(i)));
        assert!(b.runs().count() <= OUTSTANDING_RUNS_MAX);
    }
    // Every second one is lost.
    let mut news = 0;
    for i in 0..SACK_RANGES_MAX as u32 {
        let block = SackBlock {
            left: seq(2 * i + 1),
            right: seq(2 * i + 2),
        };
        b.sack(block, seq(0), seq(sent), |run| news += run.len());
    }
    assert_eq!(news, SACK_RANGES_MAX as u32);
    assert_eq!(b.sacked_bytes(), news);
    // What was sent first is not taken to have been sent much later.
    let front = b.front().map(|run| (run.start, run.end));
    assert_eq!(front, Some((seq(0), seq(1))));
    let late = |run: &&Run| run.sent_at > at(u64::from(run.end.distance_from(seq(0))) + 64);
    let latest = b.runs().find(late);
    assert_eq!(latest, None);
}

proptest! {
    #[test]
    fn agrees_with_an_entry_per_byte(steps in prop::collection::vec(step(), 0..30)) {
        let mut b = sent(SPAN, 100);
        let mut model: Vec<Byte> = (0..SPAN)
            .map(|i| Byte { fate: Fate::empty(), sent_at: at(u64::from(i / 100) + 1) })
            .collect();
        let (mut una, mut reneged) = (0, false);
        for (i, step) in steps.iter().enumerate() {
            reneged |= matches!(step, Step::Renege);
            // When something was sent that the peer once had is not kept.
            let step = match step {
                Step::Lose(_) if reneged => Step::Lose(1000),
                other => other.clone(),
            };
            play(&mut b, &mut model, &mut una, at(50 + i as u64), &step);
            prop_assert_eq!(b.sacked_bytes(), count(&model, una, Fate::SACKED));
            prop_assert_eq!(b.lost_bytes(), count(&model, una, Fate::LOST));
            let lost = (una..SPAN).find(|i| model[*i as usize].fate.contains(Fate::LOST));
            prop_assert_eq!(b.first_lost(seq(SPAN)).map(|l| l.0), lost.map(seq));
            let mut end = seq(una);
            for run in b.runs() {
                prop_assert_eq!(run.start, end, "no gaps");
                end = run.end;
                let first = run.start.distance_from(seq(0)) as usize;
                for byte in &model[first..first + run.len() as usize] {
                    if !run.is(Fate::SACKED) && !reneged {
                        prop_assert_eq!((byte.fate, byte.sent_at), (run.fate, run.sent_at));
                    }
                }
            }
            prop_assert_eq!(end, seq(SPAN));
            let ranges = b.runs().filter(|r| r.is(Fate::SACKED)).count();
            prop_assert_eq!(usize::from(b.sacked_ranges), ranges);
        }
    }

    #[test]
    fn stays_small_whatever_the_peer_says(
        blocks in prop::collection::vec(any::<(u32, u32, u32)>(), 0..2000),
        una: u32,
        flight in 1u32..1 << 30,
    ) {
        let mut b = Scoreboard::new();
        let (una, max) = (SeqNum::new(una), SeqNum::new(una) + flight);
        for i in 0..flight.min(3000) {
            let end = if i + 1 == flight.min(3000) { max } else { una + i + 1 };
            b.on_sent(una + i, end, at(u64::from(i)));
        }
        for (l, r, n) in blocks {
            let b1 = SackBlock { left: SeqNum::new(l), right: SeqNum::new(r) };
            let left = una + l % flight;
            let b2 = SackBlock { left, right: left + r % 64 };
            b.sack(b1, una, max, |_| {});
            b.sack(b2, una, max, |_| {});
            b.mark_lost(|run| run.start.get() % 3 == n % 3);
            let start = una + n % flight;
            b.on_resent(start, (start + 10).earliest(max), at(u64::from(n)));
            prop_assert!(b.runs().count() <= OUTSTANDING_RUNS_MAX);
            prop_assert!(usize::from(b.sacked_ranges) <= SACK_RANGES_MAX);
            prop_assert!(b.sacked_bytes() + b.lost_bytes() <= flight);
        }
    }
}
