//! Flow control: the peer's window and ours.

use super::script::{Script, plain};
use crate::tcp::{Config, Event, State};
use crate::time::Duration;

fn scaled() -> Config {
    Config {
        window_scale: true,
        rcv_buf_bytes: 400_000,
        rcv_buf_max_bytes: 400_000,
        ..plain()
    }
}

#[test]
fn nothing_is_sent_beyond_the_window() {
    let mut s = Script::established_with(&plain(), "win 2500", "<mss 1000>");
    s.write(5000);
    s.expect(". 1:1001(1000)");
    s.expect(". 1001:2001(1000)");
    s.nothing();
    s.inject(". 1:1(0) ack 1001 win 2500");
    s.expect(". 2001:3001(1000)");
    s.nothing();
    s.inject(". 1:1(0) ack 3001 win 60000");
    s.expect(". 3001:4001(1000)");
    s.expect("P. 4001:5001(1000)");
}

#[test]
fn windows_are_scaled_both_ways() {
    let mut s = Script::established_with(&scaled(), "win 100", "<mss 1000,wscale 4>");
    assert_eq!(s.c.info().snd_wnd, 1600);
    s.write(3000);
    s.expect(". 1:1001(1000)");
    s.nothing();
    s.inject("P. 1:101(100) ack 1001 win 1000");
    // 399,900 bytes in units of 8, rounded up to keep what the rounding down would take back.
    s.expect(". 1001:2001(1000) ack 101 win 49988");
    assert_eq!(s.c.info().snd_wnd, 16_000);
}

#[test]
fn our_window_closes_and_never_moves_back() {
    let mut s = Script::established(&Config {
        rcv_buf_max_bytes: 3000,
        ..plain()
    });
    s.inject(". 1:1001(1000) ack 1");
    s.inject(". 1001:2001(1000) ack 1");
    s.expect(". 1:1(0) ack 2001 win 1000");
    s.inject("P. 2001:3001(1000) ack 1");
    s.at(1);
    s.expect(". 1:1(0) ack 3001 win 0");
    // What lies beyond is not taken, but answered; its ACK is still good.
    s.inject(". 3001:3002(1) ack 1 win 5000");
    s.expect(". 1:1(0) ack 3001 win 0");
    assert_eq!(s.c.info().snd_wnd, 5000);
    assert_eq!(s.c.readable_bytes(), 3000);
    // Silly window avoidance: reading a little does not reopen it.
    s.read(999);
    s.nothing();
    s.read(1);
    s.expect(". 1:1(0) ack 3001 win 1000");
    s.read(1000);
    s.expect(". 1:1(0) ack 3001 win 2000");
    // From here on the window is far from closing: no more pure updates.
    s.read(1000);
    s.nothing();
}

#[test]
fn a_fin_alone_passes_a_closed_window() {
    let mut s = Script::established(&Config {
        rcv_buf_max_bytes: 1000,
        ..plain()
    });
    s.inject("P. 1:1001(1000) ack 1");
    s.at(1);
    s.expect(". 1:1(0) ack 1001 win 0");
    s.inject("F. 1001:1001(0) ack 1");
    s.expect(". 1:1(0) ack 1002");
    s.state(State::CloseWait);
}

#[test]
fn memory_pressure_closes_the_window_gently() {
    let mut s = Script::established(&plain());
    s.c.set_receive_budget(0);
    s.inject(". 1:1001(1000) ack 1");
    s.at(1);
    s.expect(". 1:1(0) ack 1001 win 59000");
    s.read(1000);
    s.nothing();
    for i in 1..60 {
        s.inject(&format!(
            ". {}:{}(1000) ack 1",
            i * 1000 + 1,
            i * 1000 + 1001
        ));
        s.read(1000);
    }
    s.discard();
    s.at(2);
    s.discard();
    assert_eq!(s.c.info().rcv_wnd, 0);
    s.c.set_receive_budget(u32::MAX);
    s.run();
    s.expect(". 1:1(0) ack 60001 win 60000");
}

#[test]
fn a_closed_window_is_probed_with_back_off() {
    let mut s = Script::established_with(&plain(), "win 1000", "<mss 1000>");
    s.write(3000);
    s.expect(". 1:1001(1000)");
    s.inject(". 1:1(0) ack 1001 win 0");
    s.nothing();
    // RTO is 200 ms: the handshake took no time.
    for at in [200, 600, 1400, 3000] {
        s.at(at);
        s.expect(". 1000:1000(0) ack 1");
        s.inject(". 1:1(0) ack 1001 win 0");
        s.nothing();
    }
    s.at(4000);
    s.inject(". 1:1(0) ack 1001 win 3000");
    s.expect(". 1001:2001(1000)");
    s.expect("P. 2001:3001(1000)");
    s.inject(". 1:1(0) ack 3001 win 3000");
    s.at(100_000);
    s.nothing();
}

#[test]
fn probes_that_are_answered_never_end_the_connection() {
    let mut s = Script::established_with(
        &Config {
            retries: 3,
            ..plain()
        },
        "win 0",
        "<mss 1000>",
    );
    s.write(10);
    for _ in 0..20 {
        s.at_time(s.c.poll_at());
        s.expect(". 0:0(0) ack 1");
        s.inject(". 1:1(0) ack 1 win 0");
    }
    s.state(State::Established);
    // Unanswered ones do.
    for _ in 0..4 {
        s.at_time(s.c.poll_at());
        s.discard();
    }
    s.state(State::Closed);
    assert!(s.events().contains(&Event::TimedOut));
}

#[test]
fn a_closed_window_ends_an_orphan_and_a_user_timeout() {
    let cfg = Config {
        user_timeout: Some(Duration::from_secs(5)),
        ..plain()
    };
    let mut s = Script::established_with(&cfg, "win 0", "<mss 1000>");
    s.write(10);
    while s.c.state() == State::Established {
        s.at_time(s.c.poll_at());
        s.discard();
        s.inject(". 1:1(0) ack 1 win 0");
    }
    assert_eq!(s.now.as_nanos() / 1_000_000_000, 5);
    assert!(s.events().contains(&Event::TimedOut));
    let mut s = Script::established_with(&plain(), "win 0", "<mss 1000>");
    s.write(10);
    s.close();
    while s.c.state() != State::Closed {
        s.at_time(s.c.poll_at());
        s.discard();
        s.inject(". 1:1(0) ack 1 win 0");
    }
}

#[test]
fn a_silly_window_is_not_used_until_the_override_timeout() {
    let mut s = Script::established_with(&plain(), "win 4000", "<mss 1000>");
    s.write(5000);
    assert_eq!(s.discard(), 4);
    s.inject(". 1:1(0) ack 4001 win 300");
    s.nothing();
    s.at(200);
    s.expect(". 4001:4301(300)");
    s.nothing();
}

#[test]
fn half_of_the_largest_window_is_worth_a_segment() {
    let mut s = Script::established_with(&plain(), "win 600", "<mss 1000>");
    s.write(5000);
    s.expect(". 1:601(600)");
    s.inject(". 1:1(0) ack 601 win 300");
    s.expect(". 601:901(300)");
    s.inject(". 1:1(0) ack 901 win 299");
    s.nothing();
}

#[test]
fn a_shrunk_window_is_survived() {
    let mut s = Script::established_with(&plain(), "win 5000", "<mss 1000>");
    s.write(8000);
    assert_eq!(s.discard(), 5);
    s.inject(". 1:1(0) ack 1001 win 500");
    s.nothing();
    // What an acknowledgment of ours carries must be acceptable to the peer.
    s.inject("P. 1:11(10) ack 1001 win 500");
    s.at(1);
    s.expect(". 1501:1501(0) ack 11");
    s.at(200);
    let out = s.expect(". 1001:2001(1000)");
    assert!(out.retransmission);
    s.inject(". 11:11(0) ack 2001 win 0");
    s.nothing();
    s.inject(". 11:11(0) ack 5001 win 9000");
    s.expect(". 5001:6001(1000)");
    s.discard();
}

#[test]
fn a_window_that_closes_over_data_in_flight_is_probed_with_that_data() {
    let mut s = Script::established_with(
        &Config {
            retries: 2,
            ..plain()
        },
        "win 5000",
        "<mss 1000>",
    );
    s.write(2000);
    assert_eq!(s.discard(), 2);
    for _ in 0..10 {
        s.at_time(s.now + Duration::from_millis(1));
        s.inject(". 1:1(0) ack 1 win 0");
        s.at_time(s.c.poll_at());
        s.expect(". 1:1001(1000)");
    }
    assert_eq!(s.c.info().cwnd, 10_000, "not a sign of congestion");
    s.at_time(s.now + Duration::from_millis(1));
    s.inject(". 1:1(0) ack 2001 win 5000");
    s.state(State::Established);
}
