//! Buffers that follow the path.

use super::script::{Script, plain};
use crate::tcp::Config;
use crate::time::Duration;

/// A buffer of 40,000 bytes that may become four times as large.
fn growing() -> Config {
    Config {
        window_scale: true,
        rcv_buf_bytes: 40_000,
        rcv_buf_max_bytes: 160_000,
        ..plain()
    }
}

fn established() -> Script {
    let mut s = Script::accept(&growing(), "S 0:0(0) win 60000 <mss 1000,wscale 7>");
    s.expect("S. 0:0(0) ack 1");
    s.at(10);
    s.inject(". 1:1(0) ack 1 win 60000");
    s.nothing();
    s
}

/// `segments` of 1,000 bytes each arrive, `apart` from each other, and are read at once if `read`.
fn arrive(s: &mut Script, from: &mut u32, segments: u32, apart: Duration, read: bool) {
    for _ in 0..segments {
        let until = s.now + apart;
        while s.c.poll_at() <= until {
            s.at_time(s.c.poll_at());
            s.discard();
        }
        s.at_time(until);
        let end = *from + 1000;
        s.inject(&format!(". {from}:{end}(1000) ack 1"));
        *from = end;
        s.discard();
        if read {
            s.read(1000);
            s.discard();
        }
    }
}

const MICROSECOND: Duration = Duration::from_micros(1);

#[test]
fn it_doubles_before_it_holds_the_peer_back() {
    let (mut s, mut at) = (established(), 1);
    assert_eq!(s.c.receive_buffer(), 40_000);
    // A quarter of it within the round trip of 10 ms.
    arrive(&mut s, &mut at, 10, MICROSECOND, true);
    assert_eq!(s.c.receive_buffer(), 40_000);
    arrive(&mut s, &mut at, 1, MICROSECOND, true);
    assert_eq!(s.c.receive_buffer(), 80_000);
    arrive(&mut s, &mut at, 1, MICROSECOND, true);
    // One segment is unread when the acknowledgment leaves.
    assert!(s.c.info().rcv_wnd >= 79_000, "{}", s.c.info().rcv_wnd);
    arrive(&mut s, &mut at, 19, MICROSECOND, true);
    assert_eq!(s.c.receive_buffer(), 160_000);
    arrive(&mut s, &mut at, 200, MICROSECOND, true);
    assert_eq!(s.c.receive_buffer(), 160_000, "and no further");
}

#[test]
fn a_slow_peer_needs_no_more() {
    let (mut s, mut at) = (established(), 1);
    // Ten segments take 20 ms.
    arrive(&mut s, &mut at, 100, Duration::from_millis(2), true);
    assert_eq!(s.c.receive_buffer(), 40_000);
    // One that becomes faster does.
    arrive(&mut s, &mut at, 20, MICROSECOND, true);
    assert_eq!(s.c.receive_buffer(), 80_000);
}

#[test]
fn an_application_that_does_not_read_gets_no_more() {
    let (mut s, mut at) = (established(), 1);
    arrive(&mut s, &mut at, 100, MICROSECOND, false);
    assert_eq!(
        (s.c.receive_buffer(), s.c.readable_bytes()),
        (40_000, 40_000)
    );
}

#[test]
fn a_size_that_was_set_stays() {
    let mut config = growing();
    config.set_receive_buffer(50_000);
    config.set_send_buffer(60_000);
    let mut s = Script::established_with(&config, "win 60000", "<mss 1000,wscale 0>");
    let mut at = 1;
    arrive(&mut s, &mut at, 100, MICROSECOND, true);
    assert_eq!((s.c.receive_buffer(), s.c.send_buffer()), (50_000, 60_000));
    config.set_receive_buffer(20_000);
    config.set_send_buffer(5_000);
    s.c.set_buffers(&config);
    assert_eq!((s.c.receive_buffer(), s.c.send_buffer()), (20_000, 5_000));
}

#[test]
fn a_bound_from_outside_holds_while_it_grows() {
    let (mut s, mut at) = (established(), 1);
    s.c.set_receive_budget(45_000);
    arrive(&mut s, &mut at, 60, MICROSECOND, true);
    assert_eq!(s.c.receive_buffer(), 160_000);
    assert!(s.c.info().rcv_wnd <= 45_000 + 128);
    s.c.set_receive_budget(u32::MAX);
    s.run();
    s.discard();
    assert!(s.c.info().rcv_wnd >= 159_000);
}

#[test]
fn the_send_buffer_holds_two_windows() {
    let config = Config {
        snd_buf_bytes: 15_000,
        snd_buf_max_bytes: 50_000,
        ..plain()
    };
    let mut s = Script::established_after(&config, 10);
    // The first window is of ten segments.
    assert_eq!((s.c.send_buffer(), s.c.send_space()), (20_000, 20_000));
    s.write(20_000);
    assert_eq!(s.discard(), 10);
    assert_eq!(s.c.send_space(), 0);
    s.at(20);
    for i in 0..5 {
        s.inject(&format!(". 1:1(0) ack {}", i * 2000 + 2001));
    }
    assert_eq!(s.c.send_buffer(), 40_000);
    s.discard();
    s.write(30_000);
    s.discard();
    for i in 5..15 {
        s.inject(&format!(". 1:1(0) ack {}", i * 2000 + 2001));
    }
    assert_eq!(s.c.send_buffer(), 50_000, "and no more than allowed");
}
