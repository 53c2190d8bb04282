use super::*;
use crate::tcp::testutil::Bytes;

fn receiver(budget: u32) -> Receiver<Bytes> {
    let mut r = Receiver::new(budget, 0, 1000);
    r.synchronize(SeqNum::new(u32::MAX - 1));
    let _ = r.advertise();
    r
}

/// RFC 9293 §3.10.7.4, table 6, with the two allowances of [`Receiver::is_acceptable`].
#[test]
fn acceptability() {
    let r = receiver(100);
    let at = |n: i32| r.nxt + n as u32;
    for (offset, len, want) in [
        (0, 0, true),
        (99, 0, true),
        (100, 0, true),
        (101, 0, false),
        (-1, 0, false),
        (0, 1, true),
        (-1, 1, false),
        (-1, 2, true),
        (99, 1, true),
        (100, 1, false),
        (-50, 1000, true),
        (i32::MIN, 10, false),
    ] {
        assert_eq!(r.is_acceptable(at(offset), len), want, "{offset} {len}");
    }
    let r = receiver(0);
    assert!(r.is_acceptable(r.nxt, 0) && r.is_acceptable(r.nxt, 10));
    assert!(!r.is_acceptable(r.nxt + 1, 0) && !r.is_acceptable(r.nxt - 1, 1));
}

#[test]
fn scaled_windows_move_the_edge_back_by_less_than_their_unit() {
    let mut r: Receiver<Bytes> = Receiver::new(1_000_003, 7, 1000);
    r.synchronize(SeqNum::new(7));
    let mut edge = r.nxt;
    for len in [1u32, 127, 128, 129, 1000, 77, 5] {
        let window = u32::from(r.advertise()) << 7;
        assert!((r.nxt + window + 127).after_eq(edge));
        edge = edge.latest(r.nxt + window);
        let mut pieces = Pieces::new();
        pieces.push(Bytes::new(&vec![0; len as usize]));
        r.take_in_order(&mut pieces, len);
    }
}

#[test]
fn small_segments_do_not_push_the_edge_beyond_the_buffer() {
    for shift in [0, 1, 7, 14] {
        let mut r: Receiver<Bytes> = Receiver::new(100_000, shift, 1000);
        r.synchronize(SeqNum::new(7));
        let _ = r.advertise();
        // A peer that fills the window byte by byte and an application that never reads.
        for _ in 0..300_000 {
            if r.window() == 0 {
                break;
            }
            let mut pieces = Pieces::new();
            pieces.push(Bytes::new(&[0]));
            r.take_in_order(&mut pieces, 1);
            let _ = r.advertise();
        }
        assert!(
            r.readable() < 100_000 + (1 << shift),
            "{} bytes, shift {shift}",
            r.readable()
        );
    }
}

#[test]
fn a_fin_that_contradicts_an_earlier_one_is_ignored() {
    let mut r = receiver(1000);
    let none = &mut Pieces::new();
    let start = r.nxt;
    assert_eq!(r.on_data(start + 10, 0, true, none), Arrival::OutOfOrder);
    let _ = r.on_data(start + 20, 0, true, none);
    let mut data = Pieces::new();
    data.push(Bytes::new(&[0; 15]));
    // Data beyond the end is cut off.
    assert_eq!(r.on_data(start, 15, false, &mut data), Arrival::FilledGap);
    assert!(r.fin_received());
    assert_eq!(r.readable(), 10);
}
