//! Opening, and the options agreed on the way.

use super::script::{PORTS, Script, plain};
use crate::tcp::testutil::Bytes;
use crate::tcp::{Config, Connection, Disposition, Event, State};
use crate::time::{Duration, Instant};
use crate::wire::{SeqNum, TcpHeader, TcpOptions};

#[test]
fn active_open() {
    let mut s = Script::connect(&Config {
        mss_local: 1460,
        ..Config::default()
    });
    s.state(State::SynSent);
    s.expect("S 0:0(0) win 65535 <mss 1460,sackOK,TS val 0 ecr 0,wscale 7>");
    s.at(10);
    s.inject("S. 0:0(0) ack 1 win 5000 <mss 1400,sackOK,TS val 7 ecr 0,wscale 7>");
    s.expect(". 1:1(0) ack 1 win 2048 <TS val 10 ecr 7>");
    s.state(State::Established);
    assert_eq!(s.events(), [Event::Connected, Event::Writable]);
    let info = s.c.info();
    assert_eq!((info.snd_wscale, info.rcv_wscale), (Some(7), Some(7)));
    assert!(info.sack && info.timestamps);
    assert_eq!(info.snd_mss, 1388, "less the timestamps option");
    assert_eq!(info.snd_wnd, 5000, "the window of a SYN-ACK is not scaled");
    assert_eq!(info.srtt, Some(Duration::from_millis(10)));
    assert_eq!(info.cwnd, 13_880);
}

#[test]
fn passive_open() {
    let mut s = Script::accept(&plain(), "S 0:0(0) win 3000 <mss 900>");
    s.state(State::SynReceived);
    s.expect("S. 0:0(0) ack 1 win 60000 <mss 1000>");
    s.at(3);
    s.inject(". 1:1(0) ack 1 win 4000");
    s.state(State::Established);
    s.nothing();
    assert_eq!(s.events(), [Event::Connected, Event::Writable]);
    assert_eq!(s.c.info().snd_mss, 900);
    assert_eq!(s.c.info().snd_wnd, 4000);
}

#[test]
fn the_completing_ack_may_carry_data_and_fin() {
    let mut s = Script::accept(&plain(), "S 0:0(0) <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
    s.inject("FP. 1:101(100) ack 1");
    s.state(State::CloseWait);
    s.expect(". 1:1(0) ack 102");
    let events = s.events();
    assert!(events.contains(&Event::Connected) && events.contains(&Event::PeerClosed));
    s.read(100);
    assert!(s.c.recv_finished());
}

#[test]
fn simultaneous_open() {
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    s.inject("S 0:0(0) win 2000 <mss 1000>");
    s.state(State::SynReceived);
    s.expect("S. 0:0(0) ack 1");
    s.inject("S. 0:0(0) ack 1 win 2000 <mss 1000>");
    s.state(State::Established);
    s.nothing();
    // Or the peer answers our SYN-ACK with a plain ACK.
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    s.inject("S 0:0(0) win 2000 <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
    s.inject(". 1:1(0) ack 1");
    s.state(State::Established);
}

#[test]
fn options_are_agreed_only_if_both_offer_them() {
    let full = Config::default();
    let mut s = Script::accept(&full, "S 0:0(0) <mss 1460>");
    s.expect("S. 0:0(0) ack 1 win 65535 <mss 1460>");
    let info = s.c.info();
    assert!(!info.sack && !info.timestamps && info.snd_wscale.is_none());
    let syn = "S 0:0(0) <mss 1460,sackOK,TS val 9 ecr 0,wscale 3>";
    let mut s = Script::accept(&plain(), syn);
    let out = s.expect("S. 0:0(0) ack 1");
    assert_eq!(
        out.header.options,
        TcpOptions {
            mss: Some(1000),
            ..TcpOptions::default()
        }
    );
    let mut s = Script::accept(&full, syn);
    s.expect("S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 0 ecr 9,wscale 7>");
}

#[test]
fn hostile_option_values_are_bounded() {
    for (offered, wire) in [(0u16, 48u32), (1, 48), (47, 48), (48, 48), (65535, 1000)] {
        let s = Script::accept(&plain(), &format!("S 0:0(0) <mss {offered}>"));
        assert_eq!(s.c.info().snd_mss, wire, "MSS {offered}");
    }
    let s = Script::accept(&plain(), "S 0:0(0)");
    assert_eq!(s.c.info().snd_mss, 536, "no option");
    let cfg = Config {
        window_scale: true,
        ..plain()
    };
    let s = Script::accept(&cfg, "S 0:0(0) <mss 1000,wscale 255>");
    assert_eq!(s.c.info().snd_wscale, Some(14));
    let cfg = Config {
        timestamps: true,
        sack: true,
        ..plain()
    };
    let s = Script::accept(&cfg, "S 0:0(0) <mss 1,sackOK,TS val 0 ecr 0>");
    assert_eq!(s.c.info().snd_mss, 36, "48 less the timestamps");
}

#[test]
fn a_syn_is_retransmitted_and_given_up() {
    let mut s = Script::connect(&Config {
        syn_retries: 3,
        ..plain()
    });
    s.expect("S 0:0(0)");
    for at in [1000, 3000, 7000] {
        s.at(at);
        let out = s.expect("S 0:0(0)");
        assert!(out.retransmission);
    }
    s.at(15_000);
    s.nothing();
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::TimedOut, Event::Closed]);
}

#[test]
fn a_syn_ack_is_retransmitted_by_timer_and_on_a_repeated_syn() {
    let mut s = Script::accept(&plain(), "S 0:0(0) <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
    s.at(500);
    s.inject("S 0:0(0) <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
    s.at(1000);
    s.expect("S. 0:0(0) ack 1");
    s.inject(". 1:1(0) ack 1");
    s.state(State::Established);
    assert_eq!(
        s.c.info().srtt,
        None,
        "Karn: an ambiguous acknowledgment is not timed"
    );
    assert_eq!(s.c.info().rto, Duration::from_secs(3), "RFC 6298 §5.7");
}

#[test]
fn a_handshake_that_lost_more_than_one_syn_starts_with_one_segment() {
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    s.at(1000);
    s.expect("S 0:0(0)");
    s.at(3000);
    s.expect("S 0:0(0)");
    s.inject("S. 0:0(0) ack 1 <mss 1000>");
    s.expect(". 1:1(0) ack 1");
    assert_eq!(s.c.info().cwnd, 1000);
}

#[test]
fn bad_acks_in_syn_sent_are_answered_with_a_reset() {
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    for ack in [0, 2, 1_000_000] {
        s.inject(&format!("S. 0:0(0) ack {ack} <mss 1000>"));
        let Disposition::Reset(h) = &s.disposition else {
            panic!("no reset for ack {ack}")
        };
        assert_eq!(h.flags, crate::wire::TcpFlags::RST);
        s.state(State::SynSent);
        // A reset with such an ACK is ignored.
        s.inject(&format!("R. 0:0(0) ack {ack}"));
        assert_eq!(s.disposition, Disposition::Continue);
        s.state(State::SynSent);
    }
    s.inject("R 0:0(0)");
    s.state(State::SynSent);
    s.inject(". 0:0(0) ack 1");
    s.state(State::SynSent);
    s.inject("R. 0:0(0) ack 1");
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::Refused, Event::Closed]);
    s.inject("S. 0:0(0) ack 1");
    assert_eq!(s.disposition, Disposition::Orphan);
}

#[test]
fn a_bad_ack_in_syn_received_is_answered_with_a_reset() {
    let mut s = Script::accept(&plain(), "S 0:0(0) <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
    s.inject(". 1:1(0) ack 2");
    assert!(matches!(s.disposition, Disposition::Reset(_)));
    s.state(State::SynReceived);
    s.inject("R 1:1(0)");
    s.state(State::Closed);
}

#[test]
fn data_written_early_goes_out_with_the_completing_ack() {
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    s.write(100);
    s.nothing();
    s.inject("S. 0:0(0) ack 1 <mss 1000>");
    s.expect("P. 1:101(100) ack 1");
    s.nothing();
}

#[test]
fn close_during_the_handshake() {
    let mut s = Script::connect(&plain());
    s.expect("S 0:0(0)");
    s.close();
    s.state(State::Closed);
    s.nothing();
    let mut s = Script::accept(&plain(), "S 0:0(0) <mss 1000>");
    s.expect("S. 0:0(0) ack 1");
    s.close();
    s.state(State::SynReceived);
    s.inject(". 1:1(0) ack 1");
    s.state(State::FinWait1);
    s.expect("F. 1:1(0) ack 1");
}

#[test]
fn a_connection_can_be_made_from_a_half_open_record() {
    let began = Some(Instant::ZERO);
    assert_eq!(
        made_after_syn_ack(began).info().srtt,
        Some(Duration::from_millis(20))
    );
}

/// A sample of nothing would have the first data sent again at once.
#[test]
fn a_cookie_tells_nothing_of_the_round_trip() {
    let c = made_after_syn_ack(None);
    assert_eq!(c.info().srtt, None);
    assert_eq!(c.info().rto, Duration::from_secs(1));
}

/// By an ACK that arrives after 20 ms.
fn made_after_syn_ack(sent_at: Option<Instant>) -> Connection<Bytes> {
    let syn = TcpHeader {
        seq: SeqNum::new(99),
        window: 1000,
        options: TcpOptions {
            mss: Some(1400),
            ..TcpOptions::default()
        },
        ..TcpHeader::default()
    };
    let (iss, now) = (SeqNum::new(7), Instant::ZERO + Duration::from_millis(20));
    let mut c: Connection<Bytes> =
        Connection::accept_after_syn_ack(&Config::default(), PORTS, iss, 0, &syn, sent_at, 0, now);
    assert!(c.poll_transmit(now).is_none());
    assert_eq!(c.state(), State::SynReceived);
    let ack = TcpHeader {
        seq: SeqNum::new(100),
        ack: SeqNum::new(8),
        flags: crate::wire::TcpFlags::ACK,
        window: 1000,
        ..TcpHeader::default()
    };
    let mut payload = crate::tcp::Pieces::new();
    let ecn = crate::wire::Ecn::NotEct;
    let seg = crate::tcp::SegmentIn {
        header: &ack,
        payload: &mut payload,
        payload_len: 0,
        ecn,
    };
    assert_eq!(c.on_segment(now, seg), Disposition::Continue);
    assert_eq!(c.state(), State::Established);
    c
}
