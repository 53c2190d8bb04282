//! Losses: how they are noticed and repaired.

use super::script::{Script, plain, with_sack};
use crate::tcp::{Config, Event, State};
use crate::time::Duration;

/// Ten segments out, of the ten that the initial window allows.
fn ten_out(cfg: &Config) -> Script {
    let mut s = Script::established(cfg);
    s.write(40_000);
    assert_eq!(s.discard(), 10);
    s
}

/// The same over a path with a round trip of `ms`, at that time.
fn ten_out_over(cfg: &Config, ms: u64) -> Script {
    let mut s = Script::established_after(cfg, ms);
    s.write(40_000);
    assert_eq!(s.discard(), 10);
    s
}

#[test]
fn a_timeout_sends_the_first_segment_again_and_backs_off() {
    let mut s = Script::established(&plain());
    s.write(1500);
    assert_eq!(s.discard(), 2);
    for at in [200, 600, 1400, 3000] {
        s.at(at);
        let out = s.expect(". 1:1001(1000)");
        assert!(out.retransmission);
        assert_eq!(s.c.info().cwnd, 1000);
    }
    assert_eq!(s.c.info().rto, Duration::from_millis(3200));
    // Progress: the rest follows at once, and the back-off stays until there is a measurement.
    s.inject(". 1:1(0) ack 1001");
    s.expect("P. 1001:1501(500)");
    assert_eq!(s.c.info().rto, Duration::from_millis(3200));
    s.inject(". 1:1(0) ack 1501");
    s.write(10);
    s.expect("P. 1501:1511(10)");
    s.inject(". 1:1(0) ack 1511");
    assert_eq!(
        s.c.info().rto,
        Duration::from_millis(200),
        "a new measurement"
    );
}

#[test]
fn ssthresh_is_halved_once_per_timeout_of_a_segment() {
    let mut s = ten_out(&plain());
    s.at(200);
    s.expect(". 1:1001(1000)");
    assert_eq!((s.c.info().cwnd, s.c.info().ssthresh), (1000, 5000));
    s.at(600);
    s.expect(". 1:1001(1000)");
    assert_eq!((s.c.info().cwnd, s.c.info().ssthresh), (1000, 5000));
}

#[test]
fn after_a_timeout_everything_outstanding_is_sent_again_in_slow_start() {
    let mut s = ten_out(&plain());
    s.at(200);
    s.expect(". 1:1001(1000)");
    // RFC 5682: the first answer is used to ask whether the timeout was a mistake.
    s.inject(". 1:1(0) ack 1001");
    s.expect(". 10001:11001(1000)");
    s.expect(". 11001:12001(1000)");
    s.nothing();
    // It was not.
    s.inject(". 1:1(0) ack 1001");
    s.expect(". 1001:2001(1000)");
    s.nothing();
    s.inject(". 1:1(0) ack 2001");
    s.expect(". 2001:3001(1000)");
    s.expect(". 3001:4001(1000)");
    s.nothing();
    // The acknowledgment jumps: nothing that has arrived is sent again.
    s.inject(". 1:1(0) ack 12001");
    let out = s.expect(". 12001:13001(1000)");
    assert!(!out.retransmission);
    assert!(!s.c.info().recovering);
}

#[test]
fn enough_unanswered_retransmissions_end_the_connection() {
    let mut s = Script::established(&Config {
        retries: 2,
        ..plain()
    });
    s.write(100);
    s.discard();
    s.at(200);
    s.expect("P. 1:101(100)");
    s.at(600);
    s.expect("P. 1:101(100)");
    s.at(1400);
    s.nothing();
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::TimedOut, Event::Closed]);
}

#[test]
fn the_user_timeout_ends_the_connection_on_time() {
    let cfg = Config {
        user_timeout: Some(Duration::from_millis(1000)),
        ..plain()
    };
    let mut s = Script::established(&cfg);
    s.at(5000);
    s.write(100);
    s.discard();
    s.at(5200);
    s.expect("P. 1:101(100)");
    s.at(5600);
    s.expect("P. 1:101(100)");
    s.at(5999);
    s.state(State::Established);
    s.at(6000);
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::TimedOut, Event::Closed]);
}

#[test]
fn limited_transmit_then_fast_retransmit_without_sack() {
    let mut s = ten_out(&plain());
    s.inject(". 1:1(0) ack 1001");
    // Slow start: one acknowledged, one more allowed.
    assert_eq!(s.discard(), 2);
    // 11 segments are out (1001..12001); 1001..2001 is lost.
    for seq in [12_001, 13_001] {
        s.inject(". 1:1(0) ack 1001");
        s.expect(&format!(". {seq}:{}(1000)", seq + 1000));
        s.nothing();
    }
    s.inject(". 1:1(0) ack 1001");
    let out = s.expect(". 1001:2001(1000)");
    assert!(out.retransmission);
    s.nothing();
    // FlightSize without what limited transmit sent: 11 segments; plus three inflated.
    assert_eq!((s.c.info().ssthresh, s.c.info().cwnd), (5500, 8500));
    assert_eq!(s.c.counters().fast_recoveries, 1);
    // Further duplicates inflate until new data fits: 13 are out.
    for _ in 0..4 {
        s.inject(". 1:1(0) ack 1001");
        s.nothing();
    }
    s.inject(". 1:1(0) ack 1001");
    s.nothing();
    s.inject(". 1:1(0) ack 1001");
    s.expect(". 14001:15001(1000)");
    // A partial acknowledgment: the next hole, and deflation.
    s.inject(". 1:1(0) ack 5001");
    s.expect(". 5001:6001(1000)");
    s.discard();
    assert!(s.c.info().recovering);
    // A full one ends it.
    s.inject(". 1:1(0) ack 14001");
    assert!(!s.c.info().recovering);
    assert!(s.c.info().cwnd <= 5500);
}

#[test]
fn duplicates_after_a_timeout_do_not_start_fast_recovery() {
    let mut s = ten_out(&plain());
    s.at(200);
    s.expect(". 1:1001(1000)");
    for _ in 0..5 {
        s.inject(". 1:1(0) ack 1");
        s.nothing();
    }
    assert_eq!(s.c.counters().fast_recoveries, 0);
}

#[test]
fn what_is_not_a_duplicate_ack_does_not_count() {
    let mut s = ten_out(&plain());
    for i in 0..10 {
        // A window update, and an ACK with data.
        s.inject(&format!(". 1:1(0) ack 1 win {}", 50_000 + i));
    }
    for i in 0..10 {
        s.inject(&format!(
            ". {}:{}(10) ack 1 win 50009",
            1 + i * 10,
            11 + i * 10
        ));
    }
    s.discard();
    assert_eq!(s.c.counters().dup_acks_in, 0);
    assert_eq!(s.c.counters().retransmits, 0);
}

#[test]
fn an_invented_flood_of_duplicates_gains_nothing() {
    let mut s = ten_out(&plain());
    let mut sent = 0;
    for _ in 0..100_000 {
        s.inject(". 1:1(0) ack 1");
        sent += s.discard();
    }
    assert!(sent <= 13, "{sent} segments for nothing");
}

#[test]
fn sack_starts_recovery_and_fills_exactly_the_holes() {
    let mut s = ten_out_over(&with_sack(), 10);
    s.at(20);
    s.inject(". 1:1(0) ack 1 <sack 1001:2001>");
    // Limited transmit: the pipe shrank by one segment.
    s.expect(". 10001:11001(1000)");
    s.inject(". 1:1(0) ack 1 <sack 1001:3001>");
    s.expect(". 11001:12001(1000)");
    s.nothing();
    s.inject(". 1:1(0) ack 1 <sack 4001:5001 1001:3001>");
    // Third: recovery. Lost: 1..1001 and 3001..4001, sent with something that has arrived.
    let out = s.expect(". 1:1001(1000)");
    assert!(out.retransmission);
    s.nothing();
    assert_eq!(s.c.info().ssthresh, 5000);
    assert_eq!(s.c.info().lost, 1000);
    // Proportional rate reduction: the pipe drains to ssthresh before more is sent.
    s.inject(". 1:1(0) ack 1 <sack 4001:8001 1001:3001>");
    s.nothing();
    s.inject(". 1:1(0) ack 1 <sack 4001:10001 1001:3001>");
    let out = s.expect(". 3001:4001(1000)");
    assert!(out.retransmission);
    let out = s.expect(". 12001:13001(1000)");
    assert!(!out.retransmission);
    s.discard();
    s.at(30);
    s.inject(". 1:1(0) ack 3001 <sack 4001:10001>");
    assert!(s.c.info().recovering);
    s.discard();
    s.inject(". 1:1(0) ack 13001");
    assert!(!s.c.info().recovering);
    assert_eq!(s.c.info().cwnd, 5000);
    assert_eq!(s.c.counters().retransmits, 2);
}

#[test]
fn one_ack_that_sacks_enough_is_enough() {
    let mut s = ten_out(&with_sack());
    s.inject(". 1:1(0) ack 1 <sack 1001:4001>");
    s.expect(". 1:1001(1000)");
    assert_eq!(s.c.counters().fast_recoveries, 1);
}

#[test]
fn duplicate_acks_without_news_do_not_count_with_sack() {
    let mut s = ten_out_over(&with_sack(), 10);
    s.at(20);
    for _ in 0..10 {
        s.inject(". 1:1(0) ack 1 <sack 1001:2001>");
    }
    assert_eq!(s.c.counters().dup_acks_in, 1);
    assert_eq!(s.c.counters().retransmits, 0);
}

#[test]
fn a_lost_tail_is_found_by_what_was_sent_again() {
    let mut s = Script::established_after(&with_sack(), 10);
    s.write(10_000);
    assert_eq!(s.discard(), 10);
    s.at(20);
    // 1..1001 and 9001..10001 are lost; everything else arrived.
    s.inject(". 1:1(0) ack 1 <sack 1001:9001>");
    s.expect(". 1:1001(1000)");
    s.nothing();
    s.at(30);
    s.inject(". 1:1(0) ack 9001");
    let out = s.expect("P. 9001:10001(1000)");
    assert!(out.retransmission, "sent before what has arrived");
    s.nothing();
    s.inject(". 1:1(0) ack 10001");
    assert!(!s.c.info().recovering);
    assert_eq!(s.c.counters().timeouts, 0);
}

#[test]
fn forged_and_old_sack_blocks_are_ignored() {
    let mut s = ten_out(&with_sack());
    for blocks in [
        "9001:10002",             // beyond SND.NXT
        "20001:30001",            // far beyond
        "0:1",                    // below SND.UNA
        "-5000:5001",             // straddles SND.UNA from an impossible past
        "5001:5001",              // empty
        "6001:5001",              // backwards
        "1:2147483648",           // half the circle
        "-2147483648:10001",      // the other half
        "2147418113:-1879048192", // each comparison holds, but not together
    ] {
        s.inject(&format!(". 1:1(0) ack 1 <sack {blocks}>"));
        assert_eq!(s.c.info().sacked, 0, "{blocks}");
    }
    s.nothing();
    assert_eq!(s.c.counters().dup_acks_in, 0);
}

#[test]
fn a_dsack_report_is_counted_and_not_taken_for_news() {
    let mut s = ten_out(&with_sack());
    s.inject(". 1:1(0) ack 3001 <sack 1:1001>");
    assert_eq!(s.c.counters().dsacks_in, 1);
    assert_eq!(s.c.counters().dup_acks_in, 0);
    assert_eq!(s.c.info().sacked, 0);
}

#[test]
fn a_timeout_keeps_what_is_sacked_unless_the_peer_has_thrown_it_away() {
    let mut s = Script::established_after(&with_sack(), 10);
    s.write(3000);
    assert_eq!(s.discard(), 3);
    s.at(20);
    s.inject(". 1:1(0) ack 1 <sack 1001:2001>");
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    let timeout = s.c.poll_at();
    s.at_time(timeout);
    s.expect(". 1:1001(1000)");
    assert_eq!(s.c.counters().timeouts, 1);
    assert_eq!(s.c.info().sacked, 1000);
    // The peer acknowledges up to what it had SACKed, and no further.
    s.inject(". 1:1(0) ack 1001");
    s.discard();
    let timeout = s.c.poll_at();
    s.at_time(timeout);
    assert_eq!(s.c.info().sacked, 0, "it has reneged");
    let out = s.expect(". 1001:2001(1000)");
    assert!(out.retransmission);
}

#[test]
fn a_lower_path_mtu_sends_again_at_once_in_smaller_segments() {
    let mut s = ten_out(&plain());
    s.c.set_path_mss(600);
    s.run();
    for seq in (1..9001).step_by(600) {
        let out = s.expect(&format!(". {seq}:{}(600)", seq + 600));
        assert!(out.retransmission);
    }
    s.discard();
    assert_eq!(s.c.info().cwnd, 10_000, "not a congestion signal");
    s.c.set_path_mss(1);
    assert_eq!(s.c.info().snd_mss, 48);
}

#[test]
fn the_window_grows_only_when_it_is_used() {
    let mut s = Script::established(&plain());
    for i in 0..50u32 {
        s.write(500);
        s.discard();
        s.inject(&format!(". 1:1(0) ack {}", 501 + i * 500));
    }
    assert_eq!(s.c.info().cwnd, 10_000);
    s.write(40_000);
    assert_eq!(s.discard(), 10);
    s.inject(". 1:1(0) ack 26001");
    assert_eq!(s.c.info().cwnd, 11_000);
    s.inject(". 1:1(0) ack 30001");
    assert_eq!(
        s.c.info().cwnd,
        13_000,
        "at most two segments per acknowledgment"
    );
}

#[test]
fn idleness_brings_the_window_back_to_where_it_started() {
    let mut s = Script::established(&plain());
    s.write(60_000);
    let mut acked = 1;
    while acked < 60_001 {
        acked += 1000;
        s.inject(&format!(". 1:1(0) ack {acked}"));
        s.discard();
    }
    assert!(s.c.info().cwnd > 20_000);
    s.at(150);
    s.write(10);
    s.discard();
    assert!(s.c.info().cwnd > 20_000);
    s.inject(". 1:1(0) ack 60011");
    s.at(1000);
    s.write(10);
    assert_eq!(s.c.info().cwnd, 10_000);
    s.discard();
}

#[test]
fn karn_never_times_a_retransmission() {
    let mut s = Script::established(&plain());
    assert_eq!(s.c.info().srtt, Some(Duration::ZERO));
    s.write(100);
    s.discard();
    s.at(200);
    s.expect("P. 1:101(100)");
    s.at(390);
    s.inject(". 1:1(0) ack 101");
    assert_eq!(s.c.info().srtt, Some(Duration::ZERO));
    s.write(100);
    s.discard();
    s.at(398);
    s.inject(". 1:1(0) ack 201");
    assert_eq!(
        s.c.info().srtt,
        Some(Duration::from_millis(1)),
        "an eighth of eight"
    );
}

#[test]
fn timestamps_time_retransmissions_too() {
    let mut s = Script::accept(
        &Config {
            timestamps: true,
            ..plain()
        },
        "S 0:0(0) <TS val 5 ecr 0>",
    );
    s.expect("S. 0:0(0)");
    s.inject(". 1:1(0) ack 1 <TS val 5 ecr 0>");
    s.write(100);
    s.discard();
    s.at(200);
    s.expect("P. 1:101(100) <TS val 200 ecr 5>");
    s.at(208);
    s.inject(". 1:1(0) ack 101 <TS val 6 ecr 200>");
    assert_eq!(s.c.info().srtt, Some(Duration::from_millis(1)));
}

/// The peer had everything, but its ACK was lost. What the retransmission provokes echoes the
/// timestamp of the first transmission: its age is the timeout, not a round-trip time.
#[test]
fn the_echo_of_a_duplicate_is_no_measurement() {
    let cfg = Config {
        timestamps: true,
        ..plain()
    };
    let mut s = Script::accept(&cfg, "S 0:0(0) <TS val 5 ecr 0>");
    s.expect("S. 0:0(0)");
    s.at(10);
    s.inject(". 1:1(0) ack 1 <TS val 5 ecr 0>");
    s.at(1000);
    s.write(10);
    s.expect("P. 1:11(10) <TS val 1000 ecr 5>");
    s.at(1200);
    s.expect("P. 1:11(10) <TS val 1200 ecr 5>");
    s.at(1211);
    s.inject(". 1:1(0) ack 11 <TS val 6 ecr 1000>");
    assert_eq!(s.c.info().srtt, Some(Duration::from_millis(10)));
    // Sooner than any answer has come, it is one to the first transmission: the path is slow.
    s.write(10);
    s.expect("P. 11:21(10) <TS val 1211");
    s.at(1211 + 400);
    s.expect("P. 11:21(10) <TS val 1611");
    s.at(1615);
    s.inject(". 1:1(0) ack 21 <TS val 7 ecr 1211>");
    assert!(s.c.info().srtt > Some(Duration::from_millis(50)));
}
