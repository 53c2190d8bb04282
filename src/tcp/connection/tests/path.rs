//! What the path takes: routers that say so, forged ones, silent ones, and paths that grow.

use super::script::{Script, with_sack};
use crate::tcp::{Config, RAISE_AFTER};
use crate::time::Duration;
use crate::wire::SeqNum;

fn wide() -> Config {
    Config {
        mss_local: 1460,
        ..with_sack()
    }
}

/// With this many bytes in the network.
fn with_out(bytes: usize) -> Script {
    let mut s = Script::established_with(&wide(), "win 60000", "<mss 1460,sackOK>");
    s.write(bytes);
    s.run();
    s
}

/// The sequence number on the wire of `relative`.
fn seq(s: &Script, relative: u32) -> SeqNum {
    s.c.tx.una + relative.wrapping_sub(1)
}

#[test]
fn a_router_is_believed_and_nothing_waits_for_a_timeout() {
    let mut s = with_out(2920);
    s.expect(". 1:1461(1460)");
    s.expect("P. 1461:2921(1460)");
    let about = seq(&s, 1461);
    assert!(s.c.on_too_big(about, 1000, s.now));
    s.run();
    for text in [". 1:1001(1000)", ". 1001:2001(1000)", "P. 2001:2921(920)"] {
        assert!(s.expect(text).retransmission);
    }
    let info = s.c.info();
    assert_eq!((info.snd_mss, info.cwnd), (1000, 14600));
    assert_eq!(info.counters.timeouts, 0);
}

#[test]
fn what_is_said_about_other_segments_is_not_believed() {
    let mut s = with_out(1460);
    s.discard();
    for relative in [0, 1461, 5000, 0x8000_0000] {
        let about = seq(&s, relative);
        assert!(!s.c.on_too_big(about, 600, s.now), "{relative}");
    }
    assert_eq!(s.c.info().snd_mss, 1460);
    let about = seq(&s, 1);
    assert!(
        !s.c.on_too_big(about, 1460, s.now),
        "not larger than it says"
    );
    s.inject(". 1:1(0) ack 1461");
    assert!(!s.c.on_too_big(about, 600, s.now), "that has arrived");
    assert_eq!(s.c.info().snd_mss, 1460);
}

#[test]
fn a_larger_segment_is_tried_after_ten_minutes() {
    let mut s = with_out(1460);
    let about = seq(&s, 1);
    assert!(s.c.on_too_big(about, 1000, s.now));
    s.run();
    s.discard();
    s.inject(". 1:1(0) ack 1461");
    s.at_time(s.now + RAISE_AFTER - Duration::from_millis(1));
    s.write(3000);
    s.expect(". 1461:2461(1000)");
    s.discard();
    s.inject(". 1:1(0) ack 4461");
    s.at_time(s.now + Duration::from_millis(1));
    // Nothing would show its loss.
    s.write(1500);
    s.expect(". 4461:5461(1000)");
    s.discard();
    s.inject(". 1:1(0) ack 5961");
    s.write(3000);
    s.expect(". 5961:7421(1460)");
    s.expect(". 7421:8421(1000)");
    s.discard();
    s.inject(". 1:1(0) ack 7421");
    assert_eq!(s.c.info().snd_mss, 1460);
}

#[test]
fn a_larger_segment_that_is_lost_is_sent_again_in_small_ones() {
    let mut s = with_out(1460);
    let about = seq(&s, 1);
    assert!(s.c.on_too_big(about, 1000, s.now));
    s.run();
    s.discard();
    s.inject(". 1:1(0) ack 1461");
    s.at_time(s.now + RAISE_AFTER);
    // One may be lost by chance: three are tried.
    let mut at = 1461;
    for _ in 0..3 {
        s.write(6000);
        s.expect(&format!(". {at}:{}(1460)", at + 1460));
        s.discard();
        let (left, right) = (at + 1460, s.sent_until());
        s.inject(&format!(". 1:1(0) ack {at} <sack {left}:{right}>"));
        s.expect(&format!(". {at}:{}(1000)", at + 1000));
        for _ in 0..5 {
            s.discard();
            let all = s.sent_until();
            s.inject(&format!(". 1:1(0) ack {all}"));
        }
        at += 6000;
        assert_eq!((s.sent_until(), s.c.info().snd_mss), (at, 1000));
    }
    s.write(6000);
    s.expect(&format!(". {at}:{}(1000)", at + 1000));
    s.discard();
}

/// A segment is lost three times; the third timeout sends it again in two.
fn three_timeouts(s: &mut Script) {
    s.expect("P. 1:1461(1460)");
    for _ in 0..2 {
        let timeout = s.c.poll_at();
        s.at_time(timeout);
        s.expect("P. 1:1461(1460)");
    }
    let timeout = s.c.poll_at();
    s.at_time(timeout);
    s.expect(". 1:1025(1024)");
    s.expect("P. 1025:1461(436)");
    s.inject(". 1:1(0) ack 1461");
    assert_eq!(s.c.info().snd_mss, 1024);
}

#[test]
fn what_only_small_segments_get_through_is_used_with_small_ones() {
    let mut s = Script::established_with(&with_plain_timers(), "win 60000", "<mss 1460>");
    s.write(1460);
    three_timeouts(&mut s);
    // Larger ones are tried at once: the link may just have been cut. They are lost.
    let mut at = 1461;
    for _ in 0..3 {
        s.write(6000);
        s.expect(&format!(". {at}:{}(1460)", at + 1460));
        s.discard();
        let timeout = s.c.poll_at();
        s.at_time(timeout);
        s.expect(&format!(". {at}:{}(1024)", at + 1024));
        s.discard();
        for _ in 0..10 {
            let all = s.sent_until();
            s.inject(&format!(". 1:1(0) ack {all}"));
            s.discard();
        }
        at += 6000;
    }
    s.write(6000);
    s.expect(&format!(". {at}:{}(1024)", at + 1024));
}

#[test]
fn a_link_that_was_cut_is_used_in_full_again() {
    let mut s = Script::established_with(&with_plain_timers(), "win 60000", "<mss 1460>");
    s.write(1460);
    three_timeouts(&mut s);
    s.write(6000);
    s.expect(". 1461:2921(1460)");
    s.expect(". 2921:3945(1024)");
    s.inject(". 1:1(0) ack 2921");
    assert_eq!(s.c.info().snd_mss, 1460);
}

/// Without SACK there are no probes of the tail between the timeouts.
fn with_plain_timers() -> Config {
    Config {
        sack: false,
        ..wide()
    }
}
