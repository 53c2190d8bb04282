use super::*;
use crate::tcp::info::TimeWaitStamps;

const T0: Instant = Instant::from_nanos(10_000_000_000);
const SND_NXT: SeqNum = SeqNum::new(5_000);
const RCV_NXT: SeqNum = SeqNum::new(u32::MAX - 2);
const TS_RECENT: u32 = 3;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn record(timestamps: bool) -> TimeWait {
    let stamps = TimeWaitStamps {
        recent: TS_RECENT,
        recent_at: T0,
        offset: 100,
        last_value: 90,
    };
    let seed = TimeWaitSeed {
        ports: Ports {
            local: 80,
            remote: 1000,
        },
        snd_nxt: SND_NXT,
        rcv_nxt: RCV_NXT,
        rcv_wnd: 1 << 20,
        rcv_wscale: 7,
        timestamps: timestamps.then_some(stamps),
        until: T0 + Duration::from_secs(60),
        duration: Duration::from_secs(60),
    };
    TimeWait::new(&seed, T0)
}

fn segment(flags: TcpFlags, seq: SeqNum, tsval: Option<u32>) -> TcpHeader {
    let mut header = TcpHeader {
        src_port: 1000,
        dst_port: 80,
        seq,
        ack: SND_NXT,
        flags,
        ..TcpHeader::default()
    };
    header.options.timestamps = tsval.map(|value| Timestamps { value, echo: 0 });
    header
}

fn is_ack(decision: &TimeWaitDecision) -> bool {
    matches!(decision, TimeWaitDecision::Ack(_))
}

#[test]
fn a_repeated_fin_is_acknowledged_and_restarts_the_wait() {
    let mut tw = record(true);
    assert_eq!(tw.expires_at(T0), T0 + Duration::from_secs(60));
    let later = T0 + Duration::from_secs(30);
    let fin = segment(TcpFlags::FIN | TcpFlags::ACK, RCV_NXT - 1, Some(TS_RECENT));
    let TimeWaitDecision::Ack(ack) = tw.on_segment(later, &fin, 0) else {
        panic!()
    };
    assert_eq!(
        (ack.seq, ack.ack, ack.flags),
        (SND_NXT, RCV_NXT, TcpFlags::ACK)
    );
    assert_eq!(
        (ack.src_port, ack.dst_port, ack.window),
        (80, 1000, (1 << 20 >> 7) as u16)
    );
    let stamps = Timestamps {
        value: later.as_millis_wrapping() + 100,
        echo: TS_RECENT,
    };
    assert_eq!(ack.options.timestamps, Some(stamps));
    assert_eq!(tw.expires_at(later), later + Duration::from_secs(60));
    assert!(!tw.is_expired(later + ms(59_999)) && tw.is_expired(later + ms(60_000)));

    // With data before it, too; but not one that ends elsewhere, or that is old.
    let mut tw = record(true);
    let fin = segment(TcpFlags::FIN | TcpFlags::ACK, RCV_NXT - 11, Some(TS_RECENT));
    assert!(is_ack(&tw.on_segment(later, &fin, 10)));
    assert_eq!(tw.expires_at(later), later + Duration::from_secs(60));
    for (seq, ts) in [(RCV_NXT - 5, TS_RECENT), (RCV_NXT - 1, TS_RECENT - 1)] {
        let mut tw = record(true);
        let fin = segment(TcpFlags::FIN | TcpFlags::ACK, seq, Some(ts));
        assert!(is_ack(&tw.on_segment(later, &fin, 0)));
        assert_eq!(tw.expires_at(later), T0 + Duration::from_secs(60));
    }
}

#[test]
fn every_combination_of_flags_and_places() {
    for bits in 0..=u8::MAX {
        let flags = TcpFlags::from_bits_retain(bits);
        for place in [-100_000i32, -1, 0, 1, 100, 100_000] {
            for (timestamps, tsval) in [
                (false, None),
                (false, Some(1)),
                (true, None),
                (true, Some(2)),
                (true, Some(4)),
            ] {
                for len in [0, 10] {
                    let mut tw = record(timestamps);
                    let seq = SeqNum::new(RCV_NXT.get().wrapping_add(place as u32));
                    let decision = tw.on_segment(T0, &segment(flags, seq, tsval), len);
                    check(flags, place, timestamps, tsval, len, &decision);
                    let restarted = tw.expires_at(T0) != T0 + Duration::from_secs(60);
                    assert!(!restarted, "restarting now changes nothing");
                }
            }
        }
    }
}

fn check(
    flags: TcpFlags,
    place: i32,
    timestamps: bool,
    tsval: Option<u32>,
    len: u32,
    decision: &TimeWaitDecision,
) {
    let case = format!("{flags:?} at {place} len {len}, ts {timestamps} {tsval:?}: {decision:?}");
    let has = |flag| flags.contains(flag);
    let old = timestamps && tsval == Some(2);
    let control = u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
    let opens = has(TcpFlags::SYN) && !has(TcpFlags::ACK) && !has(TcpFlags::FIN);
    if has(TcpFlags::RST) {
        assert_eq!(*decision, TimeWaitDecision::Ignore, "{case}");
    } else if opens {
        let reuse = match (timestamps, tsval) {
            (true, Some(value)) => value > TS_RECENT,
            (false, Some(_)) => true,
            (_, None) => place > 0,
        };
        match decision {
            TimeWaitDecision::Reuse { iss_min } => {
                assert!(reuse && iss_min.after(SND_NXT), "{case}");
            }
            other => assert!(!reuse && is_ack(other), "{case}"),
        }
    } else if place == 0 && len + control == 0 && !old {
        assert_eq!(*decision, TimeWaitDecision::Ignore, "{case}");
    } else {
        assert!(is_ack(decision), "{case}");
    }
}

#[test]
fn equal_timestamps_need_a_later_sequence_number() {
    let mut tw = record(true);
    let mut decide = |seq| tw.on_segment(T0, &segment(TcpFlags::SYN, seq, Some(TS_RECENT)), 0);
    assert!(matches!(
        decide(RCV_NXT + 1),
        TimeWaitDecision::Reuse { .. }
    ));
    assert!(is_ack(&decide(RCV_NXT)));
}

#[test]
fn acknowledgments_are_limited() {
    let mut tw = record(false);
    let stray = segment(TcpFlags::ACK, RCV_NXT + 9, None);
    let mut sent = 0;
    for i in 0..10_000 {
        let now = T0 + Duration::from_micros(i * 100);
        sent += usize::from(is_ack(&tw.on_segment(now, &stray, 5)));
    }
    assert!((4..=20).contains(&sent), "{sent} in a second");
}

#[test]
fn it_ends_across_the_wrap_of_the_millisecond_clock() {
    let start = Instant::ZERO + ms((1 << 32) - 10);
    let mut seed = TimeWaitSeed {
        ports: Ports {
            local: 1,
            remote: 2,
        },
        snd_nxt: SND_NXT,
        rcv_nxt: RCV_NXT,
        rcv_wnd: u32::MAX,
        rcv_wscale: 0,
        timestamps: None,
        until: start + ms(60_000),
        duration: ms(60_000),
    };
    let tw = TimeWait::new(&seed, start);
    assert!(!tw.is_expired(start) && !tw.is_expired(start + ms(59_999)));
    assert!(tw.is_expired(start + ms(60_000)));
    assert_eq!(tw.expires_at(start + ms(20)), start + ms(60_000));
    assert_eq!(tw.window, u16::MAX);
    // Nonsense does no harm.
    (seed.until, seed.duration) = (Instant::FAR_FUTURE, Duration::MAX);
    assert!(!TimeWait::new(&seed, start).is_expired(start));
    seed.until = Instant::ZERO;
    assert!(TimeWait::new(&seed, start).is_expired(start));
}
