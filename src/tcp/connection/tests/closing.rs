//! Every way to end a connection.

use super::script::{Script, plain};
use crate::tcp::{Config, Disposition, Event, State};
use crate::time::Duration;

#[test]
fn we_close_first() {
    let mut s = Script::established(&plain());
    s.shutdown();
    s.expect("F. 1:1(0) ack 1");
    s.state(State::FinWait1);
    s.inject(". 1:1(0) ack 2");
    s.state(State::FinWait2);
    // Half closed: the peer may send on, for as long as it likes.
    s.at(100_000);
    s.inject("P. 1:101(100) ack 2");
    s.at(100_001);
    s.expect(". 2:2(0) ack 101");
    s.read(100);
    s.events();
    s.inject("F. 101:101(0) ack 2");
    s.expect(". 2:2(0) ack 102");
    s.state(State::TimeWait);
    assert_eq!(
        s.events(),
        [Event::Readable, Event::PeerClosed, Event::TimeWait]
    );
    let seed = s.c.time_wait_seed();
    assert_eq!(seed.duration, Duration::from_secs(60));
    assert_eq!((seed.snd_nxt, seed.rcv_nxt), (s.c.tx.nxt, s.c.rx.nxt));
    // Its FIN again: acknowledged, and TIME-WAIT starts over.
    s.at(150_000);
    s.inject("F. 101:101(0) ack 2");
    s.expect(". 2:2(0) ack 102");
    s.at(209_999);
    s.state(State::TimeWait);
    s.at(210_000);
    s.state(State::Closed);
    assert_eq!(s.events(), [Event::Closed]);
}

#[test]
fn the_peer_closes_first() {
    let mut s = Script::established(&plain());
    s.inject("FP. 1:101(100) ack 1");
    s.expect(". 1:1(0) ack 102");
    s.state(State::CloseWait);
    assert!(!s.c.recv_finished());
    s.read(100);
    assert!(s.c.recv_finished());
    // Half closed the other way: we may send on.
    s.at(100_000);
    s.write(200);
    s.expect("P. 1:201(200) ack 102");
    s.inject(". 102:102(0) ack 201");
    s.shutdown();
    s.expect("F. 201:201(0) ack 102");
    s.state(State::LastAck);
    s.inject(". 102:102(0) ack 202");
    s.state(State::Closed);
    assert!(s.events().contains(&Event::Closed));
}

#[test]
fn both_close_at_once() {
    let mut s = Script::established(&plain());
    s.shutdown();
    s.expect("F. 1:1(0) ack 1");
    s.inject("F. 1:1(0) ack 1");
    s.state(State::Closing);
    s.expect(". 2:2(0) ack 2");
    s.inject(". 2:2(0) ack 2");
    s.state(State::TimeWait);
    s.nothing();
}

#[test]
fn a_fin_that_acknowledges_ours_goes_straight_to_time_wait() {
    let mut s = Script::established(&plain());
    s.write(10);
    s.shutdown();
    s.expect("P. 1:11(10)");
    s.expect("F. 11:11(0)");
    s.inject("F. 1:1(0) ack 12");
    s.state(State::TimeWait);
    s.expect(". 12:12(0) ack 2");
}

#[test]
fn a_fin_is_retransmitted_alone_or_with_its_data() {
    let mut s = Script::established(&plain());
    s.shutdown();
    s.expect("F. 1:1(0) ack 1");
    for at in [200, 600] {
        s.at(at);
        s.expect("F. 1:1(0) ack 1");
    }
    s.inject(". 1:1(0) ack 2");
    s.state(State::FinWait2);
    let mut s = Script::established(&Config {
        cork: true,
        ..plain()
    });
    s.write(100);
    s.shutdown();
    s.expect("FP. 1:101(100)");
    s.at(200);
    s.expect("FP. 1:101(100)");
    s.inject(". 1:1(0) ack 101");
    s.nothing();
    s.at(600);
    s.expect("F. 101:101(0)");
    s.state(State::FinWait1);
}

#[test]
fn a_fin_ahead_of_its_turn_waits_for_the_data_before_it() {
    let mut s = Script::established(&plain());
    s.inject("FP. 101:201(100) ack 1");
    s.expect(". 1:1(0) ack 1");
    s.state(State::Established);
    s.inject("P. 1:101(100) ack 1");
    s.expect(". 1:1(0) ack 202");
    s.state(State::CloseWait);
    s.read(200);
    // What claims to lie behind it is nothing.
    s.inject("P. 202:302(100) ack 1");
    assert_eq!(s.c.readable_bytes(), 0);
}

#[test]
fn close_delivers_what_was_written() {
    let mut s = Script::established_with(&plain(), "win 1000", "<mss 1000>");
    s.write(1500);
    s.expect(". 1:1001(1000)");
    s.close();
    s.state(State::FinWait1);
    s.inject(". 1:1(0) ack 1001 win 1000");
    s.expect("FP. 1001:1501(500)");
    s.inject(". 1:1(0) ack 1502");
    s.state(State::FinWait2);
    // Nobody is left to wait for the peer's FIN for ever.
    s.at(59_999);
    s.state(State::FinWait2);
    s.at(60_000);
    s.state(State::Closed);
    s.nothing();
}

#[test]
fn close_with_unread_data_resets() {
    let mut s = Script::established(&plain());
    s.inject("P. 1:101(100) ack 1");
    s.close();
    s.expect("R. 1:1(0) ack 101");
    s.state(State::Closed);
    s.nothing();
    assert!(!s.events().contains(&Event::Reset), "we did it");
}

#[test]
fn data_after_close_resets() {
    for early in [false, true] {
        let mut s = Script::established(&plain());
        s.close();
        s.expect("F. 1:1(0) ack 1");
        if early {
            s.inject(". 1:1(0) ack 2");
            s.state(State::FinWait2);
        }
        s.inject("P. 1:101(100) ack 2");
        s.expect("R. 2:2(0) ack 1");
        s.state(State::Closed);
    }
    // After a mere shutdown it is welcome.
    let mut s = Script::established(&plain());
    s.shutdown();
    s.discard();
    s.inject("P. 1:101(100) ack 2");
    s.read(100);
}

#[test]
fn the_closed_event_waits_for_the_reset_to_be_sent() {
    let mut s = Script::established(&plain());
    s.events();
    s.c.abort(s.now);
    assert_eq!(s.events(), []);
    s.run();
    s.expect("R. 1:1(0) ack 1");
    assert_eq!(s.events(), [Event::Closed]);
    s.c.abort(s.now);
    s.run();
    s.nothing();
}

#[test]
fn abort_in_every_state() {
    type Prepare = fn(&mut Script);
    let reset: [(Prepare, bool); 6] = [
        (|s| s.shutdown(), true),
        (|s| s.inject("F. 1:1(0) ack 1"), true),
        (
            |s| {
                s.shutdown();
                s.inject(". 1:1(0) ack 2");
            },
            true,
        ),
        (
            |s| {
                s.shutdown();
                s.inject("F. 1:1(0) ack 1");
            },
            false,
        ),
        (
            |s| {
                s.inject("F. 1:1(0) ack 1");
                s.shutdown();
            },
            false,
        ),
        (
            |s| {
                s.shutdown();
                s.inject("F. 1:1(0) ack 2");
            },
            false,
        ),
    ];
    for (prepare, sends) in reset {
        let mut s = Script::established(&plain());
        prepare(&mut s);
        s.discard();
        s.c.abort(s.now);
        s.run();
        assert_eq!(s.discard(), usize::from(sends), "{:?}", s.c.state());
        s.state(State::Closed);
    }
    let mut s = Script::connect(&plain());
    s.discard();
    s.c.abort(s.now);
    s.run();
    s.nothing();
}

#[test]
fn an_orphan_is_given_up_sooner() {
    let mut s = Script::established(&Config {
        orphan_retries: 2,
        ..plain()
    });
    s.write(100);
    s.close();
    s.discard();
    s.at(200);
    s.discard();
    s.at(600);
    s.discard();
    s.at(1400);
    s.state(State::Closed);
}

#[test]
fn nothing_can_be_written_after_closing() {
    let mut s = Script::established(&plain());
    s.shutdown();
    assert_eq!(s.c.send_space(), 0);
    assert!(
        s.c.push(crate::tcp::testutil::Bytes::new(b"late"), false)
            .is_err()
    );
    s.shutdown();
    assert_eq!(s.discard(), 1, "one FIN");
}

fn in_time_wait() -> Script {
    let mut s = Script::established(&plain());
    s.shutdown();
    s.inject("F. 1:1(0) ack 2");
    s.state(State::TimeWait);
    s.discard();
    s
}

#[test]
fn time_wait_ignores_resets() {
    let mut s = in_time_wait();
    s.inject("R 2:2(0)");
    s.state(State::TimeWait);
    s.nothing();
}

#[test]
fn time_wait_gives_way_to_a_newer_syn_only() {
    let mut s = in_time_wait();
    s.inject("S 1:1(0)");
    s.state(State::TimeWait);
    s.expect(". 2:2(0) ack 2");
    s.inject("S 3:3(0)");
    assert_eq!(s.disposition, Disposition::Reopen);
    s.c.give_way(s.now);
    s.state(State::Closed);
}

#[test]
fn time_wait_compares_timestamps_when_there_are_some() {
    let cfg = Config {
        timestamps: true,
        ..plain()
    };
    for (value, seq, reopens) in [
        (101, 0, true),
        (100, 3, true),
        (100, 1, false),
        (99, 50, false),
    ] {
        let mut s = Script::accept(&cfg, "S 0:0(0) <TS val 100 ecr 0>");
        s.discard();
        s.inject(". 1:1(0) ack 1 <TS val 100 ecr 0>");
        s.shutdown();
        s.inject("F. 1:1(0) ack 2 <TS val 100 ecr 0>");
        s.state(State::TimeWait);
        s.discard();
        s.inject(&format!("S {seq}:{seq}(0) <TS val {value} ecr 0>"));
        let want = if reopens {
            Disposition::Reopen
        } else {
            Disposition::Continue
        };
        assert_eq!(s.disposition, want, "{value} {seq}");
    }
}
