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

fn round(c: &mut Controller, now: &mut Instant, sent: &mut SeqNum, ack: Ack) {
    let window = c.cwnd();
    c.on_transmitted(window, true, true);
    *now += Duration::from_millis(10);
    *sent += window;
    let ack = Ack {
        bytes: window,
        una: *sent,
        nxt: *sent + window,
        rtt: Some(Duration::from_millis(10)),
        srtt: Some(Duration::from_millis(10)),
        min_rtt: Some(Duration::from_millis(10)),
        now: *now,
        ..ack
    };
    c.observe(&ack);
    c.on_ack(&ack);
}

/// Leaves slow start at `cwnd`.
fn in_avoidance(control: CongestionControl, cwnd: u32) -> Controller {
    let mut c = Controller::new(control, 1000, false);
    c.window.cwnd = cwnd;
    c.window.ssthresh = cwnd;
    c
}

#[test]
fn dctcp_falls_by_half_of_what_was_marked() {
    let mut c = in_avoidance(CongestionControl::Dctcp, 100_000);
    let (mut now, mut sent) = (Instant::ZERO, SeqNum::new(0));
    for _ in 0..200 {
        round(&mut c, &mut now, &mut sent, Ack::default());
    }
    c.window.cwnd = 100_000;
    c.on_ecn(100_000);
    assert_eq!(c.cwnd(), 100_000, "nothing was marked");
    for _ in 0..200 {
        let marked = Ack {
            ece: true,
            ..Ack::default()
        };
        round(&mut c, &mut now, &mut sent, marked);
    }
    c.window.cwnd = 100_000;
    c.on_ecn(100_000);
    assert!(
        (50_000..=52_000).contains(&c.cwnd()),
        "all of it: {}",
        c.cwnd()
    );
    c.window.cwnd = 100_000;
    c.enter_sack_recovery(100_000);
    assert_eq!(c.ssthresh(), 50_000, "a loss is a loss");
}

#[test]
fn cubic_falls_by_three_tenths() {
    let mut c = in_avoidance(CongestionControl::Cubic, 1_000_000);
    c.enter_sack_recovery(1_000_000);
    assert_eq!(c.ssthresh(), 700_000);
    c.exit_sack_recovery();
    assert_eq!(c.cwnd(), 700_000);
}

#[test]
fn cubic_leaves_slow_start_when_round_trips_grow() {
    let mut c = Controller::new(CongestionControl::Cubic, 1000, false);
    let mut sent = SeqNum::new(0);
    for i in 0..30u64 {
        let window = c.cwnd();
        c.on_transmitted(window, true, true);
        for _ in 0..10 {
            sent += window / 10;
            let rtt = Duration::from_millis(20 + 5 * i);
            let ack = Ack {
                bytes: window / 10,
                una: sent,
                nxt: sent + window,
                rtt: Some(rtt),
                srtt: Some(rtt),
                now: Instant::from_nanos(i * 20_000_000),
                ..Ack::default()
            };
            c.observe(&ack);
            c.on_ack(&ack);
        }
        if c.ssthresh() < u32::MAX {
            return;
        }
    }
    panic!("still in slow start at {}", c.cwnd());
}

/// RFC 9406 §4.3: what ended the first slow start does not end a later one after its first round.
#[test]
fn a_later_slow_start_of_cubic_goes_all_the_way() {
    for after_idle in [true, false] {
        let mut c = Controller::new(CongestionControl::Cubic, 1000, false);
        let (mut now, mut sent) = (Instant::ZERO, SeqNum::new(0));
        for i in 0..40u64 {
            let window = c.cwnd();
            c.on_transmitted(window, true, true);
            for _ in 0..10 {
                now += Duration::from_millis(2);
                sent += window / 10;
                let rtt = Some(Duration::from_millis(20 + 5 * i));
                let ack = Ack {
                    bytes: window / 10,
                    una: sent,
                    nxt: sent + window,
                    rtt,
                    srtt: rtt,
                    now,
                    ..Ack::default()
                };
                c.observe(&ack);
                c.on_ack(&ack);
            }
        }
        let end = if after_idle {
            c.on_idle();
            c.ssthresh()
        } else {
            c.on_timeout(c.cwnd(), true);
            c.ssthresh()
        };
        assert!((50_000..u32::MAX).contains(&end) && c.cwnd() < end / 4);
        let mut rounds = 0;
        while c.cwnd() < end {
            round(&mut c, &mut now, &mut sent, Ack::default());
            assert_eq!(c.ssthresh(), end, "slow start goes on");
            rounds += 1;
            // A round of this test is one ACK: two segments at most.
            assert!(rounds < end / 1000, "{} after {rounds}", c.cwnd());
        }
    }
}

/// RFC 9438 §4.8: K is 0 and W_max the window that congestion avoidance begins with.
#[test]
fn after_a_timeout_cubic_grows_from_where_slow_start_ended() {
    for timed_out in [true, false] {
        let mut c = in_avoidance(CongestionControl::Cubic, 1_000_000);
        if timed_out {
            c.on_timeout(1_000_000, true);
            c.window.cwnd = c.ssthresh();
        } else {
            c.enter_sack_recovery(1_000_000);
            c.exit_sack_recovery();
        }
        assert_eq!(c.cwnd(), 700_000);
        let (mut now, mut sent) = (Instant::ZERO, SeqNum::new(0));
        for _ in 0..100 {
            round(&mut c, &mut now, &mut sent, Ack::default());
        }
        // After a second: the cubic around W_max is steep at first, the one that begins flat is not
        // ahead of Reno's line yet.
        let grown = c.cwnd() - 700_000;
        assert_eq!(grown > 70_000, !timed_out, "{grown}");
    }
}

#[test]
fn hpcc_follows_the_busiest_hop_and_without_one_is_newreno() {
    let mut c = in_avoidance(CongestionControl::Hpcc, 100_000);
    let (mut now, mut sent) = (Instant::ZERO, SeqNum::new(0));
    let load = |percent: u32| Ack {
        utilisation: u16::try_from(UTILISATION_ONE * percent / 100).ok(),
        ..Ack::default()
    };
    for _ in 0..3 {
        round(&mut c, &mut now, &mut sent, load(190));
    }
    assert!(c.cwnd() < 60_000, "twice too much: {}", c.cwnd());
    c.window.cwnd = 50_000;
    let before = c.cwnd();
    for _ in 0..10 {
        round(&mut c, &mut now, &mut sent, load(95));
    }
    let steady = c.cwnd();
    for _ in 0..12 {
        round(&mut c, &mut now, &mut sent, load(30));
    }
    assert!(
        c.cwnd() > steady + before / 2,
        "room: {steady} to {}",
        c.cwnd()
    );
    // The path falls silent.
    for _ in 0..4 {
        round(&mut c, &mut now, &mut sent, Ack::default());
    }
    let before = c.cwnd();
    round(&mut c, &mut now, &mut sent, Ack::default());
    assert_eq!(c.cwnd(), before + 1000, "a segment per round trip");
}

#[test]
fn the_name_finds_the_control() {
    for control in CongestionControl::ALL {
        assert_eq!(CongestionControl::from_name(control.name()), Some(control));
        assert_eq!(Controller::new(control, 1000, false).control(), control);
    }
    assert_eq!(CongestionControl::from_name("bbr"), None);
}

/// What may happen to a controller.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Sent {
        flight: u32,
        limited: bool,
    },
    Ack {
        bytes: u32,
        after_timeout: bool,
        load: u16,
    },
    Fast {
        flight: u32,
    },
    RecoveryAck {
        delivered: u32,
        in_flight: u32,
    },
    RecoveryEnd,
    Timeout {
        flight: u32,
        first: bool,
    },
    Ecn {
        flight: u32,
    },
    Undo,
    Idle,
    Mss(u32),
}

fn happening() -> impl proptest::strategy::Strategy<Value = Happening> {
    use proptest::prelude::*;
    let bytes = || prop_oneof![0..100_000_u32, Just(u32::MAX), Just(1 << 30)];
    prop_oneof![
        (bytes(), any::<bool>()).prop_map(|(flight, limited)| Happening::Sent { flight, limited }),
        (bytes(), any::<bool>(), 0..u16::MAX).prop_map(|(bytes, after_timeout, load)| {
            Happening::Ack {
                bytes,
                after_timeout,
                load,
            }
        }),
        bytes().prop_map(|flight| Happening::Fast { flight }),
        (bytes(), bytes()).prop_map(|(delivered, in_flight)| Happening::RecoveryAck {
            delivered,
            in_flight
        }),
        Just(Happening::RecoveryEnd),
        (bytes(), any::<bool>()).prop_map(|(flight, first)| Happening::Timeout { flight, first }),
        bytes().prop_map(|flight| Happening::Ecn { flight }),
        Just(Happening::Undo),
        Just(Happening::Idle),
        (1..9_000_u32).prop_map(Happening::Mss),
    ]
}

fn happen(c: &mut Controller, at: u32, what: Happening) {
    let now = Instant::ZERO + Duration::from_millis(u64::from(at));
    match what {
        Happening::Sent { flight, limited } => {
            c.on_transmitted(flight, limited, true);
        }
        Happening::Ack {
            bytes,
            after_timeout,
            load,
        } => {
            let ack = Ack {
                bytes,
                after_timeout,
                una: SeqNum::new(at * 2),
                nxt: SeqNum::new(at * 3),
                rtt: Some(Duration::from_micros(100)),
                srtt: Some(Duration::from_micros(100)),
                min_rtt: Some(Duration::from_micros(50)),
                utilisation: (load > 0).then_some(load),
                now,
                ..Ack::default()
            };
            c.observe(&ack);
            c.on_ack(&ack);
        }
        Happening::Fast { flight } => c.enter_sack_recovery(flight),
        Happening::RecoveryAck {
            delivered,
            in_flight,
        } => c.on_recovery_ack(delivered, in_flight, true),
        Happening::RecoveryEnd => c.exit_sack_recovery(),
        Happening::Timeout { flight, first } => c.on_timeout(flight, first),
        Happening::Ecn { flight } => c.on_ecn(flight),
        Happening::Undo => c.undo(),
        Happening::Idle => c.on_idle(),
        Happening::Mss(mss) => c.set_mss(mss),
    }
}

proptest::proptest! {
    #[test]
    fn every_control_lets_something_out_and_not_without_bound(
        control in 0..CongestionControl::ALL.len(),
        happenings in proptest::collection::vec(happening(), 1..60),
    ) {
        let mut c = Controller::new(CongestionControl::ALL[control], 1000, false);
        for (at, what) in happenings.into_iter().enumerate() {
            happen(&mut c, at as u32, what);
            proptest::prop_assert!(c.cwnd() >= c.window.mss, "{} after {what:?}", c.cwnd());
            proptest::prop_assert!(c.cwnd() <= CWND_BYTES_MAX, "{} after {what:?}", c.cwnd());
        }
    }
}
