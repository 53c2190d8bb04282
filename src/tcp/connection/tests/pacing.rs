//! Segments that leave at a rate.

use super::script::{Script, plain, with_sack};
use crate::tcp::{Config, CongestionControl, RATE_UNLIMITED};

/// A million bytes a second: a segment of 1,000 a millisecond, two at a time.
fn at_a_megabyte() -> Config {
    Config {
        max_pacing_rate: 1_000_000,
        ..plain()
    }
}

#[test]
fn a_limit_of_the_rate_spreads_a_window() {
    let mut s = Script::established_after(&at_a_megabyte(), 100);
    s.write(5000);
    s.expect(". 1:1001(1000)");
    s.expect(". 1001:2001(1000)");
    // Half a millisecond is caught up on.
    s.at_time(s.now + crate::time::Duration::from_micros(1500));
    s.expect(". 2001:3001(1000)");
    s.expect(". 3001:4001(1000)");
    s.at_time(s.now + crate::time::Duration::from_micros(2000));
    s.expect("P. 4001:5001(1000)");
    s.nothing();
}

#[test]
fn a_rate_is_set_and_taken_away_while_data_waits() {
    let mut s = Script::established_after(&plain(), 100);
    assert_eq!(s.c.pacing_rate(), None);
    s.c.set_max_pacing_rate(1_000_000);
    assert_eq!(s.c.pacing_rate(), Some(1_000_000));
    s.write(5000);
    assert_eq!(s.discard(), 2);
    s.c.set_max_pacing_rate(RATE_UNLIMITED);
    s.run();
    assert_eq!(s.discard(), 3);
    assert_eq!(s.c.pacing_rate(), None);
    assert_eq!(s.c.info().max_pacing_rate, RATE_UNLIMITED);
}

#[test]
fn acknowledgments_are_not_held_back() {
    let mut s = Script::established_after(&at_a_megabyte(), 100);
    s.write(5000);
    assert_eq!(s.discard(), 2);
    s.inject(". 1:1001(1000) ack 1");
    s.inject(". 1001:2001(1000) ack 1");
    s.expect(". 2001:2001(0) ack 2001");
}

#[test]
fn a_window_is_spread_over_the_round_trip() {
    let cfg = Config {
        pacing: true,
        ..plain()
    };
    let mut s = Script::established_after(&cfg, 100);
    // Ten segments in 100 ms, twice as fast while the window doubles.
    assert_eq!(s.c.pacing_rate(), Some(200_000));
    s.write(10_000);
    s.expect(". 1:1001(1000)");
    s.expect(". 1001:2001(1000)");
    let mut sent = 2;
    for _ in 0..40 {
        s.at_time(s.c.poll_at());
        sent += s.discard();
        if sent == 10 {
            break;
        }
    }
    assert_eq!(sent, 10);
    let took = s.now.as_nanos() / 1_000_000 - 100;
    assert!(
        (35..=50).contains(&took),
        "half a round trip, but {took} ms"
    );
}

#[test]
fn what_is_sent_again_is_paced_too_but_for_the_first() {
    let cfg = Config {
        max_pacing_rate: 1_000_000,
        ..with_sack()
    };
    let mut s = Script::established_after(&cfg, 100);
    s.write(10_000);
    let mut sent = s.discard();
    while sent < 10 {
        s.at_time(s.c.poll_at());
        sent += s.discard();
    }
    // Seven are lost.
    s.inject(". 1:1(0) ack 1 <sack 7001:10001>");
    s.expect(". 1:1001(1000)");
    s.nothing();
    s.at_time(s.c.poll_at());
    assert!(s.discard() <= 2, "in a burst of the rate");
}

#[test]
fn hpcc_is_paced_only_where_the_path_tells_its_load() {
    let cfg = Config {
        congestion: CongestionControl::Hpcc,
        ..plain()
    };
    let s = Script::established_after(&cfg, 100);
    assert_eq!(s.c.pacing_rate(), None);
}
