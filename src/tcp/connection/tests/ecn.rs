//! Explicit congestion notification: agreeing, echoing, slowing down (RFC 3168, RFC 8257).

use super::script::{Script, plain};
use crate::tcp::{Config, CongestionControl, EcnUse};
use crate::wire::Ecn;

fn asking() -> Config {
    Config {
        ecn: EcnUse::Request,
        ..plain()
    }
}

fn connected(cfg: &Config) -> Script {
    let mut s = Script::connect(cfg);
    s.expect("SEW 0:0(0)");
    s.at(10);
    s.inject("SE. 0:0(0) ack 1 win 60000 <mss 1000>");
    s.expect(". 1:1(0) ack 1");
    assert!(s.c.info().ecn);
    s.events();
    s.c.set_quick_ack(false);
    s
}

#[test]
fn it_is_accepted_but_not_asked_for_by_default() {
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    let mut s = Script::accept(&plain(), "SEW 0:0(0) win 60000 <mss 1000>");
    s.expect("SE. 0:0(0) ack 1");
    s.inject(". 1:1(0) ack 1");
    assert!(s.c.info().ecn);
    let off = Config {
        ecn: EcnUse::Off,
        ..plain()
    };
    let mut s = Script::accept(&off, "SEW 0:0(0) win 60000 <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
}

#[test]
fn a_syn_that_is_sent_again_does_not_ask() {
    let mut s = Script::connect(&asking());
    s.expect("SEW 0:0(0)");
    s.at(1000);
    s.expect("S 0:0(0)");
    s.inject("SE. 0:0(0) ack 1 win 60000 <mss 1000>");
    assert!(!s.c.info().ecn);
}

#[test]
fn only_new_data_is_marked_as_capable() {
    let mut s = connected(&asking());
    s.write(500);
    assert_eq!(s.expect("P. 1:501(500)").ecn, Ecn::Ect0);
    s.at(210);
    assert_eq!(s.expect("P. 1:501(500)").ecn, Ecn::NotEct);
    s.inject(". 1:501(500) ack 501");
    s.inject(". 501:1501(1000) ack 501");
    s.inject(". 1501:2501(1000) ack 501");
    assert_eq!(s.expect(". 501:501(0) ack 2501").ecn, Ecn::NotEct);
}

#[test]
fn marks_are_echoed_until_the_peer_has_slowed_down() {
    let mut s = connected(&asking());
    s.ecn = Ecn::Ce;
    s.inject(". 1:1001(1000) ack 1");
    s.expect("E. 1:1(0) ack 1001");
    s.ecn = Ecn::Ect0;
    s.inject(". 1001:2001(1000) ack 1");
    s.inject(". 2001:3001(1000) ack 1");
    s.expect("E. 1:1(0) ack 3001");
    s.inject("W. 3001:4001(1000) ack 1");
    s.expect(". 1:1(0) ack 4001");
    assert_eq!(s.c.counters().ce_in, 1);
}

#[test]
fn an_echo_halves_the_window_once_per_round_trip() {
    let mut s = connected(&asking());
    s.write(40_000);
    assert_eq!(s.discard(), 10);
    s.at(20);
    s.inject("E. 1:1(0) ack 1001");
    s.inject("E. 1:1(0) ack 2001");
    assert_eq!(s.c.counters().ecn_reductions, 1);
    let cwnd = s.c.info().cwnd;
    assert!((4000..=6000).contains(&cwnd), "{cwnd}");
    s.nothing();
    s.inject(". 1:1(0) ack 8001");
    // The first new data says so, and only the first.
    s.expect("W. 10001:11001(1000)");
    s.expect(". 11001:12001(1000)");
    s.discard();
    s.at(30);
    s.inject("E. 1:1(0) ack 11001");
    assert_eq!(s.c.counters().ecn_reductions, 2);
}

#[test]
fn dctcp_asks_for_it_and_falls_by_how_much_was_marked() {
    let cfg = Config {
        congestion: CongestionControl::Dctcp,
        ..plain()
    };
    let mut s = connected(&cfg);
    // Many windows without a mark: the estimate comes down from one.
    let mut acked = 1;
    for round in 0..40 {
        s.write(10_000);
        s.discard();
        s.at(20 + 10 * round);
        acked += 10_000;
        s.inject(&format!(". 1:1(0) ack {acked}"));
        s.discard();
    }
    let before = s.c.info().cwnd;
    s.write(before as usize);
    s.discard();
    s.at(500);
    s.inject(&format!("E. 1:1(0) ack {}", acked + 1000));
    let after = s.c.info().cwnd;
    assert!(
        after > before * 8 / 10,
        "{before} to {after}: hardly anything was marked"
    );
    // Each mark is told once.
    s.discard();
    s.ecn = Ecn::Ce;
    s.inject(&format!(". 1:1001(1000) ack {}", acked + 1000));
    s.expect(&format!("E. {0}:{0}(0) ack 1001", s.sent_until()));
    s.ecn = Ecn::Ect0;
    s.inject(&format!(". 1001:2001(1000) ack {}", acked + 1000));
    s.expect(&format!(". {0}:{0}(0) ack 2001", s.sent_until()));
}
