//! Keepalive, and what timers promise to their owner.

use super::script::{Script, plain};
use crate::tcp::{Config, Event, Keepalive, State};
use crate::time::{Duration, Instant};

fn kept_alive() -> Config {
    let keepalive = Keepalive {
        idle: Duration::from_secs(10),
        interval: Duration::from_secs(2),
        count: 3,
    };
    Config {
        keepalive: Some(keepalive),
        ..plain()
    }
}

#[test]
fn a_silent_peer_is_probed_and_given_up() {
    let mut s = Script::established(&kept_alive());
    for at in [10_000, 12_000, 14_000] {
        s.at(at);
        s.expect(". 0:0(0) ack 1");
        s.nothing();
    }
    s.at(16_000);
    s.expect("R. 1:1(0) ack 1");
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::TimedOut, Event::Closed]);
}

#[test]
fn an_answer_starts_the_silence_anew() {
    let mut s = Script::established(&kept_alive());
    s.at(10_000);
    s.expect(". 0:0(0) ack 1");
    s.at(10_001);
    s.inject(". 1:1(0) ack 1");
    s.at(20_000);
    s.nothing();
    s.at(20_001);
    s.expect(". 0:0(0) ack 1");
    s.inject(". 1:1(0) ack 1");
    s.state(State::Established);
}

#[test]
fn traffic_postpones_probes() {
    let mut s = Script::established(&kept_alive());
    for second in 1..30 {
        s.at(second * 1000);
        s.inject(&format!("P. {0}:{1}(1) ack 1", second, second + 1));
        s.at(second * 1000 + 1);
        s.discard();
    }
}

#[test]
fn keepalive_can_be_turned_on_and_off_later() {
    let mut s = Script::established(&plain());
    s.at(5000);
    s.c.set_keepalive(kept_alive().keepalive, s.now);
    s.at(10_000);
    s.expect(". 0:0(0) ack 1");
    s.c.set_keepalive(None, s.now);
    s.at(100_000);
    s.nothing();
}

#[test]
fn a_peers_keepalive_is_answered() {
    let mut s = Script::established(&plain());
    s.inject(". 0:0(0) ack 1");
    s.expect(". 1:1(0) ack 1");
    s.inject(". 0:1(1) ack 1");
    s.expect(". 1:1(0) ack 1");
    assert_eq!(s.c.readable_bytes(), 0);
}

#[test]
fn an_idle_connection_has_no_deadline() {
    let mut s = Script::established(&plain());
    assert_eq!(s.c.poll_at(), Instant::FAR_FUTURE);
    s.write(10);
    s.discard();
    assert_eq!(s.c.poll_at(), Instant::ZERO + Duration::from_millis(200));
    s.inject(". 1:1(0) ack 11");
    assert_eq!(s.c.poll_at(), Instant::FAR_FUTURE);
}

#[test]
fn an_early_call_does_nothing() {
    let mut s = Script::established(&plain());
    s.write(10);
    s.discard();
    s.c.on_timer(s.now + Duration::from_millis(199));
    s.run();
    s.nothing();
}

#[test]
fn rto_bounds_can_be_changed() {
    let mut s = Script::established(&plain());
    s.c.set_rto_bounds(Duration::from_millis(4), Duration::from_millis(10));
    s.write(10);
    s.discard();
    for at in [4, 12, 22, 32] {
        s.at(at);
        s.expect("P. 1:11(10)");
    }
}
