use super::*;

fn seq(n: u32) -> SeqNum {
    SeqNum::new(u32::MAX - 2500) + n
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Ten segments of 1000 bytes, sent at 100, 101, … ms.
fn ten() -> (Scoreboard, Rack) {
    let mut board = Scoreboard::new();
    for i in 0..10u32 {
        let sent_at = at(100 + u64::from(i));
        board.on_sent(seq(i * 1000), seq(i * 1000 + 1000), sent_at);
    }
    (board, Rack::new(seq(0)))
}

fn deliver(board: &mut Scoreboard, rack: &mut Rack, now: u64, from: u32, to: u32) {
    let evidence = Evidence {
        now: at(now),
        min_rtt: Some(ms(40)),
        echo_ms: None,
    };
    let block = crate::wire::SackBlock {
        left: seq(from),
        right: seq(to),
    };
    board.sack(block, seq(0), seq(10_000), |run| {
        rack.on_delivered(run, &evidence)
    });
}

fn situation(now: u64) -> Situation {
    Situation {
        now: at(now),
        mss: 1000,
        recovering: false,
        min_rtt: Some(ms(40)),
        srtt: Some(ms(40)),
    }
}

#[test]
fn a_quarter_of_a_round_trip_is_waited_before_one_gap_is_a_loss() {
    let (mut board, mut rack) = ten();
    deliver(&mut board, &mut rack, 141, 1000, 2000);
    // The first was sent at 100, and is due at 100 + 40 + 10.
    let (newly, wait) = rack.detect(&mut board, &situation(141));
    assert_eq!((newly, wait), (0, Some(ms(9))));
    let (newly, wait) = rack.detect(&mut board, &situation(150));
    assert_eq!((newly, wait), (1000, None));
}

#[test]
fn three_segments_are_enough_without_waiting() {
    let (mut board, mut rack) = ten();
    deliver(&mut board, &mut rack, 143, 1000, 4000);
    let (newly, wait) = rack.detect(&mut board, &situation(143));
    assert_eq!((newly, wait), (1000, None));
}

#[test]
fn where_reordering_was_seen_three_segments_prove_nothing() {
    let (mut board, mut rack) = ten();
    deliver(&mut board, &mut rack, 143, 1000, 4000);
    deliver(&mut board, &mut rack, 144, 0, 500);
    assert!(rack.reordering_seen());
    let (newly, wait) = rack.detect(&mut board, &situation(144));
    assert_eq!(newly, 0);
    assert!(wait.is_some());
}

#[test]
fn duplicates_reported_widen_the_window_up_to_a_round_trip() {
    let (mut board, mut rack) = ten();
    deliver(&mut board, &mut rack, 141, 1000, 2000);
    let mut waits = Vec::new();
    for round in 0..6u32 {
        let (_, wait) = rack.detect(&mut board, &situation(141));
        waits.push(wait.map(Duration::as_millis));
        rack.adapt(seq(round * 1000), seq(round * 1000 + 1000), true);
        rack.adapt(seq(round * 1000), seq(round * 1000 + 1000), true);
    }
    let expected = [9, 19, 29, 39, 39, 39].map(Some);
    assert_eq!(waits, expected, "once per round, at most SRTT");
    for _ in 0..16 {
        rack.adapt(seq(9000), seq(10_000), false);
    }
    let (_, wait) = rack.detect(&mut board, &situation(141));
    assert_eq!(wait, Some(ms(9)), "forgotten after sixteen recoveries");
}

#[test]
fn a_lost_retransmission_is_found_by_a_later_one() {
    let (mut board, mut rack) = ten();
    deliver(&mut board, &mut rack, 150, 2000, 10_000);
    let (newly, _) = rack.detect(&mut board, &situation(150));
    assert_eq!(newly, 2000);
    board.on_resent(seq(0), seq(1000), at(150));
    board.on_resent(seq(1000), seq(2000), at(151));
    deliver(&mut board, &mut rack, 191, 1000, 2000);
    let recovering = Situation {
        recovering: true,
        ..situation(191)
    };
    let (newly, _) = rack.detect(&mut board, &recovering);
    assert_eq!(newly, 1000, "sent again before what has arrived");
}

#[test]
fn an_answer_to_the_first_transmission_says_nothing_about_the_second() {
    let (mut board, mut rack) = ten();
    board.on_resent(seq(0), seq(1000), at(150));
    // Sooner than a round trip after it was sent again.
    deliver(&mut board, &mut rack, 160, 0, 1000);
    let (newly, wait) = rack.detect(&mut board, &situation(500));
    assert_eq!((newly, wait), (0, None));
}

#[test]
fn a_timeout_spares_what_was_sent_a_moment_ago() {
    let (mut board, rack) = ten();
    board.on_sent(seq(10_000), seq(11_000), at(290));
    rack.detect_on_timeout(&mut board, seq(0), &situation(300));
    assert_eq!(board.lost_bytes(), 10_000);
}
