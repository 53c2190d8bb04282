//! Blind attacks (RFC 5961), PAWS (RFC 7323), and resets.

use super::script::{Script, plain};
use crate::tcp::{Config, Disposition, Event, State};

#[test]
fn a_reset_counts_only_at_exactly_rcv_nxt() {
    // The window is [1, 60001).
    for (seq, challenged) in [
        (2i64, true),
        (100, true),
        (60_000, true),
        (0, false),
        (60_002, false),
    ] {
        for flags in ["R", "R."] {
            let mut s = Script::established(&plain());
            s.inject(&format!("{flags} {seq}:{seq}(0) ack 1"));
            s.state(State::Established);
            if challenged {
                s.expect(". 1:1(0) ack 1");
            }
            s.nothing();
        }
    }
    let mut s = Script::established(&plain());
    s.inject("R 1:1(0)");
    s.state(State::Closed);
    s.nothing();
    assert_eq!(s.events(), [Event::Reset, Event::Closed]);
}

#[test]
fn a_syn_is_challenged_wherever_it_lies() {
    for seq in [-100_000i64, 0, 1, 2, 59_999, 70_000, 2_000_000_000] {
        for flags in ["S", "S."] {
            let mut s = Script::established(&plain());
            s.inject(&format!("{flags} {seq}:{seq}(0) ack 1"));
            s.state(State::Established);
            s.expect(". 1:1(0) ack 1");
            s.nothing();
        }
    }
}

#[test]
fn acks_outside_the_plausible_range_are_challenged_and_their_data_dropped() {
    // SND.UNA = SND.NXT = 1, MAX.SND.WND = 60000.
    for (ack, good) in [
        (2i64, false),
        (1, true),
        (0, true),
        (-59_999, true),
        (-60_000, false),
    ] {
        let mut s = Script::established(&plain());
        s.inject(&format!("P. 1:101(100) ack {ack}"));
        assert_eq!(
            s.c.readable_bytes(),
            if good { 100 } else { 0 },
            "ack {ack}"
        );
        if !good {
            s.expect(". 1:1(0) ack 1");
        }
        s.nothing();
    }
}

#[test]
fn segments_without_ack_are_dropped() {
    let mut s = Script::established(&plain());
    s.inject("P 1:101(100)");
    s.inject("F 1:1(0)");
    s.nothing();
    s.state(State::Established);
    assert_eq!(s.c.readable_bytes(), 0);
}

#[test]
fn challenges_are_limited_per_connection_and_unpredictably() {
    let mut counts = Vec::new();
    for seed in 0..20 {
        let mut s = Script::established(&Config { seed, ..plain() });
        let mut n = 0;
        for _ in 0..100 {
            s.inject("S 1:1(0)");
            n += s.discard();
        }
        assert!((4..=8).contains(&n), "{n}");
        counts.push(n);
        s.at(1001);
        s.inject("S 1:1(0)");
        assert_eq!(s.discard(), 1, "a new period");
        assert_eq!(s.c.counters().challenge_acks_limited, 100 - n as u64);
    }
    counts.dedup();
    assert!(counts.len() > 3, "{counts:?}");
}

fn stamped() -> Script {
    let cfg = Config {
        timestamps: true,
        ..plain()
    };
    let mut s = Script::accept(&cfg, "S 0:0(0) <mss 1000,TS val 1000 ecr 0>");
    s.expect("S. 0:0(0) ack 1 <TS val 0 ecr 1000>");
    s.inject(". 1:1(0) ack 1 <TS val 1001 ecr 0>");
    s.c.set_quick_ack(false);
    s
}

#[test]
fn paws_drops_old_timestamps_and_answers() {
    let mut s = stamped();
    s.inject("P. 1:101(100) ack 1 <TS val 1000 ecr 0>");
    s.expect(". 1:1(0) ack 1 <TS val 0 ecr 1001>");
    assert_eq!(s.c.readable_bytes(), 0);
    assert_eq!(s.c.counters().paws_drops, 1);
    s.inject("P. 1:101(100) ack 1 <TS val 1001 ecr 0>");
    assert_eq!(s.c.readable_bytes(), 100);
    // Half the circle further is older.
    s.inject("P. 101:201(100) ack 1 <TS val 2147484650 ecr 0>");
    assert_eq!(s.c.readable_bytes(), 100);
    // Without the option: dropped in silence; the connection lives.
    s.discard();
    s.inject("P. 101:201(100) ack 1");
    s.nothing();
    assert_eq!(s.c.readable_bytes(), 100);
    // A reset is exempt, with or without.
    s.inject("R 101:101(0)");
    s.state(State::Closed);
}

#[test]
fn a_reset_with_an_old_timestamp_counts() {
    let mut s = stamped();
    s.inject("R. 1:1(0) ack 1 <TS val 1 ecr 0>");
    s.state(State::Closed);
}

#[test]
fn ts_recent_can_not_be_poisoned() {
    let mut s = stamped();
    // Out of order, beyond the window, with a bad ACK: none of these may set TS.Recent.
    s.inject("P. 501:601(100) ack 1 <TS val 900000 ecr 0>");
    s.expect(". 1:1(0) ack 1 <TS val 0 ecr 1001>");
    s.inject("P. 70000:70100(100) ack 1 <TS val 900000 ecr 0>");
    s.expect(". 1:1(0) ack 1 <TS val 0 ecr 1001>");
    s.inject("P. 1:101(100) ack 77777 <TS val 900000 ecr 0>");
    s.expect(". 1:1(0) ack 1 <TS val 0 ecr 1001>");
    s.inject("P. 1:101(100) ack 1 <TS val 1002 ecr 0>");
    assert_eq!(s.c.readable_bytes(), 100);
}

#[test]
fn the_earliest_unacknowledged_timestamp_is_echoed() {
    let mut s = stamped();
    s.c.set_delayed_ack(crate::time::Duration::from_millis(40));
    s.inject("P. 1:101(100) ack 1 <TS val 1005 ecr 0>");
    s.inject("P. 101:201(100) ack 1 <TS val 1009 ecr 0>");
    s.at(40);
    s.expect(". 1:1(0) ack 201 <TS val 40 ecr 1005>");
}

#[test]
fn after_24_days_of_silence_any_timestamp_is_good() {
    let mut s = stamped();
    s.at(24 * 24 * 3600 * 1000);
    s.inject("P. 1:101(100) ack 1 <TS val 3 ecr 0>");
    assert_eq!(s.c.readable_bytes(), 100);
    s.at(s.now.as_nanos() / 1_000_000 + 1);
    s.expect(". 1:1(0) ack 101 <ecr 3>");
}

#[test]
fn every_combination_of_flags_in_every_state_is_survived() {
    let drive: [fn(&mut Script); 8] = [
        |_| {},
        |s| s.shutdown(),
        |s| {
            s.shutdown();
            s.inject(". 1:1(0) ack 2");
        },
        |s| s.inject("F. 1:1(0) ack 1"),
        |s| {
            s.shutdown();
            s.inject("F. 1:1(0) ack 1");
        },
        |s| {
            s.inject("F. 1:1(0) ack 1");
            s.shutdown();
        },
        |s| {
            s.shutdown();
            s.inject("F. 1:1(0) ack 2");
        },
        |s| s.inject("R 1:1(0)"),
    ];
    for (i, prepare) in drive.iter().enumerate() {
        for bits in 0u32..64 {
            for seq in [-1i64, 0, 1, 2, 500, 59_999, 60_000, 60_001, 2_147_483_647] {
                for (ack, len) in [(0i64, 0), (1, 100), (2, 0), (3, 1), (-2_147_483_648, 2000)] {
                    let mut s = Script::established(&plain());
                    prepare(&mut s);
                    s.discard();
                    let flags: String = "SFRP.U"
                        .chars()
                        .enumerate()
                        .filter(|(k, _)| bits >> k & 1 == 1)
                        .map(|(_, c)| c)
                        .collect();
                    let flags = if flags.is_empty() { "-".into() } else { flags };
                    let before = s.c.state();
                    s.inject(&format!("{flags} {seq}:0({len}) ack {ack}"));
                    s.discard();
                    let exact_reset = flags.contains('R') && (seq == 1 || seq == 2);
                    let closes = matches!(before, State::LastAck | State::TimeWait);
                    if s.c.state() == State::Closed && before != State::Closed {
                        assert!(
                            exact_reset || closes,
                            "{i}: {flags} {seq} {ack} in {before}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_closed_connection_disowns_what_arrives() {
    let mut s = Script::established(&plain());
    s.inject("R 1:1(0)");
    s.inject("P. 1:101(100) ack 1");
    assert_eq!(s.disposition, Disposition::Orphan);
    s.nothing();
}

#[test]
fn what_was_received_before_a_reset_can_be_read() {
    let mut s = Script::established(&plain());
    s.inject("P. 1:101(100) ack 1");
    s.inject("R 101:101(0)");
    s.state(State::Closed);
    s.read(100);
}
