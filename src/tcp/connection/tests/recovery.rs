//! Time-based loss detection, probes of the tail, and recoveries that turn out to have been for
//! nothing: RFC 8985, RFC 6937, RFC 5682, RFC 4015, RFC 2883.

use super::script::{Script, plain, with_sack};
use crate::tcp::{Config, Event, State};
use crate::time::Duration;

fn stamped() -> Config {
    Config {
        timestamps: true,
        mss_local: 1012,
        ..with_sack()
    }
}

/// ESTABLISHED over a path with a round trip of `ms`, with timestamps that count from 1000.
fn stamped_after(ms: u64) -> Script {
    let mut s = Script::accept(
        &stamped(),
        "S 0:0(0) win 60000 <mss 1012,sackOK,TS val 5 ecr 0>",
    );
    s.expect("S. 0:0(0)");
    s.at(ms);
    s.inject(". 1:1(0) ack 1 win 60000 <TS val 5 ecr 0>");
    s.events();
    s.c.set_quick_ack(false);
    s
}

fn over(cfg: &Config, ms: u64, bytes: usize) -> Script {
    let mut s = Script::established_after(cfg, ms);
    s.write(bytes);
    s.discard();
    s
}

#[test]
fn one_gap_is_a_loss_after_a_quarter_of_a_round_trip() {
    let mut s = over(&with_sack(), 40, 2000);
    s.at(80);
    s.inject(". 1:1(0) ack 1 <sack 1001:2001>");
    s.nothing();
    s.at(89);
    s.nothing();
    s.at(90);
    let out = s.expect(". 1:1001(1000)");
    assert!(out.retransmission);
    s.at(130);
    s.inject(". 1:1(0) ack 2001");
    assert_eq!(
        (s.c.counters().timeouts, s.c.counters().fast_recoveries),
        (0, 1)
    );
    assert!(!s.c.info().recovering);
}

#[test]
fn what_arrives_within_the_reordering_window_is_not_sent_again() {
    let mut s = over(&with_sack(), 40, 2000);
    s.at(80);
    s.inject(". 1:1(0) ack 1 <sack 1001:2001>");
    s.at(85);
    s.inject(". 1:1(0) ack 2001");
    s.at(1000);
    s.nothing();
    assert_eq!(s.c.counters().retransmits, 0);
    assert!(s.c.info().reordering);
}

#[test]
fn once_reordering_was_seen_three_duplicates_prove_nothing() {
    let mut s = over(&with_sack(), 40, 1000);
    s.write(2000);
    s.discard();
    s.at(80);
    s.inject(". 1:1(0) ack 1 <sack 1001:2001>");
    s.inject(". 1:1(0) ack 3001");
    s.write(8000);
    s.discard();
    s.at(120);
    s.inject(". 1:1(0) ack 3001 <sack 4001:5001>");
    s.inject(". 1:1(0) ack 3001 <sack 4001:6001>");
    s.inject(". 1:1(0) ack 3001 <sack 4001:8001>");
    s.nothing();
    s.at(125);
    s.inject(". 1:1(0) ack 11001");
    assert_eq!(s.c.counters().retransmits, 0);
}

#[test]
fn a_retransmission_that_is_lost_is_sent_again_without_a_timeout() {
    let mut s = over(&with_sack(), 40, 10_000);
    s.at(80);
    // 1..2001 are lost.
    s.inject(". 1:1(0) ack 1 <sack 2001:6001>");
    s.expect(". 1:1001(1000)");
    s.write(2000);
    s.inject(". 1:1(0) ack 1 <sack 2001:10001>");
    s.expect(". 1001:2001(1000)");
    s.discard();
    // The first is lost once more.
    s.at(120);
    s.inject(". 1:1(0) ack 1 <sack 1001:12001>");
    let out = s.expect(". 1:1001(1000)");
    assert!(out.retransmission);
    s.at(160);
    s.inject(". 1:1(0) ack 12001");
    assert_eq!(s.c.counters().timeouts, 0);
    assert_eq!(s.c.counters().retransmits, 3);
}

#[test]
fn the_window_comes_down_in_proportion_to_what_arrives() {
    let mut s = over(&with_sack(), 40, 40_000);
    s.at(80);
    s.inject(". 1:1(0) ack 1 <sack 1001:4001>");
    s.expect(". 1:1001(1000)");
    let mut sent = 0;
    for end in (5001..=10_001).step_by(1000) {
        s.inject(&format!(". 1:1(0) ack 1 <sack 1001:{end}>"));
        sent += s.discard();
    }
    // ssthresh is half: five segments for ten that left, the first retransmission included.
    assert_eq!((s.c.info().ssthresh, sent), (5000, 4));
    s.at(120);
    s.inject(". 1:1(0) ack 10001");
    assert_eq!(s.c.info().cwnd, 5000);
}

#[test]
fn a_lost_tail_is_probed_with_new_data_first() {
    let mut s = over(&with_sack(), 40, 40_000);
    // Two round trips, and nothing came.
    s.at(119);
    s.nothing();
    s.at(120);
    let out = s.expect(". 10001:11001(1000)");
    assert!(
        !out.retransmission,
        "new data, beyond the window by one segment"
    );
    assert_eq!(s.c.counters().tail_probes, 1);
    s.at(160);
    // Everything but the probe was lost.
    s.inject(". 1:1(0) ack 1 <sack 10001:11001>");
    // No reordering is known; a quarter of a round trip has passed.
    s.expect(". 1:1001(1000)");
    assert_eq!(s.c.counters().timeouts, 0);
}

#[test]
fn a_lost_tail_is_probed_with_its_last_segment() {
    let mut s = over(&with_sack(), 40, 3000);
    s.at(120);
    let out = s.expect("P. 2001:3001(1000)");
    assert!(out.retransmission);
    s.at(160);
    // The last two were lost.
    s.inject(". 1:1(0) ack 1001 <sack 2001:3001>");
    s.expect(". 1001:2001(1000)");
    s.at(200);
    s.inject(". 1:1(0) ack 3001");
    assert_eq!(
        (s.c.counters().timeouts, s.c.counters().fast_recoveries),
        (0, 1)
    );
}

#[test]
fn a_probe_that_repairs_the_only_loss_halves_the_window() {
    let mut s = over(&with_sack(), 40, 3000);
    s.at(120);
    s.expect("P. 2001:3001(1000)");
    s.at(160);
    s.inject(". 1:1(0) ack 3001");
    assert_eq!(s.c.info().cwnd, 10_000, "it may have been late only");
    s.write(1000);
    s.discard();
    s.inject(". 1:1(0) ack 4001");
    assert!(s.c.info().cwnd < 10_000);
}

#[test]
fn a_probe_for_nothing_changes_nothing() {
    let mut s = over(&with_sack(), 40, 3000);
    s.at(120);
    s.expect("P. 2001:3001(1000)");
    s.at(130);
    s.inject(". 1:1(0) ack 3001");
    s.inject(". 1:1(0) ack 3001 <sack 2001:3001>");
    s.write(1000);
    s.discard();
    s.inject(". 1:1(0) ack 4001");
    assert_eq!(s.c.info().cwnd, 10_000);
    assert_eq!(s.c.counters().dsacks_in, 1);
}

#[test]
fn only_one_probe_then_the_timeout() {
    let mut s = over(&with_sack(), 40, 3000);
    s.at(120);
    s.expect("P. 2001:3001(1000)");
    let rto = s.c.info().rto;
    s.at(119 + rto.as_millis());
    s.nothing();
    s.at(120 + rto.as_millis());
    s.expect(". 1:1001(1000)");
    assert_eq!(
        (s.c.counters().timeouts, s.c.counters().tail_probes),
        (1, 1)
    );
}

#[test]
fn a_single_segment_is_given_the_peers_delay_on_top() {
    let cfg = Config {
        max_ack_delay: Duration::from_millis(30),
        ..with_sack()
    };
    let mut s = over(&cfg, 40, 500);
    s.at(149);
    s.nothing();
    s.at(150);
    s.expect("P. 1:501(500)");
}

#[test]
fn the_user_timeout_is_not_moved_by_probes() {
    let cfg = Config {
        user_timeout: Some(Duration::from_millis(100)),
        ..with_sack()
    };
    let mut s = over(&cfg, 40, 3000);
    s.at(120);
    s.expect("P. 2001:3001(1000)");
    s.at(140);
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::TimedOut, Event::Closed]);
}

#[test]
fn timestamps_tell_a_timeout_that_came_too_early() {
    let mut s = stamped_after(40);
    s.write(10_000);
    s.discard();
    let cwnd = s.c.info().cwnd;
    // The probe of the tail, then the timeout.
    s.at_time(s.c.poll_at());
    s.discard();
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    assert_eq!((s.c.counters().timeouts, s.c.info().cwnd), (1, 1000));
    // The answer to the first transmission.
    s.inject(". 1:1(0) ack 1001 <TS val 6 ecr 40>");
    assert!(!s.c.info().recovering);
    assert_eq!(s.c.counters().spurious_recoveries, 1);
    assert!(s.c.info().cwnd >= cwnd);
    assert_eq!(s.c.info().lost, 0);
    s.discard();
}

#[test]
fn timestamps_do_not_excuse_a_real_loss() {
    let mut s = stamped_after(40);
    s.write(10_000);
    s.discard();
    s.at_time(s.c.poll_at());
    s.discard();
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    let ms = (s.now - Duration::ZERO).as_nanos() / 1_000_000;
    s.inject(&format!(". 1:1(0) ack 1001 <TS val 6 ecr {ms}>"));
    assert_eq!(s.c.counters().spurious_recoveries, 0);
    assert!(s.c.info().recovering);
    s.discard();
}

#[test]
fn frto_with_sack_takes_a_timeout_back() {
    let mut s = over(&with_sack(), 40, 40_000);
    let cwnd = s.c.info().cwnd;
    s.at_time(s.c.poll_at());
    s.discard();
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    // Something that was sent once, long ago, arrives.
    s.inject(". 1:1(0) ack 3001");
    assert_eq!(s.c.counters().spurious_recoveries, 1);
    assert!(!s.c.info().recovering && s.c.info().cwnd >= cwnd);
    assert_eq!(s.c.info().lost, 0, "nothing else is sent again");
    let new = s.discard();
    assert!(new > 0);
    assert_eq!(s.c.counters().retransmits, 1);
}

#[test]
fn frto_without_sack_takes_two_acknowledgments() {
    let mut s = over(&plain(), 40, 40_000);
    let cwnd = s.c.info().cwnd;
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    s.inject(". 1:1(0) ack 1001");
    s.expect(". 10001:11001(1000)");
    s.expect(". 11001:12001(1000)");
    s.nothing();
    s.inject(". 1:1(0) ack 2001");
    assert_eq!(s.c.counters().spurious_recoveries, 1);
    assert!(s.c.info().cwnd >= cwnd);
    s.discard();
    assert_eq!(s.c.counters().retransmits, 1);
}

#[test]
fn a_second_timeout_is_not_questioned() {
    let mut s = over(&plain(), 40, 40_000);
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    s.at_time(s.c.poll_at());
    s.expect(". 1:1001(1000)");
    s.inject(". 1:1(0) ack 1001");
    let out = s.expect(". 1001:2001(1000)");
    assert!(out.retransmission);
    s.discard();
}

#[test]
fn duplicate_reports_for_everything_sent_again_restore_the_window() {
    let mut s = over(&with_sack(), 40, 10_000);
    let cwnd = s.c.info().cwnd;
    s.at(80);
    s.inject(". 1:1(0) ack 1 <sack 2001:6001>");
    s.expect(". 1:1001(1000)");
    s.inject(". 1:1(0) ack 1 <sack 2001:7001>");
    s.expect(". 1001:2001(1000)");
    // They were late only.
    s.at(90);
    s.inject(". 1:1(0) ack 10001");
    assert!(!s.c.info().recovering && s.c.info().cwnd < cwnd);
    s.inject(". 1:1(0) ack 10001 <sack 1:1001>");
    assert!(s.c.info().cwnd < cwnd, "one of two");
    s.inject(". 1:1(0) ack 10001 <sack 1001:2001>");
    assert_eq!(s.c.info().cwnd, cwnd);
    assert_eq!(s.c.counters().spurious_recoveries, 1);
    assert!(s.c.info().reordering);
}

#[test]
fn a_report_about_something_else_restores_nothing() {
    let mut s = over(&with_sack(), 40, 10_000);
    s.at(80);
    s.inject(". 1:1(0) ack 2001 <sack 3001:7001>");
    let out = s.expect(". 2001:3001(1000)");
    assert!(out.retransmission);
    s.at(120);
    s.inject(". 1:1(0) ack 10001");
    let cwnd = s.c.info().cwnd;
    for _ in 0..10 {
        // Before the recovery began; and longer than what was sent again.
        s.inject(". 1:1(0) ack 10001 <sack 1:1001>");
        s.inject(". 1:1(0) ack 10001 <sack 2001:5001>");
    }
    assert_eq!(s.c.info().cwnd, cwnd);
}
