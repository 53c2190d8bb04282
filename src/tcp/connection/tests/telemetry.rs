//! What hops say about their load, there and back.

use super::script::{Script, plain, with_sack};
use crate::tcp::{Config, CongestionControl};

fn hpcc() -> Config {
    Config {
        congestion: CongestionControl::Hpcc,
        ..with_sack()
    }
}

#[test]
fn who_uses_hpcc_asks_and_who_is_asked_agrees() {
    let mut s = Script::connect(&hpcc());
    s.expect("S 0:0(0) <mss 1000,load 0 echo 0>");
    s.at(10);
    s.inject("S. 0:0(0) ack 1 win 60000 <mss 1000,sackOK,load 0 echo 0>");
    s.expect(". 1:1(0) ack 1 <load 0 echo 0>");
    let mut s = Script::accept(&plain(), "S 0:0(0) win 60000 <mss 1000,load 0 echo 0>");
    s.expect("S. 0:0(0) ack 1 <load 0 echo 0>");
    // Eight bytes of every segment.
    s.inject(". 1:1(0) ack 1 win 60000 <load 0 echo 0>");
    s.write(1000);
    s.expect(". 1:993(992) ack 1 <load 0 echo 0>");
}

#[test]
fn without_agreement_there_is_none() {
    // The peer does not know it.
    let mut s = Script::connect(&hpcc());
    s.expect("S 0:0(0)");
    s.inject("S. 0:0(0) ack 1 win 60000 <mss 1000>");
    assert_eq!(s.expect(". 1:1(0) ack 1").header.options.telemetry, None);
    // Nobody asked.
    let mut s = Script::connect(&plain());
    assert_eq!(s.expect("S 0:0(0)").header.options.telemetry, None);
    s.inject("S. 0:0(0) ack 1 win 60000 <mss 1000,load 0 echo 0>");
    assert_eq!(s.expect(". 1:1(0) ack 1").header.options.telemetry, None);
    // Not asked for, and yet there: nothing follows from it.
    s.write(1000);
    s.expect("P. 1:1001(1000)");
    s.inject(". 1:1(0) ack 1001 win 60000 <load 9 echo 9000>");
    s.inject("P. 1:101(100) ack 1001 win 60000 <load 9 echo 9000>");
    let ack = s.expect(". 1001:1001(0) ack 101");
    assert_eq!(ack.header.options.telemetry, None);
}

#[test]
fn a_syn_that_was_lost_does_not_ask_again() {
    let mut s = Script::connect(&hpcc());
    s.expect("S 0:0(0) <load 0 echo 0>");
    s.at_time(s.c.poll_at());
    assert_eq!(s.expect("S 0:0(0)").header.options.telemetry, None);
}

fn agreed() -> Script {
    let mut s = Script::accept(
        &hpcc(),
        "S 0:0(0) win 60000 <mss 1000,sackOK,load 0 echo 0>",
    );
    s.expect("S. 0:0(0) ack 1");
    s.at(10);
    s.inject(". 1:1(0) ack 1 win 60000 <load 0 echo 0>");
    s.events();
    s.c.set_quick_ack(false);
    s
}

#[test]
fn the_largest_load_since_the_last_segment_is_echoed_once() {
    let mut s = agreed();
    s.inject_burst(&[
        ". 1:993(992) ack 1 win 60000 <load 5 echo 0>",
        ". 993:1985(992) ack 1 win 60000 <load 3 echo 0>",
    ]);
    s.expect(". 1:1(0) ack 1985 <load 0 echo 5>");
    s.inject_burst(&[
        ". 1985:2977(992) ack 1 win 60000 <load 0 echo 0>",
        ". 2977:3969(992) ack 1 win 60000 <load 0 echo 0>",
    ]);
    s.expect(". 1:1(0) ack 3969 <load 0 echo 0>");
    // Also with what reports a gap, of which fewer blocks fit then.
    s.inject(". 4961:5953(992) ack 1 win 60000 <load 7 echo 0>");
    s.expect(". 1:1(0) ack 3969 <load 0 echo 7,sack 4961:5953>");
}

#[test]
fn the_window_and_the_rate_follow_the_load() {
    let mut s = agreed();
    s.write(9920);
    assert_eq!(s.discard(), 10);
    s.at(20);
    // Half busy: the window may double.
    s.inject(". 1:1(0) ack 4961 win 60000 <load 0 echo 2048>");
    let before = s.c.info().cwnd;
    assert_eq!(s.c.pacing_rate(), None, "slow start until the path is busy");
    s.at(30);
    s.inject(". 1:1(0) ack 9921 win 60000 <load 0 echo 16384>");
    let after = s.c.info().cwnd;
    assert!(
        after < before / 2,
        "{before} to {after} at four times the capacity"
    );
    // A window per round trip of 10 ms.
    assert_eq!(s.c.pacing_rate(), Some(u64::from(after) * 100));
}
