//! A link that cuts long segments (TSO): what goes together, and what does not.

use super::script::{Script, plain};
use crate::tcp::Config;

fn cutting() -> Config {
    Config {
        tso_bytes_max: 65_000,
        ..plain()
    }
}

#[test]
fn full_segments_and_the_rest_go_together() {
    let mut s = Script::established(&cutting());
    s.write(3500);
    let out = s.expect("P. 1:3501(3500)");
    assert_eq!((out.segment_bytes, out.segments()), (1000, 4));
    assert_eq!(s.c.info().volume.segs_out, 1 + 4);
    s.inject(". 1:1(0) ack 3501");
    s.write(1000);
    assert_eq!(s.expect("P. 3501:4501(1000)").segment_bytes, 0);
}

#[test]
fn the_peers_window_and_ours_bound_it_in_full_segments() {
    let mut s = Script::established_with(&cutting(), "win 2500", "<mss 1000>");
    s.write(5000);
    s.expect(". 1:2001(2000)");
    s.nothing();
    s.inject(". 1:1(0) ack 2001 win 60000");
    s.expect("P. 2001:5001(3000)");

    let mut s = Script::established(&cutting());
    s.write(50_000);
    // The initial window of RFC 6928.
    s.expect(". 1:10001(10000)");
    s.nothing();
    s.inject(". 1:1(0) ack 2001");
    s.expect(". 10001:14001(4000)");
    s.nothing();
}

#[test]
fn the_rest_waits_as_it_would_by_itself() {
    let cfg = Config {
        nodelay: false,
        ..cutting()
    };
    // Nagle, with a small segment outstanding.
    let mut s = Script::established(&cfg);
    s.write(300);
    s.expect("P. 1:301(300)");
    s.write(2500);
    s.expect(". 301:2301(2000)");
    s.nothing();
    s.inject(". 1:1(0) ack 301");
    s.expect("P. 2301:2801(500)");
    // Without one, the tail of a long write goes at once.
    let mut s = Script::established(&cfg);
    s.write(2500);
    s.expect("P. 1:2501(2500)");
    // MSG_MORE.
    let mut s = Script::established(&cutting());
    s.write_more(2500, true);
    s.expect(". 1:2001(2000)");
    s.nothing();
    s.write(1);
    s.expect("P. 2001:2502(501)");
}

#[test]
fn fin_goes_with_the_last_of_it() {
    let mut s = Script::established(&cutting());
    s.c.set_cork(true);
    s.write(900);
    s.nothing();
    s.write(1100);
    let first = s.expect("P. 1:2001(2000)");
    assert_eq!(first.segments(), 2);
    s.write(600);
    s.shutdown();
    s.expect("FP. 2001:2601(600)");
}

#[test]
fn what_is_lost_is_sent_again_segment_by_segment() {
    let mut s = Script::established(&cutting());
    s.write(5000);
    s.expect("P. 1:5001(5000)");
    for _ in 0..3 {
        s.inject(". 1:1(0) ack 1");
    }
    let again = s.expect(". 1:1001(1000)");
    assert!(again.retransmission && again.segment_bytes == 0);
}

#[test]
fn a_segment_of_too_many_pieces_ends_at_a_boundary() {
    let mut s = Script::established(&cutting());
    s.write(10_000);
    s.expect("P. 1:10001(10000)");
    for _ in 0..6 {
        s.write(700);
    }
    s.nothing();
    s.inject(". 1:1(0) ack 10001");
    s.expect(". 10001:12001(2000)");
    s.expect("P. 12001:14201(2200)");
}
