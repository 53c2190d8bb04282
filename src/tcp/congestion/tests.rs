use super::*;

fn ack(bytes: u32) -> Ack {
    Ack {
        bytes,
        ..Ack::default()
    }
}

fn used(mss: u32) -> Controller {
    let mut c = Controller::new(CongestionControl::NewReno, mss, false);
    c.on_transmitted(c.cwnd(), true, true);
    c
}

#[test]
fn initial_windows_of_rfc_6928() {
    for (mss, window) in [
        (536, 5360),
        (1000, 10_000),
        (1460, 14_600),
        (5000, 14_600),
        (9000, 18_000),
    ] {
        assert_eq!(
            Controller::new(CongestionControl::NewReno, mss, false).cwnd(),
            window
        );
    }
    assert_eq!(
        Controller::new(CongestionControl::NewReno, 1460, true).cwnd(),
        1460
    );
}

#[test]
fn slow_start_counts_bytes_up_to_two_segments() {
    let mut c = used(1000);
    c.on_ack(&ack(100));
    assert_eq!(c.cwnd(), 10_100, "ACK division gains nothing");
    c.on_ack(&ack(9000));
    assert_eq!(c.cwnd(), 12_100);
    c.on_ack(&Ack {
        after_timeout: true,
        ..ack(9000)
    });
    assert_eq!(c.cwnd(), 13_100);
}

#[test]
fn congestion_avoidance_adds_a_segment_per_window() {
    let mut c = used(1000);
    c.enter_sack_recovery(20_000);
    assert_eq!(c.cwnd(), 10_000);
    for _ in 0..9 {
        c.on_ack(&ack(1000));
    }
    assert_eq!(c.cwnd(), 10_000);
    c.on_ack(&ack(1000));
    assert_eq!(c.cwnd(), 11_000);
}

#[test]
fn an_unused_window_does_not_grow() {
    let mut c = Controller::new(CongestionControl::NewReno, 1000, false);
    c.on_transmitted(2000, false, true);
    c.on_ack(&ack(1000));
    assert_eq!(c.cwnd(), 10_000);
}

#[test]
fn no_arithmetic_overflows() {
    let mut c = used(u32::MAX / 2);
    for _ in 0..10 {
        c.on_ack(&ack(u32::MAX));
        c.inflate();
        c.deflate(u32::MAX);
        c.enter_reno_recovery(u32::MAX);
        c.exit_reno_recovery(u32::MAX);
        c.on_timeout(u32::MAX, true);
        c.set_mss(u32::MAX);
        c.on_idle();
    }
}

#[test]
fn a_recovery_that_ends_after_the_mss_rose_leaves_room_for_a_segment() {
    let mut c = used(88);
    c.enter_reno_recovery(200);
    c.set_mss(492);
    c.exit_reno_recovery(0);
    assert!(
        c.cwnd() >= 492,
        "nothing could ever leave a window of {}",
        c.cwnd()
    );
}
