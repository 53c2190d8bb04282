//! Data in both directions, and when it is acknowledged.

use super::script::{Script, plain, with_sack};
use crate::tcp::{Config, Event, State};
use crate::time::Duration;

#[test]
fn in_order_data_is_read_as_sent() {
    let mut s = Script::established(&plain());
    s.inject("P. 1:501(500) ack 1");
    assert_eq!(s.events(), [Event::Readable]);
    assert_eq!(s.c.readable_bytes(), 500);
    s.read(200);
    s.read(300);
    assert_eq!(s.c.readable_bytes(), 0);
}

#[test]
fn an_ack_waits_for_the_delay_or_for_the_second_full_segment() {
    let mut s = Script::established(&plain());
    s.inject(". 1:1001(1000) ack 1");
    s.nothing();
    s.at(1);
    s.expect(". 1:1(0) ack 1001 win 59000");
    s.at(10);
    s.inject(". 1001:2001(1000) ack 1");
    s.nothing();
    s.inject(". 2001:3001(1000) ack 1");
    s.expect(". 1:1(0) ack 3001");
    s.at(100);
    s.nothing();
}

#[test]
fn a_burst_is_acknowledged_once() {
    let mut s = Script::established(&plain());
    s.inject_burst(&[
        ". 1:1001(1000) ack 1",
        ". 1001:2001(1000) ack 1",
        ". 2001:3001(1000) ack 1",
        ". 3001:4001(1000) ack 1",
    ]);
    s.expect(". 1:1(0) ack 4001");
    s.nothing();
}

#[test]
fn a_response_carries_the_acknowledgment() {
    let mut s = Script::established(&plain());
    s.inject("P. 1:101(100) ack 1");
    s.write(50);
    s.expect("P. 1:51(50) ack 101");
    s.at(100);
    s.nothing();
}

#[test]
fn the_first_segments_are_acknowledged_at_once() {
    let mut s = Script::established(&plain());
    s.c.set_quick_ack(true);
    s.inject("P. 1:101(100) ack 1");
    s.expect(". 1:1(0) ack 101");
    // … until the application shows that it answers by itself.
    s.c.set_delayed_ack(Duration::from_millis(40));
    s.c.set_quick_ack(false);
    s.inject("P. 101:201(100) ack 1");
    s.write(10);
    s.expect("P. 1:11(10) ack 201");
    s.inject("P. 201:301(100) ack 11");
    s.nothing();
    s.at(40);
    s.expect(". 11:11(0) ack 301");
}

#[test]
fn a_delay_of_zero_acknowledges_every_turn() {
    let mut s = Script::established(&Config {
        delayed_ack: Duration::ZERO,
        ..plain()
    });
    s.inject("P. 1:2(1) ack 1");
    s.expect(". 1:1(0) ack 2");
}

#[test]
fn out_of_order_data_is_reported_and_reassembled() {
    let mut s = Script::established(&with_sack());
    s.inject(". 1001:2001(1000) ack 1");
    s.expect(". 1:1(0) ack 1 <sack 1001:2001>");
    s.inject(". 3001:4001(1000) ack 1");
    s.expect(". 1:1(0) ack 1 <sack 3001:4001 1001:2001>");
    s.inject(". 5001:6001(1000) ack 1");
    s.expect(". 1:1(0) ack 1 <sack 5001:6001 3001:4001 1001:2001>");
    // The block that changed last comes first, and blocks that touch become one.
    s.inject(". 2001:3001(1000) ack 1");
    s.expect(". 1:1(0) ack 1 <sack 1001:4001 5001:6001>");
    assert_eq!(s.c.readable_bytes(), 0);
    s.inject(". 1:1001(1000) ack 1");
    s.expect(". 1:1(0) ack 4001 <sack 5001:6001>");
    s.inject(". 4001:5001(1000) ack 1");
    s.expect(". 1:1(0) ack 6001");
    s.read(6000);
    assert_eq!(s.c.counters().out_of_order_in, 4);
}

#[test]
fn one_duplicate_ack_per_segment_even_in_a_burst() {
    let mut s = Script::established(&plain());
    s.inject_burst(&[
        ". 1001:2001(1000) ack 1",
        ". 2001:3001(1000) ack 1",
        ". 3001:4001(1000) ack 1",
    ]);
    for _ in 0..3 {
        s.expect(". 1:1(0) ack 1 win 60000");
    }
    s.nothing();
    // If the gap closes in the same burst, they would be about nothing.
    s.inject_burst(&[". 4001:5001(1000) ack 1", ". 1:1001(1000) ack 1"]);
    s.expect(". 1:1(0) ack 5001");
    s.nothing();
}

#[test]
fn duplicates_are_acknowledged_at_once_and_reported() {
    let mut s = Script::established(&with_sack());
    s.inject(". 1:1001(1000) ack 1");
    s.at(1);
    s.expect(". 1:1(0) ack 1001");
    s.inject(". 1:1001(1000) ack 1");
    s.expect(". 1:1(0) ack 1001 <sack 1:1001>");
    // Partly old: the old part is reported, the new part is kept.
    s.inject(". 501:1501(1000) ack 1");
    s.at(2);
    s.expect(". 1:1(0) ack 1501 <sack 501:1001>");
    // A duplicate within an out-of-order block: the block follows the report.
    s.inject(". 2001:3001(1000) ack 1");
    s.expect(". 1:1(0) ack 1501 <sack 2001:3001>");
    s.inject(". 2501:2601(100) ack 1");
    s.expect(". 1:1(0) ack 1501 <sack 2501:2601 2001:3001>");
    s.read(1500);
}

#[test]
fn the_urgent_pointer_changes_nothing() {
    for urgent in [0, 1, 100, 101, 65_535] {
        let mut s = Script::established(&plain());
        s.inject(&format!("PU. 1:101(100) ack 1 urg {urgent}"));
        s.inject(&format!("PU. 201:301(100) ack 1 urg {urgent}"));
        s.inject(&format!("PU. 101:201(100) ack 1 urg {urgent}"));
        s.read(300);
    }
}

#[test]
fn writes_become_segments_and_push_ends_them() {
    let mut s = Script::established(&plain());
    s.write(2500);
    s.expect(". 1:1001(1000) ack 1");
    s.expect(". 1001:2001(1000) ack 1");
    s.expect("P. 2001:2501(500) ack 1");
    s.nothing();
    s.inject(". 1:1(0) ack 2501");
    assert_eq!(s.c.unacked_bytes(), 0);
}

#[test]
fn a_segment_is_gathered_from_several_writes() {
    let mut s = Script::established(&Config {
        cork: true,
        ..plain()
    });
    for _ in 0..12 {
        s.write(100);
    }
    // Four pieces are the most that one segment refers to.
    s.expect(". 1:401(400)");
    s.at(100);
    s.nothing();
    s.inject(". 1:1(0) ack 401");
    s.at(300);
    s.expect(". 401:801(400)");
    s.expect("P. 801:1201(400)");
}

#[test]
fn nagle_holds_a_small_segment_behind_a_small_one() {
    let mut s = Script::established(&Config {
        nodelay: false,
        ..plain()
    });
    s.write(100);
    s.expect("P. 1:101(100)");
    s.write(100);
    s.nothing();
    s.write(100);
    s.nothing();
    s.inject(". 1:1(0) ack 101");
    s.expect("P. 101:301(200)");
    // A full segment does not wait, and its tail does not wait for it (Minshall).
    s.inject(". 1:1(0) ack 301");
    s.write(1500);
    s.expect(". 301:1301(1000)");
    s.expect("P. 1301:1801(500)");
    s.write(10);
    s.nothing();
    s.c.set_nodelay(true);
    s.run();
    s.expect("P. 1801:1811(10)");
}

#[test]
fn cork_sends_full_segments_only_for_200_ms() {
    let mut s = Script::established(&plain());
    s.c.set_cork(true);
    s.write(700);
    s.write(700);
    s.expect(". 1:1001(1000)");
    s.nothing();
    s.inject(". 1:1(0) ack 1001");
    s.nothing();
    s.at(200);
    s.expect("P. 1001:1401(400)");
    s.inject(". 1:1(0) ack 1401");
    s.write(100);
    s.nothing();
    s.c.set_cork(false);
    s.run();
    s.expect("P. 1401:1501(100)");
}

#[test]
fn more_holds_a_tail_until_the_last_write() {
    let mut s = Script::established(&plain());
    s.write_more(300, true);
    s.nothing();
    s.write_more(900, true);
    s.expect(". 1:1001(1000)");
    s.nothing();
    s.write(100);
    s.expect("P. 1001:1301(300)");
}

#[test]
fn fin_travels_with_the_last_data_and_past_nagle_and_cork() {
    let mut s = Script::established(&Config {
        nodelay: false,
        cork: true,
        ..plain()
    });
    s.write(1200);
    s.expect(". 1:1001(1000)");
    s.nothing();
    s.shutdown();
    s.expect("FP. 1001:1201(200)");
    s.state(State::FinWait1);
}

#[test]
fn writing_beyond_the_buffer_is_refused_until_acknowledged() {
    let mut s = Script::established(&Config {
        snd_buf_max_bytes: 3000,
        ..plain()
    });
    assert_eq!(s.c.send_space(), 3000);
    s.write(3000);
    assert_eq!(s.discard(), 3);
    assert_eq!(s.c.send_space(), 0);
    assert!(
        s.c.push(crate::tcp::testutil::Bytes::new(b"x"), false)
            .is_err()
    );
    s.inject(". 1:1(0) ack 501");
    assert_eq!(s.events(), [], "less than a third is free");
    s.inject(". 1:1(0) ack 1001");
    assert_eq!(s.events(), [Event::Writable]);
    s.inject(". 1:1(0) ack 2001");
    assert_eq!(s.events(), [], "nobody waits");
}

#[test]
fn append_fills_the_last_payload() {
    let mut s = Script::established(&Config {
        cork: true,
        ..plain()
    });
    assert_eq!(s.c.append(b"abc", false), 0, "nothing to append to");
    let payload = crate::tcp::testutil::Bytes::with_room(&[0, 1, 2], 5);
    s.c.push(payload, false).expect("room");
    assert_eq!(s.c.append(&[3, 4, 5], false), 2);
    assert_eq!(s.c.unsent_bytes(), 5);
    s.c.set_cork(false);
    s.run();
    s.expect("P. 1:6(5)");
}

#[test]
fn small_segments_do_not_pin_a_buffer_each() {
    let mut s = Script::established(&plain());
    let first = crate::tcp::testutil::Bytes::with_room(&[0], 2048);
    let mut payload = crate::tcp::Pieces::new();
    payload.push(first);
    let header = crate::wire::TcpHeader {
        seq: s.c.rx.nxt,
        ack: s.c.tx.una,
        flags: crate::wire::TcpFlags::ACK,
        window: 60_000,
        ..Default::default()
    };
    let ecn = crate::wire::Ecn::NotEct;
    let seg = crate::tcp::SegmentIn {
        header: &header,
        payload: &mut payload,
        payload_len: 1,
        ecn,
    };
    let _ = s.c.on_segment(s.now, seg);
    for i in 2..1000 {
        s.inject(&format!(". {i}:{}(1) ack 1", i + 1));
    }
    assert_eq!(s.c.peek_pieces().count(), 1);
    s.discard();
    s.read(999);
}
